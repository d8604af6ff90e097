//! Owns: the candidates of one request, best first.
//! Invariant: no backend twice unless it was waited for; the pinned one first, then its failover order; without a pin the balancer's.
//! Must not know: how an attempt is made, or whether another is allowed.

use std::time::Duration;

use super::snapshot::Service;
use crate::affinity::lost::Lost;
use crate::affinity::{Cause, Decision, Policies, Policy, Verdict, failover};
use crate::balance::{Balancer, Candidates, Tried};
use crate::clock;
use crate::pool::{Health, Pool};
use crate::upstream::{Blame, Fact, Failure};

/// The order is asked for one candidate at a time, since backends come and go while a request
/// waits: each next one is the best of that moment.
pub(super) struct Order<'a> {
    service: &'a Service,
    balancer: &'a dyn Balancer,
    decision: Decision,
    tried: Tried,
    /// The client's key in the table of first requests, if this is one.
    meets: Option<u64>,
}

impl<'a> Order<'a> {
    pub(super) fn new(service: &'a Service, balancer: &'a dyn Balancer, decision: Decision) -> Order<'a> {
        Order { service, balancer, decision, tried: Tried::new(), meets: None }
    }

    /// Keeps the session away from a server that failed it lately, as long as there is another and
    /// the policy has it go there.
    pub(super) fn avoid(&mut self, lost: &Lost, now: u64) {
        let Some(target) = self.decision.target() else { return };
        if !matches!(self.policies().of(Cause::Failed), Policy::Move | Policy::Borrow) {
            return;
        }
        if lost.contains(self.decision.session, self.pool().backend(target).live().id(), now) {
            self.tried.insert(target);
            if self.has_next() {
                let policies = &self.service.affinity.terms().policies;
                self.decision.lose(target, Cause::Failed, policies);
            } else {
                self.tried = Tried::new();
            }
        }
    }

    /// Has a new session go where the first request of the same client went a moment ago; `draw` is
    /// what the balancer chooses by, if this is that request.
    pub(super) fn meet(&mut self, client: u64, now: Duration, draw: u64) {
        let Some(converge) = self.service.affinity.converge().filter(|_| self.decision.verdict == Verdict::New) else {
            return;
        };
        let pool = &self.service.pool;
        let choose = || {
            let index = self.balancer.best(&Candidates::new(pool, &self.tried), draw)?;
            Some((pool.backend(index).live().id(), self.decision.session))
        };
        let Some(meeting) = converge.meet(client, now, choose) else { return };
        let is_there = |backend: &crate::pool::Backend| backend.live().id() == meeting.backend;
        if let Some(index) = pool.backends().iter().position(is_there)
            && pool.backend(index).live().accepts_new().is_ok()
        {
            self.decision.join(index, meeting.session);
        }
        self.meets = Some(client);
    }

    /// The backend at `index` has served.
    pub(super) fn served(&self, index: usize) {
        if let (Some(client), Some(converge)) = (self.meets, self.service.affinity.converge())
            && self.decision.target() != Some(index)
        {
            converge.settle(client, self.pool().backend(index).live().id());
        }
    }

    /// The best backend that was not tried yet; `draw` is what the balancer chooses by.
    pub(super) fn next(&mut self, draw: u64) -> Option<usize> {
        let target = self.decision.target().filter(|target| !self.tried.contains(*target));
        let next = target.or_else(|| match self.decision.verdict {
            _ if self.decision.is_only() => None,
            Verdict::Hit | Verdict::Moved | Verdict::Borrowed => {
                failover::next(self.pool(), self.decision.session, self.decision.pinned, &self.tried)
            }
            Verdict::New | Verdict::None | Verdict::Refused => {
                self.balancer.best(&Candidates::new(self.pool(), &self.tried), draw)
            }
        });
        match next {
            Some(index) => self.tried.insert(index),
            None => self.decision.refuse(),
        }
        next
    }

    /// Whether there is a candidate that was not tried yet.
    pub(super) fn has_next(&self) -> bool {
        !self.decision.is_only() && Candidates::new(self.pool(), &self.tried).iter().next().is_some()
    }

    /// An attempt failed: the pin is lost for this request.
    pub(super) fn failed(&mut self, index: usize, failure: Failure) {
        if failure.is_unusable_answer() {
            return;
        }
        let is_down = failure.fact == Fact::Lost || self.pool().backend(index).live().health() != Health::Up;
        let policies = &self.service.affinity.terms().policies;
        self.decision.lose(index, if is_down { Cause::Down } else { Cause::Failed }, policies);
    }

    /// The backend that was waited for is back.
    pub(super) fn is_back(&mut self) {
        self.decision.is_back();
        if let Some(target) = self.decision.target() {
            self.tried.remove(target);
        }
    }

    /// It was waited for in vain.
    pub(super) fn is_not_back(&mut self) {
        self.decision.is_not_back();
    }

    /// The request ends with this failure: if it is the backend's fault, its client's next one is to
    /// go elsewhere.
    pub(super) fn give_up(&self, index: usize, failure: Failure, lost: &Lost) {
        let is_its_fault = matches!(failure.blame, Blame::Backend | Blame::Answer);
        if self.decision.pinned == Some(index) && is_its_fault && !failure.is_unusable_answer() {
            lost.note(self.decision.session, self.pool().backend(index).live().id(), clock::unix().as_secs());
        }
    }

    pub(super) fn decision(&self) -> &Decision {
        &self.decision
    }

    fn pool(&self) -> &'a Pool {
        &self.service.pool
    }

    fn policies(&self) -> &'a Policies {
        &self.service.affinity.terms().policies
    }
}
