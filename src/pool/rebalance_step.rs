//! Owns: one step of the rebalance of a pool: from the loads of its backends to what each of them gives up.
//! Invariant: what was planned before is withdrawn before the next plan is made and published.
//! Must not know: which session leaves; threads and timers.

use std::collections::HashMap;
use std::time::Instant;

use super::backend::Backend;
use super::backend_set::Pool;
use super::rebalance::{Load, Transfer};

impl Pool {
    /// Plans which sessions may move in the second that begins at `now`, and returns what has moved in the one before.
    /// Call it every second, once the sessions of all backends were counted.
    pub fn rebalance(&self, now: Instant) -> Vec<Transfer> {
        let (settings, rebalancer) = (self.rebalance_settings(), self.rebalancer());
        if settings.is_none() && !rebalancer.is_working() {
            return Vec::new();
        }
        let (mut moved, mut transfers) = (0, Vec::new());
        for (from, backend) in self.backends().iter().enumerate() {
            for (live, sessions) in backend.live().rebalancing().withdraw() {
                moved += sessions;
                // A reload may have removed the backend since.
                let to = self.backends().iter().position(|backend| backend.live().id() == live);
                transfers.extend(to.map(|to| Transfer { from, to, sessions }));
            }
        }
        let loads: Vec<_> = self.backends().iter().map(load).collect();
        let mut outlets: HashMap<usize, Vec<(usize, u64)>> = HashMap::new();
        for transfer in rebalancer.next(moved, settings, &loads, now) {
            let to = self.backend(transfer.to).live().id();
            outlets.entry(transfer.from).or_default().push((to, transfer.sessions));
        }
        let idle = settings.map(|settings| settings.idle).unwrap_or_default();
        for (index, backend) in self.backends().iter().enumerate() {
            match outlets.get(&index) {
                Some(to) => backend.live().rebalancing().publish(idle, to),
                None => backend.live().rebalancing().forget(),
            }
        }
        transfers
    }
}

/// Returns the part of a backend in the rebalance. One that takes no new sessions keeps those that it has, and a backup
/// is no place to stay.
fn load(backend: &Backend) -> Load {
    let live = backend.live();
    let takes_part = live.takes_sessions() && !backend.is_backup();
    Load {
        sessions: live.expected_sessions(),
        weight: if takes_part { u64::from(live.effective_weight()) } else { 0 },
        room: live.room_for_sessions(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::hash::mix;
    use crate::pool::rebalance::Settings as RebalanceSettings;
    use crate::pool::sessions::SessionLifetime;
    use crate::pool::{AdminState, Settings, backend, reconcile::Reconciler};
    use std::sync::Arc;
    use std::time::Duration;

    const LIFETIME: SessionLifetime = SessionLifetime { idle: 3600, absolute: None };
    const IDLE: u64 = 60_000;

    fn pool(rebalance: Option<RebalanceSettings>, sessions: &[u64]) -> Arc<Pool> {
        let backends = (0..sessions.len())
            .map(|index| backend::Settings::new(&format!("b{index}"), ([127, 0, 0, 1], 9000 + index as u16).into()));
        let settings = Settings { name: "p".into(), backends: backends.collect(), rebalance, ..Settings::default() };
        let pool = Reconciler::new(1).pools(&[settings]).remove(0);
        for (backend, sessions) in pool.backends().iter().zip(sessions) {
            (0..*sessions).for_each(|session| backend.live().sessions().begin(0, mix(session), 0, 0, LIFETIME));
            backend.live().sessions().count(0, LIFETIME);
        }
        pool
    }

    /// Returns how many sessions leave a backend in a second, if many come.
    fn left(pool: &Pool, index: usize) -> usize {
        let rebalancing = pool.backend(index).live().rebalancing();
        if !rebalancing.is_active() {
            return 0;
        }
        (0..1000).filter(|session| rebalancing.leaves(*session, IDLE).is_some()).count()
    }

    #[test]
    fn each_second_has_its_part_of_the_budget_and_what_nobody_used_is_not_counted() {
        let pool = pool(Some(RebalanceSettings { sessions_per_minute: 120, ..RebalanceSettings::default() }), &[90, 0]);
        let now = Instant::now();
        for second in 0..5 {
            let moved = pool.rebalance(now + Duration::from_secs(second));
            let expected = [Transfer { from: 0, to: 1, sessions: 2 }];
            assert_eq!(moved, if matches!(second, 0 | 2) { &[][..] } else { &expected }, "what left a second before");
            assert!(pool.rebalancer().is_working());
            // Nobody comes in the second one.
            assert_eq!(if second == 1 { 0 } else { left(&pool, 0) }, if second == 1 { 0 } else { 2 });
            assert_eq!(left(&pool, 1), 0);
        }
        pool.rebalance(now + Duration::from_secs(5));
        assert_eq!(pool.rebalancer().moved(), 8);
    }

    #[test]
    fn a_backend_that_drains_or_is_out_neither_gives_nor_takes_and_without_the_section_nobody_does() {
        let now = Instant::now();
        let on = pool(Some(RebalanceSettings::default()), &[90, 0, 30]);
        on.backend(1).live().set_state(AdminState::Drain);
        on.backend(0).live().set_state(AdminState::Maintenance);
        on.rebalance(now);
        assert!(!on.rebalancer().is_working());
        on.backend(1).live().set_state(AdminState::Ready);
        on.rebalance(now);
        assert_eq!((left(&on, 0), left(&on, 2)), (0, 1), "15 each of the two that serve");
        let off = pool(None, &[90, 0]);
        off.rebalance(now);
        assert_eq!((left(&off, 0), off.rebalancer().is_working()), (0, false));
    }
}
