//! Owns: one request that waits for a backend, and the turn that it gets.
//! Invariant: whoever gives something up that is worth waiting for tells the first in the queue; no wake-up is lost between threads.
//! Must not know: requests; when to stop waiting.
//! Cycle with live: the queue is part of a backend's live state, and a grant keeps that state to return there what was not used.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::admission::AdminState;
use super::health_state::Health;
use super::live::Live;
use super::queue::{self, Availability, Queue, RETRY_INTERVAL};

/// How a request is told that it is its turn.
pub(super) type WaiterNotifier = oneshot::Sender<Grant>;

/// A request that waits for a backend, from when it begins to until it is served or waits no more.
#[derive(Debug)]
pub struct Waiting {
    live: Arc<Live>,
    id: u64,
    turn: oneshot::Receiver<Grant>,
}

/// A request's turn. Dropped without having been used, it is the next one's.
#[derive(Debug)]
pub enum Grant {
    /// A place on the backend. Drop it once the request is counted there.
    Capacity(CapacityPermit),
    /// It tries whether the backend is back.
    Trial(TrialPermit),
}

/// A place on a backend that is kept for a request.
#[derive(Debug)]
pub struct CapacityPermit(Arc<Live>);

/// The right, and the duty, to try whether a backend is back.
#[derive(Debug)]
pub struct TrialPermit {
    live: Arc<Live>,
    trial: queue::TrialSlot,
}

impl Live {
    /// Has a request wait until it is back, or has room; `None` if `most` do already. `failed` says that
    /// the request itself has just found at `now` that it can't be had.
    pub fn wait(self: &Arc<Self>, most: u32, failed: bool, now: Instant) -> Option<Waiting> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= most {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        if self.health() == Health::Down {
            self.probe_wanted.notify_one();
        }
        let (notifier, turn) = oneshot::channel();
        let mut queue = self.queue();
        let id = queue.join(notifier, false);
        self.hold(&mut queue, failed, now);
        self.settle(queue);
        Some(Waiting { live: Arc::clone(self), id, turn })
    }

    /// Requests that wait for it, those included that try it.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Ends when a request begins to wait for it while its probes fail: they alone can say that it is back.
    pub async fn probe_wanted(&self) {
        self.probe_wanted.notified().await;
    }

    /// Lets those on whose turn it is, if anybody waits. Whoever has made a change that is worth waiting
    /// for calls this after it.
    ///
    /// The change was stored before the fence here, and `waiting` before the fence in [`Live::settle`]: of
    /// the two threads at least one sees what the other has stored (C++20 §33.5.11 [atomics.fences]), so
    /// either this one sees that somebody waits, or that one sees the change.
    pub(super) fn changed(self: &Arc<Self>) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.settle(self.queue());
        }
    }

    /// Something shows that it is well: a probe passed, or a request succeeded.
    pub(super) fn signal_healthy(self: &Arc<Self>) {
        self.count_healthy_signal();
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            let mut queue = self.queue();
            queue.open();
            self.settle(queue);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<WaiterNotifier>> {
        // A panic under the lock would have come before anything was changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, queue: &mut Queue<WaiterNotifier>, failed: bool, now: Instant) {
        if failed {
            queue.hold(now + RETRY_INTERVAL);
        } else if self.is_unreachable() {
            queue.hold(now);
        }
    }

    /// Gives out turns and publishes how many wait for a place.
    fn settle(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue<WaiterNotifier>>) {
        fence(Ordering::SeqCst);
        let mut turns = Vec::new();
        while let Some((notifier, turn)) = queue.next_grant(self.availability()) {
            let turn = match turn {
                queue::QueueGrant::Capacity => Grant::Capacity(CapacityPermit(Arc::clone(self))),
                queue::QueueGrant::Trial(trial) => Grant::Trial(TrialPermit { live: Arc::clone(self), trial }),
            };
            turns.push((notifier, turn));
        }
        self.reserved.store(queue.reserved(), Ordering::Relaxed);
        let before = u32::try_from(queue.before_newcomers()).unwrap_or(u32::MAX);
        self.queued.store(before, Ordering::Relaxed);
        drop(queue);
        for (notifier, turn) in turns {
            // To one that has just left: its turn is dropped, and so the next one's.
            drop(notifier.send(turn));
        }
    }

    fn availability(&self) -> Availability {
        let (health, is_out) = (self.health(), self.state() == AdminState::Maintenance);
        let free = if is_out || health != Health::Up { 0 } else { self.free_capacity() };
        let may_try = !is_out && (free > 0 || (health == Health::Ejected && self.is_unreachable()));
        Availability { free, may_try }
    }
}

impl Waiting {
    /// Its turn. Never ends if there is none.
    pub async fn granted(&mut self) -> Grant {
        match (&mut self.turn).await {
            Ok(turn) => turn,
            // It has left the queue: it had its turn.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits again, before all who have not had their turn yet. `failed` says that it has just found at
    /// `now` that the backend can't be had.
    pub fn again(&mut self, failed: bool, now: Instant) {
        let (notifier, turn) = oneshot::channel();
        let mut queue = self.live.queue();
        queue.leave(self.id);
        self.id = queue.join(notifier, true);
        self.live.hold(&mut queue, failed, now);
        self.live.settle(queue);
        self.turn = turn;
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
        let mut queue = self.0.queue();
        queue.release();
        self.0.settle(queue);
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
        let settings = crate::pool::Settings { name: "p".into(), backends: backends.collect(), health_state };
        Reconciler::new(threads).pools(&[settings]).remove(0)
    }

    fn turn(waiting: &mut Waiting) -> Option<Grant> {
        waiting.granted().now_or_never()
    }

    #[test]
    fn a_place_is_kept_for_who_waits_until_it_is_counted_and_is_the_next_ones_if_it_is_not_taken() {
        let (pool, now) = (pool(1, Some(1)), Instant::now());
        let live = pool.backend(0).live();
        let busy = InFlight::on(live, 0);
        let [mut first, mut second] = [(); 2].map(|()| live.wait(9, false, now).unwrap());
        assert!(live.wait(2, false, now).is_none(), "no more wait than may");
        assert!(turn(&mut first).is_none());
        drop(busy);
        assert!(live.accepts_existing().is_err(), "nobody overtakes");
        let Some(Grant::Capacity(place)) = turn(&mut first) else { panic!("the first has the place") };
        assert!(turn(&mut second).is_none());
        let busy = InFlight::on(live, 0);
        drop((place, first));
        assert!(turn(&mut second).is_none(), "it is taken");
        drop(busy);
        // It leaves just as it has been given the place.
        drop(second);
        assert_eq!((live.accepts_existing(), live.waiting()), (Ok(()), 0));
    }

    #[test]
    fn an_ejected_server_that_could_not_be_reached_is_tried_by_one_who_finds_it_back_for_all() {
        let (pool, now) = (pool(1, None), Instant::now());
        let live = pool.backend(0).live();
        pool.observe(0, Observation::failure(FailedRequest::Connect), now);
        assert_eq!(live.health(), Health::Ejected);
        let [mut first, mut second, mut third] = [(); 3].map(|()| live.wait(9, false, now).unwrap());
        let Some(Grant::Trial(mut trial)) = turn(&mut first) else { panic!("the first tries") };
        assert!(trial.may_try() && turn(&mut second).is_none());
        assert!(trial.failed(now) && trial.due() == now + RETRY_INTERVAL);
        drop((first, trial));
        let Some(Grant::Trial(trial)) = turn(&mut second) else { panic!("it is the next one's") };
        assert_eq!(trial.due(), now + RETRY_INTERVAL);
        pool.observe(0, Observation::Reached, now);
        trial.reached();
        assert_eq!(live.health(), Health::Up);
        assert!(matches!(turn(&mut third), Some(Grant::Capacity(_))));
    }

    #[test]
    fn a_server_whose_probes_fail_is_tried_by_nobody_and_its_probes_let_all_on() {
        let (pool, now) = (pool(1, None), Instant::now());
        pool.observe(0, Observation::probe(false), now);
        let mut waiting = pool.backend(0).live().wait(9, true, now).unwrap();
        assert!(turn(&mut waiting).is_none());
        pool.observe(0, Observation::probe(true), now);
        assert!(turn(&mut waiting).is_none(), "they have not passed often enough");
        pool.observe(0, Observation::probe(true), now);
        assert!(matches!(turn(&mut waiting), Some(Grant::Capacity(_))));
    }

    #[test]
    fn no_place_that_is_given_back_on_any_thread_is_missed() {
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
