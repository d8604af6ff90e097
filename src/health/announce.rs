//! Owns: the log lines about the health of backends: one for each change, with its reason.
//! Invariant: a pool whose thousands of backends fail at once logs a hundred lines, and counts the rest.
//! Must not know: how a change was observed.

use std::time::{Duration, UNIX_EPOCH};

use crate::clock;
use crate::pool::history::HealthChange;
use crate::pool::{Health, Pool};

/// Lines about one pool in [`SPAN`]. To say how many backends remain each has to be asked: of many thousand that
/// go at once, each line would cost what the pool is large.
const MOST: u32 = 100;
const SPAN: Duration = Duration::from_secs(10);

/// Tells the operator what is new of the backend at `index`, and what it was that log_limiter.
pub(super) fn announce(pool: &Pool, index: usize, news: HealthChange, by: &'static str) {
    let Some(suppressed) = pool.health_tracker().log_limiter().take(clock::unix(), SPAN, MOST) else { return };
    if suppressed > 0 {
        tracing::warn!(
            pool = &**pool.name(),
            changes = suppressed,
            "log lines about backends were suppressed: too many changes at once"
        );
    }
    let (remaining, of) = (pool.serving(), pool.backends().len());
    let (pool, backend) = (&**pool.name(), pool.backend(index));
    let (backend, history) = (&**backend.name(), backend.live().history());
    let since = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(history.since.as_secs()));
    let reason = history.why.map(|why| why.to_string()).unwrap_or_default();
    let what = match news {
        HealthChange::Changed { to: Health::Up, from, lasted } => {
            let (was, lasted) = (from.as_str(), humantime::format_duration(Duration::from_secs(lasted.as_secs())));
            tracing::info!(pool, backend, was, %lasted, by, remaining, of, %since, "backend is up");
            return;
        }
        HealthChange::Recovered => {
            tracing::info!(pool, backend, by, remaining, of, "backend answers again");
            return;
        }
        HealthChange::KeptFailing => "backend fails, and is kept: the pool cannot spare it",
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

/// Says that the operator has taken the backend at `index` out, or has brought it back.
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
