//! Owns: what proxies before us say of the client: Forwarded (RFC 7239) and X-Forwarded-For.
//! Invariant: read from the right, as far as proxies are trusted; what can't be read ends the chain.
//! Must not know: who is trusted.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap};

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The client for which the proxy at `peer`, which is trusted, speaks. `None` if it says nothing of
/// it, or two things: a proxy that adds to one of the fields passes on what its client wrote into
/// the other, so that where they differ there is no telling which of them is true.
pub(super) fn client(headers: &HeaderMap, peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let plain = has_for(headers).then(|| walk(peer, addresses(headers).into_iter(), &is_trusted));
    let standard = headers.contains_key(FORWARDED).then(|| walk(peer, nodes(headers).into_iter(), &is_trusted));
    match (plain, standard) {
        (Some(one), Some(other)) => (one == other).then_some(one),
        (one, other) => one.or(other),
    }
}

/// Whether there is an X-Forwarded-For.
pub(super) fn has_for(headers: &HeaderMap) -> bool {
    headers.contains_key(X_FORWARDED_FOR)
}

/// Goes back from `peer` as long as who is reached is trusted and says who was before it.
fn walk(
    peer: IpAddr,
    chain: impl DoubleEndedIterator<Item = Option<IpAddr>>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut reached = peer;
    for before in chain.rev() {
        match before {
            Some(address) if is_trusted(reached) => reached = address,
            _ => break,
        }
    }
    reached
}

/// The addresses of X-Forwarded-For, the nearest last.
fn addresses(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let values = headers.get_all(X_FORWARDED_FOR).iter().map(|value| value.to_str().unwrap_or("?"));
    values.flat_map(|value| value.split(',')).map(|node| address(node.trim())).collect()
}

/// The `for` of each element of Forwarded, the nearest last.
fn nodes(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let values = headers.get_all(FORWARDED).iter().map(|value| value.to_str().unwrap_or("?"));
    // With an open quote a client could take what a proxy adds into an element of its own.
    let is_open = |value: &str| value.matches('"').count() % 2 == 1;
    let elements = values.flat_map(|value| if is_open(value) { vec![""] } else { split(value, ',') });
    let node = |element: &str| {
        let mut pairs = split(element, ';').into_iter().filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
        let value = value.trim();
        address(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
    };
    elements.map(node).collect()
}

/// The parts between `separator`s that stand outside of quotes. A quoted pair can hide a quote; no
/// address has one, so such an element can't be read, and that is all it can do.
fn split(value: &str, separator: char) -> Vec<&str> {
    let mut is_quoted = false;
    value
        .split(|c| {
            is_quoted ^= c == '"';
            c == separator && !is_quoted
        })
        .collect()
}

/// An IP address, with a port or without, IPv6 in brackets or without. `unknown` and the names that
/// hide an address are none.
fn address(node: &str) -> Option<IpAddr> {
    let bare = node.strip_prefix('[').and_then(|node| node.strip_suffix(']')).unwrap_or(node);
    let address = bare.parse().ok().or_else(|| node.parse::<SocketAddr>().ok().map(|socket| socket.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn of(fields: &[(&'static str, &str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let is_trusted = |address: IpAddr| address.to_string().starts_with("10.") || address.to_string() == "fd00::1";
        client(&headers, "10.0.0.1".parse().unwrap(), is_trusted).map(|address| address.to_string())
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_no_trusted_proxy() {
        for (chain, expected) in [
            ("1.1.1.1", "1.1.1.1"),
            ("6.6.6.6, 1.1.1.1", "1.1.1.1"),
            ("6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
            ("6.6.6.6,1.1.1.1:4711 , fd00::1", "1.1.1.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("1.1.1.1, unknown", "10.0.0.1"),
            ("1.1.1.1, , 10.0.0.2", "10.0.0.2"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(of(&[("x-forwarded-for", chain)]).as_deref(), Some(expected), "{chain}");
        }
        assert_eq!(of(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "10.0.0.2")]).as_deref(), Some("1.1.1.1"));
    }

    #[test]
    fn forwarded_is_read_with_its_quotes_and_hidden_nodes_end_it() {
        for (chain, expected) in [
            ("for=1.1.1.1", "1.1.1.1"),
            ("For=\"[2001:db8::1]:4711\";proto=https;by=x", "2001:db8::1"),
            ("for=6.6.6.6, proto=http;for=1.1.1.1;host=\"a,b;for=7.7.7.7\", for=10.0.0.2", "1.1.1.1"),
            ("for=1.1.1.1, for=_hidden", "10.0.0.1"),
            ("for=1.1.1.1, proto=http", "10.0.0.1"),
            ("for=\"1.1.1.1", "10.0.0.1"),
            ("for=6.6.6.6;x=\", for=1.1.1.1", "10.0.0.1"),
            ("for=6.6.6.6;x=\"\\\", for=1.1.1.1", "1.1.1.1"),
        ] {
            assert_eq!(of(&[("forwarded", chain)]).as_deref(), Some(expected), "{chain}");
        }
    }

    #[test]
    fn two_fields_that_name_two_clients_name_none() {
        assert_eq!(of(&[("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=6.6.6.6")]), None);
        assert_eq!(of(&[("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1")]).as_deref(), Some("1.1.1.1"));
        assert_eq!(of(&[]), None);
    }

    proptest! {
        #[test]
        fn whatever_a_client_writes_before_a_proxy_adds_its_address_the_client_is_that_address(
            claims in r#"([ -~]|for=6\.6\.6\.6|;x=|[",;=]){0,20}"#, field in 0..2usize
        ) {
            // An odd quote opens a string that swallows what the proxy adds: then the proxy itself is all that is known.
            let (name, added) = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1")][field];
            let found = of(&[(name, &format!("{claims}, {added}"))]).unwrap();
            prop_assert!(found == "1.1.1.1" || (field == 1 && found == "10.0.0.1"), "{}", found);
        }
    }
}
