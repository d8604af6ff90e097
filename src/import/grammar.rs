//! Owns: which texts are valid host names, paths, files, and names of cookies, fields and parameters.
//! Invariant: a Linchpin configuration accepts every text that this file accepts.
//! Must not know: what a name stands for.
//!
//! `config/names.rs` has rules of its own, on purpose: it says what is wrong and how to mend it, and accepts more, such
//! as longer names and IP addresses for hosts. The import of a module that reads TOML would buy nothing here, and a
//! shared one would have two reasons to change. That these rules are the stricter ones is tested, by a property that
//! checks what becomes of mutated sources.

/// Returns a valid name of a cookie, a header field or a parameter (RFC 9110 §5.6.2), of at most 100 bytes.
pub(super) fn token(text: &str) -> Option<String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    ((1..=100).contains(&text.len()) && text.chars().all(is_good)).then(|| text.into())
}

/// Returns a valid name of a routing cookie. Linchpin appends `~` to the cookies of a Linchpin behind it.
pub(super) fn routing_cookie(text: &str) -> Option<String> {
    token(text).filter(|name| !name.ends_with('~'))
}

/// Returns the name of a header field that may identify clients: a token, but none of the fields that
/// have a standard meaning.
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

/// Returns a valid name of a query or path parameter.
pub(super) fn parameter(text: &str) -> Option<String> {
    token(text).filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c)))
}

/// Returns a cookie's domain without its leading dot (RFC 6265 §5.2.3).
pub(super) fn domain(text: &str) -> Option<String> {
    host(text.strip_prefix('.').unwrap_or(text)).filter(|host| !host.starts_with('*'))
}

/// Returns the path of a file: it is not empty, and no text that spans lines, such as a certificate itself.
pub(super) fn file(text: &str) -> Option<String> {
    (!text.is_empty() && !text.contains(char::is_control)).then(|| text.into())
}

/// Returns whether a text is a name of Kubernetes (RFC 1123), and so safe in a path.
pub(super) fn is_kubernetes_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (1..=253).contains(&text.len())
        && text.chars().all(is_plain)
        && !text.starts_with(['.', '-'])
        && !text.ends_with(['.', '-'])
}

/// Returns the value of `same_site` as Linchpin spells it; `text` may have any case.
pub(super) fn same_site(text: &str) -> Option<&'static str> {
    ["Strict", "Lax", "None"].into_iter().find(|word| word.eq_ignore_ascii_case(text))
}

/// Returns whether `prefix` matches `path` and all paths below it, by whole segments.
pub(super) fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns a host as a route has it: in lower case, without a port.
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

/// Returns a path prefix as a route has it: without a trailing slash.
pub(super) fn prefix(text: &str) -> Option<String> {
    let is_good = text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic() && !"?#".contains(c));
    let trimmed = text.trim_end_matches('/');
    is_good.then(|| if trimmed.is_empty() { "/".into() } else { trimmed.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_path_on_one_line() {
        assert_eq!(file("/etc/a b.pem").as_deref(), Some("/etc/a b.pem"));
        for bad in ["", "a\nb", "a\r", "\u{7f}"] {
            assert_eq!(file(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_name_of_kubernetes_neither_begins_nor_ends_with_a_hyphen_or_dot() {
        assert!(is_kubernetes_name("shop") && is_kubernetes_name("a-1.b"));
        for bad in ["", "-1", "a-", ".a", "a.", "A", "a/b"] {
            assert!(!is_kubernetes_name(bad), "{bad}");
        }
    }

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
