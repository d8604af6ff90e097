//! Owns: the snapshot: everything that a request needs of the configuration, in one immutable value.
//! Invariant: a request takes it once; nothing in it is made per request.
//! Must not know: files; how a snapshot is published.

use std::borrow::Borrow;
use std::rc::Rc;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::edits::Edits;
use super::headers::HeadLimits;
use super::key;
use super::pages;
use super::password_checks::PasswordChecks;
use super::rate::RateLimiter;
use super::retry::{self, RetryBudget};
use super::route::Routes;
use super::timeouts::Timeouts;
use super::via::Via;
use crate::acme::HttpChallenges;
use crate::affinity::Affinity;
use crate::affinity::pin_names::PinNames;
use crate::balance::{self, Balancer};
use crate::copies::PoolCopies;
use crate::pool::{Live, Pool};
use crate::telemetry::metrics::Series;
use crate::telemetry::{DenialCounters, LimitCounters, Tracer};
use crate::upstream;

/// One configuration in use.
#[derive(Debug)]
pub struct Snapshot {
    /// Finds the route entry of a request.
    pub routes: Routes,
    /// The pools, with what serves from them.
    pub services: Vec<Service>,
    /// The cookie and field names that carry pins, over all pools.
    pub pin_names: PinNames,
    /// The limits of a request's head.
    pub limits: HeadLimits,
    /// Limits the request rate of each client, if configured.
    pub limiter: Option<Arc<RateLimiter>>,
    /// Limits the verification of passwords, if a route asks for any.
    pub password_checks: Option<Arc<PasswordChecks>>,
    /// Traces requests, if configured.
    pub tracer: Option<Tracer>,
    /// The responses to ACME servers that validate names, if a listener has its certificates from one.
    pub challenges: Option<HttpChallenges>,
    /// Counts requests without a route.
    pub unrouted: Arc<Series>,
    /// Counts requests and connections that reached a limit.
    pub limited: Arc<LimitCounters>,
    /// Counts requests that the access rules of a route refused.
    pub denied: Arc<DenialCounters>,
}

/// A pool, and everything that serving from it needs.
#[derive(Debug)]
pub struct Service {
    /// Its backends.
    pub pool: Arc<Pool>,
    /// The pool's persistence.
    pub affinity: Arc<Affinity>,
    /// The balancing algorithm for clients without a pin.
    pub balance: balance::BalancerKind,
    /// `[pools.hash]`, for balancing by hash.
    pub hash: Option<key::Settings>,
    /// The session copies, if the pool keeps any.
    pub copies: Option<Arc<PoolCopies>>,
    /// `[pools.retry]`.
    pub retry: retry::Settings,
    /// `[pools.timeouts]`.
    pub timeouts: Timeouts,
    /// `[pools.pages]`.
    pub pages: pages::Settings,
    /// Its name in Via, if Via is added.
    pub mark: Option<Box<str>>,
    /// `[pools.upstream]`.
    pub upstream: upstream::Access,
    /// Counters, by the backend's position.
    pub series: Vec<Arc<Series>>,
    /// Counts requests that no backend served.
    pub unserved: Arc<Series>,
}

/// A snapshot with one thread's state for it: cursors, budgets, and copies of fields that only this thread clones.
pub(super) struct ThreadSnapshot {
    snapshot: Arc<Snapshot>,
    pools: Vec<PoolThreadState>,
    /// By the route entry's position.
    edits: Box<[Option<Rc<Edits>>]>,
}

/// A backend of a snapshot. To keep it writes nothing that other threads share.
pub(super) struct KeptBackend {
    view: Rc<ThreadSnapshot>,
    pool: usize,
    index: usize,
}

impl Borrow<Arc<Live>> for KeptBackend {
    fn borrow(&self) -> &Arc<Live> {
        self.view.snapshot.services[self.pool].pool.backend(self.index).live()
    }
}

/// One thread's state of a pool.
struct PoolThreadState {
    balancer: Rc<dyn Balancer>,
    budget: Rc<RetryBudget>,
    via: Option<Via>,
}

impl ThreadSnapshot {
    /// Makes the state, and takes over what continues from `before`: a pool with new members keeps its cursor and
    /// budget.
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

    /// Returns a pool by its position, which comes from `routes` of the same snapshot.
    pub(super) fn service(&self, pool: usize) -> Option<&Service> {
        self.snapshot.services.get(pool)
    }

    /// Keeps the backend at `index` of the pool at this position, if there is such a pool.
    pub(super) fn keep_backend(self: &Rc<Self>, pool: usize, index: usize) -> Option<KeptBackend> {
        self.service(pool).map(|_| KeptBackend { view: Rc::clone(self), pool, index })
    }

    /// Returns the changes to fields of the route entry at this position, if any.
    pub(super) fn edits(&self, route: usize) -> Option<&Rc<Edits>> {
        self.edits.get(route)?.as_ref()
    }

    /// Returns the pool of the same name in this snapshot.
    fn of(&self, service: &Service) -> Option<(&Service, &PoolThreadState)> {
        let mut all = self.snapshot.services.iter().zip(&self.pools);
        all.find(|(old, _)| old.pool.name() == service.pool.name())
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Returns a pool's balancer by its position, which comes from `routes` of the same snapshot.
    pub(super) fn balancer(&self, pool: usize) -> &dyn Balancer {
        &*self.pools[pool].balancer
    }

    pub(super) fn budget(&self, pool: usize) -> &RetryBudget {
        &self.pools[pool].budget
    }

    /// Returns the values of Via for a pool's messages, if Via is added.
    pub(super) fn via(&self, pool: usize) -> Option<&Via> {
        self.pools.get(pool)?.via.as_ref()
    }
}
