//! Owns: sockets that clients connect to.
//! Invariant: bound before any thread starts, one a thread and address (SO_REUSEPORT); a full house leaves clients in the kernel's queue.
//! Must not know: what is said on a connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdTcp};
use std::os::unix::net::UnixListener as StdUnix;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::ListenerSettings;
use super::conn::{self, Common, Counted, Handler};
use crate::net::defer::defer;
use crate::net::unix::{self, SocketFile};
use crate::net::{Address, Socket};
use crate::telemetry::Limit;
use crate::telemetry::metrics::{Listener, Metrics};
use crate::tls::Acceptor;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// Who may connect to a Unix socket: everybody who may reach its folder, as with nginx.
const MODE: u32 = 0o666;

/// All sockets of one process, by thread.
pub struct Listeners {
    addresses: Vec<Address>,
    by_thread: Vec<Vec<Bound>>,
    files: Vec<SocketFile>,
}

/// One thread's socket of one listener.
pub(super) struct Bound {
    door: Arc<Door>,
    socket: Open,
    metrics: Arc<Listener>,
}

enum Open {
    Tcp(StdTcp),
    Unix(StdUnix),
}

/// What is to be known of a listener when a client comes.
pub(super) struct Door {
    /// Its place in the configuration.
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    /// HTTP/2 is spoken in clear text by clients that know.
    pub(super) http2: bool,
    /// What shakes hands, where TLS is spoken.
    pub(super) tls: Option<Arc<Acceptor>>,
    /// Trusted peers begin with a PROXY header.
    proxied: bool,
    trusted: Vec<IpNet>,
}

impl Door {
    fn new(index: usize, settings: &ListenerSettings, tls: Option<Arc<Acceptor>>) -> Door {
        Door {
            index,
            name: settings.name.as_str().into(),
            http2: settings.http2 && tls.is_none(),
            tls,
            proxied: settings.proxy_protocol,
            trusted: settings.trusted_proxies.clone(),
        }
    }

    /// Whether something comes before the first request.
    pub(super) fn greets(&self) -> bool {
        self.http2 || self.proxied || self.tls.is_some()
    }

    /// Whether a connection from `address` begins with a PROXY header. Never guessed from what comes,
    /// as the specification has it: else any client could speak for any other.
    pub(super) fn takes_header_from(&self, address: IpAddr) -> bool {
        self.proxied && self.trusts(address)
    }

    /// Whether a proxy at `address` is believed.
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }
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
            let door = Arc::new(Door::new(index, each, tls.get(index).cloned().flatten()));
            let address = all.open(each, &door, metrics);
            all.addresses.push(address.map_err(|error| BindError { address: each.address.clone(), error })?);
        }
        Ok(all)
    }

    /// Opens a listener on every thread: where it listens.
    fn open(&mut self, settings: &ListenerSettings, door: &Arc<Door>, metrics: &Metrics) -> io::Result<Address> {
        let bound = |socket| Bound { door: Arc::clone(door), socket, metrics: metrics.listener(&door.name) };
        match &settings.address {
            Address::Tcp(wanted) => {
                // SO_REUSEPORT would let a second Linchpin share the address and take half the clients
                // without a word: a first socket without it finds out.
                if wanted.port() != 0 {
                    socket(*wanted, false)?;
                }
                let mut address = *wanted;
                for sockets in &mut self.by_thread {
                    let socket = socket(address, true)?;
                    address = socket.local_addr()?;
                    sockets.push(bound(Open::Tcp(socket)));
                }
                Ok(address.into())
            }
            Address::Unix(path) => {
                // There is no SO_REUSEPORT here: all threads accept from one queue.
                let (listener, file) = unix::listen(path, MODE, BACKLOG)?;
                for sockets in &mut self.by_thread {
                    sockets.push(bound(Open::Unix(listener.try_clone()?)));
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
    pub(super) fn into_threads(self) -> (Vec<Vec<Bound>>, Vec<SocketFile>) {
        (self.by_thread, self.files)
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<StdTcp> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    // Accepted sockets inherit it: a system call less a connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        // It spares work, and no more.
        if let Err(error) = defer(&socket) {
            tracing::debug!(%address, %error, "the system tells of connections before there is something to read");
        }
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// A socket at work on its thread.
enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accepting {
    fn new(open: Open) -> io::Result<Accepting> {
        Ok(match open {
            Open::Tcp(listener) => Accepting::Tcp(TcpListener::from_std(listener)?),
            Open::Unix(listener) => Accepting::Unix(UnixListener::from_std(listener)?),
        })
    }

    /// The next connection and its peer's address. Who connects by a Unix socket is on this machine.
    fn poll_accept(&self, cx: &mut std::task::Context<'_>) -> Poll<io::Result<(Socket, IpAddr)>> {
        Poll::Ready(match self {
            Accepting::Tcp(listener) => {
                ready!(listener.poll_accept(cx)).map(|(stream, peer)| (stream.into(), peer.ip().to_canonical()))
            }
            Accepting::Unix(listener) => {
                ready!(listener.poll_accept(cx)).map(|(stream, _)| (stream.into(), IpAddr::V4(Ipv4Addr::LOCALHOST)))
            }
        })
    }
}

/// How many connections a thread has, and may have.
pub(super) struct House {
    pub(super) open: Rc<Cell<usize>>,
    pub(super) most: usize,
    /// Who waits for room: one a listener.
    waiting: Rc<Cell<Vec<Waker>>>,
}

impl House {
    pub(super) fn new(most: usize) -> House {
        House { open: Rc::default(), most, waiting: Rc::default() }
    }

    /// The next connection of a listener for which there is room. That is looked at each time anew:
    /// the last room may go to another listener while this one waits for a client.
    async fn accept(&self, listener: &Accepting, full: impl Fn()) -> io::Result<(Socket, IpAddr)> {
        let mut is_full = false;
        poll_fn(|cx| {
            if self.open.get() < self.most {
                return listener.poll_accept(cx);
            }
            if !std::mem::replace(&mut is_full, true) {
                full();
            }
            let mut waiting = self.waiting.take();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            self.waiting.set(waiting);
            Poll::Pending
        })
        .await
    }
}

/// Accepts connections for as long as it is polled.
pub(super) async fn accept<H: Handler>(
    bound: Bound,
    thread: usize,
    common: Rc<Common<H>>,
    house: Rc<House>,
) -> io::Result<Infallible> {
    let Bound { door, socket, metrics } = bound;
    let listener = Accepting::new(socket)?;
    loop {
        match house.accept(&listener, || common.handler.limited(Limit::Connections)).await {
            Ok((socket, address)) => {
                // Proxies that are trusted, and whoever speaks on a Unix socket, connect for many clients.
                let is_one = matches!(listener, Accepting::Tcp(_)) && !door.trusts(address);
                let Ok(guest) = (if is_one { common.enter(address) } else { Ok(None) }) else { continue };
                // A TCP connection that comes has something to say, as tokio takes for granted. Where a
                // greeting comes first, nobody is waited for at the end who has not begun with it.
                let speaks = matches!(listener, Accepting::Tcp(_)) && !door.greets();
                let socket = if speaks { socket } else { socket.silent() };
                let counted = Counted::new(&house.open, &house.waiting, &metrics, thread);
                let (door, common) = (Arc::clone(&door), Rc::clone(&common));
                tokio::task::spawn_local(async move {
                    conn::serve(socket, address, door, common).await;
                    drop((counted, guest));
                });
            }
            // The client went before it was accepted: its trouble alone.
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(listener = &*door.name, %error, "cannot accept; trying again (out of descriptors? raise LimitNOFILE)");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
