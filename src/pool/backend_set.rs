//! Owns: the ordered set of backends that serve one application, found by position, name or route.
//! Invariant: a set never changes; a reload makes another, whose backends share their live state by name.
//! Must not know: HTTP, cookies, or how a backend is chosen.

use std::collections::HashMap;
use std::sync::Arc;

use super::backend::{self, Backend};
use super::health_state;
use super::health_tracker::HealthTracker;

/// What the configuration says of a pool's members: `[[pools]]` name and `[[pools.backends]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The pool's name, unique in a configuration.
    pub name: String,
    /// Its backends, at least one, in the order of the file.
    pub backends: Vec<backend::Settings>,
    /// When their health changes.
    pub health_state: health_state::Settings,
}

/// An immutable, ordered set of backends. Positions are good for one snapshot only: whatever
/// outlives a request speaks of a backend by its name.
#[derive(Debug)]
pub struct Pool {
    pub(super) name: Arc<str>,
    pub(super) backends: Vec<Backend>,
    pub(super) by_name: HashMap<Arc<str>, usize>,
    pub(super) by_route: HashMap<Box<str>, usize>,
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

    /// The backend at a position of this pool.
    ///
    /// # Panics
    /// If `index` is not one that this pool gave out; positions never come from the network.
    pub fn backend(&self, index: usize) -> &Backend {
        &self.backends[index]
    }

    /// The position of the backend with this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The position of the backend that the application calls so in its session ids.
    pub fn routed(&self, route: &str) -> Option<usize> {
        self.by_route.get(route).copied()
    }

    /// How many of its backends serve. It asks each: not for every request.
    pub fn serving(&self) -> usize {
        self.backends.iter().filter(|backend| backend.live().is_serving()).count()
    }

    /// The health states of the backends, and the lock under which they change.
    pub fn health_tracker(&self) -> &HealthTracker {
        &self.health_tracker
    }
}
