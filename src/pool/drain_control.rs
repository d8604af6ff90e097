//! Owns: how a drain begins, ends and is cancelled on a backend, together with the backend's admin state.
//! Invariant: a drain that ends sets the state that its order names; one that is cancelled sets the state from before.
//! Must not know: who asks for a drain; when one ends.

use std::sync::Arc;

use super::admission::AdminState;
use super::backend_set::Pool;
use super::drain::{Drain, DrainCause, DrainEnd, DrainOrder};
use super::live::Live;

impl Live {
    /// Drains the backend at `now`, in milliseconds since the Unix epoch, of so many sessions.
    pub fn begin_drain(self: &Arc<Self>, order: DrainOrder, sessions: u64, now: u64) {
        // One after the other goes back to what was before the first one.
        let before = self.state_before_drain().unwrap_or(self.wanted());
        self.set_state(AdminState::Drain);
        self.draining().begin(Drain::begin(order, DrainCause::Operator, before, sessions, now));
    }

    /// Cancels the operator's drain, or ends the state `drain` that one has left or that was set by hand. Returns the state
    /// that holds then; `None` if the state is another one.
    pub fn cancel_drain(self: &Arc<Self>, now: u64) -> Option<AdminState> {
        let before = self.state_before_drain();
        let was_running = self.draining().cancel(DrainCause::Operator, now).is_some();
        if !was_running && self.wanted() != AdminState::Drain {
            return None;
        }
        let state = before.unwrap_or(AdminState::Ready);
        self.set_state(state);
        Some(state)
    }

    /// Returns the state from before the operator's drain, if it is its drain that the backend is in.
    fn state_before_drain(&self) -> Option<AdminState> {
        let drain = self.draining().current().filter(|drain| drain.cause == DrainCause::Operator)?;
        // One that was cancelled, or has set another state, has nothing to do with a `drain` that was set since.
        let was_cancelled = drain.end.is_some_and(|(end, ..)| end == DrainEnd::Cancelled);
        let leaves_it = drain.order.then.is_none_or(|then| then == AdminState::Drain);
        let has_left_it = self.wanted() == AdminState::Drain && leaves_it && !was_cancelled;
        (drain.is_running() || (has_left_it && drain.before != AdminState::Drain)).then_some(drain.before)
    }

    /// Ends the running drain like this, with so many sessions left. Returns it; `None` if none runs.
    pub fn end_drain(self: &Arc<Self>, end: DrainEnd, sessions: u64, now: u64) -> Option<Drain> {
        let drain = self.draining().end(end, now, sessions)?;
        if let Some(then) = drain.order.then {
            self.set_state(then);
        }
        Some(drain)
    }

    /// Takes over the operator's drain of the server that had the name before: it is a part of what the operator has set.
    pub(super) fn adopt_drain(&self, former: &Live) {
        let running = former.draining().current().filter(|drain| drain.is_running());
        let kept = |drain: &Drain| drain.cause == DrainCause::Operator && self.wanted() == AdminState::Drain;
        running.filter(kept).into_iter().for_each(|drain| self.draining().begin(drain));
    }

    /// Goes on with a drain that another process has begun. The rule of one that has ended holds while the backend drains.
    pub(super) fn resume_drain(&self, drain: Drain) {
        self.draining().begin(drain);
        if self.wanted() != AdminState::Drain || drain.end.is_some_and(|(end, ..)| end == DrainEnd::Cancelled) {
            self.draining().publish(None);
        }
    }

    /// Follows what the sources say: a backend that is leaving drains until `leaves_at`, in milliseconds since the Unix
    /// epoch, or for as long as it is a member.
    pub(super) fn follow_sources(self: &Arc<Self>, leaving: bool, leaves_at: Option<u64>, now: u64) {
        let was_leaving = self.is_leaving();
        self.set_leaving(leaving);
        if !leaving {
            self.draining().cancel(DrainCause::Leaving, now);
        } else if !was_leaving && !self.draining().is_running() {
            let deadline = leaves_at.map(|leaves_at| leaves_at.saturating_sub(now));
            let order = DrainOrder { deadline, idle: DrainOrder::IDLE, then: None };
            // They are counted at once.
            self.draining().begin(Drain::begin(order, DrainCause::Leaving, self.wanted(), 0, now));
        }
    }
}

impl Pool {
    /// Ends the streams and tunnels of the backend at a position of this pool that began before `now`, in milliseconds
    /// since the Unix epoch. Requests in flight go on.
    pub fn end_streams(&self, index: usize, now: u64) {
        let live = self.backend(index).live();
        live.draining().end_streams(now);
        self.health_tracker().backend_down.notify(live.id());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{backend, reconcile};
    use super::*;

    #[test]
    fn a_drain_that_was_left_for_another_state_does_not_say_what_holds_after_a_later_one() {
        let pool = reconcile::pool_of("app", [backend::Settings::new("a", "127.0.0.1:1".parse().unwrap())]);
        let live = pool.backend(0).live();
        let order = |then| DrainOrder { deadline: None, idle: DrainOrder::IDLE, then };
        for then in [None, Some(AdminState::Ready)] {
            live.set_state(AdminState::Maintenance);
            live.begin_drain(order(then), 0, 1);
            match then {
                None => assert!(live.cancel_drain(2).is_some()),
                Some(_) => assert!(live.end_drain(DrainEnd::Drained, 0, 2).is_some()),
            }
            live.set_state(AdminState::Ready);
            live.set_state(AdminState::Drain);
            assert_eq!(live.cancel_drain(3), Some(AdminState::Ready), "{then:?}");
        }
        // One that has ended in `drain`, where the backend still is.
        live.set_state(AdminState::Maintenance);
        live.begin_drain(order(None), 0, 1);
        live.end_drain(DrainEnd::Drained, 0, 2);
        assert_eq!(live.cancel_drain(3), Some(AdminState::Maintenance));
    }
}
