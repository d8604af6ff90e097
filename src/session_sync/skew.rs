//! Owns: how far the store's clock is from this one, and times as the one and the other would say them.
//! Invariant: what comes from a store is never later than now, whatever stands there.
//! Must not know: how the store was asked.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// What the store's clock is ahead of this one, in milliseconds; less than 0 if it is behind.
///
/// Sessions are written with the store's time: Linchpins whose clocks disagree agree on the age of a session,
/// since each of them knows how far it is from the one clock that all of them see.
#[derive(Debug, Default)]
pub(super) struct Skew(AtomicI64);

impl Skew {
    /// Notes that the store said `theirs` to a question that left at `sent` and was answered at `answered`. All
    /// three are since the Unix epoch. Halfway is the best guess of when the store looked.
    pub(super) fn note(&self, sent: Duration, theirs: Duration, answered: Duration) {
        let ours = (millis(sent) + millis(answered)) / 2;
        self.0.store(millis(theirs) - ours, Ordering::Relaxed);
    }

    /// A time of this clock as the store would say it, both in seconds since the Unix epoch.
    pub(super) fn theirs(&self, ours: u64) -> u64 {
        rounded(millis(Duration::from_secs(ours)).saturating_add(self.0.load(Ordering::Relaxed)))
    }

    /// A time of the store's as this clock would have said it, both in seconds since the Unix epoch; `now` at the
    /// latest.
    pub(super) fn ours(&self, theirs: u64, now: u64) -> u64 {
        rounded(millis(Duration::from_secs(theirs)).saturating_sub(self.0.load(Ordering::Relaxed))).min(now)
    }
}

/// Half of what fits, so that neither a sum nor a difference of two overflows.
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
    fn two_clocks_agree_on_when_a_session_began_by_way_of_the_stores() {
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
    fn nothing_that_a_store_says_is_in_the_future() {
        for theirs in [NOW + 1, NOW + 86_400, u64::MAX] {
            assert_eq!(ahead(0).ours(theirs, NOW), NOW);
        }
        assert_eq!(ahead(i64::MAX).ours(5, NOW), 0);
        assert!(ahead(0).theirs(u64::MAX) > NOW);
    }
}
