//! Owns: a session's lifetime, and what to do for each cause why a pin does not hold (`on` of `[pools.persistence]`).
//! Invariant: every cause that breaks a pin has a policy; a cause that ends a session has none: a new session begins.
//! Must not know: pools, requests.

use std::time::Duration;

use super::verdict::Cause;

/// What to do when a pin does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Serve on another backend and pin there.
    #[default]
    Move,
    /// Serve on another backend and keep the pin: the client returns to its backend as soon as that can serve.
    Borrow,
    /// Serve on no other backend: respond with an error that says when to retry.
    Refuse(RefusePolicy),
    /// Hold the request for a while, until its backend can serve again; then move.
    Wait(WaitPolicy),
}

/// The response to a request whose pin must hold but does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusePolicy {
    /// The status code, 400 to 599.
    pub status: u16,
    /// The value of Retry-After, in seconds.
    pub retry_after: u32,
}

/// How long requests wait for a backend, and how many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitPolicy {
    /// The longest time that one request waits.
    pub max_time: Duration,
    /// How many requests wait for one backend at once, over all threads. One more is moved at once.
    pub max_waiting: u32,
}

impl Default for RefusePolicy {
    fn default() -> Self {
        RefusePolicy { status: 503, retry_after: 5 }
    }
}

impl Default for WaitPolicy {
    fn default() -> Self {
        WaitPolicy { max_time: Duration::from_secs(10), max_waiting: 1000 }
    }
}

impl Policy {
    /// The configuration's words for the policies.
    pub const NAMES: [&'static str; 4] = ["move", "borrow", "refuse", "wait"];

    /// The configuration's word for this policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Move => Self::NAMES[0],
            Policy::Borrow => Self::NAMES[1],
            Policy::Refuse(_) => Self::NAMES[2],
            Policy::Wait(_) => Self::NAMES[3],
        }
    }

    /// Whether this policy can apply to `cause`. A session that has ended leaves nothing to move, borrow or wait for: a
    /// new one begins, and no request fails. To wait for a backend makes no sense if it drains, or if the pool does not
    /// have it.
    pub fn suits(self, cause: Cause) -> bool {
        match cause {
            Cause::Down | Cause::Maintenance | Cause::Full | Cause::Failed => true,
            Cause::Draining | Cause::Unknown | Cause::Replaced => !matches!(self, Policy::Wait(_)),
            Cause::IdleExpired | Cause::AbsoluteExpired | Cause::Unreadable | Cause::Rebalanced => false,
        }
    }
}

/// The policies of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies {
    configured: [Option<Policy>; Cause::NAMES.len()],
}

impl Policies {
    /// Sets the policy for `cause`.
    pub fn set(&mut self, cause: Cause, policy: Policy) {
        self.configured[cause as usize] = Some(policy);
    }

    /// The policy for `cause`. A backend that fails a request is as good as down, before the probes have noticed: so
    /// the policy for `down` applies to `failed` as well, unless one is configured.
    pub fn of(&self, cause: Cause) -> Policy {
        let configured = |cause: Cause| self.configured[cause as usize];
        let fallback = if cause == Cause::Failed { configured(Cause::Down) } else { None };
        configured(cause).or(fallback).unwrap_or_default()
    }

    /// The longest time that a request waits under any of the policies, or `None` if none of them waits.
    pub fn longest_wait(&self) -> Option<Duration> {
        let waits = self.configured.iter().flatten().filter_map(|policy| match policy {
            Policy::Wait(wait) => Some(wait.max_time),
            Policy::Move | Policy::Borrow | Policy::Refuse(_) => None,
        });
        waits.max()
    }

    /// Whether a policy is configured for `cause`.
    pub fn is_set(&self, cause: Cause) -> bool {
        self.configured[cause as usize].is_some()
    }

    /// Whether sessions leave a draining backend before they end. A draining backend keeps its sessions unless a policy
    /// is configured.
    pub fn leave_draining(&self) -> bool {
        self.is_set(Cause::Draining)
    }
}

/// The limits of a session's lifetime, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetimes {
    /// The session ends after this long without a request.
    pub idle: Option<u64>,
    /// The session ends this long after its start.
    pub absolute: Option<u64>,
}

/// How a pool judges its pins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionPolicy {
    /// How long a session lives.
    pub lifetimes: Lifetimes,
    /// What to do when a pin does not hold.
    pub policies: Policies,
    /// How far ahead of this clock a pin may be dated, in seconds; `None` for no limit.
    pub max_clock_skew: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_backend_is_treated_as_one_that_is_down_unless_configured_otherwise() {
        let mut policies = Policies::default();
        assert_eq!(policies.of(Cause::Failed), Policy::Move);
        policies.set(Cause::Down, Policy::Borrow);
        assert_eq!((policies.of(Cause::Failed), policies.of(Cause::Full)), (Policy::Borrow, Policy::Move));
        policies.set(Cause::Failed, Policy::Move);
        assert_eq!(policies.of(Cause::Failed), Policy::Move);
        assert!(!policies.leave_draining());
    }
}
