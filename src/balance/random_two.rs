//! Owns: the power of two choices (Mitzenmacher 2001): draws two backends by weight and takes the less loaded one.
//! Invariant: if there are two candidates, two different ones are compared.
//! Must not know: anything but weights and requests in flight.

use std::cell::Cell;

use super::least_requests::{compare, requests};
use super::selection::{Balancer, Candidates, SMALL};
use super::slow_start::{self, Draw};
use crate::pool::Backend;
use crate::pool::hash::mix;

/// How often a draw out of a large pool is repeated that hits no candidate, or one that is too light.
const MAX_DRAWS: u64 = 32;

/// Has no state but the largest weight that it has seen.
#[derive(Default)]
pub(super) struct RandomTwo {
    largest: Cell<u32>,
}

impl Balancer for RandomTwo {
    fn best(&self, candidates: &Candidates<'_>, entropy: u64) -> Option<usize> {
        let candidates = match slow_start::draw(candidates, entropy) {
            Draw::Starting(index) => return Some(index),
            Draw::Others(others) => others,
        };
        let first = self.draw(&candidates, None, entropy)?;
        // The second draw must not depend on the first.
        let better = match self.draw(&candidates, Some(first.0), mix(entropy)) {
            Some(second) if compare((requests(second.1), second.1), (requests(first.1), first.1)).is_lt() => second,
            _ => first,
        };
        Some(better.0)
    }
}

impl RandomTwo {
    /// Draws one of `candidates` but `without` with a probability proportional to its weight.
    fn draw<'a>(
        &self,
        candidates: &Candidates<'a>,
        without: Option<usize>,
        entropy: u64,
    ) -> Option<(usize, &'a Backend)> {
        if candidates.pool().backends().len() > SMALL
            && let Some(drawn) = self.draw_in_large_pool(candidates, without, entropy)
        {
            return Some(drawn);
        }
        let mut sum = 0;
        self.largest.set(0);
        let others = candidates.iter().filter(|(index, _)| Some(*index) != without);
        for (_, backend) in others.clone() {
            sum += u64::from(self.weight(backend));
        }
        let mut ticket = slow_start::scaled(entropy as u32, sum);
        let mut last = None;
        for (index, backend) in others {
            last = Some((index, backend));
            match ticket.checked_sub(u64::from(self.weight(backend))) {
                Some(rest) => ticket = rest,
                None => return last,
            }
        }
        last
    }

    /// Draws any backend, and accepts it as often as its weight is of the largest, until one is accepted.
    fn draw_in_large_pool<'a>(
        &self,
        candidates: &Candidates<'a>,
        without: Option<usize>,
        entropy: u64,
    ) -> Option<(usize, &'a Backend)> {
        let backends = candidates.pool().backends();
        (0..MAX_DRAWS).find_map(|number| {
            let random = mix(entropy.wrapping_add(number));
            let index = usize::try_from(slow_start::scaled(random as u32, backends.len() as u64)).ok()?;
            let backend = backends.get(index)?;
            let weight = self.weight(backend);
            let is_drawn = slow_start::scaled((random >> 32) as u32, u64::from(self.largest.get())) < u64::from(weight);
            (is_drawn && Some(index) != without && candidates.contains(index, backend)).then_some((index, backend))
        })
    }

    fn weight(&self, backend: &Backend) -> u32 {
        let weight = backend.live().effective_weight();
        self.largest.set(self.largest.get().max(weight));
        weight
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::pool;
    use super::super::{Balancer, Candidates, TriedBackends};
    use super::RandomTwo;
    use crate::pool::hash::mix;
    use crate::pool::{AdminState, InFlight};

    fn served(pool: &crate::pool::Pool) -> Vec<usize> {
        let (tried, random_two) = (TriedBackends::new(), RandomTwo::default());
        let mut served = vec![0; pool.backends().len()];
        for entropy in 0..6000 {
            served[random_two.best(&Candidates::new(pool, &tried), mix(entropy)).unwrap()] += 1;
        }
        served
    }

    #[test]
    fn a_large_pool_is_drawn_from_by_weight_and_the_busier_of_two_is_not_chosen() {
        let mut weights = [1; 300];
        weights[..100].fill(4);
        let pool = pool(&weights);
        let _busy: Vec<_> = (0..20).map(|index| InFlight::on(pool.backend(index).live(), 0)).collect();
        pool.backend(299).live().set_state(AdminState::Maintenance);
        let counts = served(&pool);
        // Two thirds of the weight, and better than one of the others: one pair in nine has none of them.
        assert!(counts[..100].iter().sum::<usize>().abs_diff(5333) < 200, "{counts:?}");
        assert!(3 * counts[..20].iter().sum::<usize>() < 2 * counts[20..40].iter().sum::<usize>(), "{counts:?}");
        assert_eq!(counts[299], 0);
        (2..300).for_each(|index| pool.backend(index).live().set_state(AdminState::Maintenance));
        let _busier = InFlight::on(pool.backend(0).live(), 0);
        assert_eq!(served(&pool)[1], 6000, "two candidates are left");
    }

    #[test]
    fn the_busiest_is_never_chosen() {
        let pool = pool(&[1, 1, 1]);
        let _busy = InFlight::on(pool.backend(1).live(), 0);
        let served = served(&pool);
        assert_eq!(served[1], 0);
        assert!(served[0].abs_diff(served[2]) < 400, "{served:?}");
    }

    #[test]
    fn idle_backends_are_chosen_evenly() {
        let served = served(&pool(&[1, 1, 1]));
        assert!(served.iter().all(|count| (1800..2200).contains(count)), "{served:?}");
    }
}
