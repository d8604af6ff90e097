//! Owns: the live state of a backend, shared by all threads and kept across reloads.
//! Invariant: a request writes its own thread's shard only; the fields that all threads read are written rarely.
//! Must not know: who reads it, or what follows from it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::admission::{self, AdminState, Closed, ReachedLimits};
use super::capacity_queue::CapacityQueue;
use super::draining::Draining;
use super::health_state::Health;
use super::history::History;
use super::queue::Queue;
use super::rebalancing::Rebalancing;
use super::sessions::Sessions;
use super::slow_start::{self, SlowStart};
use super::totals::PoolTotals;
use super::waiting::{PoolWaiterNotifier, WaiterNotifier};
use crate::clock;
use crate::per_thread::LazyPerThread;

/// A flag in [`Live::state`], beside the admin state: no source lists the backend any more.
const LEAVING: u8 = 0x80;

/// Another flag there: its responses to probes ask for a drain.
const ASKS_FOR_DRAIN: u8 = 0x40;

/// The live state of a backend.
#[derive(Debug)]
pub struct Live {
    id: usize,
    state: AtomicU8,
    health: AtomicU8,
    weight: AtomicU32,
    slow_start: SlowStart,
    times_lost: AtomicU32,
    awaits_success: AtomicBool,
    suspect: AtomicBool,
    /// Explains its state. A request that succeeds on a healthy backend doesn't lock it.
    history: Mutex<History>,
    /// The limits, [`u32::MAX`] for none.
    max_requests: AtomicU32,
    max_sessions: AtomicU32,
    /// It is ejected because it could not be reached.
    unreachable: AtomicBool,
    /// How often a probe or request has shown that it is healthy, and whether a session avoids it until the next time.
    healthy_signals: AtomicU32,
    avoided: AtomicBool,
    /// Requests that wait until it is available (see `waiting.rs`); how many of them precede every new request;
    /// capacity that is reserved for them. Written only while a request waits.
    pub(super) waiting: AtomicU32,
    pub(super) queued: AtomicU32,
    pub(super) reserved: AtomicU32,
    pub(super) queue: Mutex<Queue<WaiterNotifier>>,
    /// The queue of its pool for capacity on any backend; how many requests wait there that have a claim to this one;
    /// sessions that requests will add which were granted capacity.
    pool_queue: OnceLock<Arc<CapacityQueue<PoolWaiterNotifier>>>,
    pool_totals: OnceLock<Arc<PoolTotals>>,
    pub(super) own_claims: AtomicU32,
    pub(super) reserved_sessions: AtomicU32,
    /// Notified when a request begins to wait while probes fail.
    pub(super) probe_wanted: Notify,
    pub(super) shards: LazyPerThread<Shard>,
    sessions: Sessions,
    draining: Draining,
    rebalancing: Rebalancing,
}

/// One thread's part.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) active: AtomicU32,
    /// Requests in flight that may add a session.
    pub(super) adding: AtomicU32,
    pub(super) tunnels: AtomicU32,
}

impl Live {
    /// Makes the state of a backend that was not observed yet: it counts as up. `id` is unique in the process and
    /// small, since it indexes per-thread tables.
    pub fn new(id: usize, threads: usize, state: AdminState, weight: u32) -> Live {
        Live {
            id,
            state: AtomicU8::new(state as u8),
            health: AtomicU8::new(Health::Up as u8),
            weight: AtomicU32::new(weight),
            slow_start: SlowStart::new(weight),
            times_lost: AtomicU32::new(0),
            awaits_success: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            history: Mutex::new(History::new(clock::unix())),
            max_requests: AtomicU32::new(u32::MAX),
            max_sessions: AtomicU32::new(u32::MAX),
            unreachable: AtomicBool::new(false),
            healthy_signals: AtomicU32::new(0),
            avoided: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            queued: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            queue: Mutex::default(),
            pool_queue: OnceLock::new(),
            pool_totals: OnceLock::new(),
            own_claims: AtomicU32::new(0),
            reserved_sessions: AtomicU32::new(0),
            probe_wanted: Notify::new(),
            shards: LazyPerThread::new(threads.max(1)),
            sessions: Sessions::new(threads),
            draining: Draining::default(),
            rebalancing: Rebalancing::default(),
        }
    }

    /// Its index in per-thread tables.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Returns its admin state; a backend that is leaving or asks for it drains, unless it is in maintenance.
    pub fn state(&self) -> AdminState {
        let state = self.state.load(Ordering::Relaxed);
        match wanted(state) {
            AdminState::Ready if state & (LEAVING | ASKS_FOR_DRAIN) != 0 => AdminState::Drain,
            state => state,
        }
    }

    /// Sets its admin state. A drain of the operator's that runs is cancelled.
    pub fn set_state(self: &Arc<Self>, state: AdminState) {
        let was_serving = self.is_serving();
        self.draining.stop_operators_drain(clock::unix_millis());
        // Never fails: there is always a next value.
        let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |was| {
            Some(was & (LEAVING | ASKS_FOR_DRAIN) | state as u8)
        });
        if !was_serving && self.is_serving() {
            self.begin_slow_start(clock::now());
        }
        self.changed();
    }

    /// Returns whether no source lists it any more.
    pub fn is_leaving(&self) -> bool {
        self.state.load(Ordering::Relaxed) & LEAVING != 0
    }

    /// Sets whether no source lists it any more.
    pub(super) fn set_leaving(self: &Arc<Self>, leaving: bool) {
        if leaving {
            self.state.fetch_or(LEAVING, Ordering::Relaxed);
        } else if self.state.fetch_and(!LEAVING, Ordering::Relaxed) & LEAVING != 0 {
            self.changed();
        }
    }

    /// Returns whether its responses to probes ask for a drain.
    pub fn asks_for_drain(&self) -> bool {
        self.state.load(Ordering::Relaxed) & ASKS_FOR_DRAIN != 0
    }

    /// Sets whether its responses to probes ask for a drain.
    pub fn set_asks_for_drain(self: &Arc<Self>, asks: bool) {
        if asks {
            self.state.fetch_or(ASKS_FOR_DRAIN, Ordering::Relaxed);
        } else if self.state.fetch_and(!ASKS_FOR_DRAIN, Ordering::Relaxed) & ASKS_FOR_DRAIN != 0 {
            self.changed();
        }
    }

    /// Returns its drain, which can be running, over, or none.
    pub fn draining(&self) -> &Draining {
        &self.draining
    }

    /// Returns its admin state, whether it is leaving or not.
    pub fn wanted(&self) -> AdminState {
        wanted(self.state.load(Ordering::Relaxed))
    }

    /// Its health.
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            health if health == Health::Down as u8 => Health::Down,
            health if health == Health::Ejected as u8 => Health::Ejected,
            _ => Health::Up,
        }
    }

    /// Publishes its health, and returns whether it was up and is no longer. Only the health
    /// tracker calls this, under its lock.
    pub(super) fn set_health(&self, health: Health, now: Instant) -> bool {
        let (was, was_serving) = (self.health(), self.is_serving());
        self.health.store(health as u8, Ordering::Relaxed);
        if !was_serving && self.is_serving() {
            self.begin_slow_start(now);
        }
        let lost = was == Health::Up && health != Health::Up;
        if lost {
            self.times_lost.fetch_add(1, Ordering::Release);
        }
        lost
    }

    /// Counts how often it went down or was ejected. A request in flight on it compares this with the count at its
    /// start, to learn that it waits in vain.
    pub fn times_lost(&self) -> u32 {
        self.times_lost.load(Ordering::Acquire)
    }

    /// Returns whether it serves: it is up, and not in maintenance.
    pub fn is_serving(&self) -> bool {
        self.state() != AdminState::Maintenance && self.health() == Health::Up
    }

    /// Returns the record that explains its state.
    pub fn history(&self) -> History {
        *self.remember()
    }

    /// Locks the record to write it. Only the health tracker does that, under its lock.
    pub(super) fn remember(&self) -> MutexGuard<'_, History> {
        // A panic leaves a record that is out of date at worst.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its share of new sessions.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Sets its share of new sessions.
    pub fn set_weight(self: &Arc<Self>, weight: u32) {
        if let Some(totals) = self.pool_totals() {
            totals.note_weight(weight);
        }
        self.weight.store(weight, Ordering::Relaxed);
        self.slow_start.refresh(weight, clock::now());
        self.changed();
    }

    /// Returns its weight in units of 1/[`ONE`](super::slow_start::ONE): less than [`Live::weight`] during a slow start.
    /// Pins and failover don't depend on it.
    pub fn effective_weight(&self) -> u32 {
        self.slow_start.effective()
    }

    /// Returns whether its share of new sessions still grows.
    pub fn is_in_slow_start(&self) -> bool {
        self.effective_weight() < self.weight().saturating_mul(slow_start::ONE)
    }

    /// Notes that it begins to serve at `now`: it is new, or was down, ejected or in maintenance.
    pub(super) fn begin_slow_start(&self, now: Instant) {
        self.begin_slow_start_at(now, now);
    }

    /// Notes that it began to serve at `since`.
    pub(super) fn begin_slow_start_at(&self, since: Instant, now: Instant) {
        self.slow_start.begin(since, self.weight(), now);
    }

    /// Returns for how long it has served, if its slow start is not over at `now`.
    pub(super) fn served(&self, now: Instant) -> Option<Duration> {
        self.slow_start.served(now)
    }

    /// Sets how long a slow start takes; zero for none.
    pub(super) fn set_slow_start(&self, lasts: Duration, now: Instant) {
        self.slow_start.set_duration(lasts, self.weight(), now);
    }

    /// Computes its effective weight again. Call it several times a second during a slow start.
    pub(super) fn refresh_effective_weight(&self, now: Instant) {
        self.slow_start.refresh(self.weight(), now);
    }

    /// Returns whether a success has to be reported, since it would clear something. Read on every request, written
    /// only on a first failure and when that is cleared.
    pub fn awaits_success(&self) -> bool {
        self.awaits_success.load(Ordering::Relaxed) || self.avoided.load(Ordering::Relaxed)
    }

    /// Only the health tracker calls this, under its lock.
    pub(super) fn set_awaits_success(&self, awaits_success: bool) {
        self.awaits_success.store(awaits_success, Ordering::Relaxed);
    }

    /// Returns whether as many of its last requests failed as eject a backend, though too few clients received those
    /// failures to prove that the backend is at fault.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Only the health tracker calls this, under its lock.
    pub(super) fn set_suspect(&self, suspect: bool) {
        self.suspect.store(suspect, Ordering::Relaxed);
    }

    /// Returns whether it is ejected because no connection could be used: a request that connects to it ends the
    /// ejection.
    pub fn is_unreachable(&self) -> bool {
        self.unreachable.load(Ordering::Relaxed)
    }

    /// Only the health tracker calls this, under its lock.
    pub(super) fn set_unreachable(&self, unreachable: bool) {
        self.unreachable.store(unreachable, Ordering::Relaxed);
    }

    /// Records that a session avoids it until a probe or request has shown that it is healthy: until
    /// [`Live::healthy_signals`] differs from the value that this returns.
    pub fn avoid(&self) -> u32 {
        self.avoided.store(true, Ordering::Relaxed);
        self.healthy_signals()
    }

    /// Counts how often it has shown that it is healthy: by a probe that passed, or, while a session avoids it or
    /// failures count against it, by a request that succeeded.
    pub fn healthy_signals(&self) -> u32 {
        self.healthy_signals.load(Ordering::Relaxed)
    }

    pub(super) fn count_healthy_signal(&self) {
        self.healthy_signals.fetch_add(1, Ordering::Relaxed);
        self.avoided.store(false, Ordering::Relaxed);
    }

    /// Checks whether it accepts a new session now.
    ///
    /// # Errors
    /// Why it doesn't.
    pub fn accepts_new(&self) -> Result<(), Closed> {
        let full = ReachedLimits {
            requests: self.is_full(),
            sessions: self.has_all_sessions(),
            is_awaited: self.is_pool_queued(),
        };
        admission::accepts_new(self.state(), self.health(), self.weight(), full)
    }

    /// Checks whether it accepts a session that is pinned to it now.
    ///
    /// # Errors
    /// Why it doesn't.
    pub fn accepts_existing(&self) -> Result<(), Closed> {
        let full = ReachedLimits { requests: self.is_full(), ..ReachedLimits::default() };
        admission::accepts_existing(self.state(), self.health(), full)
    }

    /// Sets its limits on requests in flight and on sessions.
    pub(super) fn set_limits(self: &Arc<Self>, max_requests: Option<u32>, max_sessions: Option<u32>) {
        self.max_requests.store(max_requests.unwrap_or(u32::MAX), Ordering::Relaxed);
        self.max_sessions.store(max_sessions.unwrap_or(u32::MAX), Ordering::Relaxed);
        self.changed();
    }

    /// Returns whether it has as many requests in flight as it may have. A thread checks before it counts, so the requests
    /// in flight can exceed the limit by the number of threads, and no more. Capacity that is reserved for waiting
    /// requests, or that they will get, counts as used.
    fn is_full(&self) -> bool {
        match self.max_requests.load(Ordering::Relaxed) {
            u32::MAX => false,
            limit => {
                self.queued.load(Ordering::Relaxed) > 0
                    || self.own_claims.load(Ordering::Relaxed) > 0
                    || self.active().saturating_add(self.reserved.load(Ordering::Relaxed)) >= limit
            }
        }
    }

    /// Returns whether it has as many sessions as it may have. Requests that may add a session count as one: else a crowd
    /// that comes before the first response would exceed the limit.
    fn has_all_sessions(&self) -> bool {
        match self.max_sessions.load(Ordering::Relaxed) {
            u32::MAX => false,
            limit => self.expected_sessions() >= u64::from(limit),
        }
    }

    /// Returns how many sessions it has, or will have once the requests in flight have their responses.
    pub fn expected_sessions(&self) -> u64 {
        let adding: u32 = self.shards.iter().map(|shard| shard.adding.load(Ordering::Relaxed)).sum();
        self.sessions.estimate() + u64::from(adding) + u64::from(self.reserved_sessions.load(Ordering::Relaxed))
    }

    /// Returns whether it accepts a session that it doesn't have, as soon as it has capacity for a request.
    pub fn has_room_for_session(&self) -> bool {
        let full = ReachedLimits { sessions: self.has_all_sessions(), ..ReachedLimits::default() };
        admission::accepts_new(self.state(), self.health(), self.weight(), full).is_ok()
    }

    /// Returns whether it takes part in the spread of sessions: it accepts new ones, or would if no limit was reached.
    pub fn takes_sessions(&self) -> bool {
        admission::accepts_new(self.state(), self.health(), self.weight(), ReachedLimits::default()).is_ok()
    }

    /// Returns how many more sessions it accepts.
    pub fn room_for_sessions(&self) -> u64 {
        match self.max_sessions.load(Ordering::Relaxed) {
            u32::MAX => u64::MAX,
            limit => u64::from(limit).saturating_sub(self.expected_sessions()),
        }
    }

    /// Returns the sessions that it gives up to others.
    pub fn rebalancing(&self) -> &Rebalancing {
        &self.rebalancing
    }

    /// Connects it with the queue and the totals of its pool, for the first and only time.
    pub(super) fn set_pool(&self, queue: &Arc<CapacityQueue<PoolWaiterNotifier>>, totals: &Arc<PoolTotals>) {
        self.pool_queue.get_or_init(|| Arc::clone(queue));
        self.pool_totals.get_or_init(|| Arc::clone(totals));
    }

    pub(super) fn pool_totals(&self) -> Option<&PoolTotals> {
        self.pool_totals.get().map(|totals| &**totals)
    }

    pub(super) fn pool_queue(&self) -> Option<&CapacityQueue<PoolWaiterNotifier>> {
        self.pool_queue.get().map(|queue| &**queue)
    }

    /// Returns whether requests wait for capacity on any backend of the pool.
    pub(super) fn is_pool_queued(&self) -> bool {
        self.pool_queue().is_some_and(|queue| !queue.is_empty())
    }

    /// Returns how many more requests it may have, without regard to reserved capacity.
    pub(super) fn free_capacity(&self) -> u32 {
        match self.max_requests.load(Ordering::Relaxed) {
            u32::MAX => u32::MAX,
            limit => limit.saturating_sub(self.active()),
        }
    }

    /// Returns its requests in flight, over all threads. The counts of other threads can be slightly out of date.
    pub fn active(&self) -> u32 {
        self.shards.iter().map(|shard| shard.active.load(Ordering::Relaxed)).sum()
    }

    /// Returns its tunnels, which count as requests in flight as well, over all threads.
    pub fn tunnels(&self) -> u32 {
        self.shards.iter().map(|shard| shard.tunnels.load(Ordering::Relaxed)).sum()
    }

    /// Returns whether its number of requests in flight is limited.
    pub(super) fn has_request_limit(&self) -> bool {
        self.max_requests.load(Ordering::Relaxed) != u32::MAX
    }

    /// Returns whether its number of sessions is limited.
    pub fn has_session_limit(&self) -> bool {
        self.max_sessions.load(Ordering::Relaxed) != u32::MAX
    }

    /// Notes that its sessions were counted again: some may have ended.
    pub fn recounted_sessions(self: &Arc<Self>) {
        self.changed();
    }

    /// Returns the sessions that it has.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }
}

fn wanted(state: u8) -> AdminState {
    AdminState::ALL.into_iter().find(|each| *each as u8 == state & !(LEAVING | ASKS_FOR_DRAIN)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::InFlight;
    use crate::pool::sessions::SessionLifetime;

    #[test]
    fn limits_are_reached_by_requests_in_flight_and_by_sessions_begun_since_the_count() {
        let live = Arc::new(Live::new(0, 2, AdminState::Ready, 1));
        assert_eq!(live.accepts_new(), Ok(()));
        live.set_limits(Some(2), None);
        let (_a, b) = (InFlight::on(&live, 0), InFlight::on(&live, 1));
        assert_eq!(live.accepts_existing(), Err(Closed::Full));
        drop(b);
        assert_eq!(live.accepts_existing(), Ok(()));

        live.set_limits(None, Some(3));
        let (sessions, lifetime) = (live.sessions(), SessionLifetime { idle: 60, absolute: None });
        sessions.begin(0, crate::pool::hash::mix(1), 0, 0, lifetime);
        sessions.count(0, lifetime);
        sessions.count_new(0);
        assert_eq!(live.accepts_new(), Ok(()));
        sessions.count_new(1);
        assert_eq!((live.accepts_new(), live.accepts_existing()), (Err(Closed::SessionsFull), Ok(())));
        sessions.count(0, lifetime);
        assert_eq!(live.accepts_new(), Ok(()), "the new count has what had begun");
    }

    #[test]
    fn one_that_is_leaving_drains_and_what_the_operator_wants_of_it_stays() {
        let live = Arc::new(Live::new(0, 1, AdminState::Ready, 1));
        live.set_leaving(true);
        assert_eq!((live.state(), live.accepts_new()), (AdminState::Drain, Err(Closed::Draining)));
        live.set_state(AdminState::Maintenance);
        assert_eq!((live.state(), live.is_leaving()), (AdminState::Maintenance, true));
        live.set_state(AdminState::Ready);
        live.set_leaving(false);
        assert_eq!(live.state(), AdminState::Ready);
    }

    #[test]
    fn only_leaving_up_counts_as_a_loss() {
        let (live, now) = (Arc::new(Live::new(0, 1, AdminState::Ready, 1)), Instant::now());
        assert!(live.set_health(Health::Ejected, now));
        assert!(!live.set_health(Health::Down, now));
        assert!(!live.set_health(Health::Up, now));
        assert!(live.set_health(Health::Down, now));
        assert_eq!(live.times_lost(), 2);
    }

    #[test]
    fn a_slow_start_begins_when_it_serves_again_and_not_when_a_drain_ends() {
        let (live, now) = (Arc::new(Live::new(0, 1, AdminState::Ready, 2)), Instant::now());
        live.set_slow_start(Duration::from_secs(3600), now);
        live.set_state(AdminState::Drain);
        live.set_state(AdminState::Ready);
        assert!(!live.is_in_slow_start(), "it has served all the time");
        live.set_health(Health::Down, now);
        live.set_health(Health::Up, now);
        assert_eq!((live.effective_weight(), live.weight()), (200, 2));
        live.refresh_effective_weight(now + Duration::from_secs(1800));
        assert_eq!(live.effective_weight(), 1000);
        live.refresh_effective_weight(now + Duration::from_secs(3600));
        assert!(!live.is_in_slow_start());
        live.set_state(AdminState::Maintenance);
        live.set_health(Health::Ejected, now);
        live.set_state(AdminState::Drain);
        assert!(!live.is_in_slow_start(), "it does not serve yet");
        live.set_health(Health::Up, now);
        assert!(live.is_in_slow_start());
    }
}
