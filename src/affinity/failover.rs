//! Owns: where a session goes when its backend can't serve it.
//! Invariant: the order depends on session id, names and weights alone, so all Linchpins move a session alike.
//! Must not know: the retry budget, or what the balancer would choose.

use crate::balance::{Candidates, TriedBackends, highest};
use crate::pool::slow_start::ONE;
use crate::pool::{Backend, Pool};

/// Returns the next backend for `session`, which `from` can't serve: first the backends on `from`'s `failover` list, in
/// their order; then those of its group, then all others by rendezvous hashing (highest random weight; Thaler and Ravishankar 1998); backups
/// last. So the sessions of a dead backend spread over all the others, also over those in slow start: how far a slow start
/// is differs between Linchpins.
pub fn next(pool: &Pool, session: u64, from: Option<usize>, tried: &TriedBackends) -> Option<usize> {
    let listed = from.and_then(|from| {
        let mut list = pool.backend(from).failover().iter().copied();
        list.find(|index| !tried.contains(*index) && pool.backend(*index).live().accepts_new().is_ok())
    });
    listed.or_else(|| {
        let candidates = Candidates::new(pool, tried);
        let best = |group: Option<&str>| {
            let allowed = |backend: &Backend| group.is_none() || backend.group() == group;
            highest(&candidates, session, pool.totals().heaviest() / ONE, |backend| backend.live().weight(), allowed)
        };
        let group = from.and_then(|from| pool.backend(from).group());
        group.and_then(|group| best(Some(group))).or_else(|| best(None))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::hash::mix;
    use crate::pool::{AdminState, backend, reconcile};
    use std::sync::Arc;

    /// Backends by name, weight and failover list.
    fn pool(backends: &[(&str, u32, &[&str])]) -> Arc<Pool> {
        let backends = backends.iter().map(|(name, weight, failover)| backend::Settings {
            weight: *weight,
            failover: failover.iter().map(|name| (*name).into()).collect(),
            ..backend::Settings::new(name, "127.0.0.1:1".parse().unwrap())
        });
        reconcile::pool_of("p", backends)
    }

    fn name_of_next(pool: &Pool, session: u64, dead: &str) -> String {
        let mut tried = TriedBackends::new();
        tried.insert(pool.position(dead).unwrap());
        pool.backend(next(pool, session, None, &tried).unwrap()).name().to_string()
    }

    #[test]
    fn the_order_is_the_same_whatever_the_order_of_the_configuration() {
        let one = pool(&[("a", 1, &[]), ("b", 1, &[]), ("c", 1, &[]), ("d", 3, &[])]);
        let other = pool(&[("d", 3, &[]), ("b", 1, &[]), ("a", 1, &[]), ("c", 1, &[])]);
        for session in (0..1000).map(mix) {
            assert_eq!(name_of_next(&one, session, "b"), name_of_next(&other, session, "b"));
        }
    }

    #[test]
    fn a_dead_backends_sessions_spread_by_weight() {
        let pool = pool(&[("a", 1, &[]), ("b", 1, &[]), ("c", 1, &[]), ("d", 2, &[])]);
        let mut counts = std::collections::HashMap::new();
        for session in (0..4000).map(mix) {
            *counts.entry(name_of_next(&pool, session, "a")).or_insert(0) += 1;
        }
        for (name, expected) in [("b", 1000_i32), ("c", 1000), ("d", 2000)] {
            assert!((counts[name] - expected).abs() < 150, "{counts:?}");
        }
    }

    #[test]
    fn the_failover_list_comes_first_as_long_as_its_members_can_serve() {
        let pool = pool(&[("a", 1, &["c", "b"]), ("b", 1, &[]), ("c", 1, &[]), ("d", 1, &[])]);
        let mut tried = TriedBackends::new();
        tried.insert(0);
        assert_eq!(next(&pool, 1, Some(0), &tried), Some(2));
        pool.backend(2).live().set_state(AdminState::Maintenance);
        assert_eq!(next(&pool, 1, Some(0), &tried), Some(1));
        tried.insert(1);
        assert_eq!(next(&pool, 1, Some(0), &tried), Some(3));
        tried.insert(3);
        assert_eq!(next(&pool, 1, Some(0), &tried), None);
    }
}
