//! Owns: what names of cookies, fields, parameters and domains may be.
//! Invariant: what passes is taken by a configuration, too.
//! Must not know: what is named.

/// A name that a cookie, a header field or a parameter may have (RFC 9110 §5.6.2).
pub(super) fn token(text: &str) -> Option<String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    ((1..=100).contains(&text.len()) && text.chars().all(is_good)).then(|| text.into())
}

/// A name that a header field may have by which clients are told apart: none that has a meaning
/// of its own.
pub(super) fn field(text: &str) -> Option<String> {
    const TAKEN: [&str; 20] = [
        "accept",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "location",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-real-ip",
    ];
    let is_taken = |name: &str| TAKEN.contains(&name) || name.starts_with("x-forwarded");
    token(text).filter(|name| !is_taken(&name.to_ascii_lowercase()))
}

/// What a parameter of a query or a path may be called.
pub(super) fn parameter(text: &str) -> Option<String> {
    token(text).filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c)))
}

/// A cookie's domain: without the dot that once stood before it.
pub(super) fn domain(text: &str) -> Option<String> {
    super::rule::host(text.strip_prefix('.').unwrap_or(text)).filter(|host| !host.starts_with('*'))
}

/// `same_site` as it is written here, of any case.
pub(super) fn same_site(text: &str) -> Option<&'static str> {
    ["Strict", "Lax", "None"].into_iter().find(|word| word.eq_ignore_ascii_case(text))
}
