//! Owns: the verdict on a request: does its pin hold, and if not, why, what is done, and what pin follows.
//! Invariant: pure: pin, pool, policies, time and a random number in; the same everywhere for the same arguments.
//! Must not know: where the pin travels, or how a server is chosen.

use std::sync::Arc;

use super::lookup::{PinLookup, RoutedId};
use super::policy::{Policies, Policy, RefusePolicy, SessionPolicy, WaitPolicy};
use super::seal::Pin;
use super::verdict::{Cause, Verdict};
use crate::pool::{AdminState, Closed, Pool};

/// What happens to a request next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// It is served, by the target first if there is one.
    Serve,
    /// It waits for the backend that it is pinned to.
    Wait(WaitPolicy),
    /// It is refused.
    Refuse(RefusePolicy),
}

/// The verdict on one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What was decided. While a request waits: what holds if it waits in vain.
    pub verdict: Verdict,
    /// Why the pin that came did not hold, if one came and did not.
    pub cause: Option<Cause>,
    /// The session's id: the pin's, or a new one.
    pub session: u64,
    /// When the session began, in seconds since the Unix epoch.
    pub issued: u64,
    /// The backend that the pin names, if the pool has it: where a hit goes, and what a moved
    /// session moves away from.
    pub pinned: Option<usize>,
    /// What happens next.
    pub next: NextStep,
    target: Option<usize>,
    /// A backend that has a copy of the session.
    copy: Option<usize>,
    /// Nobody else will do.
    is_exclusive: bool,
    renew: bool,
    /// The pin that came, where it is one that can be sent again.
    presented: Option<Arc<Pin>>,
}

/// Judges a request's pin at `now`, in seconds since the Unix epoch. `fresh` is a random number,
/// the id of the session if this is a new one. A clock that runs behind the one that sealed the
/// pin makes a session younger, never older: replicas a minute apart do no harm. A pin that is dated
/// further ahead than `max_clock_skew` counts as unreadable, or it would never be over.
pub fn decide(lookup: PinLookup, pool: &Pool, session_policy: &SessionPolicy, now: u64, fresh: u64) -> Decision {
    match lookup {
        PinLookup::Absent => Decision::new(None, now, fresh),
        PinLookup::Unreadable => Decision::new(Some(Cause::Unreadable), now, fresh),
        PinLookup::Pinned(pin) => judge(pin, pool, session_policy, now, fresh),
        PinLookup::Routed(routed) => judge_routed(routed, pool, &session_policy.policies, now),
        // Where nothing is known of a session, it goes where every Linchpin would send it.
        PinLookup::Unlearned(key) => {
            Decision::existing(key.session(), now).broken(Cause::Unknown, &session_policy.policies)
        }
    }
}

fn judge(pin: Arc<Pin>, pool: &Pool, session_policy: &SessionPolicy, now: u64, fresh: u64) -> Decision {
    let SessionPolicy { lifetimes, policies, max_clock_skew } = session_policy;
    if max_clock_skew.is_some_and(|skew| pin.issued.max(pin.last_seen) > now.saturating_add(skew)) {
        return Decision::new(Some(Cause::Unreadable), now, fresh);
    }
    let is_over = |limit: Option<u64>, since: u64| limit.is_some_and(|limit| now.saturating_sub(since) >= limit);
    let over = if is_over(lifetimes.absolute, pin.issued) {
        Some(Cause::AbsoluteExpired)
    } else {
        is_over(lifetimes.idle, pin.last_seen).then_some(Cause::IdleExpired)
    };
    if over.is_some() {
        return Decision { presented: Some(pin), ..Decision::new(over, now, fresh) };
    }
    let pinned = pool.position(&pin.backend);
    let cause = match pinned {
        None => Some(Cause::Unknown),
        Some(index) if !pool.backend(index).is_of(pin.incarnation, pin.last_seen) => Some(Cause::Replaced),
        Some(index) => obstacle(pool, index, policies),
    };
    let decision = Decision {
        pinned,
        renew: is_over(lifetimes.idle.map(|idle| idle.div_ceil(4)), pin.last_seen),
        issued: pin.issued,
        ..Decision::existing(pin.session, now)
    };
    let decision = Decision { presented: Some(pin), ..decision };
    match cause {
        None => decision.holding(),
        Some(cause) => decision.broken(cause, policies),
    }
}

/// The application has said which server holds the session, and perhaps which have a copy: if the
/// first can't serve, one of those loses nothing, whatever the policy.
fn judge_routed(routed: RoutedId, pool: &Pool, policies: &Policies, now: u64) -> Decision {
    let decision = Decision { pinned: routed.nodes[0], ..Decision::existing(routed.session, now) };
    let cause = match decision.pinned {
        None => Some(Cause::Unknown),
        Some(index) => obstacle(pool, index, policies),
    };
    let mut copies = routed.nodes.into_iter().skip(1).flatten();
    let copy = copies.find(|copy| obstacle(pool, *copy, policies).is_none());
    let decision = Decision { copy, ..decision };
    match cause {
        None => decision.holding(),
        Some(cause) => decision.broken(cause, policies),
    }
}

/// Why the backend can't serve a session that is pinned to it.
fn obstacle(pool: &Pool, index: usize, policies: &Policies) -> Option<Cause> {
    let live = pool.backend(index).live();
    match live.accepts_existing() {
        Ok(()) => (policies.leave_draining() && live.state() == AdminState::Drain).then_some(Cause::Draining),
        Err(Closed::Maintenance) => Some(Cause::Maintenance),
        Err(Closed::Full) => Some(Cause::Full),
        // Draining and weight 0 keep the sessions they have: for those, existing is accepted.
        Err(Closed::Down | Closed::Draining | Closed::NoWeight) => Some(Cause::Down),
    }
}

impl Decision {
    fn new(cause: Option<Cause>, now: u64, fresh: u64) -> Decision {
        Decision { verdict: Verdict::New, cause, renew: true, ..Decision::existing(fresh, now) }
    }

    /// For a request that is not pinned: the pool's, or this one's. `fresh` only spreads its failover.
    pub fn unpinned(fresh: u64) -> Decision {
        Decision { verdict: Verdict::None, ..Decision::existing(fresh, 0) }
    }

    /// For a request that goes to one backend whatever its state, and to no other.
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
            copy: None,
            is_exclusive: false,
            renew: false,
            presented: None,
        }
    }

    fn holding(self) -> Decision {
        Decision { target: self.pinned, ..self }
    }

    fn broken(mut self, cause: Cause, policies: &Policies) -> Decision {
        self.apply_policy(cause, policies);
        self
    }

    /// Does what the policy says for a pin that does not hold.
    fn apply_policy(&mut self, cause: Cause, policies: &Policies) {
        self.cause = Some(cause);
        self.target = self.copy.take();
        (self.verdict, self.next) = match policies.of(cause) {
            _ if self.target.is_some() => (Verdict::Moved, NextStep::Serve),
            Policy::Move => (Verdict::Moved, NextStep::Serve),
            Policy::Borrow => (Verdict::Borrowed, NextStep::Serve),
            Policy::Refuse(refusal) => (Verdict::Refused, NextStep::Refuse(refusal)),
            Policy::Wait(wait) => (Verdict::Moved, NextStep::Wait(wait)),
        };
    }

    /// The backend that this request goes to first.
    pub fn target(&self) -> Option<usize> {
        self.target
    }

    /// Whether no other backend will do.
    pub fn is_exclusive(&self) -> bool {
        self.is_exclusive
    }

    /// A new session is to go to the backend that another request of the same client went to, as
    /// the same session.
    pub fn join_session(&mut self, index: usize, session: u64) {
        if self.verdict == Verdict::New {
            (self.target, self.session) = (Some(index), session);
        }
    }

    /// What was waited for: the backend is back.
    pub fn resume_on_pinned(&mut self) {
        self.next = NextStep::Serve;
        (self.verdict, self.cause, self.target) = (Verdict::Hit, None, self.pinned);
    }

    /// The backend at `by` has served. If it is the session's own, however the request came there, the
    /// session was not moved. One that only has its name is another.
    pub fn mark_served_by(&mut self, by: usize) {
        if self.pinned == Some(by) && self.cause != Some(Cause::Replaced) && self.verdict != Verdict::Hit {
            self.resume_on_pinned();
        }
    }

    /// It was waited for in vain.
    pub fn stop_waiting(&mut self) {
        self.next = NextStep::Serve;
    }

    /// The backend failed this request: the pin is lost, for this request and, where the policy has
    /// it move and another has answered, for good.
    pub fn lose_target(&mut self, failed: usize, cause: Cause, policies: &Policies) {
        if self.target != Some(failed) || self.is_exclusive {
            return;
        }
        self.target = None;
        if self.verdict == Verdict::Hit {
            self.apply_policy(cause, policies);
        }
    }

    /// It is waited for still, for the same cause.
    pub fn keep_waiting(&mut self, cause: Cause, wait: WaitPolicy) {
        self.next = NextStep::Wait(wait);
        (self.verdict, self.cause, self.target) = (Verdict::Moved, Some(cause), None);
    }

    /// No backend serves this request; `refused` if that is for want of one that could.
    pub fn mark_unserved(&mut self, refused: bool) {
        let verdict = self.verdict.unserved();
        self.verdict = if refused { Verdict::Refused } else { verdict };
    }

    /// The pin to send with the answer of the backend at `served`, if the client hasn't one that
    /// says so already.
    pub fn pin(&self, pool: &Pool, served: usize, now: u64) -> Option<Pin> {
        let backend = pool.backend(served);
        let here = || Pin {
            session: self.session,
            backend: (&**backend.name()).into(),
            incarnation: backend.incarnation(),
            issued: self.issued,
            last_seen: now,
        };
        match self.verdict {
            Verdict::New | Verdict::Moved => Some(here()),
            Verdict::Hit => self.renew.then(here),
            // It must not end while its server is away.
            Verdict::Borrowed => {
                self.presented.as_ref().filter(|_| self.renew).map(|pin| Pin { last_seen: now, ..Pin::clone(pin) })
            }
            Verdict::Refused | Verdict::None => None,
        }
    }

    /// The session of the pin that came with the request, which cannot have been made up.
    pub fn issued_session(&self) -> Option<u64> {
        self.presented.as_ref().map(|pin| pin.session)
    }

    /// The name of the backend that holds the session, as far as the pin says it, whether the pool has it or not.
    pub fn pinned_to<'a>(&'a self, pool: &'a Pool) -> Option<&'a str> {
        let presented = self.presented.as_ref().map(|pin| &*pin.backend);
        presented.or_else(|| self.pinned.map(|index| &**pool.backend(index).name()))
    }

    /// Whether a pin came with the request, whatever became of it.
    pub fn has_presented_pin(&self) -> bool {
        self.presented.is_some()
    }

    /// Whether this session is now one of the backend that serves it.
    pub fn counts_as_session(&self) -> bool {
        matches!(self.verdict, Verdict::New | Verdict::Hit | Verdict::Moved)
    }
}

#[cfg(test)]
mod tests;
