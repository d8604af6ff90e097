//! Owns: how many sessions were moved since the last time, from counters that only grow.
//! Invariant: each move is published once, together with the others of its pool and cause.
//! Must not know: what moves a session; who counts.

use std::collections::HashMap;

use crate::events::Event;

/// The counts of the last time, by pool and cause.
#[derive(Debug, Default)]
pub(super) struct MoveCounts(HashMap<(String, &'static str), u64>);

impl MoveCounts {
    /// Returns an event for each pool and cause whose count has grown. `totals` are the counts now.
    pub(super) fn since_last(&mut self, totals: &[(String, &'static str, u64)]) -> Vec<Event> {
        let before = std::mem::take(&mut self.0);
        let mut all = Vec::new();
        for (pool, cause, total) in totals.iter().filter(|(_, _, total)| *total > 0) {
            let key = (pool.clone(), *cause);
            let sessions = total.saturating_sub(before.get(&key).copied().unwrap_or_default());
            if sessions > 0 {
                all.push(Event::Moves { pool: pool.clone(), cause, sessions });
            }
            self.0.insert(key, *total);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_moved_since_the_last_time_is_an_event() {
        let mut counts = MoveCounts::default();
        let app = |cause, total| ("app".to_owned(), cause, total);
        let moves = |cause, sessions| Event::Moves { pool: "app".into(), cause, sessions };
        assert_eq!(counts.since_last(&[app("down", 0), app("full", 2)]), [moves("full", 2)]);
        assert_eq!(counts.since_last(&[app("down", 3), app("full", 2)]), [moves("down", 3)]);
        assert_eq!(counts.since_last(&[app("down", 3), app("full", 2)]), []);
        // The pool was removed, and is back with counters of its own.
        assert_eq!(counts.since_last(&[]), []);
        assert_eq!(counts.since_last(&[app("down", 1)]), [moves("down", 1)]);
    }
}
