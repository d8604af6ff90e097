//! Owns: one client connection of HTTP/2: its streams, its idle timeout, and its protection against floods.
//! Invariant: a client that reads nothing or floods loses its stream or connection, and harms no other client.
//! Must not know: what the handler does with a request.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};

use super::activity::Activity;
use super::backlog::StreamBacklog;
use super::conn_context::ConnContext;
use super::conn_timeouts::{self, Next};
use super::io::Io;
use super::service::service;
use super::settings::Limits;
use crate::clock::{self, Deadline};
use crate::handler::Handler;
use crate::net::Stream;

/// The most streams of a connection at once; nginx and HAProxy allow as many.
const MAX_STREAMS: u32 = 100;

/// The flow-control windows in bytes (RFC 9113 §5.2): what a client may send ahead of a slow backend, on a stream and
/// on the connection. Streams that no backend reads can't use up the connection's window: a quarter of it is left for
/// streams that were just reset. With a larger window a distant client could upload faster, but each stalled stream
/// would cost as much, since hyper can't reduce a window that it has granted.
const STREAM_WINDOW: u32 = 32 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (MAX_STREAMS + MAX_STREAMS / 4);

/// The most bytes of a response that hyper buffers for a stream whose client reads slowly.
const SEND_BUFFER: usize = 4 * 1024;

/// Serves one connection until it ends.
pub(super) async fn serve<H: Handler>(stream: Stream, client: Rc<H::Client>, context: Rc<ConnContext<H>>) {
    let activity = Activity::http2();
    let service = service(&context, client, Rc::clone(&activity));
    // Boxed: the future takes kilobytes, and hyper moves it several times until it is a stream's task.
    let service = service_fn(move |request| Box::pin(service.call(request)));
    let spawner = Spawner {
        activity: Rc::clone(&activity),
        clock: context.clock.clone(),
        stall_timeout: context.limits.idle_timeout,
    };
    let io = Io::new(stream, Bytes::new(), &activity);
    let mut connection = builder(spawner, &context.limits).serve_connection(io, service);
    let timer = context.clock.deadline();
    timer.set_after(conn_timeouts::PARK_AFTER);
    let max_requests = context.limits.requests_per_connection.unwrap_or(u32::MAX);
    let mut is_retiring = false;
    let mut goaway_since = None;
    poll_fn(|cx| {
        loop {
            is_retiring |= activity.requests() >= max_requests;
            is_retiring |= context.shutdown.is_announced() && activity.requests() > 0;
            let state = activity.http2_state(goaway_since);
            let drain_end = context.shutdown.idle_deadline(state.idle_since);
            is_retiring |= drain_end.is_some_and(|end| end <= clock::now());
            if is_retiring && goaway_since.is_none() {
                goaway_since = Some(clock::now());
                Pin::new(&mut connection).graceful_shutdown();
            }
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // hyper returns `Pending` only if it has written everything, or the client accepts no more.
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

/// Configures how hyper reads requests. hyper itself handles floods of SETTINGS and PING (it reads no more until its
/// acknowledgements are written), floods of CONTINUATION, and header bombs (`max_header_list_size`).
fn builder(spawner: Spawner, limits: &Limits) -> http2::Builder<Spawner> {
    let mut http = http2::Builder::new(spawner);
    http.max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .enable_connect_protocol();
    http
}

/// Spawns a task for each stream, on the connection's thread.
#[derive(Clone)]
struct Spawner {
    activity: Rc<Activity>,
    clock: clock::Deadlines,
    /// How long a client may accept nothing of a response.
    stall_timeout: Duration,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Spawner {
    fn execute(&self, future: F) {
        match self.activity.take_opening_stream() {
            Some(backlog) => {
                drop(tokio::task::spawn_local(run_stream(future, backlog, self.clock.deadline(), self.stall_timeout)))
            }
            None => drop(tokio::task::spawn_local(future)),
        }
    }
}

/// Runs a stream until it ends, or its client has accepted nothing of the response for too long. Dropping the stream
/// then resets it and releases its backend.
async fn run_stream(
    stream: impl Future<Output = ()>,
    backlog: Rc<StreamBacklog>,
    timer: Deadline,
    stall_timeout: Duration,
) {
    let mut stream = pin!(stream);
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match backlog.stalled_since().and_then(|since| since.checked_add(stall_timeout)) {
            Some(due) => {
                timer.set(due);
                timer.poll(cx)
            }
            None => Poll::Pending,
        }
    })
    .await;
}
