//! Owns: what a client connection's driver does next.
//! Invariant: pure; each state but "a request is being served" has an end in time.
//! Must not know: sockets, hyper.

use std::time::{Duration, Instant};

use super::Limits;

/// How long a connection has to be quiet before it is parked. Long enough that a page's burst of
/// requests never pays for it, short enough that memory follows load.
pub(super) const QUIET: Duration = Duration::from_millis(500);

/// How often it is looked whether the client of a request under way is still there.
const LOOK: Duration = Duration::from_secs(2);

/// What a connection is at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    pub(super) busy: bool,
    /// Its first request has been answered, and there was no other.
    pub(super) first: bool,
    pub(super) quiet_since: Instant,
    pub(super) head_since: Option<Instant>,
    pub(super) blocked_since: Option<Instant>,
}

/// What to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again at this time.
    Wait(Instant),
    /// Take it out of hyper, whose buffers cost four times the rest of it, until it is readable.
    Park,
    /// The head of a request takes too long.
    HeadTimeout,
    /// The client doesn't read what it asked for.
    Abort,
}

/// The rule.
pub(super) fn next(at: Situation, now: Instant, limits: &Limits) -> Next {
    let after = |since: Instant, limit: Duration, over: Next| {
        let due = since.checked_add(limit).unwrap_or(since + Duration::from_secs(86_400));
        if due <= now { over } else { Next::Wait(due) }
    };
    match (at.blocked_since, at.busy, at.head_since) {
        (Some(since), _, _) => after(since, limits.idle_timeout, Next::Abort),
        // Each wait of a request has its own limit; look again for a client that stops reading, or has gone.
        (None, true, _) => Next::Wait(now + limits.idle_timeout.min(LOOK)),
        (None, false, Some(since)) => after(since, limits.header_read_timeout, Next::HeadTimeout),
        // Most connections of a crowd that comes at once say no more for now: held in hyper for half
        // a second, all of them would take their buffers at the same time.
        (None, false, None) if at.first => Next::Park,
        (None, false, None) => after(at.quiet_since, QUIET, Next::Park),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_situation_has_its_end() {
        let now = Instant::now() + Duration::from_secs(1000);
        let ago = |seconds: u64| now - Duration::from_secs(seconds);
        let limits = Limits::default();
        let quiet = Situation { busy: false, first: false, quiet_since: ago(0), head_since: None, blocked_since: None };
        assert_eq!(next(quiet, now, &limits), Next::Wait(now + QUIET));
        assert_eq!(next(Situation { quiet_since: ago(1), ..quiet }, now, &limits), Next::Park);
        assert_eq!(next(Situation { first: true, ..quiet }, now, &limits), Next::Park);
        let head = |seconds| Situation { quiet_since: ago(500), head_since: Some(ago(seconds)), ..quiet };
        assert_eq!(next(head(9), now, &limits), Next::Wait(now + Duration::from_secs(1)));
        assert_eq!(next(head(10), now, &limits), Next::HeadTimeout);
        let busy = Situation { busy: true, ..head(500) };
        assert!(matches!(next(busy, now, &limits), Next::Wait(at) if at > now));
        let blocked = |seconds| Situation { blocked_since: Some(ago(seconds)), ..busy };
        assert!(matches!(next(blocked(74), now, &limits), Next::Wait(_)));
        assert_eq!(next(blocked(75), now, &limits), Next::Abort);
    }
}
