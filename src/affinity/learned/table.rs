//! Owns: the table of learned sessions: which backend holds which session.
//! Invariant: the table never exceeds its capacity; a full table evicts the session that was seen least recently.
//! Must not know: requests, pools, or the id that was hashed into a key.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::entries::{Entries, NIL, SessionEntry};
use super::interned::Interned;
use super::record::{BackendRef, Placement, SessionKey, SessionRecord};
use crate::change_feed::ChangeFeed;

/// A session's entry as numbers. Only the table that returned it can resolve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawEntry {
    backend: u32,
    issued: u32,
    seen: u32,
    version: u32,
    term: u32,
    replica: u32,
}

impl RawEntry {
    fn of(entry: &SessionEntry) -> RawEntry {
        let SessionEntry { backend, issued, seen, version, term, replica, .. } = *entry;
        RawEntry { backend, issued, seen, version, term, replica }
    }
}

/// The sessions of one pool. A lookup takes the lock of the session's shard for some dozen instructions: a table that
/// all threads write needs a lock, and with so many shards two threads rarely want the same one.
#[derive(Debug)]
pub struct SessionTable {
    capacity: AtomicUsize,
    shards: Box<[Shard]>,
    /// The backends that entries refer to, in all their incarnations.
    backends: Interned<BackendRef>,
    /// The names of the replicas that entries refer to.
    replicas: Interned<Arc<str>>,
    length: AtomicUsize,
    evicted: AtomicU64,
    stamp: AtomicU64,
    /// For another process that serves the same clients.
    changes: ChangeFeed<SessionKey>,
}

/// Aligned so that two shards share no cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    entries: Mutex<Entries>,
    /// How many sessions of the shard were removed. Written under the lock.
    removals: AtomicU64,
    /// The stamp of the shard's oldest entry, or [`u64::MAX`] without one. Eviction compares the shards by it.
    oldest: AtomicU64,
}

const MAX_SHARDS: usize = 256;
/// The fewest entries per shard: a small table has fewer shards, so that it evicts exactly.
const MIN_PER_SHARD: usize = 1024;

impl SessionTable {
    /// Creates an empty table for at most `capacity` sessions.
    pub fn new(capacity: usize) -> SessionTable {
        let shards = (capacity / MIN_PER_SHARD).clamp(1, MAX_SHARDS).next_power_of_two().min(MAX_SHARDS);
        let shard =
            || Shard { entries: Mutex::default(), removals: AtomicU64::new(0), oldest: AtomicU64::new(u64::MAX) };
        SessionTable {
            capacity: AtomicUsize::new(capacity.max(1)),
            shards: (0..shards).map(|_| shard()).collect(),
            backends: Interned::default(),
            replicas: Interned::default(),
            length: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
            changes: ChangeFeed::default(),
        }
    }

    /// Returns what follows the sessions that are learned, moved or removed.
    pub fn changes(&self) -> &ChangeFeed<SessionKey> {
        &self.changes
    }

    /// Changes the capacity. Excess sessions are evicted as new ones arrive.
    pub fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity.max(1), Ordering::Relaxed);
    }

    /// The record of a session.
    pub fn get(&self, key: SessionKey) -> Option<SessionRecord> {
        self.resolve(&self.get_raw(key)?)
    }

    /// The raw entry of a session, for comparison with an earlier one.
    pub fn get_raw(&self, key: SessionKey) -> Option<RawEntry> {
        let entries = self.shard(key).lock();
        Some(RawEntry::of(entries.get(entries.find(key)?)?))
    }

    /// The record that a raw entry stands for.
    pub fn resolve(&self, raw: &RawEntry) -> Option<SessionRecord> {
        let (issued, last_seen) = (u64::from(raw.issued), u64::from(raw.seen));
        let (backend, replica) = (self.backends.get(raw.backend)?, self.replicas.get(raw.replica));
        Some(SessionRecord { backend, issued, last_seen, version: raw.version, term: raw.term, replica })
    }

    /// Records that a session was seen at `now`. Returns whether the store should be touched: once `interval` seconds
    /// have passed since the last time. Writes at most once a second.
    pub fn touch(&self, key: SessionKey, now: u64, interval: u64) -> bool {
        let (now, shard) = (seconds(now), self.shard(key));
        let mut entries = shard.lock();
        let Some(at) = entries.find(key) else { return false };
        // An entry that is one second ahead is left alone: threads read the clock at different moments. An entry that
        // is further ahead was written before the clock was set back, and would expire much too late.
        let is_due = |entry: &&mut SessionEntry| entry.seen < now || entry.seen > now.saturating_add(1);
        let Some(entry) = entries.get_mut(at).filter(is_due) else { return false };
        entry.seen = now;
        (entry.issued, entry.synced) = (entry.issued.min(now), entry.synced.min(now));
        let is_sync_due = u64::from(now.saturating_sub(entry.synced)) >= interval;
        if is_sync_due {
            entry.synced = now;
        }
        entry.stamp = self.next_stamp();
        entries.make_newest(at);
        shard.note_oldest(&entries);
        is_sync_due
    }

    /// Sets where a session is held, at `now`, and when the session began; `None` keeps the known start. A lower term
    /// than the known one comes from an older request, and changes neither term nor replica. An entry that says the same
    /// already is only marked as seen. Returns the record if it is new or has changed.
    pub fn set(
        &self,
        key: SessionKey,
        placement: Placement<'_>,
        issued: Option<u64>,
        now: u64,
    ) -> Option<SessionRecord> {
        let issued = issued.map(seconds);
        let (backend, replica) = self.numbers(placement);
        let shard = self.shard(key);
        let mut entries = shard.lock();
        let changed = match entries.find(key) {
            Some(at) => {
                let stamp = self.next_stamp();
                let entry = entries.get_mut(at)?;
                // Of two requests that find a session expired, the later one begins the new session.
                let issued = issued.unwrap_or(0).max(entry.issued);
                let (term, replica) =
                    if placement.term < entry.term { (entry.term, entry.replica) } else { (placement.term, replica) };
                let state = (backend, issued, term, replica);
                let changed = (entry.backend, entry.issued, entry.term, entry.replica) != state;
                if changed {
                    (entry.backend, entry.issued, entry.term, entry.replica) = state;
                    entry.version = entry.version.saturating_add(1);
                }
                (entry.seen, entry.stamp) = (seconds(now), stamp);
                let entry = *entry;
                entries.make_newest(at);
                changed.then_some(entry)
            }
            None => {
                let (term, issued, seen) = (placement.term, issued.unwrap_or(seconds(now)), seconds(now));
                let raw = RawEntry { backend, issued, seen, version: 1, term, replica };
                let entry = self.entry(key, raw);
                entries.insert(entry);
                self.length.fetch_add(1, Ordering::Relaxed);
                Some(entry)
            }
        };
        shard.note_oldest(&entries);
        drop(entries);
        self.evict_excess();
        self.resolve(&RawEntry::of(&changed?))
    }

    /// Adopts the record of a session from another process that serves the same clients, if it has a higher version.
    pub fn adopt_newer(&self, key: SessionKey, record: &SessionRecord) {
        let known = self.get(key).map_or(0, |known| known.version);
        if known < record.version {
            self.adopt(key, record);
            self.changes.announce(key);
        }
    }

    /// Adopts the store's record of a session, unless the table has a higher version. A term never falls. Of two Linchpins that moved a
    /// session at the same time the store accepted the first, so the store is right where the versions are equal.
    pub fn adopt(&self, key: SessionKey, record: &SessionRecord) {
        self.adopt_if(key, record, |_| true);
    }

    /// Adopts the store's record like [`SessionTable::adopt`], unless a session of the shard was removed since
    /// [`SessionTable::removals`] returned `before`: a reply can arrive after the end of its session.
    pub fn adopt_unless_removed(&self, key: SessionKey, record: &SessionRecord, before: u64) {
        self.adopt_if(key, record, |shard| shard.removals.load(Ordering::Relaxed) == before);
    }

    /// Counts the removals in the session's shard.
    pub fn removals(&self, key: SessionKey) -> u64 {
        self.shard(key).removals.load(Ordering::Relaxed)
    }

    fn adopt_if(&self, key: SessionKey, record: &SessionRecord, condition: impl FnOnce(&Shard) -> bool) {
        let (backend, replica) = self.numbers(record.placement());
        let shard = self.shard(key);
        let mut entries = shard.lock();
        if !condition(shard) {
            return;
        }
        let (issued, seen) = (seconds(record.issued), seconds(record.last_seen));
        let raw = RawEntry { backend, issued, seen, version: record.version, term: record.term, replica };
        match entries.find(key) {
            Some(at) => {
                if let Some(known) = entries.get_mut(at) {
                    known.seen = known.seen.max(seen);
                    if known.version <= raw.version {
                        (known.backend, known.version, known.issued) = (backend, raw.version, issued);
                        (known.term, known.replica) = (known.term.max(raw.term), replica);
                    }
                }
            }
            None => {
                entries.insert(self.entry(key, raw));
                self.length.fetch_add(1, Ordering::Relaxed);
            }
        }
        shard.note_oldest(&entries);
        drop(entries);
        self.evict_excess();
    }

    /// Removes a session. Returns whether the table had it.
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

    /// Removes the sessions that were last seen before `since`. Call it periodically.
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

    /// Iterates over all sessions, some thousands at a time. Does not stop concurrent changes.
    pub fn chunks(&self) -> impl Iterator<Item = Vec<(SessionKey, SessionRecord)>> {
        self.shards.iter().map(|shard| {
            let entries: Vec<SessionEntry> = shard.lock().iter().copied().collect();
            entries
                .iter()
                .filter_map(|entry| Some((SessionKey(entry.key), self.resolve(&RawEntry::of(entry))?)))
                .collect()
        })
    }

    /// The number of sessions.
    pub fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of sessions that were evicted because the table was full.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// The allocated bytes.
    pub fn bytes(&self) -> usize {
        let shards = self.shards.iter().map(|shard| shard.lock().bytes());
        shards.sum::<usize>() + std::mem::size_of_val(&*self.shards)
    }

    /// Evicts sessions while the table exceeds its capacity.
    fn evict_excess(&self) {
        while self.len() > self.capacity.load(Ordering::Relaxed) {
            let stamp = |shard: &&Shard| shard.oldest.load(Ordering::Relaxed);
            let Some(shard) = self.shards.iter().min_by_key(stamp) else { return };
            let mut entries = shard.lock();
            // Another thread may have evicted the entry first.
            let Some(at) = entries.oldest else { return };
            entries.remove(at);
            shard.note_oldest(&entries);
            self.length.fetch_sub(1, Ordering::Relaxed);
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn shard(&self, key: SessionKey) -> &Shard {
        // The index of the shard uses the low bits.
        &self.shards[(key.0[1] >> 48) as usize % self.shards.len()]
    }

    fn entry(&self, key: SessionKey, raw: RawEntry) -> SessionEntry {
        let RawEntry { backend, issued, seen, version, term, replica } = raw;
        let (stamp, synced, newer, older) = (self.next_stamp(), seen, NIL, NIL);
        SessionEntry { key: key.0, stamp, issued, seen, synced, version, backend, term, replica, newer, older }
    }

    fn next_stamp(&self) -> u64 {
        self.stamp.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the numbers of the backend and of the replica. Takes a lock, but only when a session is learned or moved.
    fn numbers(&self, placement: Placement<'_>) -> (u32, u32) {
        let replica = placement.replica.map_or(NIL, |name| self.replicas.number(name, |name| name.into()));
        (self.backends.number(placement.backend, BackendRef::clone), replica)
    }
}

fn seconds(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // After a panic under the lock the list is at worst incomplete.
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
    use crate::pool::hash::mix;

    fn key(n: u64) -> SessionKey {
        SessionKey([mix(2 * n + 1), mix(2 * n + 2)])
    }

    fn backend_ref(name: &str) -> BackendRef {
        BackendRef { name: name.into(), incarnation: 1 }
    }

    /// Sets the backend of a session without term and replica.
    fn set(table: &SessionTable, key: SessionKey, name: &str, issued: Option<u64>, now: u64) -> Option<SessionRecord> {
        table.set(key, Placement { backend: &backend_ref(name), term: 0, replica: None }, issued, now)
    }

    #[test]
    fn a_session_is_found_moved_and_forgotten() {
        let table = SessionTable::new(10);
        assert_eq!(table.get(key(1)), None);
        let learned = set(&table, key(1), "a", Some(100), 100).unwrap();
        assert_eq!((learned.backend, learned.version), (backend_ref("a"), 1));
        assert_eq!(set(&table, key(1), "a", Some(100), 150), None, "known already");
        let moved = set(&table, key(1), "b", Some(100), 200).unwrap();
        assert_eq!((&moved.backend, moved.issued, moved.last_seen, moved.version), (&backend_ref("b"), 100, 200, 2));
        assert_eq!(table.get(key(1)), Some(moved));
        assert!(table.remove(key(1)) && !table.remove(key(1)));
        assert_eq!((table.get(key(1)), table.len()), (None, 0));
    }

    #[test]
    fn a_reply_to_a_query_from_before_a_sessions_end_does_not_restore_it() {
        let table = SessionTable::new(10);
        let record = set(&table, key(1), "a", Some(100), 100).unwrap();
        let before = table.removals(key(1));
        table.adopt_unless_removed(key(1), &record, before);
        assert!(table.remove(key(1)));
        table.adopt_unless_removed(key(1), &record, before);
        assert_eq!(table.get(key(1)), None);
        // Removed before it was known here: another Linchpin's message arrives before the store's reply.
        let before = table.removals(key(1));
        assert!(!table.remove(key(1)));
        table.adopt_unless_removed(key(1), &record, before);
        assert_eq!(table.get(key(1)), None);
        table.adopt_unless_removed(key(1), &record, table.removals(key(1)));
        assert!(table.get(key(1)).is_some());
    }

    #[test]
    fn a_session_that_begins_anew_is_as_young_as_that_and_one_that_is_given_out_again_as_old_as_it_was() {
        let table = SessionTable::new(10);
        set(&table, key(1), "a", None, 100);
        assert_eq!(set(&table, key(1), "a", None, 150), None);
        assert_eq!(table.get(key(1)).unwrap().issued, 100);
        let restarted = set(&table, key(1), "a", Some(200), 200).unwrap();
        assert_eq!((restarted.issued, restarted.version), (200, 2), "the other Linchpins have to know");
    }

    #[test]
    fn a_full_table_evicts_the_session_seen_least_recently_and_counts_it() {
        for capacity in [3, 5000] {
            let table = SessionTable::new(capacity);
            for n in 0..capacity as u64 {
                set(&table, key(n), "a", Some(0), 100);
            }
            table.touch(key(0), 101, 1000);
            for n in 0..2 {
                set(&table, key(capacity as u64 + n), "b", Some(0), 100);
            }
            assert_eq!((table.len(), table.evicted()), (capacity, 2));
            assert!(table.get(key(0)).is_some(), "it was seen again");
            assert!(table.get(key(1)).is_none() && table.get(key(2)).is_none());
        }
    }

    #[test]
    fn a_touch_is_written_once_a_second_and_sent_to_the_store_once_an_interval() {
        let table = SessionTable::new(10);
        set(&table, key(1), "a", Some(100), 100);
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
    fn a_session_from_before_the_clock_was_set_back_is_redated_and_still_expires() {
        let table = SessionTable::new(10);
        set(&table, key(1), "a", Some(900), 1000);
        assert!(!table.touch(key(1), 999, 10), "another thread's clock");
        assert_eq!(table.get(key(1)).unwrap().last_seen, 1000);
        assert!(!table.touch(key(1), 500, 10));
        let known = table.get(key(1)).unwrap();
        assert_eq!((known.issued, known.last_seen), (500, 500));
        assert!(table.touch(key(1), 510, 10), "the store is touched as usual");
    }

    #[test]
    fn a_record_is_adopted_unless_its_version_is_lower() {
        let table = SessionTable::new(10);
        let record = |name, version| SessionRecord {
            backend: backend_ref(name),
            issued: 5,
            last_seen: 100,
            version,
            term: 0,
            replica: None,
        };
        table.adopt(key(1), &record("a", 3));
        table.adopt(key(1), &record("b", 3));
        assert_eq!(table.get(key(1)).unwrap().backend, backend_ref("b"));
        table.adopt(key(1), &record("a", 2));
        assert_eq!(table.get(key(1)).unwrap().backend, backend_ref("b"));
        table.adopt(key(1), &record("c", 4));
        assert_eq!(table.get(key(1)).unwrap(), record("c", 4));
        assert_eq!(set(&table, key(1), "d", Some(0), 100).unwrap().version, 5);
    }

    #[test]
    fn idle_sessions_are_swept_and_their_slots_reused() {
        let table = SessionTable::new(1000);
        for n in 0..100 {
            set(&table, key(n), "a", Some(0), n);
        }
        let bytes = table.bytes();
        table.sweep(60);
        assert_eq!(table.len(), 40);
        assert!(table.get(key(59)).is_none() && table.get(key(60)).is_some());
        for n in 100..160 {
            set(&table, key(n), "a", Some(0), n);
        }
        assert_eq!((table.len(), table.bytes(), table.evicted()), (100, bytes, 0));
        assert_eq!(table.chunks().map(|chunk| chunk.len()).sum::<usize>(), 100);
    }

    #[test]
    fn a_million_sessions_take_less_than_a_hundred_bytes_each() {
        let table = SessionTable::new(1_000_000);
        for n in 0..1_000_000 {
            set(&table, key(n), "a", Some(0), 1);
        }
        assert_eq!(table.len(), 1_000_000);
        let each = table.bytes() / 1_000_000;
        assert!(each < 100, "{each} bytes a session");
    }

    #[test]
    fn a_changed_term_or_replica_is_a_new_version_and_an_older_term_changes_neither() {
        let table = SessionTable::new(10);
        let backend = &backend_ref("a");
        let placed = |term, replica| table.set(key(1), Placement { backend, term, replica }, None, 100);
        let known = || table.get(key(1)).map(|known| (known.term, known.replica.as_deref().map(str::to_owned)));
        assert_eq!(placed(0, None).unwrap().version, 1);
        assert_eq!(placed(2, Some("b")).unwrap().version, 2);
        assert_eq!(placed(2, Some("b")), None, "nothing changed");
        assert_eq!(placed(2, Some("c")).unwrap().version, 3);
        assert_eq!(placed(1, Some("b")), None, "an older request");
        assert_eq!(known(), Some((2, Some("c".into()))));
        let record = SessionRecord { term: 1, replica: Some("d".into()), version: 4, ..table.get(key(1)).unwrap() };
        table.adopt(key(1), &record);
        assert_eq!(known(), Some((2, Some("d".into()))), "a term never falls");
    }

    #[test]
    fn concurrent_threads_leave_the_table_consistent() {
        let table = SessionTable::new(2000);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let table = &table;
                scope.spawn(move || {
                    for n in 0..5000 {
                        let key = key(mix(thread * 10_000 + n) % 3000);
                        set(table, key, ["a", "b"][n as usize % 2], Some(0), n);
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
