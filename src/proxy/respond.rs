//! Owns: the only mapping from errors to status codes, and the error pages.
//! Invariant: an error page names the request, and reveals nothing about backends, versions or configuration.
//! Must not know: upstream connections, pins.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::error::ProxyError;
use super::pages::Template;
use crate::telemetry::Denial;
use crate::upstream::Fact;

/// Seconds after which a client that received a 503 may retry: by then a probe has found a backend that was restarted.
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
        ProxyError::TooMany { .. } | ProxyError::TooManyFailures { .. } => StatusCode::TOO_MANY_REQUESTS,
        ProxyError::NoRoute => StatusCode::NOT_FOUND,
        ProxyError::Denied(Denial::Address | Denial::AmbiguousPath) => StatusCode::FORBIDDEN,
        ProxyError::Denied(Denial::NoCredentials | Denial::WrongCredentials) => StatusCode::UNAUTHORIZED,
        ProxyError::Denied(Denial::PasswordsBusy) => StatusCode::SERVICE_UNAVAILABLE,
        ProxyError::Loop => StatusCode::LOOP_DETECTED,
        ProxyError::NoBackend(_) => StatusCode::SERVICE_UNAVAILABLE,
        ProxyError::NotSwitched | ProxyError::Abandoned | ProxyError::Fenced | ProxyError::WantedTwice => {
            StatusCode::BAD_GATEWAY
        }
        ProxyError::BodyNotKept | ProxyError::NotCopied => StatusCode::SERVICE_UNAVAILABLE,
        // The configuration accepts statuses from 400 to 599 only.
        ProxyError::PinLost(refusal) => StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
        ProxyError::Backend(failure) => match failure.fact {
            Fact::ConnectTimeout | Fact::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Fact::RequestBody => StatusCode::BAD_REQUEST,
            // With Retry-After: this process is short of resources, and no backend received the request.
            Fact::Shortage => StatusCode::SERVICE_UNAVAILABLE,
            Fact::Connect(_)
            | Fact::Closed
            | Fact::Garbage
            | Fact::HeadTooLarge
            | Fact::Lost
            | Fact::SessionMoved
            | Fact::Status(_) => StatusCode::BAD_GATEWAY,
        },
    }
}

/// The text of the error page: what happened, why if that is known, and what to do.
fn detail(error: ProxyError) -> &'static str {
    match error {
        ProxyError::Malformed(rule) => rule,
        ProxyError::Method => "This server does not support the request method.",
        ProxyError::TargetTooLong => "The URL is longer than this server accepts.",
        ProxyError::TooManyFields => {
            "The request has too many header fields, or they are too large. Deleting the cookies of this site may help."
        }
        ProxyError::HeadTimeout | ProxyError::BodyTimeout => {
            "The request took too long to arrive. Please check your connection and try again."
        }
        ProxyError::BodyTooLarge => "The content of the request is larger than this server accepts.",
        ProxyError::BodyAborted => "The request ended before its content was complete. Please try again.",
        ProxyError::TooMany { .. } => "Your address has sent too many requests. Please wait a moment and try again.",
        ProxyError::TooManyFailures { .. } => {
            "Your address has sent too many wrong passwords. Please wait a moment and try again."
        }
        ProxyError::NoRoute => "This server has nothing at this address. Please check the URL.",
        ProxyError::Denied(Denial::Address) => "Your address may not use this part of the site.",
        ProxyError::Denied(Denial::NoCredentials) => "This part of the site needs a name and a password.",
        ProxyError::Denied(Denial::WrongCredentials) => "The name or the password is wrong.",
        ProxyError::Denied(Denial::PasswordsBusy) => {
            "Too many people log in at the moment. Please try again in a few seconds."
        }
        ProxyError::Denied(Denial::AmbiguousPath) => {
            "The path of this URL is written in a way that is not allowed here. Please write it without escapes and dots."
        }
        ProxyError::Loop => {
            "The servers for this address forward requests in a loop. Please tell the operator of this site."
        }
        ProxyError::NoBackend(_) => "No server is available at the moment. Please try again in a few seconds.",
        ProxyError::PinLost(_) => {
            "The server that holds your session is not available at the moment. Please try again later."
        }
        ProxyError::NotSwitched => "The server did not open a WebSocket at this address.",
        ProxyError::Fenced => {
            "The server took too long, and your session continued on another server. \
             Please check what was done before you send the request again."
        }
        ProxyError::WantedTwice => "The server could not restore your session. Please try again later.",
        ProxyError::BodyNotKept => "The server had to restore your session first. Please send the request again.",
        ProxyError::NotCopied => {
            "The request may have been carried out, but the server could not save your session. \
             Please check before you send it again."
        }
        ProxyError::Abandoned => {
            "The request was interrupted, and may or may not have been carried out. \
             Please check before you send it again."
        }
        ProxyError::Backend(failure) => match failure.fact {
            Fact::Shortage => "This server is overloaded at the moment. Please try again in a few seconds.",
            Fact::ConnectTimeout | Fact::ResponseTimeout => {
                "The server took too long to respond. Please try again later."
            }
            _ if failure.sent => {
                "The server failed while it processed the request, which may or may not have been carried out. \
                 Please check before you send it again."
            }
            _ => "The server could not be reached. Please try again later.",
        },
    }
}

/// Whether the connection must close after the response, because the rest of the request can't be told from a
/// following one.
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

/// Makes the response to a request that gets none from a backend.
pub fn respond(error: ProxyError, id: &str, accepts_json: bool) -> Response<Bytes> {
    respond_with_page(error, id, accepts_json, None)
}

/// Makes the response with a page of the pool's own, if it has one. Clients that prefer JSON get that.
pub(super) fn respond_with_page(
    error: ProxyError,
    id: &str,
    accepts_json: bool,
    own: Option<&Template>,
) -> Response<Bytes> {
    let status = status(error);
    let body = match own {
        Some(own) if !accepts_json => own.fill_in(status, detail(error), id),
        _ => page(status, detail(error), id, accepts_json),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let kind = if accepts_json { "application/json" } else { "text/html; charset=utf-8" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match error {
        ProxyError::PinLost(refusal) => drop(headers.insert(RETRY_AFTER, HeaderValue::from(refusal.retry_after))),
        // In whole seconds, rounded up.
        ProxyError::TooMany { wait } | ProxyError::TooManyFailures { wait } => {
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

/// Serializes the response for a connection on which no request could be parsed.
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

/// Whether the client prefers JSON: Accept names JSON, and HTML later or not at all. Ignores quality values: a client
/// that sends them can read either error page.
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
    fn an_error_page_is_valid_json_or_html_and_names_the_request() {
        let error = ProxyError::Backend(Failure::new(Fact::Closed, true));
        let json = respond(error, "00000000000000ab", true);
        let value: serde_json::Value = serde_json::from_slice(json.body()).unwrap();
        assert_eq!((value["status"].as_u64(), value["request"].as_str()), (Some(502), Some("00000000000000ab")));
        let html = respond(error, "00000000000000ab", false);
        assert!(String::from_utf8_lossy(html.body()).contains("00000000000000ab"));
        assert_eq!(html.headers()[CACHE_CONTROL], "no-store");
    }

    #[test]
    fn a_shortage_of_this_process_is_a_503_with_retry_after() {
        let failure = Failure::new(Fact::Shortage, false);
        let response = respond(ProxyError::Backend(failure), "1", false);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn a_503_without_a_backend_has_retry_after_and_a_404_has_none() {
        assert!(respond(ProxyError::NoBackend(Unserved::AllDown), "1", false).headers().contains_key(RETRY_AFTER));
        assert!(!respond(ProxyError::NoRoute, "1", false).headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn a_429_has_retry_after_in_whole_seconds_and_keeps_the_connection() {
        for (wait, seconds) in [(1, "1"), (1000, "1"), (1001, "2")] {
            let response = respond(ProxyError::TooMany { wait: Duration::from_millis(wait) }, "1", false);
            assert_eq!((response.status().as_u16(), response.headers()[RETRY_AFTER].to_str().unwrap()), (429, seconds));
            assert!(!response.headers().contains_key(CONNECTION));
        }
    }

    #[test]
    fn clients_that_prefer_json_get_json() {
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
    fn the_serialized_response_is_valid_http() {
        let raw = respond_raw(ProxyError::HeadTimeout, "1");
        let text = String::from_utf8_lossy(&raw);
        assert!(text.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())));
        assert!(head.contains("connection: close"));
    }
}
