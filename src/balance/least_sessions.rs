//! Owns: the choice of the backend with the fewest sessions for its weight.
//! Invariant: sessions that are about to begin count, over all threads: a crowd of new clients is spread like a trickle.
//! Must not know: requests in flight of sessions that a backend has already.

use super::least_requests::least;
use super::sample::Sampler;
use super::selection::{Balancer, Candidates};
use crate::pool::Backend;

/// The backends hold the counts.
pub(super) struct LeastSessions {
    pub(super) sampler: Sampler,
}

impl Balancer for LeastSessions {
    fn best(&self, candidates: &Candidates<'_>, entropy: u64) -> Option<usize> {
        least(&self.sampler, candidates, entropy, |backend: &Backend| backend.live().expected_sessions())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::pool;
    use super::super::{BalancerKind, Candidates, TriedBackends};
    use crate::pool::hash::mix;
    use crate::pool::sessions::SessionLifetime;
    use crate::pool::{InFlight, Pool};

    const LIFETIME: SessionLifetime = SessionLifetime { idle: 60, absolute: None };

    fn best(pool: &Pool, entropy: u64) -> usize {
        BalancerKind::LeastSessions
            .build(pool, 0)
            .best(&Candidates::new(pool, &TriedBackends::new()), mix(entropy))
            .unwrap()
    }

    #[test]
    fn a_new_client_goes_where_the_fewest_sessions_by_weight_are_until_all_are_even() {
        let pool = pool(&[2, 1, 1]);
        for (index, sessions) in [(0, 30_u64), (1, 5), (2, 40)] {
            for session in 0..sessions {
                pool.backend(index).live().sessions().begin(0, mix(session + 100 * index as u64), 0, 0, LIFETIME);
            }
            pool.backend(index).live().sessions().count(0, LIFETIME);
        }
        for entropy in 0..85 {
            pool.backend(best(&pool, entropy)).live().sessions().count_new(0);
        }
        let counts: Vec<_> = pool.backends().iter().map(|backend| backend.live().expected_sessions()).collect();
        assert_eq!(counts, [80, 40, 40]);
    }

    #[test]
    fn clients_whose_first_response_has_not_come_count_on_every_thread() {
        let pool = pool(&[1, 1, 1, 1]);
        let mut waiting = Vec::new();
        for entropy in 0..100 {
            let mut request = InFlight::on(pool.backend(best(&pool, entropy)).live(), 0);
            request.expect_session();
            waiting.push(request);
        }
        assert!(pool.backends().iter().all(|backend| backend.live().active() == 25));
        // They got no pin: nothing is left of them.
        drop(waiting);
        assert!(pool.backends().iter().all(|backend| backend.live().expected_sessions() == 0));
    }

    #[test]
    fn all_equals_are_equally_likely() {
        let pool = pool(&[1, 1, 1]);
        let mut served = [0; 3];
        (0..3000).for_each(|entropy| served[best(&pool, entropy)] += 1);
        assert!(served.iter().all(|count| (850..1150).contains(count)), "{served:?}");
    }

    #[test]
    fn a_large_pool_fills_up_evenly_and_an_empty_backend_is_full_soon() {
        let pool = pool(&[1; 500]);
        let balancer = BalancerKind::LeastSessions.build(&pool, 0);
        let tried = TriedBackends::new();
        let mut begin = |number| {
            let index = balancer.best(&Candidates::new(&pool, &tried), mix(number)).unwrap();
            pool.backend(index).live().sessions().count_new(0);
        };
        pool.backend(7).live().set_state(crate::pool::AdminState::Drain);
        (0..5000).for_each(&mut begin);
        pool.backend(7).live().set_state(crate::pool::AdminState::Ready);
        // Its part of these is one and a half.
        (5000..5750).for_each(&mut begin);
        let counts: Vec<_> = pool.backends().iter().map(|backend| backend.live().expected_sessions()).collect();
        assert!(counts.iter().all(|count| (10..=13).contains(count)), "{counts:?}");
    }
}
