//! Owns: the trait that a balancing policy implements, and the candidates that it chooses from.
//! Invariant: a candidate may be sent a new session now and was not tried yet; a backup only where no other is left.
//! Must not know: the policies, or which of them a pool uses.

use std::rc::Rc;

use crate::pool::{Backend, Pool};

/// One way to choose. Asked again with the refused candidate marked as tried, it names the next
/// best: that is the order.
pub trait Balancer {
    /// The best of `candidates`, or `None` when there are none. `entropy` is a fresh random number,
    /// or what the request is to be placed by.
    fn best(&self, candidates: &Candidates<'_>, entropy: u64) -> Option<usize>;

    /// The same, where it stands, for the pool's next members; `None` if there is nothing to keep.
    fn carry_over(&self, _from: &Pool, _to: &Pool) -> Option<Rc<dyn Balancer>> {
        None
    }
}

/// The backends of a pool that may be sent a new session now and were not tried yet: those that
/// are no backup, and the backups only when no other is left.
#[derive(Debug)]
pub struct Candidates<'a> {
    pool: &'a Pool,
    tried: &'a TriedBackends,
    backups: bool,
}

impl<'a> Candidates<'a> {
    /// The candidates as they are at this moment.
    pub fn new(pool: &'a Pool, tried: &'a TriedBackends) -> Candidates<'a> {
        let mut candidates = Candidates { pool, tried, backups: false };
        candidates.backups = candidates.iter().next().is_none();
        candidates
    }

    /// Position and backend of each candidate, in the order of the pool.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &'a Backend)> + Clone + use<'a> {
        let Candidates { pool, tried, backups } = *self;
        pool.backends().iter().enumerate().filter(move |(index, backend)| {
            backend.is_backup() == backups && !tried.contains(*index) && backend.live().accepts_new().is_ok()
        })
    }
}

/// The backends that this request tried already: a bit for each of the first 64, so that most
/// requests allocate nothing for it.
#[derive(Debug, Default)]
pub struct TriedBackends {
    low: u64,
    high: Vec<usize>,
}

impl TriedBackends {
    /// None yet.
    pub const fn new() -> TriedBackends {
        TriedBackends { low: 0, high: Vec::new() }
    }

    /// Marks a backend.
    pub fn insert(&mut self, index: usize) {
        match bit(index) {
            Some(bit) => self.low |= bit,
            None if !self.high.contains(&index) => self.high.push(index),
            None => {}
        }
    }

    /// Takes a mark off.
    pub fn remove(&mut self, index: usize) {
        match bit(index) {
            Some(bit) => self.low &= !bit,
            None => self.high.retain(|other| *other != index),
        }
    }

    /// Whether a backend is marked.
    pub fn contains(&self, index: usize) -> bool {
        bit(index).map_or_else(|| self.high.contains(&index), |bit| self.low & bit != 0)
    }
}

fn bit(index: usize) -> Option<u64> {
    u32::try_from(index).ok().and_then(|index| 1u64.checked_shl(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_tried_is_known_in_a_pool_of_any_size() {
        let mut tried = TriedBackends::new();
        for index in [0, 63, 64, 1000, 64] {
            tried.insert(index);
        }
        tried.remove(63);
        tried.remove(64);
        let marked: Vec<_> = (0..2000).filter(|index| tried.contains(*index)).collect();
        assert_eq!(marked, [0, 1000]);
    }
}
