//! Owns: whether the backend had closed an idle connection before a request was sent on it.
//! Invariant: pure; a request that a backend may have begun to process never counts as unseen.
//! Must not know: sockets, `retry_on`, candidates.

use std::time::Duration;

use crate::upstream::{Fact, Failure};

/// The time that both kernels and a busy machine may need to report a close, beside the round trip.
const NOTICE: Duration = Duration::from_millis(100);

/// How an attempt without a response ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptEnd {
    /// The connection had served a request before.
    pub(super) is_used: bool,
    /// A byte of a response, or of an interim response, arrived.
    pub(super) has_received: bool,
    /// How long the attempt took.
    pub(super) after: Duration,
    /// How long connecting took: at least a round trip.
    pub(super) connect_time: Duration,
    /// The request may be executed twice.
    pub(super) is_repeatable: bool,
}

/// Returns whether the backend closed the idle connection just as the request was sent. This is nobody's fault, and the
/// request is sent on another connection, whatever `retry_on` and `attempts` say.
///
/// A written request counts as unseen only for as long as a close can take to cross it: a backend that closes later has
/// read the request, and may have died of it. nginx sends such a request again whenever that was, HAProxy only
/// with `retry-on`.
pub(super) fn is_stale(failure: Failure, end: AttemptEnd) -> bool {
    let has_crossed = !end.has_received && end.after <= NOTICE + end.connect_time;
    end.is_used && failure.fact == Fact::Closed && (!failure.sent || (end.is_repeatable && has_crossed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_is_taken_for_one_that_crossed_the_request_only_where_it_can_be_one() {
        let closed = |sent| Failure::new(Fact::Closed, sent);
        let millis = Duration::from_millis;
        let crossed = AttemptEnd {
            is_used: true,
            has_received: false,
            after: millis(1),
            connect_time: millis(1),
            is_repeatable: true,
        };
        assert!(is_stale(closed(true), crossed));
        assert!(
            is_stale(closed(true), AttemptEnd { after: millis(300), connect_time: millis(250), ..crossed }),
            "far away"
        );
        for other in [
            AttemptEnd { is_used: false, ..crossed },
            AttemptEnd { has_received: true, ..crossed },
            AttemptEnd { after: millis(102), ..crossed },
            AttemptEnd { after: Duration::from_secs(50), ..crossed },
            AttemptEnd { is_repeatable: false, ..crossed },
        ] {
            assert!(!is_stale(closed(true), other), "{other:?}");
        }
        for fact in [Fact::ResponseTimeout, Fact::Garbage, Fact::RequestBody, Fact::Lost] {
            assert!(!is_stale(Failure::new(fact, true), crossed), "{fact:?}");
        }
    }

    #[test]
    fn what_was_not_written_was_not_executed_whenever_that_turned_out() {
        let late = AttemptEnd {
            is_used: true,
            has_received: false,
            after: Duration::from_secs(50),
            connect_time: Duration::ZERO,
            is_repeatable: false,
        };
        assert!(is_stale(Failure::new(Fact::Closed, false), late));
        assert!(!is_stale(Failure::new(Fact::Closed, false), AttemptEnd { is_used: false, ..late }));
    }
}
