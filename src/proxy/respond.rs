//! Owns: the one map from what went wrong to a status, and the page that says so.
//! Invariant: a page says nothing of backends, versions or configuration; it names the request.
//! Must not know: upstream connections, pins.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::error::ProxyError;
use crate::upstream::Fact;

/// Seconds after which a client that got a 503 may come again: by then a backend that was
/// restarted has been seen.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// The status of an error.
pub fn status(error: ProxyError) -> StatusCode {
    match error {
        ProxyError::Malformed(_) | ProxyError::BodyAborted => StatusCode::BAD_REQUEST,
        ProxyError::Method => StatusCode::NOT_IMPLEMENTED,
        ProxyError::TargetTooLong => StatusCode::URI_TOO_LONG,
        ProxyError::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ProxyError::HeadTimeout | ProxyError::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        ProxyError::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ProxyError::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        ProxyError::NoRoute => StatusCode::NOT_FOUND,
        ProxyError::Loop => StatusCode::LOOP_DETECTED,
        ProxyError::NoBackend(_) => StatusCode::SERVICE_UNAVAILABLE,
        ProxyError::NotSwitched | ProxyError::Abandoned => StatusCode::BAD_GATEWAY,
        // The configuration takes no other than those from 400 to 599.
        ProxyError::PinLost(refusal) => StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
        ProxyError::Backend(failure) => match failure.fact {
            Fact::ConnectTimeout | Fact::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Fact::RequestBody => StatusCode::BAD_REQUEST,
            // With Retry-After: the shortage is ours, and the request reached nobody.
            Fact::Shortage => StatusCode::SERVICE_UNAVAILABLE,
            Fact::Connect(_) | Fact::Closed | Fact::Garbage | Fact::HeadTooLarge | Fact::Lost | Fact::Status(_) => {
                StatusCode::BAD_GATEWAY
            }
        },
    }
}

/// What a person is told.
fn detail(error: ProxyError) -> &'static str {
    match error {
        ProxyError::Malformed(rule) => rule,
        ProxyError::Method => "This method is not served here.",
        ProxyError::TargetTooLong => "The address is too long.",
        ProxyError::TooManyFields => "The request has too many header fields.",
        ProxyError::HeadTimeout | ProxyError::BodyTimeout => "The request did not come in time.",
        ProxyError::BodyTooLarge => "What was sent is too large.",
        ProxyError::BodyAborted => "The request ended early.",
        ProxyError::TooMany { .. } => "Too many requests came from your address. Please wait a moment.",
        ProxyError::NoRoute => "Nothing is served at this address.",
        ProxyError::Loop => "The servers behind this address send the request back to it.",
        ProxyError::NoBackend(_) => "No server is available just now. Please try again in a moment.",
        ProxyError::PinLost(_) => "The server that holds your session is not available just now.",
        ProxyError::NotSwitched => "The server speaks no WebSocket at this address.",
        ProxyError::Abandoned => {
            "The request was given up while it was worked on, and may or may not have been carried out. \
             Please look before you send it again."
        }
        ProxyError::Backend(failure) => match failure.fact {
            Fact::Shortage => "There is too much to do just now. Please try again in a moment.",
            Fact::ConnectTimeout | Fact::ResponseTimeout => "The server took too long to answer.",
            _ if failure.sent => {
                "The server failed while it worked on the request, which may or may not have been carried out. \
                 Please look before you send it again."
            }
            _ => "The server could not be reached.",
        },
    }
}

/// Whether the connection must end with this answer: what follows on it can't be told from the
/// rest of the request.
fn closes_connection(error: ProxyError) -> bool {
    matches!(
        error,
        ProxyError::Malformed(_)
            | ProxyError::HeadTimeout
            | ProxyError::BodyTimeout
            | ProxyError::BodyTooLarge
            | ProxyError::BodyAborted
            | ProxyError::Abandoned
            | ProxyError::TooManyFields
            | ProxyError::TargetTooLong
    )
}

/// The answer to a request that gets none of a backend.
pub fn respond(error: ProxyError, id: &str, accepts_json: bool) -> Response<Bytes> {
    let status = status(error);
    let body = page(status, detail(error), id, accepts_json);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let kind = if accepts_json { "application/json" } else { "text/html; charset=utf-8" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match error {
        ProxyError::PinLost(refusal) => drop(headers.insert(RETRY_AFTER, HeaderValue::from(refusal.retry_after))),
        // Whole seconds, and not too early.
        ProxyError::TooMany { wait } => {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        _ if status == StatusCode::SERVICE_UNAVAILABLE => drop(headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS)),
        _ => {}
    }
    if closes_connection(error) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The same, as bytes for a connection on which no request was understood.
pub fn respond_raw(error: ProxyError, id: &str) -> Bytes {
    let response = respond(error, id, false);
    let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    let length = HeaderValue::from(response.body().len());
    for (name, value) in response.headers().iter().chain([(&CONTENT_LENGTH, &length)]) {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(response.body());
    bytes.into()
}

fn page(status: StatusCode, detail: &str, id: &str, json: bool) -> Bytes {
    let reason = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    let text = if json {
        format!("{{\"status\":{code},\"error\":\"{reason}\",\"detail\":\"{detail}\",\"request\":\"{id}\"}}\n")
    } else {
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{code} {reason}</title>\
             <style>body{{font:16px system-ui,sans-serif;max-width:32em;margin:15vh auto;padding:0 1em;\
             color-scheme:light dark}}small{{opacity:.6}}</style>\
             <h1>{code} {reason}</h1><p>{detail}</p><small>Request {id}</small></html>\n"
        )
    };
    text.into()
}

/// Whether the client would rather have JSON: it names it, and names HTML not at all or later.
/// Quality values are not weighed: whoever sends one for an error page can read either.
pub fn accepts_json(accept: Option<&HeaderValue>) -> bool {
    let Some(accept) = accept.and_then(|value| value.to_str().ok()) else { return false };
    let at = |kind: &str| accept.find(kind);
    match (at("json"), at("text/html")) {
        (Some(json), Some(html)) => json < html,
        (json, _) => json.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::error::Unserved;
    use super::*;
    use crate::upstream::Failure;

    #[test]
    fn a_page_is_valid_json_or_html_names_the_request_and_no_backend() {
        let error = ProxyError::Backend(Failure::new(Fact::Closed, true));
        let json = respond(error, "00000000000000ab", true);
        let value: serde_json::Value = serde_json::from_slice(json.body()).unwrap();
        assert_eq!((value["status"].as_u64(), value["request"].as_str()), (Some(502), Some("00000000000000ab")));
        let html = respond(error, "00000000000000ab", false);
        assert!(String::from_utf8_lossy(html.body()).contains("00000000000000ab"));
        assert_eq!(html.headers()[CACHE_CONTROL], "no-store");
    }

    #[test]
    fn a_shortage_here_is_a_503_that_says_when_to_come_again_and_goes_to_nobody_else() {
        let failure = Failure::new(Fact::Shortage, false);
        let response = respond(ProxyError::Backend(failure), "1", false);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn no_server_left_says_when_to_come_again() {
        assert!(respond(ProxyError::NoBackend(Unserved::AllDown), "1", false).headers().contains_key(RETRY_AFTER));
        assert!(!respond(ProxyError::NoRoute, "1", false).headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn who_sends_too_much_is_told_whole_seconds_and_keeps_the_connection() {
        for (wait, seconds) in [(1, "1"), (1000, "1"), (1001, "2")] {
            let response = respond(ProxyError::TooMany { wait: Duration::from_millis(wait) }, "1", false);
            assert_eq!((response.status().as_u16(), response.headers()[RETRY_AFTER].to_str().unwrap()), (429, seconds));
            assert!(!response.headers().contains_key(CONNECTION));
        }
    }

    #[test]
    fn json_is_for_those_who_ask_for_it() {
        for (accept, json) in [
            ("application/json", true),
            ("text/html, application/json", false),
            ("application/problem+json, text/html", true),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(accepts_json(Some(&HeaderValue::from_static(accept))), json, "{accept}");
        }
    }

    #[test]
    fn the_raw_form_is_a_response() {
        let raw = respond_raw(ProxyError::HeadTimeout, "1");
        let text = String::from_utf8_lossy(&raw);
        assert!(text.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())));
        assert!(head.contains("connection: close"));
    }
}
