//! Owns: the plan of a drain: which sessions leave when, when it has ended, and when it probably will.
//! Invariant: pure; all sessions may leave by the deadline, none before the drain begins, spread evenly between.
//! Must not know: clocks, threads, or what carries the plan out.

use super::admission::AdminState;
use super::release::{Ramp, ReleaseRule};
use crate::events::{DrainPhase, Event};

/// The time from the publication of a rule until it applies, in milliseconds: requests that did not see it yet have been
/// counted by then, so nobody takes their sessions for idle.
const LEAD: u64 = 200;

/// How a backend is to be drained. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainOrder {
    /// How long it may take; `None` to wait until all sessions have ended by themselves.
    pub deadline: Option<u64>,
    /// Sessions without a request for this long leave first.
    pub idle: u64,
    /// The admin state afterwards; `None` leaves the backend in `drain`.
    pub then: Option<AdminState>,
}

impl DrainOrder {
    /// The default of `idle`.
    pub const IDLE: u64 = 30_000;
}

/// Who wants a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainCause {
    /// The operator.
    Operator,
    /// No source lists the backend any more.
    Leaving,
}

/// How a drain has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainEnd {
    /// Nothing was left of it.
    Drained,
    /// The deadline has come, and sessions or requests were left.
    Deadline,
    /// It was cancelled, or another state was set.
    Cancelled,
}

impl DrainEnd {
    /// Returns its word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            DrainEnd::Drained => "drained",
            DrainEnd::Deadline => "deadline",
            DrainEnd::Cancelled => "cancelled",
        }
    }

    /// Returns the end that this word means.
    pub(super) fn of(word: &str) -> Option<DrainEnd> {
        [DrainEnd::Drained, DrainEnd::Deadline, DrainEnd::Cancelled].into_iter().find(|end| end.as_str() == word)
    }
}

/// What a backend has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remaining {
    /// Live sessions.
    pub sessions: u64,
    /// Requests in flight, tunnels included.
    pub requests: u32,
}

/// A drain. Times are in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// What was wanted.
    pub order: DrainOrder,
    /// Who wanted it.
    pub cause: DrainCause,
    /// When it began.
    pub begun: u64,
    /// The admin state before.
    pub before: AdminState,
    /// The sessions that there were: the most that were counted.
    pub sessions: u64,
    /// How it ended, when, and with how many sessions left.
    pub end: Option<(DrainEnd, u64, u64)>,
}

impl Drain {
    /// Begins a drain at `now`, of a backend with this state and so many sessions.
    pub fn begin(order: DrainOrder, cause: DrainCause, before: AdminState, sessions: u64, now: u64) -> Drain {
        Drain { order, cause, begun: now, before, sessions, end: None }
    }

    /// Returns whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        self.end.is_none()
    }

    /// Returns when it ends at the latest.
    pub fn deadline(&self) -> Option<u64> {
        Some(self.begun.saturating_add(self.order.deadline?))
    }

    /// Makes the event that it has begun or ended on this backend.
    pub fn event(&self, pool: &str, backend: &str, phase: DrainPhase, sessions: u64) -> Event {
        let deadline = self.deadline().map(|deadline| deadline / 1000);
        Event::Drain { pool: pool.into(), backend: backend.into(), phase, sessions, deadline }
    }

    /// Returns the rule by which its sessions leave; `None` if they stay until they end. Idle sessions have three
    /// quarters of the time, the others the last one.
    pub fn rule(&self) -> Option<ReleaseRule> {
        let end = self.deadline()?;
        let from = self.begun.saturating_add(LEAD).min(end);
        let middle = from + (end - from) / 4 * 3;
        let (idle_ones, others) = (Ramp { from, to: middle }, Ramp { from: middle, to: end });
        Some(ReleaseRule { idle: self.order.idle, idle_ones, others, end })
    }

    /// Returns how it ends at `now`, if it does.
    pub fn ends(&self, left: Remaining, now: u64) -> Option<DrainEnd> {
        if !self.is_running() {
            return None;
        }
        // A backend whose members decide ends with them.
        let is_late = self.deadline().is_some_and(|deadline| now >= deadline);
        let is_empty = left == Remaining::default() && self.cause == DrainCause::Operator;
        if is_empty && (is_late || now >= self.begun.saturating_add(LEAD)) {
            return Some(DrainEnd::Drained);
        }
        is_late.then_some(DrainEnd::Deadline)
    }

    /// Estimates when it ends: as fast as until now, but at the deadline at the latest. `None` if nothing tells.
    pub fn estimated_end(&self, left: Remaining, now: u64) -> Option<u64> {
        let gone = self.sessions.saturating_sub(left.sessions);
        let passed = now.saturating_sub(self.begun);
        let at_this_rate = (gone > 0).then(|| {
            let rest = u128::from(passed) * u128::from(left.sessions) / u128::from(gone);
            now.saturating_add(u64::try_from(rest).unwrap_or(u64::MAX))
        });
        let estimate = at_this_rate.filter(|_| self.is_running());
        match (estimate, self.deadline()) {
            (Some(estimate), Some(deadline)) => Some(estimate.min(deadline)),
            (estimate, deadline) => estimate.or(deadline),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::release::SessionActivity;
    use super::*;
    use crate::pool::hash::mix;
    use proptest::prelude::*;

    const BEGUN: u64 = 1_000_000;

    fn drain(deadline: Option<u64>) -> Drain {
        let order = DrainOrder { deadline, idle: 30_000, then: None };
        Drain::begin(order, DrainCause::Operator, AdminState::Ready, 1000, BEGUN)
    }

    const NOTHING: Remaining = Remaining { sessions: 0, requests: 0 };

    #[test]
    fn a_drain_ends_with_its_last_session_and_request_or_at_its_deadline() {
        let drain = drain(Some(60_000));
        assert_eq!(drain.ends(NOTHING, BEGUN), None, "requests may not be counted yet");
        assert_eq!(drain.ends(NOTHING, BEGUN + LEAD), Some(DrainEnd::Drained));
        let left = Remaining { sessions: 0, requests: 1 };
        assert_eq!(drain.ends(left, BEGUN + 59_999), None);
        assert_eq!(drain.ends(left, BEGUN + 60_000), Some(DrainEnd::Deadline));
        let ended = Drain { end: Some((DrainEnd::Cancelled, BEGUN, 9)), ..drain };
        assert_eq!(ended.ends(NOTHING, BEGUN + 90_000), None);
        assert_eq!(self::drain(None).ends(left, u64::MAX), None);
        let leaving = Drain { cause: DrainCause::Leaving, ..drain };
        assert_eq!(leaving.ends(NOTHING, BEGUN + LEAD), None, "it is still a member");
    }

    #[test]
    fn a_backend_without_sessions_is_drained_also_by_a_deadline_that_comes_at_once() {
        let drain = drain(Some(1));
        assert_eq!(drain.ends(NOTHING, BEGUN), None);
        assert_eq!(drain.ends(NOTHING, BEGUN + 1), Some(DrainEnd::Drained));
        assert_eq!(drain.ends(Remaining { sessions: 1, requests: 0 }, BEGUN + 1), Some(DrainEnd::Deadline));
    }

    #[test]
    fn its_end_is_estimated_from_those_that_have_left() {
        let left = |sessions| Remaining { sessions, requests: 0 };
        assert_eq!(drain(None).estimated_end(left(1000), BEGUN + 5_000), None);
        assert_eq!(drain(None).estimated_end(left(750), BEGUN + 5_000), Some(BEGUN + 20_000));
        assert_eq!(drain(Some(10_000)).estimated_end(left(750), BEGUN + 5_000), Some(BEGUN + 10_000));
        assert_eq!(drain(Some(10_000)).estimated_end(left(1000), BEGUN + 5_000), Some(BEGUN + 10_000));
    }

    #[test]
    fn idle_sessions_leave_in_three_quarters_of_the_time_once_all_threads_know_and_others_in_the_last() {
        let rule = drain(Some(LEAD + 4_000)).rule().unwrap();
        let (from, end) = (BEGUN + LEAD, BEGUN + LEAD + 4_000);
        assert_eq!(
            (rule.idle_ones, rule.others),
            (Ramp { from, to: from + 3_000 }, Ramp { from: from + 3_000, to: end })
        );
        assert_eq!((rule.idle, rule.end), (30_000, end));
        let rule = drain(Some(LEAD / 2)).rule().unwrap();
        assert_eq!((rule.idle_ones.from, rule.end), (BEGUN + LEAD / 2, BEGUN + LEAD / 2), "there is no time for that");
    }

    #[test]
    fn without_a_deadline_no_session_has_to_leave() {
        assert_eq!(drain(None).rule(), None);
    }

    proptest! {
        /// Each client sends its requests at times of its own. Whatever they are, no session leaves before the drain
        /// begins, each leaves at its first request after the deadline at the latest, and none that has another
        /// request in flight leaves before it.
        #[test]
        fn no_session_leaves_early_or_in_the_middle_of_a_request_and_none_stays_longer(
            deadline in 0_u64..600_000, session: u64, gaps in proptest::collection::vec((1_u64..90_000, any::<bool>()), 1..60),
        ) {
            let rule = drain(Some(deadline)).rule().unwrap();
            let mut now = BEGUN - 100_000;
            for (gap, is_in_flight) in gaps {
                now += gap;
                let activity = SessionActivity { idle: gap, is_in_flight, has_left: false };
                let leaves = rule.releases(session, activity, now);
                prop_assert!(!leaves || now >= BEGUN.saturating_add(LEAD).min(BEGUN + deadline));
                prop_assert!(!(leaves && is_in_flight) || now >= BEGUN + deadline);
                prop_assert!(leaves || now < BEGUN + deadline);
                if leaves {
                    break;
                }
            }
        }

        /// A thousand clients that come every ten to sixty seconds leave evenly, and next to all before the deadline.
        #[test]
        fn sessions_leave_evenly_over_the_time(minutes in 5_u64..30, seed: u64) {
            let (rule, length) = (drain(Some(minutes * 60_000)).rule().unwrap(), minutes * 60_000);
            let mut by_tenth = [0_i64; 11];
            for client in 0..1000 {
                let gap = 10_000 + mix(seed ^ client) % 50_000;
                let mut now = BEGUN + mix(client ^ !seed) % gap;
                let session = mix(seed.wrapping_add(client));
                while !rule.releases(session, SessionActivity { idle: gap, ..SessionActivity::default() }, now) {
                    now += gap;
                }
                by_tenth[((now - BEGUN) * 10 / length).min(10) as usize] += 1;
            }
            // Those that come more often than `idle` are 40 percent: they leave in the last quarter.
            let idle = by_tenth[1..7].iter().sum::<i64>() / 6;
            prop_assert!(by_tenth[1..7].iter().all(|count| (count - idle).abs() < 45), "{by_tenth:?}");
            prop_assert!(by_tenth[10] < 150, "{by_tenth:?}");
        }
    }
}
