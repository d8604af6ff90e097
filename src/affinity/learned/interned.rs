//! Owns: values that many entries of a table share, each stored once and known by a number.
//! Invariant: a number never changes its value; there are at most [`MAX`] numbers, whatever a store contains.
//! Must not know: sessions, or what the values mean.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::entries::NIL;

/// The most values that are told apart. A store that is full of invented ones must not fill the memory as well.
pub(super) const MAX: u32 = 65_536;

/// Values by number. Grows with the values that ever came.
#[derive(Debug)]
pub(super) struct Interned<T> {
    values: ArcSwap<Vec<T>>,
    numbers: Mutex<HashMap<T, u32>>,
}

impl<T> Default for Interned<T> {
    fn default() -> Interned<T> {
        Interned { values: ArcSwap::default(), numbers: Mutex::default() }
    }
}

impl<T: Clone + Eq + Hash> Interned<T> {
    /// Returns the number of a value, and assigns one to what `make` makes of it the first time; [`NIL`] if no number is
    /// left.
    pub(super) fn number<Q: Eq + Hash + ?Sized>(&self, value: &Q, make: impl FnOnce(&Q) -> T) -> u32
    where
        T: Borrow<Q>,
    {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = numbers.get(value) {
            return *number;
        }
        let mut values = Vec::clone(&self.values.load());
        let Some(number) = u32::try_from(values.len()).ok().filter(|number| *number < MAX) else { return NIL };
        let value = make(value);
        values.push(value.clone());
        self.values.store(Arc::new(values));
        numbers.insert(value, number);
        number
    }

    /// Returns the value of a number.
    pub(super) fn get(&self, number: u32) -> Option<T> {
        self.values.load().get(number as usize).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_one_number_and_there_is_a_limit_to_them() {
        let names = Interned::<Arc<str>>::default();
        let number = |name| names.number(name, |name: &str| name.into());
        assert_eq!([number("a"), number("b"), number("a")], [0, 1, 0]);
        assert_eq!((names.get(1).as_deref(), names.get(2), names.get(NIL)), (Some("b"), None, None));
        let mut values = Vec::clone(&names.values.load());
        values.resize(MAX as usize, "x".into());
        names.values.store(Arc::new(values));
        assert_eq!((number("invented"), number("b")), (NIL, 1));
    }
}
