//! Owns: which backend a request tries next, whether it waits first, and when it ends.
//! Invariant: no unsafe request runs twice; no backend is tried twice unless the request waited for it; each one ends.
//! Must not know: how an attempt is made, how a request waits, sockets, clocks.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::error::{ProxyError, Unserved};
use super::retry::{self, RetryBudget, RetryDecision, RetryFacts};
use super::snapshot::Service;
use crate::affinity::avoid_list::AvoidList;
use crate::affinity::converge::Converge;
use crate::affinity::{Cause, Decision, NextStep, Policies, Policy, Verdict, failover, policy};
use crate::balance::{Balancer, Candidates, TriedBackends};
use crate::pool::{Backend, Closed, Live, Pool, PoolClaim};
use crate::upstream::{Blame, Fact, Failure};

/// The pool and its configuration, on which the order depends beside the request.
#[derive(Clone, Copy)]
pub(super) struct OrderRules<'a> {
    pub(super) pool: &'a Pool,
    pub(super) policies: &'a Policies,
    pub(super) retry: &'a retry::Settings,
    pub(super) budget: &'a RetryBudget,
    pub(super) balancer: &'a dyn Balancer,
    pub(super) converge: Option<&'a Converge>,
}

impl<'a> OrderRules<'a> {
    pub(super) fn of(service: &'a Service, balancer: &'a dyn Balancer, budget: &'a RetryBudget) -> OrderRules<'a> {
        OrderRules {
            pool: &service.pool,
            policies: &service.affinity.session_policy().policies,
            retry: &service.retry,
            budget,
            balancer,
            converge: service.affinity.converge(),
        }
    }
}

/// What a request does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Send it to the backend at this position; then call [`CandidateOrder::served`] or [`CandidateOrder::failed`].
    Try(usize),
    /// Wait for its backend; then call [`CandidateOrder::waited`].
    Wait(Wait),
    /// Wait until a backend has capacity; then call [`CandidateOrder::queued`].
    Queue(QueueWait),
    /// End it with this error.
    End(ProxyError),
}

/// How a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    /// The position of the backend.
    pub(super) index: usize,
    /// How many requests may wait for it.
    pub(super) most: u32,
    /// When the wait ends.
    pub(super) until: Instant,
    /// The backend has just failed this request.
    pub(super) failed: bool,
}

/// How a request waits for capacity on any backend of its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueWait {
    pub(super) claim: PoolClaim,
    /// The positions of the backends that it has tried.
    pub(super) tried: Vec<usize>,
    /// When the wait ends.
    pub(super) until: Instant,
}

/// The candidates of one request, and which of them it has tried. It gives one step at a time, since backends become
/// available and unavailable while a request is under way: each step is the best one at that moment.
pub(super) struct CandidateOrder<'a> {
    rules: OrderRules<'a>,
    decision: Decision,
    tried: TriedBackends,
    /// The client's key in the table of first requests, if this is one.
    first_request_key: Option<u64>,
    /// Attempts that reached a backend, and attempts that reached none, without those of a request that waits.
    sent: u32,
    unreached: u32,
    waits: Option<WaitState>,
    /// When its wait for capacity ends, if it has waited for that.
    queue_until: Option<Instant>,
    /// The position of the backend on which it was granted capacity.
    granted: Option<usize>,
    /// A failure that another backend may follow once the budget has paid for it.
    unpaid: Cell<Option<Failure>>,
    /// The budget has already paid for the next attempt.
    is_paid: Cell<bool>,
    /// The last failure that the client must learn of, if no other attempt succeeds.
    reached: Option<Failure>,
    ended: Option<ProxyError>,
}

/// The state of a request that waits for its backend, or tries it after waiting.
#[derive(Debug, Clone, Copy)]
struct WaitState {
    cause: Cause,
    policy: policy::WaitPolicy,
    until: Instant,
    /// The backend has failed the request.
    failed: bool,
    /// The wait is over, and the request tries the backend.
    tries: bool,
}

impl<'a> CandidateOrder<'a> {
    pub(super) fn new(rules: OrderRules<'a>, decision: Decision) -> CandidateOrder<'a> {
        CandidateOrder {
            rules,
            decision,
            tried: TriedBackends::new(),
            first_request_key: None,
            sent: 0,
            unreached: 0,
            waits: None,
            queue_until: None,
            granted: None,
            unpaid: Cell::new(None),
            is_paid: Cell::new(false),
            reached: None,
            ended: None,
        }
    }

    /// Keeps the session away from a server that failed it recently, if there is another one and the policy allows it.
    pub(super) fn avoid(&mut self, list: &AvoidList, now: u64) {
        let Some(target) = self.decision.target() else { return };
        if !list.contains(self.decision.session, self.rules.pool.backend(target).live(), now)
            || !matches!(self.rules.policies.of(Cause::Failed), Policy::Move | Policy::Borrow)
        {
            return;
        }
        self.tried.insert(target);
        if self.has_next() {
            self.decision.lose_target(target, Cause::Failed, self.rules.pool, self.rules.policies);
        } else {
            self.tried = TriedBackends::new();
        }
    }

    /// Sends a new session where the first request of the same client went a moment ago. `draw` is the balancer's
    /// random number, if this is that first request.
    pub(super) fn join_first_request(&mut self, client: u64, now: Duration, draw: u64) {
        let Some(converge) = self.rules.converge.filter(|_| self.decision.verdict == Verdict::New) else { return };
        let pool = self.rules.pool;
        let choose = || {
            let index = self.rules.balancer.best(&Candidates::new(pool, &self.tried), draw)?;
            Some((pool.backend(index).live().id(), self.decision.session))
        };
        let Some(group) = converge.join(client, now, choose) else { return };
        let is_there = |backend: &Backend| backend.live().id() == group.backend;
        if let Some(index) = pool.backends().iter().position(is_there)
            && pool.backend(index).live().accepts_new().is_ok()
        {
            self.decision.join_session(index, group.session);
        }
        self.first_request_key = Some(client);
    }

    /// Returns the next step at `now`. All attempts together end at `deadline`. `draw` is the balancer's random number.
    pub(super) fn next(&mut self, now: Instant, deadline: Instant, draw: impl FnOnce() -> u64) -> Step {
        if let Some(error) = self.ended {
            return self.end(error);
        }
        match self.decision.next {
            NextStep::Serve => {}
            NextStep::Refuse(refusal) => return self.end(ProxyError::PinLost(refusal)),
            NextStep::Wait(policy) => {
                let cause = self.decision.cause.unwrap_or(Cause::Down);
                let failed = cause == Cause::Failed;
                let begun = WaitState { cause, policy, until: now + policy.max_time, failed, tries: false };
                let waits = *self.waits.get_or_insert(begun);
                let until = waits.until.min(deadline);
                match self.decision.pinned {
                    Some(index) if now < until => {
                        return Step::Wait(Wait { index, most: policy.max_waiting, until, failed: waits.failed });
                    }
                    _ => self.waited(false),
                }
            }
        }
        let may_try = self.ended.is_none() && now < deadline && self.unreached < self.rules.retry.connect_attempts;
        if may_try && let Some(index) = self.granted.take().or_else(|| self.pick(draw)) {
            self.tried.insert(index);
            return Step::Try(index);
        }
        if may_try && let Some(wait) = self.queue(now, deadline) {
            return Step::Queue(wait);
        }
        // A request that reached a backend may have been executed, and its client must learn of that failure.
        let unserved = || ProxyError::NoBackend(Unserved::of(self.rules.pool));
        let error = self.reached.map_or_else(unserved, ProxyError::Backend);
        self.end(self.ended.unwrap_or(error))
    }

    /// Returns how the request waits for capacity, if all that it lacks is capacity, and the pool has a queue. A request
    /// that has reached a backend doesn't wait for another one: its client must learn of the failure.
    fn queue(&mut self, now: Instant, deadline: Instant) -> Option<QueueWait> {
        let pool = self.rules.pool;
        let settings = pool.queue_settings().filter(|_| self.reached.is_none() && !self.decision.is_exclusive())?;
        let is_full = |closed| matches!(closed, Err(Closed::Full | Closed::SessionsFull));
        let untried = || (0..pool.backends().len()).filter(|index| !self.tried.contains(*index));
        let mut own = self.decision.pinned.filter(|own| !self.tried.contains(*own));
        own.take_if(|own| !is_full(pool.backend(*own).live().accepts_existing()));
        // One that drains may be full, too, but takes nobody from the queue.
        let waits_for = |live: &Live| is_full(live.accepts_new()) && live.takes_sessions();
        if own.is_none() && !untried().any(|index| waits_for(pool.backend(index).live())) {
            return None;
        }
        let until = *self.queue_until.get_or_insert(now + settings.timeout);
        let claim = match (self.decision.verdict, own) {
            (Verdict::New | Verdict::None, _) => PoolClaim::New,
            (_, Some(own)) => PoolClaim::Own(own),
            (_, None) => PoolClaim::Moving,
        };
        let tried = (0..pool.backends().len()).filter(|index| self.tried.contains(*index)).collect();
        Some(QueueWait { claim, tried, until: until.min(deadline) })
    }

    /// Continues after a wait for capacity: `granted` is the position of the backend that has some.
    pub(super) fn queued(&mut self, granted: Result<usize, Unserved>) {
        match granted {
            Ok(index) => {
                self.granted = Some(index);
                if self.decision.pinned == Some(index) && self.decision.cause == Some(Cause::Full) {
                    self.decision.resume_on_pinned();
                }
            }
            Err(why) => self.ended = Some(ProxyError::NoBackend(why)),
        }
    }

    /// Returns the best backend that was not tried yet.
    fn pick(&self, draw: impl FnOnce() -> u64) -> Option<usize> {
        let (pool, tried) = (self.rules.pool, &self.tried);
        let target = self.decision.target().filter(|target| !tried.contains(*target));
        target.or_else(|| match self.decision.verdict {
            _ if self.decision.is_exclusive() => None,
            Verdict::Hit | Verdict::Moved | Verdict::Borrowed => {
                failover::next(pool, self.decision.session, self.decision.pinned, tried)
            }
            Verdict::New | Verdict::None | Verdict::Refused => {
                self.rules.balancer.best(&Candidates::new(pool, tried), draw())
            }
        })
    }

    /// Returns whether the current attempt is the first thing that the request does.
    pub(super) fn is_first(&self) -> bool {
        self.sent == 0 && self.unreached == 0 && self.waits.is_none()
    }

    /// Returns whether there is a candidate that was not tried yet.
    pub(super) fn has_next(&self) -> bool {
        !self.decision.is_exclusive() && Candidates::new(self.rules.pool, &self.tried).iter().next().is_some()
    }

    /// Returns whether the current attempt finds out, after a wait, whether the backend is available again. Such an
    /// attempt uses up neither `attempts` nor the budget, and its failure counts against nobody.
    pub(super) fn has_waited(&self) -> bool {
        self.waits.is_some_and(|waits| waits.tries && matches!(waits.cause, Cause::Down | Cause::Failed))
    }

    /// Returns whether a response that counts as `failure` by its status may be discarded for another attempt. If so,
    /// the budget has paid for that attempt.
    pub(super) fn may_discard_response(&self, failure: Failure, facts: RetryFacts) -> bool {
        if !self.has_next() {
            return false;
        }
        let may_discard_response = if self.has_waited() {
            retry::may_repeat(failure, facts, self.rules.retry) && self.pay()
        } else {
            match retry::may_retry(failure, RetryFacts { sent: self.sent + 1, ..facts }, self.rules.retry) {
                RetryDecision::Yes => true,
                RetryDecision::IfBudget => self.rules.budget.withdraw(),
                RetryDecision::No => false,
            }
        };
        self.is_paid.set(may_discard_response);
        may_discard_response
    }

    /// Continues after a wait: `is_back` says whether the backend can take the request.
    pub(super) fn waited(&mut self, is_back: bool) {
        if is_back {
            self.waits.iter_mut().for_each(|waits| waits.tries = true);
            self.decision.resume_on_pinned();
            self.decision.target().iter().for_each(|target| self.tried.remove(*target));
        } else {
            self.go_elsewhere();
        }
    }

    /// Notes that the backend at `index` has served the request.
    pub(super) fn served(&mut self, index: usize) {
        if let (Some(client), Some(converge)) = (self.first_request_key, self.rules.converge)
            && self.decision.target() != Some(index)
        {
            converge.reassign(client, self.rules.pool.backend(index).live().id());
        }
        self.decision.mark_served_by(index);
    }

    /// Notes that the attempt on the backend at `index` failed. Returns whether the session must avoid that backend
    /// from now on: its client gets an error, which carries no pin.
    pub(super) fn failed(&mut self, index: usize, failure: Failure, facts: RetryFacts) -> bool {
        let is_paid = self.is_paid.take();
        if failure.is_unusable_response() || matches!(failure.fact, Fact::Shortage | Fact::RequestBody) {
            // This says nothing about the backend's health, and the pin holds.
            self.ended = Some(ProxyError::Backend(failure));
            return false;
        }
        if self.has_waited() && self.decision.target() == Some(index) {
            return self.failed_again(index, failure, facts);
        }
        // It has used the capacity that it waited for.
        self.waits = None;
        if failure.sent {
            self.sent += 1;
        } else {
            self.unreached += 1;
        }
        let facts = RetryFacts { sent: self.sent, ..facts };
        let decision = if is_paid { RetryDecision::Yes } else { retry::may_retry(failure, facts, self.rules.retry) };
        // If only this backend may serve the request, its failure is the only one to report.
        self.reached = Some(failure).filter(|_| failure.sent || self.decision.is_exclusive()).or(self.reached);
        self.lose(index, failure);
        self.unpaid.set((decision == RetryDecision::IfBudget).then_some(failure));
        // A request that waits for its own server adds no load to the pool, and pays when it moves.
        if decision == RetryDecision::No || (self.decision.next == NextStep::Serve && !self.pay()) {
            return self.give_up(index, failure);
        }
        false
    }

    /// Notes that the attempt after a wait failed.
    fn failed_again(&mut self, index: usize, failure: Failure, facts: RetryFacts) -> bool {
        let Some(waits) = &mut self.waits else { return false };
        waits.tries = false;
        waits.failed = true;
        let may_repeat = retry::may_repeat(failure, facts, self.rules.retry);
        if may_repeat && !failure.sent {
            // The backend is still unavailable, so the request waits as before.
            let (cause, policy) = (waits.cause, waits.policy);
            self.decision.keep_waiting(cause, policy);
            return false;
        }
        // The backend took the request and failed it. Sending it there a third time would not be waiting.
        self.reached = Some(failure);
        self.lose(index, failure);
        if !may_repeat {
            return self.give_up(index, failure);
        }
        if matches!(self.decision.next, NextStep::Wait(_)) {
            self.go_elsewhere();
        }
        false
    }

    fn lose(&mut self, index: usize, failure: Failure) {
        let cause = if failure.fact == Fact::Lost { Cause::Down } else { Cause::Failed };
        self.decision.lose_target(index, cause, self.rules.pool, self.rules.policies);
    }

    /// Stops waiting and moves to other backends, if the budget allows it.
    fn go_elsewhere(&mut self) {
        self.decision.stop_waiting();
        let unpaid = self.unpaid.get();
        if let (Some(failure), false) = (unpaid, self.pay()) {
            self.ended = Some(ProxyError::Backend(failure));
        }
    }

    /// Pays for another attempt if necessary. A request with no candidate left pays nothing.
    fn pay(&self) -> bool {
        self.unpaid.take().is_none() || !self.has_next() || self.rules.budget.withdraw()
    }

    fn give_up(&mut self, index: usize, failure: Failure) -> bool {
        self.ended = Some(ProxyError::Backend(failure));
        self.decision.pinned == Some(index) && matches!(failure.blame, Blame::Backend | Blame::Response)
    }

    fn end(&mut self, error: ProxyError) -> Step {
        self.ended = Some(error);
        let is_refused = match error {
            // A request without a pin has no verdict, except if no backend was available.
            ProxyError::Backend(_) if self.decision.verdict == Verdict::None => false,
            ProxyError::Backend(failure) => !failure.is_unusable_response() && failure.blame != Blame::Client,
            _ => true,
        };
        self.decision.mark_unserved(is_refused);
        Step::End(error)
    }

    pub(super) fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Returns the decision to note what the response says of the session's copies.
    pub(super) fn decision_mut(&mut self) -> &mut Decision {
        &mut self.decision
    }
}

#[cfg(test)]
mod tests;
