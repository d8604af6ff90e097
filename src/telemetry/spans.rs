//! Owns: the spans of one traced request, made from its access record.
//! Invariant: a span takes a few KiB at most, whatever the client sent; it holds no query, token, cookie or session id.
//! Must not know: how spans are sampled, queued, encoded or sent.

use std::borrow::Cow;
use std::time::Duration;

use super::access_record::Record;
use super::redaction;
use super::trace_ids::{SpanId, TraceId};

/// The longest text of a span, in bytes. Longer ones are cut: thousands of spans may wait for a collector, and a client
/// decides how long its path is.
const MAX_TEXT: usize = 1024;

/// Why an attempt or a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanError {
    /// One of few words, by which failures can be counted.
    pub kind: &'static str,
    /// The reason, as the access log has it.
    pub reason: Box<str>,
}

/// The attempt of a request on a backend: a span of kind CLIENT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptSpan {
    /// Its id, which the backend gets as that of its caller.
    pub id: SpanId,
    /// The backend's name.
    pub backend: Box<str>,
    /// The backend's address.
    pub address: Box<str>,
    /// Whether the backend is reached by TLS.
    pub is_secure: bool,
    /// When it began, since the request began.
    pub begun: Duration,
    /// When it ended, since the request began; `None` if with the request.
    pub ended: Option<Duration>,
    /// The status of the backend's response, if it sent one.
    pub status: Option<u16>,
    /// The version of HTTP of the backend's response.
    pub protocol: Option<&'static str>,
    /// Why it failed.
    pub error: Option<SpanError>,
}

/// Where a request belongs in its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanPlace {
    /// The trace.
    pub trace: TraceId,
    /// The id of the request's span.
    pub span: SpanId,
    /// The caller's span.
    pub parent: Option<SpanId>,
    /// The caller's `tracestate`, or as many of its members as fit.
    pub state: Option<Box<str>>,
}

/// A sampled request: a span of kind SERVER, and its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSpans {
    /// Where it belongs.
    pub place: SpanPlace,
    /// When the request's head was complete, since the Unix epoch.
    pub begun: Duration,
    /// The time until the last byte of the response.
    pub took: Duration,
    /// The method.
    pub method: Box<str>,
    /// The path, without the values of its parameters.
    pub path: Box<str>,
    /// Whether the client uses TLS.
    pub is_secure: bool,
    /// The host that the client requested.
    pub host: Box<str>,
    /// The client's address, if it is known.
    pub client: Option<Box<str>>,
    /// The version of HTTP that the client speaks.
    pub protocol: Option<&'static str>,
    /// The response's status code, if there was a response.
    pub status: Option<u16>,
    /// The listener's name.
    pub listener: Box<str>,
    /// The request's id.
    pub id: Box<str>,
    /// The pool's name.
    pub pool: Option<Box<str>>,
    /// The backend's name.
    pub backend: Option<Box<str>>,
    /// The verdict of persistence.
    pub verdict: &'static str,
    /// Why the pin did not hold.
    pub cause: Option<&'static str>,
    /// The backend that the pin named, if another one served.
    pub pinned: Option<Box<str>>,
    /// The session's id.
    pub session: Option<u64>,
    /// Why the request failed.
    pub error: Option<SpanError>,
    /// The attempts, in their order.
    pub attempts: Vec<AttemptSpan>,
}

/// What a record doesn't have of a request's spans.
#[derive(Debug)]
pub struct SpanFacts {
    /// Where the request belongs in its trace.
    pub place: SpanPlace,
    /// The attempts, in their order.
    pub attempts: Vec<AttemptSpan>,
    /// Whether the client uses TLS.
    pub is_secure: bool,
    /// Whether the client's address is known.
    pub is_client_known: bool,
    /// Whether the client was sent a status.
    pub has_response: bool,
    /// The kind of the record's error.
    pub error: &'static str,
}

impl RequestSpans {
    /// Makes the spans of a request that has ended.
    pub fn of(facts: SpanFacts, record: &Record<'_>) -> RequestSpans {
        RequestSpans {
            place: facts.place,
            begun: record.time,
            took: record.total,
            method: text(record.method.as_bytes()),
            path: text(&redaction::path(record.path.as_bytes())),
            is_secure: facts.is_secure,
            host: text(record.host),
            client: facts.is_client_known.then(|| text(record.client.as_bytes())),
            protocol: record.protocol,
            status: facts.has_response.then_some(record.status),
            listener: text(record.listener.as_bytes()),
            id: text(record.id.as_bytes()),
            pool: record.pool.map(Into::into),
            backend: record.backend.map(Into::into),
            verdict: record.verdict,
            cause: record.cause,
            pinned: record.pinned.map(Into::into),
            session: record.session,
            error: record.error.map(|reason| SpanError { kind: facts.error, reason: text(reason.as_bytes()) }),
            attempts: facts.attempts,
        }
    }

    /// Returns the number of spans.
    pub fn count(&self) -> u64 {
        1 + self.attempts.len() as u64
    }
}

/// Copies a text, cut to fit.
fn text(bytes: &[u8]) -> Box<str> {
    let cut = &bytes[..bytes.len().min(MAX_TEXT)];
    match String::from_utf8_lossy(cut) {
        Cow::Borrowed(text) => text.into(),
        Cow::Owned(text) => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_to_fit_whatever_its_bytes_are() {
        assert_eq!(&*text(b"/a\xff"), "/a\u{fffd}");
        assert_eq!(text("x".repeat(5000).as_bytes()).len(), MAX_TEXT);
        let within_a_character = format!("x{}", "é".repeat(1000));
        assert!(text(within_a_character.as_bytes()).ends_with("é\u{fffd}"));
    }
}
