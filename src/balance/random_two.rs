//! Owns: the power of two choices (Mitzenmacher 2001): draws two backends by weight and takes the less loaded one.
//! Invariant: if there are two candidates, two different ones are compared.
//! Must not know: anything but weights and requests in flight.

use super::least_requests::{compare, requests};
use super::selection::{Balancer, Candidates};
use super::slow_start::{self, Draw};
use crate::pool::Backend;

/// Has no state.
pub(super) struct RandomTwo;

impl Balancer for RandomTwo {
    fn best(&self, candidates: &Candidates<'_>, entropy: u64) -> Option<usize> {
        let candidates = match slow_start::draw(candidates, entropy) {
            Draw::Starting(index) => return Some(index),
            Draw::Others(others) => others,
        };
        let first = draw(candidates.iter(), entropy as u32)?;
        let others = candidates.iter().filter(|(index, _)| *index != first.0);
        let better = match draw(others, (entropy >> 32) as u32) {
            Some(second) if compare((requests(second.1), second.1), (requests(first.1), first.1)).is_lt() => second,
            _ => first,
        };
        Some(better.0)
    }
}

/// Draws one of `backends` with a probability proportional to its weight.
fn draw<'a>(
    backends: impl Iterator<Item = (usize, &'a Backend)> + Clone,
    entropy: u32,
) -> Option<(usize, &'a Backend)> {
    let weight = |backend: &Backend| u64::from(backend.live().effective_weight());
    let sum: u64 = backends.clone().map(|(_, backend)| weight(backend)).sum();
    let mut ticket = slow_start::scaled(entropy, sum);
    let mut last = None;
    for (index, backend) in backends {
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
    use super::super::{Balancer, Candidates, TriedBackends};
    use super::RandomTwo;
    use crate::pool::InFlight;
    use crate::pool::hash::mix;

    fn served(pool: &crate::pool::Pool) -> Vec<usize> {
        let tried = TriedBackends::new();
        let mut served = vec![0; pool.backends().len()];
        for entropy in 0..6000 {
            served[RandomTwo.best(&Candidates::new(pool, &tried), mix(entropy)).unwrap()] += 1;
        }
        served
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
