//! Owns: the admin listener, from its address to an open socket.
//! Invariant: whoever can reach it may read it: this machine, this user, or the holder of the token.
//! Must not know: what is served on it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Address, Settings};

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
/// If the address is taken or not to be had, or if strangers could reach it and no token is set.
pub fn bind(settings: &Settings) -> io::Result<Bound> {
    if settings.token.as_ref().is_some_and(String::is_empty) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the admin token is empty"));
    }
    match &settings.address {
        Address::Tcp(address) => {
            // The configuration's check says this too, with its line; here it holds for every caller.
            if settings.token.is_none() && !address.ip().to_canonical().is_loopback() {
                let why = format!("an admin listener on {address}, which is not loopback, needs a token");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(Bound(Listener::Tcp(listener)))
        }
        Address::Unix(path) => {
            remove_stale(path)?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            let file = SocketFile::new(path)?;
            // Before `listen`: until then nobody can connect, so there is no moment of wider rights.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(Bound(Listener::Unix(socket.into(), file)))
        }
    }
}

/// Removes what a Linchpin that was killed left behind: a socket on which nobody listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose queue is full would make us wait.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on this socket")),
    }
}

/// The file of a Unix socket; removed when dropped, unless a successor has put its own in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_owned(), identity: SocketFile::identity(path)? })
    }

    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if SocketFile::identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // What stays behind is stale, and the next start removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn tcp(address: &str, token: Option<&str>) -> Settings {
        Settings { address: Address::Tcp(address.parse().unwrap()), token: token.map(Into::into) }
    }

    #[test]
    fn strangers_get_no_listener_without_a_token() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            assert_eq!(bind(&tcp(address, None)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{address}");
        }
        assert_eq!(bind(&tcp("127.0.0.1:0", Some(""))).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_ne!(bind(&tcp("127.0.0.1:0", None)).unwrap().address().unwrap().port(), 0);
        assert!(bind(&tcp("0.0.0.0:0", Some("secret"))).is_ok());
    }

    #[test]
    fn a_socket_file_is_ones_own_and_outlives_nobody() {
        let path = std::env::temp_dir().join(format!("linchpin-admin-bind-{}.sock", std::process::id()));
        let settings = Settings { address: Address::Unix(path.clone()), token: None };

        // Left behind by a process that was killed.
        drop(UnixListener::bind(&path).unwrap());
        let bound = bind(&settings).unwrap();
        assert_eq!(bound.address(), None);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();

        assert_eq!(bind(&settings).unwrap_err().kind(), io::ErrorKind::AddrInUse);

        // A successor's file is not ours to remove.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not a socket").unwrap();
        drop(bound);
        assert_eq!(bind(&settings).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        std::fs::remove_file(&path).unwrap();

        drop(bind(&settings).unwrap());
        assert!(!path.exists());
    }
}
