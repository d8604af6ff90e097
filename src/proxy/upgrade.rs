//! Owns: requests to switch protocols: what the client offers, what the backend receives, what it must respond.
//! Invariant: a connection becomes a tunnel only if the backend agreed to a protocol that the client asked for.
//! Must not know: how a tunnel moves bytes.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{Method, Response, StatusCode, Version, request};

use super::error::ProxyError;
use super::headers::{has_token, tokens};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// The GUID that RFC 6455 §1.3 appends to the key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request to switch to another protocol.
#[derive(Debug, Clone)]
pub(super) enum UpgradeRequest {
    /// By the field Upgrade (RFC 9110 §7.8). The client verifies the backend's response.
    Field(HeaderValue),
    /// A WebSocket by an extended CONNECT of HTTP/2 (RFC 8441). The backend gets an HTTP/1.1 upgrade with a key made
    /// here, so Linchpin verifies its response.
    Stream { accept: HeaderValue },
}

/// Returns the upgrade that a request asks for, if any. An extended CONNECT becomes the GET that the backend receives.
/// A request with a body asks for none: nobody could tell the body from the bytes after it.
pub(super) fn requested(
    head: &mut request::Parts,
    has_body: bool,
    draw: impl FnOnce() -> [u8; 16],
) -> Option<UpgradeRequest> {
    match head.version {
        Version::HTTP_11 if has_body => None,
        Version::HTTP_11 => {
            let mut upgrade_request = head.headers.get_all(CONNECTION).iter();
            if !upgrade_request.any(|value| has_token(value, "upgrade")) {
                return None;
            }
            let mut lines = head.headers.get_all(UPGRADE).iter();
            let first = lines.next()?;
            // Several lines are one list (RFC 9110 §5.3).
            let list = lines.fold(first.clone(), |list, line| {
                HeaderValue::from_bytes(&[list.as_bytes(), b", ", line.as_bytes()].concat()).unwrap_or(list)
            });
            Some(UpgradeRequest::Field(list))
        }
        Version::HTTP_2 if head.method == Method::CONNECT => {
            let protocol = head.extensions.get::<h2::ext::Protocol>()?;
            if !protocol.as_str().eq_ignore_ascii_case("websocket") {
                return None;
            }
            let key = STANDARD.encode(draw());
            let accept = accept_value(key.as_bytes());
            head.method = Method::GET;
            head.headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).ok()?);
            Some(UpgradeRequest::Stream { accept: HeaderValue::try_from(accept).ok()? })
        }
        _ => None,
    }
}

/// Returns the part of `upgrade_request` that a route with these `upgrades` allows. A name without a version allows
/// every version. Other offers never reach a backend, where they could bypass Linchpin; the request continues without
/// them.
///
/// # Errors
/// [`ProxyError::Method`] for a WebSocket by an extended CONNECT that is not allowed: it is no request without it.
pub(super) fn permitted(
    upgrade_request: Option<UpgradeRequest>,
    upgrades: &[String],
) -> Result<Option<UpgradeRequest>, ProxyError> {
    let passes = |offer: &str| upgrades.iter().any(|upgrade| matches_upgrade(offer, upgrade));
    match upgrade_request {
        Some(UpgradeRequest::Field(offers)) => {
            let passed: Vec<&str> = tokens(&offers).filter(|offer| passes(offer)).collect();
            let passed = match passed.as_slice() {
                [] => return Ok(None),
                [all] if all.len() == offers.len() => offers,
                some => match HeaderValue::try_from(some.join(", ")) {
                    Ok(some) => some,
                    Err(_) => return Ok(None),
                },
            };
            Ok(Some(UpgradeRequest::Field(passed)))
        }
        Some(UpgradeRequest::Stream { .. }) if !passes("websocket") => Err(ProxyError::Method),
        upgrade_request => Ok(upgrade_request),
    }
}

/// Returns whether an offered protocol is the configured one. Names are case-insensitive (RFC 9110 §7.8).
fn matches_upgrade(offer: &str, upgrade: &str) -> bool {
    let name = offer.split('/').next().unwrap_or(offer);
    offer.eq_ignore_ascii_case(upgrade) || name.eq_ignore_ascii_case(upgrade)
}

/// Computes Sec-WebSocket-Accept for a key (RFC 6455 §4.2.2).
fn accept_value(key: &[u8]) -> String {
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

/// The protocol that follows the head of a backend's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextProtocol {
    Http,
    Tunnel,
}

/// The outcome of an upgrade request, by the backend's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UpgradeOutcome {
    /// The backend switches to a requested protocol.
    Switched,
    /// The backend sent an HTTP response, which the client receives.
    Answered,
    /// The backend switches to a protocol that was not requested.
    UnexpectedProtocol,
    /// A success that an HTTP/2 client would take for the tunnel that it requested.
    SuccessWithoutUpgrade,
}

impl UpgradeRequest {
    /// Adds the fields that ask the backend to switch.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        let protocol = match self {
            UpgradeRequest::Field(protocol) => protocol.clone(),
            UpgradeRequest::Stream { .. } => WEBSOCKET,
        };
        headers.insert(UPGRADE, protocol);
    }

    /// Returns what the backend's response means.
    pub(super) fn outcome<B>(&self, response: &Response<B>) -> UpgradeOutcome {
        let fields = response.headers();
        let Some(chosen) = fields.get(UPGRADE).filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) else {
            return match self {
                _ if response.status() == StatusCode::SWITCHING_PROTOCOLS => UpgradeOutcome::UnexpectedProtocol,
                UpgradeRequest::Stream { .. } if response.status().is_success() => {
                    UpgradeOutcome::SuccessWithoutUpgrade
                }
                _ => UpgradeOutcome::Answered,
            };
        };
        let is_requested = match self {
            // The name of one that was offered, with its version or without.
            UpgradeRequest::Field(offered) => chosen.to_str().is_ok_and(|name| has_token(offered, name.trim())),
            UpgradeRequest::Stream { accept } => {
                chosen.as_bytes().eq_ignore_ascii_case(b"websocket") && fields.get(SEC_WEBSOCKET_ACCEPT) == Some(accept)
            }
        };
        if is_requested { UpgradeOutcome::Switched } else { UpgradeOutcome::UnexpectedProtocol }
    }

    /// Tells the client, once hop-by-hop fields are removed, that the connection switches to `chosen`.
    pub(super) fn confirm<B>(&self, response: &mut Response<B>, chosen: HeaderValue) {
        match self {
            UpgradeRequest::Field(_) => {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
                response.headers_mut().insert(UPGRADE, chosen);
            }
            UpgradeRequest::Stream { .. } => {
                *response.status_mut() = StatusCode::OK;
                response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
                // Without a meaning in a 101, with one it would have the stream reset.
                response.headers_mut().remove(CONTENT_LENGTH);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(version: Version, fields: &[(&str, &str)]) -> request::Parts {
        let builder = Request::builder().version(version).uri("/");
        let builder = fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        builder.body(()).unwrap().into_parts().0
    }

    fn response(status: u16, fields: &[(&str, &str)]) -> Response<()> {
        let builder = Response::builder().status(status);
        fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn an_upgrade_is_requested_by_both_fields_without_a_body_and_not_to_http_2() {
        for (version, fields, has_body, is_requested) in [
            (Version::HTTP_11, &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")][..], false, true),
            (Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "websocket")], true, false),
            (Version::HTTP_11, &[("upgrade", "websocket")], false, false),
            (Version::HTTP_11, &[("connection", "upgrade")], false, false),
            (Version::HTTP_10, &[("connection", "upgrade"), ("upgrade", "websocket")], false, false),
            (Version::HTTP_2, &[("connection", "upgrade"), ("upgrade", "websocket")], false, false),
        ] {
            assert_eq!(
                requested(&mut head(version, fields), has_body, || [0; 16]).is_some(),
                is_requested,
                "{fields:?}"
            );
        }
    }

    #[test]
    fn of_what_is_offered_a_route_lets_pass_what_it_names() {
        for (offers, upgrades, passed) in [
            (&["websocket"][..], &["websocket"][..], Some("websocket")),
            (&["WebSocket"], &["websocket"], Some("WebSocket")),
            (&["h2c"], &["websocket"], None),
            (&["TLS/1.2"], &["websocket"], None),
            (&["HTTP/2.0, IRC/6.9"], &["websocket"], None),
            (&["websocket, h2c"], &["websocket"], Some("websocket")),
            (&["h2c", "websocket"], &["websocket"], Some("websocket")),
            (&["IRC/6.9, websocket, x"], &["irc", "websocket"], Some("IRC/6.9, websocket")),
            (&["SPDY/3.1"], &["SPDY/3.1"], Some("SPDY/3.1")),
            (&["SPDY/3.0"], &["SPDY/3.1"], None),
            (&["websocket"], &[], None),
            (&[""], &["websocket"], None),
            (&["websocketx, xwebsocket"], &["websocket"], None),
        ] {
            let fields: Vec<_> =
                [("connection", "upgrade")].into_iter().chain(offers.iter().map(|offer| ("upgrade", *offer))).collect();
            let upgrade_request = requested(&mut head(Version::HTTP_11, &fields), false, || [0; 16]);
            let upgrades: Vec<_> = upgrades.iter().map(|name| (*name).to_owned()).collect();
            let value = match permitted(upgrade_request, &upgrades) {
                Ok(Some(UpgradeRequest::Field(value))) => Some(value),
                _ => None,
            };
            assert_eq!(value, passed.map(HeaderValue::from_static), "{offers:?} {upgrades:?}");
        }
        let stream = || Some(UpgradeRequest::Stream { accept: WEBSOCKET });
        assert!(matches!(permitted(stream(), &["websocket".to_owned()]), Ok(Some(UpgradeRequest::Stream { .. }))));
        assert_eq!(permitted(stream(), &[]).err(), Some(ProxyError::Method));
    }

    #[test]
    fn an_extended_connect_becomes_a_get_with_a_key_of_ours() {
        let mut parts = head(Version::HTTP_2, &[]);
        parts.method = Method::CONNECT;
        assert!(requested(&mut parts, false, || [0; 16]).is_none(), "no protocol is named");
        parts.extensions.insert(h2::ext::Protocol::from_static("websocket"));
        let upgrade_request = requested(&mut parts, false, || *b"the sample nonce").unwrap();
        // The example of RFC 6455 §1.3.
        assert_eq!(parts.headers[SEC_WEBSOCKET_KEY], "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(parts.method, Method::GET);
        let accept = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(
            upgrade_request.outcome(&response(101, &[("upgrade", "WebSocket"), accept])),
            UpgradeOutcome::Switched
        );
        assert_eq!(
            upgrade_request.outcome(&response(101, &[("upgrade", "websocket")])),
            UpgradeOutcome::UnexpectedProtocol
        );
        assert_eq!(upgrade_request.outcome(&response(200, &[])), UpgradeOutcome::SuccessWithoutUpgrade);
        assert_eq!(upgrade_request.outcome(&response(404, &[])), UpgradeOutcome::Answered);
        let mut response = response(101, &[accept, ("content-length", "5")]);
        upgrade_request.confirm(&mut response, WEBSOCKET);
        assert_eq!((response.status(), response.headers().len()), (StatusCode::OK, 0));
    }

    #[test]
    fn only_what_was_offered_is_gone_on_with() {
        let upgrade_request = UpgradeRequest::Field(HeaderValue::from_static("foo/2, websocket"));
        assert_eq!(upgrade_request.outcome(&response(101, &[("upgrade", "websocket")])), UpgradeOutcome::Switched);
        assert_eq!(upgrade_request.outcome(&response(101, &[("upgrade", "Foo/2")])), UpgradeOutcome::Switched);
        assert_eq!(upgrade_request.outcome(&response(101, &[("upgrade", "bar")])), UpgradeOutcome::UnexpectedProtocol);
        assert_eq!(upgrade_request.outcome(&response(101, &[])), UpgradeOutcome::UnexpectedProtocol);
        assert_eq!(upgrade_request.outcome(&response(200, &[("upgrade", "h2")])), UpgradeOutcome::Answered);
    }
}
