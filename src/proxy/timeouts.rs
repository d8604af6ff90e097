//! Owns: `[pools.timeouts]`, and who is to blame when one of them expires.
//! Invariant: a backend is blamed only if it had all of its own time.
//! Must not know: timers.

use std::time::Duration;

use crate::upstream::{Blame, Fact, Failure};

/// `[pools.timeouts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Time to connect, per attempt.
    pub connect: Duration,
    /// From the last request byte that the backend took to the head of the response, per attempt. Does not run while
    /// the attempt waits for the client.
    pub response: Duration,
    /// How long a body may pause, in either direction, and a tunnel once one side has closed.
    pub idle: Duration,
    /// From the head of the request to the head of the response, over all attempts. Does not run while the client
    /// uploads.
    pub total: Duration,
    /// How long a stream may pause: a WebSocket, an event stream, gRPC, JSON lines.
    pub stream_idle: Duration,
    /// Maximum lifetime of a WebSocket or another tunnel; `None` for no limit.
    pub tunnel_lifetime: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(2),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(120),
            stream_idle: Duration::from_secs(3600),
            tunnel_lifetime: None,
        }
    }
}

impl Timeouts {
    /// Returns the time that an attempt has of its own for the wait that `fact` ended.
    fn own(&self, fact: Fact) -> Duration {
        match fact {
            Fact::ConnectTimeout => self.connect,
            Fact::ResponseTimeout => self.response,
            _ => Duration::ZERO,
        }
    }

    /// Returns how much of its own time an attempt that took so long has had. Deadlines are checked only now and then,
    /// and what happened before the wait is no part of it.
    pub(super) fn share_of(&self, fact: Fact, took: Duration) -> Duration {
        took.min(self.own(fact))
    }

    /// Sets the blame for a timeout of an attempt that `had` this much time. If `total` ended it because earlier
    /// attempts or a wait had used it up, the backend did not have its own time and is not to blame. If the attempt
    /// `is_first`, all the time was its own.
    pub(super) fn judge(&self, failure: Failure, had: Duration, is_first: bool) -> Failure {
        let has_had_its_own = self.share_of(failure.fact, had) >= self.own(failure.fact);
        if is_first || has_had_its_own { failure } else { failure.blamed_on(Blame::Nobody) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_had_less_than_its_own_time_is_not_to_blame_for_the_end_of_all_of_it() {
        let timeouts = Timeouts::default();
        let judge = |fact, seconds, is_first| {
            let failure = Failure::new(fact, fact == Fact::ResponseTimeout);
            timeouts.judge(failure, Duration::from_secs(seconds), is_first).blame
        };
        for (fact, blame) in [(Fact::ConnectTimeout, Blame::Backend), (Fact::ResponseTimeout, Blame::Response)] {
            assert_eq!(judge(fact, 1, false), Blame::Nobody);
            assert_eq!(judge(fact, 1, true), blame, "all of the time there is");
            assert_eq!(judge(fact, 60, false), blame);
        }
        assert_eq!(judge(Fact::Closed, 1, false), Blame::Backend);
    }
}
