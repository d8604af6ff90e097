//! Owns: publishing a snapshot to the data-path threads, the probes and the admin plane.
//! Invariant: no request waits for it; a backend is probed from the snapshot that adds it to the one that removes it.
//! Must not know: what has changed, or why.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use super::probes::Probes;
use crate::admin;
use crate::clock;
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
    /// When each thread last said that it runs, in milliseconds since the start.
    beats: Box<[AtomicU64]>,
    started: Instant,
}

impl Progress {
    fn now(&self) -> u64 {
        let since = clock::now().saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Whether the data-path threads run.
#[derive(Clone)]
pub struct Heartbeats(Arc<Progress>);

impl Heartbeats {
    /// Returns whether each thread has run within `period`, or within the time in which it always does.
    pub fn are_recent(&self, period: Duration) -> bool {
        let (now, most) = (self.0.now(), period.max(HEARTBEAT_TOLERANCE).as_millis());
        let is_recent = |beat: u64| beat != ENDED && u128::from(now.saturating_sub(beat)) <= most;
        self.0.beats.iter().all(|beat| is_recent(beat.load(Ordering::Relaxed)))
    }

    /// Records that a thread has failed, and gives no sign of life any more. Returns whether it was the last one.
    pub(super) fn end(&self, thread: usize) -> bool {
        if let Some(beat) = self.0.beats.get(thread) {
            beat.store(ENDED, Ordering::Relaxed);
        }
        // Nobody waits for it any more.
        self.0.changed.notify_one();
        self.0.beats.iter().all(|beat| beat.load(Ordering::Relaxed) == ENDED)
    }

    /// Returns whether a thread has failed.
    pub(super) fn has_ended(&self) -> bool {
        self.0.beats.iter().any(|beat| beat.load(Ordering::Relaxed) == ENDED)
    }
}

/// The beat of a thread that has failed.
const ENDED: u64 = u64::MAX;

/// How old a sign of life may be, at least: a thread gives one twice a second, and a machine may be busy.
const HEARTBEAT_TOLERANCE: Duration = Duration::from_secs(5);

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

    /// Reports that the thread with this number runs.
    pub(super) fn beat(&self, thread: usize) {
        if let Some(beat) = self.progress.beats.get(thread) {
            beat.store(self.progress.now(), Ordering::Relaxed);
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
        let zeros = || (0..threads).map(|_| AtomicU64::new(0)).collect();
        let (by_thread, beats) = (zeros(), zeros());
        Published {
            publication: watch::Sender::new(Arc::new(publication)),
            progress: Arc::new(Progress { by_thread, changed: Notify::new(), beats, started: clock::now() }),
            entries,
            probes: Probes::default(),
        }
    }

    /// Returns the publications for a data-path thread.
    pub(super) fn subscribe(&self) -> Subscription {
        Subscription { publications: self.publication.subscribe(), progress: Arc::clone(&self.progress) }
    }

    /// Returns the signs of life of the data-path threads.
    pub(super) fn heartbeats(&self) -> Heartbeats {
        Heartbeats(Arc::clone(&self.progress))
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

    /// Waits until all threads that have not failed use the current publication, for at most this long; returns whether
    /// they do.
    pub(super) async fn installed(&self, within: Duration) -> bool {
        let number = self.publication.borrow().number;
        let threads = || self.progress.by_thread.iter().zip(&self.progress.beats);
        let is_installed = || {
            threads()
                .all(|(thread, beat)| thread.load(Ordering::Acquire) >= number || beat.load(Ordering::Relaxed) == ENDED)
        };
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
