//! Owns: the composition root: it builds the running parts from a plan, and connects them.
//! Invariant: everything that can fail at start fails before the first client is accepted.
//! Must not know: how requests are served, or the command line.

mod acquire;
mod admin_server;
mod compose;
mod configuration;
mod control;
mod descriptor_limit;
mod discovery;
mod drains;
mod follow;
mod listeners;
mod moves;
mod probes;
mod publish;
mod reload;
mod reload_changes;
mod reload_reports;
mod running;
mod tls_setup;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};

use crate::admin::{Actor, Phase, ReloadFigures, ReloadReport, Reloader, StatusSources};
use crate::affinity::avoid_list::AvoidList;
use crate::affinity::{Cause, Verdict};
use crate::config::Plan;
use crate::events::{Event, Events, ProcessPhase};
use crate::net::Address;
use crate::pool::Pool;
use crate::pool::health_tracker::BackendDownReceiver;
use crate::proxy::error::Unserved;
use crate::proxy::{Proxy, replay};
use crate::runtime::listeners::Acquisition;
use crate::runtime::workers::WorkerContext;
use crate::runtime::{BindError, ListenerTransport, Listeners, Workers, descriptors};
use crate::telemetry::metrics::Labels;
use crate::telemetry::{AccessLog, Metrics, OpenError, Reopen};
use crate::tls::reload::WatchedCertificates;
use crate::upstream::Fact;
use crate::{clock, tls};
use admin_server::BoundAdmin;
use compose::Composer;
use control::{Control, ControlParts};
use descriptor_limit::fit_to_descriptor_limit;
use discovery::Sources;
use listeners::listener_info;
use publish::{Published, Subscription};
use reload::Commit;
use reload_reports::ReloadReports;
use running::{Overview, Running, StoreTasks};
use tls_setup::TlsSetup;

/// The time between two runs of the housekeeping of each data-path thread.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// What metrics are told apart by.
const LABELS: Labels =
    Labels { verdicts: &Verdict::NAMES, causes: &Cause::NAMES, outcomes: &Fact::OUTCOMES, refusals: &Unserved::NAMES };

/// A running Linchpin.
pub struct App {
    overview: Arc<ArcSwap<Overview>>,
    entries: Arc<ArcSwap<Vec<crate::admin::PoolEntry>>>,
    reloader: Reloader,
    phase: Arc<watch::Sender<Phase>>,
    events: Events,
    commit: Commit,
    workers: Workers,
    control: Control,
    reopen: Reopen,
}

/// Why Linchpin does not start.
#[derive(Debug)]
pub enum StartError {
    /// The access log can't be opened.
    Log(OpenError),
    /// A listener can't bind its address.
    Bind(BindError),
    /// The admin listener can't bind its address.
    Admin(Address, std::io::Error),
    /// A certificate or key file can't be used.
    Tls(tls::Error),
    /// A thread can't be started.
    Thread(std::io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Log(error) => error.fmt(f),
            StartError::Bind(error) => error.fmt(f),
            StartError::Admin(address, error) => {
                write!(f, "the admin listener cannot bind {address}: {error}; choose another [admin] address")
            }
            StartError::Tls(error) => write!(f, "{error}; {}", error.remedy()),
            StartError::Thread(error) => {
                write!(f, "cannot start a thread: {error}; check the limits of processes and memory")
            }
        }
    }
}

impl std::error::Error for StartError {}

impl App {
    /// Starts everything in `plan`, and returns once clients can connect.
    ///
    /// # Errors
    /// The log file, certificates, addresses or threads that are not available. Nothing runs then.
    pub fn start(plan: Plan) -> Result<App, StartError> {
        let threads = plan.server.threads();
        let log = AccessLog::open(&plan.log.access, plan.log.format).map_err(StartError::Log)?;
        let metrics = Arc::new(Metrics::new(threads, LABELS, Arc::clone(log.dropped())));
        let tls = TlsSetup::open(&plan).map_err(StartError::Tls)?;
        let ((server, admin_connections), replay_memory) = (fit_to_descriptor_limit(&plan), plan.replay_memory);

        if server.max_connections < plan.server.max_connections {
            tracing::info!(
                max_connections = server.max_connections,
                limit = descriptors::soft_limit(),
                "limiting client connections to what the limit on open descriptors allows; raise LimitNOFILE for more"
            );
        }

        let (mut listeners, inboxes) = Listeners::new(&server, threads);
        let acquired = listeners.acquire(&plan.listeners, Acquisition::Start).map_err(StartError::Bind)?;
        let ids = acquired.ids();
        let settings = plan.listeners.iter().zip(&ids).zip(&tls.acceptors);
        let transports = settings.map(|((listener, id), tls)| {
            Arc::new(ListenerTransport::new(listener, tls.clone(), listener_info(*id, listener), &metrics))
        });
        let transports = transports.collect();

        let events = Events::default();
        let sources = Sources::new(&plan.pools, events.clone());
        let waits = plan.pools.iter().any(|pool| !pool.discover.is_empty());
        let phase = Arc::new(watch::Sender::new(if waits { Phase::Starting } else { Phase::Ready }));
        let mut composer = Composer::new(plan, tls.accesses.clone(), ids, threads, Arc::clone(&metrics), &events);
        let snapshot = composer.compose();
        let memory = replay_memory / threads.max(1);
        let published = Published::new(snapshot, &sources.statuses(), log.handle(), memory, threads);

        acquired.listen().map_err(StartError::Bind)?;
        // The threads open them when they start.
        drop(listeners.install(acquired, transports, Duration::ZERO));
        let admin = match &composer.plan().admin {
            None => None,
            Some(settings) => {
                let bound = BoundAdmin::bind(settings, true);
                Some(bound.map_err(|error| StartError::Admin(settings.address.clone(), error))?)
            }
        };

        let (reloader, requests) = Reloader::new();
        let entries = Arc::clone(published.entries());
        let facts = StatusSources {
            pools: Arc::clone(&entries),
            metrics,
            phase: phase.subscribe(),
            certificates: WatchedCertificates::new(tls.watched()),
            reloader: reloader.clone(),
            reloads: ReloadFigures::started(clock::unix()),
            events: events.clone(),
            started: clock::unix(),
        };
        let overview = Arc::new(ArcSwap::from_pointee(Overview {
            listeners: listeners.addresses(),
            admin: admin.as_ref().and_then(|admin| admin.bound.address()),
            shutdown_delay: server.shutdown_delay,
            shutdown_grace: server.shutdown_grace,
        }));
        let (files, reopen, avoid_list) = (listeners.files(), log.reopen(), Arc::new(AvoidList::default()));
        let (backend_down, subscription, commit) = (composer.backend_down(), published.subscribe(), Commit::default());
        let running = Running {
            generation: 1,
            composer,
            published,
            sources,
            listeners,
            tls,
            log,
            admin: None,
            facts,
            reload_reports: ReloadReports::default(),
            overview: Arc::clone(&overview),
            session_stores: StoreTasks::default(),
            copy_stores: StoreTasks::default(),
            following: None,
        };
        let parts = ControlParts {
            running,
            requests,
            phase: Arc::clone(&phase),
            commit: Arc::clone(&commit),
            avoid_list: Arc::clone(&avoid_list),
            admin: admin.map(|bound| (bound, admin_connections)),
        };
        let control = Control::start(parts).map_err(StartError::Thread)?;

        let make = move |thread: WorkerContext| {
            let mut subscription = subscription.clone();
            let current = subscription.current();
            let (deadlines, log, avoid_list) =
                (thread.deadlines.clone(), current.log.thread_log(), Arc::clone(&avoid_list));
            let memory = replay::ReplayMemory::new(current.replay_memory);
            let snapshot = Arc::clone(&current.snapshot);
            let proxy = Rc::new(Proxy::new(thread.index, snapshot, deadlines, log, avoid_list, memory));
            subscription.installed(thread.index, &current);
            let housekeeping = housekeeping(Rc::clone(&proxy), thread, backend_down.subscribe(), subscription);
            (proxy, housekeeping)
        };
        let (broken, of_failure) = (Arc::clone(&phase), events.clone());
        let on_failure = move || {
            if broken.send_if_modified(Phase::mark_broken) {
                of_failure.publish(Event::Process { phase: ProcessPhase::Broken });
            }
        };
        let workers = Workers::start(inboxes, files, make, on_failure).map_err(StartError::Thread)?;
        if !waits {
            events.publish(Event::Process { phase: ProcessPhase::Ready });
        }
        Ok(App { overview, entries, reloader, phase, events, commit, workers, control, reopen })
    }

    /// Returns the addresses of the listeners, in the order of the configuration.
    pub fn listeners(&self) -> Vec<Address> {
        self.overview.load().listeners.clone()
    }

    /// Returns the address of the admin listener, if it is on TCP.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.overview.load().admin
    }

    /// Returns how long requests in flight may take to end once it stops.
    pub fn shutdown_grace(&self) -> Duration {
        self.overview.load().shutdown_grace
    }

    /// Returns the current pools.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.entries.load().iter().map(|entry| Arc::clone(&entry.pool)).collect()
    }

    /// Returns what reopens the access log.
    pub fn log(&self) -> Reopen {
        self.reopen.clone()
    }

    /// Returns what requests reloads.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Reads the configuration file again, and returns once that is done.
    pub async fn reload(&self, is_dry_run: bool) -> ReloadReport {
        self.reloader.reload(Actor::Program, is_dry_run).await
    }

    /// Returns how long connections are still accepted once it stops.
    pub fn shutdown_delay(&self) -> Duration {
        self.overview.load().shutdown_delay
    }

    /// Stops: reports not ready, goes on for the configured delay, serves the connections and requests that have begun
    /// by then, gives requests in flight the grace period, and ends. If the future is dropped before that, everything
    /// ends at once.
    pub async fn stop(self) {
        let App { mut workers, control, phase, events, commit, overview, .. } = self;
        // A reload that is being applied comes first: it ends within seconds.
        let mut is_stopping = commit.lock().await;
        *is_stopping = true;
        phase.send_replace(Phase::Stopping);
        events.publish(Event::Process { phase: ProcessPhase::Stopping });
        drop(is_stopping);
        let (delay, grace) = (overview.load().shutdown_delay, overview.load().shutdown_grace);
        if !delay.is_zero() {
            workers.announce_stop();
            tokio::time::sleep(delay).await;
        }
        phase.send_replace(Phase::Closing);
        workers.drain(grace);
        let (ended, end) = oneshot::channel();
        let joining = std::thread::Builder::new().name("join".into()).spawn(move || {
            workers.join();
            control.join();
            // The receiver may be dropped already.
            let _ = ended.send(());
        });
        if joining.is_ok() {
            // An error means that the thread has ended, and with it all that it waited for.
            let _ = end.await;
        }
    }
}

/// The housekeeping of a data-path thread: sweeps, wakes the requests on a backend that went down, and installs what is
/// published.
async fn housekeeping(
    proxy: Rc<Proxy>,
    thread: WorkerContext,
    mut backend_down: BackendDownReceiver,
    mut subscription: Subscription,
) {
    let WorkerContext { index, deadlines } = thread;
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            now = sweep.tick() => proxy.sweep(now.into_std()),
            // Each request that waits for that backend checks whether it may go to another one.
            lost = backend_down.next() => match lost {
                Some(backend) => deadlines.wake(backend),
                None => deadlines.wake_all(),
            },
            next = subscription.next() => {
                proxy.install(Arc::clone(&next.snapshot));
                proxy.switch_log(&next.log);
                proxy.resize_replay_memory(next.replay_memory);
                subscription.installed(index, &next);
            }
        }
    }
}

#[cfg(test)]
mod tests;
