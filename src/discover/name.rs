//! Owns: the names of backends that DNS and Kubernetes find.
//! Invariant: a server has the same name in every Linchpin and after every answer; two servers never share a name.
//! Must not know: who asks, or what else is known of the backend.

use std::net::SocketAddr;

use crate::affinity::seal::{MAX_NAME, is_name_byte, is_valid_name};
use crate::pool::hash::stable_hash;

/// The length of what replaces the end of an invalid name: `-` and a hash in hexadecimal.
const HASH: usize = 1 + 8;

/// Names a server by its address.
pub(super) fn from_address(prefix: &str, address: SocketAddr) -> String {
    sanitized(&format!("{prefix}-{}-{}", address.ip().to_string().replace(':', "-"), address.port()))
}

/// Names a server by the target of its SRV record: the name stays when the address changes.
pub(super) fn from_target(prefix: Option<&str>, target: &str, port: u16) -> String {
    let target = target.trim_end_matches('.').to_ascii_lowercase();
    sanitized(&prefix.map_or_else(|| format!("{target}-{port}"), |prefix| format!("{prefix}-{target}-{port}")))
}

/// Names a server as its source names it.
pub(super) fn from_source(name: &str) -> String {
    sanitized(name)
}

/// Replaces invalid characters, and cuts the name; a hash of the whole name then keeps it unique.
fn sanitized(name: &str) -> String {
    if is_valid_name(name) {
        return name.into();
    }
    let valid = |byte: u8| if is_name_byte(byte) { char::from(byte) } else { '-' };
    let kept: String = name.bytes().map(valid).take(MAX_NAME - HASH).collect();
    format!("{kept}-{:08x}", stable_hash(name.as_bytes()) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_address_or_by_its_srv_target() {
        assert_eq!(from_address("app", "10.0.0.5:8080".parse().unwrap()), "app-10.0.0.5-8080");
        assert_eq!(from_address("app", "[2001:db8::1]:80".parse().unwrap()), "app-2001-db8--1-80");
        assert_eq!(from_target(None, "Web-0.app.internal.", 8080), "web-0.app.internal-8080");
        assert_eq!(from_target(Some("x"), "web-0.", 1), "x-web-0-1");
    }

    proptest::proptest! {
        #[test]
        fn every_name_is_valid_and_two_targets_never_share_one(a in "\\PC{1,90}", b in "[a-z.*_-]{1,90}") {
            let (one, other) = (from_target(None, &a, 1), from_target(None, &b, 1));
            proptest::prop_assert!(is_valid_name(&one) && is_valid_name(&other), "{} {}", one, other);
            let same = a.trim_end_matches('.').eq_ignore_ascii_case(b.trim_end_matches('.'));
            proptest::prop_assert_eq!(one == other, same);
        }
    }
}
