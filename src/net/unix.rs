//! Owns: the files of the Unix sockets that this process listens on.
//! Invariant: it replaces a file only if no process listens on it, and removes its own files when it stops.
//! Must not know: who connects.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockAddr, Socket, Type};

/// Listens on the Unix socket at `path`. `mode` is the file's mode, and `group` the id of its group, if that is not the
/// process's own: users with write permission may connect.
///
/// # Errors
/// If another process listens there, if a file there is not a socket, or the error of the system.
pub fn listen(path: &Path, mode: u32, group: Option<u32>, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::new(path)?;
    // Before `listen`: until then nobody can connect, so the permissions are never too wide.
    set_access(path, mode, group)?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), file))
}

/// Sets who may connect to the Unix socket at `path`.
///
/// # Errors
/// The file is not there, or this user may not give it to that group.
pub fn set_access(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    // In this order: the new group never has the permissions of the old one.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o700))?;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Checks that no process listens on the Unix socket at `path`, and that no other file is there. Changes nothing.
///
/// # Errors
/// Those of [`listen`], as far as they are known beforehand.
pub fn check_free(path: &Path) -> io::Result<()> {
    is_stale(path).map(drop)
}

/// Removes the socket that a killed Linchpin left behind, on which no process listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    if is_stale(path)? { std::fs::remove_file(path) } else { Ok(()) }
}

/// Returns whether there is a socket on which no process listens.
fn is_stale(path: &Path) -> io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is not a socket is in its place; move it away",
            ));
        }
        Ok(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener with a full queue would block the connect.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on this socket")),
    }
}

/// The file of a Unix socket. Dropping it removes the file, unless a successor has replaced it by its own.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    handle: FileHandle,
}

/// Leaves the file of a socket to another process, wherever its [`SocketFile`] is.
#[derive(Debug, Clone, Default)]
pub struct FileHandle(Arc<AtomicBool>);

impl FileHandle {
    /// Leaves the file to another process: dropping the [`SocketFile`] no longer removes it.
    pub fn release(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl SocketFile {
    /// Takes over the file of a socket that another process has bound and handed over.
    ///
    /// # Errors
    /// There is no such file.
    pub fn new(path: &Path) -> io::Result<SocketFile> {
        let (identity, handle) = (SocketFile::identity(path)?, FileHandle::default());
        Ok(SocketFile { path: path.to_owned(), identity, handle })
    }

    /// Returns what leaves the file to another process.
    pub fn handle(&self) -> FileHandle {
        self.handle.clone()
    }

    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_own = !self.handle.0.load(Ordering::Relaxed);
        if is_own && SocketFile::identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // A file that stays behind is stale, and the next start removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
