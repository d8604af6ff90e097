//! Owns: one request that waits because all backends of its pool are full, until it gets capacity.
//! Invariant: no capacity is missed, and none is given to a request that has left.
//! Must not know: when to stop waiting.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use tokio::sync::oneshot;

use super::backend_set::Pool;
use super::capacity_queue::{CapacityQueue, Reachable};
use super::pool_queue::Claim;
use super::waiting::{CapacityPermit, OwnClaim, PoolWaiterNotifier};
use crate::clock;

/// A request that waits, until it gets capacity or gives up.
#[derive(Debug)]
pub struct PoolWaiting {
    queue: Arc<CapacityQueue<PoolWaiterNotifier>>,
    id: u64,
    since: Instant,
    /// `None` once it has had its grant.
    grant: Option<oneshot::Receiver<CapacityPermit>>,
}

impl Pool {
    /// Makes a request wait for capacity from `now` on, on any backend but those at the positions `tried`. `own` is the
    /// position of the one that has its session and is full. `None` if the queue is full, or if there is none.
    pub fn wait_for_capacity(&self, claim: PoolClaim, tried: &[usize], now: Instant) -> Option<PoolWaiting> {
        let settings = self.queue_settings()?;
        let id = |index: usize| self.backend(index).live().id();
        let (claim, own) = match claim {
            PoolClaim::Own(index) => (Claim::Own(id(index)), Some(OwnClaim::new(self.backend(index).live()))),
            PoolClaim::Moving => (Claim::Moving, None),
            PoolClaim::New => (Claim::New, None),
        };
        let (sender, grant) = oneshot::channel();
        let reachable =
            Reachable { pool: Arc::clone(self.live_ids()), tried: tried.iter().map(|index| id(*index)).collect() };
        let notifier = PoolWaiterNotifier::new(sender, own);
        let id = self.queue().join(claim, reachable, notifier, settings.size)?;
        let waiting = PoolWaiting { queue: Arc::clone(self.queue()), id, since: now, grant: Some(grant) };
        // A backend that got capacity before the fence may have seen no request that waits. After it, the backend sees
        // this one, or this thread sees the capacity (C++20 §33.5.11 [atomics.fences]).
        fence(Ordering::SeqCst);
        let free = self.backends().iter().filter(|backend| backend.live().free_capacity() > 0);
        free.for_each(|backend| backend.live().changed());
        Some(waiting)
    }
}

/// What a request has a claim to, by positions in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolClaim {
    /// See [`Claim::Own`].
    Own(usize),
    /// See [`Claim::Moving`].
    Moving,
    /// See [`Claim::New`].
    New,
}

impl PoolWaiting {
    /// Waits for capacity; forever if the request has had it.
    pub async fn granted(&mut self) -> CapacityPermit {
        if let Some(grant) = &mut self.grant
            && let Ok(permit) = grant.await
        {
            self.grant = None;
            return permit;
        }
        std::future::pending().await
    }
}

impl Drop for PoolWaiting {
    fn drop(&mut self) {
        self.queue.record(clock::now().saturating_duration_since(self.since));
        self.queue.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::capacity_queue::Settings as QueueSettings;
    use crate::pool::{AdminState, InFlight, Settings, backend, reconcile::Reconciler};
    use futures_util::FutureExt;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    fn pool(threads: usize, places: u32, max_sessions: Option<u32>) -> Arc<Pool> {
        let backends = ["a", "b"].into_iter().enumerate().map(|(index, name)| backend::Settings {
            max_requests: Some(places),
            max_sessions,
            ..backend::Settings::new(name, ([127, 0, 0, 1], 9000 + index as u16).into())
        });
        let queue = Some(QueueSettings { size: 4, ..QueueSettings::default() });
        let settings = Settings { name: "p".into(), backends: backends.collect(), queue, ..Settings::default() };
        Reconciler::new(threads).pools(&[settings]).remove(0)
    }

    fn granted(waiting: &mut PoolWaiting, pool: &Pool) -> Option<usize> {
        let permit = waiting.granted().now_or_never()?;
        let index = pool.position_of(permit.live());
        // It keeps its place.
        std::mem::forget(permit);
        index
    }

    #[test]
    fn capacity_goes_first_to_sessions_of_the_backend_then_to_new_clients_in_order_and_nobody_overtakes() {
        let (pool, now) = (pool(1, 1, None), Instant::now());
        let busy: Vec<_> = pool.backends().iter().map(|backend| InFlight::on(backend.live(), 0)).collect();
        let [a, b] = <[InFlight; 2]>::try_from(busy).unwrap();
        let wait = |claim| pool.wait_for_capacity(claim, &[], now);
        let claims = [PoolClaim::New, PoolClaim::Own(1), PoolClaim::New, PoolClaim::Own(0)];
        let mut all = claims.map(|claim| wait(claim).unwrap());
        assert!(wait(PoolClaim::New).is_none(), "no more wait than may");
        assert!(all.iter_mut().all(|each| granted(each, &pool).is_none()));
        drop(a);
        assert_eq!(pool.backend(0).live().accepts_existing(), Err(crate::pool::Closed::Full), "it is reserved");
        assert_eq!(all.each_mut().map(|each| granted(each, &pool)), [None, None, None, Some(0)]);
        drop(b);
        assert_eq!(all.each_mut().map(|each| granted(each, &pool)), [None, Some(1), None, None]);
        assert_eq!(pool.queue().len(), 2);
    }

    #[test]
    fn capacity_of_a_request_that_left_goes_to_the_next_one_and_waits_are_counted() {
        let (pool, now) = (pool(1, 1, None), Instant::now());
        let busy: Vec<_> = pool.backends().iter().map(|backend| InFlight::on(backend.live(), 0)).collect();
        let [first, second, mut third] = [(); 3].map(|()| pool.wait_for_capacity(PoolClaim::New, &[], now).unwrap());
        drop(second);
        drop(busy);
        // Both have been granted capacity by now, and one of them leaves with it.
        assert_eq!(pool.queue().len(), 0);
        drop(first);
        assert!(granted(&mut third, &pool).is_some());
        drop(third);
        assert_eq!(pool.queue().figures().buckets.iter().map(|(_, count)| count).sum::<u64>(), 3);
        assert!(pool.backends().iter().any(|backend| backend.live().accepts_new().is_ok()));
    }

    #[test]
    fn a_request_gets_nothing_on_a_backend_that_it_has_tried_or_that_takes_no_sessions() {
        let (pool, now) = (pool(1, 1, None), Instant::now());
        let busy: Vec<_> = pool.backends().iter().map(|backend| InFlight::on(backend.live(), 0)).collect();
        let mut tried = pool.wait_for_capacity(PoolClaim::Moving, &[0], now).unwrap();
        let mut new = pool.wait_for_capacity(PoolClaim::New, &[], now).unwrap();
        pool.backend(1).live().set_state(AdminState::Drain);
        drop(busy);
        assert_eq!((granted(&mut tried, &pool), granted(&mut new, &pool)), (None, Some(0)));
        pool.backend(1).live().set_state(AdminState::Ready);
        assert_eq!(granted(&mut tried, &pool), Some(1), "as soon as it takes sessions again");
    }

    #[test]
    fn no_more_new_clients_get_capacity_than_max_sessions_has_room_for() {
        let (pool, now) = (pool(1, 100, Some(1)), Instant::now());
        let mut pending = Vec::new();
        for backend in pool.backends() {
            let mut request = InFlight::on(backend.live(), 0);
            request.expect_session();
            pending.push(request);
            assert_eq!(backend.live().accepts_new(), Err(crate::pool::Closed::SessionsFull));
        }
        let mut all = [(); 3].map(|()| pool.wait_for_capacity(PoolClaim::New, &[], now).unwrap());
        assert!(all.iter_mut().all(|each| granted(each, &pool).is_none()));
        // Its response sets no pin.
        drop(pending.pop());
        assert_eq!(all.each_mut().map(|each| granted(each, &pool)), [Some(1), None, None]);
    }

    #[test]
    fn no_capacity_that_any_thread_frees_is_missed() {
        const THREADS: usize = 4;
        let pool = pool(THREADS, 1, None);
        let waits = AtomicU32::new(0);
        let work = |thread: usize| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            for round in 0..10_000 {
                let mut permit = None;
                let free = pool.backends().iter().find(|backend| backend.live().accepts_new().is_ok());
                let live = match free {
                    Some(backend) => Arc::clone(backend.live()),
                    None => {
                        let mut waiting = pool.wait_for_capacity(PoolClaim::New, &[], Instant::now()).unwrap();
                        let grant = async { tokio::time::timeout(Duration::from_secs(60), waiting.granted()).await };
                        let grant = runtime.block_on(grant).expect("capacity");
                        waits.fetch_add(1, Ordering::Relaxed);
                        let index = pool.position_of(grant.live()).unwrap();
                        permit = Some(grant);
                        Arc::clone(pool.backend(index).live())
                    }
                };
                let in_flight = InFlight::on(&live, thread);
                drop(permit);
                if round % 3 == 0 {
                    std::thread::yield_now();
                }
                drop(in_flight);
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let work = &work;
                scope.spawn(move || work(thread));
            }
        });
        assert_eq!(pool.queue().len(), 0);
        assert!(pool.backends().iter().all(|backend| backend.live().accepts_new().is_ok()));
        assert!(waits.into_inner() > 100, "it is hardly ever full");
    }
}
