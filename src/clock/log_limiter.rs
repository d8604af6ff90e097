//! Owns: a limit on how often a kind of log line is written that a client or a failing backend could cause without end.
//! Invariant: each time span has a bounded number of lines; the next line reports how many were suppressed.
//! Must not know: what the lines say.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Limits the log lines of one kind. Threads that call it at the same moment may each write one line too many.
#[derive(Debug, Default)]
pub struct LogLimiter {
    /// The start of the time span, in milliseconds since the Unix epoch, plus one; 0 before the first.
    span_start: AtomicU64,
    written: AtomicU32,
    suppressed: AtomicU64,
}

impl LogLimiter {
    /// Decides whether a line may be written at `now` (since the Unix epoch), where a span of `every` may have `most`
    /// lines. Returns how many lines were suppressed since the last one; `None` suppresses this line, too.
    pub fn take(&self, now: Duration, every: Duration, most: u32) -> Option<u64> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX - 1);
        let (now, start) = (millis(now) + 1, self.span_start.load(Ordering::Relaxed));
        // A clock that was set back must not suppress lines for long.
        let is_over = start == 0 || now < start || now - start >= millis(every);
        if is_over && self.span_start.compare_exchange(start, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.written.store(0, Ordering::Relaxed);
        }
        if self.written.fetch_add(1, Ordering::Relaxed) < most {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_span_has_so_many_lines_and_the_others_are_counted() {
        let limiter = LogLimiter::default();
        let take = |second| limiter.take(Duration::from_secs(second), Duration::from_secs(10), 2);
        assert_eq!([take(5), take(5), take(6), take(14)], [Some(0), Some(0), None, None]);
        assert_eq!([take(15), take(16), take(17)], [Some(2), Some(0), None]);
        assert_eq!(take(3), Some(1), "the clock was set back");
    }
}
