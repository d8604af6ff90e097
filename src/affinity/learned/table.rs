//! Owns: the table of learned sessions: which server holds the session of an id.
//! Invariant: never more than its capacity; when it is full, the session that was seen least recently goes.
//! Must not know: requests, pools; what an id was before it was hashed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::entries::{Entries, Entry, NIL};
use super::record::{BackendRef, SessionKey, SessionRecord};

/// What is known of a session, as numbers that mean something to their table alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawEntry {
    backend: u32,
    issued: u32,
    seen: u32,
    version: u32,
}

/// The sessions of one pool. A session is looked up under the lock of its shard, held for some
/// dozen instructions: a table that all threads write can't be without one, and with as many shards
/// two threads hardly ever meet in one.
#[derive(Debug)]
pub struct SessionTable {
    capacity: AtomicUsize,
    shards: Box<[Shard]>,
    /// Every home that an entry may name, by number. Grows with the servers that a pool ever had.
    backends: ArcSwap<Vec<BackendRef>>,
    backend_ids: Mutex<HashMap<BackendRef, u32>>,
    length: AtomicUsize,
    evicted: AtomicU64,
    stamp: AtomicU64,
}

/// Apart from its neighbours' cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    entries: Mutex<Entries>,
    /// How often a session of it was removed; counted with the lock.
    removals: AtomicU64,
    /// The stamp of its oldest entry, [`u64::MAX`] if it has none: for whoever looks for the oldest of all.
    oldest: AtomicU64,
}

const MAX_SHARDS: usize = 256;
/// Servers, in all their lives, that a table can tell apart.
const MAX_BACKENDS: u32 = 65_536;
/// Entries per shard below which there are fewer shards: a small table evicts exactly.
const MIN_PER_SHARD: usize = 1024;

impl SessionTable {
    /// An empty table for at most `capacity` sessions.
    pub fn new(capacity: usize) -> SessionTable {
        let shards = (capacity / MIN_PER_SHARD).clamp(1, MAX_SHARDS).next_power_of_two().min(MAX_SHARDS);
        let shard =
            || Shard { entries: Mutex::default(), removals: AtomicU64::new(0), oldest: AtomicU64::new(u64::MAX) };
        SessionTable {
            capacity: AtomicUsize::new(capacity.max(1)),
            shards: (0..shards).map(|_| shard()).collect(),
            backends: ArcSwap::default(),
            backend_ids: Mutex::default(),
            length: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
        }
    }

    /// Changes how many sessions it may hold; what is too many goes as others come.
    pub fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity.max(1), Ordering::Relaxed);
    }

    /// What is known of a session.
    pub fn get(&self, key: SessionKey) -> Option<SessionRecord> {
        self.resolve(&self.get_raw(key)?)
    }

    /// What is known of a session, as numbers: for whoever compares it with what it was.
    pub fn get_raw(&self, key: SessionKey) -> Option<RawEntry> {
        let entries = self.shard(key).lock();
        let Entry { backend, issued, seen, version, .. } = *entries.get(entries.find(key)?)?;
        Some(RawEntry { backend, issued, seen, version })
    }

    /// What the numbers stand for.
    pub fn resolve(&self, raw: &RawEntry) -> Option<SessionRecord> {
        let backend = self.backends.load().get(raw.backend as usize)?.clone();
        let (issued, last_seen) = (u64::from(raw.issued), u64::from(raw.seen));
        Some(SessionRecord { backend, issued, last_seen, version: raw.version })
    }

    /// Notes that a session was seen at `now`. Says whether the store should be told, which is when
    /// `interval` seconds have passed since it was. Writes nothing twice within a second.
    pub fn touch(&self, key: SessionKey, now: u64, interval: u64) -> bool {
        let (now, shard) = (seconds(now), self.shard(key));
        let mut entries = shard.lock();
        let Some(at) = entries.find(key) else { return false };
        // Not what is a second ahead: threads read the clock at different moments. What is further ahead was
        // written before the clock was set back, and would be over much too late.
        let is_due = |entry: &&mut Entry| entry.seen < now || entry.seen > now.saturating_add(1);
        let Some(entry) = entries.get_mut(at).filter(is_due) else { return false };
        entry.seen = now;
        (entry.issued, entry.synced) = (entry.issued.min(now), entry.synced.min(now));
        let tell = u64::from(now.saturating_sub(entry.synced)) >= interval;
        if tell {
            entry.synced = now;
        }
        entry.stamp = self.next_stamp();
        entries.make_newest(at);
        shard.note_oldest(&entries);
        tell
    }

    /// Learns, or changes, which server holds a session, at `now`, and when it began; where that is
    /// not said, what is known of it stays. What it holds already only counts as seen. Gives the
    /// entry if it is new or has changed.
    pub fn set(&self, key: SessionKey, backend: &BackendRef, issued: Option<u64>, now: u64) -> Option<SessionRecord> {
        let issued = issued.map(seconds);
        let number = self.backend_id(backend);
        let shard = self.shard(key);
        let mut entries = shard.lock();
        let changed = match entries.find(key) {
            Some(at) => {
                let stamp = self.next_stamp();
                let entry = entries.get_mut(at)?;
                // Of two requests that find a session over, the later one has begun it.
                let issued = issued.unwrap_or(0).max(entry.issued);
                let changed = (entry.backend, entry.issued) != (number, issued);
                if changed {
                    (entry.backend, entry.issued) = (number, issued);
                    entry.version = entry.version.saturating_add(1);
                }
                (entry.seen, entry.stamp) = (seconds(now), stamp);
                let entry = *entry;
                entries.make_newest(at);
                changed.then_some(entry)
            }
            None => {
                let entry = self.entry(key, number, issued.unwrap_or(seconds(now)), seconds(now), 1);
                entries.insert(entry);
                self.length.fetch_add(1, Ordering::Relaxed);
                Some(entry)
            }
        };
        shard.note_oldest(&entries);
        drop(entries);
        self.evict_excess();
        self.found(&changed?)
    }

    /// Takes over what the store says of a session. It took the first of two that moved it at the
    /// same time, and is right where both have moved it as often.
    pub fn adopt(&self, key: SessionKey, found: &SessionRecord) {
        self.adopt_if(key, found, |_| true);
    }

    /// The same, unless a session was removed since [`SessionTable::removals`] said `before`: what was asked
    /// before the end of a session can come after it.
    pub fn adopt_unless_removed(&self, key: SessionKey, found: &SessionRecord, before: u64) {
        self.adopt_if(key, found, |shard| shard.removals.load(Ordering::Relaxed) == before);
    }

    /// Grows when a session is removed, this one or one of its neighbours.
    pub fn removals(&self, key: SessionKey) -> u64 {
        self.shard(key).removals.load(Ordering::Relaxed)
    }

    fn adopt_if(&self, key: SessionKey, found: &SessionRecord, is_true: impl FnOnce(&Shard) -> bool) {
        let number = self.backend_id(&found.backend);
        let shard = self.shard(key);
        let mut entries = shard.lock();
        if !is_true(shard) {
            return;
        }
        let entry = self.entry(key, number, seconds(found.issued), seconds(found.last_seen), found.version);
        match entries.find(key) {
            Some(at) => {
                if let Some(known) = entries.get_mut(at) {
                    known.seen = known.seen.max(entry.seen);
                    if known.version <= entry.version {
                        (known.backend, known.version, known.issued) = (number, entry.version, entry.issued);
                    }
                }
            }
            None => {
                entries.insert(entry);
                self.length.fetch_add(1, Ordering::Relaxed);
            }
        }
        shard.note_oldest(&entries);
        drop(entries);
        self.evict_excess();
    }

    /// Forgets a session; says whether it was known.
    pub fn remove(&self, key: SessionKey) -> bool {
        let shard = self.shard(key);
        let mut entries = shard.lock();
        shard.removals.fetch_add(1, Ordering::Relaxed);
        let known = entries.find(key);
        if let Some(at) = known {
            entries.remove(at);
            self.length.fetch_sub(1, Ordering::Relaxed);
        }
        shard.note_oldest(&entries);
        known.is_some()
    }

    /// Forgets sessions that were not seen since `since`. Call it now and then.
    pub fn sweep(&self, since: u64) {
        for shard in &self.shards {
            let mut entries = shard.lock();
            while let Some(at) = entries.oldest {
                match entries.get(at) {
                    Some(entry) if entry.seen < seconds(since) => entries.remove(at),
                    _ => break,
                }
                self.length.fetch_sub(1, Ordering::Relaxed);
            }
            shard.note_oldest(&entries);
        }
    }

    /// All sessions, some thousands at a time: others may come or go meanwhile.
    pub fn chunks(&self) -> impl Iterator<Item = Vec<(SessionKey, SessionRecord)>> {
        self.shards.iter().map(|shard| {
            let entries: Vec<Entry> = shard.lock().iter().copied().collect();
            entries.iter().filter_map(|entry| Some((SessionKey(entry.key), self.found(entry)?))).collect()
        })
    }

    /// How many sessions it holds.
    pub fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many sessions went because it was full.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Bytes that it has allocated.
    pub fn bytes(&self) -> usize {
        let shards = self.shards.iter().map(|shard| shard.lock().bytes());
        shards.sum::<usize>() + std::mem::size_of_val(&*self.shards)
    }

    /// Evicts while it is too full.
    fn evict_excess(&self) {
        while self.len() > self.capacity.load(Ordering::Relaxed) {
            let stamp = |shard: &&Shard| shard.oldest.load(Ordering::Relaxed);
            let Some(shard) = self.shards.iter().min_by_key(stamp) else { return };
            let mut entries = shard.lock();
            // Somebody else may have been here first.
            let Some(at) = entries.oldest else { return };
            entries.remove(at);
            shard.note_oldest(&entries);
            self.length.fetch_sub(1, Ordering::Relaxed);
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn shard(&self, key: SessionKey) -> &Shard {
        // The low bits find the place within a shard.
        &self.shards[(key.0[1] >> 48) as usize % self.shards.len()]
    }

    fn entry(&self, key: SessionKey, backend: u32, issued: u32, now: u32, version: u32) -> Entry {
        let stamp = self.next_stamp();
        Entry { key: key.0, stamp, issued, seen: now, synced: now, version, backend, newer: NIL, older: NIL }
    }

    fn next_stamp(&self) -> u64 {
        self.stamp.fetch_add(1, Ordering::Relaxed)
    }

    fn found(&self, entry: &Entry) -> Option<SessionRecord> {
        let Entry { backend, issued, seen, version, .. } = *entry;
        self.resolve(&RawEntry { backend, issued, seen, version })
    }

    /// The number of a home. Locks for a moment: a session is learned or moved.
    fn backend_id(&self, backend: &BackendRef) -> u32 {
        let mut backend_ids = self.backend_ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = backend_ids.get(backend) {
            return *number;
        }
        let mut backends = Vec::clone(&self.backends.load());
        // A store that is full of made-up servers is not to fill the memory, too.
        let number = u32::try_from(backends.len()).ok().filter(|number| *number < MAX_BACKENDS).unwrap_or(NIL);
        if number == NIL {
            return NIL;
        }
        backends.push(backend.clone());
        self.backends.store(Arc::new(backends));
        backend_ids.insert(backend.clone(), number);
        number
    }
}

fn seconds(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic under the lock would leave a list that is at worst incomplete.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_oldest(&self, entries: &Entries) {
        let stamp = entries.oldest.and_then(|at| entries.get(at)).map_or(u64::MAX, |entry| entry.stamp);
        self.oldest.store(stamp, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::backend::mix;

    fn key(n: u64) -> SessionKey {
        SessionKey([mix(2 * n + 1), mix(2 * n + 2)])
    }

    fn backend_ref(name: &str) -> BackendRef {
        BackendRef { name: name.into(), incarnation: 1 }
    }

    #[test]
    fn a_session_is_found_moved_and_forgotten() {
        let table = SessionTable::new(10);
        assert_eq!(table.get(key(1)), None);
        let learned = table.set(key(1), &backend_ref("a"), Some(100), 100).unwrap();
        assert_eq!((learned.backend, learned.version), (backend_ref("a"), 1));
        assert_eq!(table.set(key(1), &backend_ref("a"), Some(100), 150), None, "known already");
        let moved = table.set(key(1), &backend_ref("b"), Some(100), 200).unwrap();
        assert_eq!((&moved.backend, moved.issued, moved.last_seen, moved.version), (&backend_ref("b"), 100, 200, 2));
        assert_eq!(table.get(key(1)), Some(moved));
        assert!(table.remove(key(1)) && !table.remove(key(1)));
        assert_eq!((table.get(key(1)), table.len()), (None, 0));
    }

    #[test]
    fn what_was_asked_before_a_session_ended_does_not_bring_it_back() {
        let table = SessionTable::new(10);
        let found = table.set(key(1), &backend_ref("a"), Some(100), 100).unwrap();
        let before = table.removals(key(1));
        table.adopt_unless_removed(key(1), &found, before);
        assert!(table.remove(key(1)));
        table.adopt_unless_removed(key(1), &found, before);
        assert_eq!(table.get(key(1)), None);
        // Forgotten before it was known here: another Linchpin's word comes before the store's answer.
        let before = table.removals(key(1));
        assert!(!table.remove(key(1)));
        table.adopt_unless_removed(key(1), &found, before);
        assert_eq!(table.get(key(1)), None);
        table.adopt_unless_removed(key(1), &found, table.removals(key(1)));
        assert!(table.get(key(1)).is_some());
    }

    #[test]
    fn a_session_that_begins_anew_is_as_young_as_that_and_one_that_is_given_out_again_as_old_as_it_was() {
        let table = SessionTable::new(10);
        table.set(key(1), &backend_ref("a"), None, 100);
        assert_eq!(table.set(key(1), &backend_ref("a"), None, 150), None);
        assert_eq!(table.get(key(1)).unwrap().issued, 100);
        let anew = table.set(key(1), &backend_ref("a"), Some(200), 200).unwrap();
        assert_eq!((anew.issued, anew.version), (200, 2), "the others have to know");
    }

    #[test]
    fn when_it_is_full_the_session_seen_least_recently_goes_and_is_counted() {
        for capacity in [3, 5000] {
            let table = SessionTable::new(capacity);
            for n in 0..capacity as u64 {
                table.set(key(n), &backend_ref("a"), Some(0), 100);
            }
            table.touch(key(0), 101, 1000);
            for n in 0..2 {
                table.set(key(capacity as u64 + n), &backend_ref("b"), Some(0), 100);
            }
            assert_eq!((table.len(), table.evicted()), (capacity, 2));
            assert!(table.get(key(0)).is_some(), "it was seen again");
            assert!(table.get(key(1)).is_none() && table.get(key(2)).is_none());
        }
    }

    #[test]
    fn seeing_a_session_is_written_once_a_second_and_told_once_a_quarter() {
        let table = SessionTable::new(10);
        table.set(key(1), &backend_ref("a"), Some(100), 100);
        let stamps = table.stamp.load(Ordering::Relaxed);
        assert!(!table.touch(key(1), 100, 10));
        assert_eq!(table.stamp.load(Ordering::Relaxed), stamps);
        assert!(!table.touch(key(1), 109, 10));
        assert!(table.touch(key(1), 110, 10));
        assert!(!table.touch(key(1), 119, 10));
        assert!(!table.touch(key(2), 119, 10), "unknown");
        assert_eq!(table.get(key(1)).unwrap().last_seen, 119);
    }

    #[test]
    fn a_session_from_before_the_clock_was_set_back_is_as_old_as_that_and_not_immortal() {
        let table = SessionTable::new(10);
        table.set(key(1), &backend_ref("a"), Some(900), 1000);
        assert!(!table.touch(key(1), 999, 10), "another thread's clock");
        assert_eq!(table.get(key(1)).unwrap().last_seen, 1000);
        assert!(!table.touch(key(1), 500, 10));
        let known = table.get(key(1)).unwrap();
        assert_eq!((known.issued, known.last_seen), (500, 500));
        assert!(table.touch(key(1), 510, 10), "it is told of as ever");
    }

    #[test]
    fn what_another_says_is_adopted_unless_it_has_moved_less_often() {
        let table = SessionTable::new(10);
        let says = |name, version| SessionRecord { backend: backend_ref(name), issued: 5, last_seen: 100, version };
        table.adopt(key(1), &says("a", 3));
        table.adopt(key(1), &says("b", 3));
        assert_eq!(table.get(key(1)).unwrap().backend, backend_ref("b"));
        table.adopt(key(1), &says("a", 2));
        assert_eq!(table.get(key(1)).unwrap().backend, backend_ref("b"));
        table.adopt(key(1), &says("c", 4));
        assert_eq!(table.get(key(1)).unwrap(), says("c", 4));
        assert_eq!(table.set(key(1), &backend_ref("d"), Some(0), 100).unwrap().version, 5);
    }

    #[test]
    fn silent_sessions_are_swept_and_their_places_used_again() {
        let table = SessionTable::new(1000);
        for n in 0..100 {
            table.set(key(n), &backend_ref("a"), Some(0), n);
        }
        let bytes = table.bytes();
        table.sweep(60);
        assert_eq!(table.len(), 40);
        assert!(table.get(key(59)).is_none() && table.get(key(60)).is_some());
        for n in 100..160 {
            table.set(key(n), &backend_ref("a"), Some(0), n);
        }
        assert_eq!((table.len(), table.bytes(), table.evicted()), (100, bytes, 0));
        assert_eq!(table.chunks().map(|chunk| chunk.len()).sum::<usize>(), 100);
    }

    #[test]
    fn a_million_sessions_take_less_than_a_hundred_bytes_each() {
        let table = SessionTable::new(1_000_000);
        for n in 0..1_000_000 {
            table.set(key(n), &backend_ref("a"), Some(0), 1);
        }
        assert_eq!(table.len(), 1_000_000);
        let each = table.bytes() / 1_000_000;
        assert!(each < 100, "{each} bytes a session");
    }

    #[test]
    fn made_up_servers_do_not_fill_the_memory() {
        let table = SessionTable::new(10);
        table.set(key(1), &backend_ref("a"), Some(0), 1);
        for n in 1..=u64::from(MAX_BACKENDS) {
            table.backend_ids.lock().unwrap().insert(BackendRef { name: "x".into(), incarnation: n }, NIL);
        }
        let mut backends = Vec::clone(&table.backends.load());
        backends.resize(MAX_BACKENDS as usize, backend_ref("x"));
        table.backends.store(Arc::new(backends));
        table.adopt(key(2), &SessionRecord { backend: backend_ref("made up"), issued: 0, last_seen: 1, version: 1 });
        assert_eq!((table.get(key(2)), table.backends.load().len()), (None, MAX_BACKENDS as usize));
        assert_eq!(table.get(key(1)).unwrap().backend, backend_ref("a"));
    }

    #[test]
    fn threads_that_work_on_it_at_once_leave_it_whole() {
        let table = SessionTable::new(2000);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let table = &table;
                scope.spawn(move || {
                    for n in 0..5000 {
                        let key = key(mix(thread * 10_000 + n) % 3000);
                        table.set(key, &backend_ref(["a", "b"][n as usize % 2]), Some(0), n);
                        table.touch(key, n + 1, 5);
                        if n % 7 == 0 {
                            table.remove(key);
                        }
                    }
                });
            }
        });
        let count: usize = table.chunks().map(|chunk| chunk.len()).sum();
        assert_eq!(count, table.len());
        assert!(count <= 2000);
    }
}
