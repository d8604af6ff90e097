//! Owns: how a request can fail: the fact, who is to blame.
//! Invariant: no status codes here; `respond` is the one place that maps a fact to one.
//! Must not know: HTTP responses.

use std::fmt;
use std::time::Duration;

use crate::affinity::Cause;
use crate::affinity::policy::RefusePolicy;
use crate::pool::history::HealthReason;
use crate::pool::{Backend, Closed, Pool};
use crate::reason::Reason;
use crate::telemetry::Limit;
use crate::upstream::Failure;

/// Why a request gets no answer of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyError {
    /// The request breaks a rule of HTTP: which one, in a few words.
    Malformed(&'static str),
    /// A method that a reverse proxy does not serve.
    Method,
    /// The target is longer than the limit.
    TargetTooLong,
    /// More header fields than the limit.
    TooManyFields,
    /// The head of the request did not come in time.
    HeadTimeout,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The body did not come in time.
    BodyTimeout,
    /// The client broke the body off.
    BodyAborted,
    /// The client has sent more requests than it may.
    TooMany {
        /// When it may send the next one.
        wait: Duration,
    },
    /// No route leads from here.
    NoRoute,
    /// It was sent to its pool before, and came back.
    Loop,
    /// No backend can serve now, and none was sent the request.
    NoBackend(Unserved),
    /// The backend that holds the session can't serve, and the policy has no other do it.
    PinLost(RefusePolicy),
    /// The backend answered a request for a tunnel with a success that is none.
    NotSwitched,
    /// The request was given up while it was handled: the process ends, or a part of it has failed.
    Abandoned,
    /// A backend failed, and the request must not be tried again.
    Backend(Failure),
}

impl ProxyError {
    /// The word for it in the access log.
    pub fn as_str(self) -> &'static str {
        match self {
            ProxyError::Malformed(_) => "malformed",
            ProxyError::Method => "method",
            ProxyError::TargetTooLong => "target_too_long",
            ProxyError::TooManyFields => "too_many_fields",
            ProxyError::HeadTimeout => "head_timeout",
            ProxyError::BodyTooLarge => "body_too_large",
            ProxyError::BodyTimeout => "body_timeout",
            ProxyError::BodyAborted => "body_aborted",
            ProxyError::TooMany { .. } => "too_many_requests",
            ProxyError::NoRoute => "no_route",
            ProxyError::Loop => "loop",
            ProxyError::NoBackend(_) => "no_backend",
            ProxyError::PinLost(_) => "pin_lost",
            ProxyError::NotSwitched => "not_switched",
            ProxyError::Abandoned => "given_up",
            ProxyError::Backend(failure) => {
                crate::upstream::Fact::OUTCOMES.get(failure.fact.outcome()).copied().unwrap_or("backend")
            }
        }
    }
    /// The limit that it met, if it did.
    pub fn limit(self) -> Option<Limit> {
        match self {
            ProxyError::TooMany { .. } => Some(Limit::RequestsPerClient),
            ProxyError::BodyTooLarge => Some(Limit::BodyBytes),
            ProxyError::TargetTooLong => Some(Limit::TargetBytes),
            ProxyError::TooManyFields => Some(Limit::Header),
            ProxyError::HeadTimeout => Some(Limit::HeaderReadTimeout),
            _ => None,
        }
    }

    /// Why it was refused without that a backend was asked, if it was.
    pub fn unserved(self) -> Option<Unserved> {
        match self {
            ProxyError::NoBackend(unserved) => Some(unserved),
            ProxyError::PinLost(_) => Some(Unserved::PinLost),
            _ => None,
        }
    }
}

/// Why no backend is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {
    /// The pool has none.
    NoServers,
    /// Those that the operator lets serve are down or ejected.
    AllDown,
    /// The operator has taken all out.
    Maintenance,
    /// All drain, or have no weight, and the session is new.
    Draining,
    /// Those that are up have as much as they may have.
    Full,
    /// The time was over before one could be asked.
    Late,
    /// The one that holds the session can't serve, and no other may.
    PinLost,
}

impl Unserved {
    /// Their names in metrics and the status API, in the order of the variants.
    pub const NAMES: [&'static str; 7] =
        ["no_servers", "all_down", "maintenance", "draining", "full", "late", "pin_lost"];

    /// Why none of `pool` takes a request. What would help soonest counts: room, then health, then the operator.
    pub fn of(pool: &Pool) -> Unserved {
        let mut worst = Unserved::NoServers;
        for backend in pool.backends() {
            let why = match backend.live().accepts_new() {
                Ok(()) => Unserved::Late,
                Err(Closed::Full) => Unserved::Full,
                Err(Closed::Down) => Unserved::AllDown,
                Err(Closed::Draining | Closed::NoWeight) => Unserved::Draining,
                Err(Closed::Maintenance) => Unserved::Maintenance,
            };
            let rank = |why: Unserved| match why {
                Unserved::NoServers => 0,
                Unserved::Maintenance => 1,
                Unserved::Draining => 2,
                Unserved::AllDown => 3,
                Unserved::Full => 4,
                Unserved::Late | Unserved::PinLost => 5,
            };
            if rank(why) > rank(worst) {
                worst = why;
            }
        }
        worst
    }
}

/// What went wrong with a request, as its access record has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureDetail {
    /// In a word.
    Kind(&'static str),
    /// The last attempt failed so.
    Attempt(Reason),
    /// None was made, and this is why one of those is down that could have served.
    Unserved(Unserved, Option<HealthReason>),
    /// The pin does not hold, for this cause, and this is why its backend is down.
    PinLost(Option<Cause>, Option<HealthReason>),
}

impl FailureDetail {
    /// Of a request that gets no answer, whose last failed attempt had this `reason`, if there was one; whose pin
    /// named the backend `pinned`, and did not hold for this `cause`.
    pub(super) fn of(
        error: ProxyError,
        reason: Option<Reason>,
        cause: Option<Cause>,
        pinned: Option<&str>,
        pool: Option<&Pool>,
    ) -> FailureDetail {
        let why = |backend: &Backend| backend.live().history().why;
        let of_pinned = || pool.and_then(|pool| why(pool.backend(pool.position(pinned?)?)));
        match (error, reason) {
            (ProxyError::Backend(_) | ProxyError::NoBackend(_), Some(reason)) => FailureDetail::Attempt(reason),
            (ProxyError::NoBackend(Unserved::AllDown), None) => {
                let of_any = || pool.iter().flat_map(|pool| pool.backends()).find_map(why);
                FailureDetail::Unserved(Unserved::AllDown, of_pinned().or_else(of_any))
            }
            (ProxyError::NoBackend(unserved), None) => FailureDetail::Unserved(unserved, None),
            (ProxyError::PinLost(_), _) => FailureDetail::PinLost(cause, of_pinned()),
            (error, _) => FailureDetail::Kind(error.as_str()),
        }
    }
}

impl fmt::Display for FailureDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, why) = match *self {
            FailureDetail::Kind(word) => (word, None),
            FailureDetail::Attempt(reason) => return reason.fmt(f),
            FailureDetail::Unserved(unserved, why) => (
                match unserved {
                    Unserved::NoServers => "no backend: the pool has none",
                    Unserved::AllDown => "no backend is up",
                    Unserved::Maintenance => "no backend is out of maintenance",
                    Unserved::Draining => "no backend takes new sessions",
                    Unserved::Full => "no backend has room",
                    Unserved::Late => "no backend in time",
                    Unserved::PinLost => "pinned backend is not available",
                },
                why,
            ),
            FailureDetail::PinLost(cause, why) => (
                match cause {
                    Some(Cause::Down | Cause::Failed) => "pinned backend is down",
                    Some(Cause::Draining) => "pinned backend drains",
                    Some(Cause::Maintenance) => "pinned backend is in maintenance",
                    Some(Cause::Full) => "pinned backend is full",
                    Some(Cause::Unknown) => "pinned backend is unknown",
                    Some(Cause::Replaced) => "pinned backend was replaced",
                    _ => "pinned backend is not available",
                },
                why,
            ),
        };
        f.write_str(words)?;
        why.map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}
