//! Owns: what an operator changes of a backend while the process runs, and why a change is refused.
//! Invariant: every such change goes through `apply`, on the control thread, so no reload sees a part of one.
//! Must not know: HTTP, tokens, or how a backend is shown.

use std::fmt;
use std::sync::Arc;

use super::actor::Actor;
use super::sources::PoolEntry;
use crate::events::Event;
use crate::pool::{AdminState, Backend};

/// The largest weight, as in the configuration.
const MAX_WEIGHT: u64 = 1000;
/// How many names a message lists.
const MAX_LISTED: usize = 10;
/// How similar a name must be to be proposed, from 0 to 1.
const SIMILAR: f64 = 0.7;

/// A backend of the running configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    /// Its pool.
    pub(super) entry: &'a PoolEntry,
    /// Its position in the pool.
    pub(super) index: usize,
}

/// What is changed of a backend. It holds until it is changed again, or the file changes the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Its admin state.
    State(AdminState),
    /// Its share of new sessions.
    Weight(u32),
}

/// Why a change is refused: what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such pool or backend.
    Unknown(String),
    /// The value can't be used.
    Invalid(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unknown(why) | Refusal::Invalid(why) => f.write_str(why),
        }
    }
}

impl<'a> Target<'a> {
    /// Finds a backend by the names of its pool and its own.
    ///
    /// # Errors
    /// There is none; the message names those that could be meant.
    pub(super) fn find(entries: &'a [PoolEntry], pool: &str, backend: &str) -> Result<Target<'a>, Refusal> {
        let entry = find_pool(entries, pool)?;
        let names = entry.pool.backends().iter().map(|backend| &**backend.name());
        let unknown = || Refusal::Unknown(missing(&format!("backend {backend:?} in pool {pool:?}"), backend, names));
        let index = entry.pool.position(backend).ok_or_else(unknown)?;
        Ok(Target { entry, index })
    }

    /// Returns the backend.
    pub(super) fn backend(self) -> &'a Backend {
        self.entry.pool.backend(self.index)
    }
}

/// Finds a pool by its name.
///
/// # Errors
/// There is none; the message names those that could be meant.
pub(super) fn find_pool<'a>(entries: &'a [PoolEntry], pool: &str) -> Result<&'a PoolEntry, Refusal> {
    let names = entries.iter().map(|entry| &**entry.pool.name());
    let found = entries.iter().find(|entry| **entry.pool.name() == *pool);
    found.ok_or_else(|| Refusal::Unknown(missing(&format!("pool {pool:?}"), pool, names)))
}

impl Change {
    /// Makes the change of a state from its word.
    ///
    /// # Errors
    /// There is no such state.
    pub(super) fn to_state(word: &str) -> Result<Change, Refusal> {
        let state = AdminState::ALL.into_iter().find(|state| state.as_str() == word);
        let words = AdminState::ALL.map(AdminState::as_str);
        let invalid = || Refusal::Invalid(missing(&format!("state {word:?}"), word, words.into_iter()));
        state.map(Change::State).ok_or_else(invalid)
    }

    /// Makes the change of a weight.
    ///
    /// # Errors
    /// It is too large.
    pub(super) fn to_weight(weight: u64) -> Result<Change, Refusal> {
        let small = u32::try_from(weight).ok().filter(|_| weight <= MAX_WEIGHT);
        let invalid = || format!("`weight` must be a whole number from 0 to {MAX_WEIGHT}, not {weight}.");
        small.map(Change::Weight).ok_or_else(|| Refusal::Invalid(invalid()))
    }
}

/// Makes a change that `actor` asks for: the only place where the operator's changes take effect.
pub(super) fn apply(target: Target<'_>, change: Change, actor: &Actor) {
    let live = Arc::clone(target.backend().live());
    let (key, before, after) = match change {
        Change::State(state) => ("state", live.wanted().as_str().to_owned(), state.as_str().to_owned()),
        Change::Weight(weight) => ("weight", live.weight().to_string(), weight.to_string()),
    };
    let (pool, backend, by) = (target.entry.pool.name().to_string(), target.backend().name().to_string(), actor.by());
    let event = match change {
        Change::State(to) => Event::State { pool, backend, from: live.wanted().as_str(), to: to.as_str(), by },
        Change::Weight(to) => Event::Weight { pool, backend, from: live.weight(), to, by },
    };
    match change {
        Change::State(state) => live.set_state(state),
        Change::Weight(weight) => live.set_weight(weight),
    }
    // Who sets what is set already changes nothing, and can't fill the log.
    if before == after {
        return;
    }
    let pool = &target.entry.pool;
    pool.health_tracker().events().publish(event);
    let what = format!("pools.{}.backends.{}.{key}", pool.name(), target.backend().name());
    actor.audit(&what, &before, &after);
}

/// Returns a message that there is no such thing, with the names that could be meant.
fn missing<'n>(what: &str, wanted: &str, names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    let scored = names.iter().map(|name| (strsim::jaro_winkler(wanted, name), *name));
    let near = scored.filter(|(score, _)| *score >= SIMILAR).max_by(|(one, _), (other, _)| one.total_cmp(other));
    if let Some((_, near)) = near {
        return format!("There is no {what}; did you mean {near:?}?");
    }
    let listed: Vec<String> = names.iter().take(MAX_LISTED).map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(MAX_LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match listed.is_empty() {
        true => format!("There is no {what}, and there is none at all."),
        false => format!("There is no {what}; there is {}{more}.", listed.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_proposes_the_name_that_is_nearest_or_lists_some() {
        let names = ["app", "shop", "static"];
        let message = |wanted: &str| missing(&format!("pool {wanted:?}"), wanted, names.into_iter());
        assert_eq!(message("ap"), "There is no pool \"ap\"; did you mean \"app\"?");
        assert_eq!(message("zzz"), "There is no pool \"zzz\"; there is \"app\", \"shop\", \"static\".");
        let many: Vec<String> = (0..12).map(|n| format!("b{n}")).collect();
        let listed = missing("backend \"zz\"", "zz", many.iter().map(String::as_str));
        assert!(listed.ends_with("\"b9\" and 2 more."), "{listed}");
        assert_eq!(missing("pool \"a\"", "a", std::iter::empty()), "There is no pool \"a\", and there is none at all.");
    }

    #[test]
    fn a_value_that_can_not_be_used_is_refused_with_those_that_can() {
        assert_eq!(Change::to_state("drain"), Ok(Change::State(AdminState::Drain)));
        assert_eq!(
            Change::to_state("drian").unwrap_err().to_string(),
            "There is no state \"drian\"; did you mean \"drain\"?"
        );
        assert_eq!(Change::to_weight(1000), Ok(Change::Weight(1000)));
        let refused = Change::to_weight(1001).unwrap_err().to_string();
        assert_eq!(refused, "`weight` must be a whole number from 0 to 1000, not 1001.");
    }
}
