//! Owns: the requests of all threads that wait because every backend of a pool is full, and the figures of such waits.
//! Invariant: waiting is bounded in number; a request that may not use a backend gets no capacity on it.
//! Must not know: how a request waits; when a backend has capacity.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::pool_queue::{Claim, PoolQueue};

/// `[pools.queue]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How many requests wait at once, over all threads.
    pub size: u32,
    /// The longest time that one request waits.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { size: 1000, timeout: Duration::from_secs(10) }
    }
}

/// The upper bounds of the buckets of waiting times, in milliseconds; one more bucket has no upper bound.
const BUCKETS: [u64; 12] = [1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000];

/// The requests that wait for capacity on any backend of a pool. All threads share it, and a reload keeps it. `W`
/// notifies a request.
#[derive(Debug)]
pub struct CapacityQueue<W> {
    queue: Mutex<PoolQueue<Waiter<W>>>,
    /// How many wait, so that nobody locks an empty queue.
    length: AtomicU32,
    waits: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

#[derive(Debug)]
struct Waiter<W> {
    notifier: W,
    reachable: Reachable,
}

/// The backends that a request may use.
#[derive(Debug)]
pub struct Reachable {
    /// The live ids of the pool's backends, in ascending order. A backend that was added later has no position in the
    /// snapshot of the request.
    pub pool: Arc<[usize]>,
    /// The live ids of those that the request has tried.
    pub tried: Vec<usize>,
}

impl Reachable {
    fn contains(&self, backend: usize) -> bool {
        !self.tried.contains(&backend) && self.pool.binary_search(&backend).is_ok()
    }
}

/// The figures of all waits that have ended.
#[derive(Debug, PartialEq)]
pub struct WaitFigures {
    /// For each bucket its upper bound in seconds, and how many waits are in it but in no lower one.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all waits in seconds.
    pub seconds: f64,
}

impl<W> Default for CapacityQueue<W> {
    fn default() -> Self {
        CapacityQueue {
            queue: Mutex::default(),
            length: AtomicU32::new(0),
            waits: Default::default(),
            micros: AtomicU64::new(0),
        }
    }
}

impl<W> CapacityQueue<W> {
    /// Adds a request and returns its id; `None` if `most` requests wait already.
    pub fn join(&self, claim: Claim, reachable: Reachable, notifier: W, most: u32) -> Option<u64> {
        let mut queue = self.lock();
        if queue.len() >= most as usize {
            return None;
        }
        let id = queue.join(claim, Waiter { notifier, reachable });
        self.count(&queue);
        Some(id)
    }

    /// Removes a request, if it still waits.
    pub fn leave(&self, id: u64) {
        let mut queue = self.lock();
        queue.leave(id);
        self.count(&queue);
    }

    /// Removes and returns the request that gets capacity on the backend with this live id. With `adds_sessions`, that
    /// backend accepts sessions that it doesn't have.
    pub fn next(&self, backend: usize, adds_sessions: bool) -> Option<(W, Claim)> {
        let mut queue = self.lock();
        let (waiter, claim) = queue.next(backend, adds_sessions, |waiter| waiter.reachable.contains(backend))?;
        self.count(&queue);
        Some((waiter.notifier, claim))
    }

    /// Counts the requests that wait.
    pub fn len(&self) -> u32 {
        self.length.load(Ordering::Relaxed)
    }

    /// Returns whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records that a wait has ended, however it did.
    pub fn record(&self, wait: Duration) {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound <= millis);
        self.waits[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns the figures of all waits that have ended.
    pub fn figures(&self) -> WaitFigures {
        let bounds = BUCKETS.iter().map(|millis| *millis as f64 / 1000.0).chain([f64::INFINITY]);
        let counts = self.waits.iter().map(|count| count.load(Ordering::Relaxed));
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        WaitFigures { buckets: bounds.zip(counts).collect(), seconds }
    }

    fn count(&self, queue: &PoolQueue<Waiter<W>>) {
        self.length.store(u32::try_from(queue.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, PoolQueue<Waiter<W>>> {
        // Nothing under the lock can panic after a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reachable(pool: &[usize], tried: &[usize]) -> Reachable {
        Reachable { pool: pool.into(), tried: tried.into() }
    }

    #[test]
    fn no_more_wait_than_may_and_each_gets_only_what_it_can_use() {
        let queue = CapacityQueue::default();
        let all = [(&[1, 2][..], &[1][..]), (&[1], &[]), (&[1, 2, 3], &[])];
        let ids = all.map(|(pool, tried)| queue.join(Claim::New, reachable(pool, tried), pool.len(), 3));
        assert_eq!(queue.join(Claim::New, reachable(&[1], &[]), 0, 3), None);
        assert_eq!((queue.next(4, true), queue.next(1, true), queue.len()), (None, Some((1, Claim::New)), 2));
        assert_eq!((queue.next(1, true), queue.next(2, true)), (Some((3, Claim::New)), Some((2, Claim::New))));
        queue.leave(ids[0].unwrap());
        assert!(queue.is_empty());
    }

    #[test]
    fn each_wait_is_in_one_bucket() {
        let queue = CapacityQueue::<()>::default();
        for millis in [0, 1, 4, 60_000, 10_000_000] {
            queue.record(Duration::from_millis(millis));
        }
        let figures = queue.figures();
        let of = |bound: f64| figures.buckets.iter().find(|(upper, _)| *upper == bound).unwrap().1;
        assert_eq!([of(0.001), of(0.005), of(60.0), of(f64::INFINITY)], [1, 2, 0, 2]);
        assert!((figures.seconds - 10_060.005).abs() < 1e-6);
    }
}
