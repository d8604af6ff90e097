//! Owns: the decision what the driver of a client connection does next.
//! Invariant: it is pure, and every state except "a request is in flight" ends after a limited time.
//! Must not know: sockets, hyper.

use std::time::{Duration, Instant};

use super::settings::Limits;

/// How long a connection must be idle before it is parked. Long enough that the burst of requests of one page never
/// waits for it, short enough that memory follows load.
pub(super) const PARK_AFTER: Duration = Duration::from_millis(500);

/// How often the driver checks whether the client of a request in flight has left.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// The state of a connection of HTTP/1.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnState {
    /// Whether a request is in flight.
    pub(super) is_busy: bool,
    /// Whether the first request of the connection is done, and was the last so far.
    pub(super) is_first_done: bool,
    /// Since when no request is in flight.
    pub(super) idle_since: Instant,
    /// When the first byte of an incomplete head was read.
    pub(super) head_since: Option<Instant>,
    /// Since when the client accepts nothing that is to be written.
    pub(super) blocked_since: Option<Instant>,
}

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Decide again at this time.
    Wait(Instant),
    /// Take the connection out of hyper until it is readable: hyper's buffers cost four times the rest of it.
    Park,
    /// Reject the request: its head takes too long.
    HeadTimeout,
    /// Close the connection: the client doesn't read its responses.
    Abort,
}

/// Decides what the driver of a connection of HTTP/1 does next.
pub(super) fn next_http1(at: ConnState, now: Instant, limits: &Limits) -> Next {
    let after = |since: Instant, limit: Duration, expired: Next| {
        let due = since.checked_add(limit).unwrap_or(since + Duration::from_secs(86_400));
        if due <= now { expired } else { Next::Wait(due) }
    };
    match (at.blocked_since, at.is_busy, at.head_since) {
        (Some(since), _, _) => after(since, limits.idle_timeout, Next::Abort),
        // Each wait of a request has its own limit. Check again for a client that stops reading or has left.
        (None, true, _) => Next::Wait(now + limits.idle_timeout.min(PROBE_INTERVAL)),
        (None, false, Some(since)) => after(since, limits.header_read_timeout, Next::HeadTimeout),
        // When many clients connect at once, most send no second request soon. Half a second in hyper would make
        // all of them hold buffers at the same time.
        (None, false, None) if at.is_first_done => Next::Park,
        (None, false, None) => after(at.idle_since, PARK_AFTER, Next::Park),
    }
}

/// How long clients may finish what they have begun when the process stops, each from that moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShutdownGrace {
    /// How long connections are still accepted: as long as the kernel may defer a silent one (`net/defer`). Each gets
    /// one response.
    pub(super) accept: Duration,
    /// How long TCP handshakes that have begun may take after that: a round trip around the world.
    pub(super) handshakes: Duration,
    /// How long an idle connection may still send a request: a round trip, and the time that a busy client needs to
    /// send its next request. So a request is served that was sent before its client could know of the shutdown.
    pub(super) idle: Duration,
}

impl ShutdownGrace {
    /// Divides a grace period of `grace`; at least half of it remains for requests.
    pub(super) fn within(grace: Duration) -> ShutdownGrace {
        ShutdownGrace {
            accept: Duration::from_millis(1100).min(grace * 2 / 5),
            handshakes: Duration::from_millis(250).min(grace / 10),
            idle: Duration::from_secs(1).min(grace * 2 / 5),
        }
    }
}

/// How long a client that has closed its sending side may wait for a response. A client that only finished sending
/// looks like one that has left, and few only finished sending. nginx doesn't serve those at all. HAProxy serves them
/// for as long as it takes, and so occupies a thread of the backend for each long poll whose page was closed.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns whether a client that closed its sending side this long `ago` is assumed to have left. That is so if it
/// `waits` too long for a response, or receives one that lasts as long as its client stays (`is_stream`). Any other
/// response is sent to its end.
pub(super) fn has_client_left(ago: Duration, waits: bool, is_stream: bool) -> bool {
    is_stream || (waits && ago >= HALF_CLOSED_TIMEOUT)
}

/// How long a client may take to close its connection after GOAWAY (RFC 9113 §6.8).
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of requests from which on cancelled ones may count as a flood. Envoy's figure
/// (`overload.premature_reset_total_stream_count`).
const MIN_FLOOD: u32 = 500;

/// The state of a connection of HTTP/2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Http2State {
    /// Whether a request is in flight.
    pub(super) is_busy: bool,
    /// Since when no request is in flight.
    pub(super) idle_since: Instant,
    /// Since when the client accepts nothing that is to be written.
    pub(super) blocked_since: Option<Instant>,
    /// When GOAWAY was sent.
    pub(super) goaway_since: Option<Instant>,
    /// All requests of the connection so far.
    pub(super) requests: u32,
    /// Requests that the client cancelled before they had a response.
    pub(super) cancelled: u32,
}

/// Decides what the driver of a connection of HTTP/2 does next. `Park` means GOAWAY: h2 can't release the state of a
/// connection with streams, and the client connects again for its next request.
pub(super) fn next_http2(at: Http2State, now: Instant, limits: &Limits) -> Next {
    let after = |since: Instant, limit: Duration, expired: Next| {
        let due = since.checked_add(limit).unwrap_or(since + Duration::from_secs(86_400));
        if due <= now { expired } else { Next::Wait(due.min(now + PROBE_INTERVAL)) }
    };
    // Rapid reset (CVE-2023-44487): each request costs a backend work and the client nothing.
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
    fn every_state_of_an_http1_connection_ends_after_its_limit() {
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
    fn half_of_the_grace_period_remains_for_requests() {
        let grace = |millis| ShutdownGrace::within(Duration::from_millis(millis));
        assert!(
            grace(30_000).accept > Duration::from_secs(1),
            "the kernel hands over silent connections within a second"
        );
        for millis in [0, 1, 200, 1000, 2500, 30_000, u64::MAX / 4] {
            let ShutdownGrace { accept, handshakes, idle } = grace(millis);
            let half = Duration::from_millis(millis) / 2;
            assert!(accept + handshakes <= half && idle <= half, "{millis}");
        }
    }

    #[test]
    fn a_half_closed_client_is_served_unless_it_waits_long_or_receives_a_stream() {
        let seconds = Duration::from_secs;
        assert!(has_client_left(seconds(0), false, true), "a client of an event stream that closes has left");
        assert!(!has_client_left(seconds(9), true, false));
        assert!(has_client_left(seconds(10), true, false));
        assert!(!has_client_left(seconds(1000), false, false), "a long body is sent to its end");
    }

    #[test]
    fn an_http2_connection_ends_when_it_is_idle_blocked_or_a_flood_of_resets() {
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
