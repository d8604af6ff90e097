//! Owns: one client connection of HTTP/2: its streams, its idle timeout, and its protection against floods.
//! Invariant: a client that reads nothing or floods loses its stream or connection, and harms no other client.
//! Must not know: what the handler does with a request.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Handshake, SendResponse};
use http::Request;
use hyper_util::rt::TokioIo;

use super::activity::Activity;
use super::conn_context::ConnContext;
use super::conn_timeouts::{self, Next};
use super::delivery::CountedChunk;
use super::http2_stream::{self, StallLimit};
use super::io::Io;
use super::service::Requests;
use super::settings::Limits;
use crate::clock;
use crate::handler::{Handler, Interim};
use crate::net::Stream;
use crate::net::interim::StreamInterim;

/// The most streams of a connection at once; nginx and HAProxy allow as many.
const MAX_STREAMS: u32 = 100;

/// The flow-control windows in bytes (RFC 9113 §5.2): what a client may send ahead of a slow backend, on a stream and
/// on the connection. Streams that no backend reads can't use up the connection's window: a quarter of it is left for
/// streams that were just reset. With a larger window a distant client could upload faster, but each stalled stream
/// would cost as much.
const STREAM_WINDOW: u32 = 32 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (MAX_STREAMS + MAX_STREAMS / 4);

/// The most bytes of a stream that wait for the socket: as many as one frame has.
const SEND_BUFFER: usize = 16 * 1024;

/// Serves one connection until it ends.
pub(super) async fn serve<H: Handler>(stream: Stream, client: Rc<H::Client>, context: Rc<ConnContext<H>>) {
    let activity = Activity::http2();
    let requests = Requests::new(&context, client, Rc::clone(&activity));
    let io = TokioIo::new(Io::new(stream, Bytes::new(), &activity));
    let handshake = Box::new(builder(&context.limits).handshake(io));
    let mut connection = Connection::Begun { handshake, is_ending: false };
    let timer = context.clock.deadline();
    timer.set_after(conn_timeouts::PARK_AFTER);
    let mut is_retiring = false;
    let mut goaway_since = None;
    poll_fn(|cx| {
        loop {
            is_retiring |= requests.is_last();
            is_retiring |= context.shutdown.is_announced() && activity.requests() > 0;
            let state = activity.http2_state(goaway_since);
            let drain_end = context.shutdown.idle_deadline(state.idle_since);
            is_retiring |= drain_end.is_some_and(|end| end <= clock::now());
            if is_retiring && goaway_since.is_none() {
                goaway_since = Some(clock::now());
                connection.shut_down();
            }
            let accept = |request, respond| {
                let (request, rules) = http2_stream::split(request);
                let limit = StallLimit {
                    backlog: Rc::default(),
                    timer: context.clock.deadline(),
                    timeout: context.limits.idle_timeout,
                };
                let interim = Rc::<StreamInterim>::default();
                let handling =
                    requests.handle(request, Some(Interim::Http2(Rc::clone(&interim))), |reply, guard| (reply, guard));
                let stream = http2_stream::serve(handling, respond, interim, rules, limit);
                drop(tokio::task::spawn_local(stream));
            };
            if connection.poll(cx, accept).is_ready() {
                return Poll::Ready(());
            }
            // h2 returns `Pending` only if it has written everything, or the client accepts no more.
            if !activity.is_blocked() {
                activity.flushed();
            }
            if timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let state = activity.http2_state(goaway_since);
            match conn_timeouts::next_http2(state, clock::now(), &context.limits) {
                // A client that has just connected would only be turned away, and connect again: GOAWAY waits for its
                // first request, but not for longer than other connections are waited for.
                Next::Wait(at) => timer.set(drain_end.filter(|_| !is_retiring).map_or(at, |end| at.min(end))),
                Next::Park => {
                    is_retiring = true;
                    timer.set_after(conn_timeouts::PARK_AFTER);
                }
                Next::Abort | Next::HeadTimeout => return Poll::Ready(()),
            }
        }
    })
    .await;
}

type ClientIo = TokioIo<Io>;

/// A connection that reads the client's preface, or serves its streams.
enum Connection {
    Begun {
        handshake: Box<Handshake<ClientIo, CountedChunk>>,
        /// Whether it is to be shut down once it serves.
        is_ending: bool,
    },
    Serving(Box<h2::server::Connection<ClientIo, CountedChunk>>),
}

impl Connection {
    /// Serves the connection, and hands each new stream to `accept`. Ready once it has ended.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut accept: impl FnMut(Request<RecvStream>, SendResponse<CountedChunk>),
    ) -> Poll<()> {
        loop {
            match self {
                Connection::Begun { handshake, is_ending } => {
                    let Ok(mut connection) = ready!(Pin::new(handshake).poll(cx)) else { return Poll::Ready(()) };
                    if *is_ending {
                        connection.graceful_shutdown();
                    }
                    *self = Connection::Serving(Box::new(connection));
                }
                Connection::Serving(connection) => match ready!(connection.poll_accept(cx)) {
                    Some(Ok((request, respond))) => accept(request, respond),
                    Some(Err(_)) | None => return Poll::Ready(()),
                },
            }
        }
    }

    /// Tells the client to send no new requests.
    fn shut_down(&mut self) {
        match self {
            Connection::Serving(connection) => connection.graceful_shutdown(),
            Connection::Begun { is_ending, .. } => *is_ending = true,
        }
    }
}

/// Configures how h2 reads requests. h2 itself handles floods of SETTINGS and PING (it reads no more until its
/// acknowledgements are written), floods of CONTINUATION, and header bombs (`max_header_list_size`).
fn builder(limits: &Limits) -> h2::server::Builder {
    let mut http = h2::server::Builder::new();
    http.max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .enable_connect_protocol();
    http
}
