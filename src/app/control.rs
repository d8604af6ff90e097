//! Owns: the control thread: what serves no request, such as probes, discovery, housekeeping and the admin listener.
//! Invariant: it ends within a second of being told to; a file system that hangs does not hold it up.
//! Must not know: requests; how any of its parts works.

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
use crate::net::Address;
use crate::telemetry::{Metrics, Watch};
use crate::tls::reload::WatchedCertificates;
use crate::{clock, pool, session_sync, tls};

/// How long a process that was told to stop still takes connections to its admin listener.
const ADMIN_CLOSE_DELAY: Duration = Duration::from_millis(300);

/// The thread for what serves no request: probes, ejections, admin.
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
    /// And how many connections it may have.
    pub(super) admin: Option<(admin::Bound, admin::Settings, usize)>,
    pub(super) stores: Vec<learned::StoreSync>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: Watch,
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
            // A file system that gives no answer holds nobody up.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(work)?;
        Ok(Control { thread, phase, end })
    }

    /// From now on the readiness endpoint says that clients should go elsewhere.
    pub(super) fn stopping(&self) {
        self.phase.send_replace(Phase::Stopping);
    }

    /// Ends it. Blocks.
    pub(super) fn join(self) {
        // If nobody listens, it has ended already.
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

/// Waits until the admin listener is to be closed, so that a successor can have its address: a moment after the
/// process is told to stop, in which whoever looks finds it not ready.
async fn admin_close(mut phase: watch::Receiver<Phase>) {
    // An error means that this is the end.
    let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    tokio::time::sleep(ADMIN_CLOSE_DELAY).await;
}

async fn control(parts: ControlParts, phase: Arc<watch::Sender<Phase>>, ended: oneshot::Receiver<()>) {
    let ControlParts { composer, published, listening, avoid_list, admin, stores, metrics, log, certificates } = parts;
    let (entries, known) = (Arc::clone(published.entries()), phase.subscribe());
    published.begin_probes();
    for store in stores {
        tokio::spawn(session_sync::run(store));
    }
    tokio::spawn(process_housekeeping(avoid_list, Arc::clone(&entries), Arc::clone(&metrics), log));
    tokio::task::spawn_local(discovery::run(composer, published, listening, Arc::clone(&phase)));
    tokio::spawn(tls::reload::watch(certificates.clone()));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = admin.map(|(bound, settings, connections)| {
        let facts = admin::Facts { pools: entries, metrics, certificates, phase: known, started: SystemTime::now() };
        let (closing, until) = (admin_close(phase.subscribe()), async { drop(stopped.await) });
        tokio::spawn(async move {
            if let Err(error) = admin::run(bound, settings, facts, connections, closing, until).await {
                tracing::error!(%error, "the admin listener has ended");
            }
        })
    });
    // Errors mean that the other side is gone: that is the end, too.
    let _ = ended.await;
    drop(stop);
    if let Some(serving) = serving {
        let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
    }
}

/// Looks after what requests leave behind.
async fn process_housekeeping(
    avoid_list: Arc<AvoidList>,
    entries: Arc<ArcSwap<Vec<admin::Entry>>>,
    metrics: Arc<Metrics>,
    mut log: Watch,
) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    for second in 0_u64.. {
        interval.tick().await;
        log.look();
        let now = clock::unix();
        for entry in entries.load().iter() {
            let recount =
                |backend: &pool::Backend| backend.live().recount(now.as_secs(), entry.affinity.presence_seconds());
            entry.pool.backends().iter().for_each(recount);
            if second.is_multiple_of(10) {
                entry.affinity.sweep(now);
            }
        }
        if second.is_multiple_of(10) {
            avoid_list.sweep(now.as_secs());
            metrics.tidy();
        }
    }
}
