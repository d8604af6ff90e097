//! Owns: the filter that keeps new handshakes from a listener, so that closing it resets no connection.
//! Invariant: it drops a client's first SYN only, which the client sends again after a second; all other packets pass.
//! Must not know: when a listener closes; what its connections are for.

use std::io;
use std::os::fd::AsFd;

/// Has the kernel drop every first SYN for `listener`.
///
/// Closing a listening socket resets the connections in its queue and every handshake under way, and a busy listener
/// always has one. With this filter both run dry. A client whose SYN was dropped sends it again after a second (RFC
/// 6298 §2): then a successor accepts it, or it is refused, but no connection breaks.
///
/// # Errors
/// The error of the system. Only Linux has such a filter.
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

/// Fails: only Linux has such a filter.
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
    fn a_filtered_listener_accepts_no_new_client_and_keeps_those_in_its_queue() {
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
