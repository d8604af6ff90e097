//! Owns: the sessions of a backend as a process hands them over, and how the next one begins with them.
//! Invariant: the next process counts as many, within the error that the first one states.
//! Must not know: how they travel.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::census::merged;
use super::entry::{Entry, SessionLifetime};
use super::table::{Table, level};

/// The most sessions of one backend that are handed over. Of more, a sample is.
const MOST: usize = 50_000;

/// The sessions of a backend.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionsState {
    /// They are those whose hash begins with so many zero bits.
    pub level: u32,
    /// Each with its number, its start in seconds and its last request in milliseconds since the Unix epoch.
    pub sessions: Vec<(u64, u32, u64)>,
}

impl SessionsState {
    /// Lists the sessions in `tables` that are live at `now`, in milliseconds since the Unix epoch. What was last seen at
    /// `forgotten` or before counts only with a request in flight.
    pub(super) fn of(tables: &[Arc<Table>], now: u64, forgotten: u64, lifetime: SessionLifetime) -> SessionsState {
        let mut from = tables.iter().map(|table| table.level()).max().unwrap_or_default();
        let mut live: HashMap<u64, Entry> = HashMap::new();
        for entry in tables.iter().flat_map(|table| table.entries()).filter(|entry| level(entry.session) >= from) {
            live.entry(entry.session).and_modify(|known| *known = merged(*known, entry)).or_insert(entry);
        }
        let is_remembered = |entry: &Entry| lifetime.covers(entry, now) && entry.seen > forgotten;
        live.retain(|_, entry| !entry.has_left && (entry.in_flight > 0 || is_remembered(entry)));
        while live.len() > MOST {
            from += 1;
            live.retain(|session, _| level(*session) >= from);
        }
        let sessions = live.into_values().map(|entry| (entry.session, entry.issued, entry.seen)).collect();
        SessionsState { level: from, sessions }
    }

    /// Returns the level, and the sessions as entries without requests in flight.
    pub(super) fn entries(&self) -> (u32, Vec<Entry>) {
        let entry = |(session, issued, seen): &(u64, u32, u64)| Entry {
            session: *session,
            seen: *seen,
            begun: *seen,
            issued: *issued,
            in_flight: 0,
            has_left: false,
        };
        (self.level.min(64), self.sessions.iter().take(2 * MOST).map(entry).collect())
    }
}
