//! Owns: everything that a request needs of the configuration, as one immutable whole.
//! Invariant: taken once per request; nothing in it is made per request.
//! Must not know: files; how it is published.

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::headers::Limits;
use super::retry::{self, Budget};
use super::route::Routes;
use super::{Timeouts, key};
use crate::affinity::Affinity;
use crate::balance::{self, Balancer};
use crate::pool::Pool;
use crate::telemetry::metrics::Series;
use crate::upstream;

/// One configuration at work.
#[derive(Debug)]
pub struct Snapshot {
    /// Host and path → position in `services`.
    pub routes: Routes,
    /// The pools.
    pub services: Vec<Service>,
    /// What a request may take.
    pub limits: Limits,
    /// Counts what no route leads to.
    pub unrouted: Arc<Series>,
}

/// A pool and all that belongs to serving from it.
#[derive(Debug)]
pub struct Service {
    /// Its backends.
    pub pool: Arc<Pool>,
    /// How clients are pinned.
    pub affinity: Arc<Affinity>,
    /// How a client without a pin gets its backend.
    pub balance: balance::Kind,
    /// `[pools.hash]`, where requests are placed by something that they have.
    pub hash: Option<key::Settings>,
    /// `[pools.retry]`.
    pub retry: retry::Settings,
    /// `[pools.timeouts]`.
    pub timeouts: Timeouts,
    /// `[pools.upstream]`.
    pub upstream: upstream::Access,
    /// Counters, by position of the backend.
    pub series: Vec<Arc<Series>>,
    /// Counts what no backend served.
    pub unserved: Arc<Series>,
}

/// A snapshot and what one thread keeps beside it: cursors and budgets.
pub(super) struct View {
    snapshot: Arc<Snapshot>,
    pools: Vec<(Box<dyn Balancer>, Budget)>,
}

impl View {
    pub(super) fn new(snapshot: Arc<Snapshot>, random: &mut SmallRng) -> View {
        let pool = |service: &Service| {
            (service.balance.build(&service.pool, random.random()), Budget::new(service.retry.budget))
        };
        let pools = snapshot.services.iter().map(pool).collect();
        View { snapshot, pools }
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Positions come from `routes` of the same snapshot.
    pub(super) fn balancer(&self, pool: usize) -> &dyn Balancer {
        &*self.pools[pool].0
    }

    pub(super) fn budget(&self, pool: usize) -> &Budget {
        &self.pools[pool].1
    }
}
