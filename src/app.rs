//! Owns: the composition: a plan in, running parts out.
//! Invariant: what can fail at start fails before the first client is accepted.
//! Must not know: request details; the command line.

mod compose;
mod discovery;
mod encryption;
mod publish;

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::FORWARDED;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;

use crate::admin::Phase;
use crate::affinity::lost::Lost;
use crate::affinity::{Cause, Verdict, learned};
use crate::config::Plan;
use crate::net::interim::InterimQueue;
use crate::net::{Address, shortage};
use crate::pool::Pool;
use crate::pool::roster::LossReceiver;
use crate::proxy::Proxy;
use crate::proxy::client::{Client, Door};
use crate::proxy::error::ProxyError;
use crate::proxy::forwarded::Field;
use crate::proxy::redirect::Redirect;
use crate::proxy::relay::ResponseBody;
use crate::proxy::replay;
use crate::proxy::snapshot::Snapshot;
use crate::runtime::workers::Thread;
use crate::runtime::{Fault, GivenUp, Handler, ListenerSettings, Listeners, Peer, Reply, Workers, descriptors, listen};
use crate::telemetry::metrics::Labels;
use crate::telemetry::{AccessLog, Metrics, OpenError, Reopen, Watch};
use crate::tls::reload::Watched;
use crate::upstream::Fact;
use crate::{admin, clock, pool, proxy, runtime, share, telemetry, tls};
use compose::Composer;
use encryption::Encryption;
use publish::Published;

/// How often each thread looks after what no request does.
const SWEEP: Duration = Duration::from_millis(500);

/// How long a process that was told to stop still takes connections to its admin listener.
const UNREADY: Duration = Duration::from_millis(300);

/// A running Linchpin.
pub struct App {
    addresses: Vec<Address>,
    admin: Option<SocketAddr>,
    entries: Arc<ArcSwap<Vec<admin::Entry>>>,
    grace: Duration,
    workers: Workers,
    control: Control,
    log: AccessLog,
}

/// Why it does not start.
#[derive(Debug)]
pub enum StartError {
    /// The access log can't be opened.
    Log(OpenError),
    /// A listener's address can't be had.
    Bind(listen::BindError),
    /// The admin listener's address can't be had.
    Admin(Address, std::io::Error),
    /// A file of a certificate or key can't be used.
    Tls(tls::Error),
    /// A thread can't be had.
    Thread(std::io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Log(error) => error.fmt(f),
            StartError::Bind(error) => error.fmt(f),
            StartError::Admin(address, error) => {
                write!(f, "the admin listener cannot have {address}: {error}; choose another [admin] address")
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
    /// Starts what `plan` says and returns once clients can connect.
    ///
    /// # Errors
    /// Whatever is not to be had: log file, addresses, threads. Nothing runs then.
    pub fn start(plan: Plan) -> Result<App, StartError> {
        let threads = plan.server.threads();
        let log = AccessLog::open(&plan.log.access, plan.log.format).map_err(StartError::Log)?;
        let labels = Labels { verdicts: &Verdict::NAMES, causes: &Cause::NAMES, outcomes: &Fact::OUTCOMES };
        let metrics = Arc::new(Metrics::new(threads, labels, Arc::clone(log.dropped())));
        let Encryption { acceptors, accesses, watched } = Encryption::open(&plan).map_err(StartError::Tls)?;
        let ((server, admin_connections), replay_memory) = (fitted(&plan), plan.replay_memory);
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

        let doors: Arc<[Arc<Door>]> =
            plan.listeners.iter().enumerate().map(|(position, listener)| Arc::new(door(position, listener))).collect();
        let (lines, losses, snapshots) = (log.handle(), composer.losses(), published.subscribe());
        let lost = Arc::new(Lost::default());
        let entries = Arc::clone(published.entries());
        let parts = ControlParts {
            stores: composer.take_stores(),
            composer,
            published,
            listening,
            lost: Arc::clone(&lost),
            admin,
            metrics,
            log: log.watch(),
            certificates: watched,
        };
        let control = Control::start(parts).map_err(StartError::Thread)?;

        let make = move |thread: Thread| {
            let mut snapshots = snapshots.clone();
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let (limits, lines, lost) = (thread.limits.clone(), lines.lines(), Arc::clone(&lost));
            let memory = replay::Memory::share(replay_memory, threads);
            let proxy = Rc::new(Proxy::new(thread.index, snapshot, limits, lines, lost, memory));
            let beside = beside(Rc::clone(&proxy), thread.limits, losses.subscribe(), snapshots);
            (Rc::new(Serve { proxy, doors: doors.clone() }), beside)
        };
        let phase = Arc::clone(&control.phase);
        let lost = move || {
            phase.send_if_modified(Phase::breaks);
        };
        let workers = Workers::start(listeners, &server, make, lost).map_err(StartError::Thread)?;
        Ok(App { addresses, admin: admin_address, entries, grace: server.shutdown_grace, workers, control, log })
    }

    /// Where clients connect, in the order of the configuration.
    pub fn listeners(&self) -> &[Address] {
        &self.addresses
    }

    /// Where the admin listener is, if it is on TCP.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The pools, as they are at work now.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.entries.load().iter().map(|entry| Arc::clone(&entry.pool)).collect()
    }

    /// What has its access log opened anew.
    pub fn log(&self) -> Reopen {
        self.log.reopen()
    }

    /// Is not ready any more, serves whoever had begun to connect or to ask by now, lets requests in flight end
    /// within the grace period, and ends.
    /// When the future is dropped before, everything ends at once.
    pub async fn stop(self) {
        let App { mut workers, control, log, grace, .. } = self;
        control.stopping();
        workers.drain(grace);
        let (ended, end) = oneshot::channel();
        let joining = std::thread::Builder::new().name("join".into()).spawn(move || {
            workers.join();
            control.join();
            log.close();
            // Nobody may be waiting any more.
            let _ = ended.send(());
        });
        if joining.is_ok() {
            // An error means that the thread is gone, and so is what it waited for.
            let _ = end.await;
        }
    }
}

/// `[server]` as the limit of open descriptors allows it, and how many connections the admin listener may have. What
/// is kept for need is kept from now on.
fn fitted(plan: &Plan) -> (runtime::Settings, usize) {
    let limit = descriptors::limit();
    let budget = descriptors::budget(limit, plan.descriptors());
    shortage::keep_from(budget.ceiling);
    let max_connections = plan.server.max_connections.min(budget.clients);
    if max_connections < plan.server.max_connections {
        tracing::info!(
            max_connections,
            limit,
            "client connections are as many as the limit of open descriptors allows"
        );
    }
    (runtime::Settings { max_connections, ..plan.server.clone() }, budget.admin)
}

/// What requests are to know of a listener.
fn door(position: usize, listener: &ListenerSettings) -> Door {
    let hsts = listener.hsts.map(|time| HeaderValue::try_from(format!("max-age={}", time.as_secs())));
    Door {
        position,
        name: listener.name.as_str().into(),
        is_secure: listener.tls.is_some(),
        trusted: listener.trusted_proxies.clone(),
        forwarded: if listener.forwarded == FORWARDED { Field::Forwarded } else { Field::XForwardedFor },
        // A number after an equals sign is a valid value.
        hsts: hsts.and_then(Result::ok),
        https: listener.redirect_https.map(Redirect::to_https),
    }
}

/// What runs beside the requests of a thread: sweeping up, taking requests back from backends that
/// are lost, and going on with the next snapshot.
async fn beside(
    proxy: Rc<Proxy>,
    limits: clock::Limits,
    mut losses: LossReceiver,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            now = sweep.tick() => proxy.sweep(now.into_std()),
            // Each request that waits on it looks, and is taken back if it may be.
            lost = losses.next() => match lost {
                Some(backend) => limits.wake(backend),
                None => limits.wake_all(),
            },
            Ok(()) = snapshots.changed() => {
                let next = Arc::clone(&snapshots.borrow_and_update());
                proxy.install(next);
            }
        }
    }
}

/// Looks after what requests leave behind.
async fn tidy(lost: Arc<Lost>, entries: Arc<ArcSwap<Vec<admin::Entry>>>, metrics: Arc<Metrics>, mut log: Watch) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    for second in 0_u64.. {
        interval.tick().await;
        log.look();
        let now = clock::unix();
        for entry in entries.load().iter() {
            let recount = |backend: &pool::Backend| backend.live().recount(now.as_secs(), entry.affinity.presence());
            entry.pool.backends().iter().for_each(recount);
            if second.is_multiple_of(10) {
                entry.affinity.sweep(now);
            }
        }
        if second.is_multiple_of(10) {
            lost.sweep(now.as_secs());
            metrics.tidy();
        }
    }
}

/// The proxy as the runtime's handler.
struct Serve {
    proxy: Rc<Proxy>,
    doors: Arc<[Arc<Door>]>,
}

impl Handler for Serve {
    type Body = ResponseBody;
    type Client = Client;

    fn client(&self, listener: usize, peer: Peer) -> Client {
        Client::new(&self.doors[listener], peer.address, peer.subject)
    }

    // With `map` and not in an `async fn`, which would have the request's future in it twice.
    fn handle(
        self: Rc<Self>,
        client: Rc<Client>,
        request: Request<Incoming>,
        interim: Option<Arc<InterimQueue>>,
    ) -> impl Future<Output = Reply<ResponseBody>> + 'static {
        self.proxy.handle(&client, request, interim).map(|reply| {
            let tunnel = reply.tunnel.map(|tunnel| Box::new(Over(tunnel)) as Box<dyn runtime::Tunnel>);
            Reply { response: reply.response, tunnel, is_stream: reply.is_stream }
        })
    }

    fn given_up(self: &Rc<Self>, client: &Rc<Client>, why: GivenUp) -> Response<ResponseBody> {
        // A client that closed its side is recorded as one that went.
        self.proxy.give_up(client, why == GivenUp::Stopping)
    }

    fn unread(self: &Rc<Self>, client: &Rc<Client>, fault: Fault) -> bytes::Bytes {
        let error = match fault {
            Fault::HeadTimeout => ProxyError::HeadTimeout,
            Fault::Malformed => ProxyError::Malformed("The request is not valid HTTP."),
            Fault::TooLarge => ProxyError::TooManyFields,
            Fault::Fragment => ProxyError::Malformed("The request target has a fragment."),
        };
        self.proxy.refuse_unread(client, error)
    }

    fn limited(&self, limit: telemetry::Limit) {
        self.proxy.limited(limit);
    }
}

impl runtime::Content for ResponseBody {
    fn lost(&mut self, bytes: u64) {
        ResponseBody::lost(self, bytes);
    }

    fn has_read_request(&self) -> bool {
        ResponseBody::has_read_request(self)
    }
}

/// The proxy's tunnel as the runtime's.
struct Over(proxy::tunnel::Tunnel);

impl runtime::Tunnel for Over {
    fn run(self: Box<Self>, client: Box<dyn runtime::Duplex>, read: Bytes) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(self.0.run(client, read))
    }
}

/// The thread for what serves no request: probes, ejections, admin.
struct Control {
    thread: std::thread::JoinHandle<()>,
    phase: Arc<watch::Sender<Phase>>,
    end: oneshot::Sender<()>,
}

struct ControlParts {
    composer: Composer,
    published: Published,
    listening: Vec<Address>,
    lost: Arc<Lost>,
    /// And how many connections it may have.
    admin: Option<(admin::Bound, admin::Settings, usize)>,
    stores: Vec<learned::Store>,
    metrics: Arc<Metrics>,
    log: Watch,
    certificates: Watched,
}

impl Control {
    fn start(parts: ControlParts) -> std::io::Result<Control> {
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
    fn stopping(&self) {
        self.phase.send_replace(Phase::Stopping);
    }

    /// Ends it. Blocks.
    fn join(self) {
        // If nobody listens, it has ended already.
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

/// Waits until the admin listener is to be closed, so that a successor can have its address: a moment after the
/// process is told to stop, in which whoever looks finds it not ready.
async fn closing(mut phase: watch::Receiver<Phase>) {
    // An error means that this is the end.
    let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    tokio::time::sleep(UNREADY).await;
}

async fn control(parts: ControlParts, phase: Arc<watch::Sender<Phase>>, ended: oneshot::Receiver<()>) {
    let ControlParts { composer, published, listening, lost, admin, stores, metrics, log, certificates } = parts;
    let (entries, known) = (Arc::clone(published.entries()), phase.subscribe());
    published.begin_probes();
    for store in stores {
        tokio::spawn(share::run(store));
    }
    tokio::spawn(tidy(lost, Arc::clone(&entries), Arc::clone(&metrics), log));
    tokio::task::spawn_local(discovery::keep(composer, published, listening, Arc::clone(&phase)));
    tokio::spawn(tls::reload::watch(certificates.clone()));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = admin.map(|(bound, settings, connections)| {
        let facts = admin::Facts { pools: entries, metrics, certificates, phase: known, started: SystemTime::now() };
        let (closing, until) = (closing(phase.subscribe()), async { drop(stopped.await) });
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

#[cfg(test)]
mod tests;
