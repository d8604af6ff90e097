//! Owns: the contract between the runtime, which serves connections, and the proxy, which handles their requests.
//! Invariant: the contract is types and traits alone; neither side knows the other.
//! Must not know: sockets, hyper's connections, routes, backends.

use std::error::Error;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http2::{PacedBody, StreamBody};
use crate::net::interim::{InterimQueue, StreamInterim};
use crate::telemetry::Limit;

/// Serves the requests of client connections. One value serves one thread.
pub trait Handler: 'static {
    /// The body of this handler's responses.
    type Body: ResponseContent<Error: Into<Box<dyn std::error::Error + Send + Sync>> + Unpin> + Unpin + 'static;
    /// The state that this handler keeps for one connection.
    type Client: 'static;
    /// What this handler has to know of a listener. A reload may change it for the connections that begin afterwards.
    type Listener: Send + Sync + 'static;

    /// Begins a connection of `peer` at this listener.
    fn begin_connection(&self, listener: &Arc<Self::Listener>, peer: Peer) -> Self::Client;

    /// Notes that a connection has been idle for a while, and may stay so: what the handler remembers of its last request
    /// only to be faster takes memory.
    fn park_connection(&self, _client: &Self::Client) {}

    /// Handles a request. The handler queues interim responses (RFC 9110 §15.2) in `interim` until it returns the
    /// response; `interim` is `None` if the client can receive none.
    fn handle(
        self: Rc<Self>,
        client: Rc<Self::Client>,
        request: Request<IncomingBody>,
        interim: Option<Interim>,
    ) -> impl Future<Output = Reply<Self::Body>> + 'static;

    /// Makes the response to a request that is abandoned before it has one. The runtime then drops the future that
    /// handles the request.
    fn abandoned(self: &Rc<Self>, client: &Rc<Self::Client>, why: Abandoned) -> Response<Self::Body>;

    /// Records a request whose head is invalid or late. Returns the bytes of the response; the runtime sends them
    /// unless hyper has sent a response already.
    fn reject_head(self: &Rc<Self>, client: &Rc<Self::Client>, fault: HeadFault) -> Bytes;

    /// Counts a connection that reached a limit.
    fn count_limit(&self, limit: Limit);
}

/// Where the interim responses to a request wait until the runtime sends them.
#[derive(Debug, Clone)]
pub enum Interim {
    /// On a connection of HTTP/1.1, as bytes.
    Http1(Rc<InterimQueue>),
    /// On a stream of HTTP/2.
    Http2(Rc<StreamInterim>),
}

/// The body of a request, as its connection delivers it.
pub enum IncomingBody {
    /// There is none.
    Empty,
    /// From a connection of HTTP/1.
    Http1(Incoming),
    /// From a stream of HTTP/2. Boxed, or each request would have room for it.
    Http2(Box<StreamBody>),
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Box<dyn Error + Send + Sync>>>> {
        match self.get_mut() {
            IncomingBody::Empty => Poll::Ready(None),
            IncomingBody::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            IncomingBody::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            IncomingBody::Empty => true,
            IncomingBody::Http1(body) => body.is_end_stream(),
            IncomingBody::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            IncomingBody::Empty => SizeHint::with_exact(0),
            IncomingBody::Http1(body) => body.size_hint(),
            IncomingBody::Http2(body) => body.size_hint(),
        }
    }
}

impl PacedBody for IncomingBody {
    fn hold(&mut self, cx: &mut Context<'_>) {
        if let IncomingBody::Http2(body) = self {
            body.hold(cx);
        }
    }
}

/// The outcome of a request.
pub struct Reply<B> {
    /// The response.
    pub response: Response<B>,
    /// The tunnel that takes over the connection after the response has been sent (101, or 2xx to CONNECT).
    pub tunnel: Option<Box<dyn Tunnel>>,
    /// Whether the response lasts as long as its client stays: a client that closes its sending side has left.
    pub is_stream: bool,
}

/// A protocol that takes over a connection after HTTP: mostly a WebSocket.
pub trait Tunnel {
    /// Runs the tunnel over `client`, from which the runtime has already read the bytes `read`.
    fn run(self: Box<Self>, client: Box<dyn Duplex>, read: Bytes) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// A stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Why the runtime rejects a request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadFault {
    /// The head did not arrive in time.
    HeadTimeout,
    /// The head is not HTTP; hyper has sent a response.
    Malformed,
    /// The head is too large; hyper has sent a response.
    TooLarge,
    /// The request target has a fragment.
    Fragment,
}

/// Why a request gets no response from its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// The handler panicked.
    Panicked,
    /// The client closed its sending side, and its request took too long.
    ClientClosed,
    /// The process stops, and its grace period is over.
    Stopping,
}

/// The body of a response, which learns how much of it was never written to the client.
pub trait ResponseContent: PacedBody<Data = Bytes> {
    /// Ends the body early: the runtime discarded `bytes` of its data without writing them.
    fn abort(&mut self, bytes: u64);

    /// Whether it is to be polled for more only once all that it gave has been written: its sender may send as much again.
    fn is_windowed(&self) -> bool {
        false
    }

    /// Returns whether the handler has read all of the request's body by now.
    fn has_read_request(&self) -> bool;
}

/// The client at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The client's address: that of the PROXY header if there is one, else that of the connection.
    pub address: IpAddr,
    /// The subject of the client's TLS certificate, if the listener requires one.
    pub subject: Option<HeaderValue>,
    /// The version of TLS of the connection, if it has TLS.
    pub tls_version: Option<&'static str>,
}
