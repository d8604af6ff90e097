//! Owns: what the admin API reads: pools of the running configuration, counters, certificates, the process's phase.
//! Invariant: each response reads it anew, so that a reload shows in the next one.
//! Must not know: how it is shown.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::pool_entry::PoolEntry;
use super::reload::{ReloadFigures, Reloader};
use super::trends::Trends;
use crate::acme::Statuses;
use crate::events::Events;
use crate::telemetry::Metrics;
use crate::tls::reload::WatchedCertificates;

/// What the admin API reads for each response.
#[derive(Debug, Clone)]
pub struct StatusSources {
    /// The pools of the running configuration; a reload swaps them.
    pub pools: Arc<ArcSwap<Vec<PoolEntry>>>,
    /// The counters of the process.
    pub metrics: Arc<Metrics>,
    /// Whether the process takes requests.
    pub phase: watch::Receiver<Phase>,
    /// Certificates and when they expire.
    pub certificates: WatchedCertificates,
    /// Certificates from ACME servers.
    pub renewals: Statuses,
    /// Requests reloads.
    pub reloader: Reloader,
    /// What came of them.
    pub reloads: ReloadFigures,
    /// What happens in the process.
    pub events: Events,
    /// The last ten minutes.
    pub trends: Trends,
    /// When the process started, since the Unix epoch.
    pub started: Duration,
}

impl StatusSources {
    pub(super) fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Ready
    }
}

/// The phase of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits for the first backends of a source.
    Starting,
    /// It takes requests.
    Ready,
    /// It was asked to stop: it still takes requests, and clients should go elsewhere.
    Stopping,
    /// It closes its listeners.
    Closing,
    /// Another process has taken over its listeners, and it ends with its last connection.
    Leaving,
    /// A data-path thread has not run for seconds: the connections that the kernel gives to it wait.
    Stalled,
    /// A data-path thread has failed, and lost its connections.
    Broken,
}

impl Phase {
    /// Records whether a thread of a process that takes requests does not run. Returns whether that changes the phase.
    pub fn mark_stalled(&mut self, is_stalled: bool) -> bool {
        let is_news = *self == if is_stalled { Phase::Ready } else { Phase::Stalled };
        if is_news {
            *self = if is_stalled { Phase::Stalled } else { Phase::Ready };
        }
        is_news
    }

    /// Records that a thread has failed. Returns whether that changes the phase: a process that stops is not ready
    /// anyway.
    pub fn mark_broken(&mut self) -> bool {
        let is_news = matches!(self, Phase::Starting | Phase::Ready | Phase::Stalled);
        if is_news {
            *self = Phase::Broken;
        }
        is_news
    }

    /// Records that the first backends were found. Returns whether the process was waiting for them.
    pub fn mark_ready(&mut self) -> bool {
        let is_news = *self == Phase::Starting;
        if is_news {
            *self = Phase::Ready;
        }
        is_news
    }
}
