//! Owns: one request that waits for a backend, and the grant that it gets.
//! Invariant: each change that can make the backend available notifies the first waiter; no wake-up is lost.
//! Must not know: requests; when to stop waiting.
//! Cycle with live: the queue is part of a backend's live state, and a grant returns unused capacity to that state.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::admission::AdminState;
use super::health_state::Health;
use super::live::Live;
use super::queue::{self, Availability, Queue, RETRY_INTERVAL};

/// Gives a waiting request its grant.
pub(super) type WaiterNotifier = oneshot::Sender<Grant>;

/// Gives capacity to a request that waits for any backend of its pool.
#[derive(Debug)]
pub(super) struct PoolWaiterNotifier {
    grant: oneshot::Sender<CapacityPermit>,
    /// Until the grant, requests that come later may not overtake this one at the backend that has its session.
    _own: Option<OwnClaim>,
}

/// The claim of a waiting request to the backend that has its session.
#[derive(Debug)]
pub(super) struct OwnClaim(Arc<Live>);

/// A request that waits for a backend, until it is served or gives up.
#[derive(Debug)]
pub struct Waiting {
    live: Arc<Live>,
    id: u64,
    grant: oneshot::Receiver<Grant>,
}

/// What a waiting request is granted. Dropped unused, it goes to the next request.
#[derive(Debug)]
pub enum Grant {
    /// Capacity on the backend. Drop it once the request is counted as in flight there.
    Capacity(CapacityPermit),
    /// The right to try whether the backend is available.
    Trial(TrialPermit),
}

/// Capacity on a backend that is reserved for a request. Dropped unused, it goes to the next request.
#[derive(Debug)]
pub struct CapacityPermit {
    live: Arc<Live>,
    /// The request will add a session to the backend, for which there is room.
    adds_session: bool,
}

/// The right, and the duty, to try whether a backend is available.
#[derive(Debug)]
pub struct TrialPermit {
    live: Arc<Live>,
    trial: queue::TrialSlot,
}

impl Live {
    /// Makes a request wait until the backend is available; `None` if `most` requests wait already. `failed` says that
    /// an attempt of this request has just failed, at `now`.
    pub fn wait(self: &Arc<Self>, most: u32, failed: bool, now: Instant) -> Option<Waiting> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= most {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        if self.health() == Health::Down {
            self.probe_wanted.notify_one();
        }
        let (notifier, grant) = oneshot::channel();
        let mut queue = self.queue();
        let id = queue.join(notifier, false);
        self.hold(&mut queue, failed, now);
        self.settle(queue);
        Some(Waiting { live: Arc::clone(self), id, grant })
    }

    /// Counts the requests that wait for it, the one that tries it included.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits until a request begins to wait while its probes fail: only probes can show that it is available again.
    pub async fn probe_wanted(&self) {
        self.probe_wanted.notified().await;
    }

    /// Gives grants, if a request waits. Call it after each change that can make the backend available.
    ///
    /// The change was stored before the fence here, and `waiting` before the fence in [`Live::settle`]: of
    /// the two threads at least one sees what the other has stored (C++20 §33.5.11 [atomics.fences]), so
    /// either this one sees that a request waits, or that one sees the change.
    pub(super) fn changed(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 || self.is_pool_queued() {
            self.settle(self.queue());
        }
    }

    /// Records that it has shown that it is healthy: a probe passed, or a request succeeded.
    pub(super) fn signal_healthy(self: &Arc<Self>) {
        self.count_healthy_signal();
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 || self.is_pool_queued() {
            let mut queue = self.queue();
            queue.open();
            self.settle(queue);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<WaiterNotifier>> {
        // Nothing under the lock can panic after a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, queue: &mut Queue<WaiterNotifier>, failed: bool, now: Instant) {
        if failed {
            queue.hold(now + RETRY_INTERVAL);
        } else if self.is_unreachable() {
            queue.hold(now);
        }
    }

    /// Gives all grants that are possible, and publishes how many requests wait for capacity.
    fn settle(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue<WaiterNotifier>>) {
        fence(Ordering::SeqCst);
        let mut grants = Vec::new();
        while let Some((notifier, grant)) = queue.next_grant(self.availability()) {
            let grant = match grant {
                queue::QueueGrant::Capacity => Grant::Capacity(self.permit(false)),
                queue::QueueGrant::Trial(trial) => Grant::Trial(TrialPermit { live: Arc::clone(self), trial }),
            };
            grants.push((notifier, grant));
        }
        let others = self.offer_spare(&mut queue);
        self.reserved.store(queue.reserved(), Ordering::Relaxed);
        let before = u32::try_from(queue.before_newcomers()).unwrap_or(u32::MAX);
        self.queued.store(before, Ordering::Relaxed);
        drop(queue);
        for (notifier, grant) in grants {
            // If the request has just left, the grant is dropped here, and so goes to the next request.
            drop(notifier.send(grant));
        }
        for (notifier, permit) in others {
            notifier.send(permit);
        }
    }

    /// Gives the capacity that is left once its own queue is empty to requests that wait for any backend of the pool.
    fn offer_spare(self: &Arc<Self>, queue: &mut Queue<WaiterNotifier>) -> Vec<(PoolWaiterNotifier, CapacityPermit)> {
        let mut grants = Vec::new();
        let Some(waiting) = self.pool_queue().filter(|waiting| !waiting.is_empty()) else { return grants };
        while queue.has_spare(self.availability()) {
            let Some((notifier, claim)) = waiting.next(self.id(), self.has_room_for_session()) else { break };
            queue.reserve();
            let adds_session = claim.adds_session(self.id());
            if adds_session {
                self.reserved_sessions.fetch_add(1, Ordering::Relaxed);
            }
            grants.push((notifier, self.permit(adds_session)));
        }
        grants
    }

    fn permit(self: &Arc<Self>, adds_session: bool) -> CapacityPermit {
        CapacityPermit { live: Arc::clone(self), adds_session }
    }

    fn availability(&self) -> Availability {
        let (health, is_out) = (self.health(), self.state() == AdminState::Maintenance);
        let free = if is_out || health != Health::Up { 0 } else { self.free_capacity() };
        let may_try = !is_out && (free > 0 || (health == Health::Ejected && self.is_unreachable()));
        Availability { free, may_try }
    }
}

impl Waiting {
    /// Waits for its grant; forever if it has had one.
    pub async fn granted(&mut self) -> Grant {
        match (&mut self.grant).await {
            Ok(grant) => grant,
            // It has left the queue: it had its grant.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits again, at the front of the queue. `failed` says that its attempt has just failed, at `now`.
    pub fn again(&mut self, failed: bool, now: Instant) {
        let (notifier, grant) = oneshot::channel();
        let mut queue = self.live.queue();
        queue.leave(self.id);
        self.id = queue.join(notifier, true);
        self.live.hold(&mut queue, failed, now);
        self.live.settle(queue);
        self.grant = grant;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.live.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut queue = self.live.queue();
        queue.leave(self.id);
        self.live.settle(queue);
    }
}

impl Drop for CapacityPermit {
    fn drop(&mut self) {
        let mut queue = self.live.queue();
        queue.release();
        if self.adds_session {
            self.live.reserved_sessions.fetch_sub(1, Ordering::Relaxed);
        }
        self.live.settle(queue);
    }
}

impl PoolWaiterNotifier {
    pub(super) fn new(grant: oneshot::Sender<CapacityPermit>, own: Option<OwnClaim>) -> PoolWaiterNotifier {
        PoolWaiterNotifier { grant, _own: own }
    }

    fn send(self, permit: CapacityPermit) {
        // If the request has just left, the permit is dropped here, and so goes to the next request.
        drop(self.grant.send(permit));
    }
}

impl OwnClaim {
    pub(super) fn new(live: &Arc<Live>) -> OwnClaim {
        live.own_claims.fetch_add(1, Ordering::Relaxed);
        OwnClaim(Arc::clone(live))
    }
}

impl Drop for OwnClaim {
    fn drop(&mut self) {
        self.0.own_claims.fetch_sub(1, Ordering::Relaxed);
    }
}

impl CapacityPermit {
    /// Returns the backend.
    pub fn live(&self) -> &Live {
        &self.live
    }
}

impl TrialPermit {
    /// When the backend may be tried.
    pub fn due(&self) -> Instant {
        self.trial.due
    }

    /// Whether it may be tried at all now: not in maintenance, nor while its probes fail.
    pub fn may_try(&self) -> bool {
        self.live.availability().may_try
    }

    /// The backend can't be had yet, as was found at `now`. Says whether it is still this request that
    /// tries.
    pub fn failed(&mut self, now: Instant) -> bool {
        let next = self.live.queue().failed(self.trial, now);
        self.trial = next.unwrap_or(self.trial);
        next.is_some()
    }

    /// The backend can be had: all who wait for that are let on.
    pub fn reached(&self) {
        self.live.signal_healthy();
    }
}

impl Drop for TrialPermit {
    fn drop(&mut self) {
        let mut queue = self.live.queue();
        queue.give_up(self.trial);
        self.live.settle(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::InFlight;
    use crate::pool::health_state::FailedRequest;
    use crate::pool::observe::Observation;
    use crate::pool::{Pool, backend, health_state, reconcile::Reconciler};
    use futures_util::FutureExt;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    fn pool(threads: usize, max_requests: Option<u32>) -> Arc<Pool> {
        let backends = ["a", "b"].into_iter().enumerate().map(|(index, name)| backend::Settings {
            max_requests,
            ..backend::Settings::new(name, ([127, 0, 0, 1], 9000 + index as u16).into())
        });
        let health_state = health_state::Settings { consecutive_failures: 1, ..health_state::Settings::default() };
        let settings = crate::pool::Settings {
            name: "p".into(),
            backends: backends.collect(),
            health_state,
            ..crate::pool::Settings::default()
        };
        Reconciler::new(threads).pools(&[settings]).remove(0)
    }

    fn granted(waiting: &mut Waiting) -> Option<Grant> {
        waiting.granted().now_or_never()
    }

    #[test]
    fn capacity_is_reserved_until_its_request_is_counted_and_goes_to_the_next_one_if_unused() {
        let (pool, now) = (pool(1, Some(1)), Instant::now());
        let live = pool.backend(0).live();
        let busy = InFlight::on(live, 0);
        let [mut first, mut second] = [(); 2].map(|()| live.wait(9, false, now).unwrap());
        assert!(live.wait(2, false, now).is_none(), "no more wait than may");
        assert!(granted(&mut first).is_none());
        drop(busy);
        assert!(live.accepts_existing().is_err(), "nobody overtakes");
        let Some(Grant::Capacity(place)) = granted(&mut first) else { panic!("the first has the place") };
        assert!(granted(&mut second).is_none());
        let busy = InFlight::on(live, 0);
        drop((place, first));
        assert!(granted(&mut second).is_none(), "it is taken");
        drop(busy);
        // It leaves just as it has been given the place.
        drop(second);
        assert_eq!((live.accepts_existing(), live.waiting()), (Ok(()), 0));
    }

    #[test]
    fn one_request_tries_an_unreachable_server_for_all_that_wait() {
        let (pool, now) = (pool(1, None), Instant::now());
        let live = pool.backend(0).live();
        pool.observe(0, Observation::failure(FailedRequest::Connect), now);
        assert_eq!(live.health(), Health::Ejected);
        let [mut first, mut second, mut third] = [(); 3].map(|()| live.wait(9, false, now).unwrap());
        let Some(Grant::Trial(mut trial)) = granted(&mut first) else { panic!("the first tries") };
        assert!(trial.may_try() && granted(&mut second).is_none());
        assert!(trial.failed(now) && trial.due() == now + RETRY_INTERVAL);
        drop((first, trial));
        let Some(Grant::Trial(trial)) = granted(&mut second) else { panic!("it is the next one's") };
        assert_eq!(trial.due(), now + RETRY_INTERVAL);
        pool.observe(0, Observation::Reached, now);
        trial.reached();
        assert_eq!(live.health(), Health::Up);
        assert!(matches!(granted(&mut third), Some(Grant::Capacity(_))));
    }

    #[test]
    fn no_request_tries_a_server_whose_probes_fail_and_its_probes_let_all_proceed() {
        let (pool, now) = (pool(1, None), Instant::now());
        pool.observe(0, Observation::probe(false), now);
        let mut waiting = pool.backend(0).live().wait(9, true, now).unwrap();
        assert!(granted(&mut waiting).is_none());
        pool.observe(0, Observation::probe(true), now);
        assert!(granted(&mut waiting).is_none(), "they have not passed often enough");
        pool.observe(0, Observation::probe(true), now);
        assert!(matches!(granted(&mut waiting), Some(Grant::Capacity(_))));
    }

    #[test]
    fn no_capacity_that_any_thread_frees_is_missed() {
        const THREADS: usize = 4;
        let pool = pool(THREADS, Some(1));
        let (active, most, waits) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        let work = |thread: usize| {
            let live = pool.backend(0).live();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            for round in 0..20_000 {
                let mut waiting = None;
                if live.accepts_existing().is_err() {
                    let mut place = live.wait(1000, false, Instant::now()).unwrap();
                    let turn = async { tokio::time::timeout(Duration::from_secs(60), place.granted()).await };
                    let turn = runtime.block_on(turn);
                    waits.fetch_add(1, Ordering::Relaxed);
                    waiting = Some((turn.expect("a turn"), place));
                }
                let in_flight = InFlight::on(live, thread);
                drop(waiting);
                most.fetch_max(active.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                if round % 3 == 0 {
                    std::thread::yield_now();
                }
                active.fetch_sub(1, Ordering::SeqCst);
                drop(in_flight);
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let work = &work;
                scope.spawn(move || work(thread));
            }
        });
        let live = pool.backend(0).live();
        assert_eq!((live.active(), live.waiting(), live.accepts_existing()), (0, 0, Ok(())));
        assert!(waits.into_inner() > 100, "it is hardly ever full");
        // Threads look before they count.
        assert!(most.into_inner() <= 1 + THREADS as u32);
    }
}
