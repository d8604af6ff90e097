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
    host(text.strip_prefix('.').unwrap_or(text)).filter(|host| !host.starts_with('*'))
}

/// `same_site` as it is written here, of any case.
pub(super) fn same_site(text: &str) -> Option<&'static str> {
    ["Strict", "Lax", "None"].into_iter().find(|word| word.eq_ignore_ascii_case(text))
}

/// Whether all paths that begin with `path` begin with `prefix`, too.
pub(super) fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A host as a route takes it: without port, in lower case.
pub(super) fn host(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !name.ends_with(':') => name,
        _ => &text,
    };
    let is_label = |label: &str| {
        let inside = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(inside) && !label.starts_with('-') && !label.ends_with('-')
    };
    let labels = name.strip_prefix("*.").unwrap_or(name);
    (labels.len() <= 253 && labels.split('.').all(is_label)).then(|| name.into())
}

/// The beginning of a path as a route takes it: no slash at the end.
pub(super) fn prefix(text: &str) -> Option<String> {
    let is_good = text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic() && !"?#".contains(c));
    let trimmed = text.trim_end_matches('/');
    is_good.then(|| if trimmed.is_empty() { "/".into() } else { trimmed.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_paths_are_as_a_configuration_takes_them() {
        assert_eq!(host("Example.com:8080").as_deref(), Some("example.com"));
        for bad in ["", "*", "www.*", "a b", "~^x$", "-a.example", "a..b", "*.", "[::1]"] {
            assert_eq!(host(bad), None, "{bad}");
        }
        assert_eq!(prefix("/").as_deref(), Some("/"));
        assert_eq!(prefix("/a/").as_deref(), Some("/a"));
        for bad in ["", "a", "/a b", "/a?b", "/ü"] {
            assert_eq!(prefix(bad), None, "{bad}");
        }
    }
}
