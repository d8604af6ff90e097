//! Owns: the groups of first requests: requests that one client sends at once before it has a pin.
//! Invariant: the number of groups and their lifetime are bounded; only requests without a pin come here.
//! Must not know: how a client is recognised, or how the backend of the first request is chosen.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A browser opens six connections at once, and each may come to another thread: so all threads share the table.
const SHARDS: usize = 16;
/// Clients per shard. The requests of one client more do not converge.
const CAPACITY: usize = 4096;

/// The clients that began a session within the window.
#[derive(Debug)]
pub struct Converge {
    window: u64,
    shards: [Mutex<HashMap<u64, FirstRequestGroup>>; SHARDS],
}

/// Where the first requests of one client go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstRequestGroup {
    /// The live id of the backend.
    pub backend: usize,
    /// The id of the session.
    pub session: u64,
    /// When the window ends, in milliseconds since the Unix epoch.
    until: u64,
}

impl Converge {
    /// Groups the requests of a client that arrive within `window` of its first one.
    pub fn new(window: Duration) -> Converge {
        Converge {
            window: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Returns the group of `client` at `now` (since the Unix epoch). Without a group, begins one with the backend and
    /// session that `choose` returns. Calls `choose` under the lock, so that of two requests at the same moment only
    /// one is the first.
    pub fn join(
        &self,
        client: u64,
        now: Duration,
        choose: impl FnOnce() -> Option<(usize, u64)>,
    ) -> Option<FirstRequestGroup> {
        let now = millis(now);
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = shard.get(&client).filter(|group| group.until > now) {
            return Some(*group);
        }
        let (backend, session) = choose()?;
        let group = FirstRequestGroup { backend, session, until: now.saturating_add(self.window) };
        if shard.len() < CAPACITY || shard.contains_key(&client) {
            shard.insert(client, group);
        }
        Some(group)
    }

    /// Sends the rest of the group to `backend`, after the group's backend failed and this one served.
    pub fn reassign(&self, client: u64, backend: usize) {
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = shard.get_mut(&client) {
            group.backend = backend;
        }
    }

    /// Removes the groups whose window has ended at `now`. Call it periodically.
    pub fn sweep(&self, now: Duration) {
        let now = millis(now);
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, group| group.until > now);
        }
    }

    fn shard(&self, client: u64) -> &Mutex<HashMap<u64, FirstRequestGroup>> {
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
    fn first_requests_of_one_client_join_within_the_window_and_no_longer() {
        let converge = Converge::new(at(2000));
        let join = |client, now, choice| {
            converge.join(client, at(now), || Some(choice)).map(|group| (group.backend, group.session))
        };
        assert_eq!(join(1, 10_000, (0, 7)), Some((0, 7)));
        assert_eq!(join(1, 11_999, (1, 8)), Some((0, 7)));
        assert_eq!(join(2, 11_999, (2, 9)), Some((2, 9)), "another client");
        assert_eq!(join(1, 12_000, (1, 8)), Some((1, 8)), "a new window");
        converge.reassign(1, 2);
        assert_eq!(join(1, 12_001, (0, 1)), Some((2, 8)));
        assert_eq!(converge.join(3, at(0), || None), None);
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let converge = Converge::new(at(2000));
        for client in 0..(2 * SHARDS * CAPACITY) as u64 {
            converge.join(client, at(0), || Some((0, 0)));
        }
        let held = || converge.shards.iter().map(|shard| shard.lock().unwrap().len()).sum::<usize>();
        assert_eq!(held(), SHARDS * CAPACITY);
        converge.sweep(at(2000));
        assert_eq!(held(), 0);
    }
}
