//! Owns: a request's way to its backend: a connection of its own, or a place on a shared one; and the response on it.
//! Invariant: a response is read at its reader's pace, and its way is given back only after its last byte.
//! Must not know: which HTTP the client speaks.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::failure::{Fact, SendError};
use super::http1::Http1Connection;
use super::http2::StreamPermit;
use crate::net::{Stream, WriteProgress};

/// What one request is sent on.
pub enum PooledConnection<B: Body + 'static> {
    /// A connection of HTTP/1.1.
    Http1(Box<Http1Connection<B>>),
    /// One of HTTP/2, with others.
    Http2(StreamPermit<B>),
}

impl<B> PooledConnection<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Whether its connection has served before. The backend may have closed it meanwhile, for no
    /// fault.
    pub fn is_used(&self) -> bool {
        match self {
            PooledConnection::Http1(connection) => connection.is_used(),
            PooledConnection::Http2(permit) => permit.is_used(),
        }
    }

    /// How long it took to connect; nothing is known of a shared connection.
    pub fn connect_time(&self) -> Duration {
        match self {
            PooledConnection::Http1(connection) => connection.connect_time(),
            PooledConnection::Http2(_) => Duration::ZERO,
        }
    }

    /// What becomes of the bytes that are written to its connection, if it is one's own.
    pub fn sent(&self) -> Option<Rc<WriteProgress>> {
        match self {
            PooledConnection::Http1(connection) => Some(connection.sent()),
            PooledConnection::Http2(_) => None,
        }
    }

    /// Whether it speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self, PooledConnection::Http2(_))
    }

    /// Sends a request and waits for the head of the response. `watch` is polled all the while and
    /// can end the exchange with a fact. After a failure the connection is good for nothing. As for why the
    /// request is made here, see [`Http1Connection::send_request`].
    ///
    /// # Errors
    /// Why there is no response, and the request if it was not even begun.
    pub async fn send_request(
        &mut self,
        request: impl FnOnce() -> Request<B>,
        watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<Response<Incoming>, SendError<B>> {
        match self {
            PooledConnection::Http1(connection) => connection.send_request(request, watch).await,
            PooledConnection::Http2(permit) => Box::pin(permit.send_request(request(), watch)).await,
        }
    }
}

/// Puts a request into the form of HTTP/2: the host in the target, and no field of the connection
/// (RFC 9113 §8.2.2, §8.3.1).
pub fn to_http2<B>(request: &mut Request<B>, scheme: Scheme) {
    let host = request.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority.unwrap_or(Authority::from_static("localhost")));
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request.headers_mut().remove(CONNECTION);
    *request.version_mut() = Version::HTTP_2;
}

/// The body of a response, which drives the connection that it comes from.
pub struct UpstreamBody<B: Body + 'static> {
    body: Incoming,
    connection: Option<PooledConnection<B>>,
    is_last: bool,
}

impl<B> UpstreamBody<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// The rest of a response whose head came on `connection`. `is_last` if no other may follow on the
    /// connection, whatever the backend says of that.
    pub fn new(body: Incoming, connection: PooledConnection<B>, is_last: bool) -> UpstreamBody<B> {
        UpstreamBody { body, connection: Some(connection), is_last }
    }

    /// The next frame of the body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(PooledConnection::Http1(connection)) = &mut self.connection else {
            return Pin::new(&mut self.body).poll_frame(cx);
        };
        let noop = &mut Context::from_waker(Waker::noop());
        // As in `Http1Connection::send_request`: frames come from the connection alone, and that has the task's waker.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(noop) {
            return Poll::Ready(frame);
        }
        connection.drive(cx);
        Pin::new(&mut self.body).poll_frame(noop)
    }

    /// Whether all of the body has been given out.
    pub fn is_end(&self) -> bool {
        self.body.is_end_stream()
    }

    /// How much is left of it.
    pub fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// After the head of a response that says another protocol begins: the connection, and what was
    /// read of it behind the head. `None` if the backend has gone since.
    pub fn into_upgraded(mut self, cx: &mut Context<'_>) -> Option<(Stream, Bytes)> {
        match self.connection.take()? {
            PooledConnection::Http1(connection) => connection.into_upgraded(cx),
            PooledConnection::Http2(_) => None,
        }
    }

    /// After the last frame: the connection, if it is one's own and can serve again.
    pub fn into_reusable(mut self, cx: &mut Context<'_>) -> Option<Box<Http1Connection<B>>> {
        match self.connection.take()? {
            PooledConnection::Http1(mut connection) => (connection.is_ready(cx) && !self.is_last).then_some(connection),
            PooledConnection::Http2(_) => None,
        }
    }
}
