//! Owns: the estimate of how many bytes the kernel still takes for a socket.
//! Invariant: it costs one system call, and holds for this socket at this moment only.
//! Must not know: what is to be written.

use std::os::fd::AsFd;

/// Returns how many bytes the kernel still has space for in the socket's send buffer, which holds unsent and
/// unacknowledged bytes; 0 if it can't tell. It is half of what the kernel reports, since that counts its own
/// bookkeeping. The kernel lets the buffer grow with the connection.
#[cfg(target_os = "linux")]
pub fn available(socket: &impl AsFd) -> usize {
    let Ok(memory) = nix::sys::socket::getsockopt(socket, linux::MemInfo) else { return 0 };
    let [limit, queued] = [memory[linux::SNDBUF], memory[linux::WMEM_QUEUED]];
    (limit.saturating_sub(queued) / 2) as usize
}

/// Returns 0: only Linux can tell.
#[cfg(not(target_os = "linux"))]
pub fn available(_: &impl AsFd) -> usize {
    0
}

#[cfg(target_os = "linux")]
mod linux {
    use nix::libc;
    use nix::sys::socket::sockopt::GetStruct;

    /// The memory of a socket, and the indices that are used here, as in `linux/sock_diag.h`.
    type Memory = [u32; 9];
    pub(super) const SNDBUF: usize = 3;
    pub(super) const WMEM_QUEUED: usize = 5;

    /// Linux 4.12 and newer have it; libc has no name for it.
    const SO_MEMINFO: libc::c_int = 55;

    #[derive(Debug, Clone, Copy)]
    pub(super) struct MemInfo;

    nix::getsockopt_impl!(MemInfo, libc::SOL_SOCKET, SO_MEMINFO, Memory, GetStruct<Memory>);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "only Linux can tell")]
    fn there_is_space_until_the_peer_stops_reading() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _theirs = listener.accept().unwrap();
        assert!(available(&ours) >= 16 * 1024, "{}", available(&ours));
        ours.set_nonblocking(true).unwrap();
        while ours.write(&[0; 16 * 1024]).is_ok() {}
        assert!(available(&ours) < 64 * 1024, "{}", available(&ours));
    }
}
