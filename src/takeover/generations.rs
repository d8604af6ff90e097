//! Owns: how many processes that were superseded may live at a time, and which of them ends first.
//! Invariant: pure; no more than the bound go on, and the oldest ones end.
//! Must not know: processes, or how one is told to end.

use std::time::Duration;

/// The most old processes. Each holds its connections, its threads and a copy of what is known of sessions.
pub const MAX_OLDER: usize = 8;

/// An old process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation {
    /// When it started, in milliseconds since the Unix epoch: several can start within a second.
    pub started: u64,
    /// Its process id.
    pub pid: u32,
}

/// Returns a time since the Unix epoch as a generation has it.
pub fn millis(started: Duration) -> u64 {
    u64::try_from(started.as_millis()).unwrap_or(u64::MAX)
}

/// Returns which of these processes have to end, so that no more than `most` go on: the oldest, the first one first.
pub fn too_many(older: &[Generation], most: usize) -> Vec<Generation> {
    let mut oldest_first = older.to_vec();
    oldest_first.sort_unstable();
    oldest_first.truncate(older.len().saturating_sub(most));
    oldest_first
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_many_end_as_are_too_many_and_none_that_goes_on_is_older(
            older in proptest::collection::vec((0u64..50, any::<u32>()), 0..30), most in 0usize..20,
        ) {
            let older: Vec<_> = older.into_iter().map(|(started, pid)| Generation { started, pid }).collect();
            let ends = too_many(&older, most);
            prop_assert_eq!(older.len() - ends.len(), older.len().min(most));
            prop_assert!(ends.is_sorted());
            let mut rest = older.clone();
            for end in &ends {
                let at = rest.iter().position(|each| each == end).unwrap();
                rest.swap_remove(at);
            }
            prop_assert!(rest.iter().all(|stays| ends.iter().all(|end| end <= stays)));
        }
    }
}
