//! Owns: the embedded store of a pool: what is known of each session, with its copy, found by ref.
//! Invariant: bounded in bytes; the least recently used goes first, and nothing goes that a request under way refers to.
//! Must not know: the rules of versions, fields, connections.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::entry::{Entry, Totals};
use super::rules::Session;
use super::session_ref::SessionRef;

/// The sessions of one pool. A lookup takes the lock of the session's shard for some dozen instructions.
#[derive(Debug)]
pub struct CopyStore {
    /// The most bytes.
    memory: AtomicUsize,
    lifetime: AtomicU64,
    shards: Box<[Shard]>,
    totals: Arc<Totals>,
    evicted: AtomicU64,
}

/// Aligned so that two shards share no cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    entries: Mutex<LruCache<SessionRef, Arc<Entry>>>,
    /// When the shard's least recently used entry was used, or [`u64::MAX`] without one. Eviction compares the shards
    /// by it.
    oldest: AtomicU64,
}

const MAX_SHARDS: usize = 256;
/// The fewest bytes per shard: a small store has fewer shards, so that it evicts exactly.
const MIN_PER_SHARD: usize = 1024 * 1024;
/// How many entries one call of [`CopyStore::evict_excess`] looks at. Each call brings one entry at most.
const MAX_EVICTED_AT_ONCE: usize = 256;

impl CopyStore {
    /// Creates an empty store of at most `memory` bytes, which forgets a session without requests after `lifetime`
    /// seconds.
    pub fn new(memory: usize, lifetime: u64) -> CopyStore {
        let shards = (memory / MIN_PER_SHARD).clamp(1, MAX_SHARDS).next_power_of_two().min(MAX_SHARDS);
        let shard = || Shard { entries: Mutex::new(LruCache::unbounded()), oldest: AtomicU64::new(u64::MAX) };
        CopyStore {
            memory: AtomicUsize::new(memory),
            lifetime: AtomicU64::new(lifetime),
            shards: (0..shards).map(|_| shard()).collect(),
            totals: Arc::default(),
            evicted: AtomicU64::new(0),
        }
    }

    /// Returns what is known of a session, and marks it as used at `now`, in seconds since the Unix epoch.
    pub fn find(&self, session: SessionRef, now: u64) -> Option<Arc<Entry>> {
        let shard = self.shard(session);
        let mut entries = shard.lock();
        let entry = Arc::clone(entries.get(&session)?);
        entry.touch(now);
        shard.note_oldest(&entries);
        Some(entry)
    }

    /// Returns what is known of a session without marking it as used.
    pub fn peek(&self, session: SessionRef) -> Option<Arc<Entry>> {
        self.shard(session).lock().peek(&session).map(Arc::clone)
    }

    /// Returns what is known of a session; begins with `new` if nothing is. Evicts others if that takes too much memory:
    /// clients can name as many sessions as they like, without one that ever saves anything.
    pub fn find_or_insert(&self, session: SessionRef, now: u64, new: impl FnOnce() -> Session) -> Arc<Entry> {
        let shard = self.shard(session);
        let mut entries = shard.lock();
        let mut is_new = false;
        let insert = || {
            is_new = true;
            Arc::new(Entry::new(new(), now, self.lifetime(), &self.totals))
        };
        let entry = Arc::clone(entries.get_or_insert(session, insert));
        entry.touch(now);
        shard.note_oldest(&entries);
        drop(entries);
        if is_new {
            self.evict_excess();
        }
        entry
    }

    /// Changes the limits. Excess copies are evicted as new ones arrive.
    pub fn set_limits(&self, memory: usize, lifetime: u64) {
        self.memory.store(memory, Ordering::Relaxed);
        self.lifetime.store(lifetime, Ordering::Relaxed);
    }

    /// Returns how long a session without requests is kept, in seconds.
    pub fn lifetime(&self) -> u64 {
        self.lifetime.load(Ordering::Relaxed)
    }

    /// Evicts sessions while the store exceeds its memory. Call it after something was stored. A session with a request
    /// under way only loses its copy.
    pub fn evict_excess(&self) {
        for _ in 0..MAX_EVICTED_AT_ONCE {
            if self.bytes() <= self.memory.load(Ordering::Relaxed) {
                return;
            }
            let used = |shard: &&Shard| shard.oldest.load(Ordering::Relaxed);
            let Some(shard) = self.shards.iter().min_by_key(used) else { return };
            let mut entries = shard.lock();
            let Some((session, entry)) = entries.peek_lru() else { return };
            let session = *session;
            // Only this lock's holder can make another reference.
            let had_copy = if Arc::strong_count(entry) > 1 {
                let had_copy = entry.forget_copy();
                entries.promote(&session);
                had_copy
            } else {
                entries.pop(&session).is_some_and(|entry| entry.forget_copy())
            };
            shard.note_oldest(&entries);
            if had_copy {
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Removes the sessions that have expired at `now`, in seconds since the Unix epoch. Call it periodically.
    pub fn sweep(&self, now: u64) {
        for shard in &self.shards {
            let mut entries = shard.lock();
            let is_over = |entry: &Arc<Entry>| Arc::strong_count(entry) == 1 && entry.is_expired(now);
            let over: Vec<_> =
                entries.iter().filter(|(_, entry)| is_over(entry)).map(|(session, _)| *session).collect();
            for session in over {
                entries.pop(&session);
            }
            shard.note_oldest(&entries);
        }
    }

    /// Returns the bytes of all entries and copies.
    pub fn bytes(&self) -> usize {
        self.totals.bytes()
    }

    /// Returns the number of sessions with a copy.
    pub fn copies(&self) -> usize {
        self.totals.copies()
    }

    /// Returns the number of copies that were evicted because the store was full.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn shard(&self, session: SessionRef) -> &Shard {
        // The index of the shard uses other bits.
        &self.shards[(session.words()[1] >> 48) as usize % self.shards.len()]
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, LruCache<SessionRef, Arc<Entry>>> {
        // A panic under the lock can't leave the list inconsistent: nothing in between panics.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_oldest(&self, entries: &LruCache<SessionRef, Arc<Entry>>) {
        let used = entries.peek_lru().map_or(u64::MAX, |(_, entry)| entry.used());
        if self.oldest.load(Ordering::Relaxed) != used {
            self.oldest.store(used, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::ENTRY_BYTES;
    use super::super::holder::Holder;
    use super::super::{NewState, Preparation, Version};
    use super::*;
    use bytes::Bytes;

    const SERVER: Holder = Holder { backend: 0, incarnation: 1, losses: 0 };

    fn of(n: u64) -> SessionRef {
        SessionRef::new("app", &n.to_be_bytes())
    }

    fn save(store: &CopyStore, n: u64, length: usize, now: u64) {
        let entry = store.find_or_insert(of(n), now, || Session::new(1, Some(SERVER)));
        let Preparation::Send(request) = entry.prepare(SERVER, |_| true, true, false, now, store.lifetime()) else {
            panic!("it waits")
        };
        let bytes = Bytes::from(vec![7; length]);
        let version = Version { term: 1, seq: request.claim().seq.unwrap_or(0) + 1 };
        entry.take(request.claim(), NewState::Save { version, ttl: Some(100), bytes }, now, store.lifetime());
        store.evict_excess();
    }

    fn has(store: &CopyStore, n: u64) -> bool {
        store.peek(of(n)).is_some_and(|entry| entry.view().is_held)
    }

    #[test]
    fn a_full_store_evicts_the_least_recently_used_and_counts_it() {
        let store = CopyStore::new(10 * (ENTRY_BYTES + 100), 1000);
        (0..10).for_each(|n| save(&store, n, 100, 1));
        assert_eq!((store.copies(), store.evicted()), (10, 0));
        assert_eq!(store.bytes(), 10 * (ENTRY_BYTES + 100));
        store.find(of(0), 1);
        save(&store, 10, 100, 1);
        assert!(has(&store, 0) && !has(&store, 1) && has(&store, 10));
        save(&store, 11, 5 * (ENTRY_BYTES + 100), 2);
        assert!(store.bytes() <= 10 * (ENTRY_BYTES + 100), "{}", store.bytes());
        assert!(has(&store, 11) && has(&store, 10) && has(&store, 0));
        assert_eq!(store.evicted(), 6 + 1);
    }

    #[test]
    fn sessions_that_save_nothing_are_bounded_as_well() {
        let store = CopyStore::new(10 * ENTRY_BYTES, 1000);
        for n in 0..1000 {
            drop(store.find_or_insert(of(n), 1, || Session::new(1, None)));
        }
        assert!(store.bytes() <= 10 * ENTRY_BYTES, "{}", store.bytes());
        assert_eq!(store.evicted(), 0, "no copy was lost");
    }

    #[test]
    fn a_session_with_a_request_in_flight_loses_only_its_copy() {
        let store = CopyStore::new(ENTRY_BYTES * 2 + 100, 1000);
        save(&store, 0, 100, 1);
        let entry = store.find(of(0), 1).unwrap();
        let Preparation::Send(slow) = entry.prepare(SERVER, |_| true, true, false, 1, 1000) else { panic!("it waits") };
        drop(entry);
        save(&store, 1, 100, 2);
        assert!(!has(&store, 0) && has(&store, 1));
        let entry = store.find(of(0), 2).unwrap();
        assert_eq!(entry.view().version, Version { term: 1, seq: 1 }, "an older state still loses");
        drop((slow, entry));
    }

    #[test]
    fn a_session_expires_after_the_shorter_of_its_times_without_a_request() {
        for (lifetime, end) in [(1000, 100), (50, 50)] {
            let store = CopyStore::new(1 << 20, lifetime);
            save(&store, 0, 100, 10);
            store.sweep(10 + end - 1);
            let entry = store.find(of(0), 10 + end - 1).unwrap();
            drop(entry.prepare(SERVER, |_| true, true, false, 10 + end - 1, lifetime));
            drop(entry);
            store.sweep(10 + end);
            assert!(has(&store, 0), "the request has touched it");
            let entry = store.find(of(0), 10 + 2 * end - 1).unwrap();
            assert!(
                matches!(entry.prepare(SERVER, |_| true, true, false, 10 + 2 * end - 1, lifetime), Preparation::Send(sent) if sent.claim().seq.is_none())
            );
            drop(entry);
            store.sweep(10 + 10 * end);
            assert!(store.peek(of(0)).is_none() && store.bytes() == 0 && store.copies() == 0);
        }
    }

    #[test]
    fn a_hand_over_that_nobody_ends_wakes_those_that_wait_for_it() {
        let store = CopyStore::new(1 << 20, 1000);
        save(&store, 0, 100, 1);
        let entry = store.find(of(0), 1).unwrap();
        let other = Holder { backend: 1, ..SERVER };
        let Preparation::Give(offer) = entry.prepare(other, |_| false, true, false, 1, 1000) else {
            panic!("nothing is given")
        };
        assert_eq!((offer.version(), offer.bytes().len()), (Version { term: 2, seq: 1 }, 100));
        let Preparation::Wait(_, changed) = entry.prepare(other, |_| false, true, false, 1, 1000) else {
            panic!("it does not wait")
        };
        let mut changed = std::pin::pin!(changed);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(changed.as_mut().poll(&mut cx).is_pending());
        drop(offer);
        assert!(changed.as_mut().poll(&mut cx).is_ready());
        assert!(matches!(entry.prepare(other, |_| false, true, false, 1, 1000), Preparation::Give(_)));
    }
}
