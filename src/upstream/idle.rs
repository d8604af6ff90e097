//! Owns: connections to backends on one thread: those that wait for their next request, and those that are shared.
//! Invariant: bounded in number and time, and never given to another life of the address.
//! Must not know: HTTP.

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http_body::Body;

use super::connect::{Fresh, connect};
use super::failure::{Fact, Failure};
use super::flight::{self, Flight, Landed, Pending};
use super::line::Line;
use super::shared::Shared;
use super::wire::Wire;
use super::{Access, Settings};
use crate::pool::Backend;

/// One thread's idle connections, by backend.
pub struct Idle<B: Body + 'static> {
    /// Indexed by [`crate::pool::Live::id`], which stays the same across reloads.
    shelves: Rc<RefCell<Vec<Shelf<B>>>>,
}

struct Shelf<B: Body + 'static> {
    own: Vec<Resting<B>>,
    shared: Vec<AtWork<B>>,
    /// The connection for many that is being made.
    pending: Option<Pending<B>>,
    /// The life of the address that was offered HTTP/2 and speaks none.
    without_http2: Option<u64>,
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
        Idle { shelves: Rc::default() }
    }
}

impl<B: Body + 'static> Shelf<B> {
    /// A connection that requests share is found by others from now on.
    fn share(&mut self, connection: Shared<B>, incarnation: u64, access: &Access) {
        self.without_http2 = None;
        self.shared.push(AtWork { connection, incarnation, idle: access.settings.idle_timeout });
    }
}

impl<B: Body + 'static> Default for Shelf<B> {
    fn default() -> Self {
        Shelf { own: Vec::new(), shared: Vec::new(), pending: None, without_http2: None }
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

    /// A way to send a request on a new connection. Those that want one of HTTP/2 at the same time wait for
    /// the same: a crowd of first requests would otherwise open one each, and use all of them but one
    /// for a single request. `watch` is polled all the while and can end the attempt with a fact.
    ///
    /// # Errors
    /// No connection; nothing was sent.
    pub async fn open(
        &self,
        backend: &Backend,
        access: &Access,
        wanted: Wanted,
        mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<Line<B>, Failure> {
        let unsent = |fact| Failure::new(fact, false);
        while access.settings.http2 && !wanted.http1 && !self.is_without_http2(backend) {
            let mut flight = self.flight(backend, access, wanted);
            let landed = std::future::poll_fn(|cx| match Pin::new(&mut flight).poll(cx) {
                Poll::Ready(landed) => Poll::Ready(landed),
                Poll::Pending => watch(cx).map(|fact| Err(unsent(fact))),
            });
            match landed.await? {
                Landed::Shared(connection) => match connection.place() {
                    Some(place) => return Ok(Line::Shared(place)),
                    // Others have filled it.
                    None if connection.is_full() => {}
                    None => return Err(unsent(Fact::Closed)),
                },
                // One of them gets it, and the others know now that each needs its own.
                Landed::Own(wire) => {
                    if let Some(wire) = wire.take() {
                        return Ok(Line::Own(wire));
                    }
                }
            }
        }
        match connect(backend.address(), access, wanted, watch).await? {
            Fresh::Own(wire) => Ok(Line::Own(wire)),
            Fresh::Shared(connection) => {
                let place = connection.place().ok_or(unsent(Fact::Closed))?;
                self.on_shelf(backend, |shelf| shelf.share(connection, backend.incarnation(), access));
                Ok(Line::Shared(place))
            }
        }
    }

    fn is_without_http2(&self, backend: &Backend) -> bool {
        let shelves = self.shelves.borrow();
        shelves.get(backend.live().id()).is_some_and(|shelf| shelf.without_http2 == Some(backend.incarnation()))
    }

    /// The connection for many that is being made to the backend; it is begun if none is.
    fn flight(&self, backend: &Backend, access: &Access, wanted: Wanted) -> Flight<B> {
        let (id, incarnation) = (backend.live().id(), backend.incarnation());
        let pending = self.shelves.borrow().get(id).and_then(|shelf| shelf.pending.as_ref()?.join(incarnation));
        if let Some(flight) = pending {
            return flight;
        }
        let (shelves, address, access) = (Rc::clone(&self.shelves), backend.address().clone(), access.clone());
        let flight = flight::begin(async move {
            // Each of those who wait has a limit of its own, and without them it ends.
            let landed = connect(&address, &access, wanted, |_| Poll::Pending).await.map(Landed::from);
            if let Some(shelf) = shelves.borrow_mut().get_mut(id) {
                shelf.pending.take_if(|pending| pending.is_of(incarnation));
                match &landed {
                    Ok(Landed::Shared(connection)) => shelf.share(connection.clone(), incarnation, &access),
                    Ok(Landed::Own(_)) => shelf.without_http2 = Some(incarnation),
                    Err(_) => {}
                }
            }
            landed
        });
        self.on_shelf(backend, |shelf| shelf.pending = Pending::of(&flight, incarnation));
        flight
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

    /// Closes all those that wait for a request: their descriptors are needed. Whether there were any.
    pub fn shed(&self) -> bool {
        let mut shelves = self.shelves.borrow_mut();
        let shed = shelves.iter_mut().map(|shelf| shelf.own.drain(..).count());
        shed.sum::<usize>() > 0
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
