//! Owns: checking, removing and adding the header fields of requests and responses that are forwarded.
//! Invariant: a forwarded request has one valid Host, no hop-by-hop field, and only trusted forwarding headers.
//! Must not know: affinity, backends.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
};
use http::{Method, Version, request};

use super::client::{Client, ClientIdentity};
use super::error::ProxyError;
use super::request_id::RequestId;
use super::target;

const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// The limits of a request's header section. Routes and connections enforce the rest of `[server.limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// The most header fields.
    pub fields: usize,
    /// The most bytes of the request target.
    pub target: usize,
}

/// Normalizes a request's header section for forwarding: a target in origin-form, and one valid Host, which is the
/// authority of an absolute-form target if there is one (RFC 9112 §3.2.2). Returns Host too, so that callers need not
/// look it up again; only HTTP/1.0 may have none.
///
/// # Errors
/// A request that RFC 9112 §3.2 or RFC 9110 §7.2 has a server reject, or that exceeds a limit.
pub fn normalize(head: &mut request::Parts, limits: &HeadLimits) -> Result<Option<HeaderValue>, ProxyError> {
    // A reverse proxy serves neither: CONNECT opens a tunnel to any host, and TRACE echoes fields that the client
    // must not see.
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        return Err(ProxyError::Method);
    }
    if head.headers.len() > limits.fields {
        return Err(ProxyError::TooManyFields);
    }
    let host = {
        let mut hosts = head.headers.get_all(HOST).iter();
        let first = hosts.next();
        if hosts.next().is_some() {
            return Err(ProxyError::Malformed("The request has more than one Host field."));
        }
        if first.is_some_and(|host| !is_valid_host(host.as_bytes())) {
            return Err(ProxyError::Malformed("The Host field is not valid."));
        }
        first.cloned()
    };
    let is_named = host.is_some() || (head.version == Version::HTTP_2 && head.uri.authority().is_some());
    if !is_named && head.version > Version::HTTP_10 {
        return Err(ProxyError::Malformed("The request has no Host field."));
    }
    if head.version == Version::HTTP_2 {
        // hyper accepts several lengths. Servers would disagree about which one counts.
        if head.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
            return Err(ProxyError::Malformed("The request has more than one Content-Length field."));
        }
        join_cookies(&mut head.headers);
    }
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.target {
        return Err(ProxyError::TargetTooLong);
    }
    let Some(authority) = target::normalize(&mut head.uri, &head.method, head.version)? else { return Ok(host) };
    let named = Some(&authority).filter(|authority| is_valid_host(authority.as_str().as_bytes()));
    let host = named.and_then(target::host_field);
    let host = host.ok_or(ProxyError::Malformed("The host in the request target is not valid."))?;
    // RFC 9113 §8.3.1: Host must not differ from :authority, or two servers could act on different hosts.
    let differs = |own: &HeaderValue| !own.as_bytes().eq_ignore_ascii_case(host.as_bytes());
    if head.version == Version::HTTP_2 && head.headers.get(HOST).is_some_and(differs) {
        return Err(ProxyError::Malformed("The Host field differs from the host of the request target."));
    }
    head.headers.insert(HOST, host.clone());
    Ok(Some(host))
}

/// Checks the transfer coding of a request's body. hyper reads `gzip, chunked` as chunked; the forwarded body would be
/// in a coding that no field announces to the backend.
///
/// # Errors
/// Any Transfer-Encoding but a single `chunked`: an unknown coding, which RFC 9112 §6.1 has a server reject, or one
/// that was applied twice.
pub(super) fn check_transfer_coding(headers: &HeaderMap) -> Result<(), ProxyError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_plain = codings.next().is_none_or(|first| first.as_bytes().eq_ignore_ascii_case(b"chunked"));
    match is_plain && codings.next().is_none() {
        true => Ok(()),
        false => Err(ProxyError::Malformed("The request uses a transfer coding that this server does not support.")),
    }
}

/// Joins Cookie fields into one. HTTP/2 may split the field, HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let parts: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if parts.len() < 2 {
        return;
    }
    // Valid values that are joined by `; ` are a valid value.
    if let Ok(whole) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// Whether a Host is `uri-host [ ":" port ]` (RFC 3986 §3.2). Rejects user information, commas and an empty host.
fn is_valid_host(host: &[u8]) -> bool {
    let (name, port) = match host.first() {
        Some(b'[') => match host.iter().position(|byte| *byte == b']') {
            Some(end) => (&host[..=end], &host[end + 1..]),
            None => return false,
        },
        _ => host.split_at(host.iter().position(|byte| *byte == b':').unwrap_or(host.len())),
    };
    let is_name = match name.strip_prefix(b"[") {
        Some(literal) => {
            let literal = literal.strip_suffix(b"]").unwrap_or_default();
            !literal.is_empty() && literal.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }
        None => {
            let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte);
            !name.is_empty() && name.iter().all(is_plain)
        }
    };
    is_name && port.strip_prefix(b":").unwrap_or(port).iter().all(u8::is_ascii_digit) && port.len() <= 6
}

/// Prepares a request's fields for the backend: removes hop-by-hop fields and untrusted claims, and sets the forwarding
/// headers. `host` is the request's Host. Returns whether the client waits for a 100 (`Expect: 100-continue`).
pub(super) fn to_backend(
    headers: &mut HeaderMap,
    host: Option<&HeaderValue>,
    client: &Client,
    identity: ClientIdentity,
    id: &RequestId,
) -> bool {
    let (mut wants_trailers, mut expects, mut any_removed) = (false, false, false);
    let is_removed =
        |name: &str| is_hop_by_hop(name) || (is_reserved(name) && !client.keeps_forwarding_field(identity, name));
    // One pass over the fields: a lookup by name costs a hash, and most requests have none of these fields.
    for (name, value) in headers.iter() {
        match name.as_str() {
            "te" => (wants_trailers, any_removed) = (wants_trailers || has_token(value, "trailers"), true),
            "expect" => expects = expects || value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            name => any_removed = any_removed || is_removed(name),
        }
    }
    if any_removed {
        remove(headers, is_removed);
    }
    if wants_trailers {
        headers.insert(TE, TRAILERS);
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    client.set_forwarding_headers(headers, host, identity, id);
    expects
}

/// Prepares a response's fields for the client: removes hop-by-hop fields and those that only Linchpin may read.
pub fn to_client(headers: &mut HeaderMap) {
    let is_removed = |name: &str| is_hop_by_hop(name) || is_for_linchpin(name);
    if headers.keys().any(|name| is_removed(name.as_str())) {
        remove(headers, is_removed);
    }
}

/// Removes the fields for which `is_removed` is true, which must include Connection, and those that Connection lists.
pub(super) fn remove(headers: &mut HeaderMap, is_removed: impl Fn(&str) -> bool) {
    let listed: Vec<HeaderName> =
        headers.get_all(CONNECTION).iter().flat_map(tokens).filter_map(connection_option).collect();
    let out: Vec<HeaderName> = headers.keys().filter(|name| is_removed(name.as_str())).cloned().collect();
    for name in out.into_iter().chain(listed) {
        headers.remove(name);
    }
}

/// The field that a connection option names, if the option may remove it (RFC 9110 §7.6.1). Host and the fields that
/// frame the message stay, and `close` and `keep-alive` name no field.
fn connection_option(token: &str) -> Option<HeaderName> {
    let kept = ["close", "keep-alive", "host", "content-length", "transfer-encoding"];
    if kept.iter().any(|name| token.eq_ignore_ascii_case(name)) {
        return None;
    }
    token.parse().ok()
}

/// Whether a field is hop-by-hop (RFC 9110 §7.6.1). Includes Transfer-Encoding: hyper frames the forwarded message.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade" | "http2-settings"
    )
}

/// Whether a backend addresses a field to Linchpin. Other fields of the prefix may be verdicts of a Linchpin behind this
/// one, and reach the client.
fn is_for_linchpin(name: &str) -> bool {
    matches!(name, "linchpin-replica" | "linchpin-release") || name.starts_with("linchpin-session")
}

/// Whether a field is reserved for Linchpin and trusted proxies: a client must not set it. Many servers pass fields to
/// applications under names that do not distinguish `-`, `_` and the like, so this does not distinguish them, either.
pub(super) fn is_reserved(name: &str) -> bool {
    let starts_with = |wanted: &str| name.get(..wanted.len()).is_some_and(|start| matches_name(start, wanted));
    match name.as_bytes().first() {
        Some(b'f') => name == "forwarded",
        Some(b'l') => starts_with("linchpin-"),
        Some(b'x') => {
            starts_with("x-forwarded") || matches_name(name, "x-real-ip") || matches_name(name, "x-request-id")
        }
        _ => false,
    }
}

fn matches_name(name: &str, wanted: &str) -> bool {
    let is = |(byte, wanted): (u8, u8)| if wanted == b'-' { !byte.is_ascii_alphanumeric() } else { byte == wanted };
    name.len() == wanted.len() && name.bytes().zip(wanted.bytes()).all(is)
}

pub(super) fn has_token(value: &HeaderValue, wanted: &str) -> bool {
    // Mostly it is the only one, and written like this.
    value.as_bytes() == wanted.as_bytes()
        || tokens(value).any(|token| token.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case(wanted)))
}

pub(super) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::super::client::ListenerInfo;
    use super::super::forwarded::ForwardedField;
    use super::*;
    use crate::handler::Peer;
    use http::Request;
    use std::sync::Arc;

    const LIMITS: HeadLimits = HeadLimits { fields: 100, target: 100 };

    fn head(uri: &str, hosts: &[&str]) -> request::Parts {
        let mut builder = Request::builder().uri(uri);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_token_is_found_whole_in_any_case_among_others_and_before_parameters() {
        let has = |value| has_token(&HeaderValue::from_static(value), "close");
        assert!(["close", "Close", "keep-alive, close", " close ,x", "close;q=1"].into_iter().all(has));
        assert!(!["", "closed", "clos", "c", "not close", "x=close"].into_iter().any(has));
    }

    #[test]
    fn a_host_is_valid_as_rfc_3986_defines_it() {
        for host in ["a", "a.b:80", "127.0.0.1", "[::1]", "[::1]:8080", "xn--a", "a_b", "a:"] {
            assert!(is_valid_host(host.as_bytes()), "{host}");
        }
        for host in ["", ":80", "a b", "a,b", "u@a", "a/b", "a:80:80", "a:x", "[::1", "[]", "[::1]x", "a\"", "a:123456"]
        {
            assert!(!is_valid_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn a_request_has_exactly_one_valid_host() {
        for (hosts, ok) in [(&["a"][..], true), (&[], false), (&["a", "a"], false), (&["a, b"], false), (&[""], false)]
        {
            assert_eq!(normalize(&mut head("/", hosts), &LIMITS).is_ok(), ok, "{hosts:?}");
        }
        let mut old = head("/", &[]);
        old.version = Version::HTTP_10;
        assert!(normalize(&mut old, &LIMITS).is_ok());
    }

    #[test]
    fn absolute_form_beats_host_and_is_forwarded_in_origin_form() {
        let mut head = head("http://b:81/x?y=1", &["a"]);
        normalize(&mut head, &LIMITS).unwrap();
        assert_eq!(head.headers[HOST], "b:81");
        assert_eq!(head.uri, "/x?y=1");
        assert!(normalize(&mut self::head("ftp://b/x", &["a"]), &LIMITS).is_err());
        assert!(normalize(&mut self::head("b", &["a"]), &LIMITS).is_err());
        assert!(normalize(&mut self::head("http://u@b/", &["a"]), &LIMITS).is_err());
    }

    #[test]
    fn limits_and_methods_are_enforced() {
        let long = format!("/{}", "x".repeat(100));
        assert_eq!(normalize(&mut head(&long, &["a"]), &LIMITS), Err(ProxyError::TargetTooLong));
        let few = HeadLimits { fields: 0, ..LIMITS };
        assert_eq!(normalize(&mut head("/", &["a"]), &few), Err(ProxyError::TooManyFields));
        let mut trace = head("/", &["a"]);
        trace.method = Method::TRACE;
        assert_eq!(normalize(&mut trace, &LIMITS), Err(ProxyError::Method));
    }

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    fn forward(headers: &mut HeaderMap) -> bool {
        let listener = ListenerInfo {
            id: 0,
            name: "l".into(),
            is_secure: false,
            trusted: Vec::new(),
            forwarded: ForwardedField::default(),
            hsts: None,
            https: None,
        };
        let client =
            Client::new(&Arc::new(listener), Peer { address: [127, 0, 0, 1].into(), subject: None, tls_version: None });
        let (identity, host) = (client.identify(headers), headers.get(HOST).cloned());
        to_backend(headers, host.as_ref(), &client, identity, &RequestId::generated(1))
    }

    #[test]
    fn hop_by_hop_and_reserved_fields_are_removed_and_all_others_stay() {
        let mut headers = fields(&[
            ("host", "a:80"),
            ("connection", "keep-alive, X-Hop, host, content-length, x-forwarded-for"),
            ("content-length", "3"),
            ("x-hop", "1"),
            ("keep-alive", "1"),
            ("te", "trailers, deflate"),
            ("upgrade", "websocket"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-anything", "1"),
            ("x-real-ip", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-real_ip", "6.6.6.6"),
            ("x-request-id", "6"),
            ("x_request_id", "6"),
            ("linchpin_client_subject", "CN=admin"),
            ("forwarded", "for=6.6.6.6"),
            ("linchpin-pin", "1"),
            ("x-other", "1"),
            ("cookie", "a=1"),
        ]);
        assert!(!forward(&mut headers));
        let expected = fields(&[
            ("host", "a:80"),
            ("content-length", "3"),
            ("x-other", "1"),
            ("cookie", "a=1"),
            ("te", "trailers"),
            ("connection", "te"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a:80"),
            ("x-forwarded-port", "80"),
            ("x-request-id", "0000000000000001"),
            ("forwarded", "for=127.0.0.1;host=\"a:80\";proto=http"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn fields_that_only_linchpin_may_read_do_not_reach_a_client() {
        let mut headers = fields(&[
            ("linchpin-replica", "b"),
            ("linchpin-replica", "c"),
            ("linchpin-session", "1"),
            ("linchpin-session-save", ":YQ==:"),
            ("linchpin-verdict", "hit"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ]);
        to_client(&mut headers);
        assert_eq!(headers, fields(&[("linchpin-verdict", "hit")]));
    }

    #[test]
    fn an_expectation_of_100_continue_is_detected() {
        let mut headers = fields(&[("host", "a"), ("expect", "100-Continue")]);
        assert!(forward(&mut headers));
    }
}
