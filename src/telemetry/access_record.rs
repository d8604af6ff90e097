//! Owns: the access record: what the access log says about one request.
//! Invariant: plain data, borrowed from those who know it.
//! Must not know: how lines are written, which fields they have.

use std::time::Duration;

use super::trace_ids::TraceId;

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
    /// The query, if [`Captures`](super::Captures) wants it.
    pub query: Option<&'a str>,
    /// The version of HTTP, if the head could be read.
    pub protocol: Option<&'static str>,
    /// The version of TLS of the client's connection.
    pub tls_version: Option<&'static str>,
    /// User-Agent, if [`Captures`](super::Captures) wants it.
    pub user_agent: Option<&'a [u8]>,
    /// Referer, if [`Captures`](super::Captures) wants it.
    pub referer: Option<&'a [u8]>,
    /// The trace that it belongs to, if it is known.
    pub trace: Option<TraceId>,
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
    pub verdict: &'static str,
    /// Why the pin did not hold.
    pub cause: Option<&'static str>,
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
