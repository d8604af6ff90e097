//! Owns: publishing a snapshot to the data-path threads, the probes and the admin plane.
//! Invariant: no request waits for it; a backend is probed from the snapshot that adds it to the one that removes it.
//! Must not know: what has changed, or why.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::probes::Probes;
use crate::admin;
use crate::config::Plan;
use crate::discover::SourceStatus;
use crate::proxy::snapshot::{Service, Snapshot};
use crate::telemetry::AccessLogHandle;

/// What the data-path threads use from a certain moment on.
pub(super) struct Publication {
    number: u64,
    pub(super) snapshot: Arc<Snapshot>,
    /// The access log.
    pub(super) log: AccessLogHandle,
    /// The memory of each thread for request bodies, in bytes.
    pub(super) replay_memory: usize,
}

/// Receives publications on one thread.
#[derive(Clone)]
pub(super) struct Subscription {
    publications: watch::Receiver<Arc<Publication>>,
    progress: Arc<Progress>,
}

/// Which publication each thread uses.
struct Progress {
    by_thread: Box<[AtomicU64]>,
    changed: Notify,
}

impl Subscription {
    /// Returns the current publication. The thread uses it from now on.
    pub(super) fn current(&mut self) -> Arc<Publication> {
        Arc::clone(&self.publications.borrow_and_update())
    }

    /// Waits for the next publication; forever if there is none.
    pub(super) async fn next(&mut self) -> Arc<Publication> {
        match self.publications.changed().await {
            Ok(()) => self.current(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Reports that the thread with this number uses `publication`.
    pub(super) fn installed(&self, thread: usize, publication: &Publication) {
        if let Some(number) = self.progress.by_thread.get(thread) {
            number.store(publication.number, Ordering::Release);
            self.progress.changed.notify_one();
        }
    }
}

/// The current snapshot, in each form in which it is needed.
pub(super) struct Published {
    publication: watch::Sender<Arc<Publication>>,
    progress: Arc<Progress>,
    entries: Arc<ArcSwap<Vec<admin::PoolEntry>>>,
    probes: Probes,
}

impl Published {
    /// Publishes the first snapshot, to `threads` threads. Nothing is probed yet.
    pub(super) fn new(
        snapshot: Snapshot,
        statuses: &[Vec<Arc<SourceStatus>>],
        log: AccessLogHandle,
        replay_memory: usize,
        threads: usize,
    ) -> Published {
        let entries = Arc::new(ArcSwap::from_pointee(entries(&snapshot, statuses)));
        let publication = Publication { number: 1, snapshot: Arc::new(snapshot), log, replay_memory };
        let by_thread = (0..threads).map(|_| AtomicU64::new(0)).collect();
        Published {
            publication: watch::Sender::new(Arc::new(publication)),
            progress: Arc::new(Progress { by_thread, changed: Notify::new() }),
            entries,
            probes: Probes::default(),
        }
    }

    /// Returns the publications for a data-path thread.
    pub(super) fn subscribe(&self) -> Subscription {
        Subscription { publications: self.publication.subscribe(), progress: Arc::clone(&self.progress) }
    }

    /// Returns the pools for the admin plane.
    pub(super) fn entries(&self) -> &Arc<ArcSwap<Vec<admin::PoolEntry>>> {
        &self.entries
    }

    /// Begins to probe the backends of the current snapshot. Call it on the thread that is to run the probes.
    pub(super) fn begin_probes(&mut self, plan: &Plan) {
        let snapshot = Arc::clone(&self.publication.borrow().snapshot);
        self.probes.update(&snapshot, plan);
    }

    /// Publishes the snapshot of `plan`. `statuses` are those of the sources of each pool.
    pub(super) fn publish(&mut self, snapshot: Snapshot, plan: &Plan, statuses: &[Vec<Arc<SourceStatus>>]) {
        self.publish_with(snapshot, plan, statuses, None);
    }

    /// Publishes the snapshot of `plan`, and another access log if there is one.
    pub(super) fn publish_with(
        &mut self,
        snapshot: Snapshot,
        plan: &Plan,
        statuses: &[Vec<Arc<SourceStatus>>],
        log: Option<AccessLogHandle>,
    ) {
        self.probes.update(&snapshot, plan);
        let entries = Arc::new(entries(&snapshot, statuses));
        let replay_memory = plan.replay_memory / self.progress.by_thread.len().max(1);
        self.publication.send_modify(|current| {
            let log = log.unwrap_or_else(|| current.log.clone());
            let (number, snapshot) = (current.number + 1, Arc::new(snapshot));
            *current = Arc::new(Publication { number, snapshot, log, replay_memory });
        });
        // In this order: what the admin plane shows has been sent to all threads.
        self.entries.store(entries);
    }

    /// Waits until all threads use the current publication, for at most this long; returns whether they do.
    pub(super) async fn installed(&self, within: Duration) -> bool {
        let number = self.publication.borrow().number;
        let is_installed = || self.progress.by_thread.iter().all(|thread| thread.load(Ordering::Acquire) >= number);
        let installed = async {
            while !is_installed() {
                self.progress.changed.notified().await;
            }
        };
        tokio::time::timeout(within, installed).await.is_ok()
    }
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
