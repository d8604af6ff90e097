//! Owns: sockets that clients connect to.
//! Invariant: bound before any thread starts, one a thread and address (SO_REUSEPORT); whoever the kernel has let connect is served, not reset.
//! Must not know: what is said on a connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdTcp};
use std::os::unix::net::UnixListener as StdUnix;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::conn;
use super::conn_context::ConnContext;
use super::conn_timeouts::ShutdownGrace;
use super::connection_limit::{ConnectionLimit, ConnectionPermit};
use super::listener::ListenerInfo;
use super::settings::ListenerSettings;
use crate::handler::Handler;
use crate::net::defer::{defer, undefer};
use crate::net::unix::{self, SocketFile};
use crate::net::{Address, Socket, bind, own, shortage, syn_filter};
use crate::telemetry::Limit;
use crate::telemetry::metrics::{Listener, Metrics};
use crate::tls::Acceptor;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// Who may connect to a Unix socket: everybody who may reach its folder, as with nginx.
const SOCKET_FILE_MODE: u32 = 0o666;

/// All sockets of one process, by thread.
pub struct Listeners {
    addresses: Vec<Address>,
    by_thread: Vec<Vec<ThreadListener>>,
    files: Vec<SocketFile>,
}

/// One thread's socket of one listener.
pub(super) struct ThreadListener {
    info: Arc<ListenerInfo>,
    socket: ListenSocket,
    metrics: Arc<Listener>,
}

enum ListenSocket {
    Tcp(StdTcp),
    Unix(StdUnix),
}

/// A listener's address can't be had.
#[derive(Debug)]
pub struct BindError {
    address: Address,
    error: io::Error,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let BindError { address, error } = self;
        write!(f, "cannot listen on {address}: {error}")?;
        match (error.kind(), address) {
            (io::ErrorKind::AddrInUse, Address::Tcp(address)) => {
                write!(f, "; another program has it (`ss -ltnp 'sport = :{}'` tells which)", address.port())
            }
            (io::ErrorKind::AddrInUse, Address::Unix(_)) => write!(f, "; choose another path, or end that process"),
            (io::ErrorKind::PermissionDenied, Address::Tcp(_)) => {
                write!(f, "; ports below 1024 need CAP_NET_BIND_SERVICE, as systemd's AmbientCapabilities gives it")
            }
            (io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied, Address::Unix(_)) => {
                write!(f, "; its folder must be there, and be writable, as systemd's RuntimeDirectory makes it")
            }
            (io::ErrorKind::AddrNotAvailable, _) => write!(f, "; no interface of this machine has that address"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {}

impl Listeners {
    /// Binds every listener once for each of `threads` threads; `tls` has what shakes hands at each. Port 0 takes a free port, the same
    /// for all threads.
    ///
    /// # Errors
    /// The first address that can't be had.
    pub fn bind(
        settings: &[ListenerSettings],
        tls: &[Option<Arc<Acceptor>>],
        threads: usize,
        metrics: &Metrics,
    ) -> Result<Listeners, BindError> {
        let by_thread = (0..threads.max(1)).map(|_| Vec::new()).collect();
        let mut all = Listeners { addresses: Vec::new(), by_thread, files: Vec::new() };
        for (index, each) in settings.iter().enumerate() {
            let info = Arc::new(ListenerInfo::new(index, each, tls.get(index).cloned().flatten()));
            let is_v6_only = each.address.tcp().is_some_and(|address| address.is_ipv6())
                && settings.iter().any(|other| own::are_both_families(&each.address, &other.address));
            let address = all.open(each, is_v6_only, &info, metrics);
            all.addresses.push(address.map_err(|error| BindError { address: each.address.clone(), error })?);
        }
        Ok(all)
    }

    /// Opens a listener on every thread: where it listens.
    fn open(
        &mut self,
        settings: &ListenerSettings,
        is_v6_only: bool,
        info: &Arc<ListenerInfo>,
        metrics: &Metrics,
    ) -> io::Result<Address> {
        let bound = |socket| ThreadListener { info: Arc::clone(info), socket, metrics: metrics.listener(&info.name) };
        match &settings.address {
            Address::Tcp(address) => {
                // SO_REUSEPORT would let a second Linchpin share the address and take half the clients
                // without a word: a first socket without it finds out.
                if address.port() != 0 {
                    bind::patiently(&settings.address, || socket(*address, is_v6_only, false))?;
                }
                let mut bound_address = *address;
                for sockets in &mut self.by_thread {
                    let socket = socket(bound_address, is_v6_only, true)?;
                    bound_address = socket.local_addr()?;
                    sockets.push(bound(ListenSocket::Tcp(socket)));
                }
                Ok(bound_address.into())
            }
            Address::Unix(path) => {
                // There is no SO_REUSEPORT here: all threads accept from one queue.
                let (listener, file) =
                    bind::patiently(&settings.address, || unix::listen(path, SOCKET_FILE_MODE, BACKLOG))?;
                for sockets in &mut self.by_thread {
                    sockets.push(bound(ListenSocket::Unix(listener.try_clone()?)));
                }
                self.files.push(file);
                Ok(settings.address.clone())
            }
        }
    }

    /// Where they listen, in the order of the configuration.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The sockets of each thread, and the files to be kept as long as they are listened on.
    pub(super) fn into_threads(self) -> (Vec<Vec<ThreadListener>>, Vec<SocketFile>) {
        (self.by_thread, self.files)
    }
}

fn socket(address: SocketAddr, is_v6_only: bool, reuse_port: bool) -> io::Result<StdTcp> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if is_v6_only {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    // Accepted sockets inherit it: a system call less a connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if reuse_port {
        // It spares work, and no more.
        if let Err(error) = defer(&socket) {
            tracing::debug!(%address, %error, "the system tells of connections before there is something to read");
        }
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// A socket at work on its thread.
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

    /// The next connection and its peer's address. Who connects by a Unix socket is on this machine.
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

    /// Has the kernel hold nobody back any more.
    fn undefer(&self, info: &ListenerInfo) {
        if let AsyncListener::Tcp(listener) = self
            && let Err(error) = undefer(listener)
        {
            tracing::debug!(listener = &*info.name, %error, "silent connections come when the system likes");
        }
    }

    /// Has the kernel begin no connection any more. The file of a Unix socket is gone by now, and nobody connects.
    fn filter_syns(&self, info: &ListenerInfo) {
        if let AsyncListener::Tcp(listener) = self
            && let Err(error) = syn_filter::attach(listener)
        {
            tracing::debug!(listener = &*info.name, %error, "whoever connects in the last moment may be reset");
        }
    }

    /// The socket without the event loop, which may not have told yet of what is in its queue.
    fn into_std(self) -> io::Result<ListenSocket> {
        Ok(match self {
            AsyncListener::Tcp(listener) => ListenSocket::Tcp(listener.into_std()?),
            AsyncListener::Unix(listener) => ListenSocket::Unix(listener.into_std()?),
        })
    }
}

impl ListenSocket {
    /// The next connection that is in the queue.
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

/// The connections of a thread.
pub(super) struct ThreadConnections {
    /// How many there are.
    pub(super) open: Rc<Cell<usize>>,
    limit: Arc<ConnectionLimit>,
}

impl ThreadConnections {
    pub(super) fn new(limit: Arc<ConnectionLimit>) -> ThreadConnections {
        ThreadConnections { open: Rc::default(), limit }
    }

    /// The next connection of a listener, and its place. A place is taken for the moment of asking alone: the
    /// last one may go to another listener while this one waits for a client.
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

/// Accepts connections at one listener of one thread, until it is `stopping` and whoever had begun to connect by
/// then is served.
///
/// # Errors
/// If the event loop can't take the socket over.
pub(super) async fn accept<H: Handler>(
    bound: ThreadListener,
    thread: usize,
    conn_context: Rc<ConnContext<H>>,
    connections: Rc<ThreadConnections>,
    stopping: impl Future<Output = ShutdownGrace>,
) -> io::Result<()> {
    let ThreadListener { info, socket, metrics } = bound;
    let listener = AsyncListener::new(socket)?;
    let context = AcceptContext {
        info,
        metrics,
        thread,
        is_tcp: matches!(listener, AsyncListener::Tcp(_)),
        conn_context,
        connections,
    };
    let grace = tokio::select! {
        never = context.accept_all(&listener) => match never {},
        grace = stopping => grace,
    };
    // Those that are held back until they speak are to come now: they have little time left.
    listener.undefer(&context.info);
    let _ = tokio::time::timeout(grace.accept, context.accept_all(&listener)).await;
    listener.filter_syns(&context.info);
    let _ = tokio::time::timeout(grace.handshakes, context.accept_all(&listener)).await;
    context.accept_backlog(listener).await
}

/// What every connection of one listener on one thread passes.
struct AcceptContext<H: Handler> {
    info: Arc<ListenerInfo>,
    metrics: Arc<Listener>,
    thread: usize,
    is_tcp: bool,
    conn_context: Rc<ConnContext<H>>,
    connections: Rc<ThreadConnections>,
}

impl<H: Handler> AcceptContext<H> {
    /// Lets in who comes, for as long as it is polled.
    async fn accept_all(&self, listener: &AsyncListener) -> Infallible {
        loop {
            match self.connections.accept(listener, || self.conn_context.handler.count_limit(Limit::Connections)).await
            {
                Ok((socket, address, permit)) => self.serve(socket, address, permit),
                Err(error) => self.handle_error(&error).await,
            }
        }
    }

    /// Lets in all that are in the kernel's queue, and closes the listener.
    async fn accept_backlog(&self, listener: AsyncListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        loop {
            // The queue is kept for as long as there is no place for who is in it: closing it would reset them.
            let permit = poll_fn(|cx| self.connections.limit.poll_acquire(cx)).await;
            match listener.accept() {
                Ok((socket, address)) => self.serve(socket, address, permit),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.handle_error(&error).await,
            }
        }
    }

    /// Serves a connection.
    fn serve(&self, socket: Socket, address: IpAddr, permit: ConnectionPermit) {
        // Proxies that are trusted, and whoever speaks on a Unix socket, connect for many clients.
        let is_single_client = self.is_tcp && !self.info.trusts(address);
        let Ok(client_permit) = (if is_single_client { self.conn_context.admit_client(address) } else { Ok(None) })
        else {
            return;
        };
        // A TCP connection that comes has something to say, as tokio takes for granted. Where a greeting comes
        // first, or the process is about to end, nobody is waited for who has not begun.
        let expects_data = self.is_tcp && !self.info.has_preamble();
        let socket = if expects_data { socket } else { socket.silent() };
        let guard = ConnectionGuard::new(&self.connections.open, &self.metrics, self.thread);
        let (info, conn_context) = (Arc::clone(&self.info), Rc::clone(&self.conn_context));
        tokio::task::spawn_local(async move {
            conn::serve(socket, address, info, conn_context).await;
            drop((guard, client_permit, permit));
        });
    }

    /// Nobody could be accepted.
    async fn handle_error(&self, error: &io::Error) {
        if is_connection_error(error) {
            // The client went before it was accepted: its trouble alone.
        } else {
            if shortage::is_ours(error) {
                shortage::report("cannot accept a client", error);
            } else {
                tracing::warn!(listener = &*self.info.name, %error, "cannot accept; trying again");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Counts a connection for as long as it lives.
struct ConnectionGuard {
    open: Rc<Cell<usize>>,
    listener: Arc<Listener>,
    thread: usize,
}

impl ConnectionGuard {
    fn new(open: &Rc<Cell<usize>>, listener: &Arc<Listener>, thread: usize) -> ConnectionGuard {
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
