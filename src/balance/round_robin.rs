//! Owns: smooth weighted round-robin, as in nginx (commit 52327e0, 2012).
//! Invariant: as many picks as the sum of the weights choose each backend as often as its weight says, evenly spread.
//! Must not know: other threads: each has its own cursor, which starts elsewhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::selection::{Balancer, Candidates, TriedBackends};
use crate::pool::Pool;
use crate::pool::slow_start::ONE;

/// The cursor: one credit for each backend. In each round every candidate earns its weight; the one with the most
/// credit is chosen and pays the sum of the weights. Credits of other backends do not change.
pub(super) struct RoundRobin {
    credits: RefCell<Vec<i64>>,
}

/// The most backends to visit in order to find a start.
const MOST_WORK: u64 = 1_000_000;

impl RoundRobin {
    /// Creates a cursor that starts at a random position of the cycle. Otherwise all threads of all Linchpins would
    /// send their first client to the first backend.
    pub(super) fn new(pool: &Pool, entropy: u64) -> RoundRobin {
        let weights: Vec<_> =
            pool.backends().iter().map(|backend| i64::from(backend.live().effective_weight())).collect();
        let count = weights.len().max(1) as u64;
        if let [first, others @ ..] = &*weights
            && others.iter().all(|weight| weight == first)
        {
            // With equal weights each step chooses the next backend, so the result of many steps is known.
            let steps = (entropy % count) as usize;
            let earned = first * steps as i64;
            let credit = |index: usize| if index < steps { earned - first * weights.len() as i64 } else { earned };
            return RoundRobin { credits: RefCell::new((0..weights.len()).map(credit).collect()) };
        }
        let this = RoundRobin { credits: RefCell::new(vec![0; weights.len()]) };
        let tried = TriedBackends::new();
        // A cycle can have a thousand steps for each backend. A few steps for each are enough to make threads start
        // elsewhere, and one step visits all backends.
        let most = (4 * count).min(MOST_WORK / count).max(1);
        let steps = entropy % (weights.iter().sum::<i64>().unsigned_abs() / u64::from(ONE)).clamp(1, most);
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
            let weight = i64::from(backend.live().effective_weight());
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

    /// Backends that stay keep their credits; new ones begin with none. Otherwise, in a pool whose backends change all
    /// the time, the first backend would get the first client after each change.
    fn carry_over(&self, from: &Pool, to: &Pool) -> Option<Rc<dyn Balancer>> {
        let credits = self.credits.borrow();
        let before = from.backends().iter().map(|backend| backend.live().id());
        let before: HashMap<usize, i64> = before.zip(credits.iter().copied()).collect();
        if !to.backends().iter().any(|backend| before.contains_key(&backend.live().id())) {
            // All backends are new: a new cursor for each thread makes threads start elsewhere.
            return None;
        }
        let credit = |id: usize| before.get(&id).copied().unwrap_or_default();
        let credits = to.backends().iter().map(|backend| credit(backend.live().id())).collect();
        Some(Rc::new(RoundRobin { credits: RefCell::new(credits) }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::pool;
    use super::super::{Balancer, Candidates, TriedBackends};
    use super::RoundRobin;
    use crate::pool::reconcile::Reconciler;
    use crate::pool::{Pool, Settings, backend, health_state};

    fn picks(weights: &[i32], entropy: u64, count: usize) -> Vec<usize> {
        let pool = pool(weights);
        let cursor = RoundRobin::new(&pool, entropy);
        let tried = TriedBackends::new();
        (0..count).filter_map(|_| cursor.best(&Candidates::new(&pool, &tried), 0)).collect()
    }

    #[test]
    fn weights_are_served_smoothly() {
        assert_eq!(picks(&[5, 1, 1], 0, 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_start_among_equals_is_the_one_that_as_many_steps_lead_to() {
        for (weight, entropy) in [(1, 0), (1, 2), (3, 4), (3, 11)] {
            let from_0 = picks(&[weight; 5], 0, 20);
            assert_eq!(picks(&[weight; 5], entropy, 10), from_0[entropy as usize % 5..][..10], "{weight} {entropy}");
        }
    }

    #[test]
    fn threads_start_at_different_backends() {
        let starts: std::collections::HashSet<_> = (0..3).map(|entropy| picks(&[1, 1, 1], entropy, 1)).collect();
        assert_eq!(starts.len(), 3);
    }

    #[test]
    fn backends_that_stay_keep_their_position_when_others_are_added_and_removed() {
        let backend = |name: &str, port| backend::Settings::new(name, ([127, 0, 0, 1], port).into());
        let all = [backend("a", 1), backend("b", 2), backend("c", 3), backend("d", 4)];
        let mut reconciler = Reconciler::new(1);
        let mut pool = |members: &[usize]| {
            let backends = members.iter().map(|index| all[*index].clone()).collect();
            let settings = Settings {
                name: "p".into(),
                backends,
                health_state: health_state::Settings::default(),
                ..Settings::default()
            };
            reconciler.pools(&[settings]).remove(0)
        };
        let tried = TriedBackends::new();
        let next = |balancer: &dyn Balancer, pool: &Pool| {
            let index = balancer.best(&Candidates::new(pool, &tried), 0).unwrap();
            pool.backend(index).name().to_string()
        };
        let before = pool(&[0, 1, 2]);
        let cursor = RoundRobin::new(&before, 0);
        assert_eq!([next(&cursor, &before), next(&cursor, &before)], ["a", "b"]);
        let after = pool(&[2, 0, 1]);
        let cursor = cursor.carry_over(&before, &after).unwrap();
        assert_eq!(next(&*cursor, &after), "c");
        let grown = pool(&[0, 1, 2, 3]);
        let cursor = cursor.carry_over(&after, &grown).unwrap();
        let mut served: Vec<_> = (0..4).map(|_| next(&*cursor, &grown)).collect();
        served.sort();
        assert_eq!(served, ["a", "b", "c", "d"]);
        assert!(cursor.carry_over(&pool(&[]), &grown).is_none(), "no backend stays");
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
