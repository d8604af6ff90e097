//! Owns: a cart, the items that a user has added, in that order.
//! Invariant: it holds at most `MAX_ITEMS` items of at most `MAX_ITEM_CHARS` printable characters each.
//! Must not know: its user, nor HTTP.

use std::error::Error;
use std::fmt;

/// Most items in one cart, so that no client can fill the server's memory.
pub(super) const MAX_ITEMS: usize = 50;
pub(super) const MAX_ITEM_CHARS: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cart(Vec<String>);

impl Cart {
    pub(super) fn items(&self) -> &[String] {
        &self.0
    }

    pub(super) fn add(&mut self, item: &str) -> Result<(), CartError> {
        let item = item.trim();
        if item.is_empty() || item.chars().count() > MAX_ITEM_CHARS || item.chars().any(char::is_control) {
            return Err(CartError::NotAnItem);
        }
        if self.0.len() >= MAX_ITEMS {
            return Err(CartError::Full);
        }
        self.0.push(item.to_owned());
        Ok(())
    }

    /// Removes one such item. A cart without it is what the user wanted, so that is no error.
    pub(super) fn remove(&mut self, item: &str) {
        if let Some(index) = self.0.iter().position(|existing| existing == item.trim()) {
            self.0.remove(index);
        }
    }
}

/// Why an item was not added to the cart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CartError {
    NotAnItem,
    Full,
}

impl fmt::Display for CartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnItem => write!(f, "an item is a text of 1 to {MAX_ITEM_CHARS} characters on one line"),
            Self::Full => write!(f, "the cart is full: {MAX_ITEMS} items"),
        }
    }
}

impl Error for CartError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_stay_in_order_and_leave_one_at_a_time() {
        let mut cart = Cart::default();
        for item in ["apple", " pear ", "apple"] {
            cart.add(item).unwrap();
        }
        cart.remove("apple");
        cart.remove("plum");
        assert_eq!(cart.items(), ["pear", "apple"]);
    }

    #[test]
    fn refuses_an_empty_or_long_item_and_one_of_two_lines() {
        let mut cart = Cart::default();
        let long = "x".repeat(MAX_ITEM_CHARS + 1);
        for item in ["", "   ", "two\nlines", &long] {
            assert_eq!(cart.add(item), Err(CartError::NotAnItem), "{item:?}");
        }
        assert_eq!(cart.add(&"ü".repeat(MAX_ITEM_CHARS)), Ok(()));
    }

    #[test]
    fn is_bounded() {
        let mut cart = Cart::default();
        for _ in 0..MAX_ITEMS {
            cart.add("nut").unwrap();
        }
        assert_eq!(cart.add("bolt"), Err(CartError::Full));
    }
}
