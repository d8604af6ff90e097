//! Owns: what a request is sent on, an HTTP/1.1 connection or a stream of an HTTP/2 connection; the response's body.
//! Invariant: a response is read at its reader's pace, and its connection is reusable only after the last byte.
//! Must not know: which version of HTTP the client uses.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::failure::{Blame, Fact, SendError};
use super::http1::Http1Connection;
use super::http2::StreamPermit;
use super::outgoing::OutgoingRequest;
use crate::http2::{PacedBody, StreamBody};
use crate::net::{Stream, WriteProgress};

/// A connection on which one request is sent.
pub enum PooledConnection<B: Body + 'static> {
    /// An HTTP/1.1 connection of its own.
    Http1(Box<Http1Connection<B>>),
    /// A stream of an HTTP/2 connection that other requests share.
    Http2(StreamPermit),
}

impl<B> PooledConnection<B>
where
    B: PacedBody<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Whether the connection has carried a request before. The backend may have closed it since, which is not an
    /// error.
    pub fn is_used(&self) -> bool {
        match self {
            PooledConnection::Http1(connection) => connection.is_used(),
            PooledConnection::Http2(permit) => permit.is_used(),
        }
    }

    /// Learns whether the backend has closed the connection, also if the event loop has not reported that yet. That costs
    /// a system call. A shared connection learns it from its own task.
    pub fn notice_close(&self) {
        if let PooledConnection::Http1(connection) = self {
            connection.notice_close();
        }
    }

    /// Returns how long connecting took, and zero for a shared connection, which does not know.
    pub fn connect_time(&self) -> Duration {
        match self {
            PooledConnection::Http1(connection) => connection.connect_time(),
            PooledConnection::Http2(_) => Duration::ZERO,
        }
    }

    /// Returns how many of the written bytes the kernel has taken, if the connection is not shared.
    pub fn sent(&self) -> Option<Rc<WriteProgress>> {
        match self {
            PooledConnection::Http1(connection) => Some(connection.sent()),
            PooledConnection::Http2(_) => None,
        }
    }

    /// Whether it is HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self, PooledConnection::Http2(_))
    }

    /// Sends a request and waits for the header section of the response, whose framing is checked. It polls `watch`
    /// meanwhile, which can end the attempt with a fact. Interim responses go to `on_interim`. After a failure the
    /// connection cannot be used again.
    /// [`Http1Connection::send_request`] says why `request` builds the request here.
    ///
    /// # Errors
    /// Why there is no response.
    pub async fn send_request<'r>(
        &mut self,
        request: impl FnOnce() -> OutgoingRequest<'r, B>,
        on_interim: impl FnMut(StatusCode, HeaderMap),
        watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<Response<ReceivedBody>, SendError> {
        match self {
            PooledConnection::Http1(connection) => {
                let response = connection.send_request(request, on_interim, watch).await?;
                Ok(response.map(|()| ReceivedBody::Http1))
            }
            PooledConnection::Http2(permit) => {
                let response = Box::pin(permit.send_request(request().into_http2(), on_interim, watch)).await?;
                Ok(response.map(|body| ReceivedBody::Http2(Box::new(body))))
            }
        }
    }
}

/// The body of a response, as its connection delivers it.
pub enum ReceivedBody {
    /// The connection itself reads it.
    Http1,
    /// A stream of the connection. Boxed, or each response would have room for it: it is moved a dozen times on its way to
    /// the client.
    Http2(Box<StreamBody>),
}

/// A response ended before its body was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncompleteBody {
    /// What that is held against: the response, or nobody if the end of a shared connection has counted already.
    pub blame: Blame,
}

impl IncompleteBody {
    const RESPONSE: IncompleteBody = IncompleteBody { blame: Blame::Response };
}

/// The body of a backend's response. Polling it drives an HTTP/1.1 connection.
pub struct UpstreamBody<B: Body + 'static> {
    body: ReceivedBody,
    connection: PooledConnection<B>,
}

impl<B> UpstreamBody<B>
where
    B: PacedBody<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Wraps the body of a response that arrived on `connection`.
    pub fn new(body: ReceivedBody, connection: PooledConnection<B>) -> UpstreamBody<B> {
        UpstreamBody { body, connection }
    }

    /// Returns the value of the response's field that its connection keeps apart from the others, once. Only HTTP/1.1
    /// connections do.
    pub fn take_kept_apart(&mut self) -> Option<Bytes> {
        match &mut self.connection {
            PooledConnection::Http1(connection) => connection.take_kept_apart(),
            PooledConnection::Http2(_) => None,
        }
    }

    /// Polls for the next frame of the body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, IncompleteBody>>> {
        match (&mut self.body, &mut self.connection) {
            (ReceivedBody::Http2(body), PooledConnection::Http2(permit)) => {
                let poll = Pin::new(body).poll_frame(cx);
                if let Poll::Ready(frame) = &poll {
                    let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                    permit.taken(data.map_or(0, Bytes::len));
                }
                let incomplete = |error: h2::Error| IncompleteBody { blame: permit.blame(&error) };
                poll.map(|frame| frame.map(|frame| frame.map_err(incomplete)))
            }
            (ReceivedBody::Http1, PooledConnection::Http1(connection)) => {
                connection.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(|_| IncompleteBody::RESPONSE)))
            }
            _ => Poll::Ready(Some(Err(IncompleteBody::RESPONSE))),
        }
    }

    /// Is polled instead of [`poll_frame`](Self::poll_frame) while the reader takes nothing. What has arrived of an HTTP/2
    /// stream would otherwise hold the buffers that its connection was read into.
    pub fn hold(&mut self, cx: &mut Context<'_>) {
        if let ReceivedBody::Http2(body) = &mut self.body {
            body.hold(cx);
        }
    }

    /// Whether the backend may send more only for what was taken.
    pub fn is_windowed(&self) -> bool {
        matches!(self.body, ReceivedBody::Http2(_))
    }

    /// Whether the whole body has been read.
    pub fn is_end(&self) -> bool {
        match (&self.body, &self.connection) {
            (ReceivedBody::Http2(body), _) => body.is_end_stream(),
            (ReceivedBody::Http1, PooledConnection::Http1(connection)) => connection.is_end(),
            (ReceivedBody::Http1, PooledConnection::Http2(_)) => false,
        }
    }

    /// Returns how much of the body is left.
    pub fn size_hint(&self) -> SizeHint {
        match (&self.body, &self.connection) {
            (ReceivedBody::Http2(body), _) => body.size_hint(),
            (ReceivedBody::Http1, PooledConnection::Http1(connection)) => connection.size_hint(),
            (ReceivedBody::Http1, PooledConnection::Http2(_)) => SizeHint::default(),
        }
    }

    /// Returns the stream, and the bytes read behind the header section, after a response that switches protocols.
    pub fn into_upgraded(self) -> Option<(Stream, Bytes)> {
        match self.connection {
            PooledConnection::Http1(connection) => connection.into_upgraded(),
            PooledConnection::Http2(_) => None,
        }
    }

    /// Returns the connection after the last frame, if it is not shared and can carry another request.
    pub fn into_reusable(self, cx: &mut Context<'_>) -> Option<Box<Http1Connection<B>>> {
        match self.connection {
            PooledConnection::Http1(mut connection) => connection.is_ready(cx).then_some(connection),
            PooledConnection::Http2(_) => None,
        }
    }
}
