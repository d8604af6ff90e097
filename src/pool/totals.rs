//! Owns: what the backends of a pool have together: their requests in flight, and the weight of those that accept new ones.
//! Invariant: a thread writes a count of its own only; the weights are written by the control thread, and rarely.
//! Must not know: single backends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::slow_start::ONE;
use crate::per_thread::LazyPerThread;

/// The totals of a pool, kept across reloads. They spare a request that needs them to look at each backend.
#[derive(Debug)]
pub struct PoolTotals {
    in_flight: LazyPerThread<AtomicU32>,
    /// As they were a moment ago: of the regular backends that accept new sessions the sum of the effective weights, and of
    /// all others the requests in flight, also of those that the pool has no more.
    weight: AtomicU64,
    in_flight_elsewhere: AtomicU64,
    /// No effective weight is or was larger.
    heaviest: AtomicU32,
}

impl PoolTotals {
    /// Makes those of a new pool, for `threads` data-path threads.
    pub(super) fn new(threads: usize) -> PoolTotals {
        PoolTotals {
            in_flight: LazyPerThread::new(threads.max(1)),
            weight: AtomicU64::new(0),
            in_flight_elsewhere: AtomicU64::new(0),
            heaviest: AtomicU32::new(0),
        }
    }

    /// Adds to the requests in flight of `thread`, which must be the calling thread. A plain load and store: no other
    /// thread writes this count.
    pub(super) fn add_in_flight(&self, thread: usize, delta: u32) {
        if let Some(count) = self.in_flight.get(thread) {
            count.store(count.load(Ordering::Relaxed).wrapping_add(delta), Ordering::Relaxed);
        }
    }

    /// Records what a look at all backends has found: of the regular ones that accept new sessions the sum of the effective
    /// weights, and their requests in flight.
    pub(super) fn refresh(&self, weight: u64, in_flight: u64) {
        let elsewhere = self.all_in_flight().saturating_sub(in_flight);
        if self.weight.load(Ordering::Relaxed) != weight {
            self.weight.store(weight, Ordering::Relaxed);
        }
        if self.in_flight_elsewhere.load(Ordering::Relaxed) != elsewhere {
            self.in_flight_elsewhere.store(elsewhere, Ordering::Relaxed);
        }
    }

    /// Records the weight of a backend before it counts.
    pub(super) fn note_weight(&self, weight: u32) {
        self.heaviest.fetch_max(weight.saturating_mul(ONE), Ordering::Relaxed);
    }

    /// Returns the requests in flight on the regular backends that accept new sessions, over all threads, and the sum of
    /// their effective weights. Which ones these are was known a moment ago.
    pub fn of_candidates(&self) -> (u64, u64) {
        let elsewhere = self.in_flight_elsewhere.load(Ordering::Relaxed);
        (self.all_in_flight().saturating_sub(elsewhere), self.weight.load(Ordering::Relaxed))
    }

    fn all_in_flight(&self) -> u64 {
        self.in_flight.iter().map(|count| u64::from(count.load(Ordering::Relaxed))).sum()
    }

    /// Returns a weight, in the unit of effective weights, that none of the backends exceeds.
    pub fn heaviest(&self) -> u32 {
        self.heaviest.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_all_threads_count_but_for_those_on_backends_that_accept_none() {
        let totals = PoolTotals::new(2);
        totals.refresh(3000, 0);
        for (thread, delta) in [(0, 1), (1, 1), (1, 1), (7, 1)] {
            totals.add_in_flight(thread, delta);
        }
        assert_eq!(totals.of_candidates(), (3, 3000));
        totals.refresh(2000, 1);
        assert_eq!(totals.of_candidates(), (1, 2000));
        (0..2).for_each(|_| totals.add_in_flight(1, u32::MAX));
        totals.add_in_flight(0, u32::MAX);
        assert_eq!(totals.of_candidates(), (0, 2000), "those elsewhere have just ended");
    }
}
