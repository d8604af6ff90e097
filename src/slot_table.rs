//! Owns: a hash table of fixed size that all threads share: each slot is one atomic with a key's tag and a small value.
//! Invariant: a lookup touches one cache line and takes no lock; a slot is replaced only if it is still as it was read.
//! Must not know: what the values mean; which slot may be given to another key.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// The slots of a group, which fill a cache line. A key can be in any slot of its group.
pub const GROUP_SIZE: usize = 8;

/// The table. A slot has a value in its low `VALUE_BITS` bits, and the tag that tells the keys of a group apart in the
/// others.
#[derive(Debug)]
pub struct SlotTable<const VALUE_BITS: u32> {
    /// Has a random key, or clients could choose addresses that fall into one group.
    hasher: RandomState,
    groups: Box<[Group]>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Group([AtomicU64; GROUP_SIZE]);

/// One key's group.
#[derive(Debug)]
pub struct KeyGroup<'a, const VALUE_BITS: u32> {
    slots: &'a [AtomicU64; GROUP_SIZE],
    tag: u64,
    first: usize,
}

/// A slot as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Slot<const VALUE_BITS: u32> {
    index: usize,
    content: u64,
}

impl<const VALUE_BITS: u32> SlotTable<VALUE_BITS> {
    /// The largest value.
    pub const MAX_VALUE: u64 = (1 << VALUE_BITS) - 1;

    /// Makes a table whose slots all have the value 0. Rounds `groups` up to a power of two.
    pub fn new(groups: usize) -> Self {
        let groups = (0..groups.next_power_of_two()).map(|_| Group::default()).collect();
        SlotTable { hasher: RandomState::new(), groups }
    }

    /// Finds the group of `key`.
    pub fn group(&self, key: impl Hash) -> KeyGroup<'_, VALUE_BITS> {
        let hash = self.hasher.hash_one(key);
        let group = usize::try_from(hash & Self::MAX_VALUE).unwrap_or(0) & (self.groups.len() - 1);
        KeyGroup { slots: &self.groups[group].0, tag: hash >> VALUE_BITS, first: group * GROUP_SIZE }
    }

    /// Subtracts one from the value at `index`, which must not be 0.
    pub fn decrement(&self, index: usize) {
        self.groups[index / GROUP_SIZE].0[index % GROUP_SIZE].fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns all values.
    #[cfg(test)]
    pub fn values(&self) -> impl Iterator<Item = u64> {
        self.groups.iter().flat_map(|group| &group.0).map(|slot| slot.load(Ordering::Relaxed) & Self::MAX_VALUE)
    }
}

impl<const VALUE_BITS: u32> KeyGroup<'_, VALUE_BITS> {
    /// Reads the slots of the group.
    pub fn slots(&self) -> [Slot<VALUE_BITS>; GROUP_SIZE] {
        std::array::from_fn(|index| Slot { index, content: self.slots[index].load(Ordering::Relaxed) })
    }

    /// Whether the slot was written for this key, or for one of its group that has the same tag.
    pub fn owns(&self, slot: Slot<VALUE_BITS>) -> bool {
        slot.content >> VALUE_BITS == self.tag
    }

    /// Gives `slot` to this key with `value`, which is at most [`SlotTable::MAX_VALUE`], if it is still as it was read.
    /// Returns its index in the table, or `None` if another thread was faster.
    pub fn replace(&self, slot: Slot<VALUE_BITS>, value: u64) -> Option<usize> {
        let next = (self.tag << VALUE_BITS) | value;
        let exchanged =
            self.slots[slot.index].compare_exchange(slot.content, next, Ordering::Relaxed, Ordering::Relaxed);
        exchanged.is_ok().then_some(self.first + slot.index)
    }
}

impl<const VALUE_BITS: u32> Slot<VALUE_BITS> {
    /// Returns the value.
    pub fn value(self) -> u64 {
        self.content & SlotTable::<VALUE_BITS>::MAX_VALUE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_belongs_to_the_key_that_replaced_it_last() {
        // One group, so that the keys share slots.
        let table = SlotTable::<24>::new(1);
        let (a, b) = (table.group("a"), table.group("b"));
        let read = a.slots()[3];
        assert_eq!((read.value(), a.replace(read, 7)), (0, Some(3)));
        assert_eq!(b.replace(read, 9), None, "it has changed since it was read");
        let read = b.slots()[3];
        assert_eq!((read.value(), a.owns(read), b.owns(read)), (7, true, false));
        assert_eq!(b.replace(read, 9), Some(3));
        table.decrement(3);
        assert_eq!(table.values().max(), Some(8));
        assert!(b.owns(a.slots()[3]));
    }

    #[test]
    fn the_largest_value_fits_and_leaves_the_tag_alone() {
        let table = SlotTable::<48>::new(16);
        let group = table.group(5);
        group.replace(group.slots()[0], SlotTable::<48>::MAX_VALUE).unwrap();
        let read = group.slots()[0];
        assert!(group.owns(read) && read.value() == SlotTable::<48>::MAX_VALUE);
    }

    #[test]
    fn keys_spread_over_all_groups_and_the_index_of_a_slot_leads_to_it() {
        let table = SlotTable::<24>::new(16);
        let mut groups = std::collections::BTreeSet::new();
        for key in 0..1000 {
            let group = table.group(key);
            let index = group.replace(group.slots()[7], 5).unwrap();
            table.decrement(index);
            assert_eq!((group.slots()[7].value(), index % GROUP_SIZE), (4, 7));
            groups.insert(index / GROUP_SIZE);
        }
        assert_eq!(groups, (0..16).collect());
    }
}
