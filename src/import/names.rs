//! Owns: names of pools, backends and cookies that are unique.
//! Invariant: a name is given once; giving many that are wanted alike costs no more than giving many.
//! Must not know: what is named.

use std::collections::{HashMap, HashSet};

/// The longest name of a pool or a backend.
const LONGEST: usize = 64;

/// Names that are taken.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
    /// The number that comes next behind a name that was wanted more than once.
    next: HashMap<String, u64>,
}

impl Names {
    /// Takes a name: the one that is wanted, or with a number behind it.
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

/// `wanted`, made of the characters that a name may have.
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
        let mut names = Names::default();
        let given = ["a", "a-2", "a", "a", "b"].map(|wanted| names.take(wanted));
        assert_eq!(given, ["a", "a-2", "a-3", "a-4", "b"]);
        let long = "x".repeat(LONGEST);
        names.take(&long);
        let other = names.take(&long);
        assert!(other.len() == LONGEST && other.ends_with("-2"), "{other}");
    }
}
