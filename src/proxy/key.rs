//! Owns: the hash keys of requests: for hash balancing, and to recognize the first requests of one client.
//! Invariant: every Linchpin computes the same hash for the same request.
//! Must not know: backends, how the hash chooses one.

use std::net::IpAddr;

use http::header::{ACCEPT_LANGUAGE, COOKIE, HOST, HeaderName, USER_AGENT};
use http::request;

use crate::affinity::cookie;
use crate::pool::hash::stable_hash;

/// `[pools.hash]`: the part of a request that is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// The client's address.
    Address,
    /// The path, without the query.
    Path,
    /// The field of this name.
    Header(HeaderName),
    /// The cookie of this name.
    Cookie(String),
    /// The value of this key in the query.
    Query(String),
}

impl Settings {
    /// The hash of a request from `address`; `None` if the request does not have the part that is hashed.
    pub(super) fn hash(&self, head: &request::Parts, address: IpAddr) -> Option<u64> {
        let value = |value: &[u8]| (!value.is_empty()).then(|| stable_hash(value));
        match self {
            Settings::Address => Some(address_hash(address)),
            Settings::Path => value(head.uri.path().as_bytes()),
            Settings::Header(name) => value(head.headers.get(name)?.as_bytes()),
            Settings::Cookie(name) => {
                let fields = head.headers.get_all(COOKIE).iter();
                value(fields.flat_map(|field| cookie::values(field.as_bytes(), name.as_bytes())).next()?)
            }
            Settings::Query(key) => {
                let mut pairs = head.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
                value(pairs.find(|(name, _)| name == key)?.1.as_bytes())
            }
        }
    }
}

/// A hash that the requests of one browser share, and those of two browsers rarely: of the client's address,
/// User-Agent, Accept-Language and Host.
pub(super) fn client_hash(head: &request::Parts, address: IpAddr) -> u64 {
    let fields = [USER_AGENT, ACCEPT_LANGUAGE, HOST];
    let fields = fields.iter().map(|name| head.headers.get(name).map_or(0, |value| stable_hash(value.as_bytes())));
    fields.fold(address_hash(address), |hash, field| crate::pool::hash::mix(hash ^ field))
}

fn address_hash(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => stable_hash(&address.octets()),
        IpAddr::V6(address) => stable_hash(&address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(uri: &str, fields: &[(&str, &str)]) -> request::Parts {
        let request =
            fields.iter().fold(Request::builder().uri(uri), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn each_kind_of_key_is_hashed_and_a_missing_one_is_none() {
        let from: IpAddr = [127, 0, 0, 1].into();
        let full = head("/p?x=1&id=7", &[("x-user", "u"), ("cookie", "a=1; uid=9")]);
        for (settings, value) in [
            (Settings::Path, &b"/p"[..]),
            (Settings::Header(HeaderName::from_static("x-user")), b"u"),
            (Settings::Cookie("uid".into()), b"9"),
            (Settings::Query("id".into()), b"7"),
            (Settings::Address, &[127, 0, 0, 1]),
        ] {
            assert_eq!(settings.hash(&full, from), Some(stable_hash(value)), "{settings:?}");
        }
        let empty = head("/p?id", &[("x-user", "")]);
        for settings in [
            Settings::Header(HeaderName::from_static("x-user")),
            Settings::Cookie("uid".into()),
            Settings::Query("id".into()),
        ] {
            assert_eq!(settings.hash(&empty, from), None, "{settings:?}");
        }
    }

    #[test]
    fn two_browsers_at_one_address_are_two_clients() {
        let from: IpAddr = [127, 0, 0, 1].into();
        let of = |agent| client_hash(&head("/", &[("user-agent", agent)]), from);
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
    }
}
