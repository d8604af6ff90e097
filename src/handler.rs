//! Owns: the contract between what serves connections and what handles their requests.
//! Invariant: types and traits alone; neither side knows the other.
//! Must not know: sockets, hyper's connections, routes, backends.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::net::interim::InterimQueue;
use crate::telemetry::Limit;

/// Serves the requests of client connections. One value serves one thread.
pub trait Handler: 'static {
    /// The body of its responses.
    type Body: ResponseContent<Error: Into<Box<dyn std::error::Error + Send + Sync>> + Unpin> + Unpin + 'static;
    /// The state that it keeps for a connection.
    type Client: 'static;

    /// Begins a connection at the listener at this position in the configuration.
    fn begin_connection(&self, listener: usize, peer: Peer) -> Self::Client;

    /// Handles a request. Interim responses (RFC 9110 §15.2) are sent by way of `interim`, until the response
    /// is there; `None` where its client can be sent none.
    fn handle(
        self: Rc<Self>,
        client: Rc<Self::Client>,
        request: Request<Incoming>,
        interim: Option<Arc<InterimQueue>>,
    ) -> impl Future<Output = Reply<Self::Body>> + 'static;

    /// Makes the response to a request that is abandoned before it has one. Whatever handles the request is dropped
    /// then.
    fn abandoned(self: &Rc<Self>, client: &Rc<Self::Client>, why: Abandoned) -> Response<Self::Body>;

    /// Records a request whose head could not be understood. Returns the bytes of the response, which are sent
    /// if hyper has sent none.
    fn reject_head(self: &Rc<Self>, client: &Rc<Self::Client>, fault: HeadFault) -> Bytes;

    /// Counts a connection that met a limit.
    fn count_limit(&self, limit: Limit);
}

/// The outcome of a request.
pub struct Reply<B> {
    /// The response.
    pub response: Response<B>,
    /// The tunnel that takes the connection over once the response has been sent (101, or 2xx to CONNECT).
    pub tunnel: Option<Box<dyn Tunnel>>,
    /// Whether the response goes on for as long as its client is there: a client that closes its side has left.
    pub is_stream: bool,
}

/// A protocol that takes a connection over after HTTP: mostly a WebSocket.
pub trait Tunnel {
    /// Runs the tunnel with the client's bytes, of which `read` has been read already.
    fn run(self: Box<Self>, client: Box<dyn Duplex>, read: Bytes) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// A stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Why a request's head could not be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadFault {
    /// It did not arrive in time.
    HeadTimeout,
    /// It is not HTTP; hyper has sent a response.
    Malformed,
    /// It is too large; hyper has sent a response.
    TooLarge,
    /// Its target has a fragment.
    Fragment,
}

/// Why a request gets no response of its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// The handler has panicked.
    Panicked,
    /// The client closed its side, and its request took too long.
    ClientClosed,
    /// The process ends, and its grace period is over.
    Stopping,
}

/// The body of a response, which is told how much of it did not reach its client.
pub trait ResponseContent: Body<Data = Bytes> {
    /// Ends the body early: `bytes` of what it gave were never sent.
    fn abort(&mut self, bytes: u64);

    /// Returns whether all of the request's body has been read by now.
    fn has_read_request(&self) -> bool;
}

/// The client at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its address; where a PROXY header names a client, that client's.
    pub address: IpAddr,
    /// The subject of its TLS certificate, if it had to show one.
    pub subject: Option<HeaderValue>,
}
