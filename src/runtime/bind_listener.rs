//! Owns: binding the sockets of a listener, one for each thread.
//! Invariant: no other process shares the address; a socket that is only bound accepts nothing.
//! Must not know: threads, and what accepts the connections.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcp};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnix;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};

use super::inherited::{self, InheritedSockets, SocketSource};
use super::listen::{ListenSocket, ThreadSocket};
use crate::net::defer_accept::defer;
use crate::net::unix::{self, SocketFile};
use crate::net::{Address, bind, local_addresses};

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 4096;

/// The mode of a Unix socket's file: every user who can reach its directory may connect, as with nginx.
const SOCKET_FILE_MODE: u32 = 0o666;

/// What to do about other sockets at the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflicts {
    /// Wait a few seconds for another process to release it.
    Await,
    /// Refuse an address that another process has.
    Refuse,
    /// A listener of this process has an overlapping address; refuse if another process has it, too.
    Own,
}

/// The sockets of one listener.
pub(super) struct BoundListener {
    /// Those of each thread.
    pub(super) by_thread: Vec<Vec<ThreadSocket>>,
    /// A descriptor of each socket.
    pub(super) descriptors: Vec<Arc<OwnedFd>>,
    /// The address, with the port that the system chose if it was 0.
    pub(super) address: Address,
    /// The file of a Unix socket.
    pub(super) file: BoundFile,
    /// Another process has the sockets as well, and keeps them.
    pub(super) is_shared: bool,
}

/// The file of a listener's socket.
pub(super) enum BoundFile {
    /// There is none, or another process looks after it.
    None,
    /// It is this process's own.
    Own(SocketFile),
    /// The process that has handed over the sockets leaves it to this one.
    Inherited(PathBuf),
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

impl BindError {
    /// Returns the address.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// Binds `address` for each of `threads` threads. `all` are the addresses of the configuration's listeners. Port 0 takes
/// a free port, the same for all threads. TCP sockets don't listen yet. A dry run leaves no file behind.
///
/// # Errors
/// The address can't be bound.
pub(super) fn bind(
    address: &Address,
    all: &[&Address],
    threads: usize,
    conflicts: Conflicts,
    is_dry_run: bool,
) -> Result<BoundListener, BindError> {
    let bound = match address {
        Address::Tcp(socket) => {
            let is_v6_only = socket.is_ipv6()
                && all.iter().any(|other| local_addresses::are_wildcards_of_both_families(address, other));
            bind_tcp(*socket, is_v6_only, threads, conflicts)
        }
        Address::Unix(path) => bind_unix(path, threads, conflicts, is_dry_run),
    };
    bound.map_err(|error| BindError { address: address.clone(), error })
}

fn bind_tcp(address: SocketAddr, is_v6_only: bool, threads: usize, conflicts: Conflicts) -> io::Result<BoundListener> {
    // With SO_REUSEPORT, a second Linchpin could silently share the address and take half of the clients. So a first
    // socket without it fails if the address is in use. It would also fail for another listener of this process that
    // overlaps, such as one that is about to close.
    let probe = || socket(address, is_v6_only, false);
    match conflicts {
        _ if address.port() == 0 => {}
        Conflicts::Await => drop(bind::with_retry(&address.into(), probe)?),
        Conflicts::Refuse => drop(probe()?),
        Conflicts::Own => {}
    }
    let mut bound_address = address;
    let mut bound = BoundListener::new(address.into(), threads);
    for thread in 0..threads {
        let socket = socket(bound_address, is_v6_only, true)?;
        bound_address = socket.local_addr()?;
        bound.add(ListenSocket::Tcp(socket), &[thread])?;
    }
    bound.address = bound_address.into();
    Ok(bound)
}

fn bind_unix(path: &Path, threads: usize, conflicts: Conflicts, is_dry_run: bool) -> io::Result<BoundListener> {
    let address = Address::Unix(path.into());
    if is_dry_run {
        unix::check_free(path)?;
        return Ok(BoundListener::new(address, threads));
    }
    let listen = || unix::listen(path, SOCKET_FILE_MODE, None, BACKLOG);
    let (listener, file) = if conflicts == Conflicts::Await { bind::with_retry(&address, listen)? } else { listen()? };
    let mut bound = BoundListener::new(address, threads);
    // Unix sockets have no SO_REUSEPORT: all threads accept from one queue.
    bound.add(ListenSocket::Unix(listener), &(0..threads).collect::<Vec<_>>())?;
    bound.file = BoundFile::Own(file);
    Ok(bound)
}

/// Has `threads` threads accept at sockets that another process has opened for `address`. Every socket stays in use,
/// however many threads there are: what is in its queue would be reset otherwise.
///
/// # Errors
/// They are no listening sockets, or no further one can be bound for the threads that have none.
pub(super) fn adopt(
    address: &Address,
    inherited: InheritedSockets,
    threads: usize,
) -> Result<BoundListener, BindError> {
    let adopted = match address {
        Address::Tcp(_) => adopt_tcp(address, inherited, threads),
        Address::Unix(_) => adopt_unix(address, inherited, threads),
    };
    adopted.map_err(|error| BindError { address: address.clone(), error })
}

fn adopt_tcp(address: &Address, inherited: InheritedSockets, threads: usize) -> io::Result<BoundListener> {
    let mut bound = BoundListener::new(address.clone(), threads);
    bound.is_shared = inherited.is_shared;
    let sockets: Vec<_> = inherited.sockets.into_iter().map(StdTcp::from).collect();
    let Some(first) = sockets.first() else { return Err(io::ErrorKind::NotFound.into()) };
    let bound_address = first.local_addr()?;
    bound.address = bound_address.into();
    let is_v6_only = bound_address.is_ipv6() && SockRef::from(first).only_v6()?;
    // Sockets join the group of an address only if all of them have SO_REUSEPORT.
    let can_join = !inherited.is_shared && SockRef::from(first).reuse_port()?;
    let mut threads_of = vec![Vec::new(); sockets.len()];
    for (thread, sources) in inherited::assign(sockets.len(), threads, can_join).into_iter().enumerate() {
        for source in sources {
            match source {
                SocketSource::Inherited(at) => threads_of.get_mut(at).into_iter().for_each(|of| of.push(thread)),
                SocketSource::New => {
                    bound.add(ListenSocket::Tcp(socket(bound_address, is_v6_only, true)?), &[thread])?
                }
            }
        }
    }
    for (socket, threads) in sockets.into_iter().zip(threads_of) {
        socket.set_nonblocking(true)?;
        bound.add(ListenSocket::Tcp(socket), &threads)?;
    }
    Ok(bound)
}

fn adopt_unix(address: &Address, inherited: InheritedSockets, threads: usize) -> io::Result<BoundListener> {
    let mut bound = BoundListener::new(address.clone(), threads);
    bound.is_shared = inherited.is_shared;
    if let (Address::Unix(path), false) = (address, inherited.is_shared) {
        bound.file = BoundFile::Inherited(path.clone());
    }
    for socket in inherited.sockets {
        let socket = StdUnix::from(socket);
        socket.set_nonblocking(true)?;
        bound.add(ListenSocket::Unix(socket), &(0..threads).collect::<Vec<_>>())?;
    }
    Ok(bound)
}

impl BoundListener {
    fn new(address: Address, threads: usize) -> BoundListener {
        let by_thread = (0..threads).map(|_| Vec::new()).collect();
        BoundListener { by_thread, descriptors: Vec::new(), address, file: BoundFile::None, is_shared: false }
    }

    /// Adds a socket at which these threads accept connections.
    fn add(&mut self, socket: ListenSocket, threads: &[usize]) -> io::Result<()> {
        let descriptor = Arc::new(socket.as_fd().try_clone_to_owned()?);
        for thread in threads {
            let Some(of_thread) = self.by_thread.get_mut(*thread) else { continue };
            let (descriptor, is_shared) = (Arc::clone(&descriptor), self.is_shared);
            of_thread.push(ThreadSocket { socket: socket.try_clone()?, descriptor, is_shared });
        }
        self.descriptors.push(descriptor);
        Ok(())
    }

    /// Lets clients connect.
    ///
    /// # Errors
    /// The system refuses it.
    pub(super) fn listen(&self) -> Result<(), BindError> {
        let listen = |socket: &ThreadSocket| match &socket.socket {
            // Where it listens already, this sets the length of its queue.
            ListenSocket::Tcp(socket) => SockRef::from(socket).listen(BACKLOG),
            // It listens since it was bound.
            ListenSocket::Unix(_) => Ok(()),
        };
        self.by_thread
            .iter()
            .flatten()
            .try_for_each(listen)
            .map_err(|error| BindError { address: self.address.clone(), error })
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
    }
    Ok(socket.into())
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
