//! Owns: the rule by which sessions leave a living backend, one after the other, each at its next request.
//! Invariant: pure; before its end a rule never releases a session with another request or a tunnel in flight.
//! Must not know: why sessions leave, where they go, or how a rule gets to the data-path threads.
//!
//! The control thread publishes a rule for a backend ([`super::draining::Draining::publish`]), and withdraws it. Each
//! request whose pin names the backend asks the rule at its time; there is no list of sessions and nothing to update
//! while time passes: a share that grows with the time, and a hash of the session, say whose turn it is. A released
//! session is judged as one whose backend drains, and so moves as its pool's policy and failover order say.
//! [`super::sessions::Sessions::begin_unless_released`] asks the rule and counts the request in, in one step.

use crate::pool::hash::mix;

/// A share of the sessions that grows evenly from 0 at `from` to 1 at `to`, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    /// When the first ones leave.
    pub from: u64,
    /// By when all may leave.
    pub to: u64,
}

/// Which sessions a backend releases, and when. Times are in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseRule {
    /// For how long a session must be idle to be an idle one, in milliseconds.
    pub idle: u64,
    /// When idle sessions leave.
    pub idle_ones: Ramp,
    /// When the others leave, unless they have another request in flight.
    pub others: Ramp,
    /// From when on all leave, whatever they have in flight.
    pub end: u64,
}

/// What is known of a session when a request of it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionActivity {
    /// The time since its last request, in milliseconds.
    pub idle: u64,
    /// It has another request or a tunnel in flight.
    pub is_in_flight: bool,
    /// Another of its requests has just left the backend.
    pub has_left: bool,
}

impl Ramp {
    /// Returns the share at `now`.
    fn share(self, now: u64) -> f64 {
        let (passed, whole) = (now.saturating_sub(self.from), self.to.saturating_sub(self.from));
        if now < self.from {
            0.0
        } else if passed >= whole {
            1.0
        } else {
            passed as f64 / whole as f64
        }
    }
}

impl ReleaseRule {
    /// Returns whether a session leaves at `now`.
    pub fn releases(&self, session: u64, activity: SessionActivity, now: u64) -> bool {
        if activity.has_left || now >= self.end {
            return true;
        }
        // All idle ones may leave before the first of the others may.
        let ramp = if activity.idle >= self.idle { self.idle_ones } else { self.others };
        !activity.is_in_flight && turn(session) < ramp.share(now)
    }
}

/// Returns a session's place in the order in which sessions leave, from 0 to 1. The hash differs from that of the
/// failover order, or the first sessions to leave would all go to the same backend.
fn turn(session: u64) -> f64 {
    (mix(session ^ 0x0072_656c_6561_7365) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: ReleaseRule = ReleaseRule {
        idle: 30,
        idle_ones: Ramp { from: 1_000, to: 2_000 },
        others: Ramp { from: 2_000, to: 3_000 },
        end: 3_000,
    };

    #[test]
    fn a_session_that_another_request_has_moved_follows_it_and_at_the_end_all_leave() {
        let busy = SessionActivity { idle: 0, is_in_flight: true, has_left: false };
        assert!(!RULE.releases(7, busy, 2_999));
        assert!(RULE.releases(7, busy, 3_000));
        assert!(RULE.releases(7, SessionActivity { has_left: true, ..busy }, 1));
    }

    #[test]
    fn a_ramp_without_length_is_a_step() {
        let ramp = Ramp { from: 5, to: 5 };
        assert_eq!((ramp.share(4), ramp.share(5), ramp.share(6)), (0.0, 1.0, 1.0));
        assert_eq!(Ramp { from: 0, to: u64::MAX }.share(1_000_000), 1_000_000.0 / u64::MAX as f64);
    }

    proptest! {
        #[test]
        fn a_session_that_is_released_once_stays_so_and_idle_ones_go_before_others(
            session: u64, idle in 0_u64..60, from in 0_u64..4_000, later in 0_u64..4_000,
        ) {
            let activity = SessionActivity { idle, is_in_flight: false, has_left: false };
            if RULE.releases(session, activity, from) {
                prop_assert!(RULE.releases(session, activity, from + later));
                let longer = SessionActivity { idle: idle + 30, ..activity };
                prop_assert!(RULE.releases(session, longer, from));
                let first = if idle >= 30 { 1_000 } else { 2_000 };
                prop_assert!(from >= first);
            }
        }
    }
}
