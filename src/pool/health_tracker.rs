//! Owns: the health states of a pool's backends and the one lock under which they change.
//! Invariant: what it publishes to `Live` is the machine's verdict, and never the whole pool ejected.
//! Must not know: who observed what; sockets and timers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::broadcast;

use super::failure_evidence::RecentClients;
use super::health_state::{self, FailedRequest, Health, HealthState};
use super::history::{HealthChange, ProbeResult};
use super::{Live, Pool};
use crate::clock::{self, Seldom};
use crate::reason::Reason;

/// The health states of a pool's backends, by the live ids of its backends, kept across reloads. Locked by probes, by failed
/// requests and by the first success after a failure: never by a request that goes well.
#[derive(Debug)]
pub struct HealthTracker {
    settings: health_state::Settings,
    members: Arc<Mutex<HashMap<usize, HealthState>>>,
    backend_down: BackendDownNotifier,
    clients: Arc<RecentClients>,
    told: Arc<Seldom>,
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

    fn notify(&self, id: usize) {
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

/// What was observed of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A probe came back, passed or failed.
    Probe(ProbeResult),
    /// A request failed on it for this reason, and this is held against it.
    Failure(FailedRequest, Reason),
    /// A request was answered by it.
    Success,
    /// It was reached by a request that had waited for that.
    Reached,
    /// Time passed: an ejection may have ended.
    Time,
}

#[cfg(test)]
impl Observation {
    /// A probe of which no more is known.
    pub(crate) const fn probe(passed: bool) -> Observation {
        let result = if passed { Ok(None) } else { Err(Reason::CLOSED) };
        Observation::Probe(ProbeResult { result, took: std::time::Duration::ZERO })
    }

    /// A failure of which no more is known.
    pub(crate) const fn failure(failed: FailedRequest) -> Observation {
        Observation::Failure(failed, Reason::CLOSED)
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
            told: Arc::default(),
        }
    }

    /// The same members under other settings: what a reload makes.
    pub fn with_settings(&self, settings: health_state::Settings) -> HealthTracker {
        HealthTracker {
            settings,
            members: Arc::clone(&self.members),
            backend_down: self.backend_down.clone(),
            clients: Arc::clone(&self.clients),
            told: Arc::clone(&self.told),
        }
    }

    /// Whether the pool has one client or more.
    pub fn clients(&self) -> &RecentClients {
        &self.clients
    }

    /// How often the pool's news are told.
    pub fn told(&self) -> &Seldom {
        &self.told
    }

    /// The end of the running ejection of a backend.
    pub fn changes_at(&self, live: &Live, now: Instant) -> Option<Instant> {
        self.lock().get(&live.id()).and_then(|health_state| health_state.changes_at(now))
    }

    /// Forgets all but the backends with these live ids.
    pub(super) fn keep(&self, ids: &HashSet<usize>) {
        self.lock().retain(|id, _| ids.contains(id));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, HealthState>> {
        // A panic under the lock leaves counters behind that are at worst one off.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Enters an observation, publishes the verdict, and tells waiting requests of a loss.
    pub fn observe(&self, index: usize, observation: Observation, now: Instant) -> Option<HealthChange> {
        let backend = self.backend(index);
        let health_tracker = self.health_tracker();
        let mut members = health_tracker.lock();
        let from = backend.live().health();
        let may_spare = |is_out: &dyn Fn(&Live) -> bool| {
            let (ejected, out) = (self.others(index, is_out), self.others(index, |other| other.accepts_new().is_err()));
            health_state::may_eject(ejected, out, self.backends().len(), &health_tracker.settings)
        };
        // Looking at all the others costs as much as there are: only where it depends on them.
        let spare = || may_spare(&|other| other.health() == Health::Ejected);
        let health_state = members.entry(backend.live().id()).or_default();
        match observation {
            Observation::Probe(check) => health_state.probed(check.passed(), now, &health_tracker.settings),
            Observation::Failure(failed, _) => health_state.failed(failed, now, spare, &health_tracker.settings),
            Observation::Success => health_state.succeeded(now),
            Observation::Reached => health_state.reached(now),
            Observation::Time => {}
        }
        let to = health_state.health(now);
        backend.live().set_unreachable(health_state.is_unreachable(now));
        backend.live().set_awaits_success(health_state.awaits_success());
        let is_out = |other: &Live| other.health() == Health::Ejected || other.is_suspect();
        let is_suspect = to == Health::Up && health_state.is_suspect(&health_tracker.settings) && may_spare(&is_out);
        backend.live().set_suspect(is_suspect);
        let lost = backend.live().set_health(to);
        let news = {
            let (mut history, at) = (backend.live().remember(), clock::unix());
            match observation {
                Observation::Probe(check) => history.checked(check, at),
                Observation::Failure(_, reason) => history.failed(reason, at),
                Observation::Success | Observation::Reached => history.was_well = true,
                Observation::Time => {}
            }
            history.judged((from, to), health_state.run(), health_state.is_kept(), at)
        };
        drop(members);
        if lost {
            backend.live().forget_sessions();
            health_tracker.backend_down.notify(backend.live().id());
        }
        match observation {
            Observation::Probe(ProbeResult { result: Ok(_), .. }) | Observation::Success | Observation::Reached => {
                backend.live().signal_healthy()
            }
            _ if from != to => backend.live().changed(),
            _ => {}
        }
        news
    }

    /// How many of the backends beside the one at `index` are so.
    fn others(&self, index: usize, are: impl Fn(&Live) -> bool) -> usize {
        let others = self.backends().iter().enumerate().filter(|(other, _)| *other != index);
        others.filter(|(_, backend)| are(backend.live())).count()
    }
}
