//! Owns: which messages are streams, by their media type.
//! Invariant: pure.
//! Must not know: how streams are treated.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

/// The beginnings of media types, in lower case.
const KINDS: [&[u8]; 9] = [
    EVENTS,
    // Also with a suffix such as `+proto` or `-web`.
    b"application/grpc",
    b"multipart/x-mixed-replace",
    b"application/x-ndjson",
    b"application/ndjson",
    b"application/jsonl",
    b"application/x-jsonlines",
    b"application/json-seq",
    b"application/stream+json",
];

const EVENTS: &[u8] = b"text/event-stream";

/// A parameter of Kubernetes's media types: the response lists changes until the client stops watching.
const WATCH: &[u8] = b"stream=watch";

/// Returns whether a message with these fields is a stream, which continues for as long as both sides want.
pub(super) fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let begins = |name: &&[u8]| kind.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    KINDS.iter().any(begins)
        || kind.split(|byte| *byte == b';').skip(1).any(|parameter| parameter.trim_ascii() == WATCH)
}

/// Returns whether a message is an event stream. Its client connects again when it ends, and an event that is not
/// complete by then does not count (HTML §9.2.6).
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_known_by_their_media_type() {
        let of =
            |kind: &'static str| is_stream(&[(CONTENT_TYPE, HeaderValue::from_static(kind))].into_iter().collect());
        for kind in [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            "application/grpc+proto",
            "application/x-ndjson",
            "application/json-seq",
            "application/stream+json;charset=UTF-8",
            "application/json; stream=watch",
        ] {
            assert!(of(kind), "{kind}");
        }
        for kind in ["text/html", "application/json", "text/event", "application/json; stream=watched", ""] {
            assert!(!of(kind), "{kind}");
        }
        assert!(!is_stream(&HeaderMap::new()));
    }
}
