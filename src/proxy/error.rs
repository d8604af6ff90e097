//! Owns: the ways in which a request fails, and the words for them in the access log.
//! Invariant: an error has no status code; only `respond` maps errors to status codes.
//! Must not know: HTTP responses.

use std::fmt;
use std::time::Duration;

use crate::affinity::Cause;
use crate::affinity::policy::RefusePolicy;
use crate::pool::history::HealthReason;
use crate::pool::{AdminState, Backend, Closed, Health, Live, Pool};
use crate::reason::Reason;
use crate::telemetry::{Denial, Limit};
use crate::upstream::Failure;

/// How many backends are asked why they are down, to explain that all are. Almost always the first one has a reason: it
/// has none only between the moment when it goes down and the moment when its reason is noted.
const MOST_ASKED: usize = 4;

/// Why a request gets no response from a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyError {
    /// The request violates a rule of HTTP; the text says which one, for the error page.
    Malformed(&'static str),
    /// The method is CONNECT or TRACE, which a reverse proxy does not serve.
    Method,
    /// The request target is longer than the limit.
    TargetTooLong,
    /// The request has more header fields, or a larger header section, than the limit.
    TooManyFields,
    /// The header section of the request was not received in time.
    HeadTimeout,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The body was not received in time.
    BodyTimeout,
    /// The client aborted the body.
    BodyAborted,
    /// The client exceeded its request rate.
    TooMany {
        /// The time until it may send the next request.
        wait: Duration,
    },
    /// The client has sent too many wrong passwords.
    TooManyFailures {
        /// The time until it may send the next password.
        wait: Duration,
    },
    /// No route matches the request.
    NoRoute,
    /// The access rules of the route refuse the request.
    Denied(Denial),
    /// The request was already forwarded to its pool and looped back.
    Loop,
    /// No backend can serve the request now, and none has received it.
    NoBackend(Unserved),
    /// The backend that holds the session can't serve, and the policy allows no other backend.
    PinLost(RefusePolicy),
    /// The backend sent a 2xx response to an extended CONNECT without opening a tunnel, which a client of HTTP/2 would
    /// take for an open tunnel (RFC 8441 §5).
    NotSwitched,
    /// The process abandoned the request: it stops, or its handler failed.
    Abandoned,
    /// The backend no longer holds the session that its response changes, which moved meanwhile. The request may have
    /// been executed, but its effects on the session are void.
    Fenced,
    /// The backend took a copy of the session and then lacked it again.
    WantedTwice,
    /// The backend lacks the session, and the request's body was not kept to send it again.
    BodyNotKept,
    /// The session's new state could not be copied, and the pool requires that.
    NotCopied,
    /// A backend failed, and the request must not be retried.
    Backend(Failure),
}

impl ProxyError {
    /// The name of the error in the access log.
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
            ProxyError::TooManyFailures { .. } => "too_many_login_failures",
            ProxyError::NoRoute => "no_route",
            ProxyError::Denied(denial) => denial.as_str(),
            ProxyError::Loop => "loop",
            ProxyError::NoBackend(_) => "no_backend",
            ProxyError::PinLost(_) => "pin_lost",
            ProxyError::NotSwitched => "not_switched",
            ProxyError::Abandoned => "given_up",
            ProxyError::Fenced => "session_moved",
            ProxyError::WantedTwice => "session_wanted_twice",
            ProxyError::BodyNotKept => "session_body_not_kept",
            ProxyError::NotCopied => "session_not_copied",
            ProxyError::Backend(failure) => {
                crate::upstream::Fact::OUTCOMES.get(failure.fact.outcome()).copied().unwrap_or("backend")
            }
        }
    }

    /// The limit that the request exceeded, if that is the error.
    pub fn limit(self) -> Option<Limit> {
        match self {
            ProxyError::TooMany { .. } => Some(Limit::RequestsPerClient),
            ProxyError::TooManyFailures { .. } => Some(Limit::LoginFailuresPerClient),
            ProxyError::BodyTooLarge => Some(Limit::BodyBytes),
            ProxyError::TargetTooLong => Some(Limit::TargetBytes),
            ProxyError::TooManyFields => Some(Limit::Header),
            ProxyError::HeadTimeout => Some(Limit::HeaderReadTimeout),
            _ => None,
        }
    }

    /// Why the request was refused before any backend received it, if it was.
    pub fn unserved(self) -> Option<Unserved> {
        match self {
            ProxyError::NoBackend(unserved) => Some(unserved),
            ProxyError::PinLost(_) => Some(Unserved::PinLost),
            _ => None,
        }
    }
}

/// Why no backend receives a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {
    /// The pool has no backends.
    NoServers,
    /// All backends that are in service are down or ejected.
    AllDown,
    /// All backends are in maintenance.
    Maintenance,
    /// All backends drain or have weight 0, and the session is new.
    Draining,
    /// All backends that are up have reached a limit, one of them `max_requests`.
    Full,
    /// All backends that are up have reached `max_sessions`, and the session is new.
    SessionsFull,
    /// All backends are full, and so is the queue.
    QueueFull,
    /// All backends were full for as long as a request may wait in the queue.
    QueueTimeout,
    /// The request's time limit ended before a backend could receive it.
    Late,
    /// The backend that holds the session can't serve, and no other backend may.
    PinLost,
}

impl Unserved {
    /// The names in metrics and the status API, in the order of the variants.
    pub const NAMES: [&'static str; 10] = [
        "no_servers",
        "all_down",
        "maintenance",
        "draining",
        "full",
        "sessions_full",
        "queue_full",
        "queue_timeout",
        "late",
        "pin_lost",
    ];

    /// Why no backend of `pool` takes a request. Reports the obstacle that is likely to end first: a limit, then
    /// health, then the operator's decision.
    pub fn of(pool: &Pool) -> Unserved {
        let mut worst = Unserved::NoServers;
        for backend in pool.backends() {
            let why = match backend.live().accepts_new() {
                Ok(()) => Unserved::Late,
                Err(Closed::Full) => Unserved::Full,
                Err(Closed::SessionsFull) => Unserved::SessionsFull,
                Err(Closed::Down) => Unserved::AllDown,
                Err(Closed::Draining | Closed::NoWeight) => Unserved::Draining,
                Err(Closed::Maintenance) => Unserved::Maintenance,
            };
            let rank = |why: Unserved| match why {
                Unserved::NoServers => 0,
                Unserved::Maintenance => 1,
                Unserved::Draining => 2,
                Unserved::AllDown => 3,
                Unserved::SessionsFull => 4,
                Unserved::Full => 5,
                // The pool alone never is the reason for these.
                Unserved::Late | Unserved::QueueFull | Unserved::QueueTimeout | Unserved::PinLost => 6,
            };
            if rank(why) > rank(worst) {
                worst = why;
            }
        }
        worst
    }
}

/// The detail of a request's failure in its access record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureDetail {
    /// The kind of the error.
    Kind(&'static str),
    /// Why the last attempt failed.
    Attempt(Reason),
    /// Why no attempt was made, and why a backend that could have served is down.
    Unserved(Unserved, Option<HealthReason>),
    /// The cause why the pin does not hold, and why its backend is down.
    PinLost(Option<Cause>, Option<HealthReason>),
}

impl FailureDetail {
    /// Makes the detail of `error`. `reason` is why the last attempt failed, `pinned` the backend of the request's pin,
    /// and `cause` why the pin did not hold, each if there is one.
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
                let of_any = || pool.and_then(why_down);
                FailureDetail::Unserved(Unserved::AllDown, of_pinned().or_else(of_any))
            }
            (ProxyError::NoBackend(unserved), None) => FailureDetail::Unserved(unserved, None),
            (ProxyError::PinLost(_), _) => FailureDetail::PinLost(cause, of_pinned()),
            (error, _) => FailureDetail::Kind(error.as_str()),
        }
    }
    /// Returns one of few words for it; `None` if the kind of the last attempt's failure says it.
    pub(super) fn kind(self) -> Option<&'static str> {
        match self {
            FailureDetail::Kind(kind) => Some(kind),
            FailureDetail::Attempt(_) => None,
            FailureDetail::Unserved(unserved, _) => Some(ProxyError::NoBackend(unserved).as_str()),
            FailureDetail::PinLost(..) => Some("pin_lost"),
        }
    }
}

/// Returns why a backend of `pool` is down, of the first that has a reason. A reason is behind a lock, which every
/// refused request takes, so only backends that are down are asked, and few of them.
fn why_down(pool: &Pool) -> Option<HealthReason> {
    // Two loads for each: `accepts_new` also reads the limits, which can take a sum over all threads.
    let is_down = |live: &Live| live.health() != Health::Up && live.state() != AdminState::Maintenance;
    let down = pool.backends().iter().map(|backend| backend.live()).filter(|live| is_down(live));
    down.take(MOST_ASKED).find_map(|live| live.history().why)
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
                    Unserved::SessionsFull => "all backends have reached max_sessions",
                    Unserved::QueueFull => "all backends are full, and so is the queue",
                    Unserved::QueueTimeout => "all backends were full for as long as a request may wait",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::history::ProbeResult;
    use crate::pool::observe::Observation;
    use crate::pool::reconcile::Reconciler;
    use crate::pool::{self, backend, health_state};

    #[test]
    fn why_no_backend_is_up_is_the_reason_of_one_that_is_in_service() {
        let backends = ["out", "in"].map(|name| backend::Settings::new(name, ([127, 0, 0, 1], 9000).into()));
        let health_state = health_state::Settings { fall: 1, ..health_state::Settings::default() };
        let settings =
            pool::Settings { name: "p".into(), backends: backends.into(), health_state, ..pool::Settings::default() };
        let pool = Reconciler::new(1).pools(&[settings]).remove(0);
        for (index, reason) in [(0, Reason::Status(500)), (1, Reason::CLOSED)] {
            let probe = ProbeResult { result: Err(reason), took: Duration::ZERO };
            pool.observe(index, Observation::Probe(probe), crate::clock::now());
        }
        pool.backend(0).live().set_state(AdminState::Maintenance);
        let error = ProxyError::NoBackend(Unserved::of(&pool));
        assert_eq!(
            FailureDetail::of(error, None, None, None, Some(&pool)).to_string(),
            "no backend is up: connection closed before the response"
        );
    }
}
