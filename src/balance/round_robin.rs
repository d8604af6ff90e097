//! Owns: weighted round-robin: in small pools the smooth one of nginx (commit 52327e0, 2012), in large ones by turns.
//! Invariant: as many picks as the sum of the weights choose each backend as often as its weight says, evenly spread.
//! Must not know: other threads: each has its own cursor, which starts elsewhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::selection::{Balancer, Candidates, SMALL, TriedBackends};
use crate::pool::Pool;
use crate::pool::hash::mix;
use crate::pool::slow_start::ONE;

/// The cursor. In a small pool every candidate earns its weight in each round; the one with the most credit is chosen
/// and pays the sum of the weights. In a large pool backends take turns, and each earns its weight at its turn: it is
/// chosen if it can pay the largest weight. Credits of other backends do not change.
pub(super) struct RoundRobin {
    state: RefCell<State>,
}

struct State {
    /// One for each backend.
    credits: Vec<i64>,
    /// In a large pool: whose turn is next, and the largest weight.
    turn: usize,
    price: i64,
}

/// The most backends to visit in order to find a start.
const MOST_WORK: u64 = 1_000_000;

impl RoundRobin {
    /// Creates a cursor that starts at a random position of the cycle. Otherwise all threads of all Linchpins would
    /// send their first client to the first backend.
    pub(super) fn new(pool: &Pool, entropy: u64) -> RoundRobin {
        let weights = weights(pool);
        let count = weights.len().max(1) as u64;
        if weights.len() > SMALL {
            return RoundRobin::in_turns(&weights, entropy);
        }
        if let [first, others @ ..] = &*weights
            && others.iter().all(|weight| weight == first)
        {
            // With equal weights each step chooses the next backend, so the result of many steps is known.
            let steps = (entropy % count) as usize;
            let earned = first * steps as i64;
            let credit = |index: usize| if index < steps { earned - first * weights.len() as i64 } else { earned };
            return RoundRobin::with((0..weights.len()).map(credit).collect());
        }
        let this = RoundRobin::with(vec![0; weights.len()]);
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

    fn with(credits: Vec<i64>) -> RoundRobin {
        RoundRobin { state: RefCell::new(State { credits, turn: 0, price: 0 }) }
    }

    /// Begins the turns of a large pool anywhere. Credits begin anywhere, too, or all backends of the same small weight
    /// would be chosen one right after the other.
    fn in_turns(weights: &[i64], entropy: u64) -> RoundRobin {
        let price = weights.iter().copied().max().unwrap_or_default().max(1);
        let credit = |index: usize| (mix(entropy.wrapping_add(index as u64)) % price.unsigned_abs()) as i64;
        let credits = (0..weights.len()).map(credit).collect();
        let turn = (entropy % weights.len().max(1) as u64) as usize;
        RoundRobin { state: RefCell::new(State { credits, turn, price }) }
    }
}

fn weights(pool: &Pool) -> Vec<i64> {
    pool.backends().iter().map(|backend| i64::from(backend.live().effective_weight())).collect()
}

impl State {
    /// Chooses in a small pool.
    fn smoothest(&mut self, candidates: &Candidates<'_>) -> Option<usize> {
        let mut sum = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, backend) in candidates.iter() {
            let weight = i64::from(backend.live().effective_weight());
            let credit = self.credits.get_mut(index)?;
            *credit += weight;
            sum += weight;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((index, *credit));
            }
        }
        let (index, _) = best?;
        self.credits[index] -= sum;
        Some(index)
    }

    /// Chooses in a large pool. With equal weights the first candidate is chosen; with others, one out of as many as the
    /// largest weight is times the mean.
    fn next_in_turn(&mut self, candidates: &Candidates<'_>) -> Option<usize> {
        let backends = candidates.pool().backends();
        loop {
            let mut most = 0;
            for _ in 0..backends.len() {
                let index = self.turn;
                self.turn = if index + 1 < backends.len() { index + 1 } else { 0 };
                let backend = backends.get(index)?;
                if !candidates.contains(index, backend) {
                    continue;
                }
                let weight = i64::from(backend.live().effective_weight());
                self.price = self.price.max(weight);
                most = most.max(weight);
                let credit = self.credits.get_mut(index)?;
                *credit += weight;
                if *credit >= self.price {
                    *credit -= self.price;
                    return Some(index);
                }
            }
            // None of them could pay: the backend with the largest weight has left, or its weight has changed.
            if most == 0 {
                return None;
            }
            self.price = most;
            self.credits.iter_mut().for_each(|credit| *credit %= most);
        }
    }
}

impl Balancer for RoundRobin {
    fn best(&self, candidates: &Candidates<'_>, _entropy: u64) -> Option<usize> {
        let mut state = self.state.borrow_mut();
        match state.credits.len() {
            ..=SMALL => state.smoothest(candidates),
            _ => state.next_in_turn(candidates),
        }
    }

    /// Backends that stay keep their credits; new ones begin with none. Otherwise, in a pool whose backends change all
    /// the time, the first backend would get the first client after each change.
    fn carry_over(&self, from: &Pool, to: &Pool) -> Option<Rc<dyn Balancer>> {
        let state = self.state.borrow();
        let before: HashMap<usize, i64> =
            from.backends().iter().map(|backend| backend.live().id()).zip(state.credits.iter().copied()).collect();
        let is_large = |pool: &Pool| pool.backends().len() > SMALL;
        if is_large(from) != is_large(to) || !to.backends().iter().any(|new| before.contains_key(&new.live().id())) {
            // Credits mean something else, or all backends are new: a new cursor for each thread makes threads start
            // elsewhere.
            return None;
        }
        let credit = |id: usize| before.get(&id).copied().unwrap_or_default();
        let credits = to.backends().iter().map(|backend| credit(backend.live().id())).collect();
        // The turn goes on with the backend whose turn it was, or with the first after it that stays.
        let waiting = from.backends().iter().cycle().skip(state.turn).take(from.backends().len());
        let next = |id: usize| to.backends().iter().position(|backend| backend.live().id() == id);
        let turn = if is_large(to) { waiting.filter_map(|old| next(old.live().id())).next().unwrap_or(0) } else { 0 };
        Some(Rc::new(RoundRobin { state: RefCell::new(State { credits, turn, price: state.price }) }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::pool;
    use super::super::{Balancer, Candidates, TriedBackends};
    use super::RoundRobin;
    use crate::pool::reconcile::Reconciler;
    use crate::pool::{AdminState, Pool, Settings, backend, health_state};

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

    /// How often each backend of a large pool is chosen in this many picks.
    fn served(cursor: &RoundRobin, pool: &Pool, picks: usize) -> Vec<usize> {
        let (tried, mut served) = (TriedBackends::new(), vec![0; pool.backends().len()]);
        (0..picks).for_each(|_| served[cursor.best(&Candidates::new(pool, &tried), 0).unwrap()] += 1);
        served
    }

    #[test]
    fn backends_of_a_large_pool_take_turns_wherever_it_starts() {
        let pool = pool(&[1; 1000]);
        for entropy in [0, 1, 999, u64::MAX] {
            let order = picks(&[1; 1000], entropy, 2001);
            assert!(order.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 1000), "{entropy}");
            assert!(served(&RoundRobin::new(&pool, entropy), &pool, 3000).iter().all(|served| *served == 3));
        }
    }

    #[test]
    fn a_large_pool_goes_on_when_its_heaviest_backend_leaves_or_weights_change() {
        let mut weights = [1; 100];
        weights[7] = 1000;
        let pool = pool(&weights);
        let cursor = RoundRobin::new(&pool, 5);
        assert_eq!(served(&cursor, &pool, 1099)[7], 1000);
        pool.backend(7).live().set_state(AdminState::Maintenance);
        let counts = served(&cursor, &pool, 9900);
        assert!(counts.iter().enumerate().all(|(index, served)| *served == if index == 7 { 0 } else { 100 }));
        pool.backend(3).live().set_weight(5);
        let counts = served(&cursor, &pool, 1030);
        assert!((49..=51).contains(&counts[3]) && counts[4].abs_diff(10) <= 1, "{counts:?}");
        let (tried, all) = (TriedBackends::new(), 0..100);
        all.for_each(|index| pool.backend(index).live().set_state(AdminState::Maintenance));
        assert_eq!(cursor.best(&Candidates::new(&pool, &tried), 0), None);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]

        #[test]
        fn a_cycle_of_a_large_pool_serves_each_backend_its_weight(
            weights in proptest::collection::vec(1i32..6, 65..200), entropy: u64
        ) {
            let pool = pool(&weights);
            let cycle = weights.iter().sum::<i32>() as usize;
            let served = served(&RoundRobin::new(&pool, entropy), &pool, 10 * cycle);
            for (served, weight) in served.iter().zip(&weights) {
                proptest::prop_assert!(served.abs_diff(10 * *weight as usize) <= 6, "{} of {}", served, weight);
            }
        }
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
