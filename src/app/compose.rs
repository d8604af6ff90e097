//! Owns: composing the snapshot that every thread installs from the current plan.
//! Invariant: a snapshot is complete; parts that have not changed are shared with the next one.
//! Must not know: who requests the next one, or why.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::acme::HttpChallenges;
use crate::affinity::pin_names::PinNames;
use crate::affinity::seal::SealingKey;
use crate::affinity::{self, Affinity, Carrier, KeyRing, SessionTables, learned};
use crate::clock;
use crate::config::{Plan, PoolPlan};
use crate::copies::{CopyStores, SharedStoreSync};
use crate::events::Events;
use crate::otlp;
use crate::pool::hash::stable_hash;
use crate::pool::health_tracker::BackendDownNotifier;
use crate::pool::inherited::{InheritedBackends, PoolState};
use crate::pool::reconcile::{Reconciler, ReportedChange};
use crate::pool::{self, Pool, backend};
use crate::proxy::headers;
use crate::proxy::password_checks::PasswordChecks;
use crate::proxy::rate::{self, RateLimiter};
use crate::proxy::route::Routes;
use crate::proxy::snapshot::{Service, Snapshot};
use crate::proxy::via;
use crate::runtime::ListenerId;
use crate::telemetry::{Metrics, SpanQueue, SpanReceiver, Tracer};
use crate::upstream::Access;

/// The plan, and the state that outlives a snapshot.
pub(super) struct Composer {
    plan: Plan,
    /// How to connect to the backends of each pool.
    accesses: Vec<Access>,
    /// The ids of the listeners, by position in the plan.
    listeners: Vec<ListenerId>,
    /// The key that was made since a file had none. Pins may be sealed with it for as long as the process runs.
    random_key: Option<Arc<SealingKey>>,
    reconciler: Reconciler,
    tables: SessionTables,
    copies: CopyStores,
    threads: usize,
    metrics: Arc<Metrics>,
    /// By the name of the pool.
    affinities: HashMap<String, CachedAffinity>,
    /// A random number, drawn at start, that identifies this process in Via.
    process: u64,
    /// The rate limit, and the recent requests of each client.
    limiter: Option<(rate::Settings, Arc<RateLimiter>)>,
    /// Where spans go, if requests are traced.
    spans: Option<(otlp::Settings, SpanQueue)>,
    /// The exporter's side of that queue, until an exporter takes it.
    unexported: Option<(otlp::Settings, SpanReceiver)>,
    /// The limits on passwords, and each client's recent failures, if a route asks for passwords.
    password_checks: Option<Arc<PasswordChecks>>,
    /// The responses to ACME servers that validate names.
    challenges: HttpChallenges,
}

/// A pool's persistence, and the settings and keys that it was made of.
struct CachedAffinity {
    settings: affinity::Settings,
    keys: Arc<KeyRing>,
    affinity: Arc<Affinity>,
}

impl Composer {
    pub(super) fn new(
        plan: Plan,
        accesses: Vec<Access>,
        listeners: Vec<ListenerId>,
        threads: usize,
        metrics: Arc<Metrics>,
        events: &Events,
    ) -> Composer {
        Composer {
            random_key: plan.has_random_key.then(|| Arc::clone(plan.keys.first())),
            plan,
            accesses,
            listeners,
            reconciler: Reconciler::publishing(threads, events.clone()),
            tables: SessionTables::default(),
            copies: CopyStores::default(),
            threads,
            metrics,
            affinities: HashMap::new(),
            process: rand::random(),
            limiter: None,
            spans: None,
            unexported: None,
            password_checks: None,
            challenges: HttpChallenges::default(),
        }
    }

    /// Answers ACME servers by `challenges`, if a listener has its certificates from one.
    pub(super) fn answer_challenges(&mut self, challenges: &HttpChallenges) {
        self.challenges = challenges.clone();
    }

    /// Begins with what another process has handed over: the state of its backends, and the key that it had made.
    pub(super) fn inherit(&mut self, pools: Vec<PoolState>, random_key: Option<Arc<SealingKey>>) {
        self.reconciler.inherit(InheritedBackends::new(pools));
        if random_key.is_some() {
            self.random_key = random_key;
            self.plan.keys = self.next_keys(&self.plan);
        }
    }

    /// Returns the key that this process has made, if its file had none.
    pub(super) fn random_key(&self) -> Option<&Arc<SealingKey>> {
        self.random_key.as_ref()
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the keys that hold if `next` is the plan: those in use, if they are the same.
    pub(super) fn next_keys(&self, next: &Plan) -> Arc<KeyRing> {
        let keys = match (&self.random_key, next.has_random_key) {
            (Some(random), true) => KeyRing::of(random),
            // Pins that are sealed with it would be lost otherwise.
            (Some(random), false) => next.keys.with_former(random),
            (None, _) => {
                return if *next.keys == *self.plan.keys {
                    Arc::clone(&self.plan.keys)
                } else {
                    Arc::clone(&next.keys)
                };
            }
        };
        if keys == *self.plan.keys { Arc::clone(&self.plan.keys) } else { Arc::new(keys) }
    }

    /// Replaces the plan, with how to connect to the backends of each of its pools, and the ids of its listeners.
    pub(super) fn set_plan(&mut self, plan: Plan, accesses: Vec<Access>, listeners: Vec<ListenerId>) {
        let keys = self.next_keys(&plan);
        if self.random_key.is_none() && plan.has_random_key {
            self.random_key = Some(Arc::clone(plan.keys.first()));
        }
        adopt_users(&self.plan, &plan);
        (self.plan, self.accesses, self.listeners) = (Plan { keys, ..plan }, accesses, listeners);
    }

    /// Returns what notifies of backends that went down.
    pub(super) fn backend_down(&self) -> BackendDownNotifier {
        self.reconciler.backend_down().clone()
    }

    /// Takes the changes of health that sources have reported since the last time.
    pub(super) fn take_reported(&mut self) -> Vec<ReportedChange> {
        self.reconciler.take_reported()
    }

    /// Records that the backends of all pools are known: those that are found from now on are new.
    pub(super) fn mark_started(&mut self) {
        self.reconciler.mark_started();
    }

    /// Takes the stores that have no task yet.
    pub(super) fn take_stores(&mut self) -> Vec<learned::StoreSync> {
        self.tables.take_stores()
    }

    /// Takes the shared stores of session copies that have no task yet.
    pub(super) fn take_shared_copies(&mut self) -> Vec<SharedStoreSync> {
        self.copies.take_shared()
    }

    /// Takes the queue of spans that has no exporter yet, and where its spans go.
    pub(super) fn take_unexported(&mut self) -> Option<(otlp::Settings, SpanReceiver)> {
        self.unexported.take()
    }

    /// Returns what traces requests. A queue stays for as long as its spans go to the same collector.
    fn next_tracer(&mut self) -> Option<Tracer> {
        let tracing = self.plan.tracing.as_ref();
        self.spans = self.spans.take().filter(|(known, _)| tracing.is_some_and(|plan| plan.export == *known));
        let plan = tracing?;
        let (_, queue) = self.spans.get_or_insert_with(|| {
            let (queue, spans) = SpanQueue::new(Arc::clone(self.metrics.spans()));
            self.unexported = Some((plan.export.clone(), spans));
            (plan.export.clone(), queue)
        });
        Some(Tracer { per_million: plan.per_million, queue: queue.clone() })
    }

    /// Sets the backends of the pool at a position of the plan; returns whether they differ from those of before.
    pub(super) fn set_backends(&mut self, pool: usize, backends: Vec<backend::Settings>) -> bool {
        let pool = self.plan.pools.get_mut(pool).filter(|pool| pool.pool.backends != backends);
        let is_new = pool.is_some();
        if let Some(pool) = pool {
            pool.pool.backends = backends;
        }
        is_new
    }

    /// Returns the limits on passwords: those in use, if they are the same.
    fn next_password_checks(&self) -> Option<Arc<PasswordChecks>> {
        self.plan.routes.iter().find(|route| route.access.basic_auth.is_some())?;
        let settings = self.plan.login_failures;
        Some(match &self.password_checks {
            Some(known) if known.are_for(settings) => Arc::clone(known),
            Some(known) => Arc::new(known.with(settings)),
            None => Arc::new(PasswordChecks::new(settings, self.threads)),
        })
    }

    /// Composes the snapshot of the current plan.
    pub(super) fn compose(&mut self) -> Snapshot {
        let settings: Vec<_> = self.plan.pools.iter().map(with_connection_tag).collect();
        let is_learning = |pool: &&PoolPlan| matches!(pool.persistence.carrier, Carrier::Learned(_));
        let learning: HashSet<_> =
            self.plan.pools.iter().filter(is_learning).map(|pool| pool.pool.name.as_str()).collect();
        self.tables.retain(|pool| learning.contains(pool));
        let copying = self.plan.pools.iter().filter(|pool| pool.copies.is_some());
        let copying: HashSet<_> = copying.map(|pool| pool.pool.name.as_str()).collect();
        self.copies.retain(|pool| copying.contains(pool));
        let pools = self.reconciler.pools(&settings);
        let mut affinities = HashMap::new();
        let mut services = Vec::new();
        for ((pool, plan), access) in pools.iter().zip(&self.plan.pools).zip(&self.accesses) {
            let (name, keys) = (pool.name().to_string(), &self.plan.keys);
            let is_same =
                |cached: &CachedAffinity| cached.settings == plan.persistence && Arc::ptr_eq(&cached.keys, keys);
            let cached = self.affinities.remove(&name).filter(is_same).unwrap_or_else(|| CachedAffinity {
                settings: plan.persistence.clone(),
                keys: Arc::clone(keys),
                affinity: Arc::new(Affinity::new(&name, &plan.persistence, keys, &mut self.tables)),
            });
            let mark = self.plan.via.as_ref().map(|known_as| via::mark(known_as, self.process, &name));
            let lifetime = cached.affinity.retention_seconds();
            let open = |settings| Arc::new(self.copies.open(pool.name(), settings, lifetime, self.threads));
            let copies = plan.copies.as_ref().map(open);
            copies.iter().filter_map(|copies| copies.shared()).for_each(|shared| shared.set_servers(pool));
            services.push(Service { mark, copies, ..service(plan, pool, access, &cached.affinity, &self.metrics) });
            affinities.insert(name, cached);
        }
        self.affinities = affinities;
        let limiter = |rate: rate::Settings| match self.limiter.take() {
            Some((known, limiter)) if known == rate => (known, limiter),
            _ => (rate, Arc::new(RateLimiter::new(rate, clock::now()))),
        };
        self.limiter = self.plan.rate.map(limiter);
        self.password_checks = self.next_password_checks();
        let tracer = self.next_tracer();
        let plans = self.plan.pools.iter().enumerate();
        let plans: HashMap<_, _> =
            plans.map(|(position, plan)| (plan.pool.name.as_str(), (position, &plan.timeouts))).collect();
        let pool = |name: &str| plans.get(name).copied();
        let ids = self.plan.listeners.iter().zip(&self.listeners);
        let ids: HashMap<_, _> = ids.map(|(listener, id)| (listener.name.as_str(), *id)).collect();
        let listener = |name: &str| ids.get(name).copied();
        let limits = &self.plan.server.limits;
        Snapshot {
            routes: Routes::new(&self.plan.routes, limits.body_bytes, listener, pool),
            services,
            pin_names: PinNames::new(self.plan.pools.iter().map(|pool| &pool.persistence)),
            limits: headers::HeadLimits { fields: limits.header_count, target: limits.target_bytes },
            limiter: self.limiter.as_ref().map(|(_, limiter)| Arc::clone(limiter)),
            password_checks: self.password_checks.clone(),
            tracer,
            challenges: (!self.plan.acme.is_empty()).then(|| self.challenges.clone()),
            unrouted: self.metrics.series("", ""),
            limited: Arc::clone(self.metrics.limited()),
            denied: Arc::clone(self.metrics.denied()),
        }
    }
}

/// Takes over which passwords were verified for the users of the same file.
fn adopt_users(before: &Plan, next: &Plan) {
    for auth in next.routes.iter().filter_map(|route| route.access.basic_auth.as_ref()) {
        let mut all = before.routes.iter().filter_map(|route| route.access.basic_auth.as_ref());
        let same = all.find(|known| known.file == auth.file);
        same.into_iter().for_each(|known| auth.users.adopt(&known.users));
    }
}

/// Returns the settings of a pool's backends, with what tells connections to them apart that are made in other manners.
fn with_connection_tag(plan: &PoolPlan) -> pool::Settings {
    let tag = stable_hash(format!("{:?}", plan.upstream).as_bytes());
    let mut settings = plan.pool.clone();
    settings.backends.iter_mut().for_each(|backend| backend.connection_tag = tag);
    settings
}

fn service(plan: &PoolPlan, pool: &Arc<Pool>, access: &Access, affinity: &Arc<Affinity>, metrics: &Metrics) -> Service {
    let series = |backend: &str| metrics.series(pool.name(), backend);
    Service {
        affinity: Arc::clone(affinity),
        balance: plan.balance,
        hash: plan.hash.clone(),
        retry: plan.retry.clone(),
        timeouts: plan.timeouts.clone(),
        pages: plan.pages.clone(),
        mark: None,
        copies: None,
        upstream: access.clone(),
        series: pool.backends().iter().map(|backend| series(backend.name())).collect(),
        unserved: series(""),
        pool: Arc::clone(pool),
    }
}
