//! Owns: the verdict on a request: whether its pin holds, the cause if not, the next step, and the pin that follows.
//! Invariant: pure: the same pin, pool, policies, time and random number give the same decision in every Linchpin.
//! Must not know: where the pin travels, or how a backend is chosen.

use std::sync::Arc;

use super::lookup::{PinLookup, RoutedId};
use super::policy::{Policies, Policy, RefusePolicy, SessionPolicy, WaitPolicy};
use super::seal::Pin;
use super::verdict::{Cause, Verdict};
use crate::pool::{AdminState, Closed, Pool};

/// What happens to a request next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// A backend serves it: the target first, if there is one.
    Serve,
    /// It waits for the backend that it is pinned to.
    Wait(WaitPolicy),
    /// It gets an error response.
    Refuse(RefusePolicy),
}

/// The verdict on one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The verdict. While a request waits, the verdict that applies if its backend does not return.
    pub verdict: Verdict,
    /// Why the presented pin does not hold, if it does not.
    pub cause: Option<Cause>,
    /// The session's id: the pin's, or a new one.
    pub session: u64,
    /// When the session began, in seconds since the Unix epoch.
    pub issued: u64,
    /// The position of the backend that the pin names, if the pool has it: a hit goes there, and a moved session leaves
    /// it.
    pub pinned: Option<usize>,
    /// What happens to the request next.
    pub next: NextStep,
    target: Option<usize>,
    /// The backend that has a copy of the session. Whether it can serve is asked only if the pin does not hold.
    copy: Replica,
    /// No backend but the target may serve the request.
    is_exclusive: bool,
    renew: bool,
    /// The term to issue.
    term: u32,
    /// The replica to issue.
    replica: Replica,
    /// The pin that the request presented, if it can be issued again.
    presented: Option<Arc<Pin>>,
}

/// The second backend that holds a session's state, as far as this request knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replica {
    /// What the presented pin says still holds, as long as the session stays where it is.
    Presented,
    /// The backend at this position, or none.
    Known(Option<usize>),
}

/// Judges a request's pin at `now`, in seconds since the Unix epoch. `fresh` is a random number: the id of the session,
/// if this is a new one. A clock that runs behind the clock that sealed the pin makes a session younger, never older:
/// replicas whose clocks are a minute apart do no harm. A pin that is dated further ahead than `max_clock_skew` is
/// unreadable, since it would never expire.
pub fn decide(lookup: PinLookup, pool: &Pool, session_policy: &SessionPolicy, now: u64, fresh: u64) -> Decision {
    match lookup {
        PinLookup::Absent => Decision::new(None, now, fresh),
        PinLookup::Unreadable | PinLookup::UnknownKey => Decision::new(Some(Cause::Unreadable), now, fresh),
        PinLookup::Pinned(pin) => judge(pin, pool, session_policy, now, fresh),
        PinLookup::Routed(routed) => judge_routed(routed, pool, &session_policy.policies, now),
        // An unknown session goes where every Linchpin would send it.
        PinLookup::Unlearned(key) => {
            Decision::existing(key.session(), now).break_pin(Cause::Unknown, pool, &session_policy.policies)
        }
    }
}

fn judge(pin: Arc<Pin>, pool: &Pool, session_policy: &SessionPolicy, now: u64, fresh: u64) -> Decision {
    let SessionPolicy { lifetimes, policies, max_clock_skew } = session_policy;
    if max_clock_skew.is_some_and(|skew| pin.issued.max(pin.last_seen) > now.saturating_add(skew)) {
        return Decision::new(Some(Cause::Unreadable), now, fresh);
    }
    let has_passed = |limit: Option<u64>, since: u64| limit.is_some_and(|limit| now.saturating_sub(since) >= limit);
    let expiry = if has_passed(lifetimes.absolute, pin.issued) {
        Some(Cause::AbsoluteExpired)
    } else {
        has_passed(lifetimes.idle, pin.last_seen).then_some(Cause::IdleExpired)
    };
    if expiry.is_some() {
        return Decision { presented: Some(pin), ..Decision::new(expiry, now, fresh) };
    }
    let pinned = pool.position(&pin.backend);
    let cause = match pinned {
        None => Some(Cause::Unknown),
        Some(index) if !pool.backend(index).is_of(pin.incarnation, pin.last_seen) => Some(Cause::Replaced),
        Some(index) => blocking_cause(pool, index, policies),
    };
    let decision = Decision {
        pinned,
        copy: Replica::Presented,
        term: pin.term,
        renew: has_passed(lifetimes.idle.map(|idle| idle.div_ceil(4)), pin.last_seen),
        issued: pin.issued,
        ..Decision::existing(pin.session, now)
    };
    let decision = Decision { presented: Some(pin), ..decision };
    match cause {
        None => decision.hold(),
        Some(cause) => decision.break_pin(cause, pool, policies),
    }
}

/// Judges an id in which the application names the backend that holds the session, and perhaps backends that have a
/// copy. If the first can't serve, one with a copy serves whatever the policy, since nothing is lost there.
fn judge_routed(routed: RoutedId, pool: &Pool, policies: &Policies, now: u64) -> Decision {
    let decision = Decision { pinned: routed.backends[0], ..Decision::existing(routed.session, now) };
    let cause = match decision.pinned {
        None => Some(Cause::Unknown),
        Some(index) => blocking_cause(pool, index, policies),
    };
    let mut copies = routed.backends.into_iter().skip(1).flatten();
    let copy = copies.find(|copy| blocking_cause(pool, *copy, policies).is_none());
    let decision = Decision { copy: Replica::Known(copy), ..decision };
    match cause {
        None => decision.hold(),
        Some(cause) => decision.break_pin(cause, pool, policies),
    }
}

/// Returns why the backend can't serve a session that is pinned to it, or `None` if it can.
fn blocking_cause(pool: &Pool, index: usize, policies: &Policies) -> Option<Cause> {
    let live = pool.backend(index).live();
    match live.accepts_existing() {
        Ok(()) => {
            let leaves = policies.leave_draining() && live.state() == AdminState::Drain && has_other(pool, index);
            leaves.then_some(Cause::Draining)
        }
        Err(Closed::Maintenance) => Some(Cause::Maintenance),
        Err(Closed::Full) => Some(Cause::Full),
        // A draining backend, one of weight 0 and one with all its sessions keep them: `accepts_existing` returns none of
        // the three.
        Err(Closed::Down | Closed::Draining | Closed::NoWeight | Closed::SessionsFull) => Some(Cause::Down),
    }
}

/// Returns whether sessions of the backend at position `index` can go to another one: else they stay, since a backend
/// that drains is better than none.
pub fn has_other(pool: &Pool, index: usize) -> bool {
    let mut others = pool.backends().iter().enumerate().filter(|(other, _)| *other != index);
    others.any(|(_, other)| other.live().accepts_new().is_ok())
}

impl Decision {
    fn new(cause: Option<Cause>, now: u64, fresh: u64) -> Decision {
        Decision { verdict: Verdict::New, cause, renew: true, ..Decision::existing(fresh, now) }
    }

    /// The decision for a request that is not pinned, because the pool does not pin or a rule exempts the request.
    /// `fresh` only spreads the failover of such requests.
    pub fn unpinned(fresh: u64) -> Decision {
        Decision { verdict: Verdict::None, ..Decision::existing(fresh, 0) }
    }

    /// The decision for a request that goes to one backend whatever its state, and to no other.
    pub fn forced(index: usize, fresh: u64) -> Decision {
        Decision { target: Some(index), is_exclusive: true, ..Decision::unpinned(fresh) }
    }

    fn existing(session: u64, now: u64) -> Decision {
        Decision {
            verdict: Verdict::Hit,
            cause: None,
            session,
            issued: now,
            pinned: None,
            next: NextStep::Serve,
            target: None,
            copy: Replica::Known(None),
            is_exclusive: false,
            renew: false,
            term: 0,
            replica: Replica::Presented,
            presented: None,
        }
    }

    fn hold(self) -> Decision {
        Decision { target: self.pinned, ..self }
    }

    fn break_pin(mut self, cause: Cause, pool: &Pool, policies: &Policies) -> Decision {
        self.apply_policy(cause, pool, policies);
        self
    }

    /// Applies the policy for a pin that does not hold.
    fn apply_policy(&mut self, cause: Cause, pool: &Pool, policies: &Policies) {
        self.cause = Some(cause);
        self.target = self.take_copy(pool, policies);
        (self.verdict, self.next) = match policies.of(cause) {
            _ if self.target.is_some() => (Verdict::Moved, NextStep::Serve),
            Policy::Move => (Verdict::Moved, NextStep::Serve),
            Policy::Borrow => (Verdict::Borrowed, NextStep::Serve),
            Policy::Refuse(refusal) => (Verdict::Refused, NextStep::Refuse(refusal)),
            Policy::Wait(wait) => (Verdict::Moved, NextStep::Wait(wait)),
        };
    }

    /// Returns the position of a backend that has a copy of the session and can serve it, once.
    fn take_copy(&mut self, pool: &Pool, policies: &Policies) -> Option<usize> {
        let copy = match std::mem::replace(&mut self.copy, Replica::Known(None)) {
            Replica::Presented => self.presented_replica(pool).filter(|replica| self.pinned != Some(*replica)),
            Replica::Known(copy) => copy,
        };
        copy.filter(|copy| blocking_cause(pool, *copy, policies).is_none())
    }

    /// Returns whether the request adds a session to the backend at position `index`, if its response has a pin.
    pub fn adds_session_to(&self, index: usize) -> bool {
        self.counts_as_session() && (self.verdict == Verdict::New || self.pinned != Some(index))
    }

    /// The position of the backend that this request goes to first.
    pub fn target(&self) -> Option<usize> {
        self.target
    }

    /// Whether no backend but the target may serve the request.
    pub fn is_exclusive(&self) -> bool {
        self.is_exclusive
    }

    /// Makes a new session the session of another first request of the same client, on the same backend.
    pub fn join_session(&mut self, index: usize, session: u64) {
        if self.verdict == Verdict::New {
            (self.target, self.session) = (Some(index), session);
        }
    }

    /// Ends the wait with success: the pinned backend serves again.
    pub fn resume_on_pinned(&mut self) {
        self.next = NextStep::Serve;
        (self.verdict, self.cause, self.target) = (Verdict::Hit, None, self.pinned);
    }

    /// Records that the backend at position `by` has served. If that is the pinned backend, the session was not moved,
    /// whatever was decided before. A backend that only took over the name is another one.
    pub fn mark_served_by(&mut self, by: usize) {
        if self.pinned == Some(by) && self.cause != Some(Cause::Replaced) && self.verdict != Verdict::Hit {
            self.resume_on_pinned();
        }
    }

    /// Ends the wait without success: the request goes elsewhere.
    pub fn stop_waiting(&mut self) {
        self.next = NextStep::Serve;
    }

    /// Records that the backend at position `failed` failed this request: the request does not go there again. Under
    /// the policy `move` the session leaves it for good once another backend has answered.
    pub fn lose_target(&mut self, failed: usize, cause: Cause, pool: &Pool, policies: &Policies) {
        if self.target != Some(failed) || self.is_exclusive {
            return;
        }
        self.target = None;
        if self.cause == Some(Cause::Rebalanced) {
            // Its own backend still has the session.
            self.resume_on_pinned();
        } else if self.verdict == Verdict::Hit {
            self.apply_policy(cause, pool, policies);
        }
    }

    /// Lets the session leave its backend, which can serve it, but releases it.
    pub fn release(&mut self, pool: &Pool, policies: &Policies) {
        if self.verdict == Verdict::Hit && !self.is_exclusive {
            self.apply_policy(Cause::Draining, pool, policies);
        }
    }

    /// When the session was last seen according to its pin, in seconds since the Unix epoch; 0 if the pin doesn't say.
    pub fn pin_seen(&self) -> u64 {
        self.presented.as_ref().map_or(0, |pin| pin.last_seen)
    }

    /// Moves the session to the backend at position `to`, although its own can serve it: the pool evens out its load.
    pub fn rebalance_to(&mut self, to: usize) {
        if self.verdict == Verdict::Hit && !self.is_exclusive {
            (self.verdict, self.cause, self.target) = (Verdict::Moved, Some(Cause::Rebalanced), Some(to));
        }
    }

    /// Makes the request wait again for the same backend.
    pub fn keep_waiting(&mut self, cause: Cause, wait: WaitPolicy) {
        self.next = NextStep::Wait(wait);
        (self.verdict, self.cause, self.target) = (Verdict::Moved, Some(cause), None);
    }

    /// Records that no backend served this request; `refused` if no backend could.
    pub fn mark_unserved(&mut self, refused: bool) {
        let verdict = self.verdict.unserved();
        self.verdict = if refused { Verdict::Refused } else { verdict };
    }

    /// How often the session was handed over together with its copy: what the presented pin says, or what was set.
    pub fn term(&self) -> u32 {
        self.term
    }

    /// The position of the backend that the presented pin names as the session's replica.
    pub fn presented_replica(&self, pool: &Pool) -> Option<usize> {
        pool.position(self.presented.as_ref()?.replica.as_deref()?)
    }

    /// Sets the term of the pin to issue. A pin of another term than the presented one is due for issue.
    pub fn set_term(&mut self, term: u32) {
        self.term = term;
    }

    /// Sets the backend whose name the pin to issue has as the session's replica: `replica` is a position in the pool,
    /// or `None` for no replica. The pin is due for issue if the presented one has another. Without a call, a session
    /// keeps its replica as long as it stays on its backend, and has none after a move.
    pub fn set_replica(&mut self, replica: Option<usize>) {
        self.replica = Replica::Known(replica);
    }

    /// The name of the session's replica in the pin that is issued with a response of the backend at position `served`.
    /// Never names the backend that holds the session.
    pub fn replica<'a>(&'a self, pool: &'a Pool, served: usize) -> Option<&'a str> {
        let presented = self.presented.as_deref();
        let stays = matches!(self.verdict, Verdict::Hit | Verdict::Borrowed);
        match self.replica {
            Replica::Presented => presented.filter(|_| stays)?.replica.as_deref(),
            Replica::Known(index) => {
                let name = |index: usize| &**pool.backend(index).name();
                let holder = presented.filter(|_| self.verdict == Verdict::Borrowed).map(|pin| &*pin.backend);
                index.map(name).filter(|replica| *replica != holder.unwrap_or(name(served)))
            }
        }
    }

    /// Has the session's pin issued again with the response, if it holds.
    #[must_use]
    pub fn renewed(self) -> Decision {
        Decision { renew: true, ..self }
    }

    /// Returns the pin to send with the response of the backend at position `served`, or `None` if the client's pin is
    /// still right.
    pub fn pin(&self, pool: &Pool, served: usize, now: u64) -> Option<Pin> {
        let is_due = match self.verdict {
            Verdict::New | Verdict::Moved => true,
            Verdict::Hit | Verdict::Borrowed => self.renew || self.is_changed(pool, served),
            Verdict::Refused | Verdict::None => false,
        };
        if is_due { self.current_pin(pool, served, now) } else { None }
    }

    /// Returns the pin of a session that stays on its backend, if its term or its replica has changed.
    pub fn changed_pin(&self, pool: &Pool, served: usize, now: u64) -> Option<Pin> {
        if self.is_changed(pool, served) { self.current_pin(pool, served, now) } else { None }
    }

    fn is_changed(&self, pool: &Pool, served: usize) -> bool {
        let is_changed = |pin: &Arc<Pin>| pin.term != self.term || pin.replica.as_deref() != self.replica(pool, served);
        self.presented.as_ref().is_some_and(is_changed)
    }

    /// Returns the pin that is right after a response of the backend at position `served`.
    fn current_pin(&self, pool: &Pool, served: usize, now: u64) -> Option<Pin> {
        let replica = self.replica(pool, served).map(Box::from);
        if self.verdict == Verdict::Borrowed {
            // The pin must not expire while its backend can't serve.
            let presented = self.presented.as_deref()?.clone();
            return Some(Pin { last_seen: now, term: self.term, replica, ..presented });
        }
        let backend = pool.backend(served);
        Some(Pin {
            session: self.session,
            backend: (&**backend.name()).into(),
            incarnation: backend.incarnation(),
            issued: self.issued,
            last_seen: now,
            term: self.term,
            replica,
        })
    }

    /// The session id of the presented pin. A client can't have invented it.
    pub fn issued_session(&self) -> Option<u64> {
        self.presented.as_ref().map(|pin| pin.session)
    }

    /// The name of the backend that the pin names, even if the pool does not have it.
    pub fn pinned_to<'a>(&'a self, pool: &'a Pool) -> Option<&'a str> {
        let presented = self.presented.as_ref().map(|pin| &*pin.backend);
        presented.or_else(|| self.pinned.map(|index| &**pool.backend(index).name()))
    }

    /// Whether the request presented a pin, even if it does not hold.
    pub fn has_presented_pin(&self) -> bool {
        self.presented.is_some()
    }

    /// Whether the session now belongs to the backend that serves it.
    pub fn counts_as_session(&self) -> bool {
        matches!(self.verdict, Verdict::New | Verdict::Hit | Verdict::Moved)
    }
}

#[cfg(test)]
mod tests;
