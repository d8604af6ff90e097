//! Owns: connections to backends that wait for their next request, on one thread.
//! Invariant: bounded in number and time, and never given to another life of the address.
//! Must not know: HTTP.

use std::cell::RefCell;
use std::net::IpAddr;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use http_body::Body;

use super::Settings;
use super::connect::Fresh;
use super::line::Line;
use super::shared::Shared;
use super::wire::Wire;
use crate::pool::Backend;

/// One thread's idle connections, by backend.
pub struct Idle<B: Body + 'static> {
    /// Indexed by [`crate::pool::Live::id`], which stays the same across reloads.
    shelves: RefCell<Vec<Shelf<B>>>,
}

struct Shelf<B: Body + 'static> {
    own: Vec<Resting<B>>,
    shared: Vec<AtWork<B>>,
}

/// A connection that nobody uses.
struct Resting<B: Body + 'static> {
    wire: Box<Wire<B>>,
    incarnation: u64,
    /// Whom the PROXY header at its beginning named: it speaks for nobody else.
    client: Option<IpAddr>,
    until: Instant,
}

/// A connection on which requests share.
struct AtWork<B: Body + 'static> {
    connection: Shared<B>,
    incarnation: u64,
    idle: Duration,
}

/// What a request needs of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// On whose behalf it is sent, if that is known.
    pub client: Option<IpAddr>,
    /// It asks to go on in another protocol, as HTTP/1.1 can.
    pub http1: bool,
}

impl Wanted {
    fn named(self, settings: &Settings) -> Option<IpAddr> {
        settings.proxy_protocol.and(self.client)
    }
}

impl<B: Body + 'static> Default for Idle<B> {
    fn default() -> Self {
        Idle { shelves: RefCell::default() }
    }
}

impl<B: Body + 'static> Default for Shelf<B> {
    fn default() -> Self {
        Shelf { own: Vec::new(), shared: Vec::new() }
    }
}

impl<B> Idle<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A way to send a request: a place on the first connection that has one, so that those which
    /// are not needed get idle; or the connection that was used last, for the same reason. It may
    /// have been closed by the backend by now; sending on it then fails without a byte sent.
    pub fn take(&self, backend: &Backend, settings: &Settings, wanted: Wanted, now: Instant) -> Option<Line<B>> {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.get_mut(backend.live().id())?;
        let wants_http2 = settings.http2 && !wanted.http1;
        if wants_http2 {
            let current = |at: &&AtWork<B>| at.incarnation == backend.incarnation();
            let place = shelf.shared.iter().filter(current).find_map(|at| at.connection.place());
            if place.is_some() {
                return place.map(Line::Shared);
            }
        }
        let client = wanted.named(settings);
        let serves =
            |resting: &Resting<B>| resting.client == client && (!wants_http2 || resting.wire.is_all_there_is());
        while let Some(last) = shelf.own.iter().rposition(serves) {
            let resting = shelf.own.remove(last);
            if resting.incarnation == backend.incarnation() && resting.until > now {
                return Some(Line::Own(resting.wire));
            }
        }
        None
    }

    /// A new connection's first use. One that requests share is found by others from now on. `None`
    /// if the backend takes no request on it.
    pub fn begin(&self, backend: &Backend, fresh: Fresh<B>, settings: &Settings) -> Option<Line<B>> {
        match fresh {
            Fresh::Own(wire) => Some(Line::Own(wire)),
            Fresh::Shared(connection) => {
                let place = connection.place()?;
                let (incarnation, idle) = (backend.incarnation(), settings.idle_timeout);
                self.on_shelf(backend, |shelf| shelf.shared.push(AtWork { connection, incarnation, idle }));
                Some(Line::Shared(place))
            }
        }
    }

    /// Keeps one for later, unless there are enough.
    pub fn put(&self, backend: &Backend, wire: Box<Wire<B>>, settings: &Settings, wanted: Wanted, now: Instant) {
        let until = now + settings.idle_timeout.min(Duration::from_secs(24 * 3600));
        let client = wanted.named(settings);
        self.on_shelf(backend, |shelf| {
            if shelf.own.len() < settings.max_idle_per_thread {
                shelf.own.push(Resting { wire, incarnation: backend.incarnation(), client, until });
            }
        });
    }

    fn on_shelf(&self, backend: &Backend, work: impl FnOnce(&mut Shelf<B>)) {
        let mut shelves = self.shelves.borrow_mut();
        let id = backend.live().id();
        if shelves.len() <= id {
            shelves.resize_with(id + 1, Shelf::default);
        }
        if let Some(shelf) = shelves.get_mut(id) {
            work(shelf);
        }
    }

    /// Closes those that were idle for too long, and those that the backend has closed: nobody
    /// polls an idle connection, so nobody else would give its descriptor back.
    pub fn sweep(&self, now: Instant) {
        let cx = &mut Context::from_waker(Waker::noop());
        for shelf in self.shelves.borrow_mut().iter_mut() {
            shelf.own.retain_mut(|resting| resting.until > now && resting.wire.is_ready(cx));
            shelf.shared.retain(|at| at.connection.is_worth_keeping(at.idle, now));
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shelves.borrow().iter().map(|shelf| shelf.own.len() + shelf.shared.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
