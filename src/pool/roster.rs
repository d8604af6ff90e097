//! Owns: the vitals of a pool's backends and the one lock under which they change.
//! Invariant: what it publishes to `Live` is the machine's verdict, and never the whole pool ejected.
//! Must not know: who observed what; sockets and timers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::vitals::{self, Health, Vitals};
use super::{Live, Pool};

/// The vitals of a pool, by the live ids of its backends, kept across reloads. Locked by probes, by failed
/// requests and by the first success after a failure: never by a request that goes well.
#[derive(Debug)]
pub struct Roster {
    settings: vitals::Settings,
    members: Arc<Mutex<HashMap<usize, Vitals>>>,
    losses: Arc<watch::Sender<u64>>,
}

/// What was observed of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A probe came back, passed or failed.
    Probe(bool),
    /// A request failed on it, and the backend is to blame.
    Failure,
    /// A request was answered by it.
    Success,
    /// Time passed: an ejection may have ended.
    Time,
}

/// A change of a backend's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: Health,
    /// After.
    pub to: Health,
}

impl Roster {
    /// An empty roster that tells losses to `losses`.
    pub fn new(settings: vitals::Settings, losses: Arc<watch::Sender<u64>>) -> Roster {
        Roster { settings, members: Arc::default(), losses }
    }

    /// The same members under other settings: what a reload makes.
    pub fn with_settings(&self, settings: vitals::Settings) -> Roster {
        Roster { settings, members: Arc::clone(&self.members), losses: Arc::clone(&self.losses) }
    }

    /// The end of the running ejection of a backend.
    pub fn changes_at(&self, live: &Live, now: Instant) -> Option<Instant> {
        self.lock().get(&live.id()).and_then(|vitals| vitals.changes_at(now))
    }

    /// Forgets all but the backends with these live ids.
    pub(super) fn keep(&self, ids: &HashSet<usize>) {
        self.lock().retain(|id, _| ids.contains(id));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Vitals>> {
        // A panic under the lock leaves counters behind that are at worst one off.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Enters an observation, publishes the verdict, and tells waiting requests of a loss.
    pub fn observe(&self, index: usize, observation: Observation, now: Instant) -> Option<Change> {
        let backend = self.backend(index);
        let roster = self.roster();
        let mut members = roster.lock();
        let from = backend.live().health();
        let spare = vitals::may_eject(
            self.others(index, |other| other.health() == Health::Ejected),
            self.others(index, |other| other.accepts_new().is_err()),
            self.backends().len(),
            &roster.settings,
        );
        let vitals = members.entry(backend.live().id()).or_default();
        match observation {
            Observation::Probe(passed) => vitals.probed(passed, &roster.settings),
            Observation::Failure => vitals.failed(now, spare, &roster.settings),
            Observation::Success => vitals.succeeded(now),
            Observation::Time => {}
        }
        let to = vitals.health(now);
        backend.live().set_marked(vitals.is_marked());
        let lost = backend.live().set_health(to);
        drop(members);
        if lost {
            backend.live().forget_sessions();
            roster.losses.send_modify(|losses| *losses += 1);
        }
        if from != to {
            backend.live().changed();
        }
        (from != to).then_some(Change { from, to })
    }

    /// How many of the backends beside the one at `index` are so.
    fn others(&self, index: usize, are: impl Fn(&Live) -> bool) -> usize {
        let others = self.backends().iter().enumerate().filter(|(other, _)| *other != index);
        others.filter(|(_, backend)| are(backend.live())).count()
    }
}
