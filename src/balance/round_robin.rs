//! Owns: smooth weighted round-robin, as in nginx (commit 52327e0, 2012).
//! Invariant: any run of picks as long as the sum of the weights serves each backend its weight, evenly spread.
//! Must not know: other threads: each has its own cursor with a start of its own.

use std::cell::RefCell;

use super::{Balancer, Candidates};
use crate::pool::Pool;

/// The cursor: one credit a backend. Each round every candidate earns its weight, and the
/// richest is served and pays the sum. Credits of backends that are no candidates rest.
pub(super) struct RoundRobin {
    credits: RefCell<Vec<i64>>,
}

impl RoundRobin {
    /// A cursor that starts somewhere in the cycle. Without that, all threads of all Linchpins
    /// would send their first clients to the first backend.
    pub(super) fn new(pool: &Pool, entropy: u64) -> RoundRobin {
        let this = RoundRobin { credits: RefCell::new(vec![0; pool.backends().len()]) };
        let tried = super::Tried::new();
        let cycle: u64 = pool.backends().iter().map(|backend| u64::from(backend.live().weight())).sum();
        // A cycle can be a thousand a backend; a few steps for each set threads apart well enough.
        let steps = entropy % cycle.clamp(1, 4 * pool.backends().len().max(1) as u64);
        for _ in 0..steps {
            this.best(&Candidates::new(pool, &tried), 0);
        }
        this
    }
}

impl Balancer for RoundRobin {
    fn best(&self, candidates: &Candidates<'_>, _entropy: u64) -> Option<usize> {
        let mut credits = self.credits.borrow_mut();
        let mut sum = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, backend) in candidates.iter() {
            let weight = i64::from(backend.live().weight());
            let credit = credits.get_mut(index)?;
            *credit += weight;
            sum += weight;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((index, *credit));
            }
        }
        let (index, _) = best?;
        credits[index] -= sum;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::pool;
    use super::super::{Balancer, Candidates, Tried};
    use super::RoundRobin;

    fn picks(weights: &[i32], entropy: u64, count: usize) -> Vec<usize> {
        let pool = pool(weights);
        let cursor = RoundRobin::new(&pool, entropy);
        let tried = Tried::new();
        (0..count).filter_map(|_| cursor.best(&Candidates::new(&pool, &tried), 0)).collect()
    }

    #[test]
    fn weights_are_served_smoothly() {
        assert_eq!(picks(&[5, 1, 1], 0, 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn threads_start_apart() {
        let starts: std::collections::HashSet<_> = (0..3).map(|entropy| picks(&[1, 1, 1], entropy, 1)).collect();
        assert_eq!(starts.len(), 3);
    }

    proptest::proptest! {
        #[test]
        fn each_cycle_serves_each_backend_its_weight_wherever_it_starts(
            weights in proptest::collection::vec(1i32..6, 1..8), entropy: u64
        ) {
            let cycle: i32 = weights.iter().sum();
            let picks = picks(&weights, entropy, cycle as usize);
            for (index, weight) in weights.iter().enumerate() {
                let served = picks.iter().filter(|pick| **pick == index).count();
                proptest::prop_assert_eq!(served, *weight as usize);
            }
        }
    }
}
