//! Owns: the admin listener, from its address to an open socket.
//! Invariant: only this machine, this user or a client with the token can read from it.
//! Must not know: what is served on it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use socket2::{Domain, Protocol, Socket, Type};

use super::settings::{Settings, SocketAccess};
use crate::net::Address;
use crate::net::bind::with_retry;
use crate::net::unix::{self, FileHandle, SocketFile};

const BACKLOG: i32 = 128;

/// An open admin listener.
#[derive(Debug)]
pub struct Bound(pub(super) Listener);

#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Bound {
    /// Takes over the socket of the admin listener from a process that no longer accepts connections there. Who may
    /// connect is what these settings say.
    ///
    /// # Errors
    /// It is no listening socket, its file is gone, or this user may not give the file to that group.
    pub fn adopt(settings: &Settings, socket: OwnedFd) -> io::Result<Bound> {
        Ok(Bound(match &settings.address {
            Address::Tcp(_) => {
                let listener = TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                Listener::Tcp(listener)
            }
            Address::Unix(path) => {
                let listener = UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                let file = SocketFile::new(path)?;
                unix::set_access(path, settings.socket.mode, settings.socket.group)?;
                Listener::Unix(listener, file)
            }
        }))
    }

    /// Returns another descriptor of the socket, and what leaves its file to another process, if it has one.
    ///
    /// # Errors
    /// The error of the system.
    pub fn share(&self) -> io::Result<(OwnedFd, Option<FileHandle>)> {
        Ok(match &self.0 {
            Listener::Tcp(listener) => (listener.as_fd().try_clone_to_owned()?, None),
            Listener::Unix(listener, file) => (listener.as_fd().try_clone_to_owned()?, Some(file.handle())),
        })
    }

    /// The TCP address, with the port that the system chose if it was 0.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }
}

/// Opens the admin listener. If `is_start`, waits some seconds for a predecessor to release the address.
///
/// # Errors
/// The address is in use or not available, or other machines could reach it and no token is set.
pub fn bind(settings: &Settings, is_start: bool) -> io::Result<Bound> {
    check_token(settings)?;
    match &settings.address {
        Address::Tcp(address) => {
            let bind = || TcpListener::bind(address);
            let listener = if is_start { with_retry(&settings.address, bind)? } else { bind()? };
            listener.set_nonblocking(true)?;
            Ok(Bound(Listener::Tcp(listener)))
        }
        Address::Unix(path) => {
            let SocketAccess { mode, group } = settings.socket;
            let bind = || unix::listen(path, mode, group, BACKLOG);
            let (listener, file) = if is_start { with_retry(&settings.address, bind)? } else { bind()? };
            Ok(Bound(Listener::Unix(listener, file)))
        }
    }
}

/// Checks whether [`bind`] would succeed, without anybody noticing: no client can connect meanwhile, no file is made, and
/// another process may bind the address at the same time.
///
/// # Errors
/// Those of [`bind`].
pub fn check(settings: &Settings) -> io::Result<()> {
    check_token(settings)?;
    match &settings.address {
        Address::Tcp(address) => {
            // With SO_REUSEADDR on both, Linux lets two sockets have an address of which neither listens. So this fails
            // if somebody listens there, and is in nobody's way.
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&(*address).into())
        }
        Address::Unix(path) => unix::check_free(path),
    }
}

fn check_token(settings: &Settings) -> io::Result<()> {
    if settings.token.as_ref().is_some_and(String::is_empty) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the admin token is empty: write one into token_file"));
    }
    match &settings.address {
        // The configuration's check reports this with its line; here it holds for every caller.
        Address::Tcp(address) if settings.token.is_none() && !address.ip().to_canonical().is_loopback() => {
            let why = format!("the admin listener on {address} is not on loopback: set token_file");
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    fn tcp(address: &str, token: Option<&str>) -> Settings {
        Settings::new(Address::Tcp(address.parse().unwrap()), token.map(Into::into))
    }

    #[test]
    fn an_address_that_other_machines_reach_needs_a_token() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            assert_eq!(bind(&tcp(address, None), true).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{address}");
        }
        assert_eq!(bind(&tcp("127.0.0.1:0", Some("")), true).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_ne!(bind(&tcp("127.0.0.1:0", None), true).unwrap().address().unwrap().port(), 0);
        assert!(bind(&tcp("0.0.0.0:0", Some("secret")), true).is_ok());
    }

    #[test]
    fn a_socket_file_belongs_to_its_process_and_is_removed_with_it() {
        let path = std::env::temp_dir().join(format!("linchpin-admin-bind-{}.sock", std::process::id()));
        let settings = Settings::new(Address::Unix(path.clone()), None);

        // Left behind by a process that was killed.
        drop(UnixListener::bind(&path).unwrap());
        let bound = bind(&settings, true).unwrap();
        assert_eq!(bound.address(), None);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();

        assert_eq!(bind(&settings, true).unwrap_err().kind(), io::ErrorKind::AddrInUse);

        // The file belongs to a successor now, and must stay.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not a socket").unwrap();
        drop(bound);
        assert_eq!(bind(&settings, true).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        std::fs::remove_file(&path).unwrap();

        drop(bind(&settings, true).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_check_finds_what_a_bind_would_and_disturbs_nobody() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = tcp(&holder.local_addr().unwrap().to_string(), None);
        assert_eq!(check(&taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(check(&tcp("192.0.2.1:0", Some("secret"))).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(check(&tcp("0.0.0.0:0", None)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        drop(holder);
        check(&taken).unwrap();

        let path = std::env::temp_dir().join(format!("linchpin-admin-check-{}.sock", std::process::id()));
        let settings = Settings::new(Address::Unix(path.clone()), None);
        check(&settings).unwrap();
        assert!(!path.exists());
        let _bound = bind(&settings, false).unwrap();
        assert_eq!(check(&settings).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
    }
}
