//! Owns: one client connection of HTTP/2: its streams, its idle end, and what floods it may not send.
//! Invariant: a client that takes nothing, or takes back what it asks for, loses its stream or connection, and harms no other.
//! Must not know: what is served.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};

use super::activity::{Activity, Stall};
use super::conn_context::ConnContext;
use super::conn_timeouts::{self, Next, StreamsState};
use super::io::Io;
use super::service::service;
use super::settings::Limits;
use crate::clock::{self, Deadline};
use crate::handler::Handler;
use crate::net::Stream;

/// Requests of one connection at once; what nginx and HAProxy allow.
const STREAMS: u32 = 100;

/// Bytes that a client may send ahead of a backend that reads slowly, a stream and a connection. Streams
/// that no backend reads can't use up the connection's (RFC 9113 §5.2.1): there is always a quarter left,
/// for those that were just taken back. A larger window would let a distant client upload faster, and
/// let each stream that stalls cost as much: hyper can't take a window back that it has given.
const STREAM_WINDOW: u32 = 32 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (STREAMS + STREAMS / 4);

/// Bytes of a response from which on no more wait in a stream for a client that reads slowly.
const SEND_BUFFER: usize = 4 * 1024;

/// Serves one connection until it ends.
pub(super) async fn serve<H: Handler>(stream: Stream, client: Rc<H::Client>, context: Rc<ConnContext<H>>) {
    let activity = Activity::of_streams();
    let service = service(&context, client, Rc::clone(&activity));
    // In a box: it is moved some times until it is a stream's task, and takes kilobytes.
    let service = service_fn(move |request| Box::pin(service.call(request)));
    let spawner =
        Spawner { activity: Rc::clone(&activity), clock: context.clock.clone(), patience: context.limits.idle_timeout };
    let io = Io::new(stream, Bytes::new(), &activity);
    let mut connection = builder(spawner, &context.limits).serve_connection(io, service);
    let limit = context.clock.deadline();
    limit.set_after(conn_timeouts::QUIET);
    let most = context.limits.requests_per_connection.unwrap_or(u32::MAX);
    let mut retire = false;
    let mut retired = None;
    poll_fn(|cx| {
        loop {
            retire |= activity.requests.get() >= most;
            if (retire || context.is_draining()) && retired.is_none() {
                retired = Some(clock::now());
                Pin::new(&mut connection).graceful_shutdown();
            }
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // hyper gives up for now only when all has been written, or the client takes no more.
            if activity.blocked_since.get().is_none() {
                activity.flushed();
            }
            if limit.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let state = StreamsState {
                busy: activity.busy.get() > 0,
                quiet_since: activity.quiet_since.get(),
                blocked_since: activity.blocked_since.get(),
                retired_since: retired,
                requests: activity.requests.get(),
                cancelled: activity.cancelled.get(),
            };
            match conn_timeouts::next_of_streams(state, clock::now(), &context.limits) {
                Next::Wait(at) => limit.set(at),
                Next::Park => {
                    retire = true;
                    limit.set_after(conn_timeouts::QUIET);
                }
                Next::Abort | Next::HeadTimeout => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// How hyper is to read requests. What it refuses by itself: SETTINGS and PING floods (it reads no
/// more until its answers are gone), CONTINUATION floods and header bombs (`max_header_list_size`).
fn builder(spawner: Spawner, limits: &Limits) -> http2::Builder<Spawner> {
    let mut http = http2::Builder::new(spawner);
    http.max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .enable_connect_protocol();
    http
}

/// Makes a task of each stream, on the connection's thread.
#[derive(Clone)]
struct Spawner {
    activity: Rc<Activity>,
    clock: clock::Deadlines,
    /// How long a client may take nothing of a response.
    patience: Duration,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Spawner {
    fn execute(&self, future: F) {
        match self.activity.opened() {
            Some(stall) => drop(tokio::task::spawn_local(patient(future, stall, self.clock.deadline(), self.patience))),
            None => drop(tokio::task::spawn_local(future)),
        }
    }
}

/// Runs a stream until it ends, or its client has taken nothing of the response for too long. To
/// drop it resets it, and lets its backend go.
async fn patient(stream: impl Future<Output = ()>, stall: Rc<Stall>, limit: Deadline, patience: Duration) {
    let mut stream = pin!(stream);
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match stall.since().and_then(|since| since.checked_add(patience)) {
            Some(due) => {
                limit.set(due);
                limit.poll(cx)
            }
            None => Poll::Pending,
        }
    })
    .await;
}
