//! Owns: the admin listener, from its address to an open socket.
//! Invariant: only this machine, this user or a client with the token can read from it.
//! Must not know: what is served on it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use super::settings::Settings;
use crate::net::Address;
use crate::net::bind::with_retry;
use crate::net::unix::{self, SocketFile};

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
    /// The TCP address, with the port that the system chose if it was 0.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }
}

/// Opens the admin listener.
///
/// # Errors
/// The address is in use or not available, or other machines could reach it and no token is set.
pub fn bind(settings: &Settings) -> io::Result<Bound> {
    if settings.token.as_ref().is_some_and(String::is_empty) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the admin token is empty: write one into token_file"));
    }
    match &settings.address {
        Address::Tcp(address) => {
            // The configuration's check reports this with its line; here it holds for every caller.
            if settings.token.is_none() && !address.ip().to_canonical().is_loopback() {
                let why = format!("the admin listener on {address} is not on loopback: set token_file");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            let listener = with_retry(&settings.address, || TcpListener::bind(address))?;
            listener.set_nonblocking(true)?;
            Ok(Bound(Listener::Tcp(listener)))
        }
        Address::Unix(path) => {
            let (listener, file) = with_retry(&settings.address, || unix::listen(path, 0o600, BACKLOG))?;
            Ok(Bound(Listener::Unix(listener, file)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    fn tcp(address: &str, token: Option<&str>) -> Settings {
        Settings { address: Address::Tcp(address.parse().unwrap()), token: token.map(Into::into) }
    }

    #[test]
    fn an_address_that_other_machines_reach_needs_a_token() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            assert_eq!(bind(&tcp(address, None)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{address}");
        }
        assert_eq!(bind(&tcp("127.0.0.1:0", Some(""))).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_ne!(bind(&tcp("127.0.0.1:0", None)).unwrap().address().unwrap().port(), 0);
        assert!(bind(&tcp("0.0.0.0:0", Some("secret"))).is_ok());
    }

    #[test]
    fn a_socket_file_belongs_to_its_process_and_is_removed_with_it() {
        let path = std::env::temp_dir().join(format!("linchpin-admin-bind-{}.sock", std::process::id()));
        let settings = Settings { address: Address::Unix(path.clone()), token: None };

        // Left behind by a process that was killed.
        drop(UnixListener::bind(&path).unwrap());
        let bound = bind(&settings).unwrap();
        assert_eq!(bound.address(), None);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();

        assert_eq!(bind(&settings).unwrap_err().kind(), io::ErrorKind::AddrInUse);

        // The file belongs to a successor now, and must stay.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not a socket").unwrap();
        drop(bound);
        assert_eq!(bind(&settings).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        std::fs::remove_file(&path).unwrap();

        drop(bind(&settings).unwrap());
        assert!(!path.exists());
    }
}
