//! Owns: the difference between the store's clock and this one, and the conversion of times between them.
//! Invariant: a converted time of the store is never in the future, whatever the store contains.
//! Must not know: how the store's clock is read.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// How far the store's clock is ahead of this one, in milliseconds; negative if it is behind.
///
/// Sessions are written with times of the store's clock. So Linchpins whose clocks differ agree on the age of a
/// session: each of them knows its own difference from the one clock that all of them can read.
#[derive(Debug, Default)]
pub(super) struct Skew(AtomicI64);

impl Skew {
    /// Measures the difference: the store read its clock as `theirs` between `sent` and `answered` of this clock. All
    /// three are since the Unix epoch. Halfway is the best estimate of when the store read its clock.
    pub(super) fn note(&self, sent: Duration, theirs: Duration, answered: Duration) {
        let ours = (millis(sent) + millis(answered)) / 2;
        self.0.store(millis(theirs) - ours, Ordering::Relaxed);
    }

    /// Converts a time of this clock to one of the store's clock, both in seconds since the Unix epoch.
    pub(super) fn theirs(&self, ours: u64) -> u64 {
        rounded(millis(Duration::from_secs(ours)).saturating_add(self.0.load(Ordering::Relaxed)))
    }

    /// Converts a time of the store's clock to one of this clock, both in seconds since the Unix epoch. The result is
    /// `now` at the latest.
    pub(super) fn ours(&self, theirs: u64, now: u64) -> u64 {
        rounded(millis(Duration::from_secs(theirs)).saturating_sub(self.0.load(Ordering::Relaxed))).min(now)
    }
}

/// Converts to milliseconds, at most half of the range, so that neither a sum nor a difference of two overflows.
fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 2)
}

fn rounded(millis: i64) -> u64 {
    u64::try_from(millis.saturating_add(500).div_euclid(1000)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn ahead(seconds: i64) -> Skew {
        let skew = Skew::default();
        let theirs = Duration::from_secs(NOW.saturating_add_signed(seconds));
        skew.note(Duration::from_millis(NOW * 1000 - 40), theirs, Duration::from_millis(NOW * 1000 + 40));
        skew
    }

    #[test]
    fn two_clocks_agree_on_the_start_of_a_session_through_the_stores_clock() {
        for (here, there) in [(-60, 60), (60, -60), (0, 3600), (-7200, 0)] {
            // The store's clock is the right one; one Linchpin is `here` seconds off and the other `there`.
            let (one, other) = (ahead(-here), ahead(-there));
            let stored = one.theirs(NOW.saturating_add_signed(here));
            assert_eq!(stored, NOW);
            let read = other.ours(stored, NOW.saturating_add_signed(there) + 5);
            assert_eq!(read, NOW.saturating_add_signed(there));
        }
    }

    #[test]
    fn no_time_of_a_store_is_in_the_future() {
        for theirs in [NOW + 1, NOW + 86_400, u64::MAX] {
            assert_eq!(ahead(0).ours(theirs, NOW), NOW);
        }
        assert_eq!(ahead(i64::MAX).ours(5, NOW), 0);
        assert!(ahead(0).theirs(u64::MAX) > NOW);
    }
}
