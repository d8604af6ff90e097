//! Owns: what is done when a pin does not hold, cause by cause: `on = { … }` of `[pools.persistence]`.
//! Invariant: every cause that can break a pin has a policy; one that ends a session has none but a new session.
//! Must not know: pools, requests.

use std::time::Duration;

use super::verdict::Cause;

/// What is done when a pin does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Serve elsewhere and pin there.
    #[default]
    Move,
    /// Serve elsewhere and keep the pin: the client is back as soon as its server is.
    Borrow,
    /// Serve nowhere else: answer with an error that says when to come again.
    Refuse(RefusePolicy),
    /// Hold the request for a while, for the server to come back; then move.
    Wait(WaitPolicy),
}

/// The answer to a request whose pin must hold and does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusePolicy {
    /// Its status, 400 to 599.
    pub status: u16,
    /// Seconds after which the client may come again: the field Retry-After.
    pub retry_after: u32,
}

/// How long, and how many, requests wait for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitPolicy {
    /// The longest that one waits.
    pub max_time: Duration,
    /// How many wait for one server at once, over all threads; one more is moved at once.
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
    /// The words of the configuration.
    pub const NAMES: [&'static str; 4] = ["move", "borrow", "refuse", "wait"];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Move => Self::NAMES[0],
            Policy::Borrow => Self::NAMES[1],
            Policy::Refuse(_) => Self::NAMES[2],
            Policy::Wait(_) => Self::NAMES[3],
        }
    }

    /// Whether this means something for `cause`. What ended a session leaves nothing to move,
    /// borrow or wait for: a new one begins, and nothing fails by it. A server that drains, and
    /// one that the configuration doesn't have, is not coming back.
    pub fn suits(self, cause: Cause) -> bool {
        match cause {
            Cause::Down | Cause::Maintenance | Cause::Full | Cause::Failed => true,
            Cause::Draining | Cause::Unknown | Cause::Replaced => !matches!(self, Policy::Wait(_)),
            Cause::IdleExpired | Cause::AbsoluteExpired | Cause::Unreadable => false,
        }
    }
}

/// The policies of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies {
    configured: [Option<Policy>; Cause::NAMES.len()],
}

impl Policies {
    /// Sets what is done for `cause`.
    pub fn set(&mut self, cause: Cause, policy: Policy) {
        self.configured[cause as usize] = Some(policy);
    }

    /// The policy for `cause`. A server that fails a request is as good as down, and only the probes
    /// don't know yet: unless it is said otherwise, the policy for `down` is for both.
    pub fn of(&self, cause: Cause) -> Policy {
        let configured = |cause: Cause| self.configured[cause as usize];
        let fallback = if cause == Cause::Failed { configured(Cause::Down) } else { None };
        configured(cause).or(fallback).unwrap_or_default()
    }

    /// The longest that a request waits by any of them, if one waits at all.
    pub fn longest_wait(&self) -> Option<Duration> {
        let waits = self.configured.iter().flatten().filter_map(|policy| match policy {
            Policy::Wait(wait) => Some(wait.max_time),
            Policy::Move | Policy::Borrow | Policy::Refuse(_) => None,
        });
        waits.max()
    }

    /// Whether a policy was set for `cause`.
    pub fn is_set(&self, cause: Cause) -> bool {
        self.configured[cause as usize].is_some()
    }

    /// Whether sessions leave a server that drains before their time. Draining keeps them, unless
    /// a policy says otherwise.
    pub fn leave_draining(&self) -> bool {
        self.is_set(Cause::Draining)
    }
}

/// The limits of a session's life, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetimes {
    /// Silence that ends it.
    pub idle: Option<u64>,
    /// Age that ends it.
    pub absolute: Option<u64>,
}

/// What a pool's pins are held to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionPolicy {
    /// How long a session lives.
    pub lifetimes: Lifetimes,
    /// What is done when a pin does not hold.
    pub policies: Policies,
    /// How far ahead of this clock a pin may be dated, in seconds; without a limit where none is set.
    pub max_clock_skew: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_server_is_treated_as_one_that_is_down_unless_said_otherwise() {
        let mut policies = Policies::default();
        assert_eq!(policies.of(Cause::Failed), Policy::Move);
        policies.set(Cause::Down, Policy::Borrow);
        assert_eq!((policies.of(Cause::Failed), policies.of(Cause::Full)), (Policy::Borrow, Policy::Move));
        policies.set(Cause::Failed, Policy::Move);
        assert_eq!(policies.of(Cause::Failed), Policy::Move);
        assert!(!policies.leave_draining());
    }
}
