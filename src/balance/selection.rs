//! Owns: the trait that each balancing policy implements, and the candidates that it chooses from.
//! Invariant: candidates were not tried yet; backups are candidates only if no other is, draining ones after those.
//! Must not know: the policies, or which of them a pool uses.

use std::rc::Rc;

use crate::pool::{Backend, Closed, Pool};

/// The most backends of a pool of which a policy looks at each for each new client, if it has another way. That takes
/// longer the more there are.
pub(super) const SMALL: usize = 64;

/// A balancing policy. To get the next best backend, call it again with the last one marked as tried: so it yields an
/// order.
pub trait Balancer {
    /// Returns the position of the best of `candidates`, or `None` if there are none. `entropy` is the hash key of the
    /// request if it has one, else a fresh random number.
    fn best(&self, candidates: &Candidates<'_>, entropy: u64) -> Option<usize>;

    /// Carries the balancer's state over when the pool's backends change. Returns `None` if there is no state to keep.
    fn carry_over(&self, _from: &Pool, _to: &Pool) -> Option<Rc<dyn Balancer>> {
        None
    }
}

/// The backends of a pool that accept new sessions now and were not tried yet. Backups are among them only if no other
/// backend is left, and draining ones only if no backup is left, either.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    pool: &'a Pool,
    tried: &'a TriedBackends,
    tier: Tier,
    /// Backends in slow start are no candidates.
    are_steady: bool,
}

impl<'a> Candidates<'a> {
    /// The candidates of this moment.
    pub fn new(pool: &'a Pool, tried: &'a TriedBackends) -> Candidates<'a> {
        let all = |tier| Candidates { pool, tried, tier, are_steady: false };
        let has_any = |tier: &Tier| all(*tier).iter().next().is_some();
        all([Tier::Regular, Tier::Backup].into_iter().find(has_any).unwrap_or(Tier::Draining))
    }

    /// Iterates over position and backend of each candidate, in the pool's order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &'a Backend)> + Clone + use<'a> {
        let this = *self;
        this.pool.backends().iter().enumerate().filter(move |(index, backend)| this.contains(*index, backend))
    }

    /// Whether the backend at `index` is a candidate.
    pub(super) fn contains(&self, index: usize, backend: &Backend) -> bool {
        let is_in_tier = match self.tier {
            Tier::Regular => !backend.is_backup(),
            Tier::Backup => backend.is_backup(),
            Tier::Draining => true,
        };
        is_in_tier
            && !self.tried.contains(index)
            && !(self.are_steady && backend.live().is_in_slow_start())
            && match backend.live().accepts_new() {
                Ok(()) => true,
                Err(Closed::Draining) => self.tier == Tier::Draining && backend.live().weight() > 0,
                Err(_) => false,
            }
    }

    /// Returns the candidates that are not in slow start.
    pub(super) fn without_slow_start(self) -> Candidates<'a> {
        Candidates { are_steady: true, ..self }
    }

    /// Returns whether backups and draining backends are no candidates, since others are.
    pub(super) fn are_regular(&self) -> bool {
        self.tier == Tier::Regular
    }

    pub(super) fn pool(&self) -> &'a Pool {
        self.pool
    }
}

/// Which backends are candidates, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tier {
    /// Those that are no backups.
    Regular,
    /// Backups.
    Backup,
    /// Those that drain: a new session there is better than none.
    Draining,
}

/// The backends that a request has tried: a bit for each of the first 64, so that most requests allocate nothing.
#[derive(Debug, Default)]
pub struct TriedBackends {
    low: u64,
    high: Vec<usize>,
}

impl TriedBackends {
    /// Creates an empty set.
    pub const fn new() -> TriedBackends {
        TriedBackends { low: 0, high: Vec::new() }
    }

    /// Marks a backend as tried.
    pub fn insert(&mut self, index: usize) {
        match bit(index) {
            Some(bit) => self.low |= bit,
            None if !self.high.contains(&index) => self.high.push(index),
            None => {}
        }
    }

    /// Removes a mark.
    pub fn remove(&mut self, index: usize) {
        match bit(index) {
            Some(bit) => self.low &= !bit,
            None => self.high.retain(|other| *other != index),
        }
    }

    /// Whether a backend is marked as tried.
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
    fn tried_backends_are_known_in_a_pool_of_any_size() {
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
