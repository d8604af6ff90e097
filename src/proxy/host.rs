//! Owns: extracting the host name from the value of Host.
//! Invariant: all spellings of a name give the same name, but for the case of its letters.
//! Must not know: routes.

/// The host name in the value of Host: without the port, and without the final dot of an absolute name, which is the
/// same name (RFC 1034 §3.1).
pub(super) fn host_name(host: &str) -> &str {
    let name = without_port(host);
    name.strip_suffix('.').unwrap_or(name)
}

/// The value of Host without the port.
pub fn without_port(host: &str) -> &str {
    match host.bytes().rposition(|byte| byte == b':') {
        // A colon within the brackets of an IPv6 literal is not the one before a port.
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_dot_is_not_part_of_the_host_name() {
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
