//! Owns: the response of `POST /api/v1/explain`, as the admin API writes it and commands read it.
//! Invariant: it contains no secret and no byte of a copy, and a published name never changes.
//! Must not know: how a token is opened, who asks.

use serde::{Deserialize, Serialize};

use crate::affinity::explain::{Explanation, SessionTimes};
use crate::affinity::{Cause, Verdict};

/// The response of `POST /api/v1/explain`. Times are seconds since the Unix epoch, timeouts seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReport {
    /// The pin holds.
    pub valid: bool,
    /// The pool that can read the token.
    pub pool: String,
    /// The pool's persistence type.
    pub persistence: String,
    /// The id of the key that sealed the token; `null` if it is not sealed.
    pub key: Option<String>,
    /// The session's id, in hexadecimal.
    pub session: String,
    /// When the session began.
    pub issued: Option<u64>,
    /// When it was last seen.
    pub last_seen: Option<u64>,
    /// The session ends after this long without a request.
    pub idle_timeout: Option<u64>,
    /// The session ends this long after its start.
    pub absolute_timeout: Option<u64>,
    /// The backend that the pin names.
    pub backend: Option<String>,
    /// The current address of that backend; `null` if the pool does not have it.
    pub address: Option<String>,
    /// The pin is for an earlier incarnation of that backend.
    pub replaced: bool,
    /// How often the session was handed over together with its copy; 0 without session copies.
    pub term: u32,
    /// A second backend that holds the session's state.
    pub replica: Option<String>,
    /// The verdict on a request with this pin.
    pub verdict: String,
    /// Why the pin would not hold.
    pub cause: Option<String>,
    /// The backend that would serve the request.
    pub goes_to: Option<String>,
    /// Verdict, cause and backend in a sentence.
    pub why: String,
    /// What the process knows of the session's copy; `null` without `[pools.copies]`, or if it knows nothing of it.
    pub copy: Option<CopyReport>,
}

impl ExplainReport {
    /// Makes the report of an explanation.
    pub fn new(explanation: Explanation, copy: Option<CopyReport>) -> ExplainReport {
        let Explanation { pool, persistence, key, session, seen, backend, term, replica, verdict, cause, .. } =
            explanation;
        let time = |read: fn(&SessionTimes) -> Option<u64>| seen.as_ref().and_then(read);
        let (backend, address, replaced) = match backend {
            Some(named) => (Some(named.name), named.address, named.replaced),
            None => (None, None, false),
        };
        ExplainReport {
            valid: verdict == Verdict::Hit,
            pool,
            persistence: persistence.into(),
            key,
            session: format!("{session:016x}"),
            issued: time(|seen| Some(seen.issued)),
            last_seen: time(|seen| Some(seen.last)),
            idle_timeout: time(|seen| seen.idle_timeout),
            absolute_timeout: time(|seen| seen.absolute_timeout),
            backend,
            address,
            replaced,
            term,
            replica,
            verdict: verdict.as_str().into(),
            cause: cause.map(|cause: Cause| cause.as_str().into()),
            goes_to: explanation.goes_to,
            why: explanation.why,
            copy,
        }
    }
}

/// What a process knows of the copy of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Whether there is a copy, and where.
    pub state: CopyState,
    /// How often the session was handed over.
    pub term: u32,
    /// The newest known state.
    pub seq: u64,
    /// The length of the copy in this process.
    pub bytes: u64,
    /// When the copy was saved; `null` without one in this process.
    pub saved: Option<u64>,
    /// The backend that holds the session.
    pub holder: Option<String>,
    /// The other backends that have a copy, if the copies are there.
    #[serde(default)]
    pub replicas: Vec<String>,
}

/// Whether there is a copy of a session, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// This process has one.
    Held,
    /// Other backends have one.
    Placed,
    /// There is none.
    Lost,
    /// The session has ended.
    Dropped,
}
