//! Owns: the composition: a plan in, running parts out.
//! Invariant: what can fail at start fails before the first client is accepted.
//! Must not know: request details; the command line.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use tokio::sync::{oneshot, watch};

use crate::affinity::lost::Lost;
use crate::affinity::{Affinity, Cause, Tables, Verdict, learned};
use crate::config::{Plan, PoolPlan};
use crate::net::Address;
use crate::pool::Pool;
use crate::pool::reconcile::Reconciler;
use crate::proxy::client::{Client, Door};
use crate::proxy::error::ProxyError;
use crate::proxy::rate::Limiter;
use crate::proxy::redirect::Redirect;
use crate::proxy::relay::ResponseBody;
use crate::proxy::route::Routes;
use crate::proxy::snapshot::{Service, Snapshot};
use crate::proxy::{Proxy, headers};
use crate::runtime::workers::Thread;
use crate::runtime::{Fault, Handler, ListenerSettings, Listeners, Peer, Reply, Workers, listen};
use crate::telemetry::metrics::Labels;
use crate::telemetry::{AccessLog, Metrics, OpenError};
use crate::tls::reload::{Reload, Watched};
use crate::tls::{Acceptor, Connector};
use crate::upstream::Fact;
use crate::{admin, clock, health, pool, proxy, runtime, share, telemetry, tls, upstream};

/// How often each thread looks after what no request does.
const SWEEP: Duration = Duration::from_millis(500);

/// A running Linchpin.
pub struct App {
    addresses: Vec<Address>,
    admin: Option<SocketAddr>,
    pools: Vec<Arc<Pool>>,
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
        let threads = match plan.server.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        let log = AccessLog::open(&plan.log.access, plan.log.format).map_err(StartError::Log)?;
        let labels = Labels { verdicts: &Verdict::NAMES, causes: &Cause::NAMES, outcomes: &Fact::OUTCOMES };
        let metrics = Arc::new(Metrics::new(threads, labels, Arc::clone(log.dropped())));
        let mut reconciler = Reconciler::new(threads);
        let settings: Vec<_> = plan.pools.iter().map(|pool| pool.pool.clone()).collect();
        let pools = reconciler.pools(&settings);
        let mut tables = Tables::default();
        let (acceptors, connectors) = encryption(&plan).map_err(StartError::Tls)?;
        let accesses = plan
            .pools
            .iter()
            .zip(&connectors)
            .map(|(pool, tls)| upstream::Access { settings: pool.upstream.clone(), tls: tls.clone() });
        let accesses: Vec<_> = accesses.collect();
        let snapshot = Arc::new(snapshot(&plan, &pools, &accesses, &metrics, &mut tables));

        let listeners = Listeners::bind(&plan.listeners, &acceptors, threads, &metrics).map_err(StartError::Bind)?;
        let admin = match &plan.admin {
            None => None,
            Some(settings) => Some((
                admin::bind(settings).map_err(|error| StartError::Admin(settings.address.clone(), error))?,
                settings.clone(),
            )),
        };
        let addresses = listeners.addresses().to_vec();
        let admin_address = admin.as_ref().and_then(|(bound, _)| bound.address());

        let lost = Arc::new(Lost::default());
        let control = Control::start(ControlParts {
            probes: probes(&pools, &plan.pools, accesses),
            lost: Arc::clone(&lost),
            admin,
            entries: Arc::new(ArcSwap::from_pointee(entries(&snapshot))),
            stores: tables.take_stores(),
            metrics,
            certificates: watched(&acceptors, &connectors),
        })
        .map_err(StartError::Thread)?;

        let (lines, losses) = (log.handle(), reconciler.losses());
        let doors: Arc<[Arc<Door>]> = plan.listeners.iter().map(|listener| Arc::new(door(listener))).collect();
        let make = move |thread: Thread| {
            let proxy = Proxy::new(
                thread.index,
                Arc::clone(&snapshot),
                thread.limits.clone(),
                lines.lines(),
                Arc::clone(&lost),
            );
            let proxy = Rc::new(proxy);
            let beside = beside(Rc::clone(&proxy), thread.limits, losses.clone());
            (Rc::new(Serve { proxy, doors: doors.clone() }), beside)
        };
        let workers = Workers::start(listeners, &plan.server, make).map_err(StartError::Thread)?;
        Ok(App { addresses, admin: admin_address, pools, grace: plan.server.shutdown_grace, workers, control, log })
    }

    /// Where clients connect, in the order of the configuration.
    pub fn listeners(&self) -> &[Address] {
        &self.addresses
    }

    /// Where the admin listener is, if it is on TCP.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The pools, as they are at work.
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// Accepts nothing more, lets requests in flight end within the grace period, and ends.
    /// When the future is dropped before, everything ends at once.
    pub async fn stop(self) {
        let App { workers, control, log, grace, .. } = self;
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

/// What shakes hands, by listener and by pool, where TLS is spoken.
type Encryption = (Vec<Option<Arc<Acceptor>>>, Vec<Option<Arc<Connector>>>);

fn encryption(plan: &Plan) -> Result<Encryption, tls::Error> {
    let acceptor = |listener: &ListenerSettings| {
        listener.tls.as_ref().map(|tls| Acceptor::open(&listener.name, tls).map(Arc::new)).transpose()
    };
    let connector = |pool: &PoolPlan| {
        pool.upstream.tls.as_ref().map(|tls| Connector::open(&pool.pool.name, tls).map(Arc::new)).transpose()
    };
    let acceptors = plan.listeners.iter().map(acceptor).collect::<Result<_, _>>()?;
    Ok((acceptors, plan.pools.iter().map(connector).collect::<Result<_, _>>()?))
}

/// Whose files are looked after.
fn watched(acceptors: &[Option<Arc<Acceptor>>], connectors: &[Option<Arc<Connector>>]) -> Watched {
    let acceptors = acceptors.iter().flatten().map(|acceptor| Arc::clone(acceptor) as Arc<dyn Reload>);
    let connectors = connectors.iter().flatten().map(|connector| Arc::clone(connector) as Arc<dyn Reload>);
    Watched::new(acceptors.chain(connectors))
}

/// What is to be probed, and how.
fn probes(
    pools: &[Arc<Pool>],
    plans: &[PoolPlan],
    accesses: Vec<upstream::Access>,
) -> Vec<(Arc<Pool>, health::Settings, upstream::Access)> {
    let all = pools.iter().zip(plans).zip(accesses);
    all.map(|((pool, plan), access)| (Arc::clone(pool), plan.health.clone(), access)).collect()
}

/// What requests are to know of a listener.
fn door(listener: &ListenerSettings) -> Door {
    let hsts = listener.hsts.map(|time| HeaderValue::try_from(format!("max-age={}", time.as_secs())));
    Door {
        name: listener.name.as_str().into(),
        is_secure: listener.tls.is_some(),
        trusted: listener.trusted_proxies.clone(),
        // A number after an equals sign is a valid value.
        hsts: hsts.and_then(Result::ok),
        https: listener.redirect_https.map(Redirect::to_https),
    }
}

/// The snapshot of a plan.
fn snapshot(
    plan: &Plan,
    pools: &[Arc<Pool>],
    accesses: &[upstream::Access],
    metrics: &Metrics,
    tables: &mut Tables,
) -> Snapshot {
    let pool = |name: &str| {
        let mut plans = plan.pools.iter().enumerate();
        plans.find(|(_, of)| of.pool.name == *name).map(|(position, of)| (position, &of.timeouts))
    };
    let limits = &plan.server.limits;
    Snapshot {
        routes: Routes::new(&plan.routes, limits.body_bytes, pool),
        services: pools
            .iter()
            .zip(&plan.pools)
            .zip(accesses)
            .map(|((pool, of), access)| service(plan, pool, of, access, metrics, tables))
            .collect(),
        limits: headers::Limits { fields: limits.header_count, target: limits.target_bytes },
        limiter: plan.rate.map(|rate| Arc::new(Limiter::new(rate, clock::now()))),
        unrouted: metrics.series("", ""),
        limited: Arc::clone(metrics.limited()),
    }
}

fn service(
    plan: &Plan,
    pool: &Arc<Pool>,
    of: &PoolPlan,
    access: &upstream::Access,
    metrics: &Metrics,
    tables: &mut Tables,
) -> Service {
    let series = |backend: &str| metrics.series(pool.name(), backend);
    Service {
        affinity: Arc::new(Affinity::new(pool.name(), &of.persistence, &plan.keys, tables)),
        balance: of.balance,
        hash: of.hash.clone(),
        retry: of.retry.clone(),
        timeouts: of.timeouts.clone(),
        upstream: access.clone(),
        series: pool.backends().iter().map(|backend| series(backend.name())).collect(),
        unserved: series(""),
        pool: Arc::clone(pool),
    }
}

/// What the admin plane is told of a snapshot.
fn entries(snapshot: &Snapshot) -> Vec<admin::Entry> {
    let entry = |service: &Service| admin::Entry {
        pool: Arc::clone(&service.pool),
        balance: service.balance.as_str(),
        affinity: Arc::clone(&service.affinity),
        series: service.series.clone(),
    };
    snapshot.services.iter().map(entry).collect()
}

/// What runs beside the requests of a thread: sweeping up, and taking requests back from backends
/// that are lost.
async fn beside(proxy: Rc<Proxy>, limits: clock::Limits, mut losses: watch::Receiver<u64>) {
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            now = sweep.tick() => proxy.sweep(now.into_std()),
            // Each waiting request looks whether it is its own backend that is gone.
            Ok(()) = losses.changed() => limits.wake_all(),
        }
    }
}

/// Looks after what requests leave behind.
async fn tidy(lost: Arc<Lost>, entries: Arc<ArcSwap<Vec<admin::Entry>>>) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    for second in 0_u64.. {
        interval.tick().await;
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
    ) -> impl Future<Output = Reply<ResponseBody>> + 'static {
        self.proxy.handle(&client, request).map(|reply| {
            let tunnel = reply.tunnel.map(|tunnel| Box::new(Over(tunnel)) as Box<dyn runtime::Tunnel>);
            Reply { response: reply.response, tunnel, is_stream: reply.is_stream }
        })
    }

    fn unread(self: &Rc<Self>, client: &Rc<Client>, fault: Fault) -> bytes::Bytes {
        let error = match fault {
            Fault::HeadTimeout => ProxyError::HeadTimeout,
            Fault::Malformed => ProxyError::Malformed("The request is not valid HTTP."),
            Fault::TooLarge => ProxyError::TooManyFields,
        };
        self.proxy.refuse_unread(client, error)
    }

    fn limited(&self, limit: telemetry::Limit) {
        self.proxy.limited(limit);
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
    ready: watch::Sender<bool>,
    end: oneshot::Sender<()>,
}

struct ControlParts {
    probes: Vec<(Arc<Pool>, health::Settings, upstream::Access)>,
    lost: Arc<Lost>,
    admin: Option<(admin::Bound, admin::Settings)>,
    entries: Arc<ArcSwap<Vec<admin::Entry>>>,
    stores: Vec<learned::Store>,
    metrics: Arc<Metrics>,
    certificates: Watched,
}

impl Control {
    fn start(parts: ControlParts) -> std::io::Result<Control> {
        let (ready, is_ready) = watch::channel(true);
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || runtime.block_on(control(parts, is_ready, ended));
        let thread = std::thread::Builder::new().name("control".into()).spawn(work)?;
        Ok(Control { thread, ready, end })
    }

    /// From now on the readiness endpoint says that clients should go elsewhere.
    fn stopping(&self) {
        self.ready.send_replace(false);
    }

    /// Ends it. Blocks.
    fn join(self) {
        // If nobody listens, it has ended already.
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

async fn control(parts: ControlParts, ready: watch::Receiver<bool>, ended: oneshot::Receiver<()>) {
    let ControlParts { probes, lost, admin, entries, stores, metrics, certificates } = parts;
    for (pool, settings, upstream) in probes {
        for index in 0..pool.backends().len() {
            tokio::spawn(health::active::watch(Arc::clone(&pool), index, settings.clone(), upstream.clone()));
        }
        tokio::spawn(health::active::end_ejections(pool));
    }
    for store in stores {
        tokio::spawn(share::run(store));
    }
    tokio::spawn(tidy(lost, Arc::clone(&entries)));
    tokio::spawn(tls::reload::watch(certificates.clone()));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = admin.map(|(bound, settings)| {
        let facts = admin::Facts { pools: entries, metrics, certificates, ready, started: SystemTime::now() };
        let until = async { drop(stopped.await) };
        tokio::spawn(async move {
            if let Err(error) = admin::run(bound, settings, facts, until).await {
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
