//! Owns: what a request's and a response's fields must be, lose and gain on the way through.
//! Invariant: what is forwarded has one valid Host, no field of the hop, and forwarding fields of ours alone.
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

/// What a request's head may take. The rest of `[server.limits]` is the route's and the connection's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Header fields.
    pub fields: usize,
    /// Bytes of the target.
    pub target: usize,
}

/// Puts a request's head into the form that is forwarded: origin-form, one valid Host, which is that of an
/// absolute-form where there is one (RFC 9112 §3.2.2). It is handed back too, for all who would otherwise
/// look it up again; only HTTP/1.0 may have none.
///
/// # Errors
/// What RFC 9112 §3.2 and RFC 9110 §7.2 want refused, and what is over a limit.
pub fn normalize(head: &mut request::Parts, limits: &HeadLimits) -> Result<Option<HeaderValue>, ProxyError> {
    // Neither is for a reverse proxy: a tunnel to anywhere, and an echo of fields that the client
    // is not to see.
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
        // Of several lengths, which hyper lets pass, each server would believe another one.
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
    let host = host.ok_or(ProxyError::Malformed("The request target's host is not valid."))?;
    // RFC 9113 §8.3.1: a server may not look at one of two and its neighbour at the other.
    let differs = |own: &HeaderValue| !own.as_bytes().eq_ignore_ascii_case(host.as_bytes());
    if head.version == Version::HTTP_2 && head.headers.get(HOST).is_some_and(differs) {
        return Err(ProxyError::Malformed("The Host field is not that of the request."));
    }
    head.headers.insert(HOST, host.clone());
    Ok(Some(host))
}

/// Checks how the body of a request was framed. hyper reads `gzip, chunked` as chunked; forwarded, it would be
/// a body in a coding that nobody tells the backend of.
///
/// # Errors
/// Any Transfer-Encoding but a single `chunked`: a coding that we do not know, which RFC 9112 §6.1 has a
/// server refuse, or one that was applied twice.
pub(super) fn check_transfer_coding(headers: &HeaderMap) -> Result<(), ProxyError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_plain = codings.next().is_none_or(|first| first.as_bytes().eq_ignore_ascii_case(b"chunked"));
    match is_plain && codings.next().is_none() {
        true => Ok(()),
        false => Err(ProxyError::Malformed("The request has a transfer coding that is not served here.")),
    }
}

/// HTTP/2 may send a cookie in pieces, which HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let parts: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if parts.len() < 2 {
        return;
    }
    // Pieces of valid values with `; ` between them are a valid value.
    if let Ok(whole) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// uri-host [ ":" port ] of RFC 3986 §3.2, without what has no business in a Host: user
/// information, commas, nothing at all.
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

/// Makes a request's fields those that a backend is to see; `host` is its Host field. Says whether
/// the client waits to be told to send its body (`Expect: 100-continue`).
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
    // One pass over the fields: to ask for one by its name costs a hash, and most requests have none of them.
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

/// Makes a response's fields those that a client is to see.
pub fn to_client(headers: &mut HeaderMap) {
    if headers.keys().any(|name| is_hop_by_hop(name.as_str())) {
        remove(headers, is_hop_by_hop);
    }
}

/// Removes the fields that `is_removed` names, Connection among them, and those that Connection lists.
pub(super) fn remove(headers: &mut HeaderMap, is_removed: impl Fn(&str) -> bool) {
    let listed: Vec<HeaderName> =
        headers.get_all(CONNECTION).iter().flat_map(tokens).filter_map(connection_option).collect();
    let out: Vec<HeaderName> = headers.keys().filter(|name| is_removed(name.as_str())).cloned().collect();
    for name in out.into_iter().chain(listed) {
        headers.remove(name);
    }
}

/// A field that a Connection field may take out. Host and what frames the message can't be
/// deleted that way, and `close` and `keep-alive` name no field.
fn connection_option(token: &str) -> Option<HeaderName> {
    let kept = ["close", "keep-alive", "host", "content-length", "transfer-encoding"];
    if kept.iter().any(|name| token.eq_ignore_ascii_case(name)) {
        return None;
    }
    token.parse().ok()
}

/// RFC 9110 §7.6.1. Transfer-Encoding goes because hyper frames the forwarded message itself.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade" | "http2-settings"
    )
}

/// What a client may not tell a backend about itself; see also `Linchpin-*` of the design. Many servers
/// hand fields to applications by names in which `-`, `_` and the like are one, so that here they are, too.
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
    tokens(value).any(|token| token.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case(wanted)))
}

pub(super) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::super::client::ListenerInfo;
    use super::super::forwarded::ForwardedField;
    use super::*;
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
    fn hosts_are_as_rfc_3986_has_them() {
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
    fn limits_and_methods_are_kept() {
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
            position: 0,
            name: "l".into(),
            is_secure: false,
            trusted: Vec::new(),
            forwarded: ForwardedField::default(),
            hsts: None,
            https: None,
        };
        let client = Client::new(&Arc::new(listener), [127, 0, 0, 1].into(), None);
        let (identity, host) = (client.identify(headers), headers.get(HOST).cloned());
        to_backend(headers, host.as_ref(), &client, identity, &RequestId::generated(1))
    }

    #[test]
    fn fields_of_the_hop_and_claims_go_and_everything_else_stays() {
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
    fn a_client_that_waits_to_send_its_body_is_noticed() {
        let mut headers = fields(&[("host", "a"), ("expect", "100-Continue")]);
        assert!(forward(&mut headers));
    }
}
