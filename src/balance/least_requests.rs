//! Owns: the choice of the backend with the fewest requests in flight for its weight.
//! Invariant: among equals the choice is random: else the first backend would get every client while the pool is idle.
//! Must not know: sessions: an idle pinned client does not count here.

use super::selection::{Balancer, Candidates};
use super::slow_start::{Draw, draw};
use crate::pool::Backend;

/// Has no state: the backends hold the counts.
pub(super) struct LeastRequests;

impl Balancer for LeastRequests {
    fn best(&self, candidates: &Candidates<'_>, entropy: u64) -> Option<usize> {
        let candidates = match draw(candidates, entropy) {
            Draw::Starting(index) => return Some(index),
            Draw::Others(others) => others,
        };
        let mut best: Option<(usize, &Backend)> = None;
        let mut equals = 0;
        for (index, backend) in candidates.iter() {
            let is_less = match best {
                None => true,
                Some((_, least)) => match compare(backend, least) {
                    std::cmp::Ordering::Less => true,
                    std::cmp::Ordering::Greater => false,
                    // The n-th equal replaces the choice with probability 1/n: so all are equally likely.
                    std::cmp::Ordering::Equal => {
                        equals += 1;
                        let draw = crate::pool::hash::mix(entropy.wrapping_add(equals));
                        if draw.is_multiple_of(equals + 1) {
                            best = Some((index, backend));
                        }
                        continue;
                    }
                },
            };
            if is_less {
                best = Some((index, backend));
                equals = 0;
            }
        }
        best.map(|(index, _)| index)
    }
}

/// Compares two backends by (requests + 1) / weight, multiplied out. The new request counts as well, so that among idle
/// backends the one with more weight comes first.
pub(super) fn compare(a: &Backend, b: &Backend) -> std::cmp::Ordering {
    let load = |backend: &Backend| u64::from(backend.live().active()) + 1;
    let weight = |backend: &Backend| u64::from(backend.live().effective_weight());
    (load(a) * weight(b)).cmp(&(load(b) * weight(a)))
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
