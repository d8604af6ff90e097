//! Owns: the sums over all entries of a store.
//! Invariant: what an entry adds it takes away when it is dropped.
//! Must not know: what the sums are limited to.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The sums over all entries of a store.
#[derive(Debug, Default)]
pub struct Totals {
    bytes: AtomicUsize,
    copies: AtomicUsize,
}

impl Totals {
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn copies(&self) -> usize {
        self.copies.load(Ordering::Relaxed)
    }

    /// Notes an entry of this size, without a copy.
    pub(super) fn add_entry(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes the end of an entry of this size, without a copy.
    pub(super) fn remove_entry(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Notes that an entry has a copy of another length, or none.
    pub(super) fn replace_copy(&self, old: Option<usize>, new: Option<usize>) {
        self.bytes.fetch_add(new.unwrap_or(0), Ordering::Relaxed);
        self.bytes.fetch_sub(old.unwrap_or(0), Ordering::Relaxed);
        match (old, new) {
            (None, Some(_)) => drop(self.copies.fetch_add(1, Ordering::Relaxed)),
            (Some(_), None) => drop(self.copies.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}
