//! Owns: how much more a socket's kernel takes at once.
//! Invariant: an estimate that costs a system call, and is right for the socket alone that was asked about.
//! Must not know: what is to be sent.

use std::os::fd::AsFd;

/// Bytes that the kernel has room for in what waits to be sent on `socket`, or is sent and not acknowledged; 0 where it
/// can't tell. Half of what it says: it counts its own bookkeeping in. It lets the limit grow with the connection.
#[cfg(target_os = "linux")]
pub fn available(socket: &impl AsFd) -> usize {
    let Ok(memory) = nix::sys::socket::getsockopt(socket, linux::MemInfo) else { return 0 };
    let [limit, queued] = [memory[linux::SNDBUF], memory[linux::WMEM_QUEUED]];
    (limit.saturating_sub(queued) / 2) as usize
}

/// As on Linux.
#[cfg(not(target_os = "linux"))]
pub fn available(_: &impl AsFd) -> usize {
    0
}

#[cfg(target_os = "linux")]
mod linux {
    use nix::libc;
    use nix::sys::socket::sockopt::GetStruct;

    /// What is known of a socket's memory, as `linux/sock_diag.h` has it, and the places in it that are of use here.
    type Memory = [u32; 9];
    pub(super) const SNDBUF: usize = 3;
    pub(super) const WMEM_QUEUED: usize = 5;

    /// Linux 4.12 and newer; libc has no name for it.
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
    fn there_is_room_until_the_other_side_has_read_nothing_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _theirs = listener.accept().unwrap();
        assert!(available(&ours) >= 16 * 1024, "{}", available(&ours));
        ours.set_nonblocking(true).unwrap();
        while ours.write(&[0; 16 * 1024]).is_ok() {}
        assert!(available(&ours) < 64 * 1024, "{}", available(&ours));
    }
}
