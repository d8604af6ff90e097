//! Owns: one thread's table of the sessions that a backend has: when each was last active, and its requests in flight.
//! Invariant: its thread alone writes, any thread reads without a lock; it takes no memory before its first session.
//! Must not know: what a session is beyond a random 64-bit number; other threads' tables.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwapOption;

use super::entry::{Entry, SessionLifetime};
use crate::pool::hash::mix;

/// The most live sessions of which a table keeps each one. Of more it keeps a sample.
pub(super) const MAX_EXACT: usize = 10_000;

/// Below this many sampled sessions a table begins to keep twice the share, to be exact again later.
const FEW: usize = MAX_EXACT / 4;

const MIN_SLOTS: usize = 16;

/// In [`Slot::use_count`]: the session has left the backend.
const LEFT: u32 = 1 << 31;

/// The table of one thread. It is an open-addressed hash table, from which nothing is removed: when it fills up, its
/// thread makes another one of what is live, and publishes that.
///
/// With more than [`MAX_EXACT`] live sessions the table keeps those whose hash begins with a zero bit, then with two,
/// and so on (distinct sampling, Gibbons 2001). Compared with a HyperLogLog, which this replaces, the error is as
/// small, the union over threads as simple, and the sample says how long its sessions are idle. A session outside of
/// the sample is still kept while it has a request in flight.
#[derive(Debug, Default)]
pub(super) struct ThreadTable(ArcSwapOption<Table>);

#[derive(Debug)]
pub(super) struct Table {
    /// A power of two of them.
    slots: Box<[Slot]>,
    used: AtomicU32,
    sample: Sample,
}

/// Which sessions a table keeps. Times are in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sample {
    /// With how many zero bits the hashes of the sessions begin that can be counted.
    level: u32,
    /// The same for those that are kept: a lower number, once there are few sessions again. After one lifetime all of
    /// them were seen or have ended.
    keeps: u32,
    /// Since when more are kept than can be counted.
    since: u64,
}

#[derive(Debug, Default)]
struct Slot {
    /// The session, 0 for a free slot. Written last.
    session: AtomicU64,
    /// When its last request began or ended, in milliseconds since the Unix epoch.
    seen: AtomicU64,
    /// When its last request began, in milliseconds since the Unix epoch.
    begun: AtomicU64,
    /// When the session began, in seconds since the Unix epoch.
    issued: AtomicU32,
    /// Its requests in flight on this thread, and [`LEFT`].
    use_count: AtomicU32,
}

impl ThreadTable {
    /// Records that a request of a session begins at `now`; the session began at `issued`, in seconds.
    pub(super) fn begin(&self, session: u64, issued: u64, now: u64, lifetime: SessionLifetime) {
        self.with_slot(session, issued, now, lifetime, |slot| {
            slot.seen.store(now, Ordering::Relaxed);
            slot.begun.store(now, Ordering::Relaxed);
            let count = slot.use_count.load(Ordering::Relaxed) & !LEFT;
            slot.use_count.store(count.saturating_add(1).min(LEFT - 1), Ordering::Relaxed);
        });
    }

    /// Records that a request of a session ends at `now`.
    pub(super) fn end(&self, session: u64, now: u64) {
        let table = self.0.load();
        let Some(slot) = table.as_ref().and_then(|table| table.find(session)) else { return };
        let count = slot.use_count.load(Ordering::Relaxed);
        slot.use_count.store((count & LEFT) | (count & !LEFT).saturating_sub(1), Ordering::Relaxed);
        if count & LEFT == 0 {
            slot.seen.store(now, Ordering::Relaxed);
        }
    }

    /// Records that a session leaves the backend at `now`.
    pub(super) fn leave(&self, session: u64, now: u64, lifetime: SessionLifetime) {
        self.with_slot(session, now / 1000, now, lifetime, |slot| {
            slot.seen.store(now, Ordering::Relaxed);
            slot.use_count.store(slot.use_count.load(Ordering::Relaxed) | LEFT, Ordering::Relaxed);
        });
    }

    /// Begins with these sessions, of which none has a request in flight; they are a sample of this level (see [`level`]).
    pub(super) fn begin_with(&self, level: u32, entries: &[Entry]) {
        let sample = Sample { level, keeps: level, since: 0 };
        let table = Table::new((2 * entries.len()).next_power_of_two().max(MIN_SLOTS), sample);
        for entry in entries {
            let key = key(entry.session);
            if let Some(slot) = table.find(key).is_none().then(|| table.add(key, entry.issued.into())).flatten() {
                slot.seen.store(entry.seen, Ordering::Relaxed);
                slot.begun.store(entry.begun, Ordering::Relaxed);
            }
        }
        self.0.store(Some(Arc::new(table)));
    }

    /// Returns what is known of a session.
    pub(super) fn entry(&self, session: u64) -> Option<Entry> {
        self.0.load().as_ref()?.find(session).map(Slot::entry)
    }

    /// Returns the table as it is now.
    pub(super) fn current(&self) -> Option<Arc<Table>> {
        self.0.load_full()
    }

    /// Writes to the session's slot, which is made if there is none.
    fn with_slot(&self, session: u64, issued: u64, now: u64, lifetime: SessionLifetime, write: impl FnOnce(&Slot)) {
        let key = key(session);
        let mut table = self.0.load();
        let mut found = table.as_ref().and_then(|table| table.find(key));
        if found.is_none() {
            if table.as_ref().is_none_or(|table| table.is_full()) {
                let next = Table::after(table.as_deref(), now, lifetime);
                self.0.store(Some(Arc::new(next)));
                table = self.0.load();
            }
            found = table.as_ref().and_then(|table| table.add(key, issued));
        }
        if let Some(slot) = found {
            write(slot);
        }
    }
}

impl Table {
    /// Makes the table that follows a full one, or the first one, with a place for one more session at least.
    fn after(before: Option<&Table>, now: u64, lifetime: SessionLifetime) -> Table {
        let Some(before) = before else { return Table::new(MIN_SLOTS, Sample::default()) };
        let live = || before.entries().filter(|entry| entry.in_flight > 0 || lifetime.covers(entry, now));
        let mut by_level = [0_usize; 65];
        live().for_each(|entry| by_level[level(entry.session) as usize] += 1);
        let sample = before.sample.next(&by_level, now, lifetime);
        let kept = || live().filter(|entry| entry.in_flight > 0 || level(entry.session) >= sample.keeps);
        let next = Table::new((2 * kept().count()).next_power_of_two().max(MIN_SLOTS), sample);
        for entry in kept() {
            if let Some(slot) = next.add(entry.session, entry.issued.into()) {
                slot.seen.store(entry.seen, Ordering::Relaxed);
                slot.begun.store(entry.begun, Ordering::Relaxed);
                let left = if entry.has_left { LEFT } else { 0 };
                slot.use_count.store(entry.in_flight | left, Ordering::Relaxed);
            }
        }
        next
    }

    fn new(slots: usize, sample: Sample) -> Table {
        Table { slots: (0..slots).map(|_| Slot::default()).collect(), used: AtomicU32::new(0), sample }
    }

    /// With how many zero bits the hash of a session begins if the table counts it (see [`level`]).
    pub(super) fn level(&self) -> u32 {
        self.sample.level
    }

    /// How many entries it has.
    pub(super) fn len(&self) -> usize {
        self.used.load(Ordering::Relaxed) as usize
    }

    /// Lists all sessions, also those that have ended.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.slots.iter().filter(|slot| slot.session.load(Ordering::Acquire) != 0).map(Slot::entry)
    }

    fn is_full(&self) -> bool {
        self.len() >= self.slots.len() / 4 * 3
    }

    /// The places where a session can be, from the first one on.
    fn probe(&self, key: u64) -> impl Iterator<Item = &Slot> {
        let mask = self.slots.len() - 1;
        // The sample is drawn by the first bits of the same hash.
        let start = hash(key) as usize;
        (0..self.slots.len()).filter_map(move |step| self.slots.get(start.wrapping_add(step) & mask))
    }

    fn find(&self, session: u64) -> Option<&Slot> {
        let key = key(session);
        let place = self.probe(key).find(|slot| {
            let session = slot.session.load(Ordering::Acquire);
            session == key || session == 0
        });
        place.filter(|slot| slot.session.load(Ordering::Acquire) == key)
    }

    /// Adds a session that it doesn't have. Fails only if it is full.
    fn add(&self, key: u64, issued: u64) -> Option<&Slot> {
        let slot = self.probe(key).find(|slot| slot.session.load(Ordering::Relaxed) == 0)?;
        slot.issued.store(u32::try_from(issued).unwrap_or(u32::MAX), Ordering::Relaxed);
        slot.session.store(key, Ordering::Release);
        self.used.store(self.used.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Some(slot)
    }
}

impl Slot {
    fn entry(&self) -> Entry {
        let count = self.use_count.load(Ordering::Relaxed);
        Entry {
            session: self.session.load(Ordering::Relaxed),
            seen: self.seen.load(Ordering::Relaxed),
            begun: self.begun.load(Ordering::Relaxed),
            issued: self.issued.load(Ordering::Relaxed),
            in_flight: count & !LEFT,
            has_left: count & LEFT != 0,
        }
    }
}

impl Sample {
    /// Decides what the next table keeps. `by_level` counts the live sessions by the zero bits that their hashes begin
    /// with.
    fn next(self, by_level: &[usize; 65], now: u64, lifetime: SessionLifetime) -> Sample {
        let count = |level: u32| by_level.iter().skip(level as usize).sum::<usize>();
        let mut next = self;
        if next.keeps < next.level && now.saturating_sub(next.since) >= lifetime.idle_ms() {
            next.level = next.keeps;
        }
        if count(next.keeps) > MAX_EXACT {
            while count(next.keeps) > MAX_EXACT {
                next.keeps += 1;
            }
            next.level = next.level.max(next.keeps);
        } else if next.keeps == next.level && next.level > 0 && count(next.level) < FEW {
            (next.keeps, next.since) = (next.level - 1, now);
        }
        next
    }
}

/// Returns with how many zero bits the hash of a session begins, 0 to 64.
pub(super) fn level(session: u64) -> u32 {
    hash(key(session)).leading_zeros()
}

/// Clients can choose ids that name their backend (`route`), but not their places in the table.
fn hash(key: u64) -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(rand::random);
    mix(key ^ *SEED)
}

/// 0 marks a free slot. Two sessions of four thousand million million million share this one.
fn key(session: u64) -> u64 {
    session.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: SessionLifetime = SessionLifetime { idle: 100, absolute: None };

    fn table(sessions: std::ops::Range<u64>, now: u64) -> ThreadTable {
        let table = ThreadTable::default();
        add(&table, sessions, now);
        table
    }

    fn add(table: &ThreadTable, sessions: std::ops::Range<u64>, now: u64) {
        for session in sessions {
            table.begin(mix(session + 1), now / 1000, now, LIFETIME);
            table.end(mix(session + 1), now);
        }
    }

    fn slots(table: &ThreadTable) -> usize {
        table.current().map_or(0, |table| table.slots.len())
    }

    #[test]
    fn it_takes_no_memory_before_its_first_session_and_little_for_few() {
        let table = ThreadTable::default();
        table.end(mix(7), 5);
        assert_eq!((slots(&table), table.entry(mix(7))), (0, None));
        add(&table, 0..12, 1000);
        assert_eq!((slots(&table), size_of::<Slot>()), (16, 32));
        add(&table, 12..10_000, 1000);
        assert_eq!(table.current().unwrap().entries().count(), 10_000);
        assert!(slots(&table) <= 32_768);
    }

    #[test]
    fn a_session_is_in_flight_until_each_of_its_requests_has_ended() {
        let (table, session) = (ThreadTable::default(), mix(1));
        table.begin(session, 1, 1_000, LIFETIME);
        table.begin(session, 1, 2_000, LIFETIME);
        table.end(session, 3_000);
        let entry = table.entry(session).unwrap();
        assert_eq!((entry.in_flight, entry.seen, entry.issued, entry.has_left), (1, 3_000, 1, false));
        table.leave(session, 4_000, LIFETIME);
        table.end(session, 5_000);
        let entry = table.entry(session).unwrap();
        assert_eq!(
            (entry.in_flight, entry.seen, entry.has_left),
            (0, 4_000, true),
            "it left before that request ended"
        );
        table.end(session, 6_000);
        assert_eq!(table.entry(session).unwrap().in_flight, 0);
        table.begin(session, 1, 7_000, LIFETIME);
        assert!(!table.entry(session).unwrap().has_left, "it is back");
    }

    #[test]
    fn a_table_that_fills_up_forgets_what_has_ended_and_keeps_what_is_in_flight() {
        let table = table(0..1000, 1_000);
        table.begin(mix(1), 1, 1_000, LIFETIME);
        add(&table, 10_000..12_000, 200_000);
        let current = table.current().unwrap();
        assert!(current.entries().count() < 2_300 && slots(&table) <= 4096, "{}", slots(&table));
        assert_eq!(table.entry(mix(1)).map(|entry| entry.in_flight), Some(1));
        add(&table, 20_000..20_040, 400_000);
        add(&table, 30_000..33_000, 600_000);
        assert!(slots(&table) <= 8192);
    }

    #[test]
    fn of_too_many_sessions_it_keeps_a_sample_and_of_few_again_each_one() {
        let table = table(0..100_000, 1_000);
        let current = table.current().unwrap();
        assert!(current.level() >= 3 && slots(&table) <= 32_768);
        let sampled = current.entries().filter(|entry| level(entry.session) >= current.level()).count();
        assert!((2_500..=12_500).contains(&sampled), "{sampled}");
        // The others end, and some thousand new ones go on for several lifetimes.
        for round in 2..40 {
            add(&table, 0..1_000, round * 101_000);
            add(&table, round * 100_000..round * 100_000 + 1_000, round * 101_000);
        }
        assert_eq!(table.current().unwrap().level(), 0);
    }

    #[test]
    fn a_session_outside_of_the_sample_is_kept_while_it_is_in_flight() {
        let table = ThreadTable::default();
        let outside = (1..).map(mix).find(|session| level(*session) == 0).unwrap();
        table.begin(outside, 1, 1_000, LIFETIME);
        add(&table, 10..100_000, 1_000);
        assert!(table.current().unwrap().level() > 0);
        assert_eq!(table.entry(outside).map(|entry| entry.in_flight), Some(1));
        table.end(outside, 1_000);
        add(&table, 100_000..200_000, 1_000);
        assert_eq!(table.entry(outside), None);
    }

    #[test]
    fn the_next_sample_follows_from_the_counts() {
        let mut by_level = [0; 65];
        (by_level[0], by_level[1], by_level[2]) = (6_000, 4_000, 4_000);
        let sample = |level, keeps, since| Sample { level, keeps, since };
        assert_eq!(sample(0, 0, 0).next(&by_level, 5, LIFETIME), sample(1, 1, 0));
        by_level = [0; 65];
        by_level[3] = 2_000;
        assert_eq!(sample(2, 2, 0).next(&by_level, 5, LIFETIME), sample(2, 1, 5));
        assert_eq!(sample(2, 1, 5).next(&by_level, 100_004, LIFETIME), sample(2, 1, 5), "some may not be seen yet");
        assert_eq!(sample(2, 1, 5).next(&by_level, 100_005, LIFETIME), sample(1, 0, 100_005));
        (by_level[0], by_level[3]) = (11_000, 9_000);
        assert_eq!(sample(1, 0, 5).next(&by_level, 6, LIFETIME), sample(1, 1, 5), "too many at once");
    }

    #[test]
    fn the_ids_of_0_and_of_all_ones_are_sessions() {
        let table = ThreadTable::default();
        for session in [0, u64::MAX] {
            table.begin(session, 1, 1, LIFETIME);
            assert_eq!(table.entry(session).map(|entry| entry.in_flight), Some(1), "{session}");
        }
    }
}
