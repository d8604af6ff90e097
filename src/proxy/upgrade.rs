//! Owns: requests that ask to go on in another protocol: what is asked, how a backend is asked, what its answer must say.
//! Invariant: nothing is handed over to a backend that did not say it goes on in the protocol asked for.
//! Must not know: how the bytes are moved then.

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

/// What RFC 6455 §1.3 adds to the key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A protocol that a request asks to go on in.
#[derive(Debug, Clone)]
pub(super) enum UpgradeRequest {
    /// By the field Upgrade (RFC 9110 §7.8). The backend answers the client itself.
    Field(HeaderValue),
    /// A WebSocket by an extended CONNECT of HTTP/2 (RFC 8441). The backend is asked as HTTP/1.1
    /// does, with a key of ours, so that it is we who look at its answer.
    Stream { accept: HeaderValue },
}

/// What a request asks for, if it does. An extended CONNECT becomes the GET that a backend is sent.
/// Not passed on is what comes with a body, which nobody could tell from what follows it.
pub(super) fn requested(
    head: &mut request::Parts,
    has_body: bool,
    draw: impl FnOnce() -> [u8; 16],
) -> Option<UpgradeRequest> {
    match head.version {
        Version::HTTP_11 if has_body => None,
        Version::HTTP_11 => {
            let mut asked = head.headers.get_all(CONNECTION).iter();
            if !asked.any(|value| has_token(value, "upgrade")) {
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
            let protocol = head.extensions.get::<hyper::ext::Protocol>()?;
            if !protocol.as_str().eq_ignore_ascii_case("websocket") {
                return None;
            }
            let key = STANDARD.encode(draw());
            let accept = accept_of(key.as_bytes());
            head.method = Method::GET;
            head.headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).ok()?);
            Some(UpgradeRequest::Stream { accept: HeaderValue::try_from(accept).ok()? })
        }
        _ => None,
    }
}

/// What of `asked` a route lets pass that has these `upgrades`: names of protocols, which stand for every
/// version, or with a version. Whatever else a client offers does not reach a backend, to which it would be a
/// way past us: the request goes on without.
///
/// # Errors
/// A WebSocket by an extended CONNECT that may not pass, which is no request without it.
pub(super) fn permitted(
    asked: Option<UpgradeRequest>,
    upgrades: &[String],
) -> Result<Option<UpgradeRequest>, ProxyError> {
    let passes = |offer: &str| upgrades.iter().any(|upgrade| is_of(offer, upgrade));
    match asked {
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
        asked => Ok(asked),
    }
}

/// Whether a protocol that is offered is the one that is configured. Names differ in no more than their case
/// (RFC 9110 §7.8).
fn is_of(offer: &str, upgrade: &str) -> bool {
    let name = offer.split('/').next().unwrap_or(offer);
    offer.eq_ignore_ascii_case(upgrade) || name.eq_ignore_ascii_case(upgrade)
}

/// Sec-WebSocket-Accept for a key (RFC 6455 §4.2.2).
fn accept_of(key: &[u8]) -> String {
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

/// What comes after the head of a backend's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextProtocol {
    Http,
    Tunnel,
}

/// What becomes of a backend's answer to a request that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UpgradeOutcome {
    /// It goes on in the protocol asked for.
    Switched,
    /// It answered in HTTP, and that goes to the client.
    Answered,
    /// It says that it goes on in something that was not asked for.
    UnexpectedProtocol,
    /// A success that a client of HTTP/2 would take for the tunnel it asked for.
    SuccessWithoutUpgrade,
}

impl UpgradeRequest {
    /// Asks a backend.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        let protocol = match self {
            UpgradeRequest::Field(protocol) => protocol.clone(),
            UpgradeRequest::Stream { .. } => WEBSOCKET,
        };
        headers.insert(UPGRADE, protocol);
    }

    /// What a backend's answer means.
    pub(super) fn outcome<B>(&self, answer: &Response<B>) -> UpgradeOutcome {
        let fields = answer.headers();
        let Some(chosen) = fields.get(UPGRADE).filter(|_| answer.status() == StatusCode::SWITCHING_PROTOCOLS) else {
            return match self {
                _ if answer.status() == StatusCode::SWITCHING_PROTOCOLS => UpgradeOutcome::UnexpectedProtocol,
                UpgradeRequest::Stream { .. } if answer.status().is_success() => UpgradeOutcome::SuccessWithoutUpgrade,
                _ => UpgradeOutcome::Answered,
            };
        };
        let is_asked = match self {
            // The name of one that was offered, with its version or without.
            UpgradeRequest::Field(offered) => chosen.to_str().is_ok_and(|name| has_token(offered, name.trim())),
            UpgradeRequest::Stream { accept } => {
                chosen.as_bytes().eq_ignore_ascii_case(b"websocket") && fields.get(SEC_WEBSOCKET_ACCEPT) == Some(accept)
            }
        };
        if is_asked { UpgradeOutcome::Switched } else { UpgradeOutcome::UnexpectedProtocol }
    }

    /// Tells the client, after the fields of the hop are gone, that it goes on as `chosen`.
    pub(super) fn confirm<B>(&self, answer: &mut Response<B>, chosen: HeaderValue) {
        match self {
            UpgradeRequest::Field(_) => {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
                answer.headers_mut().insert(UPGRADE, chosen);
            }
            UpgradeRequest::Stream { .. } => {
                *answer.status_mut() = StatusCode::OK;
                answer.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
                // Without a meaning in a 101, with one it would have the stream reset.
                answer.headers_mut().remove(CONTENT_LENGTH);
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

    fn answer(status: u16, fields: &[(&str, &str)]) -> Response<()> {
        let builder = Response::builder().status(status);
        fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn an_upgrade_is_asked_for_by_both_fields_without_a_body_and_not_to_http_2() {
        for (version, fields, has_body, is_asked) in [
            (Version::HTTP_11, &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")][..], false, true),
            (Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "websocket")], true, false),
            (Version::HTTP_11, &[("upgrade", "websocket")], false, false),
            (Version::HTTP_11, &[("connection", "upgrade")], false, false),
            (Version::HTTP_10, &[("connection", "upgrade"), ("upgrade", "websocket")], false, false),
            (Version::HTTP_2, &[("connection", "upgrade"), ("upgrade", "websocket")], false, false),
        ] {
            assert_eq!(requested(&mut head(version, fields), has_body, || [0; 16]).is_some(), is_asked, "{fields:?}");
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
            let asked = requested(&mut head(Version::HTTP_11, &fields), false, || [0; 16]);
            let upgrades: Vec<_> = upgrades.iter().map(|name| (*name).to_owned()).collect();
            let value = match permitted(asked, &upgrades) {
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
        parts.extensions.insert(hyper::ext::Protocol::from_static("websocket"));
        let asked = requested(&mut parts, false, || *b"the sample nonce").unwrap();
        // The example of RFC 6455 §1.3.
        assert_eq!(parts.headers[SEC_WEBSOCKET_KEY], "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(parts.method, Method::GET);
        let accept = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(asked.outcome(&answer(101, &[("upgrade", "WebSocket"), accept])), UpgradeOutcome::Switched);
        assert_eq!(asked.outcome(&answer(101, &[("upgrade", "websocket")])), UpgradeOutcome::UnexpectedProtocol);
        assert_eq!(asked.outcome(&answer(200, &[])), UpgradeOutcome::SuccessWithoutUpgrade);
        assert_eq!(asked.outcome(&answer(404, &[])), UpgradeOutcome::Answered);
        let mut answer = answer(101, &[accept, ("content-length", "5")]);
        asked.confirm(&mut answer, WEBSOCKET);
        assert_eq!((answer.status(), answer.headers().len()), (StatusCode::OK, 0));
    }

    #[test]
    fn only_what_was_offered_is_gone_on_with() {
        let asked = UpgradeRequest::Field(HeaderValue::from_static("foo/2, websocket"));
        assert_eq!(asked.outcome(&answer(101, &[("upgrade", "websocket")])), UpgradeOutcome::Switched);
        assert_eq!(asked.outcome(&answer(101, &[("upgrade", "Foo/2")])), UpgradeOutcome::Switched);
        assert_eq!(asked.outcome(&answer(101, &[("upgrade", "bar")])), UpgradeOutcome::UnexpectedProtocol);
        assert_eq!(asked.outcome(&answer(101, &[])), UpgradeOutcome::UnexpectedProtocol);
        assert_eq!(asked.outcome(&answer(200, &[("upgrade", "h2")])), UpgradeOutcome::Answered);
    }
}
