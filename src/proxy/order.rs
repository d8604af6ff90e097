//! Owns: the candidates of one request, best first.
//! Invariant: no backend twice; the pinned one first, then its failover order; without a pin the balancer's.
//! Must not know: how an attempt is made, or whether another is allowed.

use super::snapshot::Service;
use crate::affinity::lost::Lost;
use crate::affinity::{Cause, Decision, Verdict, failover};
use crate::balance::{Balancer, Candidates, Tried};
use crate::clock;
use crate::pool::{Health, Pool};
use crate::upstream::failure::Blame;
use crate::upstream::{Fact, Failure};

/// The order is asked for one candidate at a time, since backends come and go while a request
/// waits: each next one is the best of that moment.
pub(super) struct Order<'a> {
    pool: &'a Pool,
    balancer: &'a dyn Balancer,
    decision: Decision,
    tried: Tried,
}

impl<'a> Order<'a> {
    pub(super) fn new(service: &'a Service, balancer: &'a dyn Balancer, decision: Decision) -> Order<'a> {
        Order { pool: &service.pool, balancer, decision, tried: Tried::new() }
    }

    /// Keeps the session away from a server that failed it lately, as long as there is another.
    pub(super) fn avoid(&mut self, lost: &Lost, now: u64) {
        let Some(target) = self.decision.target() else { return };
        if lost.contains(self.decision.session, self.pool.backend(target).live().id(), now) {
            self.tried.insert(target);
            if self.has_next() {
                self.decision.lose(target, Cause::Failed);
            } else {
                self.tried = Tried::new();
            }
        }
    }

    /// The best backend that was not tried yet.
    pub(super) fn next(&mut self, entropy: u64) -> Option<usize> {
        let pinned = self.decision.target().filter(|target| !self.tried.contains(*target));
        let next = pinned.or_else(|| match self.decision.verdict {
            Verdict::Hit | Verdict::Moved => {
                failover::next(self.pool, self.decision.session, self.decision.pinned, &self.tried)
            }
            Verdict::New | Verdict::None | Verdict::Refused => {
                self.balancer.best(&Candidates::new(self.pool, &self.tried), entropy)
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
        Candidates::new(self.pool, &self.tried).iter().next().is_some()
    }

    /// An attempt failed: the pin is lost for this request.
    pub(super) fn failed(&mut self, index: usize, failure: Failure) {
        let is_down = failure.fact == Fact::Lost || self.pool.backend(index).live().health() != Health::Up;
        self.decision.lose(index, if is_down { Cause::Down } else { Cause::Failed });
    }

    /// The request ends with this failure: if it is the backend's fault, its client's next one is to
    /// go elsewhere.
    pub(super) fn give_up(&self, index: usize, failure: Failure, lost: &Lost) {
        if self.decision.pinned == Some(index) && failure.fact.blame() == Blame::Backend {
            lost.note(self.decision.session, self.pool.backend(index).live().id(), clock::unix().as_secs());
        }
    }

    pub(super) fn decision(&self) -> &Decision {
        &self.decision
    }
}
