//! Owns: parsing Forwarded (RFC 7239) or X-Forwarded-For and X-Forwarded-Proto of the proxies in front of Linchpin.
//! Invariant: only one of the two is read, from the right through trusted proxies; a malformed element names no client.
//! Must not know: which proxies are trusted.

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

/// The field X-Forwarded-For.
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The field X-Forwarded-Proto.
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The field in which trusted proxies name the client: the key `forwarded` of a listener. A proxy that writes one of
/// the two fields forwards whatever its client wrote into the other, so the other one is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedField {
    /// X-Forwarded-For, together with X-Forwarded-Proto, -Host and -Port.
    #[default]
    XForwardedFor,
    /// Forwarded only.
    Forwarded,
}

impl ForwardedField {
    /// Whether the field `name` of a trusted proxy is believed.
    pub(super) fn permits(self, name: &str) -> bool {
        match self {
            ForwardedField::XForwardedFor => {
                matches!(name, "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" | "x-forwarded-port")
            }
            ForwardedField::Forwarded => name == "forwarded",
        }
    }
}

/// What trusted proxies say about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ForwardedFor {
    /// Nothing: the proxy may itself be the client.
    Nothing,
    /// The client's address, and whether it used TLS, if a proxy says so.
    Client(IpAddr, Option<bool>),
    /// There is a client, but no proxy names its address: `unknown`, an obfuscated identifier (RFC 7239 §6.3), or
    /// text that is no address. Holds the nearest hop that can be parsed, which is a proxy and not the client.
    Unknown(IpAddr, Option<bool>),
}

/// Parses `field` for the client on whose behalf the trusted proxy at `peer` sends the request.
pub(super) fn client(
    field: ForwardedField,
    headers: &HeaderMap,
    peer: IpAddr,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> ForwardedFor {
    match field {
        ForwardedField::XForwardedFor if headers.contains_key(X_FORWARDED_FOR) => {
            let values = headers.get_all(X_FORWARDED_FOR).iter().rev();
            let nodes = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
            let hops = nodes.filter(|node| !node.is_empty()).map(|node| (address(node), None));
            let parsed = walk_chain(peer, hops, is_trusted);
            let scheme = last(headers, &X_FORWARDED_PROTO).and_then(is_secure);
            match parsed {
                ForwardedFor::Client(address, _) => ForwardedFor::Client(address, scheme),
                ForwardedFor::Unknown(nearest, _) => ForwardedFor::Unknown(nearest, scheme),
                ForwardedFor::Nothing => ForwardedFor::Nothing,
            }
        }
        ForwardedField::Forwarded if headers.contains_key(FORWARDED) => {
            let values = headers.get_all(FORWARDED).iter().rev();
            let elements = values.flat_map(|value| elements(value.as_bytes())).map(<[u8]>::trim_ascii);
            walk_chain(peer, elements.filter(|element| !element.is_empty()).map(hop), is_trusted)
        }
        ForwardedField::XForwardedFor | ForwardedField::Forwarded => ForwardedFor::Nothing,
    }
}

/// Whether the last X-Forwarded-Proto says that TLS was used. For requests in which no proxy names a client.
pub(super) fn scheme(field: ForwardedField, headers: &HeaderMap) -> Option<bool> {
    match field {
        ForwardedField::XForwardedFor => last(headers, &X_FORWARDED_PROTO).and_then(is_secure),
        ForwardedField::Forwarded => None,
    }
}

/// The last element of a field that is a list: the one that the nearest proxy has added, even if it kept what its
/// client sent.
pub(super) fn last<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let values = headers.get_all(name).iter().rev();
    let mut elements = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    elements.find(|element| !element.is_empty())
}

/// Like [`last`], but as a field value. Copies only if the field's last line has more than one element.
pub(super) fn last_value(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let last = last(headers, name)?;
    let whole = headers.get_all(name).iter().next_back()?;
    if whole.len() == last.len() { Some(whole.clone()) } else { HeaderValue::from_bytes(last).ok() }
}

/// Whether a scheme uses TLS. Accepts `ws` and `wss`, which Traefik sends for WebSockets.
fn is_secure(scheme: &[u8]) -> Option<bool> {
    let is = |name: &[u8]| scheme.eq_ignore_ascii_case(name);
    match () {
        () if is(b"https") || is(b"wss") => Some(true),
        () if is(b"http") || is(b"ws") => Some(false),
        () => None,
    }
}

/// One hop: the address that the request came from, and whether it used TLS.
type Hop = (Option<IpAddr>, Option<bool>);

/// Follows the chain back from `peer` while each proxy is trusted and names the hop before it. `hops` starts with the
/// nearest one.
fn walk_chain(peer: IpAddr, hops: impl Iterator<Item = Hop>, is_trusted: impl Fn(IpAddr) -> bool) -> ForwardedFor {
    let mut reached = ForwardedFor::Unknown(peer, None);
    let mut at = peer;
    for (before, is_secure) in hops {
        if !is_trusted(at) {
            break;
        }
        let Some(before) = before else { return ForwardedFor::Unknown(at, is_secure) };
        (at, reached) = (before, ForwardedFor::Client(before, is_secure));
    }
    reached
}

/// The elements of Forwarded, from last to first. Reading from the right keeps an unclosed quote of a client from
/// swallowing the element that a proxy adds after it.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let whole = rest?;
        let mut is_quoted = false;
        let comma = whole.iter().enumerate().rev().position(|(at, byte)| {
            match byte {
                b'"' => is_quoted ^= !(is_quoted && is_escaped(&whole[..at])),
                b',' => return !is_quoted,
                _ => {}
            }
            false
        });
        let at = comma.map(|from_end| whole.len() - 1 - from_end);
        rest = at.map(|at| &whole[..at]);
        Some(at.map_or(whole, |at| &whole[at + 1..]))
    })
}

/// Whether the byte that follows `before` is the second one of a quoted-pair (RFC 9110 §5.6.4).
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Parses `for` and `proto` of one element. Ignores both if one of them occurs twice, which RFC 7239 §4 forbids.
fn hop(element: &[u8]) -> Hop {
    let (mut node, mut proto, mut is_clear) = (None, None, true);
    for pair in parameters(element) {
        let Some(at) = memchr::memchr(b'=', pair) else { continue };
        let (name, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        let slot = match name {
            name if name.eq_ignore_ascii_case(b"for") => &mut node,
            name if name.eq_ignore_ascii_case(b"proto") => &mut proto,
            _ => continue,
        };
        is_clear &= slot.replace(value).is_none();
    }
    if is_clear { (node.and_then(address), proto.and_then(is_secure)) } else { (None, None) }
}

/// Splits an element at the semicolons outside of quotes.
fn parameters(element: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_pair) = (false, false);
    element.split(move |byte| {
        if std::mem::take(&mut is_pair) {
            return false;
        }
        is_quoted ^= *byte == b'"';
        is_pair = is_quoted && *byte == b'\\';
        *byte == b';' && !is_quoted
    })
}

/// Parses a node identifier (RFC 7239 §6) as an IP address: IPv6 with or without brackets and zone; after IPv4 or
/// brackets optionally a port, which may be obfuscated. `unknown` and obfuscated identifiers are no address.
fn address(node: &[u8]) -> Option<IpAddr> {
    let node = std::str::from_utf8(node).ok()?;
    let (bare, port) = match node.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(bare, _)| bare.contains(':'))?,
        None => match node.find(':') {
            Some(at) if !node[at + 1..].contains(':') => node.split_at(at),
            _ => (node, ""),
        },
    };
    let is_port = |port: &str| match port.strip_prefix('_') {
        Some(hidden) => !hidden.is_empty() && hidden.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)),
        None => port.parse::<u16>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit()),
    };
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return None;
    }
    let bare = match bare.split_once('%') {
        Some((bare, zone)) if bare.contains(':') && !zone.is_empty() => bare,
        _ => bare,
    };
    bare.parse().ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(field: ForwardedField, fields: &[(&'static str, &str)]) -> ForwardedFor {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let is_trusted = |address: IpAddr| address.to_string().starts_with("10.") || address.to_string() == "fd00::1";
        client(field, &headers, "10.0.0.1".parse().unwrap(), is_trusted)
    }

    /// The client's address, or `? NEAREST` for an unknown client.
    fn of(field: ForwardedField, fields: &[(&'static str, &str)]) -> String {
        match parsed(field, fields) {
            ForwardedFor::Client(address, _) => address.to_string(),
            ForwardedFor::Unknown(nearest, _) => format!("? {nearest}"),
            ForwardedFor::Nothing => "-".into(),
        }
    }

    #[test]
    fn the_client_is_the_first_address_from_the_right_that_is_no_trusted_proxy() {
        for (chain, expected) in [
            ("1.1.1.1", "1.1.1.1"),
            ("6.6.6.6, 1.1.1.1", "1.1.1.1"),
            ("unknown, 1.1.1.1", "1.1.1.1"),
            ("6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
            ("6.6.6.6,1.1.1.1:4711 , fd00::1", "1.1.1.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%25eth0]:80", "fe80::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            // A recipient ignores empty list elements (RFC 9110 §5.6.1.2).
            ("1.1.1.1, , 10.0.0.2", "1.1.1.1"),
            ("1.1.1.1, ", "1.1.1.1"),
        ] {
            assert_eq!(of(ForwardedField::XForwardedFor, &[("x-forwarded-for", chain)]), expected, "{chain}");
        }
        let lines = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "10.0.0.2")];
        assert_eq!(of(ForwardedField::XForwardedFor, &lines), "1.1.1.1");
    }

    #[test]
    fn a_chain_that_cannot_be_parsed_names_neither_a_client_nor_a_proxy() {
        for (chain, nearest) in [
            ("unknown", "10.0.0.1"),
            ("1.1.1.1, unknown", "10.0.0.1"),
            ("1.1.1.1, _hidden, 10.0.0.2", "10.0.0.2"),
            ("", "10.0.0.1"),
            (" , ,", "10.0.0.1"),
            ("1.1.1.1 2.2.2.2", "10.0.0.1"),
            ("1.1.1.1:", "10.0.0.1"),
            ("1.1.1.1:x", "10.0.0.1"),
            ("1.1.1.1:99999", "10.0.0.1"),
            ("1.1.1.1%eth0", "10.0.0.1"),
            ("[1.1.1.1]", "10.0.0.1"),
            ("010.0.0.1", "10.0.0.1"),
            ("unix:", "10.0.0.1"),
            ("\u{e4}", "10.0.0.1"),
        ] {
            assert_eq!(
                of(ForwardedField::XForwardedFor, &[("x-forwarded-for", chain)]),
                format!("? {nearest}"),
                "{chain}"
            );
        }
    }

    #[test]
    fn quoted_strings_of_forwarded_are_parsed() {
        for (chain, expected) in [
            ("for=1.1.1.1", "1.1.1.1"),
            ("For=\"[2001:db8::1]:4711\";proto=https;by=x", "2001:db8::1"),
            ("for=\"1.1.1.1:_port\"", "1.1.1.1"),
            ("for=6.6.6.6, proto=http;for=1.1.1.1;host=\"a,b;for=7.7.7.7\", for=10.0.0.2", "1.1.1.1"),
            ("for=1.1.1.1;host=\"a\\\"b;for=7.7.7.7\"", "1.1.1.1"),
            ("for=6.6.6.6;x=\", for=1.1.1.1", "1.1.1.1"),
            ("for=6.6.6.6;x=\"\\\", for=1.1.1.1", "1.1.1.1"),
            (", for=1.1.1.1,, for=10.0.0.2", "1.1.1.1"),
            ("for=1.1.1.1, for=_hidden", "? 10.0.0.1"),
            ("for=1.1.1.1, for=unknown, for=10.0.0.2", "? 10.0.0.2"),
            ("for=1.1.1.1, proto=http", "? 10.0.0.1"),
            ("for=\"1.1.1.1", "? 10.0.0.1"),
            ("for=1.1.1.1;for=2.2.2.2", "? 10.0.0.1"),
            ("", "? 10.0.0.1"),
        ] {
            assert_eq!(of(ForwardedField::Forwarded, &[("forwarded", chain)]), expected, "{chain}");
        }
    }

    #[test]
    fn the_field_that_is_not_configured_is_ignored() {
        let both = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=6.6.6.6;proto=https")];
        assert_eq!(parsed(ForwardedField::XForwardedFor, &both), ForwardedFor::Client([1, 1, 1, 1].into(), None));
        assert_eq!(of(ForwardedField::Forwarded, &both), "6.6.6.6");
        assert_eq!(of(ForwardedField::XForwardedFor, &both[1..]), "-");
        assert_eq!(of(ForwardedField::Forwarded, &both[..1]), "-");
        let with_scheme = [("forwarded", "for=1.1.1.1"), ("x-forwarded-proto", "https")];
        assert_eq!(parsed(ForwardedField::Forwarded, &with_scheme), ForwardedFor::Client([1, 1, 1, 1].into(), None));
    }

    #[test]
    fn the_scheme_is_that_of_the_hop_from_the_client() {
        let of = |value| match parsed(ForwardedField::Forwarded, &[("forwarded", value)]) {
            ForwardedFor::Client(_, is_secure) | ForwardedFor::Unknown(_, is_secure) => is_secure,
            ForwardedFor::Nothing => panic!("{value}"),
        };
        assert_eq!(of("for=6.6.6.6;proto=https, for=1.1.1.1;proto=http, for=10.0.0.2;proto=https"), Some(false));
        assert_eq!(of("for=1.1.1.1;proto=\"HTTPS\""), Some(true));
        assert_eq!(of("for=unknown;proto=https"), Some(true));
        assert_eq!(of("for=1.1.1.1;proto=gopher"), None);
        assert_eq!(of("for=1.1.1.1"), None);
    }

    #[test]
    fn the_last_of_several_schemes_counts_because_the_proxy_added_it() {
        for (values, is_secure) in [
            (&["https"][..], Some(true)),
            (&["https", "http"], Some(false)),
            (&["http, https"], Some(true)),
            (&["http", "https, "], Some(true)),
            (&["wss"], Some(true)),
            (&["https", "ws"], Some(false)),
            (&["https", "x"], None),
            (&[""], None),
        ] {
            let fields = values.iter().map(|value| (X_FORWARDED_PROTO, HeaderValue::from_static(value)));
            let headers = HeaderMap::from_iter(fields);
            assert_eq!(scheme(ForwardedField::XForwardedFor, &headers), is_secure, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn a_client_cannot_change_the_address_that_a_proxy_adds_for_it(
            claims in prop::collection::vec(r#"([ -~]|for=6\.6\.6\.6|;x=|[\\",;=]){0,20}"#, 1..3), field in 0..2usize, other in "[ -~]{0,20}"
        ) {
            let names = ["x-forwarded-for", "forwarded"];
            let (believed, added) = [(ForwardedField::XForwardedFor, "1.1.1.1"), (ForwardedField::Forwarded, "for=1.1.1.1")][field];
            let mut fields: Vec<_> = claims.iter().map(|claim| (names[field], claim.clone())).collect();
            if let Some((_, last)) = fields.last_mut() {
                *last += &format!(", {added}");
            }
            fields.push((names[1 - field], other));
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            prop_assert_eq!(of(believed, &fields), "1.1.1.1");
        }

        #[test]
        fn no_field_value_makes_a_proxy_the_client(value in prop::collection::vec(any::<u8>(), 0..60), field in 0..2usize) {
            let believed = [ForwardedField::XForwardedFor, ForwardedField::Forwarded][field];
            let name = [X_FORWARDED_FOR, FORWARDED][field].clone();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let headers = HeaderMap::from_iter([(name, value)]);
                let peer = "2001:db8::ffff:1".parse().unwrap();
                let parsed = client(believed, &headers, peer, |address| address == peer);
                prop_assert!(!matches!(parsed, ForwardedFor::Nothing) && !matches!(parsed, ForwardedFor::Client(address, _) if address == peer));
            }
        }
    }
}
