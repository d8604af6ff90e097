//! Owns: whether a connection that was kept had been closed by its backend before a request came on it.
//! Invariant: pure; what a backend may have begun to work on is not taken for a request that it never saw.
//! Must not know: sockets, `retry_on`, candidates.

use std::time::Duration;

use crate::upstream::{Fact, Failure};

/// Time for both kernels, and a machine that is busy, to tell of a close. The way there and back comes to it.
const NOTICE: Duration = Duration::from_millis(100);

/// How an exchange without an answer ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptEnd {
    /// The connection had served before.
    pub(super) is_used: bool,
    /// A byte of an answer, or of an interim one, came.
    pub(super) is_heard: bool,
    /// How long it took, from its beginning.
    pub(super) after: Duration,
    /// How long it took to connect: a round trip at the least.
    pub(super) connect_time: Duration,
    /// The request may be executed twice.
    pub(super) is_repeatable: bool,
}

/// Whether the backend closed the connection, which was idle, just as the request came: nobody's fault, and the
/// request goes on another connection, whatever `retry_on` and `attempts` say.
///
/// Of a request that was written that is believed only for as long as a close takes that crosses it: a backend
/// that closes later has read the request, and may have died of it. nginx sends such a request again
/// whenever that was, HAProxy not at all unless `retry-on` has it.
pub(super) fn is_stale(failure: Failure, end: AttemptEnd) -> bool {
    let has_crossed = !end.is_heard && end.after <= NOTICE + end.connect_time;
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
            is_heard: false,
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
            AttemptEnd { is_heard: true, ..crossed },
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
            is_heard: false,
            after: Duration::from_secs(50),
            connect_time: Duration::ZERO,
            is_repeatable: false,
        };
        assert!(is_stale(Failure::new(Fact::Closed, false), late));
        assert!(!is_stale(Failure::new(Fact::Closed, false), AttemptEnd { is_used: false, ..late }));
    }
}
