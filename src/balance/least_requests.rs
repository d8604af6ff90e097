//! Owns: the choice of the backend with the fewest requests in flight for its weight.
//! Invariant: among equals the choice is random: else the first backend would get every client while the pool is idle.
//! Must not know: sessions: an idle pinned client does not count here.

use std::cmp::Ordering;

use super::sample::Sampler;
use super::selection::{Balancer, Candidates};
use super::slow_start::{Draw, draw};
use crate::pool::Backend;

/// How many backends of a large pool are compared. Each count is spread over the threads, and changes all the time: to know
/// the least of thousands, threads would have to write an index together. The least of a few that are drawn is next to it
/// (Azar, Broder, Karlin and Upfal 1999): with sixteen, the fullest backend has one or two more than the mean.
const SAMPLE: u32 = 16;

/// The backends hold the counts.
pub(super) struct LeastRequests {
    pub(super) sampler: Sampler,
}

impl Balancer for LeastRequests {
    fn best(&self, candidates: &Candidates<'_>, entropy: u64) -> Option<usize> {
        least(&self.sampler, candidates, entropy, requests)
    }
}

/// Returns the position of the candidate with the least `load` for its weight, of equals a random one. In a large pool it
/// is the least of some that are drawn by weight.
pub(super) fn least(
    sampler: &Sampler,
    candidates: &Candidates<'_>,
    entropy: u64,
    load: impl Fn(&Backend) -> u64,
) -> Option<usize> {
    let is_less =
        |one: (&u64, &Backend), other: (&u64, &Backend)| compare((*one.0, one.1), (*other.0, other.1)).is_lt();
    sampler.best_of(SAMPLE, candidates, entropy, &load, is_less).or_else(|| match draw(candidates, entropy) {
        Draw::Starting(index) => Some(index),
        Draw::Others(others) => least_of_all(&others, entropy, load),
    })
}

fn least_of_all(candidates: &Candidates<'_>, entropy: u64, load: impl Fn(&Backend) -> u64) -> Option<usize> {
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
    use super::super::{BalancerKind, Candidates, TriedBackends};
    use super::{least_of_all, requests};
    use crate::pool::hash::mix;
    use crate::pool::{AdminState, InFlight, Pool};

    fn best(pool: &Pool, entropy: u64) -> Option<usize> {
        let balancer = BalancerKind::LeastRequests.build(pool, 0);
        balancer.best(&Candidates::new(pool, &TriedBackends::new()), entropy)
    }

    #[test]
    fn the_idle_backend_is_chosen_and_weight_counts() {
        let pool = pool(&[2, 1]);
        let best = || best(&pool, 1);
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
        let mut served = [0; 3];
        (0..3000).for_each(|entropy| served[best(&pool, mix(entropy)).unwrap()] += 1);
        assert!(served.iter().all(|count| (850..1150).contains(count)), "{served:?}");
    }

    /// Chooses for this many requests of which none ends. Returns how many each backend has.
    fn loads(pool: &Pool, requests: u64) -> Vec<u32> {
        let balancer = BalancerKind::LeastRequests.build(pool, 0);
        let tried = TriedBackends::new();
        let chosen = |number| balancer.best(&Candidates::new(pool, &tried), mix(number)).unwrap();
        let _all: Vec<_> = (0..requests).map(|number| InFlight::on(pool.backend(chosen(number)).live(), 0)).collect();
        pool.backends().iter().map(|backend| backend.live().active()).collect()
    }

    #[test]
    fn in_a_large_pool_the_fullest_backend_has_hardly_more_than_the_mean() {
        for (backends, each) in [(65, 20), (1000, 1), (1000, 20), (5000, 4)] {
            let loads = loads(&pool(&vec![1; backends]), backends as u64 * each);
            let most = u64::from(*loads.iter().max().unwrap());
            assert!((each..=each + 2).contains(&most), "{most} of {each} each, in {backends}");
        }
    }

    #[test]
    fn in_a_large_pool_heavy_backends_have_as_much_more_as_they_weigh() {
        let mut weights = [1; 200];
        weights[..100].fill(8);
        let loads = loads(&pool(&weights), 9 * 100 * 5);
        assert!(loads[..100].iter().all(|load| (36..=44).contains(load)), "{loads:?}");
        assert!(loads[100..].iter().all(|load| (2..=6).contains(load)), "{loads:?}");
    }

    #[test]
    fn in_a_large_pool_with_few_candidates_the_least_loaded_of_them_is_chosen() {
        let pool = pool(&[1; 300]);
        (3..300).for_each(|index| pool.backend(index).live().set_state(AdminState::Maintenance));
        let _busy = [0, 2].map(|index| InFlight::on(pool.backend(index).live(), 0));
        assert!((0..1000).all(|number| best(&pool, mix(number)) == Some(1)));
    }

    proptest::proptest! {
        #[test]
        fn a_pool_of_up_to_64_is_searched_whole_and_more_are_never_worse_than_their_draw(
            loads in proptest::collection::vec((1i32..4, 0_u64..6), 1..150), entropy: u64
        ) {
            let weights: Vec<_> = loads.iter().map(|(weight, _)| *weight).collect();
            let pool = pool(&weights);
            let each = loads.iter().enumerate().flat_map(|(index, (_, load))| (0..*load).map(move |_| index));
            let _all: Vec<_> = each.map(|index| InFlight::on(pool.backend(index).live(), 0)).collect();
            let tried = TriedBackends::new();
            let plain = least_of_all(&Candidates::new(&pool, &tried), entropy, requests);
            let chosen = best(&pool, entropy).unwrap();
            if loads.len() <= 64 {
                proptest::prop_assert_eq!(Some(chosen), plain);
            } else {
                // The chance that all draws are of the worse half of the pool is that of 16 tosses of a coin.
                let load = |index: usize| (loads[index].1 + 1) as f64 / f64::from(loads[index].0);
                let heavier = (0..loads.len()).filter(|index| load(*index) >= load(chosen));
                let weight: i32 = heavier.map(|index| loads[index].0).sum();
                proptest::prop_assert!(4 * weight >= weights.iter().sum::<i32>(), "{} of {:?}", chosen, loads);
            }
        }
    }
}
