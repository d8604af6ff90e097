//! Owns: one HTTP/2 connection to a backend, which many requests share.
//! Invariant: it carries at most as many streams as the backend and [`MAX_STREAMS`] allow; none stalls or ends another.
//! Must not know: when to give up, which its caller's `watch` decides.

use std::cell::Cell;
use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::TokioTimer;

use super::backend_stream::BackendIo;
use super::failure::{Blame, Fact, Failure, SendError};
use super::settings::MAX_RESPONSE_HEAD;
use crate::clock;
use crate::reason::Reason;

/// The most requests on one connection at once. Most servers allow this many; more would wait for each other.
const MAX_STREAMS: usize = 100;

/// The flow-control windows, in bytes: how much a backend may send ahead of clients that read slowly, per stream and
/// per connection. Streams that nobody reads cannot use up the connection's window (RFC 9113 §5.2.1): a quarter more
/// than all streams need is left for streams that were just reset.
const STREAM_WINDOW: u32 = 32 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (MAX_STREAMS as u32 + MAX_STREAMS as u32 / 4);

/// Bytes of a request's body that may wait for a backend that reads slowly.
const SEND_BUFFER: usize = 4 * 1024;

/// How often to send a PING to a backend that owes responses and is silent, and how long it may take to acknowledge it.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// An HTTP/2 connection. Its clones share it.
pub struct Http2Connection<B: Body + 'static> {
    sender: http2::SendRequest<B>,
    state: Rc<ConnectionState>,
}

/// The permission to have one request on the connection. Dropping it frees the stream for another request.
pub struct StreamPermit<B: Body + 'static> {
    connection: Http2Connection<B>,
}

struct ConnectionState {
    /// The most requests at once that the backend allows.
    max_streams: Cell<usize>,
    active_streams: Cell<usize>,
    is_used: Cell<bool>,
    /// Whether it accepts no new requests.
    is_retired: Cell<bool>,
    /// When the last request ended.
    idle_since: Cell<Instant>,
}

/// Spawns each of hyper's futures as a task on this thread.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        drop(tokio::task::spawn_local(future));
    }
}

impl<B> Http2Connection<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Begins HTTP/2 on a stream.
    pub(super) async fn handshake(io: BackendIo) -> Result<Http2Connection<B>, hyper::Error> {
        let mut http = http2::Builder::new(LocalExecutor);
        http.initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_RESPONSE_HEAD as u32)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL);
        let (sender, mut connection) = http.handshake(io).await?;
        let state = Rc::new(ConnectionState {
            max_streams: Cell::new(MAX_STREAMS),
            active_streams: Cell::new(0),
            is_used: Cell::new(false),
            is_retired: Cell::new(false),
            idle_since: Cell::new(clock::now()),
        });
        let driver = Rc::clone(&state);
        tokio::task::spawn_local(std::future::poll_fn(move |cx| {
            let end = Pin::new(&mut connection).poll(cx);
            driver.max_streams.set(connection.current_max_send_streams().min(MAX_STREAMS));
            // hyper reports how it ended to each of its requests.
            end.map(drop)
        }));
        Ok(Http2Connection { sender, state })
    }

    /// Takes a permit for one more request, if the connection has a free stream.
    pub(super) fn try_acquire(&self) -> Option<StreamPermit<B>> {
        (self.is_open() && self.state.active_streams.get() < self.state.max_streams.get()).then(|| {
            self.state.active_streams.set(self.state.active_streams.get() + 1);
            StreamPermit { connection: self.clone() }
        })
    }

    /// Whether it accepts requests but has no free stream now.
    pub(super) fn is_full(&self) -> bool {
        let ConnectionState { max_streams, active_streams, .. } = &*self.state;
        self.is_open() && max_streams.get() > 0 && active_streams.get() >= max_streams.get()
    }

    fn is_open(&self) -> bool {
        !self.state.is_retired.get() && !self.sender.is_closed()
    }

    /// Whether it accepts requests, and had one within `idle`.
    pub(super) fn is_worth_keeping(&self, idle: Duration, now: Instant) -> bool {
        let state = &self.state;
        let is_idle = state.active_streams.get() == 0 && now.saturating_duration_since(state.idle_since.get()) >= idle;
        self.is_open() && !is_idle
    }
}

impl<B: Body + 'static> Clone for Http2Connection<B> {
    fn clone(&self) -> Http2Connection<B> {
        Http2Connection { sender: self.sender.clone(), state: Rc::clone(&self.state) }
    }
}

impl<B: Body + 'static> Drop for StreamPermit<B> {
    fn drop(&mut self) {
        let state = &self.connection.state;
        state.active_streams.set(state.active_streams.get().saturating_sub(1));
        state.idle_since.set(clock::now());
    }
}

impl<B> StreamPermit<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Whether the connection has carried a request before. The backend may have closed it since, which is not an
    /// error.
    pub(super) fn is_used(&self) -> bool {
        self.connection.state.is_used.get()
    }

    /// Sends a request and waits for the header section of the response. It polls `watch` meanwhile, which can end the
    /// attempt with a fact.
    ///
    /// # Errors
    /// Why there is no response.
    pub(super) async fn send_request(
        &mut self,
        request: Request<B>,
        mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<Response<Incoming>, SendError> {
        let Http2Connection { sender, state } = &mut self.connection;
        let mut response = pin!(sender.try_send_request(request));
        let result = std::future::poll_fn(|cx| match response.as_mut().poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
            Poll::Ready(Err(mut error)) => {
                let is_begun = error.take_message().is_none();
                if !is_stream_error(error.error()) {
                    // Requests already on it may still get their responses; new requests use another connection.
                    state.is_retired.set(true);
                }
                let sent = is_begun && !is_unprocessed(error.error());
                let failure = Failure::new(Fact::of(error.error()), sent).with_detail(Some(Reason::of(error.error())));
                // A client that sends many requests at once can cause a refused stream, so the backend is not blamed.
                let failure =
                    if failure.blame == Blame::Backend { failure.blamed_on(Blame::Response) } else { failure };
                Poll::Ready(Err(SendError { failure, has_received: false }))
            }
            Poll::Pending => {
                watch(cx).map(|fact| Err(SendError { failure: Failure::new(fact, true), has_received: false }))
            }
        })
        .await;
        state.is_used.set(true);
        // When `watch` ends the attempt, hyper resets the stream. That says nothing about the connection; PING finds
        // out whether the backend is still there.
        result
    }
}

/// Whether only the request has failed, and not the connection: a peer reset the stream, or the request body ended with
/// an error.
fn is_stream_error(error: &hyper::Error) -> bool {
    let sources = std::iter::successors(error.source(), |error| (*error).source());
    error.is_user() || sources.filter_map(|error| error.downcast_ref::<h2::Error>()).any(h2::Error::is_reset)
}

/// Whether the backend states that it has not processed the request (RFC 9113 §8.7): it refused the stream, or its
/// GOAWAY names an earlier stream as the last.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_graceful_shutdown = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            return error.is_remote() && (is_graceful_shutdown || error.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = error.source();
    }
    false
}
