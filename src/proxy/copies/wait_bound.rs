//! Owns: how long a request waits for its session, over all of its attempts.
//! Invariant: pure; a further attempt does not begin the time anew.
//! Must not know: what is waited for.

use std::time::{Duration, Instant};

/// The time that a request has for waiting for its session.
#[derive(Debug, Default)]
pub(super) struct WaitBound(Option<Instant>);

impl WaitBound {
    /// Returns until when a request waits that has to wait at `now`: for `most` since it first had to, and no longer than
    /// until `deadline`.
    pub(super) fn until(&mut self, now: Instant, most: Duration, deadline: Instant) -> Instant {
        (*self.0.get_or_insert(now) + most).min(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_no_longer_for_its_session_because_its_first_server_failed() {
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let mut bound = WaitBound::default();
        assert_eq!(bound.until(begun, 2 * second, begun + 10 * second), begun + 2 * second);
        let later = begun + second;
        assert_eq!(bound.until(later, 2 * second, begun + 10 * second), begun + 2 * second);
        assert_eq!(bound.until(later, 2 * second, later), later, "and no longer than the request has in all");
    }
}
