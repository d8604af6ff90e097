//! Owns: the choice of a backend for a client that is not pinned to one.
//! Invariant: selection yields an order: after each candidate comes the next best, and none comes twice.
//! Must not know: affinity, HTTP, or why a candidate failed.

mod hash;
mod least_requests;
mod least_sessions;
mod random_two;
mod round_robin;
mod sample;
mod selection;
mod slow_start;

pub(crate) use hash::highest;
pub use selection::{Balancer, Candidates, TriedBackends};

use std::rc::Rc;

use crate::pool::Pool;
use sample::Sampler;

/// The `balance` key of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BalancerKind {
    /// Smooth weighted round-robin.
    #[default]
    RoundRobin,
    /// The fewest requests in flight, by weight; in large pools the fewest of some backends that are drawn.
    LeastRequests,
    /// The same for sessions.
    LeastSessions,
    /// The better of two at random.
    RandomTwo,
    /// By a hash of a part of the request.
    Hash {
        /// The most requests in flight that a backend may have, in percent of its fair share, 100 to 10000.
        max_load: u32,
    },
}

impl BalancerKind {
    /// All kinds.
    pub const ALL: [BalancerKind; 5] = [
        BalancerKind::RoundRobin,
        BalancerKind::LeastRequests,
        BalancerKind::LeastSessions,
        BalancerKind::RandomTwo,
        BalancerKind::HASH,
    ];

    /// By hash, with no backend above 1.25 times the mean.
    pub const HASH: BalancerKind = BalancerKind::Hash { max_load: 125 };

    /// The configuration's word for this kind.
    pub fn as_str(self) -> &'static str {
        match self {
            BalancerKind::RoundRobin => "round_robin",
            BalancerKind::LeastRequests => "least_requests",
            BalancerKind::LeastSessions => "least_sessions",
            BalancerKind::RandomTwo => "random_two",
            BalancerKind::Hash { .. } => "hash",
        }
    }

    /// Builds a balancer of this kind for one thread and one pool. `entropy` makes each thread start elsewhere: without
    /// it, all threads would begin with the same backend.
    pub fn build(self, pool: &Pool, entropy: u64) -> Rc<dyn Balancer> {
        match self {
            BalancerKind::RoundRobin => Rc::new(round_robin::RoundRobin::new(entropy)),
            BalancerKind::LeastRequests => Rc::new(least_requests::LeastRequests { sampler: Sampler::new(pool) }),
            BalancerKind::LeastSessions => Rc::new(least_sessions::LeastSessions { sampler: Sampler::new(pool) }),
            BalancerKind::RandomTwo => Rc::new(random_two::RandomTwo { sampler: Sampler::new(pool) }),
            BalancerKind::Hash { max_load } => Rc::new(hash::Hash { max_load }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{AdminState, backend, reconcile};
    use std::sync::Arc;

    /// Builds a pool `p` of backends with these weights. A negative weight makes a backup.
    pub(super) fn pool(weights: &[i32]) -> Arc<Pool> {
        let backends = weights.iter().enumerate().map(|(index, weight)| backend::Settings {
            weight: weight.unsigned_abs(),
            backup: *weight < 0,
            ..backend::Settings::new(&format!("b{index}"), ([127, 0, 0, 1], 9000 + index as u16).into())
        });
        reconcile::pool_of("p", backends)
    }

    fn order(kind: BalancerKind, pool: &Pool, entropy: u64) -> Vec<usize> {
        let balancer = kind.build(pool, entropy);
        let mut tried = TriedBackends::new();
        std::iter::from_fn(|| {
            let next = balancer.best(&Candidates::new(pool, &tried), entropy)?;
            tried.insert(next);
            Some(next)
        })
        .collect()
    }

    #[test]
    fn backups_come_after_every_other_draining_ones_last_and_weight_0_never() {
        let pool = pool(&[1, -1, 0, 2, 1]);
        pool.backend(4).live().set_state(AdminState::Drain);
        for kind in BalancerKind::ALL {
            let mut order = order(kind, &pool, 42);
            assert_eq!((order.pop(), order.pop()), (Some(4), Some(1)), "{kind:?}");
            order.sort_unstable();
            assert_eq!(order, [0, 3], "{kind:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_order_names_each_candidate_once_and_ends(
            weights in proptest::collection::vec(-3i32..5, 0..12), entropy: u64
        ) {
            let pool = pool(&weights);
            let able = weights.iter().filter(|weight| **weight != 0).count();
            for kind in BalancerKind::ALL {
                let order = order(kind, &pool, entropy);
                proptest::prop_assert_eq!(order.len(), able);
                let primaries = weights.iter().filter(|weight| **weight > 0).count();
                proptest::prop_assert!(order[..primaries].iter().all(|index| weights[*index] > 0));
            }
        }
    }
}
