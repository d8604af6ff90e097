//! Owns: whom the body of a request waits for, and for how long: the client that sends it, or the backend that takes it.
//! Invariant: pure; no limit of one side runs while the other side is waited for.
//! Must not know: sockets, what is sent, what becomes of the request.

use std::time::{Duration, Instant};

/// Bytes a second that a client has to send of a body, where it is the client that is waited for. Kestrel and
/// IIS have the same figure. A client that sends a byte now and then would otherwise hold its place for ever.
const LEAST_RATE: u64 = 240;

/// How long a client is waited for, in all, before its rate counts.
const GRACE: Duration = Duration::from_secs(60);

/// Silence of a client after which a backend that closes the connection has only lost patience.
const SILENCE: Duration = Duration::from_secs(1);

/// The body of a request on its way.
#[derive(Debug, Clone, Copy)]
pub struct Upload {
    /// When a byte moved last, from the client or to the backend.
    moved: Instant,
    /// Since when the client is waited for, if it is.
    waits: Option<Instant>,
    /// How long it was waited for before.
    waited: Duration,
    /// For how long bytes moved, or the client was waited for.
    rested: Duration,
    /// Bytes that came.
    bytes: u64,
}

impl Upload {
    /// A body of which nothing has come yet.
    pub fn new(now: Instant) -> Upload {
        Upload { moved: now, waits: None, waited: Duration::ZERO, rested: Duration::ZERO, bytes: 0 }
    }

    /// An attempt begins to send it: the backend is waited for.
    pub fn begin(&mut self, now: Instant) {
        if self.waits.is_some() {
            self.came(now, 0);
        }
        self.moved = now;
    }

    /// There is nothing to send: the client is waited for.
    pub fn wait(&mut self, now: Instant) {
        self.waits.get_or_insert(now);
    }

    /// The client has sent so many bytes, or the end: the backend is waited for.
    pub fn came(&mut self, now: Instant, bytes: usize) {
        if let Some(since) = self.waits.take() {
            self.waited += now.saturating_duration_since(since);
        }
        self.bytes += bytes as u64;
        self.moves(now);
    }

    /// The backend has taken some of what came.
    pub fn taken(&mut self, now: Instant) {
        self.moves(now);
    }

    /// Some of the answer has come: as long as it goes on, the client need not.
    pub fn answers(&mut self, now: Instant) {
        if let Some(since) = &mut self.waits {
            *since = now;
        }
        self.moves(now);
    }

    fn moves(&mut self, now: Instant) {
        self.rested += now.saturating_duration_since(self.moved);
        self.moved = now;
    }

    /// When a byte moved last.
    pub fn moved(&self) -> Instant {
        self.moved
    }

    /// The time that `total` does not count.
    pub fn rested(&self, now: Instant) -> Duration {
        let still = self.waits.map_or(Duration::ZERO, |_| now.saturating_duration_since(self.moved));
        self.rested + still
    }

    /// Since when the backend is waited for; `None` while it is the client.
    pub fn backend_since(&self) -> Option<Instant> {
        self.waits.is_none().then_some(self.moved)
    }

    /// When the client, if it is waited for, has had its time: `idle` for the next byte and, unless it may
    /// take its time (`paced` is false), [`GRACE`] and a second for each [`LEAST_RATE`] bytes for all of them.
    pub fn client_due(&self, idle: Duration, paced: bool) -> Option<Instant> {
        let since = self.waits?;
        let all = GRACE.max(idle).saturating_add(Duration::from_secs(self.bytes / LEAST_RATE));
        let left = if paced { all.saturating_sub(self.waited) } else { Duration::MAX };
        since.checked_add(idle.min(left))
    }

    /// Whether the client has kept the backend waiting for so long that whatever the backend does now is no
    /// fault of its own.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.waits.is_some_and(|since| now.saturating_duration_since(since) >= SILENCE)
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
        upload.came(begun + seconds(5), 100);
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
        assert_eq!(upload.rested(begun + seconds(5)), seconds(0));
        upload.came(begun + seconds(6), 1000);
        upload.wait(begun + seconds(6));
        assert_eq!(upload.rested(begun + seconds(46)), seconds(41));
        upload.came(begun + seconds(46), 1000);
        upload.taken(begun + seconds(50));
        assert_eq!(upload.rested(begun + seconds(90)), seconds(45), "nothing has moved since");
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
                upload.came(now, bytes);
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
        upload.answers(begun + seconds(50));
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
        upload.came(begun + seconds(2), 1);
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
                    2 => upload.came(now, 1),
                    3 => upload.taken(now),
                    _ => upload.answers(now),
                }
                prop_assert!(upload.rested(now) <= now - begun);
                prop_assert_eq!(upload.backend_since().is_none(), upload.client_due(seconds(1), true).is_some());
            }
        }
    }
}
