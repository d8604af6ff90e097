//! Owns: the choice of the backend with the fewest requests in flight for its weight.
//! Invariant: among equals the choice is random: else the first backend would get every client while the pool is idle.
//! Must not know: sessions: an idle pinned client does not count here.

use std::cmp::Ordering;

use super::selection::{Balancer, Candidates};
use super::slow_start::{Draw, draw};
use crate::pool::Backend;

/// Has no state: the backends hold the counts.
pub(super) struct LeastRequests;

impl Balancer for LeastRequests {
    fn best(&self, candidates: &Candidates<'_>, entropy: u64) -> Option<usize> {
        match draw(candidates, entropy) {
            Draw::Starting(index) => Some(index),
            Draw::Others(others) => least(&others, entropy, requests),
        }
    }
}

/// Returns the position of the candidate with the least `load` for its weight, of equals a random one.
pub(super) fn least(candidates: &Candidates<'_>, entropy: u64, load: impl Fn(&Backend) -> u64) -> Option<usize> {
    let mut best: Option<(usize, u64, &Backend)> = None;
    let mut equals = 0;
    for (index, backend) in candidates.iter() {
        // Counts are spread over all threads: read each once.
        let candidate = (index, load(backend), backend);
        let order = best.map_or(Ordering::Less, |(_, least, other)| compare((candidate.1, backend), (least, other)));
        match order {
            Ordering::Less => (best, equals) = (Some(candidate), 0),
            Ordering::Greater => {}
            // The n-th equal replaces the choice with probability 1/n: so all are equally likely.
            Ordering::Equal => {
                equals += 1;
                if crate::pool::hash::mix(entropy.wrapping_add(equals)).is_multiple_of(equals + 1) {
                    best = Some(candidate);
                }
            }
        }
    }
    best.map(|(index, ..)| index)
}

/// Returns the load of a backend in requests.
pub(super) fn requests(backend: &Backend) -> u64 {
    u64::from(backend.live().active())
}

/// Compares two backends with their loads by (load + 1) / weight, multiplied out. What is to be added counts as well, so
/// that among idle backends the one with more weight comes first.
pub(super) fn compare(a: (u64, &Backend), b: (u64, &Backend)) -> Ordering {
    let weight = |backend: &Backend| u64::from(backend.live().effective_weight());
    ((a.0 + 1) * weight(b.1)).cmp(&((b.0 + 1) * weight(a.1)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::pool;
    use super::super::{Balancer, Candidates, TriedBackends};
    use super::LeastRequests;
    use crate::pool::InFlight;
    use crate::pool::hash::mix;

    #[test]
    fn the_idle_backend_is_chosen_and_weight_counts() {
        let pool = pool(&[2, 1]);
        let tried = TriedBackends::new();
        let best = || LeastRequests.best(&Candidates::new(&pool, &tried), 1);
        assert_eq!(best(), Some(0), "twice the weight, both idle");
        let _one = InFlight::on(pool.backend(0).live(), 0);
        let _two = InFlight::on(pool.backend(0).live(), 0);
        assert_eq!(best(), Some(1), "3/2 against 1/1");
        let _three = InFlight::on(pool.backend(1).live(), 0);
        assert_eq!(best(), Some(0), "3/2 against 2/1");
    }

    #[test]
    fn all_equals_are_equally_likely() {
        let pool = pool(&[1, 1, 1]);
        let tried = TriedBackends::new();
        let mut served = [0; 3];
        for entropy in 0..3000 {
            served[LeastRequests.best(&Candidates::new(&pool, &tried), mix(entropy)).unwrap()] += 1;
        }
        assert!(served.iter().all(|count| (850..1150).contains(count)), "{served:?}");
    }
}
