//! Owns: how an observation of a backend becomes its health, as every thread sees it.
//! Invariant: one lock covers an observation, its verdict and its publication; a pool never ejects all its backends.
//! Must not know: sockets, timers, or which probe or request has observed something.

use std::time::Instant;

use super::backend_set::Pool;
use super::health_state::{self, FailedRequest, Health, HealthState};
use super::history::{HealthChange, ProbeResult};
use super::live::Live;
use crate::clock;
use crate::reason::Reason;

/// An observation of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A probe passed or failed.
    Probe(ProbeResult),
    /// A request failed on it for this reason, as this evidence against it.
    Failure(FailedRequest, Reason),
    /// A request succeeded on it.
    Success,
    /// A request that had waited for it has connected to it.
    Reached,
    /// Time has passed: an ejection may have ended.
    Time,
    /// It is not probed any more.
    ProbesEnded,
    /// Its source says that it does not serve, or that it serves.
    Reported {
        /// It does not serve.
        is_down: bool,
    },
}

#[cfg(test)]
impl Observation {
    /// Makes a probe without details.
    pub(crate) const fn probe(passed: bool) -> Observation {
        let result = if passed { Ok(None) } else { Err(Reason::CLOSED) };
        Observation::Probe(ProbeResult { result, took: std::time::Duration::ZERO })
    }

    /// Makes a failure without details.
    pub(crate) const fn failure(failed: FailedRequest) -> Observation {
        Observation::Failure(failed, Reason::CLOSED)
    }
}

impl Pool {
    /// Enters an observation, publishes the verdict, and notifies the data-path threads if the backend goes down.
    /// Returns the change that the log reports.
    pub fn observe(&self, index: usize, observation: Observation, now: Instant) -> Option<HealthChange> {
        let backend = self.backend(index);
        let health_tracker = self.health_tracker();
        let mut members = health_tracker.lock();
        let from = backend.live().health();
        let may_spare = |is_out: &dyn Fn(&Live) -> bool| {
            let (ejected, out) = (self.others(index, is_out), self.others(index, |other| other.accepts_new().is_err()));
            health_state::may_eject(ejected, out, self.backends().len(), &health_tracker.settings)
        };
        // This reads the state of all other backends: it is called only when the verdict depends on them.
        let spare = || may_spare(&|other| other.health() == Health::Ejected);
        let health_state = members.entry(backend.live().id()).or_default();
        match observation {
            Observation::Probe(check) => health_state.probed(check.passed(), now, &health_tracker.settings),
            Observation::Failure(failed, _) => health_state.failed(failed, now, spare, &health_tracker.settings),
            Observation::Success => health_state.succeeded(now),
            Observation::Reached => health_state.reached(now),
            Observation::ProbesEnded => health_state.forget_probes(),
            Observation::Reported { is_down } => health_state.reported(is_down),
            Observation::Time => {}
        }
        let to = health_state.health(now);
        backend.live().set_unreachable(health_state.is_unreachable(now));
        backend.live().set_awaits_success(health_state.awaits_success());
        let is_out = |other: &Live| other.health() == Health::Ejected || other.is_suspect();
        let is_suspect = to == Health::Up && health_state.is_suspect(&health_tracker.settings) && may_spare(&is_out);
        backend.live().set_suspect(is_suspect);
        let lost = backend.live().set_health(to, now);
        let change = {
            let (mut history, at) = (backend.live().remember(), clock::unix());
            match observation {
                Observation::Probe(check) => history.checked(check, at),
                Observation::Failure(_, reason) => history.failed(reason, at),
                Observation::Success | Observation::Reached => history.was_well = true,
                Observation::Reported { is_down } => history.is_reported_down = is_down,
                Observation::Time | Observation::ProbesEnded => {}
            }
            history.judged((from, to), health_state.run(), health_state.is_kept(), at)
        };
        drop(members);
        if lost {
            backend.live().sessions().forget(clock::unix_millis());
            health_tracker.backend_down.notify(backend.live().id());
        }
        match observation {
            Observation::Probe(ProbeResult { result: Ok(_), .. }) | Observation::Success | Observation::Reached => {
                backend.live().signal_healthy()
            }
            _ if from != to => backend.live().changed(),
            _ => {}
        }
        change
    }

    /// Enters whether a backend's source says that it does not serve, if it said something else before.
    pub(super) fn report(&self, index: usize, is_down: bool, now: Instant) -> Option<HealthChange> {
        let id = self.backend(index).live().id();
        let was_down = self.health_tracker().lock().get(&id).is_some_and(HealthState::is_reported_down);
        (was_down != is_down).then(|| self.observe(index, Observation::Reported { is_down }, now)).flatten()
    }

    /// Counts the backends other than the one at `index` for which `are` holds.
    fn others(&self, index: usize, are: impl Fn(&Live) -> bool) -> usize {
        let others = self.backends().iter().enumerate().filter(|(other, _)| *other != index);
        others.filter(|(_, backend)| are(backend.live())).count()
    }
}
