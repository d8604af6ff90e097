//! Owns: how many connections each client has, over all threads.
//! Invariant: a fixed size and no lock; touched when a connection comes and goes, never by a request.
//! Must not know: sockets; what becomes of a client that is turned away.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::net;

/// Clients of one cache line.
const SLOTS: usize = 8;

/// Lines of the table at the most: 8 MiB.
const MAX_GROUPS: usize = 128 * 1024;

/// Bits of a slot that count; the others name the client.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Group([AtomicU64; SLOTS]);

/// The clients that are here.
#[derive(Debug)]
pub(super) struct PerClientLimit {
    max: u64,
    /// With a key of its own, or clients could choose addresses that meet in one line.
    hasher: RandomState,
    groups: Box<[Group]>,
}

/// One connection of a client. Counts until it is dropped.
#[derive(Debug)]
pub(super) struct ClientPermit {
    limit: Arc<PerClientLimit>,
    /// The number of its slot, counted over all groups: it is in memory for as long as the connection is.
    slot: u32,
}

impl PerClientLimit {
    /// Each client may have `max` connections, of `all` that there are at once.
    pub(super) fn new(max: u32, all: usize) -> Arc<PerClientLimit> {
        // Four clients a line when all are different ones: some groups get more, hardly any twice as many.
        let groups = (all / (SLOTS / 2)).next_power_of_two().clamp(64, MAX_GROUPS);
        let groups = (0..groups).map(|_| Group::default()).collect();
        Arc::new(PerClientLimit { max: u64::from(max).min(COUNT_MASK), hasher: RandomState::new(), groups })
    }

    /// A connection of the client at `address`. In the rare line that is full it is let in and not counted.
    ///
    /// # Errors
    /// The client has as many as it may have.
    pub(super) fn try_acquire(self: &Arc<Self>, address: IpAddr) -> Result<Option<ClientPermit>, TooManyConnections> {
        let hash = self.hasher.hash_one(net::client(address));
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
            // Another thread's client came or went in between: somebody gets on with each round.
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
        // It counts one of this slot, whose name stays as long as it does.
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
    fn a_client_has_so_many_connections_and_gets_another_when_one_is_over() {
        let limit = PerClientLimit::new(2, 100);
        let first = limit.try_acquire(address(1)).unwrap();
        let _second = limit.try_acquire(address(1)).unwrap();
        assert_eq!(limit.try_acquire(address(1)).unwrap_err(), TooManyConnections);
        assert!(limit.try_acquire(address(2)).is_ok());
        drop(first);
        assert!(limit.try_acquire(address(1)).is_ok());
    }

    #[test]
    fn when_all_are_gone_nothing_is_left_of_them() {
        let limit = PerClientLimit::new(3, 1000);
        let all: Vec<_> = (0..1000).map(|number| limit.try_acquire(address(number % 500)).unwrap()).collect();
        assert!(all.iter().filter(|permit| permit.is_some()).count() > 900);
        drop(all);
        assert!(
            limit.groups.iter().flat_map(|group| &group.0).all(|slot| slot.load(Ordering::Relaxed) & COUNT_MASK == 0)
        );
    }

    #[test]
    fn threads_together_let_no_more_in_than_one() {
        let limit = PerClientLimit::new(100, 1000);
        let acquire = || (0..100).filter_map(|_| limit.try_acquire(address(1)).ok()).collect::<Vec<_>>();
        let permits: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(acquire)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(permits.len(), 100);
    }
}
