//! Owns: the budget of a pool's rebalance, and its figures, which a reload keeps.
//! Invariant: what has moved is counted once, and before the next plan is made.
//! Must not know: backends, or which session moves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::rebalance::{Budget, Load, Settings, Transfer, plan};

/// The rebalance of a pool.
#[derive(Debug, Default)]
pub struct Rebalancer {
    budget: Mutex<Budget>,
    is_working: AtomicBool,
    moved: AtomicU64,
}

impl Rebalancer {
    /// Returns whether it moves sessions at the moment, or would if one were idle.
    pub fn is_working(&self) -> bool {
        self.is_working.load(Ordering::Relaxed)
    }

    /// Counts the sessions that it has moved.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Counts what has `moved` since the last plan, and plans the second that begins at `now`; without `settings`,
    /// nothing moves.
    pub(super) fn next(&self, moved: u64, settings: Option<&Settings>, loads: &[Load], now: Instant) -> Vec<Transfer> {
        self.moved.fetch_add(moved, Ordering::Relaxed);
        // No change of it can panic half-way.
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.spend(now, moved);
        let transfers = settings.map_or_else(Vec::new, |settings| {
            plan(loads, settings.factor, budget.allowance(now, settings.sessions_per_minute))
        });
        self.is_working.store(!transfers.is_empty(), Ordering::Relaxed);
        transfers
    }
}
