//! Owns: what a client connection is at: requests under way, silence, and what comes after HTTP.
//! Invariant: written and read by tasks of one thread.
//! Must not know: sockets, hyper.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use http::Version;

use crate::clock;
use crate::handler::Tunnel;
use crate::net::interim::InterimQueue;

/// Bytes of a body that hyper has to write from which on it gets no more: enough that small pieces go out together.
/// By itself it takes 400 KiB, of each client that reads nothing.
const AHEAD: u64 = 4 * 1024;

/// The first bytes of a body, of which it gets as many as come: every socket has room for those to begin with. Linux
/// gives one 16 KiB (`tcp_wmem`), and what it has no room for is held here, once for each client.
const FIRST: u64 = 16 * 1024;

/// Bytes of a body that go on without a look at the room for them, at the most: others are to have their turn.
const MOST_AT_ONCE: u64 = 256 * 1024;

/// What a connection is at, shared between its socket, its requests and its driver.
pub(super) struct Activity {
    /// Requests whose response has not ended.
    pub(super) busy: Cell<u32>,
    /// Requests of the connection, ever.
    pub(super) requests: Rc<Cell<u32>>,
    /// Since when nothing is under way.
    pub(super) quiet_since: Cell<Instant>,
    /// When the first byte of a head that is not complete was read.
    pub(super) head_since: Cell<Option<Instant>>,
    /// Since when the client reads nothing of what is to be written.
    pub(super) blocked_since: Cell<Option<Instant>>,
    /// The client may still be sending what nobody will read.
    pub(super) lingers: Cell<bool>,
    /// What is to be answered has been, and the body of that is under way.
    pub(super) is_answered: Cell<bool>,
    /// The response that is under way goes on for as long as the client is there.
    pub(super) is_stream: Cell<bool>,
    /// Since when the client is seen to send no more, while it waits for an answer.
    pub(super) closed_since: Cell<Option<Instant>>,
    /// It has waited for so long that it is taken for one that has left.
    pub(super) is_left: Cell<bool>,
    /// It is time to look whether the client has reset the connection.
    pub(super) probe: Cell<bool>,
    /// The request that comes next has a fragment in its target.
    pub(super) has_fragment: Cell<bool>,
    /// Of what hyper has put out to be written, nothing is left.
    pub(super) is_flushed: Cell<bool>,
    /// On HTTP/1.1: interim responses that wait to be written.
    interim: OnceCell<Arc<InterimQueue>>,
    /// Requests that their client took back before there was an answer.
    pub(super) cancelled: Cell<u32>,
    /// How often all that hyper had to send was flushed.
    flushes: Cell<u64>,
    /// On HTTP/1: bytes of bodies that hyper has not written.
    unsent: Cell<u64>,
    /// A body waits until hyper has written some of those.
    is_ahead: Cell<bool>,
    /// Bytes for which the client's socket had room, less those of bodies that hyper was given since.
    room: Cell<u64>,
    /// Those whose body breaks off as soon as what came of it has been flushed.
    breaking: RefCell<Vec<Waker>>,
    /// What goes on once the response has gone out.
    tunnel: RefCell<Option<Box<dyn Tunnel>>>,
    /// On HTTP/2: that of the stream which hyper is about to open.
    streams: Option<Cell<Option<Rc<Stall>>>>,
}

impl Activity {
    /// For a connection that has had so many requests before.
    pub(super) fn new(requests: &Rc<Cell<u32>>) -> Rc<Activity> {
        Rc::new(Activity::begin(Rc::clone(requests), None))
    }

    /// For a connection of HTTP/2.
    pub(super) fn of_streams() -> Rc<Activity> {
        Rc::new(Activity::begin(Rc::default(), Some(Cell::default())))
    }

    fn begin(requests: Rc<Cell<u32>>, streams: Option<Cell<Option<Rc<Stall>>>>) -> Activity {
        Activity {
            busy: Cell::new(0),
            requests,
            quiet_since: Cell::new(clock::now()),
            head_since: Cell::new(None),
            blocked_since: Cell::new(None),
            lingers: Cell::new(false),
            is_answered: Cell::new(false),
            is_stream: Cell::new(false),
            closed_since: Cell::new(None),
            is_left: Cell::new(false),
            probe: Cell::new(false),
            has_fragment: Cell::new(false),
            is_flushed: Cell::new(true),
            interim: OnceCell::new(),
            cancelled: Cell::new(0),
            flushes: Cell::new(0),
            unsent: Cell::new(0),
            is_ahead: Cell::new(false),
            room: Cell::new(0),
            breaking: RefCell::default(),
            tunnel: RefCell::default(),
            streams,
        }
    }
}

impl Activity {
    /// Whether the first request of the connection, which had no body, has been answered, and nothing
    /// came after it.
    pub(super) fn is_first_over(&self) -> bool {
        self.requests.get() == 1 && self.busy.get() == 0 && !self.lingers.get()
    }

    /// How often all that hyper had to send was flushed.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    /// All that hyper had to send has been flushed, but for what the window of a stream has no room for.
    pub(super) fn flushed(&self) {
        self.flushes.set(self.flushes.get().wrapping_add(1));
        if self.is_breaking() {
            self.breaking.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Whether a body waits for the next flush to break off.
    pub(super) fn is_breaking(&self) -> bool {
        !self.breaking.borrow().is_empty()
    }

    /// Wakes `waker` with the next flush.
    pub(super) fn breaks_off(&self, waker: &Waker) {
        let mut breaking = self.breaking.borrow_mut();
        if !breaking.iter().any(|other| other.will_wake(waker)) {
            breaking.push(waker.clone());
        }
    }

    /// hyper has so many bytes more of a body to write.
    pub(super) fn gave(&self, bytes: u64) {
        self.unsent.set(self.unsent.get() + bytes);
        self.room.set(self.room.get().saturating_sub(bytes));
    }

    /// hyper has written so many of them.
    pub(super) fn wrote(&self, bytes: u64) {
        self.unsent.set(self.unsent.get().saturating_sub(bytes));
    }

    pub(super) fn unsent(&self) -> u64 {
        self.unsent.get()
    }

    /// Where interim responses to a request of this version go, if its client can be sent any: HTTP/1.0 has
    /// none (RFC 9110 §15.2), and over HTTP/2 hyper's server can send none.
    pub(super) fn interim_of(&self, version: Version) -> Option<Arc<InterimQueue>> {
        (version == Version::HTTP_11).then(|| Arc::clone(self.interim.get_or_init(Arc::default)))
    }

    /// Interim responses that may be written now, ahead of whatever hyper writes next.
    pub(super) fn interim(&self) -> Option<&InterimQueue> {
        self.interim.get().map(|queue| &**queue)
    }

    /// The response is there, and hyper puts it out next. What comes before it can be written only if nothing
    /// is left of the response before that; else it would come in the midst of it.
    pub(super) fn ends_interim(&self) {
        if let Some(queue) = self.interim.get().filter(|_| !self.is_flushed.get()) {
            queue.clear();
        }
    }

    /// Whether hyper has so much to write that a body is to give it no more for now, of which it was `given` so
    /// many bytes. The next flush wakes the task then.
    pub(super) fn is_ahead(&self, given: u64) -> bool {
        let is_full = self.room.get() == 0 && self.unsent.get() >= AHEAD;
        // TLS takes what the socket does not, and holds it.
        let is_ahead = given >= FIRST && (is_full || self.blocked_since.get().is_some());
        if is_ahead {
            self.is_ahead.set(true);
        }
        is_ahead
    }

    /// Whether a body has waited for the flush that was just made. It goes on with as much as the client's
    /// socket has `room` for: a client that reads gets a long body without a pause, and of what one that reads
    /// nothing is sent hardly more is held here than that its kernel has no room for.
    pub(super) fn goes_on(&self, room: impl FnOnce() -> usize) -> bool {
        let goes_on = self.is_ahead.take();
        if goes_on {
            self.room.set((room() as u64).min(MOST_AT_ONCE));
        }
        goes_on
    }

    /// The response that goes out now is the last of HTTP.
    pub(super) fn hand_over(&self, tunnel: Box<dyn Tunnel>) {
        self.tunnel.replace(Some(tunnel));
    }

    pub(super) fn has_tunnel(&self) -> bool {
        self.tunnel.borrow().is_some()
    }

    pub(super) fn take_tunnel(&self) -> Option<Box<dyn Tunnel>> {
        self.tunnel.take()
    }

    /// Whether it is a connection of HTTP/2.
    pub(super) fn has_streams(&self) -> bool {
        self.streams.is_some()
    }

    /// A request came; on HTTP/2 hyper is about to make a stream of it.
    pub(super) fn opens_stream(&self) -> Option<Rc<Stall>> {
        let opened = self.streams.as_ref()?;
        let stall = Rc::default();
        opened.set(Some(Rc::clone(&stall)));
        Some(stall)
    }

    /// The stall of the stream that is being opened.
    pub(super) fn opened(&self) -> Option<Rc<Stall>> {
        self.streams.as_ref()?.take()
    }
}

/// Since when a client takes nothing of a response on a stream of HTTP/2, whose connection goes on.
#[derive(Debug, Default)]
pub(super) struct Stall {
    since: Cell<Option<Instant>>,
    /// Bytes of the body that have not been written.
    unsent: Cell<u64>,
    /// The body waits until some of those have been.
    ahead: RefCell<Option<Waker>>,
}

impl Stall {
    /// The body was asked for more, and had something or not.
    pub(super) fn note(&self, had: bool) {
        self.since.set(had.then(clock::now));
    }

    /// hyper has so many bytes more of the body to write.
    pub(super) fn gave(&self, bytes: u64) {
        self.unsent.set(self.unsent.get() + bytes);
    }

    /// hyper has written so many of them.
    pub(super) fn wrote(&self, bytes: u64) {
        self.unsent.set(self.unsent.get().saturating_sub(bytes));
        // The client has taken something, though the body was not asked for more.
        if self.since.get().is_some() {
            self.since.set(Some(clock::now()));
        }
        if self.unsent.get() < AHEAD
            && let Some(waker) = self.ahead.take()
        {
            waker.wake();
        }
    }

    /// Whether hyper has so much to write that the body is to give it no more for now, of which it was `given` so
    /// many bytes. Its task is woken when that is written.
    pub(super) fn is_ahead(&self, given: u64, cx: &Context<'_>) -> bool {
        let is_ahead = given >= FIRST && self.unsent.get() >= AHEAD;
        if is_ahead {
            self.ahead.replace(Some(cx.waker().clone()));
        }
        is_ahead
    }

    pub(super) fn unsent(&self) -> u64 {
        self.unsent.get()
    }

    /// Since when something waits for the client to take it.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since.get()
    }
}

/// A request under way.
pub(super) struct RequestGuard {
    activity: Rc<Activity>,
    is_answered: bool,
}

impl RequestGuard {
    pub(super) fn begin(activity: &Rc<Activity>) -> RequestGuard {
        activity.busy.set(activity.busy.get() + 1);
        activity.requests.set(activity.requests.get().saturating_add(1));
        activity.head_since.set(None);
        activity.is_answered.set(false);
        activity.is_stream.set(false);
        activity.is_left.set(false);
        activity.closed_since.set(None);
        RequestGuard { activity: Rc::clone(activity), is_answered: false }
    }

    /// Notes that the response is there; `is_stream` if it goes on for as long as its client is there.
    pub(super) fn answered(&mut self, is_stream: bool) {
        self.is_answered = true;
        self.activity.is_answered.set(true);
        self.activity.is_stream.set(is_stream);
    }

    /// What its connection is at.
    pub(super) fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let activity = &self.activity;
        activity.busy.set(activity.busy.get() - 1);
        activity.quiet_since.set(clock::now());
        if !self.is_answered {
            activity.cancelled.set(activity.cancelled.get().saturating_add(1));
        }
    }
}
