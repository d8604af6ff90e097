//! Owns: one connection to a backend and the exchange on it.
//! Invariant: whoever waits for the response drives the connection: no task of its own, no wake-up between two.
//! Must not know: other connections; when to give up (its caller's `watch` says so).

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;

use super::connect::Io;
use super::failure::{Fact, Failure};
use crate::net::Stream;

/// A connection to a backend. hyper gives a handle that sends and a future that moves the bytes;
/// here both lie side by side and are polled by the request's own task. With a task for the
/// future each request costs two wake-ups more.
pub struct Wire<B: Body + 'static> {
    sender: http1::SendRequest<B>,
    /// `None` once it has ended. Only dropping it gives back a request that it never took up: a
    /// future that has ended and is kept leaves whoever waits for that request waiting.
    connection: Option<http1::Connection<Io, B>>,
    /// What is left of the connection after a response that says another protocol begins.
    switched: Option<(Stream, Bytes)>,
    written: Rc<Cell<u64>>,
    exchanges: u64,
}

/// A request that failed on a wire.
pub struct Unanswered<B> {
    /// Why.
    pub failure: Failure,
    /// The request, if it was not taken from the wire's queue: it can be sent elsewhere as it is.
    pub request: Option<Request<B>>,
}

impl<B> Wire<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) fn new(
        sender: http1::SendRequest<B>,
        connection: http1::Connection<Io, B>,
        written: Rc<Cell<u64>>,
    ) -> Wire<B> {
        Wire { sender, connection: Some(connection), switched: None, written, exchanges: 0 }
    }

    /// Whether it has served before. The backend may have closed it meanwhile, for no fault.
    pub fn is_used(&self) -> bool {
        self.exchanges > 0
    }

    /// Sends a request and waits for the head of the response. `watch` is polled all the while and
    /// can end the exchange with a fact. After a failure the wire is good for nothing.
    ///
    /// # Errors
    /// Why there is no response, and the request if it was not even begun.
    #[expect(clippy::result_large_err, reason = "it carries the request home, which has been in this frame all along")]
    pub async fn exchange(
        &mut self,
        request: Request<B>,
        mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<Response<Incoming>, Unanswered<B>> {
        let before = self.written.get();
        self.exchanges += 1;
        let mut response = std::pin::pin!(self.sender.try_send_request(request));
        // What is written is read off before the answer to a failure is made, not after.
        let result = std::future::poll_fn(|cx| {
            drive(&mut self.connection, &mut self.switched, cx);
            // Only the connection can bring the response, and it was just polled with the task's
            // own waker: a waker here would wake the task that is running.
            match response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(mut error)) => {
                    let request = error.take_message();
                    Poll::Ready(Err((Fact::of(error.error()), request)))
                }
                Poll::Pending => watch(cx).map(|fact| Err((fact, None))),
            }
        })
        .await;
        result.map_err(|(fact, request)| {
            let sent = self.written.get() != before;
            Unanswered { failure: Failure { fact, sent }, request }
        })
    }

    /// Moves what can be moved.
    fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.connection, &mut self.switched, cx);
    }

    /// Whether the next request can be sent: the last exchange has ended cleanly on both sides.
    pub fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// Moves what can be moved. A connection that ends well with its response on the way has switched.
fn drive<B>(
    connection: &mut Option<http1::Connection<Io, B>>,
    switched: &mut Option<(Stream, Bytes)>,
    cx: &mut Context<'_>,
) where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // How it ended reaches whoever waits for the response or its body.
    if let Some(driven) = connection
        && let Poll::Ready(result) = Pin::new(driven).poll(cx)
        && let (Some(ended), Ok(())) = (connection.take(), result)
    {
        let parts = ended.into_parts();
        *switched = Some((parts.io.into_stream(), parts.read_buf));
    }
}

/// The body of a response, which drives the wire that it comes from.
pub struct Received<B: Body + 'static> {
    body: Incoming,
    wire: Option<Box<Wire<B>>>,
}

impl<B> Received<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// The rest of a response whose head came from `wire`.
    pub fn new(body: Incoming, wire: Box<Wire<B>>) -> Received<B> {
        Received { body, wire: Some(wire) }
    }

    /// The next frame of the body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let quiet = &mut Context::from_waker(Waker::noop());
        // As in `exchange`: frames come from the connection alone, and that has the task's waker.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(quiet) {
            return Poll::Ready(frame);
        }
        if let Some(wire) = &mut self.wire {
            wire.drive(cx);
        }
        Pin::new(&mut self.body).poll_frame(quiet)
    }

    /// Whether all of the body has been given out.
    pub fn is_end(&self) -> bool {
        self.body.is_end_stream()
    }

    /// After the head of a response that says another protocol begins: the connection, and what was
    /// read of it behind the head. `None` if the backend has gone since.
    pub fn into_switched(mut self, cx: &mut Context<'_>) -> Option<(Stream, Bytes)> {
        let mut wire = self.wire.take()?;
        wire.drive(cx);
        wire.switched
    }

    /// How much is left of it.
    pub fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// After the last frame: the wire, if it can serve again.
    pub fn into_ready(mut self, cx: &mut Context<'_>) -> Option<Box<Wire<B>>> {
        let mut wire = self.wire.take()?;
        wire.is_ready(cx).then_some(wire)
    }
}
