//! Owns: weighted rendezvous hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018).
//! Invariant: names and weights alone decide a key's backend; adding or removing a backend moves only its own keys.
//! Must not know: which part of the request the key was made from.

use super::selection::{Balancer, Candidates, SMALL};
use crate::pool::Backend;
use crate::pool::hash::mix;

/// Has no state.
pub(super) struct Hash {
    /// The most requests in flight that a backend may have, in percent of its fair share.
    pub(super) max_load: u32,
}

impl Balancer for Hash {
    /// `entropy` is the request's key, or a random number if the request has none.
    fn best(&self, candidates: &Candidates<'_>, entropy: u64) -> Option<usize> {
        let weight = |backend: &Backend| backend.live().effective_weight();
        let pool = candidates.pool();
        let (active, weights) = match pool.totals().of_candidates() {
            (active, weights) if pool.backends().len() > SMALL && weights > 0 && candidates.are_regular() => {
                (active, weights)
            }
            _ => candidates.iter().fold((0, 0), |(active, weights), (_, backend)| {
                (active + u64::from(backend.live().active()), weights + u64::from(weight(backend)))
            }),
        };
        let has_capacity = |backend: &Backend| {
            // The new request counts as well: otherwise an idle pool would allow none.
            let fair = (active + 1) * u64::from(weight(backend)) * u64::from(self.max_load);
            let bound = fair.div_ceil((weights * 100).max(1));
            u64::from(backend.live().active()) < bound
        };
        let heaviest = pool.totals().heaviest();
        let best = |accepts: &dyn Fn(&Backend) -> bool| highest(candidates, entropy, heaviest, weight, accepts);
        best(&has_capacity).or_else(|| best(&|_| true))
    }
}

/// Returns the position of the candidate with the highest score for a key, of equals the last one. `heaviest` is no less than
/// any weight: most backends can't win with it, and only the others are looked at. So a large pool costs a hash for
/// each backend, and not a look at its state.
pub(crate) fn highest(
    candidates: &Candidates<'_>,
    key: u64,
    heaviest: u32,
    weight: impl Fn(&Backend) -> u32,
    accepts: impl Fn(&Backend) -> bool,
) -> Option<usize> {
    let pool = candidates.pool();
    let mut best: Option<(usize, f64)> = None;
    // No backend with a lower hash has a higher score than the best so far.
    let mut least = 0;
    for (index, name_hash) in pool.name_hashes().iter().enumerate() {
        let hash = mix(key ^ name_hash);
        if hash < least {
            continue;
        }
        let Some(backend) = pool.backends().get(index) else { break };
        if !candidates.contains(index, backend) || !accepts(backend) {
            continue;
        }
        let score = score(hash, weight(backend));
        if best.is_none_or(|(_, most)| score.total_cmp(&most).is_ge()) {
            best = Some((index, score));
            least = least_hash(score, heaviest);
        }
    }
    best.map(|(index, _)| index)
}

/// Returns the score of a backend with this weight for a key, by weighted rendezvous hashing: -w / ln(u), where u in
/// (0, 1) is a hash of key and name (Schindelhauer and Schomaker 2005). A score depends on no other backend, so a backend that is added or
/// removed moves only its own keys.
fn score(hash: u64, weight: u32) -> f64 {
    // A double holds 53 bits; the half keeps u away from 0 and 1.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight) / uniform.ln()
}

/// Returns a hash with which, and with any lower one, no weight up to `heaviest` reaches this score. It is lower than the
/// exact bound by more than a double's error.
fn least_hash(score: f64, heaviest: u32) -> u64 {
    let uniform = (-f64::from(heaviest) / score).exp() * (1.0 - 1e-9);
    // Of a score of 0 this is 0, or no number: a cast makes that 0, too.
    ((uniform * (1u64 << 53) as f64) as u64) << 11
}

#[cfg(test)]
mod tests {
    use super::super::tests::pool;
    use super::super::{Balancer, Candidates, TriedBackends};
    use super::{Hash, highest, score};
    use crate::pool::hash::mix;
    use crate::pool::{AdminState, InFlight, Pool};

    const KEYS: u64 = 10_000;

    fn chosen(pool: &Pool, key: u64) -> usize {
        Hash { max_load: 125 }.best(&Candidates::new(pool, &TriedBackends::new()), mix(key)).unwrap()
    }

    #[test]
    fn keys_are_spread_by_weight_and_always_go_to_the_same_backend() {
        let pool = pool(&[1, 1, 2]);
        let mut served = [0_u32; 3];
        for key in 0..KEYS {
            served[chosen(&pool, key)] += 1;
            assert_eq!(chosen(&pool, key), chosen(&pool, key));
        }
        for (count, expected) in served.into_iter().zip([2500_u32, 2500, 5000]) {
            assert!(count.abs_diff(expected) < 200, "{served:?}");
        }
    }

    #[test]
    fn a_removed_backend_moves_only_its_own_keys_and_gets_them_back() {
        let pool = pool(&[1, 1, 1, 1]);
        let before: Vec<_> = (0..KEYS).map(|key| chosen(&pool, key)).collect();
        pool.backend(2).live().set_state(AdminState::Maintenance);
        for (key, was) in (0..KEYS).zip(&before) {
            let now = chosen(&pool, key);
            assert!(if *was == 2 { now != 2 } else { now == *was });
        }
        pool.backend(2).live().set_state(AdminState::Ready);
        assert!((0..KEYS).zip(&before).all(|(key, was)| chosen(&pool, key) == *was));
    }

    #[test]
    fn no_backend_gets_more_than_its_bound_of_the_mean_however_skewed_the_keys() {
        let pool = pool(&[1, 1, 1, 1]);
        let mut in_flight = Vec::new();
        for _ in 0..400 {
            let index = chosen(&pool, 7);
            in_flight.push(InFlight::on(pool.backend(index).live(), 0));
            let most = pool.backends().iter().map(|backend| backend.live().active()).max().unwrap();
            let bound = (in_flight.len() as f64 / 4.0 * 1.25).ceil() as u32;
            assert!(most <= bound, "{most} of {}", in_flight.len());
        }
        drop(in_flight);
        let usual = chosen(&pool, 7);
        assert!((0..10).all(|_| chosen(&pool, 7) == usual), "back where it belongs");
    }

    #[test]
    fn no_backend_of_a_large_pool_gets_more_than_its_bound_either() {
        let pool = pool(&[1; 100]);
        let in_flight: Vec<_> = (0..1000).map(|_| InFlight::on(pool.backend(chosen(&pool, 7)).live(), 0)).collect();
        let most = pool.backends().iter().map(|backend| backend.live().active()).max().unwrap();
        assert_eq!(most, 13, "1.25 times ten, rounded up");
        drop(in_flight);
        assert!((0..100).all(|_| chosen(&pool, 7) == chosen(&pool, 7)), "all counts are given back");
    }

    proptest::proptest! {
        #[test]
        fn the_highest_score_is_that_of_the_plain_search(
            backends in proptest::collection::vec((0i32..1000, proptest::bool::weighted(0.2)), 1..150),
            key: u64, heaviest in 1_000_000_u32..2_000_000
        ) {
            let weights: Vec<_> = backends.iter().map(|(weight, _)| *weight).collect();
            let pool = pool(&weights);
            for (index, (_, is_out)) in backends.iter().enumerate() {
                pool.backend(index).live().set_state(if *is_out { AdminState::Maintenance } else { AdminState::Ready });
            }
            let tried = TriedBackends::new();
            let candidates = Candidates::new(&pool, &tried);
            let weight = |backend: &crate::pool::Backend| backend.live().effective_weight();
            let scored = candidates.iter();
            let scored = scored.map(|(index, backend)| (index, score(mix(key ^ backend.name_hash()), weight(backend))));
            let plain = scored.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(index, _)| index);
            for heaviest in [heaviest, pool.totals().heaviest()] {
                proptest::prop_assert_eq!(highest(&candidates, key, heaviest, weight, |_| true), plain);
            }
        }
    }
}
