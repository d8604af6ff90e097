//! Owns: which side a request's body waits for, the client that sends it or the backend that reads it, and how long.
//! Invariant: pure; the timeout of one side does not run while the body waits for the other side.
//! Must not know: sockets, the content, the outcome of the request.

use std::time::{Duration, Instant};

/// The least that a client has to send of a body, in bytes per second, while the body waits for the client. Kestrel and
/// IIS use the same figure. Otherwise a client that sends a byte now and then could hold a connection for ever.
const LEAST_RATE: u64 = 240;

/// How long a body may wait for its client in total before the rate counts.
const GRACE: Duration = Duration::from_secs(60);

/// If a client has been silent for this long and the backend closes the connection, the backend has timed out.
const SILENCE: Duration = Duration::from_secs(1);

/// The progress of a request's body.
#[derive(Debug, Clone, Copy)]
pub struct Upload {
    /// When a byte last moved, from the client or to the backend.
    moved: Instant,
    /// Since when the body waits for the client, if it does.
    client_since: Option<Instant>,
    /// How long it waited for the client before.
    client_time: Duration,
    /// For how long bytes moved, or the body waited for the client.
    paused: Duration,
    /// Bytes received.
    bytes: u64,
}

impl Upload {
    /// Makes the progress of a body of which nothing has been received.
    pub fn new(now: Instant) -> Upload {
        Upload { moved: now, client_since: None, client_time: Duration::ZERO, paused: Duration::ZERO, bytes: 0 }
    }

    /// Notes that an attempt begins to send the body, which now waits for the backend.
    pub fn begin(&mut self, now: Instant) {
        if self.client_since.is_some() {
            self.received(now, 0);
        }
        self.moved = now;
    }

    /// Notes that there is nothing to send: the body waits for the client.
    pub fn wait(&mut self, now: Instant) {
        self.client_since.get_or_insert(now);
    }

    /// Notes that the client has sent `bytes`, or the end: the body waits for the backend.
    pub fn received(&mut self, now: Instant, bytes: usize) {
        if let Some(since) = self.client_since.take() {
            self.client_time += now.saturating_duration_since(since);
        }
        self.bytes += bytes as u64;
        self.moved_now(now);
    }

    /// Notes that the backend has taken some of the body.
    pub fn taken(&mut self, now: Instant) {
        self.moved_now(now);
    }

    /// Notes that some of the response has arrived. While the response continues, the client need not send.
    pub fn response_moved(&mut self, now: Instant) {
        if let Some(since) = &mut self.client_since {
            *since = now;
        }
        self.moved_now(now);
    }

    fn moved_now(&mut self, now: Instant) {
        self.paused += now.saturating_duration_since(self.moved);
        self.moved = now;
    }

    /// Returns when a byte last moved.
    pub fn moved(&self) -> Instant {
        self.moved
    }

    /// Returns the time that does not count towards the `total` timeout.
    pub fn paused(&self, now: Instant) -> Duration {
        let still = self.client_since.map_or(Duration::ZERO, |_| now.saturating_duration_since(self.moved));
        self.paused + still
    }

    /// Returns since when the body waits for the backend; `None` while it waits for the client.
    pub fn backend_since(&self) -> Option<Instant> {
        self.client_since.is_none().then_some(self.moved)
    }

    /// Returns when the client times out, if the body waits for it. It has `idle` for the next byte. If it is `paced`,
    /// it has [`GRACE`] plus a second for each [`LEAST_RATE`] bytes for the whole body.
    pub fn client_due(&self, idle: Duration, paced: bool) -> Option<Instant> {
        let since = self.client_since?;
        let all = GRACE.max(idle).saturating_add(Duration::from_secs(self.bytes / LEAST_RATE));
        let left = if paced { all.saturating_sub(self.client_time) } else { Duration::MAX };
        since.checked_add(idle.min(left))
    }

    /// Returns whether the client has kept the backend waiting for so long that the backend is not to blame for
    /// closing the connection.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.client_since.is_some_and(|since| now.saturating_duration_since(since) >= SILENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_backend_has_no_limit_while_the_client_is_waited_for_and_the_client_none_while_the_backend_is() {
        let begun = Instant::now();
        let mut upload = Upload::new(begun);
        assert_eq!((upload.backend_since(), upload.client_due(seconds(60), true)), (Some(begun), None));
        upload.wait(begun + seconds(1));
        assert_eq!(upload.backend_since(), None);
        assert_eq!(upload.client_due(seconds(60), true), Some(begun + seconds(61)));
        upload.received(begun + seconds(5), 100);
        assert_eq!(upload.backend_since(), Some(begun + seconds(5)));
        upload.taken(begun + seconds(7));
        assert_eq!((upload.backend_since(), upload.client_due(seconds(60), true)), (Some(begun + seconds(7)), None));
    }

    #[test]
    fn total_rests_while_bytes_move_or_the_client_is_waited_for_and_runs_before_and_after() {
        let begun = Instant::now();
        let mut upload = Upload::new(begun);
        // Five seconds go by until there is a connection.
        upload.begin(begun + seconds(5));
        assert_eq!(upload.paused(begun + seconds(5)), seconds(0));
        upload.received(begun + seconds(6), 1000);
        upload.wait(begun + seconds(6));
        assert_eq!(upload.paused(begun + seconds(46)), seconds(41));
        upload.received(begun + seconds(46), 1000);
        upload.taken(begun + seconds(50));
        assert_eq!(upload.paused(begun + seconds(90)), seconds(45), "nothing has moved since");
    }

    #[test]
    fn a_client_that_trickles_has_its_end_and_one_that_moves_has_none() {
        let trickles = |bytes: usize, seconds_between: u64| {
            let begun = Instant::now();
            let (mut upload, mut now) = (Upload::new(begun), begun);
            for _ in 0..10_000 {
                upload.wait(now);
                now += seconds(seconds_between);
                if upload.client_due(seconds(60), true).unwrap() <= now {
                    return Some(now - begun);
                }
                upload.received(now, bytes);
            }
            None
        };
        assert_eq!(trickles(1, 1), Some(seconds(60)));
        assert_eq!(trickles(1000, 61), Some(seconds(61)), "the next byte has its own limit");
        assert_eq!(trickles(300, 1), None);
        assert_eq!(trickles(100, 1).map(|time| time > seconds(100)), Some(true));
    }

    #[test]
    fn an_answer_that_goes_on_gives_its_client_time() {
        let begun = Instant::now();
        let mut upload = Upload::new(begun);
        upload.wait(begun);
        upload.response_moved(begun + seconds(50));
        assert_eq!(upload.client_due(seconds(60), false), Some(begun + seconds(110)));
        assert_eq!(upload.client_due(Duration::MAX, false), None, "no limit");
    }

    #[test]
    fn a_backend_that_closes_has_lost_patience_only_with_a_client_that_was_silent() {
        let begun = Instant::now();
        let mut upload = Upload::new(begun);
        assert!(!upload.is_silent(begun + seconds(10)));
        upload.wait(begun);
        assert!(!upload.is_silent(begun + Duration::from_millis(900)));
        assert!(upload.is_silent(begun + seconds(1)));
        upload.received(begun + seconds(2), 1);
        assert!(!upload.is_silent(begun + seconds(10)));
    }

    proptest! {
        #[test]
        fn time_that_rests_never_exceeds_the_time_that_went_by(events in proptest::collection::vec((0u8..5, 0u64..100), 0..50)) {
            let begun = Instant::now();
            let (mut upload, mut now) = (Upload::new(begun), begun);
            for (event, after) in events {
                now += seconds(after);
                match event {
                    0 => upload.begin(now),
                    1 => upload.wait(now),
                    2 => upload.received(now, 1),
                    3 => upload.taken(now),
                    _ => upload.response_moved(now),
                }
                prop_assert!(upload.paused(now) <= now - begun);
                prop_assert_eq!(upload.backend_since().is_none(), upload.client_due(seconds(1), true).is_some());
            }
        }
    }
}
