//! Owns: weighted rendezvous hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018).
//! Invariant: names and weights alone decide a key's backend; adding or removing a backend moves only its own keys.
//! Must not know: which part of the request the key was made from.

use super::selection::{Balancer, Candidates};
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
        let weight = |backend: &Backend| u64::from(backend.live().effective_weight());
        // The new request counts as well: otherwise an idle pool would allow none.
        let (active, weights) = candidates.iter().fold((1, 0), |(active, weights), (_, backend)| {
            (active + u64::from(backend.live().active()), weights + weight(backend))
        });
        let has_capacity = |backend: &Backend| {
            let fair = active * weight(backend) * u64::from(self.max_load);
            let bound = fair.div_ceil((weights * 100).max(1));
            u64::from(backend.live().active()) < bound
        };
        let best = |within: &dyn Fn(&Backend) -> bool| {
            let scored = candidates.iter().filter(|(_, backend)| within(backend));
            let scored =
                scored.map(|(index, backend)| (index, score(entropy, backend, backend.live().effective_weight())));
            scored.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
        };
        best(&has_capacity).or_else(|| best(&|_| true))
    }
}

/// Returns the score of a backend with this weight for a key, by weighted rendezvous hashing: -w / ln(u), where u in
/// (0, 1) is a hash of key and name (Schindelhauer and Schomaker 2005). A score depends on no other backend, so a backend that is added or
/// removed moves only its own keys.
pub(crate) fn score(key: u64, backend: &Backend, weight: u32) -> f64 {
    let hash = mix(key ^ backend.name_hash());
    // A double holds 53 bits; the half keeps u away from 0 and 1.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(weight) / uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::super::tests::pool;
    use super::super::{Balancer, Candidates, TriedBackends};
    use super::Hash;
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
}
