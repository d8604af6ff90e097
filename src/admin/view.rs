//! Owns: the JSON shapes of the admin API.
//! Invariant: only these types are serialized, and a published name never changes.
//! Must not know: how anything is changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::copies_view::Copies;
use super::drain_view::DrainView;
use super::pool_entry::PoolEntry;
use super::sources::StatusSources;
use crate::clock;
use crate::discover::SourceStatus;
use crate::pool::history;
use crate::pool::merge::KEPT;
use crate::pool::sessions::SessionCount;
use crate::pool::{AdminState, Live, slow_start};

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
    /// Backends that serve: up, and not in maintenance. With none, every request is refused.
    available: usize,
    /// The live sessions of all backends.
    sessions: u64,
    #[serde(skip_serializing_if = "is_zero")]
    sessions_error: f64,
    /// Requests that have ended, with those that no backend served.
    requests: u64,
    /// Those of them that ended with a 5xx status.
    errors: u64,
    /// Requests that were refused without an attempt on a backend, by reason.
    refused: BTreeMap<&'static str, u64>,
    /// Omitted without [pools.rebalance].
    #[serde(skip_serializing_if = "Option::is_none")]
    rebalance: Option<Rebalance>,
    /// Requests that wait because all backends are full; omitted without [pools.queue].
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<CapacityQueue>,
    /// Omitted without [pools.copies].
    #[serde(skip_serializing_if = "Option::is_none")]
    copies: Option<Copies>,
    backends: Vec<Backend<'a>>,
    /// Omitted if all backends are configured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    discover: Vec<Source<'a>>,
}

#[derive(Debug, Serialize)]
struct Rebalance {
    /// A backend has more than its share, and its idle sessions move.
    working: bool,
    /// Sessions that have moved since the start of the process.
    moved: u64,
    sessions_per_minute: u32,
    factor: f64,
}

impl Rebalance {
    fn now(pool: &crate::pool::Pool) -> Option<Rebalance> {
        let (settings, rebalancer) = (pool.rebalance_settings()?, pool.rebalancer());
        Some(Rebalance {
            working: rebalancer.is_working(),
            moved: rebalancer.moved(),
            sessions_per_minute: settings.sessions_per_minute,
            factor: f64::from(settings.factor) / 100.0,
        })
    }
}

#[derive(Debug, Serialize)]
struct CapacityQueue {
    length: u32,
    size: u32,
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

/// One backend, in the status and as the answer to a change.
#[derive(Debug, Serialize)]
pub(super) struct Backend<'a> {
    name: &'a str,
    address: String,
    state: &'static str,
    health: &'static str,
    weight: u32,
    /// Its weight for new sessions now: less than `weight` during a slow start.
    effective_weight: f64,
    #[serde(flatten)]
    load: Load,
    requests: u64,
    /// Requests that ended with a 5xx status.
    errors: u64,
    /// Attempts that failed.
    failures: u64,
    /// When its health last changed, in seconds since the Unix epoch.
    since: u64,
    /// Why it is not up, or why its requests fail.
    reason: Option<String>,
    /// The last probe.
    last_check: Option<Check>,
    /// The last failure that counted against it.
    last_failure: Option<Failure>,
    /// Its requests fail, and it is kept, since the pool can't spare it; omitted otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    failing: bool,
    /// Its group; omitted if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    /// The drain that runs, or the last one that has ended; omitted if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<DrainView>,
    /// Its responses to probes ask for a drain; omitted otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    asks_for_drain: bool,
    /// No source lists it any more; omitted otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    leaving: bool,
    /// The keys whose value was set at runtime and differs from the file's; omitted if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    drift: Vec<Drift>,
}

/// A key whose value was set at runtime and differs from the file's.
#[derive(Debug, Serialize)]
pub(super) struct Drift {
    key: &'static str,
    file: serde_json::Value,
    runtime: serde_json::Value,
    /// Why the value that was set at runtime holds.
    because: &'static str,
}

impl Drift {
    /// Lists the keys of a backend.
    pub(super) fn of(backend: &crate::pool::Backend) -> Vec<Drift> {
        let live = backend.live();
        let weight = (backend.configured_weight(), live.weight());
        let state = (backend.configured_state().as_str(), live.wanted().as_str());
        let mut all = Vec::new();
        if weight.0 != weight.1 {
            all.push(Drift { key: "weight", file: weight.0.into(), runtime: weight.1.into(), because: KEPT });
        }
        if state.0 != state.1 {
            all.push(Drift { key: "state", file: state.0.into(), runtime: state.1.into(), because: KEPT });
        }
        all
    }
}

#[derive(Debug, Serialize)]
struct Check {
    /// When it ended, in seconds since the Unix epoch.
    time: u64,
    ok: bool,
    /// The status of a probe that passed; `null` for a probe of type `tcp`.
    status: Option<u16>,
    error: Option<String>,
    duration_ms: f64,
}

#[derive(Debug, Serialize)]
struct Failure {
    /// In seconds since the Unix epoch.
    time: u64,
    /// What observed it: `probe` or `request`.
    by: &'static str,
    error: String,
}

impl From<(Duration, history::ProbeResult)> for Check {
    fn from((time, check): (Duration, history::ProbeResult)) -> Check {
        Check {
            time: time.as_secs(),
            ok: check.passed(),
            status: check.result.ok().flatten(),
            error: check.result.err().map(|reason| reason.to_string()),
            // Whole microseconds, so that it reads 0.412 and not 0.4120000000000001.
            duration_ms: check.took.as_micros() as f64 / 1000.0,
        }
    }
}

impl From<(Duration, history::BackendFailure)> for Failure {
    fn from((time, failure): (Duration, history::BackendFailure)) -> Failure {
        Failure { time: time.as_secs(), by: failure.by.as_str(), error: failure.reason.to_string() }
    }
}

/// Returns a backend's weight for new sessions now.
pub(super) fn effective_weight(live: &Live) -> f64 {
    f64::from(live.effective_weight()) / f64::from(slow_start::ONE)
}

/// What a backend has to do now.
#[derive(Debug, Serialize)]
struct Load {
    #[serde(skip)]
    count: SessionCount,
    sessions: u64,
    /// The standard error of `sessions`, as a share of it; omitted if each was counted.
    #[serde(skip_serializing_if = "is_zero")]
    sessions_error: f64,
    /// The same sessions by their idle time.
    idle_sessions: BTreeMap<&'static str, u64>,
    active_requests: u32,
    tunnels: u32,
}

impl Load {
    /// Counts what the backend at a position of the pool has.
    fn now(entry: &PoolEntry, index: usize) -> Load {
        let live = entry.pool.backend(index).live();
        let count = live.sessions().count(clock::unix_millis(), entry.affinity.session_lifetime());
        Load {
            sessions: count.sessions,
            sessions_error: rounded(count.error),
            idle_sessions: SessionCount::IDLE_WORDS.into_iter().zip(count.idle).collect(),
            active_requests: live.active(),
            tunnels: live.tunnels(),
            count,
        }
    }
}

/// `GET …/sessions`: the sessions of one backend.
#[derive(Debug, Serialize)]
pub(super) struct SessionsView {
    #[serde(flatten)]
    load: Load,
    /// Whether there are fewer sessions than the request asks for; omitted if it asks for no number.
    #[serde(skip_serializing_if = "Option::is_none")]
    below: Option<bool>,
}

impl SessionsView {
    /// Counts the sessions of the backend at a position of the pool.
    pub(super) fn now(entry: &PoolEntry, index: usize, below: Option<u64>) -> SessionsView {
        let load = Load::now(entry, index);
        SessionsView { below: below.map(|below| load.sessions < below), load }
    }

    /// Returns whether there are fewer than was asked for.
    pub(super) fn is_below(&self) -> bool {
        self.below == Some(true)
    }
}

/// Returns the word for a backend's health. A backend in maintenance is not probed, and so its health is unknown.
fn health(live: &Live) -> &'static str {
    match live.state() {
        AdminState::Maintenance => "unknown",
        AdminState::Ready | AdminState::Drain => live.health().as_str(),
    }
}

/// Rounds a share to whole tenths of a percent.
fn rounded(share: f64) -> f64 {
    (share * 1000.0).ceil() / 1000.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

impl<'a> Status<'a> {
    /// Returns the status now. `entries` are the pools of `sources`, loaded once.
    pub(super) fn now(sources: &StatusSources, entries: &'a [PoolEntry]) -> Status<'a> {
        Status {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: clock::unix().saturating_sub(sources.started).as_secs(),
            ready: sources.is_ready(),
            pools: entries.iter().map(Pool::now).collect(),
        }
    }
}

impl<'a> Backend<'a> {
    /// Returns the status of the backend at a position of the pool.
    pub(super) fn now(entry: &'a PoolEntry, index: usize) -> Backend<'a> {
        let (backend, series) = (entry.pool.backend(index), entry.series.get(index));
        let live = backend.live();
        let history = live.history();
        let is_probed = live.state() != AdminState::Maintenance;
        Backend {
            name: backend.name(),
            address: backend.address().to_string(),
            state: live.state().as_str(),
            health: health(live),
            weight: live.weight(),
            effective_weight: effective_weight(live),
            load: Load::now(entry, index),
            requests: series.map_or(0, |series| series.requests()),
            errors: series.map_or(0, |series| series.server_errors()),
            failures: series.map_or(0, |series| series.failures()),
            since: history.since.as_secs(),
            reason: history.why.filter(|_| is_probed).map(|why| why.to_string()),
            last_check: history.last_check.map(Check::from),
            last_failure: history.last_failure.map(Failure::from),
            failing: is_probed && history.is_kept,
            group: backend.group(),
            drain: DrainView::now(entry, index),
            asks_for_drain: live.asks_for_drain(),
            leaving: live.is_leaving(),
            drift: Drift::of(backend),
        }
    }
}

impl<'a> Pool<'a> {
    fn now(entry: &'a PoolEntry) -> Pool<'a> {
        let source = |status: &'a Arc<SourceStatus>| Source {
            source: status.source(),
            ok: status.is_good(),
            error: status.error(),
            found: status.found(),
            answers: status.answers(),
            failures: status.failures(),
            last_answer: status.last_answer(),
        };
        let backends: Vec<_> = (0..entry.pool.backends().len()).map(|index| Backend::now(entry, index)).collect();
        let count = backends.iter().map(|backend| backend.load.count).fold(SessionCount::default(), SessionCount::and);
        let queue = entry.pool.queue_settings();
        Pool {
            name: entry.pool.name(),
            balance: entry.balance,
            persistence: entry.affinity.kind(),
            available: entry.pool.serving(),
            sessions: count.sessions,
            sessions_error: rounded(count.error),
            requests: entry.unserved.requests() + backends.iter().map(|backend| backend.requests).sum::<u64>(),
            errors: entry.unserved.server_errors() + backends.iter().map(|backend| backend.errors).sum::<u64>(),
            refused: entry.unserved.refusals().collect(),
            rebalance: Rebalance::now(&entry.pool),
            queue: queue.map(|queue| CapacityQueue { length: entry.pool.queue_length(), size: queue.size }),
            copies: entry.copies.as_deref().map(Copies::now),
            backends,
            discover: entry.sources.iter().map(source).collect(),
        }
    }
}

/// The request body of `POST /api/v1/explain`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainRequest {
    pub(super) token: String,
}
