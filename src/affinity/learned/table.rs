//! Owns: the table of learned sessions: which server holds the session of an id.
//! Invariant: never more than its capacity; when it is full, the session that was seen least recently goes.
//! Must not know: requests, pools; what an id was before it was hashed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::entries::{Entries, Entry, NIL};

/// 128 bits of a hash of the pool's name and an application's session id: whoever reads the table,
/// a core dump or the shared store finds no id that a server would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub(in crate::affinity) [u64; 2]);

impl Key {
    /// Names the session in logs, and decides where it moves; the same in every Linchpin.
    pub fn session(self) -> u64 {
        self.0[0]
    }
}

/// 32 hex digits.
impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

/// What a key's `Display` writes.
impl std::str::FromStr for Key {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Key, Self::Err> {
        let (high, low) = text.split_at_checked(16).unwrap_or((text, ""));
        Ok(Key([u64::from_str_radix(high, 16)?, u64::from_str_radix(low, 16)?]))
    }
}

/// A server, in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Home {
    /// Its name.
    pub backend: Arc<str>,
    /// The life of its address.
    pub incarnation: u64,
}

/// What is known of a session. Times are seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The server that holds it.
    pub home: Home,
    /// When it began.
    pub issued: u64,
    /// When it was seen last.
    pub last_seen: u64,
    /// Counts its moves, from 1: of two Linchpins that say different things, the higher one is
    /// right, whatever their clocks say.
    pub version: u32,
}

/// What is known of a session, as numbers that mean something to their table alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    home: u32,
    issued: u32,
    seen: u32,
    version: u32,
}

/// The sessions of one pool. A session is looked up under the lock of its shard, held for some
/// dozen instructions: a table that all threads write can't be without one, and with as many shards
/// two threads hardly ever meet in one.
#[derive(Debug)]
pub struct Table {
    capacity: AtomicUsize,
    shards: Box<[Shard]>,
    /// Every home that an entry may name, by number. Grows with the servers that a pool ever had.
    homes: ArcSwap<Vec<Home>>,
    numbers: Mutex<HashMap<Home, u32>>,
    length: AtomicUsize,
    evicted: AtomicU64,
    stamp: AtomicU64,
}

/// Apart from its neighbours' cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    entries: Mutex<Entries>,
    /// How often a session of it was forgotten; counted with the lock.
    forgotten: AtomicU64,
    /// The stamp of its oldest entry, [`u64::MAX`] if it has none: for whoever looks for the oldest of all.
    oldest: AtomicU64,
}

const MAX_SHARDS: usize = 256;
/// Servers, in all their lives, that a table can tell apart.
const MOST_HOMES: u32 = 65_536;
/// Entries per shard below which there are fewer shards: a small table evicts exactly.
const MIN_PER_SHARD: usize = 1024;

impl Table {
    /// An empty table for at most `capacity` sessions.
    pub fn new(capacity: usize) -> Table {
        let shards = (capacity / MIN_PER_SHARD).clamp(1, MAX_SHARDS).next_power_of_two().min(MAX_SHARDS);
        let shard =
            || Shard { entries: Mutex::default(), forgotten: AtomicU64::new(0), oldest: AtomicU64::new(u64::MAX) };
        Table {
            capacity: AtomicUsize::new(capacity.max(1)),
            shards: (0..shards).map(|_| shard()).collect(),
            homes: ArcSwap::default(),
            numbers: Mutex::default(),
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
    pub fn get(&self, key: Key) -> Option<Found> {
        self.unfold(&self.look(key)?)
    }

    /// What is known of a session, as numbers: for whoever compares it with what it was.
    pub fn look(&self, key: Key) -> Option<Glance> {
        let entries = self.shard(key).lock();
        let Entry { home, issued, seen, version, .. } = *entries.get(entries.find(key)?)?;
        Some(Glance { home, issued, seen, version })
    }

    /// What the numbers stand for.
    pub fn unfold(&self, glance: &Glance) -> Option<Found> {
        let home = self.homes.load().get(glance.home as usize)?.clone();
        let (issued, last_seen) = (u64::from(glance.issued), u64::from(glance.seen));
        Some(Found { home, issued, last_seen, version: glance.version })
    }

    /// Notes that a session was seen at `now`. Says whether the store should be told, which is when
    /// `quarter` seconds have passed since it was. Writes nothing twice within a second.
    pub fn touch(&self, key: Key, now: u64, quarter: u64) -> bool {
        let (now, shard) = (seconds(now), self.shard(key));
        let mut entries = shard.lock();
        let Some(at) = entries.find(key) else { return false };
        // Not what is a second ahead: threads read the clock at different moments. What is further ahead was
        // written before the clock was set back, and would be over much too late.
        let is_due = |entry: &&mut Entry| entry.seen < now || entry.seen > now.saturating_add(1);
        let Some(entry) = entries.get_mut(at).filter(is_due) else { return false };
        entry.seen = now;
        (entry.issued, entry.told) = (entry.issued.min(now), entry.told.min(now));
        let tell = u64::from(now.saturating_sub(entry.told)) >= quarter;
        if tell {
            entry.told = now;
        }
        entry.stamp = self.next_stamp();
        entries.make_newest(at);
        shard.note_oldest(&entries);
        tell
    }

    /// Learns, or changes, which server holds a session, at `now`, and when it began; where that is
    /// not said, what is known of it stays. What it holds already only counts as seen. Gives the
    /// entry if it is new or has changed.
    pub fn set(&self, key: Key, home: &Home, issued: Option<u64>, now: u64) -> Option<Found> {
        let issued = issued.map(seconds);
        let number = self.number(home);
        let shard = self.shard(key);
        let mut entries = shard.lock();
        let changed = match entries.find(key) {
            Some(at) => {
                let stamp = self.next_stamp();
                let entry = entries.get_mut(at)?;
                // Of two requests that find a session over, the later one has begun it.
                let issued = issued.unwrap_or(0).max(entry.issued);
                let changed = (entry.home, entry.issued) != (number, issued);
                if changed {
                    (entry.home, entry.issued) = (number, issued);
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
        self.shrink();
        self.found(&changed?)
    }

    /// Takes over what the store says of a session. It took the first of two that moved it at the
    /// same time, and is right where both have moved it as often.
    pub fn adopt(&self, key: Key, found: &Found) {
        self.adopt_if(key, found, |_| true);
    }

    /// The same, unless a session was forgotten since [`Table::forgotten`] said `before`: what was asked
    /// before the end of a session can come after it.
    pub fn adopt_as_of(&self, key: Key, found: &Found, before: u64) {
        self.adopt_if(key, found, |shard| shard.forgotten.load(Ordering::Relaxed) == before);
    }

    /// Grows when a session is forgotten, this one or one of its neighbours.
    pub fn forgotten(&self, key: Key) -> u64 {
        self.shard(key).forgotten.load(Ordering::Relaxed)
    }

    fn adopt_if(&self, key: Key, found: &Found, is_true: impl FnOnce(&Shard) -> bool) {
        let number = self.number(&found.home);
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
                        (known.home, known.version, known.issued) = (number, entry.version, entry.issued);
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
        self.shrink();
    }

    /// Forgets a session; says whether it was known.
    pub fn forget(&self, key: Key) -> bool {
        let shard = self.shard(key);
        let mut entries = shard.lock();
        shard.forgotten.fetch_add(1, Ordering::Relaxed);
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
    pub fn chunks(&self) -> impl Iterator<Item = Vec<(Key, Found)>> {
        self.shards.iter().map(|shard| {
            let entries: Vec<Entry> = shard.lock().iter().copied().collect();
            entries.iter().filter_map(|entry| Some((Key(entry.key), self.found(entry)?))).collect()
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
    fn shrink(&self) {
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

    fn shard(&self, key: Key) -> &Shard {
        // The low bits find the place within a shard.
        &self.shards[(key.0[1] >> 48) as usize % self.shards.len()]
    }

    fn entry(&self, key: Key, home: u32, issued: u32, now: u32, version: u32) -> Entry {
        let stamp = self.next_stamp();
        Entry { key: key.0, stamp, issued, seen: now, told: now, version, home, newer: NIL, older: NIL }
    }

    fn next_stamp(&self) -> u64 {
        self.stamp.fetch_add(1, Ordering::Relaxed)
    }

    fn found(&self, entry: &Entry) -> Option<Found> {
        let Entry { home, issued, seen, version, .. } = *entry;
        self.unfold(&Glance { home, issued, seen, version })
    }

    /// The number of a home. Locks for a moment: a session is learned or moved.
    fn number(&self, home: &Home) -> u32 {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = numbers.get(home) {
            return *number;
        }
        let mut homes = Vec::clone(&self.homes.load());
        // A store that is full of made-up servers is not to fill the memory, too.
        let number = u32::try_from(homes.len()).ok().filter(|number| *number < MOST_HOMES).unwrap_or(NIL);
        if number == NIL {
            return NIL;
        }
        homes.push(home.clone());
        self.homes.store(Arc::new(homes));
        numbers.insert(home.clone(), number);
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

    fn key(n: u64) -> Key {
        Key([mix(2 * n + 1), mix(2 * n + 2)])
    }

    fn home(name: &str) -> Home {
        Home { backend: name.into(), incarnation: 1 }
    }

    #[test]
    fn a_session_is_found_moved_and_forgotten() {
        let table = Table::new(10);
        assert_eq!(table.get(key(1)), None);
        let learned = table.set(key(1), &home("a"), Some(100), 100).unwrap();
        assert_eq!((learned.home, learned.version), (home("a"), 1));
        assert_eq!(table.set(key(1), &home("a"), Some(100), 150), None, "known already");
        let moved = table.set(key(1), &home("b"), Some(100), 200).unwrap();
        assert_eq!((&moved.home, moved.issued, moved.last_seen, moved.version), (&home("b"), 100, 200, 2));
        assert_eq!(table.get(key(1)), Some(moved));
        assert!(table.forget(key(1)) && !table.forget(key(1)));
        assert_eq!((table.get(key(1)), table.len()), (None, 0));
    }

    #[test]
    fn what_was_asked_before_a_session_ended_does_not_bring_it_back() {
        let table = Table::new(10);
        let found = table.set(key(1), &home("a"), Some(100), 100).unwrap();
        let before = table.forgotten(key(1));
        table.adopt_as_of(key(1), &found, before);
        assert!(table.forget(key(1)));
        table.adopt_as_of(key(1), &found, before);
        assert_eq!(table.get(key(1)), None);
        // Forgotten before it was known here: another Linchpin's word comes before the store's answer.
        let before = table.forgotten(key(1));
        assert!(!table.forget(key(1)));
        table.adopt_as_of(key(1), &found, before);
        assert_eq!(table.get(key(1)), None);
        table.adopt_as_of(key(1), &found, table.forgotten(key(1)));
        assert!(table.get(key(1)).is_some());
    }

    #[test]
    fn a_session_that_begins_anew_is_as_young_as_that_and_one_that_is_given_out_again_as_old_as_it_was() {
        let table = Table::new(10);
        table.set(key(1), &home("a"), None, 100);
        assert_eq!(table.set(key(1), &home("a"), None, 150), None);
        assert_eq!(table.get(key(1)).unwrap().issued, 100);
        let anew = table.set(key(1), &home("a"), Some(200), 200).unwrap();
        assert_eq!((anew.issued, anew.version), (200, 2), "the others have to know");
    }

    #[test]
    fn when_it_is_full_the_session_seen_least_recently_goes_and_is_counted() {
        for capacity in [3, 5000] {
            let table = Table::new(capacity);
            for n in 0..capacity as u64 {
                table.set(key(n), &home("a"), Some(0), 100);
            }
            table.touch(key(0), 101, 1000);
            for n in 0..2 {
                table.set(key(capacity as u64 + n), &home("b"), Some(0), 100);
            }
            assert_eq!((table.len(), table.evicted()), (capacity, 2));
            assert!(table.get(key(0)).is_some(), "it was seen again");
            assert!(table.get(key(1)).is_none() && table.get(key(2)).is_none());
        }
    }

    #[test]
    fn seeing_a_session_is_written_once_a_second_and_told_once_a_quarter() {
        let table = Table::new(10);
        table.set(key(1), &home("a"), Some(100), 100);
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
        let table = Table::new(10);
        table.set(key(1), &home("a"), Some(900), 1000);
        assert!(!table.touch(key(1), 999, 10), "another thread's clock");
        assert_eq!(table.get(key(1)).unwrap().last_seen, 1000);
        assert!(!table.touch(key(1), 500, 10));
        let known = table.get(key(1)).unwrap();
        assert_eq!((known.issued, known.last_seen), (500, 500));
        assert!(table.touch(key(1), 510, 10), "it is told of as ever");
    }

    #[test]
    fn what_another_says_is_adopted_unless_it_has_moved_less_often() {
        let table = Table::new(10);
        let says = |name, version| Found { home: home(name), issued: 5, last_seen: 100, version };
        table.adopt(key(1), &says("a", 3));
        table.adopt(key(1), &says("b", 3));
        assert_eq!(table.get(key(1)).unwrap().home, home("b"));
        table.adopt(key(1), &says("a", 2));
        assert_eq!(table.get(key(1)).unwrap().home, home("b"));
        table.adopt(key(1), &says("c", 4));
        assert_eq!(table.get(key(1)).unwrap(), says("c", 4));
        assert_eq!(table.set(key(1), &home("d"), Some(0), 100).unwrap().version, 5);
    }

    #[test]
    fn silent_sessions_are_swept_and_their_places_used_again() {
        let table = Table::new(1000);
        for n in 0..100 {
            table.set(key(n), &home("a"), Some(0), n);
        }
        let bytes = table.bytes();
        table.sweep(60);
        assert_eq!(table.len(), 40);
        assert!(table.get(key(59)).is_none() && table.get(key(60)).is_some());
        for n in 100..160 {
            table.set(key(n), &home("a"), Some(0), n);
        }
        assert_eq!((table.len(), table.bytes(), table.evicted()), (100, bytes, 0));
        assert_eq!(table.chunks().map(|chunk| chunk.len()).sum::<usize>(), 100);
    }

    #[test]
    fn a_million_sessions_take_less_than_a_hundred_bytes_each() {
        let table = Table::new(1_000_000);
        for n in 0..1_000_000 {
            table.set(key(n), &home("a"), Some(0), 1);
        }
        assert_eq!(table.len(), 1_000_000);
        let each = table.bytes() / 1_000_000;
        assert!(each < 100, "{each} bytes a session");
    }

    #[test]
    fn made_up_servers_do_not_fill_the_memory() {
        let table = Table::new(10);
        table.set(key(1), &home("a"), Some(0), 1);
        for n in 1..=u64::from(MOST_HOMES) {
            table.numbers.lock().unwrap().insert(Home { backend: "x".into(), incarnation: n }, NIL);
        }
        let mut homes = Vec::clone(&table.homes.load());
        homes.resize(MOST_HOMES as usize, home("x"));
        table.homes.store(Arc::new(homes));
        table.adopt(key(2), &Found { home: home("made up"), issued: 0, last_seen: 1, version: 1 });
        assert_eq!((table.get(key(2)), table.homes.load().len()), (None, MOST_HOMES as usize));
        assert_eq!(table.get(key(1)).unwrap().home, home("a"));
    }

    #[test]
    fn a_key_is_written_and_read_back() {
        let key = key(7);
        assert_eq!(key.to_string().parse(), Ok(key));
        for bad in ["", "12", "+0000000000000000000000000000000z"] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }

    #[test]
    fn threads_that_work_on_it_at_once_leave_it_whole() {
        let table = Table::new(2000);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let table = &table;
                scope.spawn(move || {
                    for n in 0..5000 {
                        let key = key(mix(thread * 10_000 + n) % 3000);
                        table.set(key, &home(["a", "b"][n as usize % 2]), Some(0), n);
                        table.touch(key, n + 1, 5);
                        if n % 7 == 0 {
                            table.forget(key);
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
