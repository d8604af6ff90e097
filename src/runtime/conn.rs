//! Owns: one client connection, from its first byte to its end, and what is served on it.
//! Invariant: every wait for a client has a limit; one that says nothing holds no buffer.
//! Must not know: what is served.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use tokio::io::{AsyncRead, AsyncWrite};

use super::activity::Activity;
use super::answer::{Answering, GivenUp};
use super::delivery::{Content, Tracked};
use super::gather;
use super::greet::{self, Arrival, Peer};
use super::guests::{Guest, Guests, Refused};
use super::listen::Door;
use super::{http1, http2};
use crate::clock;
use crate::net::interim::InterimQueue;
use crate::net::{Socket, Stream};
use crate::telemetry::Limit;

/// What is served on connections. One value serves one thread.
pub trait Handler: 'static {
    /// The body of its responses.
    type Body: Content<Error: Into<Box<dyn std::error::Error + Send + Sync>> + Unpin> + Unpin + 'static;
    /// What it remembers of a connection.
    type Client: 'static;

    /// A connection begins at the listener of this place in the configuration.
    fn client(&self, listener: usize, peer: Peer) -> Self::Client;

    /// A request came. Interim responses (RFC 9110 §15.2) are sent by way of `interim`, until the response
    /// is there; `None` where its client can be sent none.
    fn handle(
        self: Rc<Self>,
        client: Rc<Self::Client>,
        request: Request<Incoming>,
        interim: Option<Arc<InterimQueue>>,
    ) -> impl Future<Output = Reply<Self::Body>> + 'static;

    /// The answer to a request that is given up before it was answered; what handles it is dropped then.
    fn given_up(self: &Rc<Self>, client: &Rc<Self::Client>, why: GivenUp) -> Response<Self::Body>;

    /// A request came of which no head was understood. The bytes are sent as the answer where
    /// none has gone out yet.
    fn unread(self: &Rc<Self>, client: &Rc<Self::Client>, fault: Fault) -> Bytes;

    /// A connection met a limit.
    fn limited(&self, limit: Limit);
}

/// What a request gets.
pub struct Reply<B> {
    /// The response.
    pub response: Response<B>,
    /// What takes over once the response has gone out, if it says that another protocol begins.
    pub tunnel: Option<Box<dyn Tunnel>>,
    /// The response goes on for as long as its client is there: one that says no more has gone.
    pub is_stream: bool,
}

/// What goes on after HTTP: a WebSocket, above all.
pub trait Tunnel {
    /// Goes on with the client's bytes, of which `read` came already.
    fn run(self: Box<Self>, client: Box<dyn Duplex>, read: Bytes) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Why no head was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It did not come in time.
    HeadTimeout,
    /// It is no HTTP; hyper has answered.
    Malformed,
    /// It is too large; hyper has answered.
    TooLarge,
    /// Its target has a fragment.
    Fragment,
}

/// What all connections of a thread have in common.
pub(super) struct Common<H> {
    pub(super) handler: Rc<H>,
    pub(super) limits: super::Limits,
    /// How many connections each client has, where that is limited.
    pub(super) guests: Option<Arc<Guests>>,
    pub(super) clock: clock::Deadlines,
    /// Since when the process is about to end, and how long a connection may then still bring a request.
    draining: Rc<Cell<Option<(Instant, Duration)>>>,
    /// The time that requests had to end is over.
    is_over: Rc<Cell<bool>>,
    pub(super) http1: hyper::server::conn::http1::Builder,
}

impl<H> Common<H> {
    pub(super) fn new(
        handler: Rc<H>,
        limits: super::Limits,
        guests: Option<Arc<Guests>>,
        clock: clock::Deadlines,
    ) -> Common<H> {
        let http1 = http1::builder(&limits);
        Common { handler, limits, guests, clock, draining: Rc::default(), is_over: Rc::default(), http1 }
    }

    /// The process is about to end: each connection has one more request, if it comes within `idle`.
    pub(super) fn drain(&self, idle: Duration) {
        self.draining.set(Some((clock::now(), idle)));
    }

    /// What is under way is given up.
    pub(super) fn give_up(&self) {
        self.is_over.set(true);
        self.clock.wake_all();
    }

    /// Whether what was under way has been given up.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// Whether the process is about to end.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// When a connection that has been without a request since `quiet_since` is closed because the process is
    /// about to end.
    pub(super) fn leaves_at(&self, quiet_since: Instant) -> Option<Instant> {
        self.draining.get().map(|(since, idle)| since.max(quiet_since) + idle)
    }

    /// Lets a connection of the client at `address` in; it counts as long as what is returned lives.
    pub(super) fn enter(&self, address: IpAddr) -> Result<Option<Guest>, Refused>
    where
        H: Handler,
    {
        let Some(guests) = &self.guests else { return Ok(None) };
        guests.enter(address).inspect_err(|_| self.handler.limited(Limit::ConnectionsPerClient))
    }

    /// Waits for a whole head, or for as much of one as is worth a buffer. Until its first byte a connection is as
    /// one between two requests: a client that connects beforehand has done nothing wrong.
    pub(super) async fn head(&self, stream: &Stream) -> Head {
        // TLS has buffers of its own.
        let Stream::Plain(socket) = stream else { return Head::Came(None) };
        let (limit, quiet_since) = (self.clock.deadline(), clock::now());
        let mut begun = None;
        poll_fn(|cx| {
            if socket.poll_gather(cx, gather::is_head).is_ready() {
                return Poll::Ready(Head::Came(begun.or_else(|| Some(clock::now()))));
            }
            if socket.gathered(<[u8]>::is_empty) {
                return self.poll_idle(cx, socket, &limit, quiet_since).map(|()| Head::Never);
            }
            begun.get_or_insert_with(|| {
                limit.set_after(self.limits.header_read_timeout);
                clock::now()
            });
            limit.poll(cx).map(|()| Head::TooLate)
        })
        .await
    }

    /// Waits for something to read; false if the connection is over. At the end of the process that is once its
    /// client has had its time to say something, and has got what was written.
    pub(super) async fn readable(&self, socket: &Socket) -> bool {
        let (limit, quiet_since) = (self.clock.deadline(), clock::now());
        poll_fn(|cx| {
            // First: whoever has said something is heard.
            if let Poll::Ready(ready) = socket.poll_read_ready(cx) {
                return Poll::Ready(ready.is_ok());
            }
            self.poll_idle(cx, socket, &limit, quiet_since).map(|()| false)
        })
        .await
    }

    /// Ready once a connection on which nothing has come since `quiet_since` has had its time.
    fn poll_idle(
        &self,
        cx: &mut Context<'_>,
        socket: &Socket,
        limit: &clock::Deadline,
        quiet_since: Instant,
    ) -> Poll<()> {
        let idle_end = quiet_since + self.limits.idle_timeout;
        loop {
            let due = match self.leaves_at(quiet_since) {
                Some(leaves_at) if leaves_at > clock::now() => leaves_at.min(idle_end),
                Some(_) if socket.poll_sent(cx).is_ready() => return Poll::Ready(()),
                _ => idle_end,
            };
            limit.set(due);
            if limit.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if due == idle_end {
                return Poll::Ready(());
            }
        }
    }
}

/// What came of waiting for the head of a request.
pub(super) enum Head {
    /// It is there, or as much of it as is waited for; and since when some of it is. A connection in TLS begins with
    /// nothing: what came so far was its handshake.
    Came(Option<Instant>),
    /// It began, and did not end in time.
    TooLate,
    /// It never began.
    Never,
}

/// Serves one connection until it ends.
pub(super) async fn serve<H: Handler>(socket: Socket, address: IpAddr, door: Arc<Door>, common: Rc<Common<H>>) {
    // Begins parked: a client that connects and says nothing costs no buffers either, and is not waited
    // for at the end.
    if !common.readable(&socket).await {
        return http1::leave(socket.into(), &common).await;
    }
    let Some(arrival) = greet::greet(socket, address, &door, &common.limits).await else { return };
    let Arrival { stream, peer, is_http2 } = arrival;
    // A proxy's connection is one of the client's that it speaks for.
    let is_relayed = peer.address != address;
    let Ok(_guest) = (if is_relayed { common.enter(peer.address) } else { Ok(None) }) else { return };
    let client = Rc::new(common.handler.client(door.index, peer));
    drop(door);
    match is_http2 {
        // In a box, or the connections of HTTP/1.1 would be as large.
        true => Box::pin(http2::serve(stream, client, common)).await,
        false => http1::serve(stream, client, common).await,
    }
}

/// What hyper gets of the handler.
type Served<H> = Result<Response<Tracked<<H as Handler>::Body>>, Infallible>;

/// The handler as hyper wants it, with the connection's activity kept on the way.
pub(super) fn service<H: Handler>(
    common: &Common<H>,
    client: Rc<H::Client>,
    activity: Rc<Activity>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Tracked<H::Body>>,
    Error = Infallible,
    Future = impl Future<Output = Served<H>> + 'static,
> {
    let (handler, draining) = (Rc::clone(&common.handler), Rc::clone(&common.draining));
    let is_over = Rc::clone(&common.is_over);
    let most = common.limits.requests_per_connection.unwrap_or(u32::MAX);
    service_fn(move |mut request: Request<Incoming>| {
        let mut busy = Busy::begin(&activity);
        let has_body = !request.body().is_end_stream();
        activity.lingers.set(has_body);
        let upgrade = http2::takeover(&mut request);
        let stall = activity.opens_stream();
        let is_last = activity.requests.get() >= most;
        if activity.requests.get() == most {
            handler.limited(Limit::RequestsPerConnection);
        }
        let draining = Rc::clone(&draining);
        // With `map` and not in an `async` block, which would have the request's future in it twice.
        let interim = activity.interim_of(request.version());
        let (giving_up, to) = (Rc::clone(&handler), Rc::clone(&client));
        let give_up = move |why| giving_up.given_up(&to, why);
        let handling = Rc::clone(&handler).handle(Rc::clone(&client), request, interim);
        Answering::new(handling, &activity, &is_over, give_up).map(move |reply| {
            let Reply { mut response, tunnel, is_stream } = reply;
            busy.activity.ends_interim();
            // What is left of a request's body can't be told from the next head in what hyper reads then, and may
            // be more than anybody wants to read: the connection ends behind the answer.
            let is_unread = has_body && !response.body().has_read_request();
            // A connection of HTTP/2 is told by itself to go.
            if (is_last || is_unread || draining.get().is_some()) && stall.is_none() && tunnel.is_none() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                // The client may have sent the next one already.
                busy.activity.lingers.set(true);
            }
            busy.is_answered = true;
            busy.activity.is_answered.set(true);
            busy.activity.is_stream.set(is_stream);
            let Some(tunnel) = tunnel else {
                return Ok(response.map(|body| Tracked::new(body, Some(busy), stall)));
            };
            match upgrade {
                // A tunnel through a stream keeps its connection busy.
                Some(upgrade) => drop(tokio::task::spawn_local(http2::tunnel(upgrade, tunnel, busy))),
                None => busy.activity.hand_over(tunnel),
            }
            Ok(response.map(|body| Tracked::new(body, None, None)))
        })
    })
}

/// A request under way.
pub(super) struct Busy {
    activity: Rc<Activity>,
    is_answered: bool,
}

impl Busy {
    fn begin(activity: &Rc<Activity>) -> Busy {
        activity.busy.set(activity.busy.get() + 1);
        activity.requests.set(activity.requests.get().saturating_add(1));
        activity.head_since.set(None);
        activity.is_answered.set(false);
        activity.is_stream.set(false);
        activity.is_left.set(false);
        activity.closed_since.set(None);
        Busy { activity: Rc::clone(activity), is_answered: false }
    }

    /// What its connection is at.
    pub(super) fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let activity = &self.activity;
        activity.busy.set(activity.busy.get() - 1);
        activity.quiet_since.set(clock::now());
        if !self.is_answered {
            activity.cancelled.set(activity.cancelled.get().saturating_add(1));
        }
    }
}

/// Counts a connection while it lives.
pub(super) struct Counted {
    open: Rc<Cell<usize>>,
    listener: Arc<crate::telemetry::metrics::Listener>,
    thread: usize,
}

impl Counted {
    pub(super) fn new(
        open: &Rc<Cell<usize>>,
        listener: &Arc<crate::telemetry::metrics::Listener>,
        thread: usize,
    ) -> Counted {
        open.set(open.get() + 1);
        listener.opened(thread);
        Counted { open: Rc::clone(open), listener: Arc::clone(listener), thread }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.listener.closed(self.thread);
    }
}
