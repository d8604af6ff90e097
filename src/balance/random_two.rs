//! Owns: the power of two choices (Mitzenmacher 2001): draws two backends by weight and takes the less loaded one.
//! Invariant: if there are two candidates, two different ones are compared.
//! Must not know: anything but weights and requests in flight.

use super::least_requests::{compare, requests};
use super::sample::Sampler;
use super::selection::{Balancer, Candidates};
use super::slow_start::{self, Draw};
use crate::pool::Backend;
use crate::pool::hash::mix;

/// The backends hold the counts.
pub(super) struct RandomTwo {
    pub(super) sampler: Sampler,
}

impl Balancer for RandomTwo {
    fn best(&self, candidates: &Candidates<'_>, entropy: u64) -> Option<usize> {
        let is_less =
            |one: (&u64, &Backend), other: (&u64, &Backend)| compare((*one.0, one.1), (*other.0, other.1)).is_lt();
        self.sampler.best_of(2, candidates, entropy, requests, is_less).or_else(|| better(candidates, entropy))
    }
}

/// Returns the better of two that are drawn out of all candidates.
fn better(candidates: &Candidates<'_>, entropy: u64) -> Option<usize> {
    let candidates = match slow_start::draw(candidates, entropy) {
        Draw::Starting(index) => return Some(index),
        Draw::Others(others) => others,
    };
    let first = draw(&candidates, None, entropy)?;
    // The second draw must not depend on the first.
    let better = match draw(&candidates, Some(first.0), mix(entropy)) {
        Some(second) if compare((requests(second.1), second.1), (requests(first.1), first.1)).is_lt() => second,
        _ => first,
    };
    Some(better.0)
}

/// Draws one of `candidates` but `without` with a probability proportional to its weight.
fn draw<'a>(candidates: &Candidates<'a>, without: Option<usize>, entropy: u64) -> Option<(usize, &'a Backend)> {
    let weight = |backend: &Backend| u64::from(backend.live().effective_weight());
    let others = candidates.iter().filter(|(index, _)| Some(*index) != without);
    let sum = others.clone().map(|(_, backend)| weight(backend)).sum();
    let mut ticket = slow_start::scaled(entropy as u32, sum);
    let mut last = None;
    for (index, backend) in others {
        last = Some((index, backend));
        match ticket.checked_sub(weight(backend)) {
            Some(rest) => ticket = rest,
            None => return last,
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::tests::pool;
    use super::super::{BalancerKind, Candidates, TriedBackends};
    use crate::pool::hash::mix;
    use crate::pool::{AdminState, InFlight};

    fn served(pool: &crate::pool::Pool) -> Vec<usize> {
        let (tried, random_two) = (TriedBackends::new(), BalancerKind::RandomTwo.build(pool, 0));
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
