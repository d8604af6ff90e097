//! Owns: one HTTP/2 connection to a backend, which many requests share.
//! Invariant: it carries at most as many streams as the backend and [`MAX_STREAMS`] allow; none stalls or ends another.
//! Must not know: when to give up, which its caller's `watch` decides.

mod keep_alive;
mod nonempty_frames;

use std::cell::Cell;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::rt::Executor;
use tokio::task::JoinHandle;

use super::backend_stream::BackendStream;
use super::failure::{Blame, Fact, Failure, SendError};
use super::framing::settle;
use super::settings::MAX_RESPONSE_HEAD;
use crate::clock;
use crate::http2::{BodySender, PacedBody, StreamBody};
use crate::reason;
use keep_alive::KeepAlive;
use nonempty_frames::NonemptyFrames;

/// The most requests on one connection at once. Most servers allow this many; more would wait for each other.
const MAX_STREAMS: usize = 100;

/// The flow-control window of a stream, in bytes: how much a backend may send ahead of a client that reads slowly. It
/// grows for all streams of a connection that carries a [long](LONG) response: from a distant backend, that takes a round
/// trip for each window. It shrinks again once the connection has no streams.
const WINDOW: u32 = 24 * 1024;
const LARGE_WINDOW: u32 = 32 * 1024;

/// The bytes of a response, taken by its client, from which on it is long: more than a kernel takes for a client that reads
/// nothing, by default 4 MiB on Linux.
const LONG: u64 = 5 * 1024 * 1024;

/// The window of a connection. Streams that nobody reads cannot use it up (RFC 9113 §5.2.1): a quarter more than all
/// streams need is left for streams that were just reset.
const CONNECTION_WINDOW: u32 = LARGE_WINDOW * (MAX_STREAMS as u32 + MAX_STREAMS as u32 / 4);

/// Bytes of a request's body that may wait for the socket: as many as one frame has.
const SEND_BUFFER: usize = 16 * 1024;

/// The largest header section that h2 reads to its end, in bytes. h2 ends the connection for a much larger one, so it must
/// read those that only their own requests may suffer from.
const READ_HEAD: u32 = 4 * MAX_RESPONSE_HEAD as u32;

/// The streams that were just reset whose late frames are ignored, and the stream errors of a whole connection. h2 ends the
/// connection after so many errors. Each frame for a stream that is no longer remembered is one, so with h2's own limits,
/// of 50 and 1024, a client that cancels many responses would end those of others.
const MAX_RESET_STREAMS: usize = 1000;
const MAX_STREAM_ERRORS: usize = 100_000;

/// What h2 takes for the number of streams that the backend allows, until its SETTINGS arrive: no 32-bit number, and not
/// what h2 takes for no limit.
const UNKNOWN: usize = usize::MAX - 1;

/// An HTTP/2 connection. Its clones share it.
#[derive(Clone)]
pub struct Http2Connection {
    sender: SendRequest<Bytes>,
    state: Rc<ConnectionState>,
}

/// The permission to have one request on the connection. Dropping it frees the stream for another request.
pub struct StreamPermit {
    connection: Http2Connection,
    /// The bytes of the response's body that were taken.
    taken: u64,
    /// Sends the rest of the request's body after the response has begun, and ends with the permit.
    upload: Option<JoinHandle<()>>,
}

struct ConnectionState {
    active_streams: Cell<usize>,
    is_used: Cell<bool>,
    /// Whether it accepts no new requests.
    is_retired: Cell<bool>,
    /// Whether a request was told that the connection has ended.
    has_failed: Cell<bool>,
    /// Whether its backend may hang: it has not acknowledged a PING yet.
    is_doubtful: Rc<Cell<bool>>,
    /// Whether it carries a long response.
    has_long: Cell<bool>,
    /// When the last request ended.
    idle_since: Cell<Instant>,
    /// When a response was last seen to make progress.
    last_heard: Rc<Cell<Instant>>,
}

/// Spawns each future of hyper's HTTP/2 client, which probes use, as a task on this thread.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        drop(tokio::task::spawn_local(future));
    }
}

impl Http2Connection {
    /// Begins HTTP/2 on a stream.
    ///
    /// h2 would end a connection on which many small DATA frames wait for their readers. One page can cause that, and
    /// [`StreamBody::hold`] keeps what waits small.
    pub(super) async fn handshake(stream: BackendStream) -> Result<Http2Connection, h2::Error> {
        let mut http = h2::client::Builder::new();
        http.initial_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(READ_HEAD)
            .data_frame_budget(usize::MAX)
            .max_concurrent_reset_streams(MAX_RESET_STREAMS)
            .max_local_error_reset_streams(Some(MAX_STREAM_ERRORS))
            .initial_max_send_streams(UNKNOWN)
            .enable_push(false);
        let (sender, mut connection) = http.handshake(NonemptyFrames::new(stream)).await?;
        // The backend's SETTINGS come first (RFC 9113 §3.4). Without them a burst of requests would take more streams than
        // it allows, and those that it refuses could leave it for another backend.
        std::future::poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(end) => Poll::Ready(end.and(Err(h2::Error::from(Reason::NO_ERROR)))),
            Poll::Pending if sender.current_max_send_streams() == UNKNOWN => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await?;
        let (last_heard, is_doubtful) = (Rc::new(Cell::new(clock::now())), Rc::new(Cell::new(false)));
        let mut keep_alive = KeepAlive::new(connection.ping_pong(), Rc::clone(&last_heard), Rc::clone(&is_doubtful));
        let state = Rc::new(ConnectionState {
            active_streams: Cell::new(0),
            is_used: Cell::new(false),
            is_retired: Cell::new(false),
            has_failed: Cell::new(false),
            is_doubtful,
            has_long: Cell::new(false),
            idle_since: Cell::new(clock::now()),
            last_heard,
        });
        let driver = Rc::clone(&state);
        let mut window = WINDOW;
        // Each of its requests is told how it ended.
        tokio::task::spawn_local(std::future::poll_fn(move |cx| {
            let wanted = driver.window();
            // It fails until the backend has acknowledged the last change.
            if wanted != window && connection.set_initial_window_size(wanted).is_ok() {
                window = wanted;
            }
            let is_lost = keep_alive.poll_lost(cx, driver.active_streams.get() > 0).is_ready();
            let has_ended = is_lost || Pin::new(&mut connection).poll(cx).is_ready();
            if !has_ended {
                return Poll::Pending;
            }
            driver.is_retired.set(true);
            Poll::Ready(())
        }));
        Ok(Http2Connection { sender, state })
    }

    /// Takes a permit for one more request, if the connection has a free stream.
    pub(super) fn try_acquire(&self) -> Option<StreamPermit> {
        let is_usable = self.is_open() && !self.state.is_doubtful.get();
        (is_usable && self.state.active_streams.get() < self.max_streams()).then(|| {
            self.state.active_streams.set(self.state.active_streams.get() + 1);
            StreamPermit { connection: self.clone(), taken: 0, upload: None }
        })
    }

    /// Whether it accepts requests but has no free stream now.
    pub(super) fn is_full(&self) -> bool {
        let max_streams = self.max_streams();
        self.is_open() && max_streams > 0 && self.state.active_streams.get() >= max_streams
    }

    /// Returns the most requests at once that the backend allows.
    fn max_streams(&self) -> usize {
        self.sender.current_max_send_streams().min(MAX_STREAMS)
    }

    fn is_open(&self) -> bool {
        !self.state.is_retired.get() && !self.refuses()
    }

    /// Returns how a request has failed. It `is_begun` if the connection has taken it.
    fn failed(&self, error: &h2::Error, is_begun: bool) -> SendError {
        let is_malformed = error.is_library() && self.is_of_stream(error);
        let sent = is_begun && !is_unprocessed(error);
        let fact = if is_malformed { Fact::Garbage } else { Fact::Closed };
        let detail = (!is_malformed).then(|| reason::Reason::of(error));
        let failure = Failure::new(fact, sent).with_detail(detail).blamed_on(self.blame(error));
        SendError { failure, has_received: is_malformed }
    }

    /// Returns what the failure of a stream is held against: never the backend itself. A client that sends many requests
    /// at once can cause a refused stream, and one page the end of a connection, which the requests of many clients share.
    /// So that end counts once.
    fn blame(&self, error: &h2::Error) -> Blame {
        if self.is_of_stream(error) {
            return Blame::Response;
        }
        // Requests already on it may still get their responses; new requests use another connection.
        self.state.is_retired.set(true);
        if self.state.has_failed.replace(true) { Blame::Nobody } else { Blame::Response }
    }

    /// Whether an error has ended its stream alone. h2 reports a malformed response as if it had ended the connection.
    fn is_of_stream(&self, error: &h2::Error) -> bool {
        error.is_reset() || (error.is_library() && error.is_go_away() && !self.refuses())
    }

    /// Whether h2 takes no more requests: the connection has failed, or the backend has sent GOAWAY.
    fn refuses(&self) -> bool {
        let polled = self.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(polled, Poll::Ready(Err(_)))
    }

    /// Whether it accepts requests, and had one within `idle`.
    pub(super) fn is_worth_keeping(&self, idle: Duration, now: Instant) -> bool {
        let state = &self.state;
        let is_idle = state.active_streams.get() == 0 && now.saturating_duration_since(state.idle_since.get()) >= idle;
        self.is_open() && !is_idle
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        // The response has ended, or nobody wants it. A body that its client never ends would keep the stream: a hundred
        // of those, and no other request gets one.
        if let Some(upload) = &self.upload {
            upload.abort();
        }
        let state = &self.connection.state;
        state.active_streams.set(state.active_streams.get().saturating_sub(1));
        if state.active_streams.get() == 0 {
            state.has_long.set(false);
        }
        state.idle_since.set(clock::now());
    }
}

impl StreamPermit {
    /// Whether the connection has carried a request before. The backend may have closed it since, which is not an
    /// error.
    pub(super) fn is_used(&self) -> bool {
        self.connection.state.is_used.get()
    }

    /// Returns what the end of a response that broke off is held against.
    pub(super) fn blame(&self, error: &h2::Error) -> Blame {
        self.connection.blame(error)
    }

    /// Notes that the client has taken `bytes` more of the response.
    pub(super) fn taken(&mut self, bytes: usize) {
        self.connection.state.last_heard.set(clock::now());
        self.taken += bytes as u64;
        if self.taken >= LONG {
            self.connection.state.has_long.set(true);
        }
    }

    /// Sends a request and waits for the header section of the response, whose framing is checked. It polls `watch`
    /// meanwhile, which can end the attempt with a fact; the stream is then reset, which says nothing about the
    /// connection: PING finds out whether the backend is still there. Interim responses go to `on_interim`.
    ///
    /// # Errors
    /// Why there is no response.
    pub(super) async fn send_request<B>(
        &mut self,
        request: Request<B>,
        mut on_interim: impl FnMut(StatusCode, HeaderMap),
        mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<Response<StreamBody>, SendError>
    where
        B: PacedBody<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let StreamPermit { connection, upload: rest, .. } = self;
        let mut watched = |cx: &mut Context<'_>, sent: bool| {
            watch(cx).map(|fact| SendError { failure: Failure::new(fact, sent), has_received: false })
        };
        let ready = std::future::poll_fn(|cx| match connection.sender.poll_ready(cx) {
            Poll::Ready(ready) => Poll::Ready(ready.map_err(|error| connection.failed(&error, false))),
            Poll::Pending => watched(cx, false).map(Err),
        });
        ready.await?;
        let (head, body) = request.into_parts();
        let mut head = Request::from_parts(head, ());
        announce_length(&mut head, &body);
        let sent = connection.sender.send_request(head, body.is_end_stream());
        let (mut response, stream) = sent.map_err(|error| connection.failed(&error, false))?;
        // Dropped before it is done, it resets the stream.
        let mut upload = (!body.is_end_stream()).then(|| BodySender::new(body, stream, Reason::CANCEL));
        let result = std::future::poll_fn(|cx| {
            if upload.as_mut().is_some_and(|upload| Pin::new(upload).poll(cx).is_ready()) {
                upload = None;
            }
            while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
                let (head, ()) = interim.into_parts();
                connection.state.last_heard.set(clock::now());
                on_interim(head.status, head.headers);
            }
            match Pin::new(&mut response).poll(cx) {
                Poll::Ready(response) => Poll::Ready(response.map_err(|error| connection.failed(&error, true))),
                Poll::Pending => watched(cx, true).map(Err),
            }
        })
        .await;
        connection.state.is_used.set(true);
        let response = result?;
        // It continues while the client does not read the response.
        *rest = upload.map(tokio::task::spawn_local);
        connection.state.receive(response)
    }
}

impl ConnectionState {
    /// Returns the window that its streams shall have.
    fn window(&self) -> u32 {
        if self.has_long.get() { LARGE_WINDOW } else { WINDOW }
    }

    /// Checks the framing of a response.
    fn receive(&self, response: Response<RecvStream>) -> Result<Response<StreamBody>, SendError> {
        self.last_heard.set(clock::now());
        let (mut head, stream) = response.into_parts();
        let size: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let is_too_large = size > MAX_RESPONSE_HEAD;
        let settled = if is_too_large { Err(Fact::HeadTooLarge) } else { settle(&mut head.headers) };
        let settled = settled.map_err(|fact| SendError { failure: Failure::new(fact, true), has_received: true })?;
        Ok(Response::from_parts(head, StreamBody::new(stream, settled.length)))
    }
}

/// Announces the length of a body, if it is known and the request does not announce it yet. A request by a method for
/// which a body has no meaning announces none of 0 bytes.
fn announce_length<B: Body>(head: &mut Request<()>, body: &B) {
    let has_no_meaning = matches!(*head.method(), Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT);
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0 || !has_no_meaning) {
        head.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}

/// Whether the backend states that it has not processed the request (RFC 9113 §8.7): it refused the stream, or its
/// GOAWAY, for whatever reason, names an earlier stream as the last. h2 reports a GOAWAY to those streams alone.
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}
