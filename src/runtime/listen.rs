//! Owns: sockets that clients connect to.
//! Invariant: bound before any thread starts, one a thread and address (SO_REUSEPORT); a full house leaves clients in the kernel's queue.
//! Must not know: what is said on a connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::ListenerSettings;
use super::conn::{self, Common, Counted, Handler};
use crate::telemetry::metrics::{Listener, Metrics};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// All sockets of one process, by thread.
pub struct Listeners {
    addresses: Vec<SocketAddr>,
    by_thread: Vec<Vec<Bound>>,
}

/// One thread's socket of one listener.
pub(super) struct Bound {
    name: Arc<str>,
    socket: StdListener,
    metrics: Arc<Listener>,
}

/// A listener's address can't be had.
#[derive(Debug)]
pub struct BindError {
    address: SocketAddr,
    error: io::Error,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let BindError { address, error } = self;
        write!(f, "cannot listen on {address}: {error}")?;
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                write!(f, "; another program has it (`ss -ltnp 'sport = :{}'` tells which)", address.port())
            }
            io::ErrorKind::PermissionDenied => {
                write!(f, "; ports below 1024 need CAP_NET_BIND_SERVICE, as systemd's AmbientCapabilities gives it")
            }
            io::ErrorKind::AddrNotAvailable => write!(f, "; no interface of this machine has that address"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {}

impl Listeners {
    /// Binds every listener once for each of `threads` threads. Port 0 takes a free port, the same
    /// for all threads.
    ///
    /// # Errors
    /// The first address that can't be had.
    pub fn bind(settings: &[ListenerSettings], threads: usize, metrics: &Metrics) -> Result<Listeners, BindError> {
        let mut addresses = Vec::new();
        let mut by_thread: Vec<Vec<Bound>> = (0..threads.max(1)).map(|_| Vec::new()).collect();
        for each in settings {
            let name: Arc<str> = each.name.as_str().into();
            let failed = |error| BindError { address: each.address, error };
            // SO_REUSEPORT would let a second Linchpin share the address and take half the clients
            // without a word: a first socket without it finds out.
            if each.address.port() != 0 {
                socket(each.address, false).map_err(failed)?;
            }
            let mut address = each.address;
            for sockets in &mut by_thread {
                let socket = socket(address, true).map_err(failed)?;
                address = socket.local_addr().map_err(failed)?;
                let metrics = metrics.listener(&name);
                sockets.push(Bound { name: Arc::clone(&name), socket, metrics });
            }
            addresses.push(address);
        }
        Ok(Listeners { addresses, by_thread })
    }

    /// Where they listen, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(super) fn into_threads(self) -> Vec<Vec<Bound>> {
        self.by_thread
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    // Accepted sockets inherit it: a system call less a connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
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
    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| {
            if self.open.get() < self.most {
                return listener.poll_accept(cx);
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
    let Bound { name, socket, metrics } = bound;
    let listener = TcpListener::from_std(socket)?;
    loop {
        match house.accept(&listener).await {
            Ok((stream, peer)) => {
                let counted = Counted::new(&house.open, &house.waiting, &metrics, thread);
                let client = Rc::new(common.handler.client(&name, peer.ip()));
                let common = Rc::clone(&common);
                tokio::task::spawn_local(async move {
                    conn::serve(stream, client, common).await;
                    drop(counted);
                });
            }
            // The client went before it was accepted: its trouble alone.
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(listener = &*name, %error, "cannot accept; trying again (out of descriptors? raise LimitNOFILE)");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
