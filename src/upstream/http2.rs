//! Owns: one connection of HTTP/2 to a backend, which many requests share.
//! Invariant: as many requests at once as the backend allows and no more than [`MAX_STREAMS`]; none of them stalls or ends the others.
//! Must not know: when to give up (its caller's `watch` says so).

use std::cell::Cell;
use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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

/// Requests on one connection at once. What most servers allow; more of them wait for each other.
const MAX_STREAMS: usize = 100;

/// Bytes that a backend may send ahead of a client that reads slowly, a stream and a connection. Streams
/// that nobody reads can't use up the connection's (RFC 9113 §5.2.1): there is always a quarter left,
/// for those that were just taken back.
const STREAM_WINDOW: u32 = 32 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (MAX_STREAMS as u32 + MAX_STREAMS as u32 / 4);

/// Bytes of a request's body from which on no more wait for a backend that reads slowly.
const SEND_BUFFER: usize = 4 * 1024;

/// How often a backend that owes answers and is silent is asked whether it is there, and how long
/// it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The connection, as those find it who want to send a request on it.
pub struct Http2Connection<B: Body + 'static> {
    sender: http2::SendRequest<B>,
    state: Rc<ConnectionState>,
}

/// One request's place on it.
pub struct StreamPermit<B: Body + 'static> {
    connection: Http2Connection<B>,
}

struct ConnectionState {
    /// Requests at once, as the backend has said.
    max_streams: Cell<usize>,
    active_streams: Cell<usize>,
    is_used: Cell<bool>,
    /// It takes no new requests.
    is_retired: Cell<bool>,
    /// When its last request ended.
    idle_since: Cell<Instant>,
}

/// A task for each future of hyper's, on this thread.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        drop(tokio::task::spawn_local(future));
    }
}

impl<B> Http2Connection<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
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
            // How it ended reaches each of its requests.
            end.map(drop)
        }));
        Ok(Http2Connection { sender, state })
    }

    /// A place for one more request, if there is one.
    pub(super) fn try_acquire(&self) -> Option<StreamPermit<B>> {
        (self.is_open() && self.state.active_streams.get() < self.state.max_streams.get()).then(|| {
            self.state.active_streams.set(self.state.active_streams.get() + 1);
            StreamPermit { connection: self.clone() }
        })
    }

    /// Whether it would take a request, if it had fewer.
    pub(super) fn is_full(&self) -> bool {
        let ConnectionState { max_streams, active_streams, .. } = &*self.state;
        self.is_open() && max_streams.get() > 0 && active_streams.get() >= max_streams.get()
    }

    fn is_open(&self) -> bool {
        !self.state.is_retired.get() && !self.sender.is_closed()
    }

    /// Whether it is worth keeping: it takes requests, and had one within `idle`.
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
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Whether the connection has served before. The backend may have closed it meanwhile, for no
    /// fault.
    pub(super) fn is_used(&self) -> bool {
        self.connection.state.is_used.get()
    }

    /// Sends a request and waits for the head of the response. `watch` is polled all the while and
    /// can end the exchange with a fact.
    ///
    /// # Errors
    /// Why there is no response, and the request if it was not even begun.
    #[expect(clippy::result_large_err, reason = "it carries the request home, which has been in this frame all along")]
    pub(super) async fn send_request(
        &mut self,
        request: Request<B>,
        mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<Response<Incoming>, SendError<B>> {
        let Http2Connection { sender, state } = &mut self.connection;
        let mut response = pin!(sender.try_send_request(request));
        let result = std::future::poll_fn(|cx| match response.as_mut().poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
            Poll::Ready(Err(mut error)) => {
                let request = error.take_message();
                if !is_stream_error(error.error()) {
                    // Those who have their place on it may yet be answered; what is new goes on another.
                    state.is_retired.set(true);
                }
                let sent = request.is_none() && !is_unprocessed(error.error());
                let failure = Failure::new(Fact::of(error.error()), sent).with_detail(Some(Reason::of(error.error())));
                // Whoever sends many requests at once can have a stream refused.
                let failure =
                    if failure.blame == Blame::Backend { failure.blamed_on(Blame::Response) } else { failure };
                Poll::Ready(Err(SendError { failure, has_received: false, request }))
            }
            Poll::Pending => watch(cx)
                .map(|fact| Err(SendError { failure: Failure::new(fact, true), has_received: false, request: None })),
        })
        .await;
        state.is_used.set(true);
        // What ends by `watch` is taken back, and says nothing of the connection: whether that is still
        // there is asked by PING_INTERVAL.
        result
    }
}

/// Whether a request alone has failed, and not the connection: a side has ended the stream, or the body
/// to be sent has ended with an error.
fn is_stream_error(error: &hyper::Error) -> bool {
    let sources = std::iter::successors(error.source(), |error| (*error).source());
    error.is_user() || sources.filter_map(|error| error.downcast_ref::<h2::Error>()).any(h2::Error::is_reset)
}

/// Whether the backend says that it has done nothing with the request (RFC 9113 §8.7): it refused
/// the stream, or was about to close and names an earlier one as its last.
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
