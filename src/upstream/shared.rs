//! Owns: one connection of HTTP/2 to a backend, which many requests share.
//! Invariant: as many requests at once as the backend allows and no more than [`STREAMS`]; none of them stalls or ends the others.
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

use super::connect::MAX_HEAD;
use super::failure::{Blame, Fact, Failure};
use super::io::Io;
use super::wire::Unanswered;
use crate::clock;
use crate::reason::Reason;

/// Requests on one connection at once. What most servers allow; more of them wait for each other.
const STREAMS: usize = 100;

/// Bytes that a backend may send ahead of a client that reads slowly, a stream and a connection. Streams
/// that nobody reads can't use up the connection's (RFC 9113 §5.2.1): there is always a quarter left,
/// for those that were just taken back.
const STREAM_WINDOW: u32 = 32 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (STREAMS as u32 + STREAMS as u32 / 4);

/// Bytes of a request's body from which on no more wait for a backend that reads slowly.
const SEND_BUFFER: usize = 4 * 1024;

/// How often a backend that owes answers and is silent is asked whether it is there, and how long
/// it may take to say so.
const PING: Duration = Duration::from_secs(10);

/// The connection, as those find it who want to send a request on it.
pub struct Shared<B: Body + 'static> {
    sender: http2::SendRequest<B>,
    state: Rc<State>,
}

/// One request's place on it.
pub struct Place<B: Body + 'static> {
    connection: Shared<B>,
}

struct State {
    /// Requests at once, as the backend has said.
    most: Cell<usize>,
    requests: Cell<usize>,
    is_used: Cell<bool>,
    /// It takes no new requests.
    is_retired: Cell<bool>,
    /// When its last request ended.
    quiet_since: Cell<Instant>,
}

/// A task for each future of hyper's, on this thread.
#[derive(Debug, Clone, Copy)]
pub struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        drop(tokio::task::spawn_local(future));
    }
}

impl<B> Shared<B>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Begins HTTP/2 on a stream.
    pub(super) async fn begin(io: Io) -> Result<Shared<B>, hyper::Error> {
        let mut http = http2::Builder::new(Local);
        http.initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEAD as u32)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        let (sender, mut connection) = http.handshake(io).await?;
        let state = Rc::new(State {
            most: Cell::new(STREAMS),
            requests: Cell::new(0),
            is_used: Cell::new(false),
            is_retired: Cell::new(false),
            quiet_since: Cell::new(clock::now()),
        });
        let driven = Rc::clone(&state);
        tokio::task::spawn_local(std::future::poll_fn(move |cx| {
            let end = Pin::new(&mut connection).poll(cx);
            driven.most.set(connection.current_max_send_streams().min(STREAMS));
            // How it ended reaches each of its requests.
            end.map(drop)
        }));
        Ok(Shared { sender, state })
    }

    /// A place for one more request, if there is one.
    pub(super) fn place(&self) -> Option<Place<B>> {
        (self.is_open() && self.state.requests.get() < self.state.most.get()).then(|| {
            self.state.requests.set(self.state.requests.get() + 1);
            Place { connection: self.clone() }
        })
    }

    /// Whether it would take a request, if it had fewer.
    pub(super) fn is_full(&self) -> bool {
        let State { most, requests, .. } = &*self.state;
        self.is_open() && most.get() > 0 && requests.get() >= most.get()
    }

    fn is_open(&self) -> bool {
        !self.state.is_retired.get() && !self.sender.is_closed()
    }

    /// Whether it is worth keeping: it takes requests, and had one within `idle`.
    pub(super) fn is_worth_keeping(&self, idle: Duration, now: Instant) -> bool {
        let state = &self.state;
        let is_quiet = state.requests.get() == 0 && now.saturating_duration_since(state.quiet_since.get()) >= idle;
        self.is_open() && !is_quiet
    }
}

impl<B: Body + 'static> Clone for Shared<B> {
    fn clone(&self) -> Shared<B> {
        Shared { sender: self.sender.clone(), state: Rc::clone(&self.state) }
    }
}

impl<B: Body + 'static> Drop for Place<B> {
    fn drop(&mut self) {
        let state = &self.connection.state;
        state.requests.set(state.requests.get().saturating_sub(1));
        state.quiet_since.set(clock::now());
    }
}

impl<B> Place<B>
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
    pub(super) async fn exchange(
        &mut self,
        request: Request<B>,
        mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<Response<Incoming>, Unanswered<B>> {
        let Shared { sender, state } = &mut self.connection;
        let mut response = pin!(sender.try_send_request(request));
        let result = std::future::poll_fn(|cx| match response.as_mut().poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
            Poll::Ready(Err(mut error)) => {
                let request = error.take_message();
                if !is_of_stream(error.error()) {
                    // Those who have their place on it may yet be answered; what is new goes on another.
                    state.is_retired.set(true);
                }
                let sent = request.is_none() && !is_untouched(error.error());
                let failure = Failure::new(Fact::of(error.error()), sent).said(Some(Reason::of(error.error())));
                // Whoever sends many requests at once can have a stream refused.
                let failure = if failure.blame == Blame::Backend { failure.blamed_on(Blame::Answer) } else { failure };
                Poll::Ready(Err(Unanswered { failure, is_heard: false, request }))
            }
            Poll::Pending => watch(cx)
                .map(|fact| Err(Unanswered { failure: Failure::new(fact, true), is_heard: false, request: None })),
        })
        .await;
        state.is_used.set(true);
        // What ends by `watch` is taken back, and says nothing of the connection: whether that is still
        // there is asked by PING.
        result
    }
}

/// Whether a request alone has failed, and not the connection: a side has ended the stream, or the body
/// to be sent has ended with an error.
fn is_of_stream(error: &hyper::Error) -> bool {
    let sources = std::iter::successors(error.source(), |error| (*error).source());
    error.is_user() || sources.filter_map(|error| error.downcast_ref::<h2::Error>()).any(h2::Error::is_reset)
}

/// Whether the backend says that it has done nothing with the request (RFC 9113 §8.7): it refused
/// the stream, or was about to close and names an earlier one as its last.
fn is_untouched(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_last_word = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            return error.is_remote() && (is_last_word || error.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = error.source();
    }
    false
}
