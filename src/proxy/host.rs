//! Owns: the name in a Host field's value.
//! Invariant: two ways of writing one name are one name.
//! Must not know: routes.

/// The name in a Host field's value: without its port, and without the dot that stands for the root, with
/// which it is the same name (RFC 1034 §3.1).
pub(super) fn host_name(host: &str) -> &str {
    let name = without_port(host);
    name.strip_suffix('.').unwrap_or(name)
}

/// A Host field's value without its port.
pub fn without_port(host: &str) -> &str {
    match host.bytes().rposition(|byte| byte == b':') {
        // The colons inside an IPv6 literal's brackets are none before a port.
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_the_dot_of_the_root_is_the_same_name() {
        for (host, name) in
            [("a.b.:80", "a.b"), ("a.b.", "a.b"), ("a.b", "a.b"), ("a..", "a."), (".", ""), ("[::1]:80", "[::1]")]
        {
            assert_eq!(host_name(host), name);
        }
    }

    #[test]
    fn the_port_is_not_part_of_the_host() {
        for (with, without) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")] {
            assert_eq!(without_port(with), without);
        }
    }
}
