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

use super::failure::Fact;
use super::shared::Place;
use super::wire::{Unanswered, Wire};
use crate::net::{Sent, Stream};

/// What one request is sent on.
pub enum Line<B: Body + 'static> {
    /// A connection of HTTP/1.1.
    Own(Box<Wire<B>>),
    /// One of HTTP/2, with others.
    Shared(Place<B>),
}

impl<B> Line<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Whether its connection has served before. The backend may have closed it meanwhile, for no
    /// fault.
    pub fn is_used(&self) -> bool {
        match self {
            Line::Own(wire) => wire.is_used(),
            Line::Shared(place) => place.is_used(),
        }
    }

    /// How long it took to connect; nothing is known of a shared connection.
    pub fn connect_time(&self) -> Duration {
        match self {
            Line::Own(wire) => wire.connect_time(),
            Line::Shared(_) => Duration::ZERO,
        }
    }

    /// What becomes of the bytes that are written to its connection, if it is one's own.
    pub fn sent(&self) -> Option<Rc<Sent>> {
        match self {
            Line::Own(wire) => Some(wire.sent()),
            Line::Shared(_) => None,
        }
    }

    /// Whether it speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self, Line::Shared(_))
    }

    /// Sends a request and waits for the head of the response. `watch` is polled all the while and
    /// can end the exchange with a fact. After a failure the line is good for nothing. As for why the
    /// request is made here, see [`Wire::exchange`].
    ///
    /// # Errors
    /// Why there is no response, and the request if it was not even begun.
    pub async fn exchange(
        &mut self,
        request: impl FnOnce() -> Request<B>,
        watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<Response<Incoming>, Unanswered<B>> {
        match self {
            Line::Own(wire) => wire.exchange(request, watch).await,
            Line::Shared(place) => Box::pin(place.exchange(request(), watch)).await,
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

/// The body of a response, which drives the line that it comes from.
pub struct Received<B: Body + 'static> {
    body: Incoming,
    line: Option<Line<B>>,
    is_last: bool,
}

impl<B> Received<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// The rest of a response whose head came on `line`. `is_last` if no other may follow on the
    /// connection, whatever the backend says of that.
    pub fn new(body: Incoming, line: Line<B>, is_last: bool) -> Received<B> {
        Received { body, line: Some(line), is_last }
    }

    /// The next frame of the body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(Line::Own(wire)) = &mut self.line else { return Pin::new(&mut self.body).poll_frame(cx) };
        let quiet = &mut Context::from_waker(Waker::noop());
        // As in `Wire::exchange`: frames come from the connection alone, and that has the task's waker.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(quiet) {
            return Poll::Ready(frame);
        }
        wire.drive(cx);
        Pin::new(&mut self.body).poll_frame(quiet)
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
    pub fn into_switched(mut self, cx: &mut Context<'_>) -> Option<(Stream, Bytes)> {
        match self.line.take()? {
            Line::Own(wire) => wire.into_switched(cx),
            Line::Shared(_) => None,
        }
    }

    /// After the last frame: the connection, if it is one's own and can serve again.
    pub fn into_ready(mut self, cx: &mut Context<'_>) -> Option<Box<Wire<B>>> {
        match self.line.take()? {
            Line::Own(mut wire) => (wire.is_ready(cx) && !self.is_last).then_some(wire),
            Line::Shared(_) => None,
        }
    }
}
