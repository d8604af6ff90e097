//! Owns: when the next list or watch may begin.
//! Invariant: pure; an API server that fails, or ends each watch at once, is asked twice a minute at most in the end.
//! Must not know: connections, or what is asked for.

use std::time::{Duration, Instant};

/// The time from the beginning of one list or watch to the next, at least.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest of the waits, which double with each failure in a row.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest Retry-After that is heeded: what changes meanwhile is not seen.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A watch that ends sooner, and has said nothing, has failed.
const SHORT_WATCH: Duration = Duration::from_secs(1);
/// A watch that lasted for so long ends a series of failures, even if its end is another failure.
const LONG_WATCH: Duration = Duration::from_secs(60);

/// When to ask the API server again.
#[derive(Debug, Default)]
pub(super) struct Pace {
    begun: Option<Instant>,
    /// The failures since a watch went well.
    failures: u32,
    not_before: Option<Instant>,
}

impl Pace {
    /// Returns when to begin; `random` is at least 0 and below 1. Up to a quarter more than the wait: many Linchpins that
    /// lost the same server don't come back at once.
    pub(super) fn next(&self, random: f64) -> Option<Instant> {
        let doublings = self.failures.saturating_sub(1).min(5);
        let wait = SHORTEST.saturating_mul(1 << doublings).min(LONGEST);
        let spread = if self.failures > 0 { wait.mul_f64(random.clamp(0.0, 1.0) / 4.0) } else { Duration::ZERO };
        self.begun.map(|begun| begun + wait + spread).max(self.not_before)
    }

    /// Records that a list or a watch begins.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.begun, self.not_before) = (Some(now), None);
    }

    /// Records the end of a watch that lasted for so long.
    pub(super) fn ended(&mut self, lasted: Duration, has_events: bool) {
        self.failures = if has_events || lasted >= SHORT_WATCH { 0 } else { self.failures.saturating_add(1) };
    }

    /// Records that a request or a watch has failed; a watch may have lasted for some time before that. The server may
    /// have said after which time to ask again.
    pub(super) fn failed(&mut self, now: Instant, lasted: Duration, retry_after: Option<Duration>) {
        let before = if lasted >= LONG_WATCH { 0 } else { self.failures };
        self.failures = before.saturating_add(1);
        self.not_before = retry_after.map(|wait| now + wait.min(LONGEST_RETRY_AFTER));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_server_that_forgets_each_version_at_once_gets_ever_fewer_requests() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        assert_eq!(pace.next(0.9), None, "the first one may begin at once");
        let mut waits = Vec::new();
        for _ in 0..8 {
            pace.begin(now);
            pace.failed(now, Duration::ZERO, None);
            let next = pace.next(0.0).unwrap();
            assert!(pace.next(0.99).unwrap() - now <= (next - now).mul_f64(1.25));
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        // The same if it ends each watch at once without a word.
        pace.begin(now);
        pace.ended(SECOND / 10, false);
        assert_eq!(pace.next(0.0), Some(now + 30 * SECOND));
        // One that was cut off after it has told something was a good one.
        pace.ended(SECOND / 10, true);
        assert_eq!(pace.next(0.5), Some(now + SECOND));
    }

    #[test]
    fn a_watch_that_went_on_for_long_ends_the_failures_before_it() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.begin(now);
        (0..9).for_each(|_| pace.failed(now, Duration::ZERO, None));
        pace.failed(now, 90 * SECOND, None);
        assert_eq!(pace.next(0.0), Some(now + SECOND), "this one is the first again");
        pace.failed(now, Duration::ZERO, None);
        pace.ended(5 * SECOND, false);
        assert_eq!(pace.next(0.9), Some(now + SECOND));
    }

    #[test]
    fn a_server_that_says_when_to_ask_again_is_heeded_within_reason() {
        for (seconds, wait) in [(0, 1), (1, 1), (20, 20), (60, 60), (86_400, 60), (u64::MAX, 60)] {
            let (mut pace, now) = (Pace::default(), Instant::now());
            pace.begin(now);
            pace.failed(now, Duration::ZERO, Some(Duration::from_secs(seconds)));
            assert_eq!(pace.next(0.0), Some(now + wait * SECOND), "{seconds}");
            pace.begin(now + wait * SECOND);
            assert!(pace.next(0.0).unwrap() <= now + (wait + 2) * SECOND, "it is heeded once");
        }
    }
}
