//! Owns: one client connection: served by hyper while it says something, parked while it doesn't.
//! Invariant: an idle connection holds no buffer; every wait for a client has a limit.
//! Must not know: what is served.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::io::{Activity, Io};
use super::phase::{self, Next, Situation};
use crate::clock;

/// What is served on connections. One value serves one thread.
pub trait Handler: 'static {
    /// The body of its responses.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static;
    /// What it remembers of a connection.
    type Client: 'static;

    /// A connection begins.
    fn client(&self, listener: &Arc<str>, address: IpAddr) -> Self::Client;

    /// A request came.
    fn handle(
        self: Rc<Self>,
        client: Rc<Self::Client>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;

    /// A request came of which no head was understood. The bytes are sent as the answer where
    /// none has gone out yet.
    fn unread(self: &Rc<Self>, client: &Rc<Self::Client>, fault: Fault) -> Bytes;
}

/// Why no head was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It did not come in time.
    HeadTimeout,
    /// It is no HTTP; hyper has answered.
    Malformed,
    /// It is too large; hyper has answered.
    TooLarge,
}

/// What all connections of a thread have in common.
pub(super) struct Common<H> {
    pub(super) handler: Rc<H>,
    pub(super) limits: super::Limits,
    pub(super) clock: clock::Limits,
    /// The process is about to end: finish what is under way, begin nothing new.
    pub(super) draining: Cell<bool>,
    http: http1::Builder,
}

impl<H> Common<H> {
    pub(super) fn new(handler: Rc<H>, limits: super::Limits, clock: clock::Limits) -> Common<H> {
        let mut http = http1::Builder::new();
        // Clients may close their sending side and wait for the answer (RFC 9112 §9.6 has no rule
        // against it, and `nc` does).
        http.half_close(true).max_header_size(limits.header_bytes);
        Common { handler, limits, clock, draining: Cell::new(false), http }
    }
}

/// How a spell in hyper ended.
enum Ended {
    /// Nothing is under way; bytes of a next head may have come.
    Quiet(TcpStream, Bytes),
    /// For good.
    Closed,
}

/// Serves one connection until it ends.
pub(super) async fn serve<H: Handler>(mut stream: TcpStream, client: Rc<H::Client>, common: Rc<Common<H>>) {
    let requests = Rc::default();
    loop {
        // Begins parked: a client that connects and says nothing costs no buffers either.
        if !readable(&stream, &common).await {
            return;
        }
        // In a box of its own, which goes when the connection is parked again.
        let mut prefix = Bytes::new();
        stream = loop {
            match Box::pin(active(stream, prefix, &client, &common, &requests)).await {
                Ended::Closed => return,
                Ended::Quiet(stream, rest) if rest.is_empty() => break stream,
                Ended::Quiet(again, rest) => (stream, prefix) = (again, rest),
            }
        };
    }
}

/// Waits for something to read; false if the connection is over.
async fn readable<H>(stream: &TcpStream, common: &Common<H>) -> bool {
    let limit = common.clock.limit();
    limit.set_after(common.limits.idle_timeout);
    poll_fn(|cx| {
        if common.draining.get() || limit.poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        stream.poll_read_ready(cx).map(|ready| ready.is_ok())
    })
    .await
}

/// Lets hyper serve the connection until it has been quiet for a while.
async fn active<H: Handler>(
    stream: TcpStream,
    prefix: Bytes,
    client: &Rc<H::Client>,
    common: &Rc<Common<H>>,
    requests: &Rc<Cell<u32>>,
) -> Ended {
    let activity = Activity::new(requests);
    if !prefix.is_empty() {
        activity.head_since.set(Some(clock::now()));
    }
    let service = service(&common.handler, client, &activity);
    let mut connection = common.http.serve_connection(Io::new(stream, prefix, &activity), service);
    let limit = common.clock.limit();
    limit.set_after(phase::QUIET);
    let mut told = false;
    let next = poll_fn(|cx| {
        if common.draining.get() && !std::mem::replace(&mut told, true) {
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Err(result));
        }
        let mut look = activity.is_first_over();
        while std::mem::take(&mut look) || limit.poll(cx).is_ready() {
            let situation = Situation {
                busy: activity.busy.get() > 0,
                first: activity.is_first_over(),
                quiet_since: activity.quiet_since.get(),
                head_since: activity.head_since.get(),
                blocked_since: activity.blocked_since.get(),
            };
            match phase::next(situation, clock::now(), &common.limits) {
                Next::Wait(at) => {
                    limit.set(at);
                    if situation.busy {
                        activity.probe.set(true);
                        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                            return Poll::Ready(Err(result));
                        }
                    }
                }
                next => return Poll::Ready(Ok(next)),
            }
        }
        Poll::Pending
    })
    .await;
    // The borrow of the connection has ended with the future above.
    match next {
        Ok(Next::Park) => {
            let parts = connection.into_parts();
            return Ended::Quiet(parts.io.into_stream(), parts.read_buf);
        }
        Ok(Next::HeadTimeout) => {
            let mut stream = connection.into_parts().io.into_stream();
            let answer = common.handler.unread(client, Fault::HeadTimeout);
            // A fresh socket buffer takes a few hundred bytes at once; if not, so be it.
            let _ = stream.try_write(&answer);
            linger(&mut stream).await;
        }
        Ok(Next::Abort | Next::Wait(_)) => {}
        Err(result) => {
            let refused = result.is_err_and(|error| refused(&error, common, client));
            if refused || activity.lingers.get() {
                linger(&mut connection.into_parts().io.into_stream()).await;
            }
        }
    }
    Ended::Closed
}

/// Whether hyper ended the connection because of what came on it.
fn refused<H: Handler>(error: &hyper::Error, common: &Common<H>, client: &Rc<H::Client>) -> bool {
    if error.is_parse() {
        let fault = if error.is_parse_too_large() { Fault::TooLarge } else { Fault::Malformed };
        common.handler.unread(client, fault);
    }
    error.is_parse()
}

/// Ends a connection on which the client may still be sending. Closing it at once would make the
/// kernel answer those bytes with a reset, which can destroy the response before it was read.
async fn linger(stream: &mut TcpStream) {
    const TIME: Duration = Duration::from_secs(2);
    const BYTES: usize = 1024 * 1024;
    let drain = async {
        let mut buffer = [0; 4096];
        let mut read = 0;
        if stream.shutdown().await.is_ok() {
            while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                read += bytes;
                if read > BYTES {
                    break;
                }
            }
        }
    };
    let _ = tokio::time::timeout(TIME, Box::pin(drain)).await;
}

/// The handler as hyper wants it, with the connection's activity kept on the way.
fn service<H: Handler>(
    handler: &Rc<H>,
    client: &Rc<H::Client>,
    activity: &Rc<Activity>,
) -> impl Service<Request<Incoming>, Response = Response<Tracked<H::Body>>, Error = Infallible> {
    let (handler, client, activity) = (Rc::clone(handler), Rc::clone(client), Rc::clone(activity));
    service_fn(move |request: Request<Incoming>| {
        let busy = Busy::begin(&activity);
        let has_body = !request.body().is_end_stream();
        activity.lingers.set(has_body);
        let response = Rc::clone(&handler).handle(Rc::clone(&client), request);
        async move {
            let response = response.await;
            Ok(response.map(|body| Tracked { body, _busy: busy }))
        }
    })
}

/// A request under way.
struct Busy {
    activity: Rc<Activity>,
}

impl Busy {
    fn begin(activity: &Rc<Activity>) -> Busy {
        activity.busy.set(activity.busy.get() + 1);
        activity.requests.set(activity.requests.get().saturating_add(1));
        activity.head_since.set(None);
        Busy { activity: Rc::clone(activity) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.activity.busy.set(self.activity.busy.get() - 1);
        self.activity.quiet_since.set(clock::now());
    }
}

/// A response's body that keeps its connection busy until it ends.
struct Tracked<B> {
    body: B,
    _busy: Busy,
}

impl<B: Body + Unpin> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts a connection while it lives.
pub(super) struct Counted {
    open: Rc<Cell<usize>>,
    waiting: Rc<Cell<Vec<Waker>>>,
    listener: Arc<crate::telemetry::metrics::Listener>,
    thread: usize,
}

impl Counted {
    pub(super) fn new(
        open: &Rc<Cell<usize>>,
        waiting: &Rc<Cell<Vec<Waker>>>,
        listener: &Arc<crate::telemetry::metrics::Listener>,
        thread: usize,
    ) -> Counted {
        open.set(open.get() + 1);
        listener.opened(thread);
        Counted { open: Rc::clone(open), waiting: Rc::clone(waiting), listener: Arc::clone(listener), thread }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.listener.closed(self.thread);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }
}
