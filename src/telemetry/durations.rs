//! Owns: histograms of durations: one thread's counters, the sums of all threads, and quantiles.
//! Invariant: all histograms have the same buckets, so that they can be added up.
//! Must not know: what takes the time.

use std::time::Duration;

use crate::per_thread::Counter;

/// The upper bounds of the buckets, in microseconds; one more bucket has no upper bound. Those of OpenTelemetry's
/// `http.server.request.duration` are among them where they matter, and finer ones below, for servers on the same network.
const BOUNDS: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 60_000_000,
];

/// One thread's counters of a histogram.
#[derive(Debug, Default)]
pub(super) struct DurationCounters {
    buckets: [Counter; BOUNDS.len() + 1],
    micros: Counter,
}

impl DurationCounters {
    /// Counts one duration.
    pub(super) fn count(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        if let Some(counter) = self.buckets.get(bucket) {
            counter.add(1);
        }
        self.micros.add(micros);
    }

    /// Returns all counters, in a fixed order.
    pub(super) fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.buckets.iter().chain([&self.micros])
    }

    /// Returns the counts by now.
    pub(super) fn counts(&self) -> DurationCounts {
        DurationCounts { buckets: self.buckets.each_ref().map(Counter::get), micros: self.micros.get() }
    }
}

/// The counts of a histogram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DurationCounts {
    buckets: [u64; BOUNDS.len() + 1],
    micros: u64,
}

impl DurationCounts {
    /// Adds those of another histogram.
    pub fn and(mut self, other: &DurationCounts) -> DurationCounts {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, count)| *sum += count);
        self.micros += other.micros;
        self
    }

    /// Returns what was counted after `before`.
    pub fn since(mut self, before: &DurationCounts) -> DurationCounts {
        self.buckets.iter_mut().zip(&before.buckets).for_each(|(now, then)| *now = now.saturating_sub(*then));
        self.micros = self.micros.saturating_sub(before.micros);
        self
    }

    /// Returns how many durations were counted.
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of the durations, in seconds.
    pub(super) fn seconds(&self) -> f64 {
        self.micros as f64 / 1e6
    }

    /// Returns the upper bound of each bucket in seconds, with its count.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.buckets).collect()
    }

    /// Estimates the duration, in seconds, that a share `q` of the durations does not exceed: linear within its bucket,
    /// as PromQL's `histogram_quantile` does. Returns `None` without durations. In the last bucket it is the bound below.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.total();
        let rank = q * total as f64;
        let (mut below, mut lower) = (0, 0.0);
        for (upper, count) in self.buckets() {
            if count > 0 && (below + count) as f64 >= rank {
                let within = (rank - below as f64) / count as f64;
                return Some(if upper.is_finite() { lower + (upper - lower) * within } else { lower });
            }
            (below, lower) = (below + count, upper);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(millis: &[u64]) -> DurationCounts {
        let counters = DurationCounters::default();
        millis.iter().for_each(|millis| counters.count(Duration::from_millis(*millis)));
        counters.counts()
    }

    #[test]
    fn a_quantile_is_within_the_bucket_of_its_rank() {
        assert_eq!(counted(&[]).quantile(0.5), None);
        // All four are between 5 and 10 ms.
        assert_eq!(counted(&[6, 7, 8, 9]).quantile(0.5), Some(0.0075));
        assert_eq!(counted(&[6, 6, 6, 400]).quantile(0.99), Some(0.25 + 0.25 * 0.96));
        assert_eq!(counted(&[100_000]).quantile(0.99), Some(60.0));
    }

    #[test]
    fn what_was_counted_in_between_is_the_difference() {
        let (one, both) = (counted(&[1, 300]), counted(&[1, 300, 20]));
        assert_eq!(both.since(&one), counted(&[20]));
        assert_eq!(one.and(&counted(&[20])), both);
        // After a restart of the counters.
        assert_eq!(one.since(&both).total(), 0);
    }

    proptest! {
        /// A quantile is never below that of a smaller share, and every duration is in one bucket.
        #[test]
        fn quantiles_grow(millis in proptest::collection::vec(0u64..200_000, 1..100)) {
            let counts = counted(&millis);
            prop_assert_eq!(counts.total(), millis.len() as u64);
            let quantiles: Vec<f64> = (0..=20).filter_map(|n| counts.quantile(f64::from(n) / 20.0)).collect();
            prop_assert!(quantiles.len() == 21 && quantiles.is_sorted(), "{:?}", quantiles);
        }
    }
}
