//! Owns: the sessions that avoid their backend, since it failed them in a way that could not be retried.
//! Invariant: entries are bounded in number and time, and end once the backend proves healthy; readers take no lock.
//! Must not know: requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::pool::Live;
use crate::pool::hash::mix;

/// The longest time that a session avoids a backend, in seconds: enough for the client to send its next request and be
/// pinned elsewhere, and for probes to notice the failure.
const SECONDS: u64 = 60;

/// Slots of a bucket, and buckets: 16,384 sessions in 256 KiB.
const SLOTS: usize = 8;
const BUCKETS: usize = 2048;

/// Sends the next request of a session elsewhere after a failure that could not be retried. Such a request ends with an
/// error, and no pin goes out with an error, so the client still presents the old pin.
///
/// The table has a fixed size and is allocated on first use. A request reads one bucket, and only while the list has
/// entries. A writer (a request that failed) takes the lock.
#[derive(Debug, Default)]
pub struct AvoidList {
    any: AtomicBool,
    buckets: OnceLock<Box<[Bucket]>>,
    write_lock: Mutex<()>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Bucket([Slot; SLOTS]);

/// One session on one backend. A writer stores zero into `state`, then `key`, then `state`. A reader loads `key`,
/// `state` and `key` again: if both keys are the same, the state belongs to the key, or is zero, which counts as
/// expired.
#[derive(Debug, Default)]
struct Slot {
    /// The hash of session and backend, see [`key`].
    key: AtomicU64,
    /// In the high 32 bits the time at which the entry ends, in seconds. In the low 32 bits what
    /// [`Live::healthy_signals`] returned when the entry was added: another value means that the backend has proved
    /// healthy since.
    state: AtomicU64,
}

impl AvoidList {
    /// Adds a session that this backend failed at `now` (seconds since the Unix epoch).
    pub fn add(&self, session: u64, backend: &Live, now: u64) {
        let buckets = self.buckets.get_or_init(|| (0..BUCKETS).map(|_| Bucket::default()).collect());
        let key = key(session, backend);
        let state = (until(now + SECONDS) << 32) | u64::from(backend.avoid());
        let _guard = self.write_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = &bucket(buckets, key).0;
        let own = slots.iter().find(|slot| slot.key.load(Ordering::Relaxed) == key);
        // Replaces the entry that ends first; an unused slot has ended already.
        let Some(slot) = own.or_else(|| slots.iter().min_by_key(|slot| slot.state.load(Ordering::Relaxed))) else {
            return;
        };
        slot.state.store(0, Ordering::Release);
        slot.key.store(key, Ordering::Release);
        slot.state.store(state, Ordering::Release);
        self.any.store(true, Ordering::Release);
    }

    /// Whether `session` avoids this backend at `now`: the backend failed it within the last minute, and has not proved
    /// healthy since.
    pub fn contains(&self, session: u64, backend: &Live, now: u64) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let Some(buckets) = self.buckets.get() else { return false };
        let key = key(session, backend);
        bucket(buckets, key).0.iter().any(|slot| {
            let first = slot.key.load(Ordering::Acquire);
            let state = slot.state.load(Ordering::Acquire);
            first == key
                && slot.key.load(Ordering::Relaxed) == key
                && state >> 32 > until(now)
                && state & 0xffff_ffff == u64::from(backend.healthy_signals())
        })
    }

    /// Removes the entries that have ended at `now`. Call it periodically.
    pub fn sweep(&self, now: u64) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let _guard = self.write_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut any = false;
        for slot in self.buckets.get().into_iter().flatten().flat_map(|bucket| &bucket.0) {
            let has_ended = slot.state.load(Ordering::Relaxed) >> 32 <= until(now);
            if has_ended {
                slot.state.store(0, Ordering::Release);
            }
            any |= !has_ended;
        }
        self.any.store(any, Ordering::Release);
    }
}

/// Session ids are random and backend ids are small numbers: two pairs collide with a probability of 2^-64.
fn key(session: u64, backend: &Live) -> u64 {
    mix(session ^ mix(backend.id() as u64 + 1))
}

fn bucket(buckets: &[Bucket], key: u64) -> &Bucket {
    &buckets[key as usize % buckets.len()]
}

/// The low 32 bits of a time in seconds, enough for another eighty years.
fn until(seconds: u64) -> u64 {
    seconds & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::observe::Observation;
    use crate::pool::{AdminState, Pool, backend, reconcile};
    use std::sync::Arc;
    use std::time::Instant;

    fn live(id: usize) -> Arc<Live> {
        Arc::new(Live::new(id, 1, AdminState::Ready, 1))
    }

    fn pool() -> Arc<Pool> {
        let backends = vec![backend::Settings::new("a", "127.0.0.1:1".parse().unwrap())];
        reconcile::pool_of("p", backends)
    }

    #[test]
    fn a_session_avoids_the_backend_that_failed_it_for_a_minute() {
        let (list, a, b) = (AvoidList::default(), live(0), live(1));
        assert!(!list.contains(1, &a, 100));
        list.add(1, &a, 100);
        assert!(list.contains(1, &a, 159));
        assert!(!list.contains(1, &b, 159));
        assert!(!list.contains(2, &a, 159));
        assert!(!list.contains(1, &a, 160));
    }

    #[test]
    fn a_sign_of_health_ends_the_avoidance() {
        for (observation, ends) in [
            (Observation::probe(true), true),
            (Observation::Success, true),
            (Observation::Reached, true),
            (Observation::probe(false), false),
            (Observation::Time, false),
        ] {
            let (list, pool) = (AvoidList::default(), pool());
            let live = pool.backend(0).live();
            list.add(1, live, 100);
            assert!(live.awaits_success(), "a success on this backend has to be reported");
            pool.observe(0, observation, Instant::now());
            assert_eq!(list.contains(1, live, 101), !ends, "{observation:?}");
            list.add(1, live, 102);
            assert!(list.contains(1, live, 103), "it failed the session again");
        }
    }

    #[test]
    fn the_list_is_bounded_and_sweep_empties_it() {
        let (list, a) = (AvoidList::default(), live(0));
        let all = (SLOTS * BUCKETS) as u64;
        (0..2 * all).for_each(|session| list.add(mix(session), &a, 100 + session / all));
        let last = (all..2 * all).filter(|session| list.contains(mix(*session), &a, 101)).count() as u64;
        assert!(last > all * 3 / 5, "{last} of {all}: key came last is there");
        list.sweep(200);
        assert!(!list.any.load(Ordering::Relaxed));
    }

    #[test]
    fn a_reader_during_a_write_sees_no_session_that_was_not_added() {
        let (list, a) = (AvoidList::default(), live(0));
        // More than fit into the buckets that they fall into, so that slots change hands all the time.
        std::thread::scope(|scope| {
            scope.spawn(|| (0..200_000_u64).for_each(|session| list.add(mix(session % 40_000), &a, 100)));
            for _ in 0..2 {
                scope.spawn(|| {
                    (0..200_000_u64).for_each(|session| assert!(!list.contains(mix(session + 1_000_000), &a, 101)));
                });
            }
        });
    }
}
