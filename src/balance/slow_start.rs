//! Owns: the share of new sessions that backends in slow start get where a policy compares loads.
//! Invariant: it is their part of the effective weights, however idle they are: load alone would send them all or none.
//! Must not know: the policy that chooses among the others.

use super::selection::Candidates;
use crate::pool::Backend;
use crate::pool::hash::mix;

/// Who gets a new session.
pub(super) enum Draw<'a> {
    /// The backend at this position, which is in slow start.
    Starting(usize),
    /// One of these, as the policy decides.
    Others(Candidates<'a>),
}

/// Draws by weight whether a backend in slow start gets the session. If all candidates are in slow start, they are
/// compared like any others.
pub(super) fn draw<'a>(candidates: &Candidates<'a>, entropy: u64) -> Draw<'a> {
    if !candidates.pool().has_slow_start() {
        return Draw::Others(*candidates);
    }
    let weight = |backend: &Backend| u64::from(backend.live().effective_weight());
    let starting = || candidates.iter().filter(|(_, backend)| backend.live().is_in_slow_start());
    let others = candidates.without_slow_start();
    let of_starting: u64 = starting().map(|(_, backend)| weight(backend)).sum();
    let of_others: u64 = others.iter().map(|(_, backend)| weight(backend)).sum();
    if of_starting == 0 || of_others == 0 {
        return Draw::Others(*candidates);
    }
    // The policy draws from the same number, and its draw must not depend on this one.
    let mut ticket = scaled(mix(entropy ^ 0x510e_527f_ade6_82d1) as u32, of_starting + of_others);
    for (index, backend) in starting() {
        match ticket.checked_sub(weight(backend)) {
            Some(rest) => ticket = rest,
            None => return Draw::Starting(index),
        }
    }
    Draw::Others(others)
}

/// Scales a random number to 0..`sum` without the bias of a modulo (Lemire 2019).
pub(super) fn scaled(random: u32, sum: u64) -> u64 {
    (u64::from(random) * sum) >> 32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::super::{BalancerKind, Candidates, TriedBackends};
    use crate::pool::hash::mix;
    use crate::pool::reconcile::Reconciler;
    use crate::pool::{InFlight, Pool, Settings, backend};

    const MINUTE: Duration = Duration::from_secs(60);

    /// Makes a pool of which the last backend was added `seconds` ago.
    fn pool(names: &[&str], seconds: u64) -> Arc<Pool> {
        let (mut reconciler, now) = (Reconciler::new(1), Instant::now());
        let backends =
            names.iter().zip(1..).map(|(name, port)| backend::Settings::new(name, ([127, 0, 0, 1], port).into()));
        let all: Vec<_> = backends.collect();
        let settings = |backends: &[backend::Settings]| Settings {
            name: "p".into(),
            backends: backends.to_vec(),
            slow_start: MINUTE,
            ..Settings::default()
        };
        reconciler.pools_at(&[settings(&all[..all.len() - 1])], now);
        reconciler.mark_started();
        let pool = reconciler.pools_at(&[settings(&all)], now).remove(0);
        pool.refresh_effective_weights(now + Duration::from_secs(seconds));
        pool
    }

    /// Returns the part of 20,000 new sessions that the last backend gets.
    fn share(kind: BalancerKind, pool: &Pool) -> f64 {
        const SESSIONS: u64 = 20_000;
        let (balancer, tried) = (kind.build(pool, 1), TriedBackends::new());
        let best = |number| balancer.best(&Candidates::new(pool, &tried), mix(number)).unwrap();
        let to_last = (0..SESSIONS).filter(|number| best(*number) == pool.backends().len() - 1).count();
        to_last as f64 / SESSIONS as f64
    }

    #[test]
    fn every_policy_gives_a_backend_in_slow_start_its_growing_share() {
        for kind in BalancerKind::ALL {
            // Two others of weight 1: a tenth at first, then as much of its weight as of the time.
            for (seconds, weight) in [(0, 0.1), (15, 0.25), (30, 0.5), (45, 0.75), (60, 1.0)] {
                let (share, expected) = (share(kind, &pool(&["a", "b", "c"], seconds)), weight / (2.0 + weight));
                assert!((share - expected).abs() < 0.015, "{kind:?} after {seconds} s: {share}, not {expected}");
            }
        }
    }

    #[test]
    fn a_cold_backend_without_load_does_not_attract_all_new_sessions_of_a_busy_pool() {
        for kind in [BalancerKind::LeastRequests, BalancerKind::RandomTwo] {
            let pool = pool(&["a", "b", "c"], 0);
            let busy = |index: usize| (0..50).map(move |_| index);
            let _busy: Vec<_> =
                busy(0).chain(busy(1)).map(|index| InFlight::on(pool.backend(index).live(), 0)).collect();
            let share = share(kind, &pool);
            assert!((share - 0.1 / 2.1).abs() < 0.015, "{kind:?}: {share}");
        }
    }

    #[test]
    fn a_cold_backend_of_a_large_pool_gets_its_share_too_whether_the_others_are_idle_or_busy() {
        let names: Vec<_> = (0..100).map(|number| format!("b{number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        for kind in [BalancerKind::LeastRequests, BalancerKind::LeastSessions, BalancerKind::RandomTwo] {
            for requests in [0, 5] {
                let pool = pool(&names, 30);
                let busy = (0..99).flat_map(|index| (0..requests).map(move |_| index));
                let _busy: Vec<_> = busy.map(|index| InFlight::on(pool.backend(index).live(), 0)).collect();
                let (share, expected) = (share(kind, &pool), 0.5 / 99.5);
                assert!((share - expected).abs() < 0.0025, "{kind:?}, {requests}: {share}, not {expected}");
            }
        }
    }

    #[test]
    fn a_backend_in_slow_start_takes_all_sessions_if_no_other_can() {
        for kind in BalancerKind::ALL {
            let pool = pool(&["a", "b"], 0);
            pool.backend(0).live().set_state(crate::pool::AdminState::Drain);
            assert!((share(kind, &pool) - 1.0).abs() < f64::EPSILON, "{kind:?}");
        }
    }
}
