//! Owns: publishing a snapshot to the data-path threads, the probes and the admin plane.
//! Invariant: no request waits for it; a backend is probed from the snapshot that adds it to the one that removes it.
//! Must not know: what has changed, or why.

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

/// The current snapshot, in each form in which it is needed.
pub(super) struct Published {
    snapshot: watch::Sender<Arc<Snapshot>>,
    entries: Arc<ArcSwap<Vec<admin::PoolEntry>>>,
    /// By position in the plan; each has the current pool.
    probers: Vec<Arc<Prober>>,
    /// The status of the sources of each pool.
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

    /// Returns the snapshots for a data-path thread.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    /// Returns the pools for the admin plane.
    pub(super) fn entries(&self) -> &Arc<ArcSwap<Vec<admin::PoolEntry>>> {
        &self.entries
    }

    /// Returns the status of the sources of the pool at a position.
    pub(super) fn statuses(&self, pool: usize) -> &[Arc<SourceStatus>] {
        self.statuses.get(pool).map(Vec::as_slice).unwrap_or_default()
    }

    /// Begins to probe all backends. Call it once, on the thread that is to run the probes.
    pub(super) fn begin_probes(&self) {
        for prober in &self.probers {
            for backend in prober.pool().load().backends() {
                probe(prober, backend);
            }
            tokio::spawn(active::end_ejections(Arc::clone(prober.pool())));
        }
    }

    /// Publishes `snapshot`, which has the same pools.
    pub(super) fn publish(&self, snapshot: Snapshot) {
        for (prober, service) in self.probers.iter().zip(&snapshot.services) {
            let old = prober.pool().swap(Arc::clone(&service.pool));
            let known: HashSet<_> = old.backends().iter().map(|backend| backend.live().id()).collect();
            for backend in service.pool.backends().iter().filter(|backend| !known.contains(&backend.live().id())) {
                probe(prober, backend);
            }
        }
        let entries = Arc::new(entries(&snapshot, &self.statuses));
        // In this order: what the admin plane shows has been sent to all threads.
        self.snapshot.send_replace(Arc::new(snapshot));
        self.entries.store(entries);
    }
}

fn probe(prober: &Arc<Prober>, backend: &Backend) {
    let (name, live) = (Arc::clone(backend.name()), Arc::clone(backend.live()));
    tokio::task::spawn_local(active::watch(Arc::clone(prober), name, live));
}

/// Makes what the admin plane shows of a snapshot.
fn entries(snapshot: &Snapshot, statuses: &[Vec<Arc<SourceStatus>>]) -> Vec<admin::PoolEntry> {
    let entry = |(index, service): (usize, &Service)| admin::PoolEntry {
        pool: Arc::clone(&service.pool),
        balance: service.balance.as_str(),
        affinity: Arc::clone(&service.affinity),
        copies: service.copies.clone(),
        series: service.series.clone(),
        unserved: Arc::clone(&service.unserved),
        sources: statuses.get(index).cloned().unwrap_or_default(),
    };
    snapshot.services.iter().enumerate().map(entry).collect()
}
