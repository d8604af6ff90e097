//! Owns: what the access log and the metrics report about one request.
//! Invariant: plain data; each field is set where its fact is known, and read once at the request's end.
//! Must not know: the snapshot, backends, connections; when the request ends.

use std::cell::Cell;
use std::time::{Duration, Instant};

use http::header::{HOST, HeaderValue, REFERER, USER_AGENT};
use http::{Method, StatusCode, Uri, Version, request};

use super::basic_auth::AuthenticatedUser;
use super::error::{FailureDetail, ProxyError};
use super::request_id::RequestId;
use super::respond;
use super::trace::Trace;
use super::trace_context::TraceParent;
use crate::affinity::{Cause, Verdict};
use crate::clock;
use crate::copies::CopyOutcome;
use crate::reason::Reason;
use crate::telemetry::metrics::EndedRequest;
use crate::telemetry::{Captures, Record, ThreadLog, TraceId};

/// nginx's code for a client that closed its connection before the response; it is never sent.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The facts of one request.
pub(super) struct RequestRecord {
    /// When its head arrived, on the wall clock.
    pub(super) time: Duration,
    /// The same, on the monotonic clock.
    pub(super) begun: Instant,
    pub(super) id: RequestId,
    method: Method,
    host: Option<HeaderValue>,
    target: Uri,
    version: Version,
    /// Its trace, if requests are traced, until it ends.
    trace: Cell<Option<Box<Trace>>>,
    /// What the access log needs besides.
    captured: Option<Box<CapturedFields>>,
    /// When its last attempt had a connection.
    pub(super) connected: Cell<Option<Instant>>,
    /// When the head of its response was ready.
    pub(super) responded_at: Option<Instant>,
    pub(super) attempts: u32,
    pub(super) verdict: Verdict,
    pub(super) cause: Option<Cause>,
    pub(super) session: Option<u64>,
    /// The persistence rule that matched.
    pub(super) rule: Option<&'static str>,
    /// What became of the session's copy.
    pub(super) copy: Option<CopyOutcome>,
    pub(super) status: Option<StatusCode>,
    /// The backend that its pin named, if another had to serve.
    pub(super) pinned: Option<Box<str>>,
    /// Why the last failed attempt failed.
    pub(super) reason: Option<Reason>,
    pub(super) error: Option<FailureDetail>,
    /// The user whose password was verified.
    pub(super) user: Option<AuthenticatedUser>,
    /// Bytes that a tunnel has read from the client.
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// A tunnel has taken the request over.
    pub(super) is_tunnel: bool,
}

/// What only some access logs have of a request's head. Copied, since a part of the buffer that the head was read into
/// would keep all of it.
struct CapturedFields {
    query: Option<Box<str>>,
    user_agent: Option<Box<[u8]>>,
    referer: Option<Box<[u8]>>,
    trace: Option<TraceId>,
}

impl CapturedFields {
    fn new(head: &request::Parts, captures: Captures) -> CapturedFields {
        let field = |name| head.headers.get(name).map(|value: &HeaderValue| value.as_bytes().into());
        CapturedFields {
            query: head.uri.query().filter(|_| captures.query).map(Box::from),
            user_agent: if captures.user_agent { field(USER_AGENT) } else { None },
            referer: if captures.referer { field(REFERER) } else { None },
            trace: if captures.trace_id { TraceParent::of(&head.headers).map(|caller| caller.trace) } else { None },
        }
    }
}

/// The facts that are known only when a request ends.
pub(super) struct Ended<'a> {
    pub(super) listener: &'a str,
    pub(super) client: &'a str,
    /// The version of TLS that it used.
    pub(super) tls_version: Option<&'static str>,
    pub(super) pool: Option<&'a str>,
    pub(super) backend: Option<&'a str>,
    /// Linchpin abandoned the request.
    pub(super) is_abandoned: bool,
    /// Bytes read of the request's body.
    pub(super) body_read: u64,
    /// How long the request waited for its backend, if it waited.
    pub(super) waited: Option<Duration>,
    pub(super) now: Instant,
}

impl RequestRecord {
    /// Begins the record of a request with this head, of which the access log needs `captures`.
    pub(super) fn new(head: &request::Parts, id: RequestId, captures: Captures) -> RequestRecord {
        RequestRecord {
            time: clock::unix(),
            begun: clock::now(),
            id,
            method: head.method.clone(),
            host: head.headers.get(HOST).cloned(),
            target: head.uri.clone(),
            version: head.version,
            trace: Cell::default(),
            captured: captures.any().then(|| Box::new(CapturedFields::new(head, captures))),
            connected: Cell::new(None),
            responded_at: None,
            attempts: 0,
            verdict: Verdict::None,
            cause: None,
            session: None,
            rule: None,
            copy: None,
            status: None,
            pinned: None,
            reason: None,
            error: None,
            user: None,
            bytes_in: 0,
            bytes_out: 0,
            is_tunnel: false,
        }
    }

    /// Begins its trace, if there is one.
    pub(super) fn begin_trace(&mut self, trace: Option<Box<Trace>>) {
        self.trace.set(trace);
    }

    /// Returns its trace, if requests are traced.
    pub(super) fn trace(&mut self) -> Option<&mut Trace> {
        self.trace.get_mut().as_deref_mut()
    }

    /// Returns the path that the client requested.
    pub(super) fn path(&self) -> &str {
        self.target.path()
    }

    /// Copies what the record needs of the head. A head is a part of the buffer that it was read into, which would
    /// otherwise last as long as a tunnel does.
    pub(super) fn detach_from_head(&mut self) {
        let named = named(&self.target).and_then(|host| HeaderValue::from_bytes(host).ok());
        self.host = named.or(self.host.take().map(copied));
        self.target = path_of(std::mem::take(&mut self.target));
        self.id = self.id.clone().into_owned();
    }

    /// Returns the status that counts, also if none was sent.
    pub(super) fn status(&self, is_abandoned: bool) -> u16 {
        let unsent = if is_abandoned { respond::status(ProxyError::Abandoned).as_u16() } else { CLIENT_CLOSED_REQUEST };
        self.status.map_or(unsent, |status| status.as_u16())
    }

    /// Returns the duration that counts. A tunnel counts until it begins: its hours would hide the durations of all
    /// other requests.
    pub(super) fn lasted(&self, now: Instant) -> Duration {
        let end = if self.is_tunnel { self.responded_at.unwrap_or(now) } else { now };
        end.saturating_duration_since(self.begun)
    }

    /// Returns what the metrics count of the request.
    pub(super) fn counted(&self, is_abandoned: bool, body_read: u64, now: Instant) -> EndedRequest {
        let connected = self.connected.get();
        EndedRequest {
            verdict: self.verdict as usize,
            status: self.status(is_abandoned),
            took: self.lasted(now),
            first_byte: self.responded_at.zip(connected).map(|(at, since)| at.saturating_duration_since(since)),
            bytes_in: self.bytes_in + body_read,
            bytes_out: self.bytes_out,
        }
    }

    /// Writes the line of the access log, and queues the spans of its trace.
    pub(super) fn write(&self, log: &ThreadLog, ended: &Ended<'_>) {
        let after = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(self.begun));
        let unanswered = if ended.is_abandoned { ProxyError::Abandoned.as_str() } else { "client_went" };
        let error = self.error.or(self.status.is_none().then_some(FailureDetail::Kind(unanswered)));
        let kind = error.and_then(FailureDetail::kind);
        let error = error.map(|error| error.to_string());
        let (captured, trace) = (self.captured.as_deref(), self.trace.take());
        let of_caller = || captured.and_then(|captured| captured.trace);
        let record = Record {
            time: self.time,
            id: self.id.as_str(),
            listener: ended.listener,
            client: ended.client,
            method: self.method.as_str(),
            host: named(&self.target).or(self.host.as_ref().map(HeaderValue::as_bytes)).unwrap_or_default(),
            path: self.target.path(),
            query: captured.and_then(|captured| captured.query.as_deref()),
            protocol: version_name(self.version),
            tls_version: ended.tls_version,
            user_agent: captured.and_then(|captured| captured.user_agent.as_deref()),
            referer: captured.and_then(|captured| captured.referer.as_deref()),
            trace: trace.as_ref().map(|trace| trace.id()).or_else(of_caller),
            status: self.status(ended.is_abandoned),
            bytes_in: self.bytes_in + ended.body_read,
            bytes_out: self.bytes_out,
            total: ended.now.saturating_duration_since(self.begun),
            connected: after(self.connected.get()),
            answered: after(self.responded_at),
            pool: ended.pool,
            backend: ended.backend,
            attempts: self.attempts,
            verdict: self.verdict.as_str(),
            cause: self.cause.map(Cause::as_str),
            session: self.session,
            rule: self.rule,
            copy: self.copy.map(CopyOutcome::as_str),
            waited: ended.waited,
            pinned: self.pinned.as_deref(),
            error: error.as_deref(),
            user: self.user.as_ref().map(|user| &*user.name),
        };
        log.write(&record);
        if let Some(trace) = trace {
            trace.end(&record, self.status.is_some() || ended.is_abandoned, kind);
        }
    }
}

/// Returns the name of a version of HTTP, as in a request line.
pub(super) fn version_name(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("HTTP/1.0"),
        Version::HTTP_11 => Some("HTTP/1.1"),
        Version::HTTP_2 => Some("HTTP/2.0"),
        _ => None,
    }
}

/// Returns the host in a target, as HTTP/2 and proxies send it, which takes precedence over Host. It omits the user
/// information, which may hold a password.
fn named(target: &Uri) -> Option<&[u8]> {
    target.authority()?.as_str().rsplit('@').next().map(str::as_bytes)
}

/// A value that is part of no buffer.
fn copied(value: HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or(value)
}

/// The path of a target, as part of no buffer.
fn path_of(target: Uri) -> Uri {
    Uri::try_from(target.path()).unwrap_or(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_a_tunnel_keeps_of_its_request_keeps_none_of_its_buffer() {
        let buffer = Bytes::from(b"a.example/chat?token=1 and eight kilobytes more".to_vec());
        let host = copied(HeaderValue::from_maybe_shared(buffer.slice(..9)).unwrap());
        let target = path_of(Uri::from_maybe_shared(buffer.slice(9..22)).unwrap());
        assert!(buffer.is_unique());
        assert_eq!((host, target.path()), (HeaderValue::from_static("a.example"), "/chat"));
        assert_eq!(path_of(Uri::from_static("*")).path(), "*");
    }
}
