//! Owns: the socket option that delays accepting a connection until its client has sent something.
//! Invariant: a silent connection can be accepted a second later.
//! Must not know: who listens, and what for.

use std::io;
use std::os::fd::AsFd;

#[cfg(target_os = "linux")]
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt::SetUsize},
};

/// How long the kernel keeps a silent connection, in seconds. It counts in retransmissions of its SYN-ACK: the first is
/// after a second.
#[cfg(target_os = "linux")]
const SILENCE: usize = 1;

/// TCP_DEFER_ACCEPT (tcp(7)), which neither the standard library nor socket2 offers.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy)]
struct DeferAccept;

#[cfg(target_os = "linux")]
nix::setsockopt_impl!(DeferAccept, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, usize, SetUsize);

/// Has the kernel report a connection to `listener` when its first bytes have arrived, as Apache does. This saves a
/// wake-up for each, and a client that connects and sends nothing costs only the kernel's own entry.
///
/// # Errors
/// The error of the system. Only Linux has this option.
#[cfg(target_os = "linux")]
pub fn defer(listener: &impl AsFd) -> io::Result<()> {
    setsockopt(listener, DeferAccept, &SILENCE).map_err(io::Error::from)
}

/// Has the kernel report connections to `listener` at once again. It reports those that it keeps already within a
/// second.
///
/// # Errors
/// The error of the system, as with [`defer`].
#[cfg(target_os = "linux")]
pub fn undefer(listener: &impl AsFd) -> io::Result<()> {
    setsockopt(listener, DeferAccept, &0).map_err(io::Error::from)
}

/// Fails: only Linux has this option.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn defer(_: &impl AsFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Fails: only Linux has this option.
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

    /// Waits for the next connection, and returns how long that took.
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
    fn a_connection_is_reported_with_its_first_byte_or_its_end_and_a_silent_one_later() {
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
