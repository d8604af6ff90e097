//! Owns: the stores and counters of all pools of a process.
//! Invariant: a pool of the same name keeps its store and its counters through every reload.
//! Must not know: what a store holds.

use std::collections::HashMap;
use std::sync::Arc;

use super::pool_copies::{CopyCounters, PoolCopies};
use super::settings::{Hold, Settings, StoreAddress};
use super::shared::{SharedLink, SharedStoreSync};
use super::store::CopyStore;

/// The stores of a process, by pool. They outlive a reload.
#[derive(Debug, Default)]
pub struct CopyStores {
    by_pool: HashMap<Arc<str>, PoolStore>,
    shared: Vec<SharedStoreSync>,
}

/// What a pool keeps through reloads.
#[derive(Debug)]
struct PoolStore {
    store: Arc<CopyStore>,
    counters: Arc<CopyCounters>,
    /// The link to the shared store, with its address, and how long that keeps a session, in seconds.
    link: Option<(SharedLink, StoreAddress, u64)>,
}

impl CopyStores {
    /// Returns the copies of a pool with these settings, in a process with this many data-path threads. Store and
    /// counters are the same each time; the link to a shared store is, too, unless that is another one. A session
    /// without requests is forgotten after `lifetime` seconds.
    pub fn open(&mut self, pool: &Arc<str>, settings: &Settings, lifetime: u64, threads: usize) -> PoolCopies {
        let new = || {
            let store = Arc::new(CopyStore::new(settings.memory, lifetime));
            PoolStore { store, counters: Arc::new(CopyCounters::new(threads)), link: None }
        };
        let PoolStore { store, counters, link } = self.by_pool.entry(Arc::clone(pool)).or_insert_with(new);
        store.set_limits(settings.memory, lifetime);
        let is_same = |(_, at, kept): &(SharedLink, StoreAddress, u64)| {
            settings.store.as_ref() == Some(at) && settings.hold == Hold::Balancer && *kept == lifetime
        };
        // Elsewhere it has no effect: servers keep the copies.
        let address = settings.store.as_ref().filter(|_| settings.hold == Hold::Balancer);
        *link = match (link.take().filter(is_same), address) {
            (Some(known), _) => Some(known),
            (None, Some(address)) => {
                let (link, sync) = SharedLink::new(pool, &address.0, lifetime, store);
                self.shared.push(sync);
                Some((link, address.clone(), lifetime))
            }
            (None, None) => None,
        };
        let shared = link.as_ref().map(|(link, ..)| link.clone());
        PoolCopies::new(pool, settings.clone(), Arc::clone(store), Arc::clone(counters), shared)
    }

    /// Takes the shared stores that have no task yet.
    pub fn take_shared(&mut self) -> Vec<SharedStoreSync> {
        std::mem::take(&mut self.shared)
    }

    /// Forgets the stores of all pools that `has_copies` rejects.
    pub fn retain(&mut self, has_copies: impl Fn(&str) -> bool) {
        self.by_pool.retain(|pool, _| has_copies(pool));
    }
}
