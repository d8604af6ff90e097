//! Owns: the composition root: it builds the running parts from a plan, and connects them.
//! Invariant: everything that can fail at start fails before the first client is accepted.
//! Must not know: how requests are served, or the command line.

mod acme;
mod acquire;
mod admin_server;
mod compose;
mod configuration;
mod control;
mod demands;
mod descriptor_limit;
mod discovery;
mod drains;
mod exporters;
mod follow;
mod hand_over;
mod listeners;
mod moves;
mod older;
mod outgoing;
mod probes;
mod publish;
mod rebalances;
mod reload;
mod reload_changes;
mod reload_reports;
mod running;
mod settling;
mod start_error;
mod superseded;
mod synced;
mod take_over;
mod takeover_parts;
mod takeover_steps;
mod thread_failures;
mod tls_setup;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::admin::{Actor, Phase, ReloadFigures, ReloadReport, Reloader, StatusSources, Trends};
use crate::affinity::avoid_list::AvoidList;
use crate::affinity::{Cause, RejectedPin, Verdict};
use crate::clock;
use crate::config::Plan;
use crate::events::{Event, Events, ProcessPhase};
use crate::net::Address;
use crate::pool::Pool;
use crate::pool::health_tracker::BackendDownReceiver;
use crate::proxy::error::Unserved;
use crate::proxy::{Proxy, replay};
use crate::runtime::listeners::Acquisition;
use crate::runtime::workers::WorkerContext;
use crate::runtime::{ListenerTransport, Listeners, StopHandle, Workers};
use crate::telemetry::metrics::Labels;
use crate::telemetry::{AccessLog, Metrics, Reopen};
use crate::tls::reload::WatchedCertificates;
use crate::upstream::Fact;
use acme::Certificates;
use compose::Composer;
use control::{Control, ControlParts};
use descriptor_limit::{fit_to_descriptor_limit, report_descriptor_limit};
use discovery::Sources;
use listeners::listener_info;
use older::{OlderLink, OlderProcesses};
use publish::{Published, Subscription};
use reload_changes::Commit;
use reload_reports::ReloadReports;
use running::{BackgroundTasks, Overview, Running};
use take_over::{Predecessor, TakeOver};
use takeover_parts::{Life, Pending, PendingAdmin, PendingWaiting, bind_admin, bind_waiting};
use thread_failures::ThreadFailures;
use tls_setup::TlsSetup;

pub use demands::LifeEvent;
pub use publish::Heartbeats;
pub use settling::Settling;
pub use start_error::StartError;
pub use take_over::{Inheritance, TakeoverError, ask};

/// The time between two runs of the housekeeping of each data-path thread.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// How long the control thread may take to leave the sockets to another process.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What metrics are told apart by.
const LABELS: Labels = Labels {
    verdicts: &Verdict::NAMES,
    causes: &Cause::NAMES,
    outcomes: &Fact::OUTCOMES,
    refusals: &Unserved::NAMES,
    rejected_pins: &RejectedPin::NAMES,
};

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
    heartbeats: Heartbeats,
    life: mpsc::UnboundedReceiver<LifeEvent>,
    settle: Arc<Notify>,
    settling: Settling,
    /// Notified once the process has taken over from another one.
    taken_over: Option<oneshot::Receiver<Result<(), String>>>,
}

impl App {
    /// Starts everything in `plan`, and returns once clients can connect.
    ///
    /// # Errors
    /// The log file, certificates, addresses or threads that are not available. Nothing runs then.
    pub fn start(plan: Plan) -> Result<App, StartError> {
        App::start_with(plan, Inheritance::default())
    }

    /// Starts everything in `plan` with what another process hands over. If that still accepts connections, this one
    /// does so once [`App::taken_over`] says so.
    ///
    /// # Errors
    /// Those of [`App::start`]. The other process goes on then.
    pub fn start_with(plan: Plan, inheritance: Inheritance) -> Result<App, StartError> {
        let Inheritance { sockets, mut predecessor } = inheritance;
        let threads = plan.server.threads();
        let log = AccessLog::open(&plan.log.access, &plan.log.layout).map_err(StartError::Log)?;
        let metrics = Arc::new(Metrics::new(threads, LABELS, Arc::clone(log.dropped())));
        let certificates = Certificates::default();
        let tls = TlsSetup::open(&plan, certificates.challenges.tls()).map_err(StartError::Tls)?;
        let ((server, admin_connections), replay_memory) = (fit_to_descriptor_limit(&plan), plan.replay_memory);

        report_descriptor_limit(&server, &plan);

        let (mut listeners, inboxes) = Listeners::new(&server, threads);
        let inherited = sockets.iter().map(|inherited| inherited.address.clone()).collect();
        listeners.inherit(sockets);
        let acquired = listeners.acquire(&plan.listeners, Acquisition::Start).map_err(StartError::Bind)?;
        let left = listeners.drop_inherited();
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
        composer.answer_challenges(certificates.challenges.http());
        if let Some(predecessor) = &mut predecessor {
            composer.inherit(std::mem::take(&mut predecessor.pools), predecessor.random_key());
        }
        let snapshot = composer.compose();
        let memory = replay_memory / threads.max(1);
        let published = Published::new(snapshot, &sources.statuses(), log.handle(), memory, threads);

        let admin = bind_admin(composer.plan(), admin_connections, predecessor.as_mut())?;
        let waiting = bind_waiting(composer.plan().server.handover.as_deref(), predecessor.as_mut())?;
        let has_admin = matches!(admin, Some(PendingAdmin::Inherited(..)));
        let prepared = takeover_steps::prepared(inherited, &left, has_admin);
        let mut pending = Some(Pending { listeners: acquired, transports, admin, waiting });
        let (mut admin, mut waiting) = (None, None);
        if predecessor.is_none()
            && let Some(parts) = pending.take()
        {
            for address in left {
                tracing::warn!(%address, "closed a socket that this process was started with: no listener has its address or name");
            }
            parts.listeners.listen().map_err(StartError::Bind)?;
            // The threads open them when they start.
            drop(listeners.install(parts.listeners, parts.transports, Duration::ZERO));
            (admin, waiting) = (parts.admin, parts.waiting);
        }
        let admin = admin.and_then(PendingAdmin::bound);
        let waiting = waiting.and_then(PendingWaiting::bound);

        let (reloader, requests) = Reloader::new();
        let entries = Arc::clone(published.entries());
        let facts = StatusSources {
            pools: Arc::clone(&entries),
            metrics,
            phase: phase.subscribe(),
            certificates: WatchedCertificates::new(tls.watched()),
            renewals: certificates.statuses.clone(),
            reloader: reloader.clone(),
            reloads: ReloadFigures::started(clock::unix()),
            events: events.clone(),
            trends: Trends::default(),
            started: clock::unix(),
        };
        let overview = Arc::new(ArcSwap::from_pointee(Overview {
            listeners: listeners.addresses(),
            admin: admin.as_ref().and_then(|(admin, _)| admin.bound.address()),
            shutdown_delay: server.shutdown_delay,
            shutdown_grace: server.shutdown_grace,
        }));
        let (files, reopen, avoid_list) = (listeners.files(), log.reopen(), Arc::new(AvoidList::default()));
        let (backend_down, subscription, commit) = (composer.backend_down(), published.subscribe(), Commit::default());
        let (stop, heartbeats) = (StopHandle::new(files), published.heartbeats());
        let ((demands, demanded), (life, life_events)) = (mpsc::channel(4), mpsc::unbounded_channel());
        let (done, taken_over) = oneshot::channel();
        let (settle, settling) = (Arc::<Notify>::default(), Settling::new(predecessor.is_some()));
        let older = OlderProcesses::default();
        let link = OlderLink {
            entries: Arc::clone(&entries),
            events: events.clone(),
            phase: phase.subscribe(),
            older: older.clone(),
        };
        let (handover, on_last_failure) = (composer.plan().server.handover.clone(), life.clone());
        let take_over = predecessor.map(|Predecessor { channel, generation, .. }| TakeOver {
            channel,
            prepared,
            demands: demands.clone(),
            link,
            life: life.clone(),
            settling: settling.clone(),
            generation,
            handover,
            started: facts.started,
            done,
        });
        let taken_over = take_over.is_some().then_some(taken_over);
        let life = Life {
            stop: stop.clone(),
            phase: Arc::clone(&phase),
            demands,
            events: life,
            settle: Arc::clone(&settle),
            settling: settling.clone(),
            older,
        };
        let running = Running {
            generation: 1,
            composer,
            published,
            sources,
            listeners,
            tls,
            certificates,
            log,
            admin: None,
            waiting: None,
            pending,
            paused: None,
            life,
            commit: Arc::clone(&commit),
            facts,
            reload_reports: ReloadReports::default(),
            overview: Arc::clone(&overview),
            background: BackgroundTasks::default(),
            following: None,
        };
        let parts = ControlParts {
            running,
            requests,
            phase: Arc::clone(&phase),
            commit: Arc::clone(&commit),
            avoid_list: Arc::clone(&avoid_list),
            admin,
            demands: demanded,
            waiting,
            take_over,
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
        let failures = ThreadFailures::new(&heartbeats, &phase, &events);
        let on_failure = move |thread| {
            if failures.record(thread) {
                let _ = on_last_failure.send(LifeEvent::AllFailed);
            }
        };
        let workers = Workers::start(inboxes, stop, make, on_failure).map_err(StartError::Thread)?;
        if !waits {
            events.publish(Event::Process { phase: ProcessPhase::Ready });
        }
        Ok(App {
            overview,
            entries,
            reloader,
            phase,
            events,
            commit,
            workers,
            control,
            reopen,
            heartbeats,
            life: life_events,
            settle,
            settling,
            taken_over,
        })
    }

    /// Waits until the process has taken over from another one; returns at once if it does not take over.
    ///
    /// # Errors
    /// Why it can't. The other process goes on as before, if it still runs.
    pub async fn taken_over(&mut self) -> Result<(), String> {
        match self.taken_over.take() {
            Some(done) => done.await.unwrap_or_else(|_| Err("the control thread has ended".into())),
            None => Ok(()),
        }
    }

    /// Waits for what other processes do to this one.
    pub async fn next_event(&mut self) -> LifeEvent {
        match self.life.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Returns whether this process has proven itself, if it has taken over. It settles by itself only for a reload.
    pub fn settling(&self) -> Settling {
        self.settling.clone()
    }

    /// Leaves the sockets to the process that has taken over, without waiting for it to prove itself.
    pub async fn leave(&mut self) {
        self.settle.notify_one();
        let is_left = async { while !matches!(self.life.recv().await, Some(LifeEvent::Left) | None) {} };
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, is_left).await;
    }

    /// Waits until the last connection has ended, after another process has taken over. Once `stop` completes, or that
    /// process stops, requests in flight have the grace period to end. If the future is dropped before that, everything
    /// ends at once.
    pub async fn left(self, stop: impl Future<Output = ()>) {
        let App { workers, control, overview, phase, mut life, .. } = self;
        let (handle, grace) = (workers.stop_handle(), overview.load().shutdown_grace);
        let mut ended = std::pin::pin!(joined(workers, control));
        let successor_stops = async {
            while let Some(event) = life.recv().await {
                match event {
                    LifeEvent::Stop => return "the process that has taken over stops, and so does this one",
                    LifeEvent::TooMany => return "too many old processes have connections: this one, the oldest, stops",
                    _ => {}
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            () = &mut ended => return,
            () = stop => {}
            why = successor_stops => tracing::info!("{why}"),
        }
        // The processes before this one learn of it.
        phase.send_replace(Phase::Stopping);
        handle.drain(grace);
        ended.await;
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

    /// Returns the signs of life of its threads.
    pub fn heartbeats(&self) -> Heartbeats {
        self.heartbeats.clone()
    }

    /// Returns whether it takes requests, or waits for its first backends no longer.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
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
        let App { workers, control, phase, events, commit, overview, .. } = self;
        let stop = workers.stop_handle();
        // A reload that is being applied comes first: it ends within seconds.
        let mut is_stopping = commit.lock().await;
        *is_stopping = true;
        phase.send_replace(Phase::Stopping);
        events.publish(Event::Process { phase: ProcessPhase::Stopping });
        drop(is_stopping);
        let (delay, grace) = (overview.load().shutdown_delay, overview.load().shutdown_grace);
        if !delay.is_zero() {
            stop.announce();
            tokio::time::sleep(delay).await;
        }
        phase.send_replace(Phase::Closing);
        stop.drain(grace);
        joined(workers, control).await;
    }
}

/// Waits until all threads have ended.
async fn joined(workers: Workers, control: Control) {
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
            now = sweep.tick() => {
                proxy.sweep(now.into_std());
                subscription.beat(index);
            }
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
