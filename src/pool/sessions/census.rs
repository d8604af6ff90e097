//! Owns: the count of a backend's live sessions, and how long they are idle, from the tables of all threads.
//! Invariant: a session that several threads have seen counts once; the count says how far off it can be.
//! Must not know: where the tables are, or who reads the count.

use std::collections::HashMap;
use std::collections::hash_map;

use super::entry::{Entry, SessionLifetime};
use super::table::{Table, level};

/// The idle times up to which sessions are counted, in seconds. The last count has all others.
const IDLE_STEPS: [u64; 4] = [60, 300, 900, 3600];

/// The live sessions of a backend, or of several.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SessionCount {
    /// How many.
    pub sessions: u64,
    /// The standard error, as a share of the number: 0 if each session was counted.
    pub error: f64,
    /// How many are idle for up to 1, 5, 15 and 60 minutes, and for longer. The sum is `sessions`.
    pub idle: [u64; SessionCount::IDLE_WORDS.len()],
}

impl SessionCount {
    /// The words for the idle times, in the status and in the metrics.
    pub const IDLE_WORDS: [&'static str; 5] = ["1m", "5m", "15m", "1h", "more"];

    /// Adds the sessions of another backend. A session belongs to one backend at a time.
    #[must_use]
    pub fn and(self, other: SessionCount) -> SessionCount {
        let variance = |count: SessionCount| (count.error * count.sessions as f64).powi(2);
        let sessions = self.sessions.saturating_add(other.sessions);
        let error = if sessions == 0 { 0.0 } else { (variance(self) + variance(other)).sqrt() / sessions as f64 };
        let mut idle = self.idle;
        idle.iter_mut().zip(other.idle).for_each(|(sum, more)| *sum += more);
        SessionCount { sessions, error, idle }
    }
}

/// Counts the sessions in `tables` that are live at `now`, in milliseconds since the Unix epoch. What was last seen at
/// `forgotten` or before counts only with a request in flight.
pub(super) fn count<'t>(
    tables: impl Iterator<Item = &'t Table> + Clone,
    now: u64,
    forgotten: u64,
    lifetime: SessionLifetime,
) -> SessionCount {
    let from = tables.clone().map(Table::level).max().unwrap_or_default();
    let is_sampled = |entry: &Entry| level(entry.session) >= from;
    let mut sampled: Vec<Entry> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    let is_one = tables.clone().nth(1).is_none();
    for entry in tables.flat_map(Table::entries).filter(is_sampled) {
        if is_one {
            sampled.push(entry);
            continue;
        }
        match places.entry(entry.session) {
            hash_map::Entry::Vacant(place) => {
                place.insert(sampled.len());
                sampled.push(entry);
            }
            hash_map::Entry::Occupied(place) => {
                sampled.get_mut(*place.get()).into_iter().for_each(|known| *known = merged(*known, entry));
            }
        }
    }
    let is_remembered = |entry: &&Entry| entry.seen > forgotten && lifetime.covers(entry, now) && !entry.has_left;
    let live = sampled.iter().filter(|entry| entry.in_flight > 0 || is_remembered(entry));
    let (mut found, mut idle) = (0_u64, [0_u64; SessionCount::IDLE_WORDS.len()]);
    for entry in live {
        let since = if entry.in_flight > 0 { 0 } else { now.saturating_sub(entry.seen) / 1000 };
        let step = IDLE_STEPS.iter().position(|step| since <= *step).unwrap_or(IDLE_STEPS.len());
        found += 1;
        idle.iter_mut().skip(step).take(1).for_each(|count| *count += 1);
    }
    let factor = 1_u64.checked_shl(from).unwrap_or(u64::MAX);
    let share = (-f64::from(from)).exp2();
    // Each session is in the sample with the probability `share`, so the sample's size is binomial.
    let error = if from == 0 || found == 0 { 0.0 } else { ((1.0 - share) / found as f64).sqrt() };
    SessionCount { sessions: found.saturating_mul(factor), error, idle: idle.map(|count| count.saturating_mul(factor)) }
}

/// Merges what two threads know of a session. It has left the backend if no request of it has begun there since: those
/// that were in flight may end later.
pub(super) fn merged(one: Entry, other: Entry) -> Entry {
    let begun = one.begun.max(other.begun);
    // Of the same millisecond nobody knows the order: it counts where it has gone.
    let left = [one, other].into_iter().filter(|entry| entry.has_left && entry.seen >= begun).map(|entry| entry.seen);
    let left = left.max();
    Entry {
        session: one.session,
        seen: left.unwrap_or_else(|| one.seen.max(other.seen)),
        begun,
        issued: one.issued.max(other.issued),
        in_flight: one.in_flight.saturating_add(other.in_flight),
        has_left: left.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::inherited::SessionsState;
    use super::super::table::ThreadTable;
    use super::*;
    use crate::pool::hash::mix;
    use proptest::prelude::*;

    const LIFETIME: SessionLifetime = SessionLifetime { idle: 7200, absolute: Some(10_000) };
    const NOW: u64 = 20_000_000_000;

    fn counted(tables: &[ThreadTable], now: u64) -> SessionCount {
        let tables: Vec<_> = tables.iter().filter_map(ThreadTable::current).collect();
        count(tables.iter().map(|table| &**table), now, 0, LIFETIME)
    }

    fn seen(table: &ThreadTable, session: u64, at: u64) {
        table.begin(mix(session), NOW / 1000, at, LIFETIME);
        table.end(mix(session), at);
    }

    #[test]
    fn a_session_that_two_threads_have_seen_counts_once_and_by_its_last_request() {
        let tables = [ThreadTable::default(), ThreadTable::default()];
        seen(&tables[0], 1, NOW - 400_000);
        seen(&tables[1], 1, NOW - 30_000);
        seen(&tables[1], 2, NOW - 400_000);
        let expected = SessionCount { sessions: 2, error: 0.0, idle: [1, 0, 1, 0, 0] };
        assert_eq!(counted(&tables, NOW), expected);
        tables[0].leave(mix(1), NOW - 20_000, LIFETIME);
        assert_eq!(counted(&tables, NOW).sessions, 1, "one thread has moved it");
        seen(&tables[1], 1, NOW - 10_000);
        assert_eq!(counted(&tables, NOW).sessions, 2, "it is back");
        tables[0].leave(mix(1), NOW - 10_000, LIFETIME);
        assert_eq!(counted(&tables, NOW).sessions, 1);
        let [one, other] = [0, 1].map(|table: usize| tables[table].entry(mix(1)).unwrap());
        assert_eq!((merged(one, other).has_left, merged(other, one).has_left), (true, true));
    }

    #[test]
    fn a_session_that_has_left_is_not_back_because_its_requests_on_other_threads_end() {
        let tables = [0; 3].map(|_| ThreadTable::default());
        tables[0].begin(mix(1), NOW / 1000, NOW - 3_000, LIFETIME);
        tables[2].begin(mix(1), NOW / 1000, NOW - 2_500, LIFETIME);
        tables[1].leave(mix(1), NOW - 2_000, LIFETIME);
        tables[0].end(mix(1), NOW - 1_000);
        assert_eq!(counted(&tables, NOW).sessions, 1, "one is in flight");
        tables[2].end(mix(1), NOW - 500);
        assert_eq!(counted(&tables, NOW).sessions, 0);
        let all: Vec<_> = tables.iter().filter_map(ThreadTable::current).collect();
        assert_eq!(SessionsState::of(&all, NOW, 0, LIFETIME).sessions, []);
        tables[2].begin(mix(1), NOW / 1000, NOW, LIFETIME);
        assert_eq!(counted(&tables, NOW).sessions, 1, "it is back");
    }

    #[test]
    fn sessions_end_by_both_timeouts_but_not_with_a_request_in_flight() {
        let table = [ThreadTable::default()];
        for (session, seen_before, issued_before) in [(1, 7200, 7300), (2, 7199, 7300), (3, 10, 10_000), (4, 10, 9_999)]
        {
            table[0].begin(session, NOW / 1000 - issued_before, NOW - 1000 * seen_before, LIFETIME);
            table[0].end(session, NOW - 1000 * seen_before);
        }
        assert_eq!(counted(&table, NOW), SessionCount { sessions: 2, error: 0.0, idle: [1, 0, 0, 0, 1] });
        table[0].begin(5, 0, NOW - 90_000_000, LIFETIME);
        assert_eq!(counted(&table, NOW).idle, [2, 0, 0, 0, 1], "a tunnel that has been open for a day");
    }

    #[test]
    fn ten_thousand_are_exact_and_more_are_within_the_stated_error() {
        for (sessions, threads) in [(10_000, 1), (10_000, 4), (50_000, 1), (300_000, 3)] {
            let tables: Vec<_> = (0..threads).map(|_| ThreadTable::default()).collect();
            // Each session is seen on every thread, as those of a browser are.
            for session in 1..=sessions {
                tables.iter().for_each(|table| seen(table, session, NOW - 5_000));
            }
            let found = counted(&tables, NOW);
            assert_eq!(found.error == 0.0, sessions == 10_000, "{sessions} {threads}");
            let off = found.sessions.abs_diff(sessions) as f64 / sessions as f64;
            assert!(found.error < 0.015 && off <= 4.0 * found.error, "{sessions}: {found:?}");
            assert_eq!(found.idle[0], found.sessions);
        }
    }

    #[test]
    fn the_count_of_a_pool_is_the_sum() {
        let one = SessionCount { sessions: 100, error: 0.0, idle: [100, 0, 0, 0, 0] };
        let other = SessionCount { sessions: 300, error: 0.04, idle: [0, 300, 0, 0, 0] };
        assert_eq!(one.and(other), SessionCount { sessions: 400, error: 0.03, idle: [100, 300, 0, 0, 0] });
        assert_eq!(SessionCount::default().and(one), one);
    }

    proptest! {
        /// Whatever threads see which session in which order, the count is that of a plain map.
        #[test]
        fn the_count_is_that_of_a_plain_map(
            events in proptest::collection::vec((0_usize..3, 1_u64..20, 0_u64..3), 0..200),
        ) {
            let tables = [ThreadTable::default(), ThreadTable::default(), ThreadTable::default()];
            let mut model: HashMap<u64, bool> = HashMap::new();
            for (step, (thread, session, kind)) in events.into_iter().enumerate() {
                let at = NOW + step as u64;
                match kind {
                    0 => tables[thread].leave(mix(session), at, LIFETIME),
                    _ => seen(&tables[thread], session, at),
                }
                model.insert(session, kind != 0);
            }
            let live = model.values().filter(|is_here| **is_here).count() as u64;
            prop_assert_eq!(counted(&tables, NOW + 1000).sessions, live);
        }
    }
}
