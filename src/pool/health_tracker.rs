//! Owns: the health states of a pool's backends and the one lock under which they change.
//! Invariant: what it publishes to `Live` is the machine's verdict, and never the whole pool ejected.
//! Must not know: who observed what; sockets and timers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::broadcast;

use super::failure_evidence::RecentClients;
use super::health_state::{self, HealthState};
use super::live::Live;
use crate::clock::LogLimiter;

/// The health states of a pool's backends, by the live ids of its backends, kept across reloads. Locked by probes, by failed
/// requests and by the first success after a failure: never by a request that goes well.
#[derive(Debug)]
pub struct HealthTracker {
    pub(super) settings: health_state::Settings,
    members: Arc<Mutex<HashMap<usize, HealthState>>>,
    pub(super) backend_down: BackendDownNotifier,
    clients: Arc<RecentClients>,
    log_limiter: Arc<LogLimiter>,
}

/// Where it is told which backends are lost, so that requests that wait on one are taken back.
#[derive(Debug, Clone)]
pub struct BackendDownNotifier(broadcast::Sender<usize>);

/// Receives the backends that go down from now on.
#[derive(Debug)]
pub struct BackendDownReceiver(broadcast::Receiver<usize>);

impl Default for BackendDownNotifier {
    fn default() -> Self {
        BackendDownNotifier(broadcast::Sender::new(256))
    }
}

impl BackendDownNotifier {
    /// For one thread.
    pub fn subscribe(&self) -> BackendDownReceiver {
        BackendDownReceiver(self.0.subscribe())
    }

    pub(super) fn notify(&self, id: usize) {
        // An error means that nobody hears it, and so nobody waits.
        drop(self.0.send(id));
    }
}

impl BackendDownReceiver {
    /// The live id of the next backend that is lost; `None` if more were lost at once than are
    /// remembered, so that it can be any.
    pub async fn next(&mut self) -> Option<usize> {
        match self.0.recv().await {
            Ok(id) => Some(id),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Whether there is one that was not heard of.
    #[cfg(test)]
    pub(super) fn has_unread(&self) -> bool {
        !self.0.is_empty()
    }
}

impl HealthTracker {
    /// An empty tracker that notifies `backend_down` of each loss, of a pool that `threads` threads serve from.
    pub fn new(settings: health_state::Settings, backend_down: BackendDownNotifier, threads: usize) -> HealthTracker {
        HealthTracker {
            settings,
            members: Arc::default(),
            backend_down,
            clients: Arc::new(RecentClients::new(threads)),
            log_limiter: Arc::default(),
        }
    }

    /// The same members under other settings: what a reload makes.
    pub fn with_settings(&self, settings: health_state::Settings) -> HealthTracker {
        HealthTracker {
            settings,
            members: Arc::clone(&self.members),
            backend_down: self.backend_down.clone(),
            clients: Arc::clone(&self.clients),
            log_limiter: Arc::clone(&self.log_limiter),
        }
    }

    /// Whether the pool has one client or more.
    pub fn clients(&self) -> &RecentClients {
        &self.clients
    }

    /// How often the pool's news are log_limiter.
    pub fn log_limiter(&self) -> &LogLimiter {
        &self.log_limiter
    }

    /// The end of the running ejection of a backend.
    pub fn changes_at(&self, live: &Live, now: Instant) -> Option<Instant> {
        self.lock().get(&live.id()).and_then(|health_state| health_state.changes_at(now))
    }

    /// Forgets all but the backends with these live ids.
    pub(super) fn keep(&self, ids: &HashSet<usize>) {
        self.lock().retain(|id, _| ids.contains(id));
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, HealthState>> {
        // A panic under the lock leaves counters behind that are at worst one off.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
