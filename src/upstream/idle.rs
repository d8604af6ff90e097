//! Owns: connections to backends that wait for their next request, on one thread.
//! Invariant: bounded in number and time, and never given to another life of the address.
//! Must not know: HTTP.

use std::cell::RefCell;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use http_body::Body;

use super::Settings;
use super::wire::Wire;
use crate::pool::Backend;

/// One thread's idle connections, by backend.
pub struct Idle<B: Body + 'static> {
    /// Indexed by [`crate::pool::Live::id`], which stays the same across reloads.
    shelves: RefCell<Vec<Vec<Resting<B>>>>,
}

struct Resting<B: Body + 'static> {
    wire: Box<Wire<B>>,
    incarnation: u64,
    until: Instant,
}

impl<B: Body + 'static> Default for Idle<B> {
    fn default() -> Self {
        Idle { shelves: RefCell::default() }
    }
}

impl<B> Idle<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// The one that was used last: the longest idle ones so get to their end. It may have been
    /// closed by the backend by now; sending on it then fails without a byte sent.
    pub fn take(&self, backend: &Backend, now: Instant) -> Option<Box<Wire<B>>> {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.get_mut(backend.live().id())?;
        std::iter::from_fn(|| shelf.pop())
            .find(|resting| resting.incarnation == backend.incarnation() && resting.until > now)
            .map(|resting| resting.wire)
    }

    /// Keeps one for later, unless there are enough.
    pub fn put(&self, backend: &Backend, wire: Box<Wire<B>>, settings: &Settings, now: Instant) {
        let mut shelves = self.shelves.borrow_mut();
        let id = backend.live().id();
        if shelves.len() <= id {
            shelves.resize_with(id + 1, Vec::new);
        }
        if shelves[id].len() < settings.max_idle_per_thread {
            let until = now + settings.idle_timeout.min(Duration::from_secs(24 * 3600));
            shelves[id].push(Resting { wire, incarnation: backend.incarnation(), until });
        }
    }

    /// Closes those that were idle for too long, and those that the backend has closed: nobody
    /// polls an idle connection, so nobody else would give its descriptor back.
    pub fn sweep(&self, now: Instant) {
        let cx = &mut Context::from_waker(Waker::noop());
        for shelf in self.shelves.borrow_mut().iter_mut() {
            shelf.retain_mut(|resting| resting.until > now && resting.wire.is_ready(cx));
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shelves.borrow().iter().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
