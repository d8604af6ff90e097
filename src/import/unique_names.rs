//! Owns: unique names of pools, backends, listeners and cookies.
//! Invariant: no name is given twice; the cost of a name does not grow with the number of equal requests.
//! Must not know: what a name stands for.

use std::collections::{HashMap, HashSet};

/// The longest name of a pool or a backend.
const LONGEST: usize = 64;

/// The names in use.
#[derive(Debug, Default)]
pub(super) struct UniqueNames {
    taken: HashSet<String>,
    /// The next number to append, for each name that was requested more than once.
    next: HashMap<String, u64>,
}

impl UniqueNames {
    /// Reserves `wanted`, or `wanted` with a number appended.
    pub(super) fn take(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        while !self.taken.insert(name.clone()) {
            let number = self.next.entry(wanted.to_owned()).or_insert(2);
            let end = format!("-{number}");
            *number += 1;
            name = wanted.chars().take(LONGEST.saturating_sub(end.len())).collect::<String>() + &end;
        }
        name
    }
}

/// Replaces the characters that a name can't have; returns `otherwise` if none is left.
pub(super) fn named(wanted: &str, otherwise: &str) -> String {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good: String = wanted.chars().map(|c| if is_good(c) { c } else { '-' }).take(LONGEST).collect();
    let good = good.trim_matches('-');
    if good.is_empty() { otherwise.into() } else { good.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_what_a_name_may_have() {
        assert_eq!(named("my app@file", "pool"), "my-app-file");
        assert_eq!(named("ü", "pool"), "pool");
        assert_eq!(named(&"x".repeat(100), "pool").len(), LONGEST);
    }

    #[test]
    fn a_name_is_given_once() {
        let mut names = UniqueNames::default();
        let given = ["a", "a-2", "a", "a", "b"].map(|wanted| names.take(wanted));
        assert_eq!(given, ["a", "a-2", "a-3", "a-4", "b"]);
        let long = "x".repeat(LONGEST);
        names.take(&long);
        let other = names.take(&long);
        assert!(other.len() == LONGEST && other.ends_with("-2"), "{other}");
    }
}
