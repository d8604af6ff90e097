//! Owns: sessions whose server failed them in a way that could not be retried.
//! Invariant: bounded in number and time; costs one shared read while there are none.
//! Must not know: requests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// How long such a session is kept away from the server, in seconds. Long enough for the client
/// to come back and be pinned elsewhere, and for probes to find out about the server.
const SECONDS: u64 = 60;
/// How many are remembered; one more is not.
const CAPACITY: usize = 65_536;

/// A request that must not be repeated ends with an error, and no pin goes out with an error: so
/// that the client's next request goes elsewhere all the same, its session is noted here.
#[derive(Debug, Default)]
pub struct Lost {
    any: AtomicBool,
    sessions: Mutex<HashMap<u64, Entry>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    backend: usize,
    until: u64,
}

impl Lost {
    /// Notes that the backend with this live id failed `session` at `now` (seconds).
    pub fn note(&self, session: u64, backend: usize, now: u64) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        // A full table is emptied by `sweep`, not here: to look through all of it for each request
        // that fails is the last thing that a pool in trouble needs.
        if sessions.len() < CAPACITY || sessions.contains_key(&session) {
            sessions.insert(session, Entry { backend, until: now + SECONDS });
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// Whether `session` has to be kept away from this backend.
    pub fn contains(&self, session: u64, backend: usize, now: u64) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = sessions.get(&session).copied() else { return false };
        if entry.until <= now {
            sessions.remove(&session);
            self.any.store(!sessions.is_empty(), Ordering::Relaxed);
            return false;
        }
        entry.backend == backend
    }

    /// Forgets those whose time is over. Call it now and then.
    pub fn sweep(&self, now: u64) {
        if self.any.load(Ordering::Relaxed) {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.retain(|_, entry| entry.until > now);
            self.any.store(!sessions.is_empty(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_kept_away_from_the_server_that_failed_it_for_a_minute() {
        let lost = Lost::default();
        assert!(!lost.contains(1, 0, 100));
        lost.note(1, 0, 100);
        assert!(lost.contains(1, 0, 159));
        assert!(!lost.contains(1, 2, 159));
        assert!(!lost.contains(2, 0, 159));
        assert!(!lost.contains(1, 0, 160));
        assert!(!lost.any.load(Ordering::Relaxed));
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let lost = Lost::default();
        (0..2 * CAPACITY as u64).for_each(|session| lost.note(session, 0, 100));
        assert!(lost.sessions.lock().unwrap().len() <= CAPACITY);
        lost.sweep(160);
        assert!(lost.sessions.lock().unwrap().is_empty());
    }
}
