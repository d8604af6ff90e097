//! Owns: the operator's way in: status, metrics, liveness, readiness and the dashboard.
//! Invariant: a listener of its own; loopback, or a Unix socket, or a token.
//! Must not know: the proxy.

mod api;
mod bind;
mod dashboard;
mod gauges;
mod guard;
mod serve;
mod view;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::affinity::Affinity;
use crate::discover::SourceStatus;
use crate::net::Address;
use crate::pool::Pool;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Series;
use crate::tls::reload::WatchedCertificates;

pub use bind::{Bound, bind};
pub use serve::run;

/// `[admin]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub address: Address,
    /// What a client has to send as `Authorization: Bearer …`; the content of `token_file`.
    pub token: Option<String>,
}

/// The token is never shown.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What there is to tell; read anew for every answer.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The pools of the running configuration; a reload swaps them.
    pub pools: Arc<ArcSwap<Vec<Entry>>>,
    /// The counters of the process.
    pub metrics: Arc<Metrics>,
    /// Whether the process takes requests.
    pub phase: watch::Receiver<Phase>,
    /// Certificates and how long they are good for.
    pub certificates: WatchedCertificates,
    /// When the process started.
    pub started: SystemTime,
}

impl Facts {
    fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Ready
    }

    fn started_unix(&self) -> Duration {
        self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits for the first backends of a source.
    Starting,
    /// It takes requests.
    Ready,
    /// It takes no more.
    Stopping,
    /// A thread that served clients has ended: what came to it is lost, and whatever else it did is not done.
    Broken,
}

impl Phase {
    /// A thread has ended; says whether that is news. One that is to stop has other reasons to be not ready.
    pub fn breaks(&mut self) -> bool {
        let breaks = matches!(self, Phase::Starting | Phase::Ready);
        if breaks {
            *self = Phase::Broken;
        }
        breaks
    }

    /// The waiting is over; says whether there was any.
    pub fn begins(&mut self) -> bool {
        let begins = *self == Phase::Starting;
        if begins {
            *self = Phase::Ready;
        }
        begins
    }
}

/// A pool and what is told of it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its backends.
    pub pool: Arc<Pool>,
    /// The word for how it chooses: `round_robin`, …
    pub balance: &'static str,
    /// How clients are pinned.
    pub affinity: Arc<Affinity>,
    /// Counters, by position of the backend.
    pub series: Vec<Arc<Series>>,
    /// Counters of what no backend served.
    pub unserved: Arc<Series>,
    /// How the sources of its backends are doing.
    pub sources: Vec<Arc<SourceStatus>>,
}

#[cfg(test)]
mod tests;
