//! Owns: the health states of a pool's backends, and the one lock under which they change.
//! Invariant: a request that succeeds on a healthy backend never takes the lock; a reload keeps the states.
//! Must not know: what was observed; sockets and timers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::broadcast;

use super::failure_evidence::RecentClients;
use super::health_state::{self, HealthState};
use super::live::Live;
use crate::clock::LogLimiter;
use crate::events::Events;

/// The health states of a pool's backends by their live ids, kept across reloads. Probes, failed requests and the first
/// success after a failure lock it; other requests don't.
#[derive(Debug)]
pub struct HealthTracker {
    pub(super) settings: health_state::Settings,
    members: Arc<Mutex<HashMap<usize, HealthState>>>,
    pub(super) backend_down: BackendDownNotifier,
    clients: Arc<RecentClients>,
    log_limiter: Arc<LogLimiter>,
    events: Events,
}

/// Notifies the data-path threads of backends that go down or are ejected, so that requests in flight on one are
/// retried.
#[derive(Debug, Clone)]
pub struct BackendDownNotifier(broadcast::Sender<usize>);

/// Receives the notifications since its subscription.
#[derive(Debug)]
pub struct BackendDownReceiver(broadcast::Receiver<usize>);

impl Default for BackendDownNotifier {
    fn default() -> Self {
        BackendDownNotifier(broadcast::Sender::new(256))
    }
}

impl BackendDownNotifier {
    /// Makes a receiver for one thread.
    pub fn subscribe(&self) -> BackendDownReceiver {
        BackendDownReceiver(self.0.subscribe())
    }

    pub(super) fn notify(&self, id: usize) {
        // An error means that there is no receiver, and so no request in flight.
        drop(self.0.send(id));
    }
}

impl BackendDownReceiver {
    /// Waits for the next notification. Returns the backend's live id; `None` if more came at once than the channel
    /// keeps, so that it can be any.
    pub async fn next(&mut self) -> Option<usize> {
        match self.0.recv().await {
            Ok(id) => Some(id),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    /// Returns whether a notification has not been received yet.
    #[cfg(test)]
    pub(super) fn has_unread(&self) -> bool {
        !self.0.is_empty()
    }
}

impl HealthTracker {
    /// Makes an empty tracker for a pool that `threads` data-path threads use.
    pub fn new(
        settings: health_state::Settings,
        backend_down: BackendDownNotifier,
        events: Events,
        threads: usize,
    ) -> HealthTracker {
        HealthTracker {
            settings,
            members: Arc::default(),
            backend_down,
            clients: Arc::new(RecentClients::new(threads)),
            log_limiter: Arc::default(),
            events,
        }
    }

    /// Returns a tracker of the same states with other thresholds, for a reload.
    pub fn with_settings(&self, settings: health_state::Settings) -> HealthTracker {
        HealthTracker {
            settings,
            members: Arc::clone(&self.members),
            backend_down: self.backend_down.clone(),
            clients: Arc::clone(&self.clients),
            log_limiter: Arc::clone(&self.log_limiter),
            events: self.events.clone(),
        }
    }

    /// Returns where changes in the pool are published.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Returns the record of whether the pool has one client or more.
    pub fn clients(&self) -> &RecentClients {
        &self.clients
    }

    /// Returns the limit on log lines about changes in the pool.
    pub fn log_limiter(&self) -> &LogLimiter {
        &self.log_limiter
    }

    /// Returns the end of the running ejection of a backend.
    pub fn changes_at(&self, live: &Live, now: Instant) -> Option<Instant> {
        self.lock().get(&live.id()).and_then(|health_state| health_state.changes_at(now))
    }

    /// Removes the states of all backends but those with these live ids.
    pub(super) fn keep(&self, ids: &HashSet<usize>) {
        self.lock().retain(|id, _| ids.contains(id));
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, HealthState>> {
        // A panic under the lock leaves counters that are wrong by one at most.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
