//! Owns: how many connections each client has, over all threads.
//! Invariant: the table has a fixed size and no lock, and is written when a connection opens or closes, never by a request.
//! Must not know: sockets; what happens to a rejected client.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::net;

/// Slots of one group: one cache line.
const SLOTS: usize = 8;

/// The most groups of the table: 8 MiB.
const MAX_GROUPS: usize = 128 * 1024;

/// Bits of a slot that count connections; the others identify the client.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Group([AtomicU64; SLOTS]);

/// Counts the connections of each client against the limit.
#[derive(Debug)]
pub(super) struct PerClientLimit {
    max: u64,
    /// Keyed at random: otherwise clients could choose addresses that share one group.
    hasher: RandomState,
    groups: Box<[Group]>,
}

/// The permit of one connection of a client, which counts until it is dropped.
#[derive(Debug)]
pub(super) struct ClientPermit {
    limit: Arc<PerClientLimit>,
    /// The number of the slot, counted over all groups. Four bytes: every connection stores it.
    slot: u32,
}

impl PerClientLimit {
    /// Allows each client `max` connections; `all` is the most connections of the process.
    pub(super) fn new(max: u32, all: usize) -> Arc<PerClientLimit> {
        // Four clients per group if every connection has another client: few groups get twice as many.
        let groups = (all / (SLOTS / 2)).next_power_of_two().clamp(64, MAX_GROUPS);
        let groups = (0..groups).map(|_| Group::default()).collect();
        Arc::new(PerClientLimit { max: u64::from(max).min(COUNT_MASK), hasher: RandomState::new(), groups })
    }

    /// Counts a connection of the client at `address`. Returns `None`, and counts nothing, if the client's group has no
    /// free slot, which is rare.
    ///
    /// # Errors
    /// The client has as many connections as it may have.
    pub(super) fn try_acquire(self: &Arc<Self>, address: IpAddr) -> Result<Option<ClientPermit>, TooManyConnections> {
        let hash = self.hasher.hash_one(net::client_network(address));
        let tag = hash >> COUNT_BITS;
        let group = usize::try_from(hash & COUNT_MASK).unwrap_or(0) % self.groups.len();
        let slots = &self.groups[group].0;
        loop {
            let seen: [u64; SLOTS] = std::array::from_fn(|at| slots[at].load(Ordering::Relaxed));
            let own = seen.iter().position(|slot| slot & COUNT_MASK > 0 && slot >> COUNT_BITS == tag);
            let Some(slot) = own.or_else(|| seen.iter().position(|slot| slot & COUNT_MASK == 0)) else {
                return Ok(None);
            };
            let count = own.map_or(0, |at| seen[at] & COUNT_MASK);
            if count >= self.max {
                return Err(TooManyConnections);
            }
            let next = (tag << COUNT_BITS) | (count + 1);
            // Another thread changed the slot in between. Lock-free: each round, one thread succeeds.
            if slots[slot].compare_exchange(seen[slot], next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                let slot = u32::try_from(group * SLOTS + slot).unwrap_or(0);
                return Ok(Some(ClientPermit { limit: Arc::clone(self), slot }));
            }
        }
    }
}

/// The client has as many connections as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyConnections;

impl Drop for ClientPermit {
    fn drop(&mut self) {
        // The slot keeps its client for as long as its count is above zero.
        let slot = self.slot as usize;
        self.limit.groups[slot / SLOTS].0[slot % SLOTS].fetch_sub(1, Ordering::Relaxed);
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
        assert!(
            limit.groups.iter().flat_map(|group| &group.0).all(|slot| slot.load(Ordering::Relaxed) & COUNT_MASK == 0)
        );
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
