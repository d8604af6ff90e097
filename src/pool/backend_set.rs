//! Owns: the ordered set of backends that serve one application, found by position, name or route.
//! Invariant: a set never changes; a reload makes another, whose backends share their live state by name.
//! Must not know: HTTP, cookies, or how a backend is chosen.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{self, Backend};
use super::capacity_queue::{self, CapacityQueue};
use super::health_state;
use super::health_tracker::HealthTracker;
use super::live::Live;
use super::rebalance;
use super::rebalancer::Rebalancer;
use super::totals::PoolTotals;
use super::waiting::PoolWaiterNotifier;

/// The keys `name` and `backends` of `[[pools]]`, the thresholds of its backends' health, `slow_start`, `[pools.queue]` and `[pools.rebalance]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The pool's name, unique in a configuration.
    pub name: String,
    /// Its backends, at least one, in the order of the file.
    pub backends: Vec<backend::Settings>,
    /// The thresholds at which their health changes.
    pub health_state: health_state::Settings,
    /// In which time the share of new sessions of a new or returned backend grows to its weight; zero for at once.
    pub slow_start: Duration,
    /// `[pools.queue]`, if requests wait when all backends are full.
    pub queue: Option<capacity_queue::Settings>,
    /// `[pools.rebalance]`, if sessions move to backends that have fewer.
    pub rebalance: Option<rebalance::Settings>,
}

/// An immutable, ordered set of backends. A position is valid in one snapshot only: state that outlives a request
/// refers to a backend by its name.
#[derive(Debug)]
pub struct Pool {
    pub(super) name: Arc<str>,
    pub(super) backends: Vec<Backend>,
    pub(super) by_name: HashMap<Arc<str>, usize>,
    pub(super) by_route: HashMap<Box<str>, usize>,
    /// Of each backend the hash of its name, side by side: rendezvous hashing reads them all.
    pub(super) name_hashes: Box<[u64]>,
    pub(super) totals: Arc<PoolTotals>,
    pub(super) has_slow_start: bool,
    pub(super) rebalance_settings: Option<rebalance::Settings>,
    pub(super) rebalancer: Arc<Rebalancer>,
    pub(super) queue_settings: Option<capacity_queue::Settings>,
    /// The live ids of its backends, in ascending order.
    pub(super) live_ids: Arc<[usize]>,
    pub(super) queue: Arc<CapacityQueue<PoolWaiterNotifier>>,
    pub(super) health_tracker: Arc<HealthTracker>,
}

impl Pool {
    /// The pool's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// All backends, in the order of the configuration.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Returns the backend at a position of this pool.
    ///
    /// # Panics
    /// If `index` is no position of this pool; positions never come from the network.
    pub fn backend(&self, index: usize) -> &Backend {
        &self.backends[index]
    }

    /// Returns the position of the backend with this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Returns the position of the backend with this name in the application's session ids.
    pub fn routed(&self, route: &str) -> Option<usize> {
        self.by_route.get(route).copied()
    }

    /// Returns the position of the backend with this live state.
    pub fn position_of(&self, live: &Live) -> Option<usize> {
        self.backends.iter().position(|backend| backend.live().id() == live.id())
    }

    /// `[pools.rebalance]`, if sessions move to backends that have fewer.
    pub fn rebalance_settings(&self) -> Option<&rebalance::Settings> {
        self.rebalance_settings.as_ref()
    }

    /// The rebalance of its sessions.
    pub fn rebalancer(&self) -> &Rebalancer {
        &self.rebalancer
    }

    /// `[pools.queue]`, if requests wait when all backends are full.
    pub fn queue_settings(&self) -> Option<capacity_queue::Settings> {
        self.queue_settings
    }

    /// The requests that wait because all backends are full.
    pub(super) fn queue(&self) -> &Arc<CapacityQueue<PoolWaiterNotifier>> {
        &self.queue
    }

    /// Counts the requests that wait because all backends are full.
    pub fn queue_length(&self) -> u32 {
        self.queue.len()
    }

    /// Returns the figures of all such waits that have ended.
    pub fn queue_waits(&self) -> capacity_queue::WaitFigures {
        self.queue.figures()
    }

    pub(super) fn live_ids(&self) -> &Arc<[usize]> {
        &self.live_ids
    }

    /// Counts the backends that serve. Reads the state of each: don't call it per request.
    pub fn serving(&self) -> usize {
        self.backends.iter().filter(|backend| backend.live().is_serving()).count()
    }

    /// Returns whether the share of new sessions of a new or returned backend grows slowly.
    pub fn has_slow_start(&self) -> bool {
        self.has_slow_start
    }

    /// Returns of each backend the hash of its name ([`Backend::name_hash`]), in their order.
    pub fn name_hashes(&self) -> &[u64] {
        &self.name_hashes
    }

    /// What its backends have together.
    pub fn totals(&self) -> &PoolTotals {
        &self.totals
    }

    /// Computes the effective weights of its backends and its totals again. Call it several times a second.
    pub fn refresh_effective_weights(&self, now: Instant) {
        if self.has_slow_start {
            self.backends.iter().for_each(|backend| backend.live().refresh_effective_weight(now));
        }
        self.refresh_totals();
    }

    pub(super) fn refresh_totals(&self) {
        let is_candidate = |backend: &&Backend| !backend.is_backup() && backend.live().accepts_new().is_ok();
        let candidates = self.backends.iter().filter(is_candidate).map(Backend::live);
        let sums = candidates.fold((0, 0), |(weight, in_flight), live| {
            (weight + u64::from(live.effective_weight()), in_flight + u64::from(live.active()))
        });
        self.totals.refresh(sums.0, sums.1);
    }

    /// Returns the tracker of the backends' health.
    pub fn health_tracker(&self) -> &HealthTracker {
        &self.health_tracker
    }
}
