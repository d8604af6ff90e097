//! Owns: the access record and one thread's lines of the access log.
//! Invariant: a request appends to its own thread's buffer; whole buffers go to the writer, or are counted as dropped.
//! Must not know: where the log is written; how the values of a record are found.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::line_format::{JsonLine, LineWriter, TextLine};
use super::log_queue::{Buffer, LogQueue};
use super::settings::LogFormat;

/// The access record of one request. It is written once the response's last byte is sent, or the request has failed.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// When its head was complete, since the Unix epoch.
    pub time: Duration,
    /// The request's id, which error pages and the request to the backend have too. It needs no escaping.
    pub id: &'a str,
    /// The listener's name.
    pub listener: &'a str,
    /// The client's address.
    pub client: &'a str,
    /// The method.
    pub method: &'a str,
    /// The Host field.
    pub host: &'a [u8],
    /// The path, without the query.
    pub path: &'a str,
    /// The response's status code; 499 if the client closed the connection before there was a response.
    pub status: u16,
    /// Bytes of the request's body that were read.
    pub bytes_in: u64,
    /// Bytes of the response's body that were passed to the connection.
    pub bytes_out: u64,
    /// The time from the request's head to the last byte of the response.
    pub total: Duration,
    /// The time from the request's head until the last attempt had a connection.
    pub connected: Option<Duration>,
    /// The time from the request's head to the head of the response.
    pub answered: Option<Duration>,
    /// The pool's name.
    pub pool: Option<&'a str>,
    /// The backend that responded, or else that of the last attempt.
    pub backend: Option<&'a str>,
    /// The number of attempts on backends.
    pub attempts: u32,
    /// The verdict of persistence.
    pub verdict: &'a str,
    /// Why the pin did not hold.
    pub cause: Option<&'a str>,
    /// The session's id.
    pub session: Option<u64>,
    /// The rule of persistence that matched.
    pub rule: Option<&'a str>,
    /// What became of the session's copy, if the pool keeps copies.
    pub copy: Option<&'a str>,
    /// How long it waited for its backend.
    pub waited: Option<Duration>,
    /// The backend that the session is pinned to, if another one served the request, or none did.
    pub pinned: Option<&'a str>,
    /// The user whose password was verified, if the route asks for one.
    pub user: Option<&'a str>,
    /// Why the request failed, as text.
    pub error: Option<&'a str>,
}

/// Makes the logs of threads. The writer runs for as long as there is a handle.
#[derive(Clone)]
pub struct AccessLogHandle {
    pub(super) shared: Option<Arc<LogQueue>>,
    pub(super) format: LogFormat,
}

impl AccessLogHandle {
    /// Makes the log of one thread.
    pub fn thread_log(&self) -> ThreadLog {
        ThreadLog::new(self.shared.clone(), self.format)
    }
}

/// One thread's buffer of the access log.
pub struct ThreadLog(RefCell<Pending>);

struct Pending {
    shared: Option<Arc<LogQueue>>,
    format: LogFormat,
    buffer: Buffer,
    timestamps: super::line_format::Timestamps,
}

/// A buffer is sent to the writer when it has this many bytes, or at the next [`ThreadLog::flush`]. Each buffer costs
/// four futex calls, and two context switches if the writer shares a core with the sender.
const FLUSH_BYTES: usize = 64 * 1024;

impl ThreadLog {
    /// Makes a log that discards its lines.
    pub fn off() -> ThreadLog {
        ThreadLog::new(None, LogFormat::Text)
    }

    fn new(shared: Option<Arc<LogQueue>>, format: LogFormat) -> ThreadLog {
        let (buffer, timestamps) = (Buffer::default(), super::line_format::Timestamps::default());
        ThreadLog(RefCell::new(Pending { shared, format, buffer, timestamps }))
    }

    /// Writes the lines that follow to another log. Those before it go to the log that they were written for.
    pub fn switch(&self, next: &AccessLogHandle) {
        let is_same = match (&self.0.borrow().shared, &next.shared) {
            (Some(old), Some(next)) => Arc::ptr_eq(old, next),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            return;
        }
        self.flush();
        let mut pending = self.0.borrow_mut();
        (pending.shared, pending.format) = (next.shared.clone(), next.format);
    }

    /// Appends a line.
    pub fn write(&self, record: &Record<'_>) {
        let mut pending = self.0.borrow_mut();
        let Pending { shared, format, buffer, timestamps } = &mut *pending;
        if shared.is_none() {
            return;
        }
        let time = timestamps.rfc3339(record.time);
        match format {
            LogFormat::Text => fields(&mut TextLine::new(&mut buffer.bytes), time, record),
            LogFormat::Json => fields(&mut JsonLine::new(&mut buffer.bytes), time, record),
        }
        buffer.lines += 1;
        if buffer.bytes.len() >= FLUSH_BYTES {
            drop(pending);
            self.flush();
        }
    }

    /// Sends the buffered lines to the writer. Call it regularly: else the last lines of a quiet server would stay in
    /// the buffer until more requests fill it.
    pub fn flush(&self) {
        let mut pending = self.0.borrow_mut();
        let Pending { shared: Some(shared), buffer, .. } = &mut *pending else { return };
        if buffer.lines == 0 {
            return;
        }
        let next = Buffer { bytes: Vec::with_capacity(FLUSH_BYTES + 1024), lines: 0 };
        let buffer = std::mem::replace(buffer, next);
        let lines = buffer.lines;
        if shared.queue.try_send(buffer).is_err() {
            shared.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

impl Drop for ThreadLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Writes the fields of a record. Both formats have the same order and names.
fn fields(line: &mut impl LineWriter, time: &str, record: &Record<'_>) {
    line.positional("time", time);
    line.escaped("listener", record.listener.as_bytes());
    line.plain("client", record.client);
    if let Some(user) = record.user {
        line.escaped("user", user.as_bytes());
    }
    line.positional("method", record.method);
    line.escaped("host", record.host);
    line.escaped("path", record.path.as_bytes());
    line.number("status", u64::from(record.status));
    line.number("bytes_in", record.bytes_in);
    line.number("bytes_out", record.bytes_out);
    line.millis("total_ms", record.total);
    if let Some(connected) = record.connected {
        line.millis("connect_ms", connected);
    }
    if let Some(answered) = record.answered {
        line.millis("answer_ms", answered);
    }
    line.plain("pool", record.pool.unwrap_or("-"));
    line.plain("backend", record.backend.unwrap_or("-"));
    line.number("attempts", u64::from(record.attempts));
    line.plain("verdict", record.verdict);
    if let Some(cause) = record.cause {
        line.plain("cause", cause);
    }
    if let Some(pinned) = record.pinned {
        line.plain(if record.verdict == "moved" { "moved_from" } else { "pinned" }, pinned);
    }
    if let Some(session) = record.session {
        line.hex("session", session);
    }
    if let Some(rule) = record.rule {
        line.plain("rule", rule);
    }
    if let Some(copy) = record.copy {
        line.plain("copy", copy);
    }
    if let Some(waited) = record.waited {
        line.millis("wait_ms", waited);
    }
    if let Some(error) = record.error {
        line.phrase("error", error);
    }
    line.plain("request", record.id);
    line.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        Record {
            time: Duration::from_millis(1_700_000_000_042),
            id: "00000000000000ab",
            listener: "main",
            client: "127.0.0.1",
            method: "GET",
            host: b"a \"b\"\xff",
            path: "/x\n",
            status: 200,
            bytes_in: 0,
            bytes_out: 66,
            total: Duration::from_micros(1234),
            connected: None,
            answered: Some(Duration::from_micros(1000)),
            pool: Some("app"),
            backend: Some("b1"),
            attempts: 1,
            verdict: "hit",
            cause: None,
            session: Some(1),
            rule: None,
            copy: None,
            waited: None,
            pinned: None,
            user: None,
            error: None,
        }
    }

    #[test]
    fn no_byte_from_a_client_starts_another_line_of_text() {
        let mut bytes = Vec::new();
        let mut timestamps = super::super::line_format::Timestamps::default();
        let record = record();
        fields(&mut TextLine::new(&mut bytes), timestamps.rfc3339(record.time), &record);
        let line = String::from_utf8(bytes).unwrap();
        assert_eq!(
            line,
            "2023-11-14T22:13:20.042Z listener=main client=127.0.0.1 GET host=a\\x20\\x22b\\x22\\xff path=/x\\x0a \
             status=200 bytes_in=0 bytes_out=66 total_ms=1.234 answer_ms=1.000 pool=app backend=b1 attempts=1 \
             verdict=hit session=0000000000000001 request=00000000000000ab\n"
        );
    }

    #[test]
    fn a_json_line_is_one_object_whatever_the_client_sent() {
        let mut bytes = Vec::new();
        let mut timestamps = super::super::line_format::Timestamps::default();
        let record = record();
        fields(&mut JsonLine::new(&mut bytes), timestamps.rfc3339(record.time), &record);
        assert_eq!(bytes.pop(), Some(b'\n'));
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["path"], "/x\\x0a");
        assert_eq!(value["host"], "a\\x20\\x22b\\x22\\xff");
        assert_eq!(value["status"], 200);
        assert_eq!(value["total_ms"], 1.234);
        assert_eq!(value["session"], "0000000000000001");
    }
}
