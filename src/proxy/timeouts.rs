//! Owns: `[pools.timeouts]`, and whose fault it is when one of them has run out.
//! Invariant: a backend is blamed only if it had the time that is its own.
//! Must not know: timers.

use std::time::Duration;

use crate::upstream::{Blame, Fact, Failure};

/// `[pools.timeouts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// To a connected socket, per attempt.
    pub connect: Duration,
    /// From the last byte of the request that the backend took to the head of the response, per attempt. Rests
    /// while the client is waited for.
    pub response: Duration,
    /// While a body is under way, in either direction, or one side of a tunnel has ended: without a byte moved.
    pub idle: Duration,
    /// From the head of the request to the head of the response, over all attempts. Rests while the body of the
    /// request is on its way.
    pub total: Duration,
    /// Silence on what goes on for as long as both want: a WebSocket, an event stream, gRPC, lines of JSON.
    pub stream_idle: Duration,
    /// The life of a WebSocket or another tunnel; `None` for no limit.
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
    /// The time of its own that an attempt has which can end so.
    fn own(&self, fact: Fact) -> Duration {
        match fact {
            Fact::ConnectTimeout => self.connect,
            Fact::ResponseTimeout => self.response,
            _ => Duration::ZERO,
        }
    }

    /// What of its own time an attempt has had that took so long: deadlines are looked at now and then, and what
    /// came before the wait is no part of it.
    pub(super) fn share_of(&self, fact: Fact, took: Duration) -> Duration {
        took.min(self.own(fact))
    }

    /// A failure for want of time, of an attempt that `had` so much. Where `total` ended it, since attempts or
    /// a wait before it had used that up, its backend has not had the time that is its own, and is not to
    /// blame. Where it `is_first`, all the time there is was its own.
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
