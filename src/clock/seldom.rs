//! Owns: how often a line is said that anybody could have said without end.
//! Invariant: within each span no more than so many; what went unsaid is counted, and told with the next.
//! Must not know: what is said.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Lines of one kind. Threads that come at the same moment may each say one too many.
#[derive(Debug, Default)]
pub struct Seldom {
    /// When the span began, in milliseconds since the Unix epoch, plus one; 0 before the first.
    begun: AtomicU64,
    said: AtomicU32,
    unsaid: AtomicU64,
}

impl Seldom {
    /// Whether a line is to be said at `now` (since the Unix epoch), where `most` of them may be in a span of
    /// `every`: how many went unsaid since the last one.
    pub fn take(&self, now: Duration, every: Duration, most: u32) -> Option<u64> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX - 1);
        let (now, begun) = (millis(now) + 1, self.begun.load(Ordering::Relaxed));
        // A clock that was set back must not silence it for long.
        let is_over = begun == 0 || now < begun || now - begun >= millis(every);
        if is_over && self.begun.compare_exchange(begun, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.said.store(0, Ordering::Relaxed);
        }
        if self.said.fetch_add(1, Ordering::Relaxed) < most {
            Some(self.unsaid.swap(0, Ordering::Relaxed))
        } else {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_said_in_a_span_and_the_others_are_counted() {
        let seldom = Seldom::default();
        let take = |second| seldom.take(Duration::from_secs(second), Duration::from_secs(10), 2);
        assert_eq!([take(5), take(5), take(6), take(14)], [Some(0), Some(0), None, None]);
        assert_eq!([take(15), take(16), take(17)], [Some(2), Some(0), None]);
        assert_eq!(take(3), Some(1), "the clock was set back");
    }
}
