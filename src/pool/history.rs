//! Owns: what is remembered of a backend for those who ask why it is as it is: its last check, its last failure, since when.
//! Invariant: it is written when something was observed that is no everyday request, and nothing is decided by it.
//! Must not know: who asks; whether a backend is up.

use std::fmt;
use std::time::Duration;

use super::health_state::{FailureRun, Health};
use crate::reason::Reason;

/// A probe that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeResult {
    /// The status that passed, if it has one; or why it failed.
    pub result: Result<Option<u16>, Reason>,
    /// How long it took.
    pub took: Duration,
}

impl ProbeResult {
    /// Whether it passed.
    pub fn passed(&self) -> bool {
        self.result.is_ok()
    }
}

impl fmt::Display for ProbeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.result {
            Ok(Some(status)) => write!(f, "status {status}"),
            Ok(None) => f.write_str("connected"),
            Err(reason) => reason.fmt(f),
        }
    }
}

/// Who has seen a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedBy {
    /// A probe.
    Probe,
    /// A request.
    Request,
}

impl ObservedBy {
    /// Its word in the status API.
    pub fn as_str(self) -> &'static str {
        match self {
            ObservedBy::Probe => "probe",
            ObservedBy::Request => "request",
        }
    }
}

/// A failure that was held against the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendFailure {
    /// What failed.
    pub reason: Reason,
    /// Who has seen it.
    pub by: ObservedBy,
}

/// Why a backend is down, ejected, or kept though its requests fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthReason {
    /// Its probes fail, the last one so.
    Probes(Reason),
    /// Requests have failed on it one after the other, the last one so.
    Requests(FailureRun, Reason),
}

impl fmt::Display for HealthReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HealthReason::Probes(reason) => reason.fmt(f),
            HealthReason::Requests(run, reason) => write!(f, "{run}: {reason}"),
        }
    }
}

/// What an operator has to know of a backend, since an observation has changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthChange {
    /// Its health is another.
    Changed {
        /// Before.
        from: Health,
        /// After.
        to: Health,
        /// How long it had been as before.
        lasted: Duration,
    },
    /// Its requests fail, and it is kept, since the pool can't spare it.
    KeptFailing,
    /// It was kept, and a request has succeeded.
    Recovered,
}

/// What is remembered. Times are since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// When its present health began.
    pub since: Duration,
    /// Whether anything has ever shown that it works.
    pub was_well: bool,
    /// Its requests fail, and it is kept, since the pool can't spare it.
    pub is_kept: bool,
    /// Why it is not up, or why it is said to be kept.
    pub why: Option<HealthReason>,
    /// The last probe, and when it came back.
    pub last_check: Option<(Duration, ProbeResult)>,
    /// The last failure that was held against it, and when that was.
    pub last_failure: Option<(Duration, BackendFailure)>,
}

impl History {
    /// Of a backend that is new at `now`.
    pub fn new(now: Duration) -> History {
        History { since: now, was_well: false, is_kept: false, why: None, last_check: None, last_failure: None }
    }

    /// A probe came back.
    pub(super) fn checked(&mut self, check: ProbeResult, now: Duration) {
        self.last_check = Some((now, check));
        match check.result {
            Ok(_) => self.was_well = true,
            Err(reason) => self.last_failure = Some((now, BackendFailure { reason, by: ObservedBy::Probe })),
        }
    }

    /// A request failed.
    pub(super) fn failed(&mut self, reason: Reason, now: Duration) {
        self.last_failure = Some((now, BackendFailure { reason, by: ObservedBy::Request }));
    }

    /// The verdict on what was observed last: its health was and is this, it `is_kept` or not, and this `run` of
    /// failed requests has ejected it last, or would have. Says what of that is news.
    pub(super) fn judged(
        &mut self,
        (from, to): (Health, Health),
        run: Option<FailureRun>,
        is_kept: bool,
        now: Duration,
    ) -> Option<HealthChange> {
        let was_kept = std::mem::replace(&mut self.is_kept, is_kept && to == Health::Up);
        let last = self.last_failure.map(|(_, failure)| failure.reason);
        let of_requests = || run.zip(last).map(|(run, reason)| HealthReason::Requests(run, reason));
        let is_new = from != to;
        match to {
            Health::Down => {
                if let Some((_, ProbeResult { result: Err(reason), .. })) = self.last_check {
                    self.why = Some(HealthReason::Probes(reason));
                }
            }
            Health::Ejected if is_new => self.why = of_requests(),
            Health::Ejected => {}
            Health::Up if self.is_kept => self.why = of_requests(),
            Health::Up => self.why = None,
        }
        if is_new {
            let lasted = now.saturating_sub(std::mem::replace(&mut self.since, now));
            return Some(HealthChange::Changed { from, to, lasted });
        }
        match (was_kept, self.is_kept) {
            (false, true) => Some(HealthChange::KeptFailing),
            (true, false) => Some(HealthChange::Recovered),
            _ => None,
        }
    }
}
