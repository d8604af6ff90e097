//! Owns: the state of a client connection that its socket, its requests and its driver share.
//! Invariant: this file alone writes the state, at events that the others report, on one thread.
//! Must not know: sockets, hyper, what the handler does with a request.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use http::Version;

use super::conn_timeouts::{self, ConnState, Http2State};
use crate::clock;
use crate::handler::Tunnel;
use crate::net::body_pacing::BodyPacing;
use crate::net::interim::InterimQueue;

/// The state of a client connection.
pub(super) struct Activity {
    /// Requests whose response has not ended.
    in_flight: Cell<u32>,
    /// All requests of the connection so far.
    requests: Rc<Cell<u32>>,
    /// Since when no request is in flight.
    idle_since: Cell<Instant>,
    /// When the first byte of the current, incomplete head was read.
    head_since: Cell<Option<Instant>>,
    /// Since when the client accepts nothing that is to be written.
    blocked_since: Cell<Option<Instant>>,
    /// Bytes that the client had accepted when it was last seen to accept no more.
    accepted: Cell<u64>,
    /// Whether the client may be sending bytes that the server will not read.
    has_unread_input: Cell<bool>,
    /// Whether the handler has returned the response to the current request.
    has_response: Cell<bool>,
    /// Whether the current response lasts as long as its client stays.
    is_stream: Cell<bool>,
    /// When the client was first seen to have closed its sending side, during the current request.
    half_closed_since: Cell<Option<Instant>>,
    /// Whether the client of the current request is assumed to have left.
    has_client_left: Cell<bool>,
    /// Whether the next flush shall check if the client has reset or closed the connection.
    is_probe_due: Cell<bool>,
    /// Whether the next request has a fragment in its target.
    has_fragment: Cell<bool>,
    /// On HTTP/1: whether hyper has no bytes left to write, so that a new message may begin.
    is_between_messages: Cell<bool>,
    /// On HTTP/1.1: interim responses that wait to be written.
    interim: OnceCell<Rc<InterimQueue>>,
    /// Requests that the client cancelled before they had a response.
    cancelled: Cell<u32>,
    /// How many times hyper or h2 has flushed all that it had to write.
    flushes: Cell<u64>,
    /// On HTTP/1: the bytes of response bodies in hyper.
    pacing: BodyPacing,
    /// The tasks of bodies that fail as soon as their data has been flushed.
    failing_bodies: RefCell<Vec<Waker>>,
    /// The tunnel that takes over the connection after the current response.
    tunnel: RefCell<Option<Box<dyn Tunnel>>>,
    is_http2: bool,
}

/// What a client wants that has closed its sending side during a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HalfClosed {
    /// It waits for the rest: the request goes on.
    Serve,
    /// It seems to have left before there was a response: the request is abandoned with a response that says so.
    Abandon,
    /// It has left during a response without end: the connection is aborted.
    Abort,
}

impl Activity {
    /// Makes the state of a connection of HTTP/1 that leaves its idle state. `requests` counts all requests of the
    /// connection; `head_since` is when the first byte of the next head arrived.
    pub(super) fn http1(requests: &Rc<Cell<u32>>, head_since: Option<Instant>) -> Rc<Activity> {
        Rc::new(Activity::new(Rc::clone(requests), head_since, false))
    }

    /// Makes the state of a connection of HTTP/2.
    pub(super) fn http2() -> Rc<Activity> {
        Rc::new(Activity::new(Rc::default(), None, true))
    }

    fn new(requests: Rc<Cell<u32>>, head_since: Option<Instant>, is_http2: bool) -> Activity {
        Activity {
            in_flight: Cell::new(0),
            requests,
            idle_since: Cell::new(clock::now()),
            head_since: Cell::new(head_since),
            blocked_since: Cell::new(None),
            accepted: Cell::new(0),
            has_unread_input: Cell::new(false),
            has_response: Cell::new(false),
            is_stream: Cell::new(false),
            half_closed_since: Cell::new(None),
            has_client_left: Cell::new(false),
            is_probe_due: Cell::new(false),
            has_fragment: Cell::new(false),
            is_between_messages: Cell::new(true),
            interim: OnceCell::new(),
            cancelled: Cell::new(0),
            flushes: Cell::new(0),
            pacing: BodyPacing::default(),
            failing_bodies: RefCell::default(),
            tunnel: RefCell::default(),
            is_http2,
        }
    }

    /// Returns what decides the next step of a connection of HTTP/1.
    pub(super) fn http1_state(&self) -> ConnState {
        ConnState {
            is_busy: !self.is_idle(),
            is_first_done: self.is_first_done(),
            idle_since: self.idle_since.get(),
            head_since: self.head_since.get(),
            blocked_since: self.blocked_since.get(),
        }
    }

    /// Returns what decides the next step of a connection of HTTP/2 to which GOAWAY was sent at `goaway_since`.
    pub(super) fn http2_state(&self, goaway_since: Option<Instant>) -> Http2State {
        Http2State {
            is_busy: !self.is_idle(),
            idle_since: self.idle_since.get(),
            blocked_since: self.blocked_since.get(),
            goaway_since,
            requests: self.requests.get(),
            cancelled: self.cancelled.get(),
        }
    }

    /// Returns whether no request is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0
    }

    /// Returns whether the first request of the connection, which had no body, is done, and was the last so far.
    pub(super) fn is_first_done(&self) -> bool {
        self.requests.get() == 1 && self.is_idle() && !self.has_unread_input.get()
    }

    /// Returns how many requests the connection has had.
    pub(super) fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// Returns whether the handler has returned the response to the current request.
    pub(super) fn has_response(&self) -> bool {
        self.has_response.get()
    }

    /// Returns whether the client may be sending bytes that the server will not read.
    pub(super) fn has_unread_input(&self) -> bool {
        self.has_unread_input.get()
    }
}

/// Events of reading.
impl Activity {
    /// Returns whether a head has begun that is not complete.
    pub(super) fn has_partial_head(&self) -> bool {
        self.head_since.get().is_some()
    }

    /// The first byte of a head was read.
    pub(super) fn head_began(&self) {
        self.head_since.set(Some(clock::now()));
    }

    /// A fragment was found in the target of the next request. Returns whether that request can be rejected now: if
    /// hyper has bytes left of the response before it, they would be lost with hyper's buffer.
    pub(super) fn fragment_found(&self) -> bool {
        let is_rejected = self.is_between_messages.get();
        self.has_fragment.set(is_rejected);
        is_rejected
    }

    /// Returns whether the next request is rejected because its target has a fragment.
    pub(super) fn has_fragment(&self) -> bool {
        self.has_fragment.get()
    }

    /// Makes the next flush check if the client has reset or closed the connection.
    pub(super) fn schedule_probe(&self) {
        self.is_probe_due.set(true);
    }

    /// Returns, once, whether such a check is due.
    pub(super) fn take_probe(&self) -> bool {
        self.is_probe_due.take()
    }

    /// The client is seen to have closed its sending side. Returns what becomes of the current request.
    pub(super) fn half_closed(&self) -> HalfClosed {
        let since = self.half_closed_since.get().unwrap_or(clock::now());
        self.half_closed_since.set(Some(since));
        let waits = !self.has_response.get();
        let ago = clock::now().saturating_duration_since(since);
        match (conn_timeouts::has_client_left(ago, waits, self.is_stream.get()), waits) {
            (false, _) => HalfClosed::Serve,
            (true, false) => HalfClosed::Abort,
            (true, true) => {
                self.client_left();
                HalfClosed::Abandon
            }
        }
    }

    /// The client of the current request is assumed to have left.
    pub(super) fn client_left(&self) {
        self.has_client_left.set(true);
    }

    /// Returns whether the client of the current request is assumed to have left.
    pub(super) fn has_client_left(&self) -> bool {
        self.has_client_left.get()
    }
}

/// Events of writing.
impl Activity {
    /// Returns whether hyper has no bytes left to write, so that a new message may begin.
    pub(super) fn is_between_messages(&self) -> bool {
        self.is_between_messages.get()
    }

    /// hyper begins to write a message.
    pub(super) fn message_began(&self) {
        self.is_between_messages.set(false);
    }

    /// hyper has no bytes left to write.
    pub(super) fn message_ended(&self) {
        self.is_between_messages.set(true);
    }

    /// Notes that the socket accepted everything that was to be written.
    pub(super) fn write_accepted(&self) {
        if self.blocked_since.get().is_some() {
            self.blocked_since.set(None);
        }
    }

    /// Notes that the socket's buffer is full; the client has accepted `accepted` bytes. If that number has changed,
    /// the client was reading until now, and counts as blocked only from now on.
    pub(super) fn write_blocked(&self, accepted: u64) {
        if self.blocked_since.get().is_none() || accepted != self.accepted.get() {
            self.blocked_since.set(Some(clock::now()));
            self.accepted.set(accepted);
        }
    }

    /// Returns whether the client accepts nothing that is to be written.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since.get().is_some()
    }

    /// Returns how many times hyper or h2 has flushed all that it had to write.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    /// hyper or h2 has flushed all that it had to write, except what exceeds the window of a stream.
    pub(super) fn flushed(&self) {
        self.flushes.set(self.flushes.get().wrapping_add(1));
        if self.has_failing_body() {
            self.failing_bodies.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Returns whether a body waits for the next flush to fail.
    pub(super) fn has_failing_body(&self) -> bool {
        !self.failing_bodies.borrow().is_empty()
    }

    /// A body fails after the next flush, which wakes `waker`.
    pub(super) fn body_fails(&self, waker: &Waker) {
        let mut failing = self.failing_bodies.borrow_mut();
        if !failing.iter().any(|other| other.will_wake(waker)) {
            failing.push(waker.clone());
        }
    }

    /// Returns the bytes of response bodies in hyper, on HTTP/1.
    pub(super) fn pacing(&self) -> &BodyPacing {
        &self.pacing
    }

    /// Returns the queue for interim responses to a request over HTTP/1. HTTP/1.0 has none (RFC 9110 §15.2).
    pub(super) fn interim_of(&self, version: Version) -> Option<Rc<InterimQueue>> {
        (version == Version::HTTP_11).then(|| Rc::clone(self.interim.get_or_init(Rc::default)))
    }

    /// Returns the interim responses to be written before hyper's next message.
    pub(super) fn interim(&self) -> Option<&InterimQueue> {
        self.interim.get().map(|queue| &**queue)
    }

    /// Returns whether this is a connection of HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.is_http2
    }

    /// The current response is the last of HTTP: `tunnel` takes over the connection after it.
    pub(super) fn hand_over(&self, tunnel: Box<dyn Tunnel>) {
        self.tunnel.replace(Some(tunnel));
    }

    /// Returns whether a tunnel takes over the connection after the current response.
    pub(super) fn has_tunnel(&self) -> bool {
        self.tunnel.borrow().is_some()
    }

    /// Takes the tunnel that takes over the connection.
    pub(super) fn take_tunnel(&self) -> Option<Box<dyn Tunnel>> {
        self.tunnel.take()
    }
}

/// A request in flight. Dropping it ends the request.
pub(super) struct RequestGuard {
    activity: Rc<Activity>,
    has_response: bool,
}

impl RequestGuard {
    /// A request arrived, with a body or without.
    pub(super) fn begin(activity: &Rc<Activity>, has_body: bool) -> RequestGuard {
        activity.in_flight.set(activity.in_flight.get() + 1);
        activity.requests.set(activity.requests.get().saturating_add(1));
        activity.head_since.set(None);
        activity.has_unread_input.set(has_body);
        activity.has_response.set(false);
        activity.is_stream.set(false);
        activity.has_client_left.set(false);
        activity.half_closed_since.set(None);
        RequestGuard { activity: Rc::clone(activity), has_response: false }
    }

    /// The handler has returned the response, which hyper writes next; `is_stream` if it lasts as long as its client
    /// stays. An interim response before it can be written only if hyper has nothing left of the response before
    /// that; otherwise it would be written in the middle of that response.
    pub(super) fn responded(&mut self, is_stream: bool) {
        self.has_response = true;
        self.activity.has_response.set(true);
        self.activity.is_stream.set(is_stream);
        if let Some(queue) = self.activity.interim().filter(|_| !self.activity.is_between_messages.get()) {
            queue.clear();
        }
    }

    /// The connection closes after this response. Its client may have sent another request already.
    pub(super) fn closes_connection(&self) {
        self.activity.has_unread_input.set(true);
    }

    /// Returns the state of the request's connection.
    pub(super) fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let activity = &self.activity;
        activity.in_flight.set(activity.in_flight.get() - 1);
        activity.idle_since.set(clock::now());
        if !self.has_response {
            activity.cancelled.set(activity.cancelled.get().saturating_add(1));
        }
    }
}
