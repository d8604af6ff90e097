//! Owns: how a policy chooses among the backends of a large pool: it draws some by weight and looks at these alone.
//! Invariant: what a choice costs doesn't grow with the pool; if hardly any backend is a candidate, nothing is drawn.
//! Must not know: what load is; how a policy chooses in a small pool.

use std::cell::Cell;

use super::selection::{Candidates, SMALL};
use super::slow_start::scaled;
use crate::pool::hash::mix;
use crate::pool::{Backend, Pool};

/// How often a draw is repeated that hits no candidate, or one that is too light.
const MAX_DRAWS: u32 = 32;

/// Draws backends of a large pool. It has no state but the largest weight that it has seen.
pub(super) struct Sampler {
    largest: Cell<u32>,
}

/// A random number for each draw: the draws of a request must not depend on each other.
struct Randoms(u64);

impl Randoms {
    fn new(entropy: u64) -> Randoms {
        Randoms(entropy)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

impl Sampler {
    pub(super) fn new(pool: &Pool) -> Sampler {
        Sampler { largest: Cell::new(largest_weight(pool)) }
    }

    /// Draws `count` candidates with a probability proportional to their weights, and returns the best one of them:
    /// `is_better` says whether its first argument is better than its second one. None is compared with itself.
    ///
    /// If the first one is in slow start, it is chosen at once: so a backend in slow start gets its part of the weights.
    /// Others in slow start don't count.
    ///
    /// Returns `None` if the pool is small, or if few backends are candidates, or most are far lighter than the heaviest:
    /// then look at all of them.
    pub(super) fn best_of<'a, T>(
        &self,
        count: u32,
        candidates: &Candidates<'a>,
        entropy: u64,
        load: impl Fn(&'a Backend) -> T,
        is_better: impl Fn((&T, &'a Backend), (&T, &'a Backend)) -> bool,
    ) -> Option<usize> {
        let pool = candidates.pool();
        if pool.backends().len() <= SMALL {
            return None;
        }
        let mut randoms = Randoms::new(entropy);
        let (mut index, mut best) = self.draw(candidates, None, &mut randoms)?;
        let mut others = *candidates;
        if candidates.pool().has_slow_start() {
            if best.live().is_in_slow_start() {
                return Some(index);
            }
            others = candidates.without_slow_start();
        }
        // Counts are spread over all threads: read each once.
        let mut least = load(best);
        for _ in 1..count {
            let (at, backend) = self.draw(&others, Some(index), &mut randoms)?;
            let drawn = load(backend);
            if is_better((&drawn, backend), (&least, best)) {
                (index, best, least) = (at, backend, drawn);
            }
        }
        Some(index)
    }

    /// Draws any backend but `without`, and accepts it as often as its weight is of the largest, until one is accepted.
    fn draw<'a>(
        &self,
        candidates: &Candidates<'a>,
        without: Option<usize>,
        randoms: &mut Randoms,
    ) -> Option<(usize, &'a Backend)> {
        let backends = candidates.pool().backends();
        let drawn = (0..MAX_DRAWS).find_map(|_| {
            let random = randoms.next();
            let index = usize::try_from(scaled(random as u32, backends.len() as u64)).ok()?;
            let backend = backends.get(index)?;
            let weight = backend.live().effective_weight();
            if weight > self.largest.get() {
                self.largest.set(weight);
            }
            let is_drawn = scaled((random >> 32) as u32, u64::from(self.largest.get())) < u64::from(weight);
            (is_drawn && Some(index) != without && candidates.contains(index, backend)).then_some((index, backend))
        });
        if drawn.is_none() {
            // Perhaps the heaviest has left.
            self.largest.set(largest_weight(candidates.pool()));
        }
        drawn
    }
}

fn largest_weight(pool: &Pool) -> u32 {
    pool.backends().iter().map(|backend| backend.live().effective_weight()).max().unwrap_or_default()
}
