//! Owns: closing a listener without a reset: no handshake begins on it any more, while those under way are finished.
//! Invariant: packets of connections pass; a first SYN alone is dropped, and sent again by its client a second later.
//! Must not know: when that is, or what is done with the connections.

use std::io;
use std::os::fd::AsFd;

/// Has the kernel drop every first SYN that comes for `listener`.
///
/// Closing a listening socket resets what is in its queue and every handshake that is under way, and there is
/// always one on a busy listener. With this in place both run dry. A client whose SYN was dropped tries again by itself
/// after a second (RFC 6298 §2), and finds a successor, or is refused: never a connection that is cut off.
///
/// # Errors
/// If the system has no such filter: none but Linux has.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn attach(listener: &impl AsFd) -> io::Result<()> {
    use socket2::{SockFilter, SockRef};

    // Classic BPF, from the TCP header on; its byte 13 holds the flags.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    const DROP: u32 = 0;
    const PASS: u32 = u32::MAX;
    let filter = [
        // BPF_LD | BPF_B | BPF_ABS; BPF_ALU | BPF_AND | BPF_K; BPF_JMP | BPF_JEQ | BPF_K; BPF_RET | BPF_K, twice.
        SockFilter::new(0x30, 0, 0, FLAGS),
        SockFilter::new(0x54, 0, 0, SYN | ACK),
        SockFilter::new(0x15, 0, 1, SYN),
        SockFilter::new(0x06, 0, 0, DROP),
        SockFilter::new(0x06, 0, 0, PASS),
    ];
    SockRef::from(listener).attach_filter(&filter)
}

/// As on Linux.
///
/// # Errors
/// Always.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn attach(_: &impl AsFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    #[test]
    fn a_listener_with_it_takes_nobody_new_and_keeps_whom_it_has() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = TcpStream::connect(address).unwrap();
        attach(&listener).unwrap();
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(300));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (mut accepted, _) = listener.accept().unwrap();
        queued.write_all(b"ping").unwrap();
        let mut ping = [0; 4];
        accepted.read_exact(&mut ping).unwrap();
        drop(listener);
        accepted.write_all(b"pong").unwrap();
        queued.read_exact(&mut ping).unwrap();
        assert_eq!(&ping, b"pong");
    }
}
