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

/// The cursor. It takes memory once it is used: with a hundred threads and thousands of pools, most never are.
pub(super) struct RoundRobin {
    /// Decides where it starts. Otherwise all threads of all Linchpins would send their first client to the first
    /// backend.
    entropy: u64,
    state: RefCell<Option<State>>,
}

enum State {
    Small(Credits),
    Large(Turns),
}

/// The state in a small pool: what each backend has earned. Every candidate earns its weight in each round; the one with
/// the most credit is chosen and pays the sum of the weights.
struct Credits(Vec<i64>);

/// The state in a large pool: backends take turns. With equal weights each is chosen at its turn. Of others, the heaviest
/// are chosen in each round, and one that weighs a tenth of them in each tenth round, as Bresenham's algorithm draws a
/// line. So the state is as small as the pool is large.
struct Turns {
    /// Decides in which rounds a light backend is chosen: or all of the same weight would be chosen one right after the
    /// other.
    entropy: u64,
    /// Whose turn is next, and how often all have had theirs.
    turn: usize,
    round: u64,
    /// The largest weight.
    price: u64,
}

/// The most backends to visit in order to find a start.
const MOST_WORK: u64 = 1_000_000;

impl RoundRobin {
    /// Creates a cursor that starts at a random position of the cycle.
    pub(super) fn new(entropy: u64) -> RoundRobin {
        RoundRobin { entropy, state: RefCell::default() }
    }
}

impl State {
    fn begin(pool: &Pool, entropy: u64) -> State {
        if pool.backends().len() > SMALL {
            let price = weights(pool).max().unwrap_or_default();
            let turn = (entropy % pool.backends().len() as u64) as usize;
            State::Large(Turns { entropy, turn, round: 0, price: price.max(1) })
        } else {
            State::Small(Credits::begin(pool, entropy))
        }
    }
}

fn weights(pool: &Pool) -> impl Iterator<Item = u64> {
    pool.backends().iter().map(|backend| u64::from(backend.live().effective_weight()))
}

impl Credits {
    fn begin(pool: &Pool, entropy: u64) -> Credits {
        let weights: Vec<_> = weights(pool).map(u64::cast_signed).collect();
        let count = weights.len().max(1) as u64;
        if let [first, others @ ..] = &*weights
            && others.iter().all(|weight| weight == first)
        {
            // With equal weights each step chooses the next backend, so the result of many steps is known.
            let steps = (entropy % count) as usize;
            let earned = first * steps as i64;
            let credit = |index: usize| if index < steps { earned - first * weights.len() as i64 } else { earned };
            return Credits((0..weights.len()).map(credit).collect());
        }
        let mut this = Credits(vec![0; weights.len()]);
        let tried = TriedBackends::new();
        // A cycle can have a thousand steps for each backend. A few steps for each are enough to make threads start
        // elsewhere, and one step visits all backends.
        let most = (4 * count).min(MOST_WORK / count).max(1);
        let steps = entropy % (weights.iter().sum::<i64>().unsigned_abs() / u64::from(ONE)).clamp(1, most);
        for _ in 0..steps {
            this.smoothest(&Candidates::new(pool, &tried));
        }
        this
    }

    fn smoothest(&mut self, candidates: &Candidates<'_>) -> Option<usize> {
        let mut sum = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, backend) in candidates.iter() {
            let weight = i64::from(backend.live().effective_weight());
            let credit = self.0.get_mut(index)?;
            *credit += weight;
            sum += weight;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((index, *credit));
            }
        }
        let (index, _) = best?;
        self.0[index] -= sum;
        Some(index)
    }
}

impl Turns {
    /// With equal weights the first candidate is chosen; with others, one out of as many as the largest weight is times
    /// the mean.
    fn next(&mut self, candidates: &Candidates<'_>) -> Option<usize> {
        let backends = candidates.pool().backends();
        loop {
            let mut most = 0;
            for _ in 0..backends.len() {
                let (index, round) = (self.turn, self.round);
                (self.turn, self.round) =
                    if index + 1 < backends.len() { (index + 1, round) } else { (0, round.wrapping_add(1)) };
                let backend = backends.get(index)?;
                if !candidates.contains(index, backend) {
                    continue;
                }
                let weight = u64::from(backend.live().effective_weight());
                self.price = self.price.max(weight);
                most = most.max(weight);
                if self.pays(index, round, weight) {
                    return Some(index);
                }
            }
            // None of them could pay: the backend with the largest weight has left, or its weight has changed.
            if most == 0 {
                return None;
            }
            self.price = most;
        }
    }

    /// Returns whether a backend of this weight is chosen in this round: if what it has earned by then reaches another
    /// multiple of the price. It begins with a part of that.
    fn pays(&self, index: usize, round: u64, weight: u64) -> bool {
        let Turns { entropy, price, .. } = *self;
        if weight >= price {
            return true;
        }
        let first = mix(entropy.wrapping_add(index as u64)) % price;
        (first + round % price * weight) % price + weight >= price
    }
}

impl Balancer for RoundRobin {
    fn best(&self, candidates: &Candidates<'_>, _entropy: u64) -> Option<usize> {
        let mut state = self.state.borrow_mut();
        match state.get_or_insert_with(|| State::begin(candidates.pool(), self.entropy)) {
            State::Small(credits) => credits.smoothest(candidates),
            State::Large(turns) => turns.next(candidates),
        }
    }

    /// Backends that stay keep their credits; new ones begin with none. Otherwise, in a pool whose backends change all
    /// the time, the first backend would get the first client after each change.
    fn carry_over(&self, from: &Pool, to: &Pool) -> Option<Rc<dyn Balancer>> {
        let is_large = to.backends().len() > SMALL;
        let state = match self.state.borrow().as_ref()? {
            State::Small(credits) if !is_large => {
                let ids = from.backends().iter().map(|backend| backend.live().id());
                let before: HashMap<usize, i64> = ids.zip(credits.0.iter().copied()).collect();
                let after: Vec<_> =
                    to.backends().iter().map(|backend| before.get(&backend.live().id()).copied()).collect();
                after
                    .iter()
                    .any(Option::is_some)
                    .then(|| State::Small(Credits(after.into_iter().map(Option::unwrap_or_default).collect())))
            }
            // The turn goes on with the backend whose turn it was, or with the first after it that stays.
            State::Large(Turns { entropy, turn, round, price }) if is_large => {
                let positions: HashMap<_, _> =
                    to.backends().iter().enumerate().map(|(index, backend)| (backend.live().id(), index)).collect();
                let mut waiting = (0..from.backends().len()).cycle().skip(*turn).take(from.backends().len());
                let turn = waiting.find_map(|index| positions.get(&from.backends().get(index)?.live().id()).copied());
                turn.map(|turn| State::Large(Turns { entropy: *entropy, turn, round: *round, price: *price }))
            }
            // Credits mean something else.
            _ => None,
        };
        // If all backends are new, a new cursor for each thread makes threads start elsewhere.
        state.map(|state| {
            Rc::new(RoundRobin { entropy: self.entropy, state: RefCell::new(Some(state)) }) as Rc<dyn Balancer>
        })
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
        let cursor = RoundRobin::new(entropy);
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
        let cursor = RoundRobin::new(0);
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
            assert!(served(&RoundRobin::new(entropy), &pool, 3000).iter().all(|served| *served == 3));
        }
    }

    #[test]
    fn a_large_pool_goes_on_when_its_heaviest_backend_leaves_or_weights_change() {
        let mut weights = [1; 100];
        weights[7] = 1000;
        let pool = pool(&weights);
        let cursor = RoundRobin::new(5);
        assert_eq!(served(&cursor, &pool, 1099)[7], 1000);
        pool.backend(7).live().set_state(AdminState::Maintenance);
        let counts = served(&cursor, &pool, 9900);
        assert!(counts.iter().enumerate().all(|(index, served)| *served == if index == 7 { 0 } else { 100 }));
        pool.backend(3).live().set_weight(5);
        // Until its turn comes, all others are as heavy as any.
        served(&cursor, &pool, 99);
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
            let served = served(&RoundRobin::new(entropy), &pool, 10 * cycle);
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
