//! Owns: the shapes of the admin API's answers.
//! Invariant: these are the only types that are serialized, and a name once told stays.
//! Must not know: how anything is changed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Entry, Facts};
use crate::affinity::explain::{Explanation, NamedBackend, SessionTimes};
use crate::affinity::{Cause, Verdict};
use crate::clock;
use crate::discover::SourceStatus;

/// `GET /api/v1/status`.
#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    version: &'static str,
    uptime_seconds: u64,
    ready: bool,
    pools: Vec<Pool<'a>>,
}

#[derive(Debug, Serialize)]
struct Pool<'a> {
    name: &'a str,
    balance: &'static str,
    persistence: &'static str,
    backends: Vec<Backend<'a>>,
    /// Left out where all backends are configured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    discover: Vec<Source<'a>>,
}

#[derive(Debug, Serialize)]
struct Source<'a> {
    source: &'a str,
    ok: bool,
    error: Option<String>,
    found: u64,
    answers: u64,
    failures: u64,
    /// Seconds since the Unix epoch.
    last_answer: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Backend<'a> {
    name: &'a str,
    address: String,
    state: &'static str,
    health: &'static str,
    weight: u32,
    sessions: u64,
    active_requests: u32,
    requests: u64,
    failures: u64,
    /// No source finds it any more; left out otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    leaving: bool,
}

impl<'a> Status<'a> {
    /// How things are now. `entries` are the pools of `facts`, taken once.
    pub(super) fn now(facts: &Facts, entries: &'a [Entry]) -> Status<'a> {
        Status {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: clock::unix().saturating_sub(facts.started_unix()).as_secs(),
            ready: facts.is_ready(),
            pools: entries.iter().map(Pool::now).collect(),
        }
    }
}

impl<'a> Pool<'a> {
    fn now(entry: &'a Entry) -> Pool<'a> {
        let now = clock::unix().as_secs();
        let backend = |(index, backend): (usize, &'a crate::pool::Backend)| {
            let (live, series) = (backend.live(), entry.series.get(index));
            Backend {
                name: backend.name(),
                address: backend.address().to_string(),
                state: live.state().as_str(),
                health: live.health().as_str(),
                weight: live.weight(),
                sessions: live.sessions(now, entry.affinity.presence_seconds()),
                active_requests: live.active(),
                requests: series.map_or(0, |series| series.requests()),
                failures: series.map_or(0, |series| series.failures()),
                leaving: live.is_leaving(),
            }
        };
        let source = |status: &'a Arc<SourceStatus>| Source {
            source: status.source(),
            ok: status.is_good(),
            error: status.error(),
            found: status.found(),
            answers: status.answers(),
            failures: status.failures(),
            last_answer: status.last_answer(),
        };
        Pool {
            name: entry.pool.name(),
            balance: entry.balance,
            persistence: entry.affinity.kind(),
            backends: entry.pool.backends().iter().enumerate().map(backend).collect(),
            discover: entry.sources.iter().map(source).collect(),
        }
    }
}

/// What `POST /api/v1/explain` is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    pub(super) token: String,
}

/// Its answer. Times are seconds since the Unix epoch, timeouts seconds.
#[derive(Debug, Serialize)]
pub(super) struct Explained<'a> {
    valid: bool,
    pool: &'a str,
    persistence: &'static str,
    key: Option<&'a str>,
    session: String,
    issued: Option<u64>,
    last_seen: Option<u64>,
    idle_timeout: Option<u64>,
    absolute_timeout: Option<u64>,
    backend: Option<&'a str>,
    address: Option<&'a str>,
    replaced: bool,
    verdict: &'static str,
    cause: Option<&'static str>,
    goes_to: Option<&'a str>,
    why: &'a str,
}

impl<'a> From<&'a Explanation> for Explained<'a> {
    fn from(told: &'a Explanation) -> Explained<'a> {
        let seen = |read: fn(&SessionTimes) -> Option<u64>| told.seen.as_ref().and_then(read);
        Explained {
            valid: told.verdict == Verdict::Hit,
            pool: &told.pool,
            persistence: told.persistence,
            key: told.key.as_deref(),
            session: format!("{:016x}", told.session),
            issued: seen(|seen| Some(seen.issued)),
            last_seen: seen(|seen| Some(seen.last)),
            idle_timeout: seen(|seen| seen.idle_timeout),
            absolute_timeout: seen(|seen| seen.absolute_timeout),
            backend: told.backend.as_ref().map(|named| named.name.as_str()),
            address: told.backend.as_ref().and_then(|named: &NamedBackend| named.address.as_deref()),
            replaced: told.backend.as_ref().is_some_and(|named| named.replaced),
            verdict: told.verdict.as_str(),
            cause: told.cause.map(Cause::as_str),
            goes_to: told.goes_to.as_deref(),
            why: &told.why,
        }
    }
}
