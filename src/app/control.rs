//! Owns: the control thread, which runs what serves no request: probes, discovery, housekeeping, the admin listener.
//! Invariant: it ends within about a second after it is asked to, even if a file system hangs.
//! Must not know: requests, or how its parts work.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;

use super::compose::Composer;
use super::discovery;
use super::publish::Published;
use crate::admin::{self, Phase};
use crate::affinity::avoid_list::AvoidList;
use crate::affinity::learned;
use crate::copies::SharedStoreSync;
use crate::net::Address;
use crate::telemetry::{LossReporter, Metrics};
use crate::tls::reload::WatchedCertificates;
use crate::{clock, pool, session_sync, tls};

/// How long the admin listener still accepts connections after the process was asked to stop.
const ADMIN_CLOSE_DELAY: Duration = Duration::from_millis(300);

/// The control thread.
pub(super) struct Control {
    thread: std::thread::JoinHandle<()>,
    pub(super) phase: Arc<watch::Sender<Phase>>,
    end: oneshot::Sender<()>,
}

pub(super) struct ControlParts {
    pub(super) composer: Composer,
    pub(super) published: Published,
    pub(super) listening: Vec<Address>,
    pub(super) avoid_list: Arc<AvoidList>,
    /// The bound admin listener, its settings, and how many connections it may have.
    pub(super) admin: Option<(admin::Bound, admin::Settings, usize)>,
    pub(super) stores: Vec<learned::StoreSync>,
    pub(super) shared_copies: Vec<SharedStoreSync>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: LossReporter,
    pub(super) certificates: WatchedCertificates,
}

impl Control {
    pub(super) fn start(parts: ControlParts) -> std::io::Result<Control> {
        let waits = parts.composer.plan().pools.iter().any(|pool| !pool.discover.is_empty());
        let phase = Arc::new(watch::Sender::new(if waits { Phase::Starting } else { Phase::Ready }));
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let known = Arc::clone(&phase);
        let work = move || {
            LocalSet::new().block_on(&runtime, control(parts, known, ended));
            // A blocking task on a file system that does not respond must not delay the end.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(work)?;
        Ok(Control { thread, phase, end })
    }

    /// Makes the readiness endpoint report that the process is stopping.
    pub(super) fn stopping(&self) {
        self.phase.send_replace(Phase::Stopping);
    }

    /// Ends the thread. Blocks.
    pub(super) fn join(self) {
        // An error means that the thread has ended already.
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

/// Waits until the admin listener must close, so that a successor can bind its address: a moment after the process was
/// asked to stop, in which readiness checks find it not ready.
async fn admin_close(mut phase: watch::Receiver<Phase>) {
    // An error means that the process is ending.
    let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    tokio::time::sleep(ADMIN_CLOSE_DELAY).await;
}

async fn control(parts: ControlParts, phase: Arc<watch::Sender<Phase>>, ended: oneshot::Receiver<()>) {
    let ControlParts {
        composer,
        published,
        listening,
        avoid_list,
        admin,
        stores,
        shared_copies,
        metrics,
        log,
        certificates,
    } = parts;
    let (entries, known) = (Arc::clone(published.entries()), phase.subscribe());
    published.begin_probes();
    for store in stores {
        tokio::spawn(session_sync::run(store));
    }
    for store in shared_copies {
        tokio::spawn(session_sync::run_copies(store));
    }
    tokio::spawn(process_housekeeping(avoid_list, Arc::clone(&entries), Arc::clone(&metrics), log));
    tokio::task::spawn_local(discovery::run(composer, published, listening, Arc::clone(&phase)));
    tokio::spawn(tls::reload::watch(certificates.clone()));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = admin.map(|(bound, settings, connections)| {
        let facts =
            admin::StatusSources { pools: entries, metrics, certificates, phase: known, started: SystemTime::now() };
        let (closing, until) = (admin_close(phase.subscribe()), async { drop(stopped.await) });
        tokio::spawn(async move {
            if let Err(error) = admin::run(bound, settings, facts, connections, closing, until).await {
                tracing::error!(
                    %error,
                    "the admin listener has failed; clients are still served; restart this process to get it back"
                );
            }
        })
    });
    // An error means that the sender was dropped: that ends the thread as well.
    let _ = ended.await;
    drop(stop);
    if let Some(serving) = serving {
        let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
    }
}

/// The housekeeping of the process: counts sessions, removes expired state, and reports lost log lines.
async fn process_housekeeping(
    avoid_list: Arc<AvoidList>,
    entries: Arc<ArcSwap<Vec<admin::PoolEntry>>>,
    metrics: Arc<Metrics>,
    mut log: LossReporter,
) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    for second in 0_u64.. {
        interval.tick().await;
        log.check();
        let now = clock::unix();
        for entry in entries.load().iter() {
            let recount = |backend: &pool::Backend| {
                backend.live().refresh_session_count(now.as_secs(), entry.affinity.presence_seconds())
            };
            entry.pool.backends().iter().for_each(recount);
            if second.is_multiple_of(10) {
                entry.affinity.sweep(now);
                entry.copies.iter().for_each(|copies| copies.store().sweep(now.as_secs()));
            }
        }
        if second.is_multiple_of(10) {
            avoid_list.sweep(now.as_secs());
            metrics.merge_removed();
        }
    }
}
