//! Owns: handing a snapshot to all who live by it: data-path threads, probes, the admin plane.
//! Invariant: no request waits for it; probes begin and end with the backends that come and go.
//! Must not know: what has changed, and why.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::admin;
use crate::config::{Plan, PoolPlan};
use crate::discover::SourceStatus;
use crate::health::active::{self, Prober};
use crate::pool::Backend;
use crate::proxy::snapshot::{Service, Snapshot};

/// The snapshot as it is now, in each of the shapes in which it is needed.
pub(super) struct Published {
    snapshot: watch::Sender<Arc<Snapshot>>,
    entries: Arc<ArcSwap<Vec<admin::Entry>>>,
    /// Each has its pool as it is now; by position in the plan.
    probers: Vec<Arc<Prober>>,
    /// How the sources of each pool are doing.
    statuses: Vec<Vec<Arc<SourceStatus>>>,
}

impl Published {
    pub(super) fn new(plan: &Plan, snapshot: Snapshot) -> Published {
        let status = |pool: &PoolPlan| {
            pool.discover.iter().map(|settings| Arc::new(SourceStatus::new(&settings.source))).collect()
        };
        let statuses: Vec<Vec<_>> = plan.pools.iter().map(status).collect();
        let prober = |(service, plan): (&Service, &PoolPlan)| {
            let pool = Arc::new(ArcSwap::new(Arc::clone(&service.pool)));
            Arc::new(Prober::new(pool, plan.health.clone(), service.upstream.clone()))
        };
        let probers = snapshot.services.iter().zip(&plan.pools).map(prober).collect();
        let entries = Arc::new(ArcSwap::from_pointee(entries(&snapshot, &statuses)));
        Published { snapshot: watch::Sender::new(Arc::new(snapshot)), entries, probers, statuses }
    }

    /// For a data-path thread.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    /// For the admin plane.
    pub(super) fn entries(&self) -> &Arc<ArcSwap<Vec<admin::Entry>>> {
        &self.entries
    }

    /// How the sources of the pool at a position are doing.
    pub(super) fn statuses(&self, pool: usize) -> &[Arc<SourceStatus>] {
        self.statuses.get(pool).map(Vec::as_slice).unwrap_or_default()
    }

    /// Begins to probe all that is there. Once, on the thread that is to do it.
    pub(super) fn begin_probes(&self) {
        for prober in &self.probers {
            for backend in prober.pool().load().backends() {
                probe(prober, backend);
            }
            tokio::spawn(active::end_ejections(Arc::clone(prober.pool())));
        }
    }

    /// Has everyone go on with `snapshot`, of the same pools.
    pub(super) fn publish(&self, snapshot: Snapshot) {
        for (prober, service) in self.probers.iter().zip(&snapshot.services) {
            let old = prober.pool().swap(Arc::clone(&service.pool));
            let known: HashSet<_> = old.backends().iter().map(|backend| backend.live().id()).collect();
            for backend in service.pool.backends().iter().filter(|backend| !known.contains(&backend.live().id())) {
                probe(prober, backend);
            }
        }
        let entries = Arc::new(entries(&snapshot, &self.statuses));
        // In this order: what the admin plane tells of is on its way to all threads.
        self.snapshot.send_replace(Arc::new(snapshot));
        self.entries.store(entries);
    }
}

fn probe(prober: &Arc<Prober>, backend: &Backend) {
    let (name, live) = (Arc::clone(backend.name()), Arc::clone(backend.live()));
    tokio::task::spawn_local(active::watch(Arc::clone(prober), name, live));
}

/// What the admin plane is told of a snapshot.
fn entries(snapshot: &Snapshot, statuses: &[Vec<Arc<SourceStatus>>]) -> Vec<admin::Entry> {
    let entry = |(index, service): (usize, &Service)| admin::Entry {
        pool: Arc::clone(&service.pool),
        balance: service.balance.as_str(),
        affinity: Arc::clone(&service.affinity),
        series: service.series.clone(),
        unserved: Arc::clone(&service.unserved),
        sources: statuses.get(index).cloned().unwrap_or_default(),
    };
    snapshot.services.iter().enumerate().map(entry).collect()
}
