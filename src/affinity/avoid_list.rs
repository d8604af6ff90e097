//! Owns: the sessions that avoid their server, since it failed them in a way that could not be retried.
//! Invariant: bounded in number and time; over as soon as something shows that the server is well; read without a lock.
//! Must not know: requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::pool::Live;
use crate::pool::backend::mix;

/// How long a session avoids the server at the most, in seconds. Long enough for the client
/// to come back and be pinned elsewhere, and for probes to find out about the server.
const SECONDS: u64 = 60;

/// Entries of one line, and buckets: in all 16,384 sessions, in 256 KiB.
const SLOTS: usize = 8;
const BUCKETS: usize = 2048;

/// A request that must not be repeated ends with an error, and no pin goes out with an error: so
/// that the client's next request goes elsewhere all the same, its session is noted here.
///
/// A table of fixed size that is there once it was used. Requests read one line of it, and that only while
/// anybody is in it; whoever writes (a failed request) has the lock.
#[derive(Debug, Default)]
pub struct AvoidList {
    any: AtomicBool,
    buckets: OnceLock<Box<[Bucket]>>,
    write_lock: Mutex<()>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Bucket([Slot; SLOTS]);

/// One session. `what` is written first as nobody's, then `who`, then `what`: who reads the two in the
/// order `who`, `what`, `who`, and has the same `who` twice, has a `what` that belongs to it, or nobody's.
#[derive(Debug, Default)]
struct Slot {
    /// The session and its backend, see [`key`].
    who: AtomicU64,
    /// Up to when, in seconds, and how well the backend was by then (see [`Live::well`]): 32 bits each.
    what: AtomicU64,
}

impl AvoidList {
    /// Notes that this backend failed `session` at `now` (seconds).
    pub fn add(&self, session: u64, backend: &Live, now: u64) {
        let buckets = self.buckets.get_or_init(|| (0..BUCKETS).map(|_| Bucket::default()).collect());
        let who = key(session, backend);
        let what = (until(now + SECONDS) << 32) | u64::from(backend.avoid());
        let _guard = self.write_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = &bucket(buckets, who).0;
        let own = slots.iter().find(|slot| slot.who.load(Ordering::Relaxed) == who);
        // The one that is over first gives way, which is one that is free if there is any.
        let Some(slot) = own.or_else(|| slots.iter().min_by_key(|slot| slot.what.load(Ordering::Relaxed))) else {
            return;
        };
        slot.what.store(0, Ordering::Release);
        slot.who.store(who, Ordering::Release);
        slot.what.store(what, Ordering::Release);
        self.any.store(true, Ordering::Release);
    }

    /// Whether `session` is to avoid this backend: it failed it within the last minute, and nothing has
    /// shown since that it is well.
    pub fn contains(&self, session: u64, backend: &Live, now: u64) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let Some(buckets) = self.buckets.get() else { return false };
        let who = key(session, backend);
        bucket(buckets, who).0.iter().any(|slot| {
            let first = slot.who.load(Ordering::Acquire);
            let what = slot.what.load(Ordering::Acquire);
            first == who
                && slot.who.load(Ordering::Relaxed) == who
                && what >> 32 > until(now)
                && what & 0xffff_ffff == u64::from(backend.well())
        })
    }

    /// Forgets those whose time is over. Call it now and then.
    pub fn sweep(&self, now: u64) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let _guard = self.write_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut any = false;
        for slot in self.buckets.get().into_iter().flatten().flat_map(|bucket| &bucket.0) {
            let is_over = slot.what.load(Ordering::Relaxed) >> 32 <= until(now);
            if is_over {
                slot.what.store(0, Ordering::Release);
            }
            any |= !is_over;
        }
        self.any.store(any, Ordering::Release);
    }
}

/// Session ids are random, and the ids of backends small numbers: two pairs meet by a chance of one in 2^64.
fn key(session: u64, backend: &Live) -> u64 {
    mix(session ^ mix(backend.id() as u64 + 1))
}

fn bucket(buckets: &[Bucket], who: u64) -> &Bucket {
    &buckets[who as usize % buckets.len()]
}

/// 32 bits of seconds, which do for another eighty years.
fn until(seconds: u64) -> u64 {
    seconds & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::roster::Observation;
    use crate::pool::{AdminState, Pool, backend, reconcile::Reconciler, vitals};
    use std::sync::Arc;
    use std::time::Instant;

    fn live(id: usize) -> Arc<Live> {
        Arc::new(Live::new(id, 1, AdminState::Ready, 1))
    }

    fn pool() -> Arc<Pool> {
        let backends = vec![backend::Settings::new("a", "127.0.0.1:1".parse().unwrap())];
        let settings = crate::pool::Settings { name: "p".into(), backends, vitals: vitals::Settings::default() };
        Reconciler::new(1).pools(&[settings]).remove(0)
    }

    #[test]
    fn a_session_avoids_the_server_that_failed_it_for_a_minute() {
        let (list, a, b) = (AvoidList::default(), live(0), live(1));
        assert!(!list.contains(1, &a, 100));
        list.add(1, &a, 100);
        assert!(list.contains(1, &a, 159));
        assert!(!list.contains(1, &b, 159));
        assert!(!list.contains(2, &a, 159));
        assert!(!list.contains(1, &a, 160));
    }

    #[test]
    fn whatever_shows_that_the_server_is_well_ends_that() {
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
            assert!(live.is_marked(), "who succeeds on it has something to tell");
            pool.observe(0, observation, Instant::now());
            assert_eq!(list.contains(1, live, 101), !ends, "{observation:?}");
            list.add(1, live, 102);
            assert!(list.contains(1, live, 103), "it has failed it again");
        }
    }

    #[test]
    fn it_does_not_grow_without_bound_and_is_emptied() {
        let (list, a) = (AvoidList::default(), live(0));
        let all = (SLOTS * BUCKETS) as u64;
        (0..2 * all).for_each(|session| list.add(mix(session), &a, 100 + session / all));
        let last = (all..2 * all).filter(|session| list.contains(mix(*session), &a, 101)).count() as u64;
        assert!(last > all * 3 / 5, "{last} of {all}: who came last is there");
        list.sweep(200);
        assert!(!list.any.load(Ordering::Relaxed));
    }

    #[test]
    fn who_reads_while_another_writes_sees_nobody_who_was_not_noted() {
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
