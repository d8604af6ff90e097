//! Owns: what all client connections of a listener share on one thread, and how they wait for a client's first bytes.
//! Invariant: every wait has a limit, and a connection on which nothing has arrived holds no buffer.
//! Must not know: HTTP versions, requests.

use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::first_bytes;
use super::per_client_limit::{ClientPermit, PerClientLimit, TooManyConnections};
use super::settings::Limits;
use super::shutdown::Shutdown;
use crate::clock;
use crate::handler::Handler;
use crate::net::{Socket, Stream};
use crate::telemetry::Limit;

/// What all client connections of a listener share on one thread. Other limits make another one: connections keep theirs.
pub(super) struct ConnContext<H> {
    pub(super) handler: Rc<H>,
    pub(super) limits: Limits,
    /// Counts the connections of each client, if `connections_per_client` limits them.
    pub(super) per_client_limit: Option<Arc<PerClientLimit>>,
    pub(super) clock: clock::Deadlines,
    pub(super) shutdown: Rc<Shutdown>,
    pub(super) http1: hyper::server::conn::http1::Builder,
}

impl<H> ConnContext<H> {
    pub(super) fn new(
        handler: Rc<H>,
        limits: Limits,
        per_client_limit: Option<Arc<PerClientLimit>>,
        clock: clock::Deadlines,
        shutdown: Rc<Shutdown>,
    ) -> ConnContext<H> {
        let http1 = http1_builder(&limits);
        ConnContext { handler, limits, per_client_limit, clock, shutdown, http1 }
    }

    /// Counts a connection of the client at `address` until the permit is dropped.
    ///
    /// # Errors
    /// The client has as many connections as it may have; this is counted as a reached limit.
    pub(super) fn admit_client(&self, address: IpAddr) -> Result<Option<ClientPermit>, TooManyConnections>
    where
        H: Handler,
    {
        let Some(per_client_limit) = &self.per_client_limit else { return Ok(None) };
        per_client_limit.try_acquire(address).inspect_err(|_| self.handler.count_limit(Limit::ConnectionsPerClient))
    }

    /// Waits for a complete head, or for as much of it as the socket buffers. Until its first byte arrives, the
    /// connection is idle, as between two requests: a client that connects in advance does nothing wrong.
    pub(super) async fn wait_for_head(&self, stream: &Stream) -> HeadWait {
        // The TLS session has its own buffers.
        let Stream::Plain(socket) = stream else { return HeadWait::Received(None) };
        let (limit, idle_since) = (self.clock.deadline(), clock::now());
        let mut begun = None;
        poll_fn(|cx| {
            if socket.poll_prefetch(cx, first_bytes::is_head_complete).is_ready() {
                return Poll::Ready(HeadWait::Received(begun.or_else(|| Some(clock::now()))));
            }
            if socket.peek_prefetched(<[u8]>::is_empty) {
                return self.poll_idle(cx, socket, &limit, idle_since).map(|()| HeadWait::Idle);
            }
            begun.get_or_insert_with(|| {
                limit.set_after(self.limits.header_read_timeout);
                clock::now()
            });
            limit.poll(cx).map(|()| HeadWait::TimedOut)
        })
        .await
    }

    /// Waits until the socket is readable; returns false if the connection is to be closed. While the process drains,
    /// that is so once the client has had its time to send a request and has received what was written.
    pub(super) async fn wait_readable(&self, socket: &Socket) -> bool {
        let (limit, idle_since) = (self.clock.deadline(), clock::now());
        poll_fn(|cx| {
            // This check comes first: a request that has arrived is served.
            if let Poll::Ready(ready) = socket.poll_read_ready(cx) {
                return Poll::Ready(ready.is_ok());
            }
            self.poll_idle(cx, socket, &limit, idle_since).map(|()| false)
        })
        .await
    }

    /// Is ready once a connection without a request since `idle_since` has used up its time.
    fn poll_idle(
        &self,
        cx: &mut Context<'_>,
        socket: &Socket,
        limit: &clock::Deadline,
        idle_since: Instant,
    ) -> Poll<()> {
        let idle_end = idle_since + self.limits.idle_timeout;
        loop {
            let due = match self.shutdown.idle_deadline(idle_since) {
                Some(drain_end) if drain_end > clock::now() => drain_end.min(idle_end),
                Some(_) if socket.poll_all_sent(cx).is_ready() => return Poll::Ready(()),
                _ => idle_end,
            };
            limit.set(due);
            if limit.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if due == idle_end {
                return Poll::Ready(());
            }
        }
    }
}

/// The outcome of waiting for the head of a request.
pub(super) enum HeadWait {
    /// The head arrived, or as much of it as the socket buffers; with the time of its first byte. In TLS there is no
    /// such time: what arrived so far was the handshake.
    Received(Option<Instant>),
    /// The head began, and was not complete in time.
    TimedOut,
    /// No head began in time, or the process drains.
    Idle,
}

/// The smallest buffer for a head that hyper accepts, in bytes.
const MIN_BUFFER: usize = 8 * 1024;

/// Configures how hyper reads requests.
fn http1_builder(limits: &Limits) -> hyper::server::conn::http1::Builder {
    let mut http = hyper::server::conn::http1::Builder::new();
    // Clients may close their sending side and wait for the response (RFC 9112 §9.6 doesn't forbid it, and `nc`
    // does it).
    // The buffer is as large as the largest permitted head, in however many pieces that arrives.
    http.half_close(true).max_header_size(limits.header_bytes).max_buf_size(limits.header_bytes.max(MIN_BUFFER));
    http
}
