//! Owns: how a configuration becomes pools, and how the next configuration takes over their live state.
//! Invariant: a backend keeps its health, counts and connections across reloads as long as name and address stay.
//! Must not know: files; what publishes the pools.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::backend::{self, Backend};
use super::backend_set::{Pool, Settings};
use super::capacity_queue::CapacityQueue;
use super::hash::{mix, stable_hash};
use super::health_tracker::{BackendDownNotifier, HealthTracker};
use super::history::HealthChange;
use super::inherited::{BackendState, InheritedBackends};
use super::live::Live;
use super::totals::PoolTotals;
use super::waiting::PoolWaiterNotifier;
use crate::clock;
use crate::events::Events;

/// How long the live id of a removed backend is not reused: per-thread tables keep idle connections by that id, and
/// those live for a day at most.
const ID_REUSE_DELAY: Duration = Duration::from_secs(25 * 3600);

/// Makes the pools of each configuration, for the life of the process.
#[derive(Debug)]
pub struct Reconciler {
    threads: usize,
    /// The process has started: a backend that a pool gets from now on is new.
    has_started: bool,
    next_id: usize,
    /// The ids of removed backends, in the order of their removal.
    free: VecDeque<Free>,
    backend_down: BackendDownNotifier,
    events: Events,
    pools: HashMap<String, (Settings, Arc<Pool>)>,
    /// What a process before this one has handed over.
    inherited: InheritedBackends,
    /// The backends whose health has changed because their sources say so, and that nobody has been told of.
    reported: Vec<ReportedChange>,
}

/// A change of health that a source has reported: the pool, the position of the backend in it, and the change.
pub type ReportedChange = (Arc<Pool>, usize, HealthChange);

#[derive(Debug)]
struct Free {
    id: usize,
    since: Instant,
    /// Requests in flight may still hold it.
    live: Weak<Live>,
}

impl Reconciler {
    /// Makes a reconciler for `threads` data-path threads, whose events nobody gets.
    pub fn new(threads: usize) -> Reconciler {
        Reconciler::publishing(threads, Events::default())
    }

    /// Makes a reconciler for `threads` data-path threads. Its pools publish their changes to `events`.
    pub fn publishing(threads: usize, events: Events) -> Reconciler {
        Reconciler {
            threads,
            has_started: false,
            next_id: 0,
            free: VecDeque::new(),
            backend_down: BackendDownNotifier::default(),
            events,
            pools: HashMap::new(),
            inherited: InheritedBackends::default(),
            reported: Vec::new(),
        }
    }

    /// Takes the changes of health that sources have reported, to announce them.
    pub fn take_reported(&mut self) -> Vec<ReportedChange> {
        std::mem::take(&mut self.reported)
    }

    /// Records that the process has started and knows its backends. Those that pools get later start slowly, if the pool
    /// has a slow start.
    pub fn mark_started(&mut self) {
        self.has_started = true;
        // A backend that comes only now is none of those that were handed over.
        self.inherited = InheritedBackends::default();
    }

    /// Has backends that are new to this process begin with what another one has handed over.
    pub fn inherit(&mut self, inherited: InheritedBackends) {
        self.inherited = inherited;
    }

    /// Returns what notifies of backends that go down.
    pub fn backend_down(&self) -> &BackendDownNotifier {
        &self.backend_down
    }

    /// Returns the pools of the next configuration, valid from `now` on. A pool whose settings are unchanged is the
    /// same one. A backend whose name and address are unchanged keeps its live state; a backend whose name is unchanged
    /// keeps what the operator has set.
    pub fn pools_at(&mut self, settings: &[Settings], now: Instant) -> Vec<Arc<Pool>> {
        let pools: Vec<_> = settings.iter().map(|settings| self.pool(settings, now)).collect();
        let next = settings.iter().zip(&pools);
        let next = next.map(|(settings, pool)| (settings.name.clone(), (settings.clone(), Arc::clone(pool)))).collect();
        let old = std::mem::replace(&mut self.pools, next);
        let ids: HashSet<_> =
            pools.iter().flat_map(|pool| pool.backends()).map(|backend| backend.live().id()).collect();
        for backend in old.values().flat_map(|(_, pool)| pool.backends()) {
            let live = backend.live();
            if !ids.contains(&live.id()) {
                if live.draining().end_streams_of_leaving(clock::unix_millis()) {
                    self.backend_down.notify(live.id());
                }
                self.free.push_back(Free { id: live.id(), since: now, live: Arc::downgrade(live) });
            }
        }
        pools
    }

    /// Calls [`Reconciler::pools_at`] with the current time.
    pub fn pools(&mut self, settings: &[Settings]) -> Vec<Arc<Pool>> {
        self.pools_at(settings, clock::now())
    }

    fn pool(&mut self, settings: &Settings, now: Instant) -> Arc<Pool> {
        let old = match self.pools.get(&settings.name) {
            Some((as_before, pool)) if as_before == settings => return Arc::clone(pool),
            old => old.map(|(_, pool)| Arc::clone(pool)),
        };
        let names = settings.backends.iter().enumerate().map(|(index, backend)| (backend.name.as_str(), index));
        let positions: HashMap<_, _> = names.collect();
        let position = |name: &String| positions.get(name.as_str()).copied();
        let queue = old.as_deref().map(|old| Arc::clone(&old.queue)).unwrap_or_default();
        let totals = old.as_deref().map(|old| Arc::clone(&old.totals));
        let totals = totals.unwrap_or_else(|| Arc::new(PoolTotals::new(self.threads)));
        let backends: Vec<_> = settings
            .backends
            .iter()
            .map(|backend| {
                let failover = backend.failover.iter().filter_map(position).collect();
                let known = old.as_deref().and_then(|old| Some(old.backend(old.position(&backend.name)?)));
                let inherited = self.inherited.take(&settings.name, &backend.name).filter(|_| known.is_none());
                let backend = self.backend(backend, failover, known, inherited.as_ref(), (&queue, &totals), now);
                backend.live().set_slow_start(settings.slow_start, now);
                if self.has_started && old.as_deref().is_some_and(|old| is_new_in(old, &backend)) {
                    backend.live().begin_slow_start(now);
                }
                (backend, inherited)
            })
            .collect();
        let (backends, inherited): (Vec<_>, Vec<_>) = backends.into_iter().unzip();
        let health_tracker = match &old {
            Some(old) => old.health_tracker().with_settings(settings.health_state.clone()),
            None => {
                let (settings, backend_down) = (settings.health_state.clone(), self.backend_down.clone());
                HealthTracker::new(settings, backend_down, self.events.clone(), self.threads)
            }
        };
        health_tracker.keep(&backends.iter().map(|backend| backend.live().id()).collect());
        let by_name = backends.iter().enumerate().map(|(index, backend)| (Arc::clone(backend.name()), index)).collect();
        let by_route = backends.iter().enumerate().map(|(index, backend)| (backend.route.clone(), index)).collect();
        let name = settings.name.as_str().into();
        let has_slow_start = !settings.slow_start.is_zero();
        let rebalancer = old.as_deref().map(|old| Arc::clone(&old.rebalancer)).unwrap_or_default();
        let mut live_ids: Vec<_> = backends.iter().map(|backend| backend.live().id()).collect();
        live_ids.sort_unstable();
        let name_hashes = backends.iter().map(Backend::name_hash).collect();
        let pool = Pool {
            name,
            backends,
            by_name,
            by_route,
            name_hashes,
            totals,
            has_slow_start,
            rebalance_settings: settings.rebalance.clone(),
            rebalancer,
            queue_settings: settings.queue,
            queue,
            live_ids: live_ids.into(),
            health_tracker: Arc::new(health_tracker),
        };
        for (index, state) in inherited.into_iter().enumerate() {
            let is_same =
                |state: &BackendState| settings.backends.get(index).is_some_and(|backend| state.is_of(backend));
            if let Some(state) = state.filter(is_same) {
                pool.begin_with(index, &state, now);
            }
        }
        let pool = Arc::new(pool);
        for (index, backend) in settings.backends.iter().enumerate() {
            if let Some(change) = pool.report(index, backend.reported_down, now) {
                self.reported.push((Arc::clone(&pool), index, change));
            }
        }
        pool.refresh_totals();
        pool
    }

    fn backend(
        &mut self,
        settings: &backend::Settings,
        failover: Vec<usize>,
        old: Option<&Backend>,
        inherited: Option<&BackendState>,
        (queue, totals): (&Arc<CapacityQueue<PoolWaiterNotifier>>, &Arc<PoolTotals>),
        now: Instant,
    ) -> Backend {
        let (weight, state) = match (old, inherited) {
            (Some(old), _) => (old.merge_weight(settings.weight).value(), old.merge_state(settings.state).value()),
            (None, Some(known)) => (known.merged_weight(settings.weight), known.merged_state(settings.state)),
            (None, None) => (settings.weight, settings.state),
        };
        // A server of the same name and address that began after a gap is another one.
        let since = inherited.filter(|known| known.is_of(settings)).map_or(0, |known| known.since);
        let live = match old {
            Some(old) if old.address == settings.address && old.incarnation == settings.incarnation() => {
                Arc::clone(old.live())
            }
            _ => Arc::new(Live::new(self.id(now), self.threads, state, weight)),
        };
        live.set_pool(queue, totals);
        live.set_weight(weight);
        if live.wanted() != state {
            live.set_state(state);
        }
        live.follow_sources(settings.leaving, settings.leaves_at, clock::unix_millis());
        if let Some(old) = old.filter(|old| !Arc::ptr_eq(old.live(), &live)) {
            live.adopt_drain(old.live());
        }
        live.set_limits(settings.max_requests, settings.max_sessions);
        let incarnation = settings.incarnation();
        Backend {
            name: settings.name.as_str().into(),
            address: settings.address.clone(),
            incarnation,
            connection_key: mix(incarnation ^ settings.connection_tag),
            since: settings.since.max(since),
            weight: settings.weight,
            state: settings.state,
            name_hash: stable_hash(settings.name.as_bytes()),
            backup: settings.backup,
            failover,
            route: settings.route.as_deref().unwrap_or(&settings.name).into(),
            group: settings.group.as_deref().map(Box::from),
            live,
        }
    }

    /// Returns a live id that no backend has. Per-thread tables stay as small as the largest number of backends at a
    /// time, plus those removed within a day.
    fn id(&mut self, now: Instant) -> usize {
        let is_reusable = |free: &mut Free| {
            now.saturating_duration_since(free.since) > ID_REUSE_DELAY && free.live.strong_count() == 0
        };
        self.free.pop_front_if(is_reusable).map_or_else(
            || {
                self.next_id += 1;
                self.next_id - 1
            },
            |free| free.id,
        )
    }
}

/// Returns whether a pool that has been serving from its backends now gets this one, too.
fn is_new_in(old: &Pool, backend: &Backend) -> bool {
    let is_same = |old: &Backend| Arc::ptr_eq(old.live(), backend.live());
    !old.backends.is_empty() && !old.position(backend.name()).is_some_and(|index| is_same(old.backend(index)))
}

/// Makes a pool of these backends, for one thread and with defaults otherwise.
#[cfg(test)]
pub(crate) fn pool_of(name: &str, backends: impl IntoIterator<Item = backend::Settings>) -> Arc<Pool> {
    let settings = Settings { name: name.into(), backends: backends.into_iter().collect(), ..Settings::default() };
    Reconciler::new(1).pools(&[settings]).remove(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::health_state::{self, Health};
    use crate::pool::observe::Observation;
    use crate::pool::{AdminState, Closed};
    use futures_util::FutureExt;

    const FAILURE: Observation = Observation::failure(health_state::FailedRequest::Connect);

    fn backend(name: &str, address: &str) -> backend::Settings {
        backend::Settings::new(name, address.parse().unwrap())
    }

    fn settings(backends: Vec<backend::Settings>) -> Settings {
        let health_state = health_state::Settings { consecutive_failures: 1, ..health_state::Settings::default() };
        Settings { name: "app".into(), backends, health_state, ..Settings::default() }
    }

    #[test]
    fn a_backend_keeps_its_live_state_by_name_and_changes_incarnation_with_its_address() {
        let mut reconciler = Reconciler::new(1);
        let old = reconciler.pools(&[settings(vec![backend("a", "127.0.0.1:1"), backend("b", "127.0.0.1:2")])]);
        old[0].backend(0).live().set_state(AdminState::Drain);
        let new = reconciler.pools(&[settings(vec![backend("b", "127.0.0.1:3"), backend("a", "127.0.0.1:1")])]);
        assert_eq!(new[0].backend(1).live().accepts_new(), Err(Closed::Draining));
        assert_eq!(new[0].backend(1).incarnation(), old[0].backend(0).incarnation());
        assert_ne!(new[0].backend(0).incarnation(), old[0].backend(1).incarnation());
        assert!(Arc::ptr_eq(new[0].backend(1).live(), old[0].backend(0).live()));
    }

    #[test]
    fn a_name_at_another_address_is_a_new_server_and_keeps_only_what_the_operator_has_set() {
        let mut reconciler = Reconciler::new(1);
        let (a, b) = (backend("a", "127.0.0.1:1"), backend("b", "127.0.0.1:2"));
        let old = reconciler.pools(&[settings(vec![a.clone(), b.clone()])]).remove(0);
        old.observe(0, FAILURE, Instant::now());
        old.backend(0).live().set_state(AdminState::Maintenance);
        old.backend(0).live().set_weight(7);
        let new = reconciler.pools(&[settings(vec![backend("a", "127.0.0.1:3"), b])]).remove(0);
        let (was, is) = (old.backend(0).live(), new.backend(0).live());
        assert_eq!((was.health(), is.health()), (Health::Ejected, Health::Up));
        assert_eq!((is.state(), is.weight()), (AdminState::Maintenance, 7));
        assert_ne!(was.id(), is.id(), "idle connections belong to the old one");
        assert!(Arc::ptr_eq(old.backend(1).live(), new.backend(1).live()));
        // Requests that are still on the old backend say nothing about the new one.
        old.observe(0, FAILURE, Instant::now());
        assert!(!is.awaits_success());
    }

    #[test]
    fn a_name_of_another_identity_at_the_same_address_is_a_new_server() {
        let mut reconciler = Reconciler::new(1);
        let pod = |uid: &str| backend::Settings { identity: Some(uid.into()), ..backend("a", "127.0.0.1:1") };
        let old = reconciler.pools(&[settings(vec![pod("first")])]).remove(0);
        let new = reconciler.pools(&[settings(vec![pod("second")])]).remove(0);
        assert_ne!(old.backend(0).incarnation(), new.backend(0).incarnation());
        assert_ne!(old.backend(0).live().id(), new.backend(0).live().id());
        let elsewhere = backend::Settings { address: "127.0.0.1:2".parse().unwrap(), ..pod("second") };
        let moved = reconciler.pools(&[settings(vec![elsewhere])]).remove(0);
        assert_eq!(
            moved.backend(0).incarnation(),
            new.backend(0).incarnation(),
            "its identity says that it is the same"
        );
        // What another process hands over is of one identity, too.
        let mut next = Reconciler::new(1);
        moved.backend(0).live().set_state(AdminState::Ready);
        new.observe(0, Observation::probe(false), Instant::now());
        next.inherit(InheritedBackends::new(vec![new.state(Instant::now())]));
        let third = next.pools(&[settings(vec![pod("third")])]).remove(0);
        assert_eq!((new.backend(0).live().health(), third.backend(0).live().health()), (Health::Down, Health::Up));
    }

    #[test]
    fn a_backend_that_its_source_reports_down_is_down_before_anyone_uses_it_and_until_it_says_otherwise() {
        let mut reconciler = Reconciler::new(1);
        let a = |reported_down| backend::Settings { reported_down, ..backend("a", "127.0.0.1:1") };
        let pool = reconciler.pools(&[settings(vec![a(true)])]).remove(0);
        let live = Arc::clone(pool.backend(0).live());
        assert_eq!((live.health(), reconciler.take_reported().len()), (Health::Down, 1));
        // Neither probes nor requests know better.
        pool.observe(0, Observation::probe(true), Instant::now());
        pool.observe(0, Observation::Success, Instant::now());
        assert_eq!(live.accepts_existing(), Err(Closed::Down));
        reconciler.pools(&[settings(vec![a(true)])]);
        assert!(reconciler.take_reported().is_empty(), "nothing has changed");
        let pool = reconciler.pools(&[settings(vec![a(false)])]).remove(0);
        assert_eq!((live.health(), reconciler.take_reported().len()), (Health::Up, 1));
        pool.observe(0, Observation::probe(false), Instant::now());
        pool.observe(0, Observation::probe(false), Instant::now());
        pool.observe(0, Observation::probe(false), Instant::now());
        assert_eq!(live.health(), Health::Down, "both must say that it is up");
    }

    #[test]
    fn a_pool_that_stays_is_the_same_one_and_a_weight_that_changes_is_taken_over() {
        let mut reconciler = Reconciler::new(1);
        let a = backend("a", "127.0.0.1:1");
        let first = reconciler.pools(&[settings(vec![a.clone()])]).remove(0);
        first.backend(0).live().set_weight(5);
        let again = reconciler.pools(&[settings(vec![a.clone()])]).remove(0);
        assert!(Arc::ptr_eq(&first, &again));
        let leaving = reconciler.pools(&[settings(vec![backend::Settings { leaving: true, ..a.clone() }])]).remove(0);
        assert_eq!((leaving.backend(0).live().weight(), leaving.backend(0).live().state()), (5, AdminState::Drain));
        let heavy = reconciler.pools(&[settings(vec![backend::Settings { weight: 9, ..a }])]).remove(0);
        assert_eq!((heavy.backend(0).live().weight(), heavy.backend(0).live().state()), (9, AdminState::Ready));
    }

    #[test]
    fn a_state_that_the_operator_has_set_holds_until_the_file_changes_it() {
        let mut reconciler = Reconciler::new(1);
        let a = |state, weight| backend::Settings { state, weight, ..backend("a", "127.0.0.1:1") };
        let mut next = |settings| reconciler.pools(&[self::settings(vec![settings])]).remove(0);
        let first = next(a(AdminState::Ready, 1));
        first.backend(0).live().set_state(AdminState::Drain);
        let kept = next(a(AdminState::Ready, 2));
        assert_eq!((kept.backend(0).live().state(), kept.backend(0).live().weight()), (AdminState::Drain, 2));
        assert_eq!(next(a(AdminState::Maintenance, 2)).backend(0).live().state(), AdminState::Maintenance);
        let followed = next(a(AdminState::Ready, 2));
        assert_eq!(followed.backend(0).live().state(), AdminState::Ready);
        assert!(Arc::ptr_eq(followed.backend(0).live(), first.backend(0).live()));
    }

    #[test]
    fn a_backend_that_a_running_pool_gets_starts_slowly_and_goes_on_after_a_reload() {
        let (mut reconciler, now) = (Reconciler::new(1), Instant::now());
        let minute = Duration::from_secs(60);
        let mut next = |names: &[(&str, &str)], seconds: u64, has_started: bool| {
            let backends = names.iter().map(|(name, address)| backend(name, address)).collect();
            let settings = Settings { slow_start: minute, ..settings(backends) };
            if has_started {
                reconciler.mark_started();
            }
            let at = now + Duration::from_secs(seconds);
            let pool = reconciler.pools_at(&[settings], at).remove(0);
            pool.refresh_effective_weights(at);
            pool.backends().iter().map(|backend| backend.live().effective_weight()).collect::<Vec<_>>()
        };
        let (a, b, c) = (("a", "127.0.0.1:1"), ("b", "127.0.0.1:2"), ("c", "127.0.0.1:3"));
        assert_eq!(next(&[a], 0, false), [1000]);
        assert_eq!(next(&[a, b], 1, false), [1000, 1000], "discovery finds it while the process starts");
        assert_eq!(next(&[c, a, b], 10, true), [100, 1000, 1000]);
        assert_eq!(next(&[a, b, c], 40, true), [1000, 1000, 500], "kept, wherever it is in the file");
        let moved = ("b", "127.0.0.1:4");
        assert_eq!(next(&[a, moved, c], 70, true), [1000, 100, 1000], "another server has the name");
        assert_eq!(next(&[], 80, true), [0; 0]);
        assert_eq!(next(&[a, b], 90, true), [1000, 1000], "nobody else could take the sessions");
    }

    #[test]
    fn ids_are_reused_once_nothing_of_the_backend_before_can_be_left() {
        let (mut reconciler, now) = (Reconciler::new(1), Instant::now());
        let mut id_at = |name: &str, hours: u64| {
            let settings = settings(vec![backend(name, "127.0.0.1:1")]);
            let pool = reconciler.pools_at(&[settings], now + Duration::from_secs(hours * 3600)).remove(0);
            (pool.backend(0).live().id(), pool)
        };
        let (a, pool) = id_at("a", 0);
        assert_eq!((a, id_at("b", 0).0, id_at("c", 24).0), (0, 1, 2));
        assert_eq!(id_at("d", 26).0, 3, "a request still has the first");
        drop(pool);
        assert_eq!(id_at("e", 26).0, 0);
    }

    #[test]
    fn a_backend_that_goes_down_is_notified_and_an_ejection_ends_by_time() {
        let mut reconciler = Reconciler::new(1);
        let mut backend_down = reconciler.backend_down().subscribe();
        let pool = reconciler.pools(&[settings(vec![backend("a", "127.0.0.1:1"), backend("b", "127.0.0.1:2")])]);
        let now = Instant::now();
        assert!(!backend_down.has_unread());
        assert!(pool[0].observe(0, FAILURE, now).is_some());
        assert_eq!(backend_down.next().now_or_never(), Some(Some(pool[0].backend(0).live().id())));
        assert_eq!(pool[0].observe(1, FAILURE, now), Some(HealthChange::KeptFailing), "the last one stays");
        assert_eq!(pool[0].observe(1, FAILURE, now), None, "which is reported once");
        assert_eq!(pool[0].observe(1, Observation::Success, now), Some(HealthChange::Recovered));
        pool[0].observe(1, FAILURE, now);
        assert_eq!(pool[0].backend(1).live().health(), Health::Up);
        assert!(pool[0].backend(0).live().awaits_success());
        let end = pool[0].health_tracker().changes_at(pool[0].backend(0).live(), now).unwrap();
        pool[0].observe(0, Observation::Time, end + Duration::from_millis(1));
        assert_eq!(pool[0].backend(0).live().health(), Health::Up);
        assert!(!backend_down.has_unread());
    }
}
