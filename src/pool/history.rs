//! Owns: the record that explains a backend's state: last probe, last failure, reason and time of the last change.
//! Invariant: a request that succeeds on a healthy backend doesn't write it, and nothing is decided by it.
//! Must not know: who reads it; whether a backend is up.

use std::fmt;
use std::time::Duration;

use super::health_state::{FailureRun, Health};
use crate::reason::Reason;

/// The result of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeResult {
    /// The status that passed, if the probe has one; or why it failed.
    pub result: Result<Option<u16>, Reason>,
    /// How long it took.
    pub took: Duration,
}

impl ProbeResult {
    /// Returns whether it passed.
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

/// What observed a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedBy {
    /// A probe.
    Probe,
    /// A request.
    Request,
}

impl ObservedBy {
    /// Returns its word in the status API.
    pub fn as_str(self) -> &'static str {
        match self {
            ObservedBy::Probe => "probe",
            ObservedBy::Request => "request",
        }
    }
}

/// A failure that counted against the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendFailure {
    /// What failed.
    pub reason: Reason,
    /// What observed it.
    pub by: ObservedBy,
}

/// Why a backend is down or ejected, or kept though its requests fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthReason {
    /// Its source says that it does not serve.
    Reported,
    /// Its probes fail, the last one for this reason.
    Probes(Reason),
    /// Consecutive requests failed on it, the last one for this reason.
    Requests(FailureRun, Reason),
}

impl fmt::Display for HealthReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HealthReason::Reported => f.write_str("not ready, says its source"),
            HealthReason::Probes(reason) => reason.fmt(f),
            HealthReason::Requests(run, reason) => write!(f, "{run}: {reason}"),
        }
    }
}

/// A change that the operator has to know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthChange {
    /// Its health has changed.
    Changed {
        /// Before.
        from: Health,
        /// After.
        to: Health,
        /// How long it was `from`.
        lasted: Duration,
    },
    /// Its requests fail, and it is kept, since the pool can't spare it.
    KeptFailing,
    /// It was kept, and a request has succeeded on it.
    Recovered,
}

/// The record of a backend. Times are since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// When its current health began.
    pub since: Duration,
    /// Whether a probe or request has ever succeeded on it.
    pub was_well: bool,
    /// Its requests fail, and it is kept, since the pool can't spare it.
    pub is_kept: bool,
    /// Its source says that it does not serve.
    pub is_reported_down: bool,
    /// Why it is not up, or why it is reported as kept.
    pub why: Option<HealthReason>,
    /// The last probe, and when it ended.
    pub last_check: Option<(Duration, ProbeResult)>,
    /// The last failure that counted against it, and when that was.
    pub last_failure: Option<(Duration, BackendFailure)>,
    /// How many probes have passed.
    pub passed_checks: u64,
    /// How many probes have failed.
    pub failed_checks: u64,
    /// How often it was ejected.
    pub ejections: u64,
}

impl History {
    /// Makes the record of a backend that is new at `now`.
    pub fn new(now: Duration) -> History {
        History {
            since: now,
            was_well: false,
            is_kept: false,
            is_reported_down: false,
            why: None,
            last_check: None,
            last_failure: None,
            passed_checks: 0,
            failed_checks: 0,
            ejections: 0,
        }
    }

    /// Records a probe.
    pub(super) fn checked(&mut self, check: ProbeResult, now: Duration) {
        self.last_check = Some((now, check));
        match check.result {
            Ok(_) => (self.was_well, self.passed_checks) = (true, self.passed_checks + 1),
            Err(reason) => {
                self.failed_checks += 1;
                self.last_failure = Some((now, BackendFailure { reason, by: ObservedBy::Probe }));
            }
        }
    }

    /// Records a failed request.
    pub(super) fn failed(&mut self, reason: Reason, now: Duration) {
        self.last_failure = Some((now, BackendFailure { reason, by: ObservedBy::Request }));
    }

    /// Records the verdict after an observation: the health before and after it, whether the backend `is_kept`, and the
    /// last
    /// `run` of failed requests that ejected it, or would have. Returns the change that the log has to report.
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
            Health::Down if self.is_reported_down => self.why = Some(HealthReason::Reported),
            Health::Down => {
                if let Some((_, ProbeResult { result: Err(reason), .. })) = self.last_check {
                    self.why = Some(HealthReason::Probes(reason));
                }
            }
            Health::Ejected if is_new => (self.why, self.ejections) = (of_requests(), self.ejections + 1),
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
