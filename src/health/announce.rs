//! Owns: the log lines and events about the health of backends: one for each change, with its reason.
//! Invariant: a pool whose thousands of backends fail at once logs a hundred lines and counts the rest.
//! Must not know: how a change was observed.

use std::time::{Duration, UNIX_EPOCH};

use crate::clock;
use crate::events::Event;
use crate::pool::history::HealthChange;
use crate::pool::{AdminState, Health, Pool};

/// The most lines about one pool within [`WINDOW`]. Each line counts the backends that remain, which takes time in
/// proportion to the pool's size: with many thousand that fail at once, the cost would be quadratic.
const MAX_LINES: u32 = 100;
const WINDOW: Duration = Duration::from_secs(10);

/// Logs and publishes a change of health of the backend at `index`. `by` is what it was observed by: probes, requests,
/// its source or time.
pub fn announce(pool: &Pool, index: usize, change: HealthChange, by: &'static str) {
    publish(pool, index, change, by);
    let Some(suppressed) = pool.health_tracker().log_limiter().take(clock::unix(), WINDOW, MAX_LINES) else { return };
    if suppressed > 0 {
        tracing::warn!(
            pool = &**pool.name(),
            changes = suppressed,
            "more than 100 backends changed within 10s; their log lines were suppressed; the status API shows all backends"
        );
    }
    let (remaining, of) = (pool.serving(), pool.backends().len());
    let (pool, backend) = (&**pool.name(), pool.backend(index));
    let (backend, history) = (&**backend.name(), backend.live().history());
    let since = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(history.since.as_secs()));
    let reason = history.why.map(|why| why.to_string()).unwrap_or_default();
    let what = match change {
        HealthChange::Changed { to: Health::Up, from, lasted } => {
            let (was, lasted) = (from.as_str(), humantime::format_duration(Duration::from_secs(lasted.as_secs())));
            tracing::info!(pool, backend, was, %lasted, by, remaining, of, %since, "backend is up");
            return;
        }
        HealthChange::Recovered => {
            tracing::info!(pool, backend, by, remaining, of, "backend serves again");
            return;
        }
        HealthChange::KeptFailing => "backend fails, and is kept: the pool cannot spare it",
        // Nothing has failed: a server that starts or ends says so.
        HealthChange::Changed { .. } if history.is_reported_down && remaining > 0 => {
            tracing::info!(pool, backend, reason, by, remaining, of, %since, "backend is down");
            return;
        }
        HealthChange::Changed { to: Health::Ejected, .. } => "backend is ejected",
        HealthChange::Changed { .. } if history.was_well => "backend is down",
        HealthChange::Changed { .. } => "backend was never up",
    };
    if remaining == 0 {
        tracing::error!(pool, backend, reason, by, remaining, of, %since, "{what}; no backend is left");
    } else {
        tracing::warn!(pool, backend, reason, by, remaining, of, %since, "{what}");
    }
}

/// Publishes a change of health. Unlike the log lines, these are not limited: the ring of events is.
fn publish(pool: &Pool, index: usize, change: HealthChange, by: &'static str) {
    const FAILING: &str = "failing";
    let (from, to) = match change {
        HealthChange::Changed { from, to, .. } => (from.as_str(), to.as_str()),
        HealthChange::KeptFailing => (Health::Up.as_str(), FAILING),
        HealthChange::Recovered => (FAILING, Health::Up.as_str()),
    };
    let backend = pool.backend(index);
    let reason = backend.live().history().why.and_then(|why| Event::reason(&why));
    let (pool_name, backend) = (pool.name().to_string(), backend.name().to_string());
    pool.health_tracker().events().publish(Event::Health { pool: pool_name, backend, from, to, reason, by });
}

/// Logs and publishes that the backend at `index` asks for a drain in its responses to probes, or asks no more.
pub(super) fn announce_drain_request(pool: &Pool, index: usize, asks: bool) {
    let live = pool.backend(index).live();
    let (from, to) = if asks { (live.wanted(), live.state()) } else { (AdminState::Drain, live.state()) };
    let (name, backend) = (pool.name().to_string(), pool.backend(index).name().to_string());
    if asks {
        tracing::info!(
            pool = name,
            backend,
            "the backend asks for a drain in its responses to probes: it gets no new sessions"
        );
    } else {
        tracing::info!(pool = name, backend, "the backend asks for no drain any more");
    }
    if from != to {
        let event = Event::State { pool: name, backend, from: from.as_str(), to: to.as_str(), by: "health" };
        pool.health_tracker().events().publish(event);
    }
}

/// Logs that the operator has put the backend at `index` into maintenance, or has ended that.
pub(super) fn announce_maintenance(pool: &Pool, index: usize, is_out: bool) {
    let (remaining, of) = (pool.serving(), pool.backends().len());
    let (pool, backend) = (&**pool.name(), &**pool.backend(index).name());
    match is_out {
        true => {
            tracing::info!(pool, backend, remaining, of, "backend is in maintenance: it gets no requests and no probes")
        }
        false => tracing::info!(pool, backend, remaining, of, "backend is no longer in maintenance"),
    }
}
