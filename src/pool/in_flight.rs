//! Owns: one request in flight on a backend, as the backend counts it.
//! Invariant: each count is given back, on the thread that counted, however the request ends.
//! Must not know: what the counts decide.

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::live::{Live, Shard};

/// A request in flight on a backend, from its choice to the last byte of the response: the only place that counts
/// `active`. `L` is how it keeps the backend's state: an `Arc` of its own would be a write, for each request, to a count
/// that all threads share.
#[derive(Debug)]
pub struct InFlight<L: Borrow<Arc<Live>> = Arc<Live>> {
    live: L,
    thread: usize,
    adds_session: bool,
    is_tunnel: bool,
}

impl InFlight {
    /// Counts one more request on `thread`, which must be the calling thread.
    pub fn on(live: &Arc<Live>, thread: usize) -> InFlight {
        InFlight::begin(Arc::clone(live), thread)
    }
}

impl<L: Borrow<Arc<Live>>> InFlight<L> {
    /// Counts one more request on `thread`, which must be the calling thread.
    pub fn begin(live: L, thread: usize) -> InFlight<L> {
        let this = InFlight { live, thread, adds_session: false, is_tunnel: false };
        this.add_active(1);
        this
    }

    /// Counts it as one that may add a session to the backend, until it is known whether it does.
    pub fn expect_session(&mut self) {
        if !std::mem::replace(&mut self.adds_session, true) {
            self.add(1, |shard| &shard.adding);
        }
    }

    /// Notes that it is known whether the request adds a session: if so, the session is counted.
    pub fn session_known(&mut self) {
        if std::mem::take(&mut self.adds_session) {
            self.add(u32::MAX, |shard| &shard.adding);
            let live = self.live.borrow();
            if live.has_session_limit() {
                live.changed();
            }
        }
    }

    /// Counts it as a tunnel, too, from now on.
    pub fn becomes_tunnel(&mut self) {
        if !std::mem::replace(&mut self.is_tunnel, true) {
            self.add(1, |shard| &shard.tunnels);
        }
    }

    fn add_active(&self, delta: u32) {
        self.add(delta, |shard| &shard.active);
        if let Some(totals) = self.live.borrow().pool_totals() {
            totals.add_in_flight(self.thread, delta);
        }
    }

    /// A plain load and store: no other thread writes this shard, so no locked instruction.
    fn add(&self, delta: u32, counter: impl FnOnce(&Shard) -> &AtomicU32) {
        if let Some(counter) = self.live.borrow().shards.get(self.thread).map(counter) {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(delta), Ordering::Relaxed);
        }
    }
}

impl<L: Borrow<Arc<Live>>> Drop for InFlight<L> {
    fn drop(&mut self) {
        self.session_known();
        self.add_active(u32::MAX);
        if self.is_tunnel {
            self.add(u32::MAX, |shard| &shard.tunnels);
        }
        // No request waits for capacity where there is no limit, and most backends have none: only those with a
        // limit pay for the barrier in `changed`.
        let live = self.live.borrow();
        if live.has_request_limit() {
            live.changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::AdminState;

    #[test]
    fn in_flight_is_counted_over_all_threads_and_given_back() {
        let live = Arc::new(Live::new(0, 2, AdminState::Ready, 1));
        let a = InFlight::on(&live, 0);
        let b = InFlight::on(&live, 1);
        assert_eq!(live.active(), 2);
        drop(a);
        assert_eq!(live.active(), 1);
        drop(b);
        assert_eq!(live.active(), 0);
    }
}
