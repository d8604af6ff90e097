//! Owns: where something listens, and a stream of bytes to it: TCP or a Unix socket, one word for both; what is one client.
//! Invariant: bytes pass unchanged; a Unix socket's file is ours alone while we listen.
//! Must not know: what is said on a stream, and by whom.

mod batch;
pub mod bind;
pub mod defer_accept;
pub mod descriptor_reserve;
pub mod interim;
pub mod local_addresses;
mod send_buffer;
mod socket;
mod stream;
pub mod syn_filter;
pub mod unix;

pub use batch::run_batcher;
pub use socket::{Socket, WriteProgress};
pub use stream::Stream;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The longest path of a Unix socket: sockaddr_un has room for 108 bytes, the last of them a NUL.
pub const MAX_SOCKET_PATH: usize = 107;

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP socket.
    Tcp(SocketAddr),
    /// A Unix socket: `unix:/run/app.sock`.
    Unix(PathBuf),
}

impl Address {
    /// The TCP address, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// The path of the Unix socket, if it is one.
    pub fn unix(&self) -> Option<&Path> {
        match self {
            Address::Tcp(_) => None,
            Address::Unix(path) => Some(path),
        }
    }

    /// The IP address, if there is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.tcp().map(|address| address.ip())
    }
}

/// What counts as one client where clients are limited by their address: all of a network of IPv6 that is
/// given to one (RFC 6177), whose devices change their addresses as they like.
pub fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// As the configuration writes it.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

impl From<([u8; 4], u16)> for Address {
    fn from(address: ([u8; 4], u16)) -> Address {
        Address::Tcp(address.into())
    }
}

/// The text is neither an IP address with a port nor `unix:` and a path that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidAddress;

impl std::fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "neither IP:port nor unix: and a path of at most {MAX_SOCKET_PATH} bytes")
    }
}

impl std::error::Error for InvalidAddress {}

impl std::str::FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Address, InvalidAddress> {
        match text.strip_prefix("unix:") {
            Some(path) if (1..=MAX_SOCKET_PATH).contains(&path.len()) && !path.contains('\0') => {
                Ok(Address::Unix(path.into()))
            }
            Some(_) => Err(InvalidAddress),
            None => text.parse().map(Address::Tcp).map_err(|_| InvalidAddress),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["127.0.0.1:80", "[::1]:8080", "unix:/run/app.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "127.0.0.1", "unix:", "app:80", "unix:a\0b", &format!("unix:/{}", "x".repeat(107))] {
            assert_eq!(text.parse::<Address>(), Err(InvalidAddress), "{text}");
        }
    }
}
