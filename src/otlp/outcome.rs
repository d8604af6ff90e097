//! Owns: what a collector's response to a batch means (OTLP §OTLP/HTTP Response).
//! Invariant: a response that is not OTLP's counts as a refusal, so a wrong URL is noticed.
//! Must not know: connections; when a batch is sent again.

use std::time::{Duration, UNIX_EPOCH};

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use prost::Message;

use super::messages::ExportTraceServiceResponse;

/// The content type of batches and of responses to them.
pub(super) const PROTOBUF: &str = "application/x-protobuf";

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The collector took it, but for so many spans, for a reason.
    Taken { rejected: u64, why: String },
    /// The collector will never take it.
    Refused(String),
    /// It may take it later; perhaps it says when.
    Later { why: String, after: Option<Duration> },
}

/// Reads a response that came at `now`, since the Unix epoch. What a collector says of its reasons is not repeated in full.
pub(super) fn outcome(status: StatusCode, headers: &HeaderMap, body: &[u8], now: Duration) -> Outcome {
    match status {
        _ if status.is_success() => taken(headers, body),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let after = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
            Outcome::Later { why: format!("status {}", status.as_u16()), after }
        }
        _ => Outcome::Refused(format!("status {}", status.as_u16())),
    }
}

fn taken(headers: &HeaderMap, body: &[u8]) -> Outcome {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or(PROTOBUF);
    // Some servers respond to protobufs with JSON.
    if body.is_empty() || content_type.starts_with("application/json") {
        return Outcome::Taken { rejected: 0, why: String::new() };
    }
    let response = match ExportTraceServiceResponse::decode(body) {
        Ok(response) if content_type.starts_with(PROTOBUF) => response,
        _ => return Outcome::Refused("a response that is not OTLP's: is this the URL of a collector?".into()),
    };
    let partial = response.partial_success.unwrap_or_default();
    Outcome::Taken {
        rejected: u64::try_from(partial.rejected_spans).unwrap_or(0),
        why: partial.error_message.chars().filter(|c| !c.is_control()).take(200).collect(),
    }
}

/// Reads Retry-After: seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(value: &str, now: Duration) -> Option<Duration> {
    match value.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            httpdate::parse_http_date(value).ok().map(|at| at.duration_since(UNIX_EPOCH + now).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::messages::ExportTracePartialSuccess;
    use super::*;

    fn of(status: u16, fields: &[(http::HeaderName, &'static str)], body: &[u8]) -> Outcome {
        let headers = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        outcome(StatusCode::from_u16(status).unwrap(), &headers, body, Duration::from_secs(784_111_777))
    }

    #[test]
    fn only_what_may_pass_is_tried_again_when_the_collector_says() {
        for status in [429, 502, 503, 504] {
            let later = |after| Outcome::Later { why: format!("status {status}"), after };
            for (value, after) in [
                ("7", Some(Duration::from_secs(7))),
                ("Sun, 06 Nov 1994 08:49:47 GMT", Some(Duration::from_secs(10))),
                ("Sun, 06 Nov 1994 08:49:27 GMT", Some(Duration::ZERO)),
                ("99999999999999999999999", None),
                ("-1", None),
                ("soon", None),
            ] {
                assert_eq!(of(status, &[(RETRY_AFTER, value)], b""), later(after), "{value}");
            }
            assert_eq!(of(status, &[], b"<html>"), later(None));
        }
        for status in [302, 400, 401, 404, 413, 500, 501] {
            assert_eq!(of(status, &[], b""), Outcome::Refused(format!("status {status}")));
        }
    }

    #[test]
    fn a_collector_may_take_a_part_and_something_else_takes_nothing() {
        let whole = Outcome::Taken { rejected: 0, why: String::new() };
        assert_eq!(of(200, &[], b""), whole);
        assert_eq!(of(202, &[(CONTENT_TYPE, "application/json")], b"{}"), whole);
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "too\nold".into() };
        let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        for fields in [&[][..], &[(CONTENT_TYPE, "application/x-protobuf")]] {
            assert_eq!(of(200, fields, &body), Outcome::Taken { rejected: 3, why: "tooold".into() });
        }
        assert!(matches!(of(200, &[(CONTENT_TYPE, "text/html; charset=utf-8")], b"<html>"), Outcome::Refused(_)));
        assert!(matches!(of(200, &[], b"\xff\xff"), Outcome::Refused(_)));
    }
}
