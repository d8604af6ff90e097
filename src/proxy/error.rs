//! Owns: how a request can fail: the fact, who is to blame.
//! Invariant: no status codes here; `respond` is the one place that maps a fact to one.
//! Must not know: HTTP responses.

use std::time::Duration;

use crate::affinity::policy::RefusePolicy;
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
    NoBackend,
    /// The backend that holds the session can't serve, and the policy has no other do it.
    PinLost(RefusePolicy),
    /// The backend answered a request for a tunnel with a success that is none.
    NotSwitched,
    /// The request was given up while it was handled: the process ends, or a part of it has failed.
    GivenUp,
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
            ProxyError::NoBackend => "no_backend",
            ProxyError::PinLost(_) => "pin_lost",
            ProxyError::NotSwitched => "not_switched",
            ProxyError::GivenUp => "given_up",
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
}
