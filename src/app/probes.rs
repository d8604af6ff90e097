//! Owns: which probes run: those of the backends of the current snapshot, with its settings.
//! Invariant: a probe that need not change goes on; every other one has ended before its successor begins.
//! Must not know: how a backend is probed, or what changes the snapshot.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::task::AbortHandle;

use crate::clock;
use crate::config::{Plan, PoolPlan};
use crate::health::active::{self, Prober};
use crate::health::{self, Probe};
use crate::pool::observe::Observation;
use crate::proxy::snapshot::{Service, Snapshot};
use crate::upstream::Access;

/// The probes of all pools, by the pool's name.
#[derive(Default)]
pub(super) struct Probes(HashMap<String, PoolProbes>);

/// The probes of one pool. Dropping it ends them.
struct PoolProbes {
    prober: Arc<Prober>,
    settings: health::Settings,
    access: Access,
    /// By the live id of the backend.
    tasks: HashMap<usize, Task>,
    _follows_time: Task,
}

/// A task that ends when this is dropped.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Probes {
    /// Probes the backends of `snapshot`, which was composed from `plan`, and no others.
    pub(super) fn update(&mut self, snapshot: &Snapshot, plan: &Plan) {
        let mut before = std::mem::take(&mut self.0);
        for (service, plan) in snapshot.services.iter().zip(&plan.pools) {
            let known = before.remove(&plan.pool.name);
            let had_probes = known.as_ref().is_some_and(|known| known.settings.probe != Probe::None);
            let kept = known.filter(|known| known.is_for(service, plan));
            let mut probes = kept.unwrap_or_else(|| PoolProbes::new(service, plan));
            probes.update(service);
            self.0.insert(plan.pool.name.clone(), probes);
            if had_probes && plan.health.probe == Probe::None {
                for index in 0..service.pool.backends().len() {
                    service.pool.observe(index, Observation::ProbesEnded, clock::now());
                }
            }
        }
    }
}

impl PoolProbes {
    fn new(service: &Service, plan: &PoolPlan) -> PoolProbes {
        let pool = Arc::new(ArcSwap::new(Arc::clone(&service.pool)));
        let follows_time = tokio::spawn(active::follow_time(Arc::clone(&pool)));
        let (settings, access) = (plan.health.clone(), service.upstream.for_probes().clone());
        PoolProbes {
            prober: Arc::new(Prober::new(pool, settings.clone(), access.clone())),
            settings,
            access,
            tasks: HashMap::new(),
            _follows_time: Task(follows_time.abort_handle()),
        }
    }

    /// Returns whether these are the probes that the settings mean.
    fn is_for(&self, service: &Service, plan: &PoolPlan) -> bool {
        let access = service.upstream.for_probes();
        let is_same_tls = match (&self.access.tls, &access.tls) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        self.settings == plan.health && self.access.settings == access.settings && is_same_tls
    }

    fn update(&mut self, service: &Service) {
        self.prober.pool().store(Arc::clone(&service.pool));
        let current: HashSet<_> = service.pool.backends().iter().map(|backend| backend.live().id()).collect();
        self.tasks.retain(|id, _| current.contains(id));
        for backend in service.pool.backends() {
            let (name, live) = (Arc::clone(backend.name()), Arc::clone(backend.live()));
            let probe = || {
                let task = tokio::task::spawn_local(active::watch(Arc::clone(&self.prober), name, live));
                Task(task.abort_handle())
            };
            self.tasks.entry(backend.live().id()).or_insert_with(probe);
        }
    }
}
