//! Owns: the composition root: it builds the running parts from a plan, and connects them.
//! Invariant: everything that can fail at start fails before the first client is accepted.
//! Must not know: how requests are served, or the command line.

mod compose;
mod control;
mod discovery;
mod listeners;
mod publish;
mod tls_setup;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};

use crate::admin::Phase;
use crate::affinity::avoid_list::AvoidList;
use crate::affinity::{Cause, Verdict};
use crate::config::Plan;
use crate::net::{Address, descriptor_reserve};
use crate::pool::Pool;
use crate::pool::health_tracker::BackendDownReceiver;
use crate::proxy::client::ListenerInfo;
use crate::proxy::error::Unserved;
use crate::proxy::snapshot::Snapshot;
use crate::proxy::{Proxy, replay};
use crate::runtime::workers::WorkerContext;
use crate::runtime::{Listeners, Workers, descriptors, listen};
use crate::telemetry::metrics::Labels;
use crate::telemetry::{AccessLog, Metrics, OpenError, Reopen};
use crate::upstream::Fact;
use crate::{admin, clock, runtime, tls};
use compose::Composer;
use control::{Control, ControlParts};
use listeners::listener_info;
use publish::Published;
use tls_setup::TlsSetup;

/// The time between two runs of the housekeeping of each data-path thread.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// What metrics are told apart by.
const LABELS: Labels =
    Labels { verdicts: &Verdict::NAMES, causes: &Cause::NAMES, outcomes: &Fact::OUTCOMES, refusals: &Unserved::NAMES };

/// A running Linchpin.
pub struct App {
    addresses: Vec<Address>,
    admin: Option<SocketAddr>,
    entries: Arc<ArcSwap<Vec<admin::PoolEntry>>>,
    grace: Duration,
    workers: Workers,
    control: Control,
    log: AccessLog,
}

/// Why Linchpin does not start.
#[derive(Debug)]
pub enum StartError {
    /// The access log can't be opened.
    Log(OpenError),
    /// A listener can't bind its address.
    Bind(listen::BindError),
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
        let TlsSetup { acceptors, accesses, watched } = TlsSetup::open(&plan).map_err(StartError::Tls)?;
        let ((server, admin_connections), replay_memory) = (fit_to_descriptor_limit(&plan), plan.replay_memory);
        let mut composer = Composer::new(plan, accesses, threads, Arc::clone(&metrics));
        let snapshot = composer.compose();
        let published = Published::new(composer.plan(), snapshot);
        let plan = composer.plan();

        let listeners = Listeners::bind(&plan.listeners, &acceptors, threads, &metrics).map_err(StartError::Bind)?;
        let admin = match &plan.admin {
            None => None,
            Some(settings) => Some((
                admin::bind(settings).map_err(|error| StartError::Admin(settings.address.clone(), error))?,
                settings.clone(),
                admin_connections,
            )),
        };
        let addresses = listeners.addresses().to_vec();
        let admin_address = admin.as_ref().and_then(|(bound, ..)| bound.address());
        let of_admin = plan.admin.as_ref().map(|settings| admin_address.map_or(settings.address.clone(), Address::Tcp));
        let listening = addresses.iter().cloned().chain(of_admin).collect();

        let infos: Arc<[Arc<ListenerInfo>]> = plan
            .listeners
            .iter()
            .enumerate()
            .map(|(position, listener)| Arc::new(listener_info(position, listener)))
            .collect();
        let (logs, backend_down, snapshots) = (log.handle(), composer.backend_down(), published.subscribe());
        let avoid_list = Arc::new(AvoidList::default());
        let entries = Arc::clone(published.entries());
        let parts = ControlParts {
            stores: composer.take_stores(),
            shared_copies: composer.take_shared_copies(),
            composer,
            published,
            listening,
            avoid_list: Arc::clone(&avoid_list),
            admin,
            metrics,
            log: log.loss_reporter(),
            certificates: watched,
        };
        let control = Control::start(parts).map_err(StartError::Thread)?;

        let make = move |thread: WorkerContext| {
            let mut snapshots = snapshots.clone();
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let (deadlines, log, avoid_list) = (thread.deadlines.clone(), logs.thread_log(), Arc::clone(&avoid_list));
            let memory = replay::ReplayMemory::share(replay_memory, threads);
            let proxy = Rc::new(Proxy::new(thread.index, infos.clone(), snapshot, deadlines, log, avoid_list, memory));
            let housekeeping = housekeeping(Rc::clone(&proxy), thread.deadlines, backend_down.subscribe(), snapshots);
            (proxy, housekeeping)
        };
        let phase = Arc::clone(&control.phase);
        let on_failure = move || {
            phase.send_if_modified(Phase::mark_broken);
        };
        let workers = Workers::start(listeners, &server, make, on_failure).map_err(StartError::Thread)?;
        Ok(App { addresses, admin: admin_address, entries, grace: server.shutdown_grace, workers, control, log })
    }

    /// Returns the addresses of the listeners, in the order of the configuration.
    pub fn listeners(&self) -> &[Address] {
        &self.addresses
    }

    /// Returns the address of the admin listener, if it is on TCP.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Returns the current pools.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.entries.load().iter().map(|entry| Arc::clone(&entry.pool)).collect()
    }

    /// Returns what reopens the access log.
    pub fn log(&self) -> Reopen {
        self.log.reopen()
    }

    /// Stops: reports not ready, serves the connections and requests that have begun by now, gives requests in flight
    /// the grace period, and ends. If the future is dropped before that, everything ends at once.
    pub async fn stop(self) {
        let App { mut workers, control, log, grace, .. } = self;
        control.stopping();
        workers.drain(grace);
        let (ended, end) = oneshot::channel();
        let joining = std::thread::Builder::new().name("join".into()).spawn(move || {
            workers.join();
            control.join();
            log.close();
            // The receiver may be dropped already.
            let _ = ended.send(());
        });
        if joining.is_ok() {
            // An error means that the thread has ended, and with it all that it waited for.
            let _ = end.await;
        }
    }
}

/// Returns `[server]` with as many client connections as the limit on open descriptors allows, and the number of
/// connections for the admin listener. Reserves descriptors for backends from now on.
fn fit_to_descriptor_limit(plan: &Plan) -> (runtime::Settings, usize) {
    let limit = descriptors::soft_limit();
    let budget = descriptors::budget(limit, plan.descriptors());
    descriptor_reserve::reserve_from(budget.ceiling);
    let max_connections = plan.server.max_connections.min(budget.clients);
    if max_connections < plan.server.max_connections {
        tracing::info!(
            max_connections,
            limit,
            "limiting client connections to what the limit on open descriptors allows; raise LimitNOFILE for more"
        );
    }
    (runtime::Settings { max_connections, ..plan.server.clone() }, budget.admin)
}

/// The housekeeping of a data-path thread: sweeps, wakes the requests on a backend that went down, and installs the
/// next snapshot.
async fn housekeeping(
    proxy: Rc<Proxy>,
    deadlines: clock::Deadlines,
    mut backend_down: BackendDownReceiver,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            now = sweep.tick() => proxy.sweep(now.into_std()),
            // Each request that waits for that backend checks whether it may go to another one.
            lost = backend_down.next() => match lost {
                Some(backend) => deadlines.wake(backend),
                None => deadlines.wake_all(),
            },
            Ok(()) = snapshots.changed() => {
                let next = Arc::clone(&snapshots.borrow_and_update());
                proxy.install(next);
            }
        }
    }
}

#[cfg(test)]
mod tests;
