//! Owns: what an operator changes of a backend while the process runs, and why a change is refused.
//! Invariant: every such change goes through `apply`, on the control thread, so no reload sees a part of one.
//! Must not know: HTTP, tokens, or how a backend is shown.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::actor::Actor;
use super::pool_entry::PoolEntry;
use crate::clock;
use crate::events::{DrainPhase, Event};
use crate::pool::drain::{Drain, DrainOrder};
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
    /// Its sessions leave, and it gets no new one.
    Drain(DrainOrder),
    /// The drain is over, and the state from before holds.
    CancelDrain,
}

/// Why a change is refused: what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such pool or backend.
    Unknown(String),
    /// The value can't be used.
    Invalid(String),
    /// It does not fit what there is now.
    Conflict(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unknown(why) | Refusal::Invalid(why) | Refusal::Conflict(why) => f.write_str(why),
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
        let state = AdminState::of(word);
        let words = AdminState::ALL.map(AdminState::as_str);
        let invalid = || Refusal::Invalid(missing(&format!("state {word:?}"), word, words.into_iter()));
        state.map(Change::State).ok_or_else(invalid)
    }

    /// Makes the change of a state to `drain` from what a request says of the drain.
    ///
    /// # Errors
    /// Another state has no such things.
    pub(super) fn with_drain(self, order: Option<DrainOrder>) -> Result<Change, Refusal> {
        match (self, order) {
            (Change::State(AdminState::Drain), order) => {
                let unlimited = DrainOrder { deadline: None, idle: DrainOrder::IDLE, then: None };
                Ok(Change::Drain(order.unwrap_or(unlimited)))
            }
            (change, None) => Ok(change),
            (_, Some(_)) => {
                let why = "`deadline`, `then` and `idle` only go with the state \"drain\": remove them.";
                Err(Refusal::Invalid(why.into()))
            }
        }
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
///
/// # Errors
/// There is nothing to change.
pub(super) fn apply(target: Target<'_>, change: Change, actor: &Actor) -> Result<(), Refusal> {
    let (live, now) = (Arc::clone(target.backend().live()), clock::unix_millis());
    let (state, weight) = (live.wanted(), live.weight());
    let running = live.draining().current().filter(Drain::is_running);
    let sessions = live.sessions().count(now, target.entry.affinity.session_lifetime()).sessions;
    match change {
        Change::State(state) => live.set_state(state),
        Change::Weight(weight) => live.set_weight(weight),
        Change::Drain(order) => live.begin_drain(order, sessions, now),
        Change::CancelDrain => {
            live.cancel_drain(now).ok_or_else(|| Refusal::Conflict(no_drain(target.backend())))?;
        }
    }
    let (pool, backend, by) = (target.entry.pool.name().to_string(), target.backend().name().to_string(), actor.by());
    let what = |key: &str| format!("pools.{pool}.backends.{backend}.{key}");
    let mut events = Vec::new();
    if let Some(cancelled) = running.filter(|_| !matches!(change, Change::Weight(_))) {
        events.push(cancelled.event(&pool, &backend, DrainPhase::Cancelled, sessions));
    }
    let drain = live.draining().current().filter(Drain::is_running);
    let (before, after) = (described(state, running), described(live.wanted(), drain));
    // Who sets what is set already changes nothing, and can't fill the log.
    if before != after {
        actor.audit(&what("state"), &before, &after);
    }
    if weight != live.weight() {
        actor.audit(&what("weight"), &weight.to_string(), &live.weight().to_string());
    }
    if state != live.wanted() {
        let (pool, backend, from, to) = (pool.clone(), backend.clone(), state.as_str(), live.wanted().as_str());
        events.push(Event::State { pool, backend, from, to, by });
    }
    if weight != live.weight() {
        let (pool, backend, from, to) = (pool.clone(), backend.clone(), weight, live.weight());
        events.push(Event::Weight { pool, backend, from, to, by });
    }
    if let (Change::Drain(_), Some(drain)) = (change, drain) {
        events.push(drain.event(&pool, &backend, DrainPhase::Begun, sessions));
    }
    let published = target.entry.pool.health_tracker().events();
    events.into_iter().for_each(|event| published.publish(event));
    Ok(())
}

/// Says why there is no drain of an operator to cancel.
fn no_drain(backend: &Backend) -> String {
    let (name, live) = (backend.name(), backend.live());
    match (live.is_leaving(), live.asks_for_drain()) {
        (true, _) => format!(
            "Backend {name:?} drains because no source (DNS, file, Kubernetes) names it any more. It stops draining once one names it again."
        ),
        (_, true) => format!(
            "Backend {name:?} drains because its answers to probes ask for it. It stops draining once they no longer do."
        ),
        _ => format!("Backend {name:?} does not drain: there is no drain to cancel."),
    }
}

/// Describes a state with the drain that runs in it.
fn described(state: AdminState, drain: Option<Drain>) -> String {
    let Some(Drain { order: DrainOrder { deadline: Some(deadline), then, .. }, .. }) = drain else {
        return state.as_str().into();
    };
    let deadline = humantime::format_duration(Duration::from_millis(deadline));
    let then = then.map_or(String::new(), |then| format!(", then {}", then.as_str()));
    format!("{} within {deadline}{then}", state.as_str())
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
