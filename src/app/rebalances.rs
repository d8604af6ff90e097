//! Owns: the events of rebalancing: how many sessions moved between which backends, summed over some seconds.
//! Invariant: each move is in one event, and a pool that moves sessions all the time has few of them.
//! Must not know: what moves a session, or when.

use std::collections::BTreeMap;

use crate::events::Event;

/// The seconds that one event sums up.
const SECONDS: u64 = 10;

/// What has moved and is in no event yet.
#[derive(Debug, Default)]
pub(super) struct RebalanceCounts {
    /// By pool, the backend that had the sessions and the one that has them.
    moved: BTreeMap<(String, String, String), u64>,
    /// The second of the first move.
    since: Option<u64>,
}

impl RebalanceCounts {
    /// Adds what has moved by this `second`.
    pub(super) fn add(&mut self, second: u64, pool: &str, from: &str, to: &str, sessions: u64) {
        *self.moved.entry((pool.into(), from.into(), to.into())).or_default() += sessions;
        self.since.get_or_insert(second);
    }

    /// Returns the events that are due in this `second`.
    pub(super) fn due(&mut self, second: u64) -> Vec<Event> {
        if self.since.take_if(|since| second.saturating_sub(*since) >= SECONDS).is_none() {
            return Vec::new();
        }
        let event = |((pool, from, to), sessions)| Event::Rebalance { pool, from, to, sessions };
        std::mem::take(&mut self.moved).into_iter().map(event).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_move_is_in_one_event_within_ten_seconds(
            moves in proptest::collection::vec((0u64..100, 0usize..3, 1u64..9), 0..60),
        ) {
            let (mut counts, mut published, mut last) = (RebalanceCounts::default(), 0, None);
            for second in 0..120 {
                for (_, to, sessions) in moves.iter().filter(|(at, ..)| *at == second) {
                    counts.add(second, "app", "a", &to.to_string(), *sessions);
                }
                let events = counts.due(second);
                if !events.is_empty() {
                    prop_assert!(events.len() <= 3 && last.is_none_or(|last| second - last >= SECONDS));
                    last = Some(second);
                }
                for event in events {
                    let Event::Rebalance { sessions, .. } = event else { panic!("{event:?}") };
                    published += sessions;
                }
                let older = |at: u64| moves.iter().filter(|(move_at, ..)| *move_at <= at).map(|(.., n)| n).sum::<u64>();
                prop_assert!(second < SECONDS || published >= older(second - SECONDS));
                prop_assert!(published <= older(second));
            }
        }
    }
}
