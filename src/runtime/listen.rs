//! Owns: accepting connections at one listener of one thread.
//! Invariant: a client whose connection the kernel has completed is served, not reset.
//! Must not know: what is sent on a connection.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener as StdTcp};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnix;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use super::conn;
use super::conn_context::ConnContext;
use super::conn_timeouts::ShutdownGrace;
use super::connection_limit::{ConnectionLimit, ConnectionPermit};
use super::listener::ListenerTransport;
use crate::handler::Handler;
use crate::net::defer_accept::undefer;
use crate::net::{Socket, descriptor_reserve, syn_filter};
use crate::telemetry::Limit;
use crate::telemetry::metrics::ListenerCounters;

/// One thread's sockets of one listener.
pub(super) struct ThreadListener<L> {
    /// What its connections need to know about it; a reload replaces it.
    pub(super) transport: Arc<ArcSwap<ListenerTransport<L>>>,
    pub(super) sockets: Vec<ThreadSocket>,
}

/// A socket at which a thread accepts connections.
pub(super) struct ThreadSocket {
    pub(super) socket: ListenSocket,
    /// Another descriptor of the socket, which a successor can get for as long as this process accepts there.
    pub(super) descriptor: Arc<OwnedFd>,
    /// Another process has the socket as well and keeps it: what waits in its queue belongs to the next one there.
    pub(super) is_shared: bool,
}

/// Whether a thread accepts connections at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepting {
    /// It does.
    On,
    /// It accepts none for the time being: another process does, at the same sockets.
    Pause,
    /// It accepts those that had begun by now, and closes the sockets.
    Close(ShutdownGrace),
    /// It accepts none: another process has the sockets, and with them the clients in their queues.
    Leave,
}

/// A listen socket.
pub(super) enum ListenSocket {
    Tcp(StdTcp),
    Unix(StdUnix),
}

/// A listen socket that is registered with its thread's event loop.
enum AsyncListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsyncListener {
    fn new(open: ListenSocket) -> io::Result<AsyncListener> {
        Ok(match open {
            ListenSocket::Tcp(listener) => AsyncListener::Tcp(TcpListener::from_std(listener)?),
            ListenSocket::Unix(listener) => AsyncListener::Unix(UnixListener::from_std(listener)?),
        })
    }

    /// Accepts the next connection; returns it with its peer's address. A peer on a Unix socket is on this machine.
    fn poll_accept(&self, cx: &mut std::task::Context<'_>) -> Poll<io::Result<(Socket, IpAddr)>> {
        Poll::Ready(match self {
            AsyncListener::Tcp(listener) => {
                ready!(listener.poll_accept(cx)).map(|(stream, peer)| (stream.into(), peer.ip().to_canonical()))
            }
            AsyncListener::Unix(listener) => {
                ready!(listener.poll_accept(cx)).map(|(stream, _)| (stream.into(), IpAddr::V4(Ipv4Addr::LOCALHOST)))
            }
        })
    }

    /// Stops deferring: the kernel hands over silent connections, too.
    fn undefer(&self, name: &str) {
        if let AsyncListener::Tcp(listener) = self
            && let Err(error) = undefer(listener)
        {
            tracing::debug!(listener = name, %error, "cannot unset TCP_DEFER_ACCEPT: silent connections may be reset at the end");
        }
    }

    /// Makes the kernel ignore new connections. A Unix socket's file is already removed: nothing connects to it.
    fn filter_syns(&self, name: &str) {
        if let AsyncListener::Tcp(listener) = self
            && let Err(error) = syn_filter::attach(listener)
        {
            tracing::debug!(listener = name, %error, "cannot filter new connections: those begun in the last moment may be reset");
        }
    }

    /// Returns the socket without the event loop, which may not have reported yet what is in the queue.
    fn into_std(self) -> io::Result<ListenSocket> {
        Ok(match self {
            AsyncListener::Tcp(listener) => ListenSocket::Tcp(listener.into_std()?),
            AsyncListener::Unix(listener) => ListenSocket::Unix(listener.into_std()?),
        })
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ListenSocket::Tcp(listener) => listener.as_fd(),
            ListenSocket::Unix(listener) => listener.as_fd(),
        }
    }
}

impl ListenSocket {
    /// Returns another descriptor of the socket.
    pub(super) fn try_clone(&self) -> io::Result<ListenSocket> {
        Ok(match self {
            ListenSocket::Tcp(listener) => ListenSocket::Tcp(listener.try_clone()?),
            ListenSocket::Unix(listener) => ListenSocket::Unix(listener.try_clone()?),
        })
    }

    /// Accepts the next connection in the queue.
    fn accept(&self) -> io::Result<(Socket, IpAddr)> {
        match self {
            ListenSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((tokio::net::TcpStream::from_std(stream)?.into(), peer.ip().to_canonical()))
            }
            ListenSocket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((tokio::net::UnixStream::from_std(stream)?.into(), IpAddr::V4(Ipv4Addr::LOCALHOST)))
            }
        }
    }
}

/// Counts the client connections of a thread.
pub(super) struct ThreadConnections {
    /// The number of open connections.
    pub(super) open: Rc<Cell<usize>>,
    limit: Arc<ConnectionLimit>,
}

impl ThreadConnections {
    pub(super) fn new(limit: Arc<ConnectionLimit>) -> ThreadConnections {
        ThreadConnections { open: Rc::default(), limit }
    }

    /// Accepts the next connection of a listener, with its permit. A listener holds a permit only while it polls: the
    /// last permit may go to another listener while this one waits for a client. Calls `on_full` once if it has to
    /// wait for a permit.
    async fn accept(
        &self,
        listener: &AsyncListener,
        on_full: impl Fn(),
    ) -> io::Result<(Socket, IpAddr, ConnectionPermit)> {
        let mut is_full = false;
        poll_fn(|cx| {
            let Poll::Ready(permit) = self.limit.poll_acquire(cx) else {
                if !std::mem::replace(&mut is_full, true) {
                    on_full();
                }
                return Poll::Pending;
            };
            listener.poll_accept(cx).map_ok(|(socket, address)| (socket, address, permit))
        })
        .await
    }
}

/// The connections that begin at a listener of one thread share this; a reload replaces it.
pub(super) type CurrentContext<H> = Rc<RefCell<Rc<ConnContext<H>>>>;

/// Accepts connections at one socket of one thread for as long as `accepting` says so. If it is to close, accepts also
/// all connections that had begun by that time.
///
/// # Errors
/// The event loop can't register or release the socket.
pub(super) async fn accept<H: Handler>(
    bound: ThreadSocket,
    transport: Arc<ArcSwap<ListenerTransport<H::Listener>>>,
    thread: usize,
    conn_context: CurrentContext<H>,
    connections: Rc<ThreadConnections>,
    mut accepting: watch::Receiver<Accepting>,
) -> io::Result<()> {
    let ThreadSocket { socket, descriptor, is_shared } = bound;
    // Closes after `listener`.
    let _descriptor = descriptor;
    let listener = AsyncListener::new(socket)?;
    let is_tcp = matches!(listener, AsyncListener::Tcp(_));
    let context = AcceptContext { transport, thread, is_tcp, conn_context, connections };
    let stopped = loop {
        let stopped = tokio::select! {
            never = context.accept_all(&listener) => match never {},
            stopped = accepting.wait_for(|accepting| *accepting != Accepting::On) => stopped.map(|accepting| *accepting),
        };
        if !matches!(stopped, Ok(Accepting::Pause)) {
            break stopped;
        }
        let next = accepting.wait_for(|accepting| *accepting != Accepting::Pause).await.map(|accepting| *accepting);
        if !matches!(next, Ok(Accepting::On)) {
            break next;
        }
    };
    let grace = match stopped {
        Ok(Accepting::Close(grace)) if !is_shared => grace,
        // The options of a socket are those of every process that has it, so that it is left as it is.
        Ok(_) => return Ok(()),
        // The thread ends.
        Err(_) => return Ok(()),
    };
    // Accept now the silent connections that the kernel deferred: they have little time left.
    listener.undefer(&context.transport.load().name);
    let _ = tokio::time::timeout(grace.accept, context.accept_all(&listener)).await;
    listener.filter_syns(&context.transport.load().name);
    let _ = tokio::time::timeout(grace.handshakes, context.accept_all(&listener)).await;
    context.accept_backlog(listener).await
}

/// What accepting connections at one listener of one thread needs.
struct AcceptContext<H: Handler> {
    transport: Arc<ArcSwap<ListenerTransport<H::Listener>>>,
    thread: usize,
    is_tcp: bool,
    conn_context: CurrentContext<H>,
    connections: Rc<ThreadConnections>,
}

impl<H: Handler> AcceptContext<H> {
    /// Accepts connections for as long as it is polled.
    async fn accept_all(&self, listener: &AsyncListener) -> Infallible {
        loop {
            let on_full = || self.conn_context.borrow().handler.count_limit(Limit::Connections);
            match self.connections.accept(listener, on_full).await {
                Ok((socket, address, permit)) => self.serve(socket, address, permit),
                Err(error) => self.handle_error(&error).await,
            }
        }
    }

    /// Accepts all connections in the kernel's queue, and closes the listener.
    async fn accept_backlog(&self, listener: AsyncListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        loop {
            // Keep the listener open until there is a permit for each queued connection: closing would reset them.
            let permit = poll_fn(|cx| self.connections.limit.poll_acquire(cx)).await;
            match listener.accept() {
                Ok((socket, address)) => self.serve(socket, address, permit),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.handle_error(&error).await,
            }
        }
    }

    /// Spawns a task that serves the connection.
    fn serve(&self, socket: Socket, address: IpAddr, permit: ConnectionPermit) {
        let (transport, conn_context) = (self.transport.load_full(), Rc::clone(&self.conn_context.borrow()));
        // Trusted proxies, and peers on a Unix socket, connect for many clients.
        let is_single_client = self.is_tcp && !transport.trusts(address);
        let Ok(client_permit) = (if is_single_client { conn_context.admit_client(address) } else { Ok(None) }) else {
            return;
        };
        // A TCP connection is deferred until it has sent data, so a first read succeeds, as tokio assumes. A TLS or
        // PROXY handshake, and a drain, must not count a connection as begun before its first byte.
        let expects_data = self.is_tcp && !transport.has_preamble();
        let socket = if expects_data { socket } else { socket.assume_not_readable() };
        let guard = ConnectionGuard::new(&self.connections.open, &transport.metrics, self.thread);
        let holds = (guard, client_permit, permit);
        tokio::task::spawn_local(conn::serve(socket, address, transport, conn_context, holds));
    }

    /// Reports an error of `accept`, and waits before the next attempt unless only one connection failed.
    async fn handle_error(&self, error: &io::Error) {
        if is_connection_error(error) {
            // The client left before it was accepted: other connections are not affected.
        } else {
            if descriptor_reserve::is_local_shortage(error) {
                descriptor_reserve::report_shortage("cannot accept a client", error);
            } else {
                tracing::warn!(listener = &*self.transport.load().name, %error, "cannot accept a client; trying again in 100 ms");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Counts a connection until it is dropped.
struct ConnectionGuard {
    open: Rc<Cell<usize>>,
    listener: Arc<ListenerCounters>,
    thread: usize,
}

impl ConnectionGuard {
    fn new(open: &Rc<Cell<usize>>, listener: &Arc<ListenerCounters>, thread: usize) -> ConnectionGuard {
        open.set(open.get() + 1);
        listener.opened(thread);
        ConnectionGuard { open: Rc::clone(open), listener: Arc::clone(listener), thread }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.listener.closed(self.thread);
    }
}
