//! Owns: where the first requests of one client, sent all at once and none with a pin yet, come together.
//! Invariant: bounded in number and time; asked only by requests without a pin.
//! Must not know: what makes two requests one client's; how the first one's backend is chosen.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A browser opens six connections at once, each on a thread of its own if chance will have it: so
/// all threads share the table.
const SHARDS: usize = 16;
/// Clients that are remembered in a shard; one more converges not.
const CAPACITY: usize = 4096;

/// The clients that began a session lately.
#[derive(Debug)]
pub struct Converge {
    window: u64,
    shards: [Mutex<HashMap<u64, Meeting>>; SHARDS],
}

/// Where a client's first requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meeting {
    /// The live id of the backend.
    pub backend: usize,
    /// The id of the session.
    pub session: u64,
    /// When the window ends, in milliseconds since the Unix epoch.
    until: u64,
}

impl Converge {
    /// First requests that come within `window` of the first one of all go together.
    pub fn new(window: Duration) -> Converge {
        Converge {
            window: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Where the client's other first requests go at `now` (since the Unix epoch), or, if this is
    /// the first one, where `choose` says: backend and session. Chosen under the lock, so that of
    /// two that come at the same moment one is the first.
    pub fn meet(&self, client: u64, now: Duration, choose: impl FnOnce() -> Option<(usize, u64)>) -> Option<Meeting> {
        let now = millis(now);
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meeting) = shard.get(&client).filter(|meeting| meeting.until > now) {
            return Some(*meeting);
        }
        let (backend, session) = choose()?;
        let meeting = Meeting { backend, session, until: now.saturating_add(self.window) };
        if shard.len() < CAPACITY || shard.contains_key(&client) {
            shard.insert(client, meeting);
        }
        Some(meeting)
    }

    /// The backend where they met failed, and another has served: the others go there, too.
    pub fn settle(&self, client: u64, backend: usize) {
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meeting) = shard.get_mut(&client) {
            meeting.backend = backend;
        }
    }

    /// Forgets those whose window is over at `now`. Call it now and then.
    pub fn sweep(&self, now: Duration) {
        let now = millis(now);
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, meeting| meeting.until > now);
        }
    }

    fn shard(&self, client: u64) -> &Mutex<HashMap<u64, Meeting>> {
        &self.shards[(client % SHARDS as u64) as usize]
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn first_requests_of_one_client_meet_within_the_window_and_no_longer() {
        let converge = Converge::new(at(2000));
        let meet = |client, now, choice| {
            converge.meet(client, at(now), || Some(choice)).map(|meeting| (meeting.backend, meeting.session))
        };
        assert_eq!(meet(1, 10_000, (0, 7)), Some((0, 7)));
        assert_eq!(meet(1, 11_999, (1, 8)), Some((0, 7)));
        assert_eq!(meet(2, 11_999, (2, 9)), Some((2, 9)), "another client");
        assert_eq!(meet(1, 12_000, (1, 8)), Some((1, 8)), "a new window");
        converge.settle(1, 2);
        assert_eq!(meet(1, 12_001, (0, 1)), Some((2, 8)));
        assert_eq!(converge.meet(3, at(0), || None), None);
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let converge = Converge::new(at(2000));
        for client in 0..(2 * SHARDS * CAPACITY) as u64 {
            converge.meet(client, at(0), || Some((0, 0)));
        }
        let held = || converge.shards.iter().map(|shard| shard.lock().unwrap().len()).sum::<usize>();
        assert_eq!(held(), SHARDS * CAPACITY);
        converge.sweep(at(2000));
        assert_eq!(held(), 0);
    }
}
