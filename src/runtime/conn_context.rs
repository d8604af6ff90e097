//! Owns: what all client connections of a thread have in common, and how they wait for a client's first bytes.
//! Invariant: every wait has a limit; a connection on which nothing has come holds no buffer.
//! Must not know: HTTP versions, requests.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::first_bytes;
use super::per_client_limit::{ClientPermit, PerClientLimit, TooManyConnections};
use super::settings::Limits;
use crate::clock;
use crate::handler::Handler;
use crate::net::{Socket, Stream};
use crate::telemetry::Limit;

/// What all connections of a thread have in common.
pub(super) struct ConnContext<H> {
    pub(super) handler: Rc<H>,
    pub(super) limits: Limits,
    /// How many connections each client has, where that is limited.
    pub(super) per_client_limit: Option<Arc<PerClientLimit>>,
    pub(super) clock: clock::Deadlines,
    /// Since when the process is about to end, and how long a connection may then still bring a request.
    pub(super) draining: Rc<Cell<Option<(Instant, Duration)>>>,
    /// The time that requests had to end is over.
    pub(super) is_grace_over: Rc<Cell<bool>>,
    pub(super) http1: hyper::server::conn::http1::Builder,
}

impl<H> ConnContext<H> {
    pub(super) fn new(
        handler: Rc<H>,
        limits: Limits,
        per_client_limit: Option<Arc<PerClientLimit>>,
        clock: clock::Deadlines,
    ) -> ConnContext<H> {
        let http1 = http1_builder(&limits);
        ConnContext {
            handler,
            limits,
            per_client_limit,
            clock,
            draining: Rc::default(),
            is_grace_over: Rc::default(),
            http1,
        }
    }

    /// The process is about to end: each connection has one more request, if it comes within `idle`.
    pub(super) fn drain(&self, idle: Duration) {
        self.draining.set(Some((clock::now(), idle)));
    }

    /// What is under way is given up.
    pub(super) fn abandon_requests(&self) {
        self.is_grace_over.set(true);
        self.clock.wake_all();
    }

    /// Whether what was under way has been given up.
    pub(super) fn is_grace_over(&self) -> bool {
        self.is_grace_over.get()
    }

    /// Whether the process is about to end.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// When a connection that has been without a request since `idle_since` is closed because the process is
    /// about to end.
    pub(super) fn drain_deadline(&self, idle_since: Instant) -> Option<Instant> {
        self.draining.get().map(|(since, idle)| since.max(idle_since) + idle)
    }

    /// Lets a connection of the client at `address` in; it counts as long as what is returned lives.
    pub(super) fn admit_client(&self, address: IpAddr) -> Result<Option<ClientPermit>, TooManyConnections>
    where
        H: Handler,
    {
        let Some(per_client_limit) = &self.per_client_limit else { return Ok(None) };
        per_client_limit.try_acquire(address).inspect_err(|_| self.handler.count_limit(Limit::ConnectionsPerClient))
    }

    /// Waits for a whole head, or for as much of one as is worth a buffer. Until its first byte a connection is as
    /// one between two requests: a client that connects beforehand has done nothing wrong.
    pub(super) async fn wait_for_head(&self, stream: &Stream) -> HeadWait {
        // TLS has buffers of its own.
        let Stream::Plain(socket) = stream else { return HeadWait::Received(None) };
        let (limit, idle_since) = (self.clock.deadline(), clock::now());
        let mut begun = None;
        poll_fn(|cx| {
            if socket.poll_gather(cx, first_bytes::is_head_complete).is_ready() {
                return Poll::Ready(HeadWait::Received(begun.or_else(|| Some(clock::now()))));
            }
            if socket.gathered(<[u8]>::is_empty) {
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

    /// Waits for something to read; false if the connection is over. At the end of the process that is once its
    /// client has had its time to say something, and has got what was written.
    pub(super) async fn wait_readable(&self, socket: &Socket) -> bool {
        let (limit, idle_since) = (self.clock.deadline(), clock::now());
        poll_fn(|cx| {
            // First: whoever has said something is heard.
            if let Poll::Ready(ready) = socket.poll_read_ready(cx) {
                return Poll::Ready(ready.is_ok());
            }
            self.poll_idle(cx, socket, &limit, idle_since).map(|()| false)
        })
        .await
    }

    /// Ready once a connection on which nothing has come since `idle_since` has had its time.
    fn poll_idle(
        &self,
        cx: &mut Context<'_>,
        socket: &Socket,
        limit: &clock::Deadline,
        idle_since: Instant,
    ) -> Poll<()> {
        let idle_end = idle_since + self.limits.idle_timeout;
        loop {
            let due = match self.drain_deadline(idle_since) {
                Some(drain_deadline) if drain_deadline > clock::now() => drain_deadline.min(idle_end),
                Some(_) if socket.poll_sent(cx).is_ready() => return Poll::Ready(()),
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

/// What came of waiting for the head of a request.
pub(super) enum HeadWait {
    /// It is there, or as much of it as is waited for; and since when some of it is. A connection in TLS begins with
    /// nothing: what came so far was its handshake.
    Received(Option<Instant>),
    /// It began, and did not end in time.
    TimedOut,
    /// It never began.
    Idle,
}

/// The least that hyper has for a head.
const MIN_BUFFER: usize = 8 * 1024;

/// How hyper is to read requests.
fn http1_builder(limits: &Limits) -> hyper::server::conn::http1::Builder {
    let mut http = hyper::server::conn::http1::Builder::new();
    // Clients may close their sending side and wait for the answer (RFC 9112 §9.6 has no rule
    // against it, and `nc` does).
    // What holds a head holds no more than a head may have, however it comes.
    http.half_close(true).max_header_size(limits.header_bytes).max_buf_size(limits.header_bytes.max(MIN_BUFFER));
    http
}
