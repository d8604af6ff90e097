//! Owns: the shapes of the admin API's answers.
//! Invariant: these are the only types that are serialized, and a name once told stays.
//! Must not know: how anything is changed.

use std::net::SocketAddr;

use serde::Serialize;

use super::{Entry, Facts};
use crate::clock;

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
}

#[derive(Debug, Serialize)]
struct Backend<'a> {
    name: &'a str,
    address: SocketAddr,
    state: &'static str,
    health: &'static str,
    weight: u32,
    sessions: u64,
    active_requests: u32,
    requests: u64,
    failures: u64,
}

impl<'a> Status<'a> {
    /// How things are now. `entries` are the pools of `facts`, taken once.
    pub(super) fn now(facts: &Facts, entries: &'a [Entry]) -> Status<'a> {
        Status {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: clock::unix().saturating_sub(facts.started_unix()).as_secs(),
            ready: *facts.ready.borrow(),
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
                address: backend.address(),
                state: live.state().as_str(),
                health: live.health().as_str(),
                weight: live.weight(),
                sessions: live.sessions(now, entry.affinity.presence()),
                active_requests: live.active(),
                requests: series.map_or(0, |series| series.requests()),
                failures: series.map_or(0, |series| series.failures()),
            }
        };
        Pool {
            name: entry.pool.name(),
            balance: entry.balance,
            persistence: entry.affinity.kind(),
            backends: entry.pool.backends().iter().enumerate().map(backend).collect(),
        }
    }
}
