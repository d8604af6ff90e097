//! Owns: the drain of one backend as all threads see it: the plan, the rule that releases its sessions, and its end.
//! Invariant: a request reads one flag where no rule is published; what is published is written rarely.
//! Must not know: what follows from a drain; when it ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

use super::drain::{Drain, DrainCause, DrainEnd};
use super::release::ReleaseRule;

/// The drain of a backend, and the rule by which it gives up its sessions.
#[derive(Debug, Default)]
pub struct Draining {
    drain: Mutex<Option<Drain>>,
    is_running: AtomicBool,
    has_rule: AtomicBool,
    rule: ArcSwapOption<ReleaseRule>,
    /// Streams and tunnels that began before then end, in milliseconds since the Unix epoch.
    streams_end: AtomicU64,
}

impl Draining {
    /// Returns the drain that runs, or the last one that has ended.
    pub fn current(&self) -> Option<Drain> {
        *self.drain()
    }

    /// Returns whether a drain runs.
    pub fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Relaxed)
    }

    /// Begins a drain, and publishes its rule.
    pub(super) fn begin(&self, drain: Drain) {
        let mut current = self.drain();
        *current = Some(drain);
        self.is_running.store(drain.is_running(), Ordering::Relaxed);
        self.publish(drain.rule());
    }

    /// Notes how many sessions there are: no more than that have been there since it began.
    pub fn note_sessions(&self, sessions: u64) {
        if let Some(drain) = self.drain().as_mut().filter(|drain| drain.is_running()) {
            drain.sessions = drain.sessions.max(sessions);
        }
    }

    /// Records how the running drain has ended, with so many sessions left. Returns it; `None` if none runs. The rule
    /// stays: sessions that return later leave.
    pub(super) fn end(&self, end: DrainEnd, now: u64, sessions: u64) -> Option<Drain> {
        let mut current = self.drain();
        let drain = current.as_mut().filter(|drain| drain.is_running())?;
        drain.end = Some((end, now, sessions));
        self.is_running.store(false, Ordering::Relaxed);
        Some(*drain)
    }

    /// Cancels the running drain, if it has this cause.
    pub(super) fn cancel(&self, cause: DrainCause, now: u64) -> Option<Drain> {
        if !self.current().is_some_and(|drain| drain.is_running() && drain.cause == cause) {
            return None;
        }
        self.publish(None);
        self.end(DrainEnd::Cancelled, now, 0)
    }

    /// Cancels the operator's drain and withdraws its rule, since another state is set. One that has ended keeps its end.
    pub(super) fn stop_operators_drain(&self, now: u64) {
        if self.current().is_some_and(|drain| drain.cause == DrainCause::Operator) {
            self.publish(None);
            self.end(DrainEnd::Cancelled, now, 0);
        }
    }

    /// Publishes the rule by which sessions leave the backend, or withdraws it.
    pub fn publish(&self, rule: Option<ReleaseRule>) {
        self.rule.store(rule.map(Arc::new));
        self.has_rule.store(rule.is_some(), Ordering::Release);
    }

    /// Returns the published rule.
    pub fn rule(&self) -> Option<ReleaseRule> {
        if self.has_rule.load(Ordering::Acquire) { self.rule.load().as_deref().copied() } else { None }
    }

    /// Ends the streams and tunnels that began before `now`, once they notice.
    pub(super) fn end_streams(&self, now: u64) {
        self.streams_end.fetch_max(now, Ordering::Relaxed);
    }

    /// Ends the streams and tunnels of a backend that is removed at `now`, if it was leaving, and returns whether it was.
    /// Those of one that the operator has removed go on.
    pub(super) fn end_streams_of_leaving(&self, now: u64) -> bool {
        let was_leaving = |drain: Drain| drain.is_running() && drain.cause == DrainCause::Leaving;
        let ends = self.current().is_some_and(was_leaving);
        if ends {
            self.end_streams(now);
        }
        ends
    }

    /// Returns whether a stream or tunnel that began at `begun`, in milliseconds since the Unix epoch, ends.
    pub fn ends_stream(&self, begun: u64) -> bool {
        begun < self.streams_end.load(Ordering::Relaxed)
    }

    fn drain(&self) -> MutexGuard<'_, Option<Drain>> {
        // Nothing under the lock can panic after a change.
        self.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::admission::AdminState;
    use super::super::drain::DrainOrder;
    use super::*;

    #[test]
    fn a_rule_is_published_with_its_drain_and_withdrawn_when_it_is_cancelled() {
        let draining = Draining::default();
        assert_eq!((draining.rule(), draining.current()), (None, None));
        let order = DrainOrder { deadline: Some(1_000), idle: 10, then: None };
        let drain = Drain::begin(order, DrainCause::Operator, AdminState::Ready, 5, 7_000);
        draining.begin(drain);
        assert_eq!((draining.rule(), draining.is_running()), (drain.rule(), true));
        assert_eq!(draining.cancel(DrainCause::Leaving, 7_100), None);
        assert_eq!(draining.cancel(DrainCause::Operator, 7_100).unwrap().end, Some((DrainEnd::Cancelled, 7_100, 0)));
        assert_eq!((draining.rule(), draining.is_running()), (None, false));
        draining.begin(drain);
        assert!(draining.end(DrainEnd::Deadline, 8_000, 2).is_some());
        assert_eq!(draining.end(DrainEnd::Deadline, 8_000, 2), None, "it has ended");
        assert_eq!(draining.rule(), drain.rule(), "sessions that return later leave");
    }

    #[test]
    fn streams_end_that_began_before() {
        let draining = Draining::default();
        assert!(!draining.ends_stream(0));
        draining.end_streams(100);
        draining.end_streams(50);
        assert!(draining.ends_stream(99) && !draining.ends_stream(100));
    }
}
