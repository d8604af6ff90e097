//! Owns: the sockets that clients connect to, and accepting connections from them.
//! Invariant: a client whose connection the kernel has completed is served, not reset; threads share no TCP socket.
//! Must not know: what is sent on a connection.

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
use super::listener::ListenerTransport;
use super::settings::ListenerSettings;
use crate::handler::Handler;
use crate::net::defer_accept::{defer, undefer};
use crate::net::unix::{self, SocketFile};
use crate::net::{Address, Socket, bind, descriptor_reserve, local_addresses, syn_filter};
use crate::telemetry::Limit;
use crate::telemetry::metrics::{ListenerCounters, Metrics};
use crate::tls::Acceptor;

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 4096;

/// The mode of a Unix socket's file: every user who can reach its directory may connect, as with nginx.
const SOCKET_FILE_MODE: u32 = 0o666;

/// All listen sockets of a process, by thread.
pub struct Listeners {
    addresses: Vec<Address>,
    by_thread: Vec<Vec<ThreadListener>>,
    files: Vec<SocketFile>,
}

/// One thread's socket of one listener.
pub(super) struct ThreadListener {
    info: Arc<ListenerTransport>,
    socket: ListenSocket,
    metrics: Arc<ListenerCounters>,
}

enum ListenSocket {
    Tcp(StdTcp),
    Unix(StdUnix),
}

/// A listener's address can't be bound.
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
                write!(
                    f,
                    "; another program uses this port (`ss -ltnp 'sport = :{}'` shows which): stop it, or choose another port",
                    address.port()
                )
            }
            (io::ErrorKind::AddrInUse, Address::Unix(_)) => {
                write!(f, "; another process listens there: stop it, or choose another path")
            }
            (io::ErrorKind::PermissionDenied, Address::Tcp(_)) => {
                write!(
                    f,
                    "; ports below 1024 need CAP_NET_BIND_SERVICE: grant it (systemd: AmbientCapabilities), or choose a \
                     higher port"
                )
            }
            (io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied, Address::Unix(_)) => {
                write!(f, "; create its directory and make it writable for this user (systemd: RuntimeDirectory)")
            }
            (io::ErrorKind::AddrNotAvailable, _) => {
                write!(f, "; no interface of this machine has this address: choose one that `ip address` lists")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {}

impl Listeners {
    /// Binds every listener once for each of `threads` threads; `tls` has the TLS acceptor of each listener, if it has
    /// one. Port 0 takes a free port, the same for all threads.
    ///
    /// # Errors
    /// The first address that can't be bound.
    pub fn bind(
        settings: &[ListenerSettings],
        tls: &[Option<Arc<Acceptor>>],
        threads: usize,
        metrics: &Metrics,
    ) -> Result<Listeners, BindError> {
        let by_thread = (0..threads.max(1)).map(|_| Vec::new()).collect();
        let mut all = Listeners { addresses: Vec::new(), by_thread, files: Vec::new() };
        for (index, each) in settings.iter().enumerate() {
            let info = Arc::new(ListenerTransport::new(index, each, tls.get(index).cloned().flatten()));
            let is_v6_only = each.address.tcp().is_some_and(|address| address.is_ipv6())
                && settings
                    .iter()
                    .any(|other| local_addresses::are_wildcards_of_both_families(&each.address, &other.address));
            let address = all.open(each, is_v6_only, &info, metrics);
            all.addresses.push(address.map_err(|error| BindError { address: each.address.clone(), error })?);
        }
        Ok(all)
    }

    /// Opens a listener on every thread and returns its address.
    fn open(
        &mut self,
        settings: &ListenerSettings,
        is_v6_only: bool,
        info: &Arc<ListenerTransport>,
        metrics: &Metrics,
    ) -> io::Result<Address> {
        let bound = |socket| ThreadListener { info: Arc::clone(info), socket, metrics: metrics.listener(&info.name) };
        match &settings.address {
            Address::Tcp(address) => {
                // With SO_REUSEPORT, a second Linchpin could silently share the address and take half of the
                // clients. So a first socket without it fails if the address is in use.
                if address.port() != 0 {
                    bind::with_retry(&settings.address, || socket(*address, is_v6_only, false))?;
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
                // Unix sockets have no SO_REUSEPORT: all threads accept from one queue.
                let (listener, file) =
                    bind::with_retry(&settings.address, || unix::listen(path, SOCKET_FILE_MODE, BACKLOG))?;
                for sockets in &mut self.by_thread {
                    sockets.push(bound(ListenSocket::Unix(listener.try_clone()?)));
                }
                self.files.push(file);
                Ok(settings.address.clone())
            }
        }
    }

    /// Returns the addresses of the listeners, in the order of the configuration.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Returns the sockets of each thread, and the files of Unix sockets; dropping a file removes it.
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
    // Accepted sockets inherit this, which saves one system call per connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if reuse_port {
        // Deferring only saves work: the listener works without it.
        if let Err(error) = defer(&socket) {
            tracing::debug!(%address, %error, "cannot set TCP_DEFER_ACCEPT: connections are accepted before they send data");
        }
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
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
    fn undefer(&self, info: &ListenerTransport) {
        if let AsyncListener::Tcp(listener) = self
            && let Err(error) = undefer(listener)
        {
            tracing::debug!(listener = &*info.name, %error, "cannot unset TCP_DEFER_ACCEPT: silent connections may be reset at the end");
        }
    }

    /// Makes the kernel ignore new connections. A Unix socket's file is already removed: nothing connects to it.
    fn filter_syns(&self, info: &ListenerTransport) {
        if let AsyncListener::Tcp(listener) = self
            && let Err(error) = syn_filter::attach(listener)
        {
            tracing::debug!(listener = &*info.name, %error, "cannot filter new connections: those begun in the last moment may be reset");
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

impl ListenSocket {
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

/// Accepts connections at one listener of one thread until `stopping` completes, and then all connections that had
/// begun by that time.
///
/// # Errors
/// The event loop can't register or release the socket.
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
    // Accept now the silent connections that the kernel deferred: they have little time left.
    listener.undefer(&context.info);
    let _ = tokio::time::timeout(grace.accept, context.accept_all(&listener)).await;
    listener.filter_syns(&context.info);
    let _ = tokio::time::timeout(grace.handshakes, context.accept_all(&listener)).await;
    context.accept_backlog(listener).await
}

/// What all connections that one thread accepts at one listener share.
struct AcceptContext<H: Handler> {
    info: Arc<ListenerTransport>,
    metrics: Arc<ListenerCounters>,
    thread: usize,
    is_tcp: bool,
    conn_context: Rc<ConnContext<H>>,
    connections: Rc<ThreadConnections>,
}

impl<H: Handler> AcceptContext<H> {
    /// Accepts connections for as long as it is polled.
    async fn accept_all(&self, listener: &AsyncListener) -> Infallible {
        loop {
            match self.connections.accept(listener, || self.conn_context.handler.count_limit(Limit::Connections)).await
            {
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
        // Trusted proxies, and peers on a Unix socket, connect for many clients.
        let is_single_client = self.is_tcp && !self.info.trusts(address);
        let Ok(client_permit) = (if is_single_client { self.conn_context.admit_client(address) } else { Ok(None) })
        else {
            return;
        };
        // A TCP connection is deferred until it has sent data, so a first read succeeds, as tokio assumes. A TLS or
        // PROXY handshake, and a drain, must not count a connection as begun before its first byte.
        let expects_data = self.is_tcp && !self.info.has_preamble();
        let socket = if expects_data { socket } else { socket.assume_not_readable() };
        let guard = ConnectionGuard::new(&self.connections.open, &self.metrics, self.thread);
        let (info, conn_context) = (Arc::clone(&self.info), Rc::clone(&self.conn_context));
        tokio::task::spawn_local(async move {
            conn::serve(socket, address, info, conn_context).await;
            drop((guard, client_permit, permit));
        });
    }

    /// Reports an error of `accept`, and waits before the next attempt unless only one connection failed.
    async fn handle_error(&self, error: &io::Error) {
        if is_connection_error(error) {
            // The client left before it was accepted: other connections are not affected.
        } else {
            if descriptor_reserve::is_local_shortage(error) {
                descriptor_reserve::report_shortage("cannot accept a client", error);
            } else {
                tracing::warn!(listener = &*self.info.name, %error, "cannot accept a client; trying again in 100 ms");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_bound_is_reported_with_its_cause_and_a_remedy() {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable, NotFound, PermissionDenied};
        let tcp = Address::from(SocketAddr::from(([127, 0, 0, 1], 80)));
        let unix = Address::Unix("/run/linchpin/http.sock".into());
        for (address, kind, remedy) in [
            (&tcp, AddrInUse, "`ss -ltnp 'sport = :80'` shows which): stop it, or choose another port"),
            (&unix, AddrInUse, "stop it, or choose another path"),
            (&tcp, PermissionDenied, "AmbientCapabilities), or choose a higher port"),
            (&unix, PermissionDenied, "create its directory and make it writable"),
            (&unix, NotFound, "create its directory and make it writable"),
            (&tcp, AddrNotAvailable, "choose one that `ip address` lists"),
        ] {
            let message = BindError { address: address.clone(), error: kind.into() }.to_string();
            let begin = format!("cannot listen on {address}: {}; ", io::Error::from(kind));
            assert!(message.starts_with(&begin) && message.contains(remedy), "{message}");
        }
    }
}
