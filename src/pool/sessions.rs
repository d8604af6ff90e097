//! Owns: the sessions of a backend over all threads: their count, and what of a session is in flight.
//! Invariant: a request writes its own thread's table only; a count reads all of them, and at a bounded rate.
//! Must not know: pins, requests, or why a session begins, moves or ends.

mod census;
mod entry;
mod inherited;
mod table;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

pub use census::SessionCount;
pub use entry::SessionLifetime;
pub use inherited::SessionsState;
use table::ThreadTable;

use super::release::SessionActivity;
use crate::per_thread::LazyPerThread;

/// A count that reads more entries than this is used for a second per as many entries: with a million sessions,
/// counting takes a few percent of one core, however often it is asked for.
const CHEAP: u64 = 20_000;

/// A session as its pin knows it. Times are in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOfPin {
    /// The session.
    pub id: u64,
    /// When it began.
    pub issued: u64,
    /// When it was last seen, as far as the pin knows; 0 if it doesn't.
    pub seen: u64,
}

/// The sessions of a backend.
#[derive(Debug)]
pub struct Sessions {
    threads: LazyPerThread<Shard>,
    /// Sessions that were last seen then or before, in milliseconds since the Unix epoch, have left.
    forgotten: AtomicU64,
    last_count: Mutex<Option<LastCount>>,
    /// Held while a request asks whether its session leaves, which only happens while a rule is published.
    release: Mutex<()>,
    /// The last count, and how many sessions had begun by then.
    count: AtomicU64,
    begun_by_then: AtomicU32,
}

/// One thread's part.
#[derive(Debug, Default)]
struct Shard {
    /// Sessions that have begun on this thread; wraps around.
    begun: AtomicU32,
    table: ThreadTable,
}

#[derive(Debug, Clone, Copy)]
struct LastCount {
    count: SessionCount,
    lifetime: SessionLifetime,
    /// Until when it is used, in milliseconds since the Unix epoch.
    until: u64,
}

impl Sessions {
    /// Makes the sessions of a new backend, for `threads` data-path threads.
    pub(super) fn new(threads: usize) -> Sessions {
        Sessions {
            threads: LazyPerThread::new(threads.max(1)),
            forgotten: AtomicU64::new(0),
            last_count: Mutex::default(),
            release: Mutex::default(),
            count: AtomicU64::new(0),
            begun_by_then: AtomicU32::new(0),
        }
    }

    /// Records that a request of a session begins at `now`, in milliseconds since the Unix epoch, on the calling
    /// thread, whose number is `thread`. The session began at `issued`, in seconds.
    pub fn begin(&self, thread: usize, session: u64, issued: u64, now: u64, lifetime: SessionLifetime) {
        if let Some(shard) = self.threads.get(thread) {
            shard.table.begin(session, issued, now, lifetime);
        }
    }

    /// Decides by `leaves` whether a session leaves the backend with a request that begins at `now`. If so, that is
    /// recorded, and the request belongs elsewhere. If not, the request begins as in [`Sessions::begin`]. `pin_seen` is
    /// when the session was last seen according to its pin, in seconds since the Unix epoch.
    ///
    /// One request after the other is decided, so that of two at the same time on two threads the second one knows
    /// whether the first one stays: no session is in two places.
    pub fn begin_unless_released(
        &self,
        thread: usize,
        session: SessionOfPin,
        now: u64,
        lifetime: SessionLifetime,
        leaves: impl FnOnce(SessionActivity) -> bool,
    ) -> bool {
        let SessionOfPin { id, issued, seen } = session;
        let _one_at_a_time = self.release.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.threads.iter().filter_map(|shard| shard.table.entry(id)).reduce(census::merged);
        let last = known.map_or(0, |known| known.seen).max(seen.saturating_mul(1000));
        let activity = SessionActivity {
            idle: now.saturating_sub(last),
            is_in_flight: known.is_some_and(|known| known.in_flight > 0),
            has_left: known.is_some_and(|known| known.has_left),
        };
        let is_released = leaves(activity);
        if is_released {
            self.leave(thread, id, now, lifetime);
        } else {
            self.begin(thread, id, issued, now, lifetime);
        }
        is_released
    }

    /// Records that a request of a session ends, on the thread on which it began.
    pub fn end(&self, thread: usize, session: u64, now: u64) {
        if let Some(shard) = self.threads.get(thread) {
            shard.table.end(session, now);
        }
    }

    /// Records that a session leaves the backend: it has moved or ended. Its requests in flight go on.
    pub fn leave(&self, thread: usize, session: u64, now: u64, lifetime: SessionLifetime) {
        if let Some(shard) = self.threads.get(thread) {
            shard.table.leave(session, now, lifetime);
        }
    }

    /// Records that a session is new to the backend, for [`Sessions::estimate`].
    pub fn count_new(&self, thread: usize) {
        if let Some(shard) = self.threads.get(thread) {
            shard.begun.store(shard.begun.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Records that all sessions have left, but for those with a request in flight.
    pub(super) fn forget(&self, now: u64) {
        self.forgotten.store(now, Ordering::Relaxed);
        *self.last_count() = None;
    }

    /// Counts the live sessions at `now`, in milliseconds since the Unix epoch. A count of many sessions is used again
    /// for some seconds.
    pub fn count(&self, now: u64, lifetime: SessionLifetime) -> SessionCount {
        let mut last = self.last_count();
        if let Some(last) = last.filter(|last| now < last.until && last.lifetime == lifetime) {
            return last.count;
        }
        let begun = self.begun();
        let tables: Vec<_> = self.threads.iter().filter_map(|shard| shard.table.current()).collect();
        let tables = tables.iter().map(|table| &**table);
        let entries = tables.clone().map(|table| table.len() as u64).sum::<u64>();
        let count = census::count(tables, now, self.forgotten.load(Ordering::Relaxed), lifetime);
        *last = (entries > CHEAP).then(|| LastCount { count, lifetime, until: now + 1000 * (entries / CHEAP) });
        self.begun_by_then.store(begun, Ordering::Relaxed);
        self.count.store(count.sessions, Ordering::Relaxed);
        count
    }

    /// Returns the last count plus the sessions that have begun since: for decisions per request, since a count reads
    /// all tables.
    pub fn estimate(&self) -> u64 {
        let since = self.begun().wrapping_sub(self.begun_by_then.load(Ordering::Relaxed));
        self.count.load(Ordering::Relaxed).saturating_add(u64::from(since))
    }

    /// Returns the live sessions at `now`, in milliseconds since the Unix epoch, for the next process.
    pub fn state(&self, now: u64, lifetime: SessionLifetime) -> SessionsState {
        let tables: Vec<_> = self.threads.iter().filter_map(|shard| shard.table.current()).collect();
        SessionsState::of(&tables, now, self.forgotten.load(Ordering::Relaxed), lifetime)
    }

    /// Begins with the sessions of another process. No thread uses the backend yet.
    pub fn begin_with(&self, state: &SessionsState) {
        let (level, entries) = state.entries();
        if let Some(shard) = self.threads.get(0) {
            shard.table.begin_with(level, &entries);
        }
    }

    fn begun(&self) -> u32 {
        self.threads.iter().fold(0, |sum, shard| sum.wrapping_add(shard.begun.load(Ordering::Relaxed)))
    }

    fn last_count(&self) -> std::sync::MutexGuard<'_, Option<LastCount>> {
        self.last_count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::hash::mix;

    const LIFETIME: SessionLifetime = SessionLifetime { idle: 60, absolute: None };

    #[test]
    fn sessions_are_forgotten_but_for_those_in_flight_and_count_again_when_they_are_seen() {
        let sessions = Sessions::new(2);
        for session in 1..=3 {
            sessions.begin(0, mix(session), 1, 1_000, LIFETIME);
        }
        sessions.end(0, mix(1), 1_500);
        sessions.end(0, mix(2), 1_500);
        assert_eq!(sessions.count(2_000, LIFETIME).sessions, 3);
        sessions.forget(2_000);
        assert_eq!(sessions.count(2_000, LIFETIME).sessions, 1);
        sessions.begin(1, mix(1), 1, 3_000, LIFETIME);
        assert_eq!(sessions.count(3_000, LIFETIME).sessions, 2);
    }

    #[test]
    fn of_two_requests_of_a_session_on_two_threads_the_second_knows_what_became_of_the_first() {
        let (sessions, pin) = (Sessions::new(2), SessionOfPin { id: mix(1), issued: 1, seen: 2 });
        let ask = |thread, now, leaves: bool| {
            let mut seen = None;
            let is_released = sessions.begin_unless_released(thread, pin, now, LIFETIME, |activity| {
                seen = Some(activity);
                leaves
            });
            assert_eq!(is_released, leaves);
            seen.unwrap()
        };
        let activity = |idle, is_in_flight, has_left| SessionActivity { idle, is_in_flight, has_left };
        assert_eq!(ask(0, 5_000, false), activity(3_000, false, false), "as the pin says");
        assert_eq!(ask(1, 6_000, false), activity(1_000, true, false));
        sessions.end(0, mix(1), 7_000);
        sessions.end(1, mix(1), 8_000);
        assert_eq!(ask(0, 9_000, true), activity(1_000, false, false));
        assert_eq!(ask(1, 9_000, true), activity(0, false, true));
        assert_eq!(sessions.count(9_000, LIFETIME).sessions, 0);
    }

    #[test]
    fn the_estimate_adds_what_has_begun_since_the_last_count() {
        let sessions = Sessions::new(2);
        sessions.begin(0, mix(1), 1, 1_000, LIFETIME);
        sessions.count_new(0);
        assert_eq!(sessions.estimate(), 1);
        assert_eq!(sessions.count(1_000, LIFETIME).sessions, 1);
        sessions.count_new(1);
        assert_eq!(sessions.estimate(), 2);
        assert_eq!(sessions.count(1_000, LIFETIME).sessions, 1);
        assert_eq!(sessions.estimate(), 1, "the count has all that had begun");
    }

    #[test]
    fn a_large_count_is_used_for_a_while_and_a_small_one_is_always_new() {
        let sessions = Sessions::new(3);
        let see = |from: u64, to: u64| {
            for (session, thread) in (from..to).flat_map(|session| [(session, 0), (session, 1), (session, 2)]) {
                sessions.begin(thread, mix(session), 1, 1_000, LIFETIME);
            }
        };
        see(1, 5_001);
        assert_eq!(sessions.count(1_000, LIFETIME).sessions, 5_000);
        see(5_001, 9_001);
        assert_eq!(sessions.count(1_000, LIFETIME).sessions, 9_000);
        see(9_001, 9_101);
        assert_eq!(sessions.count(1_999, LIFETIME).sessions, 9_000);
        let longer = SessionLifetime { idle: 61, ..LIFETIME };
        assert_eq!(sessions.count(1_999, longer).sessions, 9_100, "sessions live for another time now");
        see(9_101, 9_201);
        assert_eq!(sessions.count(2_998, longer).sessions, 9_100);
        assert_eq!(sessions.count(2_999, longer).sessions, 9_200);
    }

    const LONG: SessionLifetime = SessionLifetime { idle: 600, absolute: None };

    /// The sessions of the next process.
    fn next(sessions: &Sessions, now: u64) -> Sessions {
        let text = serde_json::to_string(&sessions.state(now, LONG)).unwrap();
        let next = Sessions::new(2);
        next.begin_with(&serde_json::from_str(&text).unwrap());
        next
    }

    #[test]
    fn the_next_process_counts_the_same_sessions_each_once() {
        let sessions = Sessions::new(2);
        for session in 0..1000 {
            let (thread, other) = (session as usize % 2, (session as usize + 1) % 2);
            sessions.begin(thread, mix(session), 1, 100_000 + session, LONG);
            sessions.end(thread, mix(session), 100_000 + session);
            if session % 3 == 0 {
                sessions.begin(other, mix(session), 1, 150_000, LONG);
            }
        }
        sessions.leave(0, mix(1), 160_000, LONG);
        let next = next(&sessions, 170_000);
        assert_eq!(sessions.count(170_000, LONG).sessions, 999);
        let count = next.count(170_000, LONG);
        assert_eq!((count.sessions, count.error), (999, 0.0));
        // They go on there: seen again, none counts twice, and the others expire.
        next.begin(1, mix(0), 1, 690_000, LONG);
        assert_eq!(next.count(702_000, LONG).sessions, 334);
        assert_eq!(next.count(760_000, LONG).sessions, 1);
    }

    #[test]
    fn more_than_are_counted_one_by_one_are_as_many_within_the_error() {
        let sessions = Sessions::new(2);
        for session in 0..60_000 {
            sessions.begin(session as usize % 2, mix(session), 1, 100_000, LONG);
        }
        let count = next(&sessions, 100_000).count(100_000, LONG);
        assert!(count.sessions.abs_diff(60_000) < 3_000, "{count:?}");
    }
}
