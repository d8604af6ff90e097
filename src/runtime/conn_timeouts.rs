//! Owns: what a client connection's driver does next.
//! Invariant: pure; each state but "a request is being served" has an end in time.
//! Must not know: sockets, hyper.

use std::time::{Duration, Instant};

use super::settings::Limits;

/// How long a connection has to be quiet before it is parked. Long enough that a page's burst of
/// requests never pays for it, short enough that memory follows load.
pub(super) const PARK_AFTER: Duration = Duration::from_millis(500);

/// How often it is looked whether the client of a request under way is still there.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// What a connection is at.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnState {
    pub(super) is_busy: bool,
    /// Its first request has been answered, and there was no other.
    pub(super) is_first_done: bool,
    pub(super) idle_since: Instant,
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
pub(super) fn next_http1(at: ConnState, now: Instant, limits: &Limits) -> Next {
    let after = |since: Instant, limit: Duration, expired: Next| {
        let due = since.checked_add(limit).unwrap_or(since + Duration::from_secs(86_400));
        if due <= now { expired } else { Next::Wait(due) }
    };
    match (at.blocked_since, at.is_busy, at.head_since) {
        (Some(since), _, _) => after(since, limits.idle_timeout, Next::Abort),
        // Each wait of a request has its own limit; look again for a client that stops reading, or has gone.
        (None, true, _) => Next::Wait(now + limits.idle_timeout.min(PROBE_INTERVAL)),
        (None, false, Some(since)) => after(since, limits.header_read_timeout, Next::HeadTimeout),
        // Most connections of a crowd that comes at once say no more for now: held in hyper for half
        // a second, all of them would take their buffers at the same time.
        (None, false, None) if at.is_first_done => Next::Park,
        (None, false, None) => after(at.idle_since, PARK_AFTER, Next::Park),
    }
}

/// What clients get who have begun something when the process is told to stop, each from that moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShutdownGrace {
    /// How long connections are still accepted, and answered for the last time: as long as the kernel may hold
    /// one back that says nothing (`net/defer`).
    pub(super) accept: Duration,
    /// How long handshakes may take that have begun by then: a round trip around the world.
    pub(super) handshakes: Duration,
    /// How long a connection without a request may still bring one: a request that was sent before its client
    /// could know is served. A round trip, and what a client that is busy needs to send its next one.
    pub(super) idle: Duration,
}

impl ShutdownGrace {
    /// That of a process which has `grace` in all; at least half of it is left for requests.
    pub(super) fn within(grace: Duration) -> ShutdownGrace {
        ShutdownGrace {
            accept: Duration::from_millis(1100).min(grace * 2 / 5),
            handshakes: Duration::from_millis(250).min(grace / 10),
            idle: Duration::from_secs(1).min(grace * 2 / 5),
        }
    }
}

/// How long a client that has closed its side may wait for an answer. One that has finished sending can't
/// be told from one that has gone, and few are the former: nginx serves them not at all, HAProxy as
/// long as it takes, and so holds a server's thread for each long poll whose page was closed.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a client that has closed its side this long ago has gone: one that `waits` for an answer, or is
/// sent one that goes on for as long as it is there. What comes to its end is sent to its end.
pub(super) fn has_client_left(ago: Duration, waits: bool, is_stream: bool) -> bool {
    is_stream || (waits && ago >= HALF_CLOSED_TIMEOUT)
}

/// How long a client may take to go when it was told to.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests after which it is looked how many of them were taken back. Envoy's figure
/// (`overload.premature_reset_total_stream_count`).
const MIN_FLOOD: u32 = 500;

/// What a connection of HTTP/2 is at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Http2State {
    pub(super) is_busy: bool,
    pub(super) idle_since: Instant,
    pub(super) blocked_since: Option<Instant>,
    /// It was told to go.
    pub(super) goaway_since: Option<Instant>,
    pub(super) requests: u32,
    /// Requests that were taken back unanswered.
    pub(super) cancelled: u32,
}

/// The rule for HTTP/2. `Park` is to tell the client to go: hyper can't give up the state of a
/// connection that has streams, and let go it comes back when it has something to say.
pub(super) fn next_http2(at: Http2State, now: Instant, limits: &Limits) -> Next {
    let after = |since: Instant, limit: Duration, expired: Next| {
        let due = since.checked_add(limit).unwrap_or(since + Duration::from_secs(86_400));
        if due <= now { expired } else { Next::Wait(due.min(now + PROBE_INTERVAL)) }
    };
    // Rapid reset (CVE-2023-44487): each request costs a backend its work, and the client nothing.
    if at.requests >= MIN_FLOOD && at.cancelled > at.requests / 2 {
        return Next::Abort;
    }
    match (at.blocked_since, at.is_busy, at.goaway_since) {
        (Some(since), _, _) => after(since, limits.idle_timeout, Next::Abort),
        (None, true, _) => Next::Wait(now + PROBE_INTERVAL),
        (None, false, Some(since)) => after(since.max(at.idle_since), GOAWAY_TIMEOUT, Next::Abort),
        (None, false, None) => after(at.idle_since, limits.idle_timeout, Next::Park),
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
        let idle = ConnState {
            is_busy: false,
            is_first_done: false,
            idle_since: ago(0),
            head_since: None,
            blocked_since: None,
        };
        assert_eq!(next_http1(idle, now, &limits), Next::Wait(now + PARK_AFTER));
        assert_eq!(next_http1(ConnState { idle_since: ago(1), ..idle }, now, &limits), Next::Park);
        assert_eq!(next_http1(ConnState { is_first_done: true, ..idle }, now, &limits), Next::Park);
        let head = |seconds| ConnState { idle_since: ago(500), head_since: Some(ago(seconds)), ..idle };
        assert_eq!(next_http1(head(9), now, &limits), Next::Wait(now + Duration::from_secs(1)));
        assert_eq!(next_http1(head(10), now, &limits), Next::HeadTimeout);
        let busy = ConnState { is_busy: true, ..head(500) };
        assert!(matches!(next_http1(busy, now, &limits), Next::Wait(at) if at > now));
        let blocked = |seconds| ConnState { blocked_since: Some(ago(seconds)), ..busy };
        assert!(matches!(next_http1(blocked(74), now, &limits), Next::Wait(_)));
        assert_eq!(next_http1(blocked(75), now, &limits), Next::Abort);
    }

    #[test]
    fn half_of_the_grace_is_left_whatever_the_last_call_takes() {
        let grace = |millis| ShutdownGrace::within(Duration::from_millis(millis));
        assert!(grace(30_000).accept > Duration::from_secs(1), "silent connections come within a second");
        for millis in [0, 1, 200, 1000, 2500, 30_000, u64::MAX / 4] {
            let ShutdownGrace { accept, handshakes, idle } = grace(millis);
            let half = Duration::from_millis(millis) / 2;
            assert!(accept + handshakes <= half && idle <= half, "{millis}");
        }
    }

    #[test]
    fn a_client_that_closed_its_side_is_served_if_it_does_not_take_long() {
        let seconds = Duration::from_secs;
        assert!(has_client_left(seconds(0), false, true), "nobody waits for events for hours");
        assert!(!has_client_left(seconds(9), true, false));
        assert!(has_client_left(seconds(10), true, false));
        assert!(!has_client_left(seconds(1000), false, false), "a long body goes to its end");
    }

    #[test]
    fn a_connection_of_streams_ends_when_it_is_idle_blocked_or_a_flood() {
        let now = Instant::now() + Duration::from_secs(1000);
        let ago = |seconds: u64| now - Duration::from_secs(seconds);
        let limits = Limits::default();
        let next = |at| next_http2(at, now, &limits);
        let idle = |seconds| Http2State {
            is_busy: false,
            idle_since: ago(seconds),
            blocked_since: None,
            goaway_since: None,
            requests: 1,
            cancelled: 0,
        };
        assert!(matches!(next(idle(74)), Next::Wait(_)));
        assert_eq!(next(idle(75)), Next::Park);
        assert!(matches!(next(Http2State { is_busy: true, ..idle(500) }), Next::Wait(_)));
        assert!(matches!(next(Http2State { goaway_since: Some(ago(4)), ..idle(80) }), Next::Wait(_)));
        assert_eq!(next(Http2State { goaway_since: Some(ago(5)), ..idle(80) }), Next::Abort);
        assert!(matches!(next(Http2State { goaway_since: Some(ago(50)), ..idle(1) }), Next::Wait(_)));
        assert_eq!(next(Http2State { is_busy: true, blocked_since: Some(ago(75)), ..idle(0) }), Next::Abort);
        let flood = |requests, cancelled| Http2State { is_busy: true, requests, cancelled, ..idle(0) };
        assert_eq!(next(flood(500, 251)), Next::Abort);
        assert!(matches!(next(flood(499, 499)), Next::Wait(_)));
        assert!(matches!(next(flood(100_000, 50_000)), Next::Wait(_)));
    }
}
