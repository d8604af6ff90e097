//! Owns: the sessions that a backend gives up to others at the moment, as all threads see them.
//! Invariant: no more leave than were planned, and a request reads one flag where none may leave.
//! Must not know: the plan; what moves a session.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;

/// The most sessions that are remembered of those that their application offers, and of those that have left.
const MAX_REMEMBERED: usize = 1024;

/// What a backend gives up.
#[derive(Debug, Default)]
pub struct Rebalancing {
    is_active: AtomicBool,
    outlets: ArcSwapOption<Outlets>,
    sessions: Mutex<Remembered>,
}

#[derive(Debug)]
struct Outlets {
    /// For how long a session must be idle to leave, in milliseconds.
    idle: u64,
    to: Box<[Outlet]>,
}

/// The sessions that may go to one backend.
#[derive(Debug)]
struct Outlet {
    /// Its live id.
    backend: usize,
    planned: u64,
    left: AtomicU64,
}

#[derive(Debug, Default)]
struct Remembered {
    /// Sessions whose application has said that they may be moved now.
    offered: HashSet<u64>,
    /// Sessions that have left, and where to, in this order.
    left: VecDeque<(u64, usize)>,
}

impl Rebalancing {
    /// Lets so many sessions leave for the backends with these live ids, once they were idle for `idle`.
    pub(super) fn publish(&self, idle: Duration, to: &[(usize, u64)]) {
        let outlet = |(backend, planned): &(usize, u64)| Outlet {
            backend: *backend,
            planned: *planned,
            left: AtomicU64::new(*planned),
        };
        let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        self.outlets.store(Some(Arc::new(Outlets { idle, to: to.iter().map(outlet).collect() })));
        self.is_active.store(true, Ordering::Release);
    }

    /// Lets no more sessions leave. Returns how many have left since it was published, for which live ids.
    pub(super) fn withdraw(&self) -> Vec<(usize, u64)> {
        if !self.is_active() {
            return Vec::new();
        }
        self.is_active.store(false, Ordering::Release);
        let outlets = self.outlets.swap(None);
        // A request that still holds the former ones gets none of what is taken here.
        let left = |outlet: &Outlet| (outlet.backend, outlet.planned - outlet.left.swap(0, Ordering::Relaxed));
        outlets.iter().flat_map(|outlets| &outlets.to).map(left).filter(|(_, sessions)| *sessions > 0).collect()
    }

    /// Forgets which sessions were offered, and which have left.
    pub(super) fn forget(&self) {
        *self.sessions() = Remembered::default();
    }

    /// Returns whether sessions may leave.
    pub fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Acquire)
    }

    /// Notes that the application lets the session be moved now, however short it was idle.
    pub fn offer(&self, session: u64) {
        let mut sessions = self.sessions();
        if sessions.offered.len() < MAX_REMEMBERED {
            sessions.offered.insert(session);
        }
    }

    /// Returns the live id of the backend to which a session has just left, for a request that comes only now.
    pub fn left_for(&self, session: u64) -> Option<usize> {
        self.sessions().left.iter().rev().find(|(left, _)| *left == session).map(|(_, to)| *to)
    }

    /// Decides whether a session leaves with the request that begins now, after it was idle for `idle` milliseconds. It
    /// has no other request in flight. Returns the live id of the backend to which it goes.
    pub fn leaves(&self, session: u64, idle: u64) -> Option<usize> {
        let outlets = self.outlets.load();
        let outlets = outlets.as_ref()?;
        if idle < outlets.idle && !self.is_offered(session) {
            return None;
        }
        let is_taken = |outlet: &&Outlet| {
            let take = |left: u64| left.checked_sub(1);
            outlet.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
        };
        let to = outlets.to.iter().find(is_taken)?.backend;
        let mut sessions = self.sessions();
        sessions.offered.remove(&session);
        sessions.left.push_back((session, to));
        if sessions.left.len() > MAX_REMEMBERED {
            sessions.left.pop_front();
        }
        Some(to)
    }

    fn is_offered(&self, session: u64) -> bool {
        self.sessions().offered.contains(&session)
    }

    fn sessions(&self) -> MutexGuard<'_, Remembered> {
        // Nothing under the lock can panic after a change.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: u64 = 30_000;

    fn published(to: &[(usize, u64)]) -> Rebalancing {
        let rebalancing = Rebalancing::default();
        rebalancing.publish(Duration::from_secs(30), to);
        rebalancing
    }

    #[test]
    fn as_many_sessions_leave_as_were_planned_each_to_its_backend_and_are_counted() {
        let rebalancing = published(&[(4, 1), (7, 2)]);
        let to: Vec<_> = (0..5).map(|session| rebalancing.leaves(session, IDLE)).collect();
        assert_eq!(to, [Some(4), Some(7), Some(7), None, None]);
        assert_eq!([0, 2, 3].map(|session| rebalancing.left_for(session)), [Some(4), Some(7), None]);
        assert_eq!((rebalancing.withdraw(), rebalancing.withdraw()), (vec![(4, 1), (7, 2)], vec![]));
        assert_eq!((rebalancing.leaves(9, IDLE), rebalancing.is_active()), (None, false));
    }

    #[test]
    fn a_session_that_was_idle_too_short_stays_unless_its_application_offers_it() {
        let rebalancing = published(&[(4, 9)]);
        assert_eq!(rebalancing.leaves(1, IDLE - 1), None);
        rebalancing.offer(1);
        assert_eq!((rebalancing.leaves(1, 0), rebalancing.leaves(1, 0)), (Some(4), None), "once");
        rebalancing.offer(2);
        rebalancing.forget();
        assert_eq!((rebalancing.leaves(2, 0), rebalancing.left_for(1)), (None, None));
    }

    #[test]
    fn no_two_threads_take_the_same_place() {
        let rebalancing = published(&[(4, 500)]);
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (rebalancing, taken) = (&rebalancing, &taken);
                scope.spawn(move || {
                    let left = (0..1000).filter(|session| rebalancing.leaves(1000 * thread + session, IDLE).is_some());
                    taken.fetch_add(left.count() as u64, Ordering::Relaxed);
                });
            }
        });
        assert_eq!((taken.into_inner(), rebalancing.withdraw()), (500, vec![(4, 500)]));
    }
}
