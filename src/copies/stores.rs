//! Owns: the stores and counters of all pools of a process.
//! Invariant: a pool of the same name keeps its store and its counters through every reload.
//! Must not know: what a store holds.

use std::collections::HashMap;
use std::sync::Arc;

use super::pool_copies::{CopyCounters, PoolCopies};
use super::settings::Settings;
use super::store::CopyStore;

/// The stores of a process, by pool. They outlive a reload.
#[derive(Debug, Default)]
pub struct CopyStores {
    by_pool: HashMap<Arc<str>, (Arc<CopyStore>, Arc<CopyCounters>)>,
}

impl CopyStores {
    /// Returns the copies of a pool with these settings, in a process with this many data-path threads. Store and
    /// counters are the same each time. A session without requests is forgotten after `lifetime` seconds.
    pub fn open(&mut self, pool: &Arc<str>, settings: &Settings, lifetime: u64, threads: usize) -> PoolCopies {
        let new = || (Arc::new(CopyStore::new(settings.memory, lifetime)), Arc::new(CopyCounters::new(threads)));
        let (store, counters) = self.by_pool.entry(Arc::clone(pool)).or_insert_with(new);
        store.set_limits(settings.memory, lifetime);
        PoolCopies::new(pool, settings.clone(), Arc::clone(store), Arc::clone(counters))
    }
}
