//! Owns: carrying out drains: looking at what is left, and ending each drain when its plan says so.
//! Invariant: a drain ends within a fraction of a second of its deadline, and each end is logged and published once.
//! Must not know: when a drain ends, or which sessions leave.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::admin::PoolEntry;
use crate::clock;
use crate::events::{DrainPhase, Event};
use crate::pool::drain::{Drain, DrainEnd, Remaining};

/// The time between two looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// Carries out the drains of all pools. Never returns.
pub(super) async fn run(entries: Arc<ArcSwap<Vec<PoolEntry>>>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let now = clock::unix_millis();
        for entry in entries.load().iter() {
            for (index, backend) in entry.pool.backends().iter().enumerate() {
                if backend.live().draining().is_running() {
                    look(entry, index, now);
                }
            }
        }
    }
}

/// Ends the drain of a backend, if it is time to.
fn look(entry: &PoolEntry, index: usize, now: u64) {
    let live = entry.pool.backend(index).live();
    let sessions = live.sessions().count(now, entry.affinity.session_lifetime()).sessions;
    live.draining().note_sessions(sessions);
    let Some(drain) = live.draining().current() else { return };
    let left = Remaining { sessions, requests: live.active() };
    let Some(end) = drain.ends(left, now) else { return };
    if end == DrainEnd::Deadline {
        entry.pool.end_streams(index, now);
    }
    let from = live.state();
    if live.end_drain(end, sessions, now).is_none() {
        return;
    }
    announce(entry, index, &drain, end, left);
    let to = live.state();
    if from != to {
        let (pool, backend) = (entry.pool.name().to_string(), entry.pool.backend(index).name().to_string());
        let event = Event::State { pool, backend, from: from.as_str(), to: to.as_str(), by: "drain" };
        entry.pool.health_tracker().events().publish(event);
    }
}

fn announce(entry: &PoolEntry, index: usize, drain: &Drain, end: DrainEnd, left: Remaining) {
    let (pool, backend) = (entry.pool.name().to_string(), entry.pool.backend(index).name().to_string());
    let Remaining { sessions, requests } = left;
    let phase = match end {
        DrainEnd::Drained => {
            tracing::info!(pool, backend, sessions_before = drain.sessions, "backend is drained: no session is left");
            DrainPhase::Drained
        }
        DrainEnd::Deadline | DrainEnd::Cancelled => {
            tracing::info!(
                pool,
                backend,
                sessions,
                requests,
                sessions_before = drain.sessions,
                "the deadline of a drain has come: streams and tunnels end, and the sessions that are left move when they return"
            );
            DrainPhase::Deadline
        }
    };
    entry.pool.health_tracker().events().publish(drain.event(&pool, &backend, phase, sessions));
}
