//! Owns: the embedded store of a pool: what is known of each session, with its copy, found by ref.
//! Invariant: bounded in bytes; what has no state goes first, then the least recently used, and nothing goes that a
//! request under way refers to.
//! Must not know: the rules of versions, fields, connections.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::entry::Entry;
use super::rules::Session;
use super::session_ref::SessionRef;
use super::totals::Totals;
use crate::change_feed::ChangeFeed;

/// The sessions of one pool. A lookup takes the lock of the session's shard for some dozen instructions.
#[derive(Debug)]
pub struct CopyStore {
    /// The most bytes.
    memory: AtomicUsize,
    lifetime: AtomicU64,
    shards: Box<[Shard]>,
    totals: Arc<Totals>,
    evicted: AtomicU64,
    /// For another process that serves the same clients.
    changes: ChangeFeed<SessionRef>,
}

/// Aligned so that two shards share no cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    entries: Mutex<Entries>,
    /// When the least recently used entry of each list was used, or [`u64::MAX`] without one. Eviction compares the
    /// shards by it.
    oldest: [AtomicU64; 2],
}

/// The sessions of a shard, in two lists: clients can name as many sessions as they like, and those must not evict what
/// an application has saved.
#[derive(Debug)]
struct Entries {
    /// Indexed by [`List`].
    lists: [LruCache<SessionRef, Arc<Entry>>; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    /// Sessions of which no state was known when they were last used.
    Blank,
    /// Sessions with a state, or with one that was lost or has ended.
    Known,
}

const MAX_SHARDS: usize = 256;
/// The fewest bytes per shard: a small store has fewer shards, so that it evicts exactly.
const MIN_PER_SHARD: usize = 1024 * 1024;
/// How many entries one call of [`CopyStore::evict_excess`] looks at. Each call brings one entry at most.
const MAX_EVICTED_AT_ONCE: usize = 256;
/// How many entries without a state it looks at in vain, since requests refer to them, before it evicts others.
const MAX_BUSY: usize = 8;

impl CopyStore {
    /// Creates an empty store of at most `memory` bytes, which forgets a session without requests after `lifetime`
    /// seconds.
    pub fn new(memory: usize, lifetime: u64) -> CopyStore {
        let shards = (memory / MIN_PER_SHARD).clamp(1, MAX_SHARDS).next_power_of_two().min(MAX_SHARDS);
        let entries = || Entries { lists: [LruCache::unbounded(), LruCache::unbounded()] };
        let shard = || Shard { entries: Mutex::new(entries()), oldest: [u64::MAX; 2].map(AtomicU64::new) };
        CopyStore {
            memory: AtomicUsize::new(memory),
            lifetime: AtomicU64::new(lifetime),
            shards: (0..shards).map(|_| shard()).collect(),
            totals: Arc::default(),
            evicted: AtomicU64::new(0),
            changes: ChangeFeed::default(),
        }
    }

    /// Returns what is known of a session, and marks it as used at `now`, in seconds since the Unix epoch.
    pub fn find(&self, session: SessionRef, now: u64) -> Option<Arc<Entry>> {
        let shard = self.shard(session);
        let mut entries = shard.lock();
        let (entry, has_moved) = entries.find(session)?;
        let was = entry.touch(now);
        // Most lookups change neither list's oldest entry: to look at it would cost cache misses.
        if has_moved || was != now && shard.may_be_oldest(was) {
            shard.note_oldest(&entries);
        }
        Some(entry)
    }

    /// Returns what is known of a session without marking it as used.
    pub fn peek(&self, session: SessionRef) -> Option<Arc<Entry>> {
        let entries = self.shard(session).lock();
        entries.lists.iter().find_map(|list| list.peek(&session)).map(Arc::clone)
    }

    /// Returns what is known of a session; begins with `new` if nothing is. Evicts others if that takes too much memory:
    /// clients can name as many sessions as they like, without one that ever saves anything.
    pub fn find_or_insert(&self, session: SessionRef, now: u64, new: impl FnOnce() -> Session) -> Arc<Entry> {
        let shard = self.shard(session);
        let mut entries = shard.lock();
        let known = entries.find(session).map(|(entry, _)| entry);
        let is_new = known.is_none();
        let entry = known.unwrap_or_else(|| {
            let entry = Arc::new(Entry::new(new(), now, self.lifetime(), &self.totals));
            entries.list(List::Blank).put(session, Arc::clone(&entry));
            entry
        });
        entry.touch(now);
        shard.note_oldest(&entries);
        drop(entries);
        if is_new {
            self.evict_excess();
        }
        entry
    }

    /// Notes that a state of the session was stored, whose entry this is if it is known, and evicts others if that takes
    /// too much memory.
    pub fn stored(&self, session: SessionRef, entry: Option<&Entry>) {
        // Its request has found it a moment ago: only the first state moves it to another list.
        if !entry.is_some_and(Entry::is_listed) {
            let shard = self.shard(session);
            let mut entries = shard.lock();
            if entries.find(session).is_some() {
                shard.note_oldest(&entries);
            }
        }
        self.changes.announce(session);
        self.evict_excess();
    }

    /// Returns what follows the sessions of which a state was stored.
    pub fn changes(&self) -> &ChangeFeed<SessionRef> {
        &self.changes
    }

    /// Iterates over all sessions with a state, a shard at a time. Does not stop concurrent changes.
    pub fn chunks(&self) -> impl Iterator<Item = Vec<SessionRef>> {
        self.shards.iter().map(|shard| {
            let entries = shard.lock();
            let [blank, known] = &entries.lists;
            let has_state = blank.iter().filter(|(_, entry)| entry.has_state());
            // The one that was used last comes last: it becomes the last to be evicted.
            known.iter().rev().chain(has_state).map(|(session, _)| *session).collect()
        })
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

    /// Evicts sessions while the store exceeds its memory: first those of which no state is known. A session with a
    /// request under way only loses its copy.
    fn evict_excess(&self) {
        let mut busy = 0;
        for _ in 0..MAX_EVICTED_AT_ONCE {
            if self.bytes() <= self.memory.load(Ordering::Relaxed) {
                return;
            }
            let list = if busy < MAX_BUSY { List::Blank } else { List::Known };
            let used = |shard: &&Shard| shard.oldest[list as usize].load(Ordering::Relaxed);
            let Some(shard) = self.shards.iter().min_by_key(used) else { return };
            let mut entries = shard.lock();
            match (entries.evict(list), list) {
                (Evicted::Nothing, List::Known) => return,
                (Evicted::Nothing, List::Blank) => busy = MAX_BUSY,
                (Evicted::Busy, _) => busy += 1,
                (Evicted::Entry, _) => {}
                (Evicted::Copy, _) => drop(self.evicted.fetch_add(1, Ordering::Relaxed)),
            }
            shard.note_oldest(&entries);
        }
    }

    /// Removes the sessions that have expired at `now`, in seconds since the Unix epoch. Call it periodically.
    pub fn sweep(&self, now: u64) {
        for shard in &self.shards {
            let mut entries = shard.lock();
            let is_over = |entry: &Arc<Entry>| Arc::strong_count(entry) == 1 && entry.is_expired(now);
            for list in &mut entries.lists {
                let over: Vec<_> =
                    list.iter().filter(|(_, entry)| is_over(entry)).map(|(session, _)| *session).collect();
                for session in over {
                    list.pop(&session);
                }
            }
            shard.note_oldest(&entries);
        }
    }

    /// Returns the sessions that have a state, or had one: each shard's when it is its turn.
    pub fn sessions(&self) -> impl Iterator<Item = Vec<SessionRef>> {
        self.shards.iter().map(|shard| {
            let entries = shard.lock();
            let all = entries.lists.iter().flatten();
            all.filter(|(_, entry)| entry.has_state()).map(|(session, _)| *session).collect()
        })
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
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic under the lock can't leave the lists inconsistent: nothing in between panics.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an entry that was last used then may be the least recently used one of a list.
    fn may_be_oldest(&self, used: u64) -> bool {
        self.oldest.iter().any(|oldest| used <= oldest.load(Ordering::Relaxed))
    }

    fn note_oldest(&self, entries: &Entries) {
        for (oldest, list) in self.oldest.iter().zip(&entries.lists) {
            let used = list.peek_lru().map_or(u64::MAX, |(_, entry)| entry.used());
            if oldest.load(Ordering::Relaxed) != used {
                oldest.store(used, Ordering::Relaxed);
            }
        }
    }
}

/// What was evicted from a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evicted {
    /// The list is empty.
    Nothing,
    /// The entry had no copy, and stays: a request refers to it, or a state of it is known by now.
    Busy,
    /// An entry without a copy.
    Entry,
    /// A copy.
    Copy,
}

impl Entries {
    fn list(&mut self, list: List) -> &mut LruCache<SessionRef, Arc<Entry>> {
        &mut self.lists[list as usize]
    }

    /// Finds a session and makes it the last one to be evicted from the list where it belongs. Returns whether it was in
    /// the other list.
    fn find(&mut self, session: SessionRef) -> Option<(Arc<Entry>, bool)> {
        if let Some(entry) = self.list(List::Known).get(&session) {
            return Some((Arc::clone(entry), false));
        }
        let entry = Arc::clone(self.list(List::Blank).get(&session)?);
        let has_moved = entry.has_state();
        if has_moved {
            self.list(List::Blank).pop(&session);
            self.list(List::Known).put(session, Arc::clone(&entry));
            entry.set_listed();
        }
        Some((entry, has_moved))
    }

    /// Evicts the first of a list.
    fn evict(&mut self, list: List) -> Evicted {
        let Some((session, entry)) = self.list(list).peek_lru() else { return Evicted::Nothing };
        let session = *session;
        // Only this lock's holder can make another reference.
        let is_busy = Arc::strong_count(entry) > 1;
        if list == List::Blank && (is_busy || entry.has_state()) {
            self.find(session);
            return Evicted::Busy;
        }
        let had_copy = entry.forget_copy();
        if is_busy {
            self.list(list).promote(&session);
        } else {
            self.list(list).pop(&session);
        }
        match (had_copy, is_busy) {
            (true, _) => Evicted::Copy,
            (false, true) => Evicted::Busy,
            (false, false) => Evicted::Entry,
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
        let version = Version { term: request.claim().term, seq: request.claim().seq.unwrap_or(0) + 1 };
        entry.take(request.claim(), NewState::Save { version, ttl: Some(100), bytes }, now, store.lifetime());
        store.stored(of(n), Some(&entry));
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
    fn of_all_shards_the_one_with_the_oldest_copy_evicts_first() {
        let store = CopyStore::new(4 * MIN_PER_SHARD, 1000);
        assert_eq!(store.shards.len(), 4);
        (0..100).for_each(|n| save(&store, n, 100_000, n));
        let first = 100 - store.copies() as u64;
        assert!(first > 50, "{first}");
        assert_eq!((0..100).filter(|n| has(&store, *n)).collect::<Vec<_>>(), (first..100).collect::<Vec<_>>());
        assert_eq!(store.evicted(), first);
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
    fn a_flood_of_unknown_sessions_evicts_no_copy_even_while_many_of_them_have_requests() {
        let store = CopyStore::new(100 * (ENTRY_BYTES + 100), 1000);
        (0..90).for_each(|n| save(&store, n, 100, n));
        let mut in_flight = std::collections::VecDeque::new();
        for n in 1000..11_000 {
            in_flight.push_back(store.find_or_insert(of(n), n, || Session::new(1, None)));
            if in_flight.len() > 5 {
                in_flight.pop_front();
            }
        }
        assert_eq!((store.copies(), store.evicted()), (90, 0));
        assert!(store.bytes() <= 100 * (ENTRY_BYTES + 100), "{}", store.bytes());
        // One of them saves something, and counts like the others from then on.
        (0..10).for_each(|n| save(&store, n, 100, 20_000));
        save(&store, 10_999, 100, 20_000);
        (100..190).for_each(|n| save(&store, n, 100, 20_001));
        assert!(has(&store, 10_999) && !has(&store, 10) && has(&store, 189));
    }

    #[test]
    fn requests_that_refer_to_all_sessions_without_a_state_do_not_keep_the_store_from_evicting() {
        let store = CopyStore::new(100 * (ENTRY_BYTES + 100), 1000);
        let slow: Vec<_> = (1000..1050).map(|n| store.find_or_insert(of(n), 1, || Session::new(1, None))).collect();
        (0..200).for_each(|n| save(&store, n, 100, 2));
        assert!(store.bytes() <= 100 * (ENTRY_BYTES + 100), "{}", store.bytes());
        assert!(has(&store, 199) && !has(&store, 100) && store.copies() > 40);
        drop(slow);
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
    fn a_session_in_use_is_not_swept_and_one_that_ended_is_remembered_as_long_as_its_pin() {
        let store = CopyStore::new(1 << 20, 1000);
        save(&store, 0, 100, 10);
        let entry = store.find(of(0), 10).unwrap();
        store.sweep(5000);
        assert!(store.peek(of(0)).is_some(), "a request under way refers to it");
        let Preparation::Send(logout) = entry.prepare(SERVER, |_| true, true, false, 10, 1000) else {
            panic!("it waits")
        };
        let version = Version { term: 1, seq: 2 };
        entry.take(logout.claim(), NewState::Drop(version), 10, 1000);
        drop((logout, entry));
        store.sweep(10 + 999);
        assert!(store.peek(of(0)).is_some_and(|entry| entry.view().dropped), "an older state would bring it back");
        store.sweep(10 + 1000);
        assert!(store.peek(of(0)).is_none());
    }

    #[test]
    fn a_copy_from_a_shared_store_lives_as_long_as_its_application_says() {
        use super::super::{Fetched, SharedState};
        let store = CopyStore::new(1 << 20, 1000);
        let entry = store.find_or_insert(of(0), 1, || Session::new(1, None));
        let prepare = |now| entry.prepare(SERVER, |_| false, true, true, now, 1000);
        let Preparation::Fetch(fetch) = prepare(1) else { panic!("no question") };
        let copy = SharedState::Held(Bytes::from_static(b"copy"), Some(50));
        fetch.end(Some(Fetched { term: 7, is_holder: true, newest: Some((Version { term: 6, seq: 3 }, copy)) }));
        let Preparation::Give(offer) = prepare(1) else { panic!("nothing is given") };
        assert_eq!((offer.version(), &offer.bytes()[..]), (Version { term: 7, seq: 3 }, &b"copy"[..]));
        offer.end(super::super::Given::Taken);
        let Preparation::Send(sent) = prepare(1 + 49) else { panic!("it waits") };
        assert_eq!(sent.claim().seq, Some(3));
        drop(sent);
        let Preparation::Fetch(fetch) = prepare(1 + 49 + 50) else { panic!("no question") };
        assert!(!fetch.is_hand_over());
        fetch.end(Some(Fetched { term: 7, is_holder: true, newest: None }));
        let Preparation::Send(sent) = prepare(1 + 49 + 50) else { panic!("it waits") };
        assert_eq!(sent.claim().seq, None, "the application has ended it by then");
    }

    #[test]
    fn a_request_knows_that_its_session_was_handed_over_before_it_was_sent() {
        let store = CopyStore::new(1 << 20, 1000);
        save(&store, 0, 100, 1);
        let entry = store.find(of(0), 1).unwrap();
        let prepare = |to| entry.prepare(to, |_| false, true, false, 1, 1000);
        let Preparation::Send(sent) = prepare(SERVER) else { panic!("it waits") };
        assert!(!sent.is_overtaken());
        let Preparation::Give(offer) = prepare(Holder { backend: 1, ..SERVER }) else { panic!("nothing is given") };
        assert!(sent.is_overtaken());
        offer.end(super::super::Given::Taken);
        assert!(sent.is_overtaken());
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

    #[test]
    fn a_client_that_leaves_during_a_query_of_the_shared_store_does_not_have_the_next_request_trust_an_old_copy() {
        let store = CopyStore::new(1 << 20, 1000);
        save(&store, 0, 100, 1);
        let entry = store.find(of(0), 1).unwrap();
        let other = Holder { backend: 1, ..SERVER };
        let ask = || entry.prepare(other, |_| false, true, true, 1, 1000);
        let Preparation::Fetch(fetch) = ask() else { panic!("no question") };
        drop(fetch);
        let Preparation::Fetch(fetch) = ask() else { panic!("the store is not queried again") };
        fetch.end(None);
        assert!(matches!(ask(), Preparation::Give(_)), "it was not reachable: the copy here has to do");
    }
}
