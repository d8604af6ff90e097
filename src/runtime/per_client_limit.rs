//! Owns: the limit on the connections of one client, over all threads.
//! Invariant: it has a fixed size and no lock; a connection touches it when it opens and closes, a request never.
//! Must not know: sockets; what happens to a client over its limit.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::net;
use crate::slot_table::{GROUP_SIZE, SlotTable};

/// The most groups of the table: 8 MiB.
const MAX_GROUPS: usize = 128 * 1024;

/// Bits of a slot that count a client's connections.
const COUNT_BITS: u32 = 24;

/// Counts the connections of each client.
#[derive(Debug)]
pub(super) struct PerClientLimit {
    max: AtomicU64,
    counts: SlotTable<COUNT_BITS>,
}

/// One connection of a client. It counts until it is dropped.
#[derive(Debug)]
pub(super) struct ClientPermit {
    limit: Arc<PerClientLimit>,
    /// The index of the client's slot. 32 bits, since each open connection holds them in memory.
    index: u32,
}

impl PerClientLimit {
    /// Lets each client have `max` connections, of `all` that there are at once.
    pub(super) fn new(max: u32, all: usize) -> Arc<PerClientLimit> {
        // Four clients a group when all are different: some groups get more, hardly any twice as many.
        let groups = (all / (GROUP_SIZE / 2)).next_power_of_two().clamp(64, MAX_GROUPS);
        let limit = PerClientLimit { max: AtomicU64::new(0), counts: SlotTable::new(groups) };
        limit.set_max(max);
        Arc::new(limit)
    }

    /// Lets each client have `max` connections from now on. Those that are open stay open, and count.
    pub(super) fn set_max(&self, max: u32) {
        self.max.store(u64::from(max).min(SlotTable::<COUNT_BITS>::MAX_VALUE), Ordering::Relaxed);
    }

    /// Counts a connection of the client at `address`. In the rare case that its group is full, it admits the
    /// connection without counting it.
    ///
    /// # Errors
    /// The client has as many connections as it may have.
    pub(super) fn try_acquire(self: &Arc<Self>, address: IpAddr) -> Result<Option<ClientPermit>, TooManyConnections> {
        let group = self.counts.group(net::client_network(address));
        loop {
            let slots = group.slots();
            let own = slots.iter().find(|slot| slot.value() > 0 && group.owns(**slot));
            let Some(slot) = own.or_else(|| slots.iter().find(|slot| slot.value() == 0)) else { return Ok(None) };
            let count = slot.value();
            if count >= self.max.load(Ordering::Relaxed) {
                return Err(TooManyConnections);
            }
            // If it fails, another thread's connection opened or closed in between: each round lets one thread go on.
            if let Some(index) = group.replace(*slot, count + 1) {
                let index = u32::try_from(index).unwrap_or(0);
                return Ok(Some(ClientPermit { limit: Arc::clone(self), index }));
            }
        }
    }
}

/// The client has as many connections as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyConnections;

impl Drop for ClientPermit {
    fn drop(&mut self) {
        // The slot stays this client's as long as its count is above 0.
        self.limit.counts.decrement(self.index as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(number).into()
    }

    #[test]
    fn a_client_at_its_limit_may_connect_again_when_one_of_its_connections_ends() {
        let limit = PerClientLimit::new(2, 100);
        let first = limit.try_acquire(address(1)).unwrap();
        let _second = limit.try_acquire(address(1)).unwrap();
        assert_eq!(limit.try_acquire(address(1)).unwrap_err(), TooManyConnections);
        assert!(limit.try_acquire(address(2)).is_ok());
        drop(first);
        assert!(limit.try_acquire(address(1)).is_ok());
    }

    #[test]
    fn dropping_all_permits_leaves_every_slot_empty() {
        let limit = PerClientLimit::new(3, 1000);
        let all: Vec<_> = (0..1000).map(|number| limit.try_acquire(address(number % 500)).unwrap()).collect();
        assert!(all.iter().filter(|permit| permit.is_some()).count() > 900);
        drop(all);
        assert!(limit.counts.values().all(|count| count == 0));
    }

    #[test]
    fn threads_together_grant_no_more_permits_than_one_thread() {
        let limit = PerClientLimit::new(100, 1000);
        let acquire = || (0..100).filter_map(|_| limit.try_acquire(address(1)).ok()).collect::<Vec<_>>();
        let permits: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(acquire)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(permits.len(), 100);
    }
}
