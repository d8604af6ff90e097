//! Owns: that the kernel keeps a connection to itself until there is something to read on it.
//! Invariant: one that stays silent comes, too, a second later.
//! Must not know: who listens, and to what.

use std::io;
use std::os::fd::AsFd;

#[cfg(target_os = "linux")]
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt::SetUsize},
};

/// How long a silent one is kept, in seconds. The kernel counts in times that it has to remind the client
/// of its handshake: the first is after a second.
#[cfg(target_os = "linux")]
const SILENCE: usize = 1;

/// TCP_DEFER_ACCEPT (tcp(7)), which neither the standard library nor socket2 has.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy)]
struct DeferAccept;

#[cfg(target_os = "linux")]
nix::setsockopt_impl!(DeferAccept, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, usize, SetUsize);

/// Has the kernel tell of connections to `listener` when something has come on them, as Apache does: one
/// wake-up less for each, and who connects and says nothing costs nothing but the kernel's note of it.
///
/// # Errors
/// If the system has no such thing: none but Linux has.
#[cfg(target_os = "linux")]
pub fn defer(listener: &impl AsFd) -> io::Result<()> {
    setsockopt(listener, DeferAccept, &SILENCE).map_err(io::Error::from)
}

/// Has the kernel tell of connections to `listener` as soon as they are there. Those that it keeps already come
/// within a second.
///
/// # Errors
/// As those of [`defer`].
#[cfg(target_os = "linux")]
pub fn undefer(listener: &impl AsFd) -> io::Result<()> {
    setsockopt(listener, DeferAccept, &0).map_err(io::Error::from)
}

/// As on Linux.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn defer(_: &impl AsFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// As on Linux.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn undefer(_: &impl AsFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    /// Waits for the next connection, and says how long.
    fn accepted(listener: &TcpListener) -> Duration {
        let begun = Instant::now();
        while let Err(error) = listener.accept() {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
        begun.elapsed()
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "only Linux can")]
    fn a_connection_comes_with_its_first_byte_or_its_end_and_a_silent_one_later() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        defer(&listener).unwrap();
        listener.set_nonblocking(true).unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let silent = connect();
        let mut speaking = connect();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        speaking.write_all(b"x").unwrap();
        accepted(&listener);
        drop(connect());
        accepted(&listener);
        accepted(&listener);
        drop(silent);
    }
}
