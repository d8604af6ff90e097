//! Owns: the vitals of a pool's backends and the one lock under which they change.
//! Invariant: what it publishes to `Live` is the machine's verdict, and never the whole pool ejected.
//! Must not know: who observed what; sockets and timers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::broadcast;

use super::history::{Check, News};
use super::vitals::{self, Failed, Health, Vitals};
use super::witness::Clients;
use super::{Live, Pool};
use crate::clock::{self, Seldom};
use crate::reason::Reason;

/// The vitals of a pool, by the live ids of its backends, kept across reloads. Locked by probes, by failed
/// requests and by the first success after a failure: never by a request that goes well.
#[derive(Debug)]
pub struct Roster {
    settings: vitals::Settings,
    members: Arc<Mutex<HashMap<usize, Vitals>>>,
    losses: Losses,
    clients: Arc<Clients>,
    told: Arc<Seldom>,
}

/// Where it is told which backends are lost, so that requests that wait on one are taken back.
#[derive(Debug, Clone)]
pub struct Losses(broadcast::Sender<usize>);

/// Hears of losses from now on.
#[derive(Debug)]
pub struct LossReceiver(broadcast::Receiver<usize>);

impl Default for Losses {
    fn default() -> Self {
        Losses(broadcast::Sender::new(256))
    }
}

impl Losses {
    /// For one thread.
    pub fn subscribe(&self) -> LossReceiver {
        LossReceiver(self.0.subscribe())
    }

    fn tell(&self, id: usize) {
        // An error means that nobody hears it, and so nobody waits.
        drop(self.0.send(id));
    }
}

impl LossReceiver {
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
    pub(super) fn has_more(&self) -> bool {
        !self.0.is_empty()
    }
}

/// What was observed of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A probe came back, passed or failed.
    Probe(Check),
    /// A request failed on it for this reason, and this is held against it.
    Failure(Failed, Reason),
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
        Observation::Probe(Check { result, took: std::time::Duration::ZERO })
    }

    /// A failure of which no more is known.
    pub(crate) const fn failure(failed: Failed) -> Observation {
        Observation::Failure(failed, Reason::CLOSED)
    }
}

impl Roster {
    /// An empty roster that tells losses to `losses`, of a pool that `threads` threads serve from.
    pub fn new(settings: vitals::Settings, losses: Losses, threads: usize) -> Roster {
        Roster {
            settings,
            members: Arc::default(),
            losses,
            clients: Arc::new(Clients::new(threads)),
            told: Arc::default(),
        }
    }

    /// The same members under other settings: what a reload makes.
    pub fn with_settings(&self, settings: vitals::Settings) -> Roster {
        Roster {
            settings,
            members: Arc::clone(&self.members),
            losses: self.losses.clone(),
            clients: Arc::clone(&self.clients),
            told: Arc::clone(&self.told),
        }
    }

    /// Whether the pool has one client or more.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// How often the pool's news are told.
    pub fn told(&self) -> &Seldom {
        &self.told
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
    pub fn observe(&self, index: usize, observation: Observation, now: Instant) -> Option<News> {
        let backend = self.backend(index);
        let roster = self.roster();
        let mut members = roster.lock();
        let from = backend.live().health();
        let may_spare = |is_out: &dyn Fn(&Live) -> bool| {
            let (ejected, out) = (self.others(index, is_out), self.others(index, |other| other.accepts_new().is_err()));
            vitals::may_eject(ejected, out, self.backends().len(), &roster.settings)
        };
        // Looking at all the others costs as much as there are: only where it depends on them.
        let spare = || may_spare(&|other| other.health() == Health::Ejected);
        let vitals = members.entry(backend.live().id()).or_default();
        match observation {
            Observation::Probe(check) => vitals.probed(check.passed(), now, &roster.settings),
            Observation::Failure(failed, _) => vitals.failed(failed, now, spare, &roster.settings),
            Observation::Success => vitals.succeeded(now),
            Observation::Reached => vitals.reached(now),
            Observation::Time => {}
        }
        let to = vitals.health(now);
        backend.live().set_unreachable(vitals.is_unreachable(now));
        backend.live().set_marked(vitals.is_marked());
        let is_out = |other: &Live| other.health() == Health::Ejected || other.is_suspect();
        let is_suspect = to == Health::Up && vitals.is_suspect(&roster.settings) && may_spare(&is_out);
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
            history.judged((from, to), vitals.run(), vitals.is_kept(), at)
        };
        drop(members);
        if lost {
            backend.live().forget_sessions();
            roster.losses.tell(backend.live().id());
        }
        match observation {
            Observation::Probe(Check { result: Ok(_), .. }) | Observation::Success | Observation::Reached => {
                backend.live().shown_well()
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
