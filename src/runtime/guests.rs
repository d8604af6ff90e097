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
const LINES: usize = 128 * 1024;

/// Bits of a slot that count; the others name the client.
const COUNT: u32 = 24;
const FULL: u64 = (1 << COUNT) - 1;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; SLOTS]);

/// The clients that are here.
#[derive(Debug)]
pub(super) struct Guests {
    most: u64,
    /// With a key of its own, or clients could choose addresses that meet in one line.
    hasher: RandomState,
    lines: Box<[Line]>,
}

/// One connection of a client. Counts until it is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    guests: Arc<Guests>,
    /// The number of its slot, counted over all lines: it is in memory for as long as the connection is.
    place: u32,
}

impl Guests {
    /// Each client may have `most` connections, of `all` that there are at once.
    pub(super) fn new(most: u32, all: usize) -> Arc<Guests> {
        // Four clients a line when all are different ones: some lines get more, hardly any twice as many.
        let lines = (all / (SLOTS / 2)).next_power_of_two().clamp(64, LINES);
        let lines = (0..lines).map(|_| Line::default()).collect();
        Arc::new(Guests { most: u64::from(most).min(FULL), hasher: RandomState::new(), lines })
    }

    /// A connection of the client at `address`. In the rare line that is full it is let in and not counted.
    ///
    /// # Errors
    /// The client has as many as it may have.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Option<Guest>, Refused> {
        let hash = self.hasher.hash_one(net::client(address));
        let tag = hash >> COUNT;
        let line = usize::try_from(hash & FULL).unwrap_or(0) % self.lines.len();
        let slots = &self.lines[line].0;
        loop {
            let seen: [u64; SLOTS] = std::array::from_fn(|at| slots[at].load(Ordering::Relaxed));
            let own = seen.iter().position(|slot| slot & FULL > 0 && slot >> COUNT == tag);
            let Some(slot) = own.or_else(|| seen.iter().position(|slot| slot & FULL == 0)) else { return Ok(None) };
            let count = own.map_or(0, |at| seen[at] & FULL);
            if count >= self.most {
                return Err(Refused);
            }
            let next = (tag << COUNT) | (count + 1);
            // Another thread's client came or went in between: somebody gets on with each round.
            if slots[slot].compare_exchange(seen[slot], next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                let place = u32::try_from(line * SLOTS + slot).unwrap_or(0);
                return Ok(Some(Guest { guests: Arc::clone(self), place }));
            }
        }
    }
}

/// The client has as many connections as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused;

impl Drop for Guest {
    fn drop(&mut self) {
        // It counts one of this slot, whose name stays as long as it does.
        let place = self.place as usize;
        self.guests.lines[place / SLOTS].0[place % SLOTS].fetch_sub(1, Ordering::Relaxed);
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
        let guests = Guests::new(2, 100);
        let first = guests.enter(address(1)).unwrap();
        let _second = guests.enter(address(1)).unwrap();
        assert_eq!(guests.enter(address(1)).unwrap_err(), Refused);
        assert!(guests.enter(address(2)).is_ok());
        drop(first);
        assert!(guests.enter(address(1)).is_ok());
    }

    #[test]
    fn when_all_are_gone_nothing_is_left_of_them() {
        let guests = Guests::new(3, 1000);
        let all: Vec<_> = (0..1000).map(|number| guests.enter(address(number % 500)).unwrap()).collect();
        assert!(all.iter().filter(|guest| guest.is_some()).count() > 900);
        drop(all);
        assert!(guests.lines.iter().flat_map(|line| &line.0).all(|slot| slot.load(Ordering::Relaxed) & FULL == 0));
    }

    #[test]
    fn threads_together_let_no_more_in_than_one() {
        let guests = Guests::new(100, 1000);
        let enter = || (0..100).filter_map(|_| guests.enter(address(1)).ok()).collect::<Vec<_>>();
        let inside: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(enter)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(inside.len(), 100);
    }
}
