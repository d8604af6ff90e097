//! Owns: everything that a request needs of the configuration, as one immutable whole.
//! Invariant: taken once per request; nothing in it is made per request.
//! Must not know: files; how it is published.

use std::rc::Rc;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::edits::Edits;
use super::headers::HeadLimits;
use super::key;
use super::rate::RateLimiter;
use super::retry::{self, RetryBudget};
use super::route::Routes;
use super::timeouts::Timeouts;
use super::via::Via;
use crate::affinity::Affinity;
use crate::affinity::pin_names::PinNames;
use crate::balance::{self, Balancer};
use crate::pool::Pool;
use crate::telemetry::LimitCounters;
use crate::telemetry::metrics::Series;
use crate::upstream;

/// One configuration at work.
#[derive(Debug)]
pub struct Snapshot {
    /// Host and path → position in `services`, or elsewhere.
    pub routes: Routes,
    /// The pools.
    pub services: Vec<Service>,
    /// What carries the pins of all pools.
    pub pin_names: PinNames,
    /// What a request may take.
    pub limits: HeadLimits,
    /// How many requests each client may send, if they are limited.
    pub limiter: Option<Arc<RateLimiter>>,
    /// Counts what no route leads to.
    pub unrouted: Arc<Series>,
    /// Counts what met a limit.
    pub limited: Arc<LimitCounters>,
}

/// A pool and all that belongs to serving from it.
#[derive(Debug)]
pub struct Service {
    /// Its backends.
    pub pool: Arc<Pool>,
    /// How clients are pinned.
    pub affinity: Arc<Affinity>,
    /// How a client without a pin gets its backend.
    pub balance: balance::BalancerKind,
    /// `[pools.hash]`, where requests are placed by something that they have.
    pub hash: Option<key::Settings>,
    /// `[pools.retry]`.
    pub retry: retry::Settings,
    /// `[pools.timeouts]`.
    pub timeouts: Timeouts,
    /// What its messages are marked with in Via, if they are.
    pub mark: Option<Box<str>>,
    /// `[pools.upstream]`.
    pub upstream: upstream::Access,
    /// Counters, by position of the backend.
    pub series: Vec<Arc<Series>>,
    /// Counts what no backend served.
    pub unserved: Arc<Series>,
}

/// A snapshot and what one thread keeps beside it: cursors, budgets, and fields that it alone copies.
pub(super) struct ThreadSnapshot {
    snapshot: Arc<Snapshot>,
    pools: Vec<PoolThreadState>,
    /// By position of the way.
    edits: Box<[Option<Rc<Edits>>]>,
}

/// What one thread keeps beside a pool.
struct PoolThreadState {
    balancer: Rc<dyn Balancer>,
    budget: Rc<RetryBudget>,
    via: Option<Via>,
}

impl ThreadSnapshot {
    /// What goes on from `before` is taken over: a pool that has new members has its cursor and its
    /// budget still.
    pub(super) fn new(
        snapshot: Arc<Snapshot>,
        before: Option<&ThreadSnapshot>,
        random: &mut SmallRng,
    ) -> ThreadSnapshot {
        let pools = snapshot.services.iter().map(|service| {
            let known = before.and_then(|view| view.of(service));
            let balancer = known.and_then(|(old, state)| match old.balance == service.balance {
                true if Arc::ptr_eq(&old.pool, &service.pool) => Some(Rc::clone(&state.balancer)),
                true => state.balancer.carry_over(&old.pool, &service.pool),
                false => None,
            });
            let budget = known.filter(|(old, _)| old.retry.budget == service.retry.budget);
            PoolThreadState {
                balancer: balancer.unwrap_or_else(|| service.balance.build(&service.pool, random.random())),
                budget: budget.map_or_else(
                    || Rc::new(RetryBudget::new(service.retry.budget)),
                    |(_, state)| Rc::clone(&state.budget),
                ),
                via: service.mark.as_deref().and_then(Via::new),
            }
        });
        let pools = pools.collect();
        let edits = snapshot.routes.entries().iter().map(|route| Edits::of(route).map(Rc::new)).collect();
        ThreadSnapshot { snapshot, pools, edits }
    }

    /// Positions come from `routes` of the same snapshot.
    pub(super) fn service(&self, pool: usize) -> Option<&Service> {
        self.snapshot.services.get(pool)
    }

    /// What the route of this way does to fields, if anything.
    pub(super) fn edits(&self, route: usize) -> Option<&Rc<Edits>> {
        self.edits.get(route)?.as_ref()
    }

    /// The pool of that name, as it was.
    fn of(&self, service: &Service) -> Option<(&Service, &PoolThreadState)> {
        let mut all = self.snapshot.services.iter().zip(&self.pools);
        all.find(|(old, _)| old.pool.name() == service.pool.name())
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Positions come from `routes` of the same snapshot.
    pub(super) fn balancer(&self, pool: usize) -> &dyn Balancer {
        &*self.pools[pool].balancer
    }

    pub(super) fn budget(&self, pool: usize) -> &RetryBudget {
        &self.pools[pool].budget
    }

    /// The values of Via for messages to and from a pool, if it is written.
    pub(super) fn via(&self, pool: usize) -> Option<&Via> {
        self.pools.get(pool)?.via.as_ref()
    }
}
