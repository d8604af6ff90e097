//! Owns: the lines of a watch: one JSON object each, for as long as the server sends some.
//! Invariant: a line is bounded, and a watch ends soon after the time that was asked for, whatever the server does.
//! Must not know: what the events mean.

use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout_at;

use super::connection::ConnectionTask;
use super::endpoint_slice::WatchEvent;
use crate::clock;

/// The longest line, in bytes. The largest object that etcd keeps has 1.5 MiB.
const MAX_LINE: usize = 8 << 20;
/// How long a server may take to end a watch whose time is over.
const GRACE: Duration = Duration::from_secs(15);

/// A watch that has begun.
pub(super) struct WatchStream {
    lines: Lines,
    body: Incoming,
    _connection: ConnectionTask,
    ends: Instant,
}

impl WatchStream {
    /// Reads a watch that lasts for `length`.
    pub(super) fn new(body: Incoming, connection: ConnectionTask, length: Duration) -> WatchStream {
        let ends = clock::now() + length + GRACE;
        WatchStream { lines: Lines::default(), body, _connection: connection, ends }
    }

    /// Waits for the next events, and returns all that have arrived. `None` if the watch or its connection has ended.
    ///
    /// # Errors
    /// If the server sends something else than events.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<WatchEvent>>, String> {
        loop {
            let events = self.lines.take_events()?;
            if !events.is_empty() {
                return Ok(Some(events));
            }
            match timeout_at(self.ends.into(), self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.lines.extend(data);
                    }
                }
                Ok(Some(Err(_)) | None) | Err(_) => return Ok(None),
            }
        }
    }
}

/// What has arrived and was not taken yet.
#[derive(Default)]
struct Lines {
    buffer: BytesMut,
    /// What of it has been looked at: no line ends there.
    searched: usize,
}

impl Lines {
    fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the events of all complete lines.
    fn take_events(&mut self) -> Result<Vec<WatchEvent>, String> {
        let mut events = Vec::new();
        while let Some(end) = memchr::memchr(b'\n', self.buffer.get(self.searched..).unwrap_or_default()) {
            let line = self.buffer.split_to(self.searched + end);
            self.buffer.advance(1);
            self.searched = 0;
            if !line.trim_ascii().is_empty() {
                events.push(serde_json::from_slice(&line).map_err(|_| "the API server's watch is malformed")?);
            }
        }
        self.searched = self.buffer.len();
        if self.buffer.len() > MAX_LINE {
            return Err(format!("an event of the API server's watch has more than {MAX_LINE} bytes"));
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKMARK: &str =
        r#"{"type":"BOOKMARK","object":{"kind":"EndpointSlice","metadata":{"resourceVersion":"12"}}}"#;
    const GONE: &str = r#"{"object":{"kind":"Status","status":"Failure","code":410},"type":"ERROR"}"#;

    fn versions(events: &[WatchEvent]) -> Vec<String> {
        let version = |event: &WatchEvent| match event {
            WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version.clone().unwrap(),
            WatchEvent::Error(status) => status.code.to_string(),
            _ => unreachable!(),
        };
        events.iter().map(version).collect()
    }

    #[test]
    fn events_are_complete_lines_however_they_arrive() {
        let text = format!("{BOOKMARK}\n\r\n{GONE}\n{BOOKMARK}");
        for size in [1, 7, 100, text.len()] {
            let (mut lines, mut events) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                lines.extend(piece);
                events.extend(lines.take_events().unwrap());
            }
            assert_eq!(versions(&events), ["12", "410"], "in pieces of {size}");
            lines.extend(b"\n");
            assert_eq!(versions(&lines.take_events().unwrap()), ["12"]);
        }
    }

    #[test]
    fn what_is_no_event_is_an_error_and_so_is_a_line_without_end() {
        for bad in ["{}\n", "x\n", "{\"type\":\"LATER\",\"object\":{}}\n", "[]\n"] {
            let mut lines = Lines::default();
            lines.extend(bad.as_bytes());
            assert!(lines.take_events().is_err(), "{bad}");
        }
        let mut lines = Lines::default();
        lines.extend(&vec![b' '; MAX_LINE]);
        assert!(lines.take_events().unwrap().is_empty());
        lines.extend(b" ");
        assert!(lines.take_events().is_err());
    }
}
