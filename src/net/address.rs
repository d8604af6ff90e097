//! Owns: the address that a socket listens on, TCP or Unix, as the file writes it; which addresses are one client.
//! Invariant: an address that was parsed is displayed as it was written.
//! Must not know: who listens there.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The longest path of a Unix socket, in bytes: sockaddr_un holds 108, the last of them a NUL.
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
    /// Returns the TCP address, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// Returns the path of the Unix socket, if it is one.
    pub fn unix(&self) -> Option<&Path> {
        match self {
            Address::Tcp(_) => None,
            Address::Unix(path) => Some(path),
        }
    }

    /// Returns the address with an IPv4-mapped IPv6 address as the IPv4 address that it is (RFC 4291 §2.5.5.2).
    pub fn to_canonical(&self) -> Address {
        match self {
            Address::Tcp(address) => Address::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port())),
            Address::Unix(path) => Address::Unix(path.clone()),
        }
    }

    /// Returns the address with another port; that of a Unix socket as it is.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Address {
        match self {
            Address::Tcp(address) => Address::Tcp(SocketAddr::new(address.ip(), port)),
            Address::Unix(path) => Address::Unix(path.clone()),
        }
    }

    /// Returns the IP address, if there is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.tcp().map(|address| address.ip())
    }
}

/// Returns what limits by address count as one client: an IPv4 address, or a /64 network of IPv6. One customer has all
/// of the /64 (RFC 6177), and devices in it change their addresses as they like.
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Writes the address as the configuration has it.
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
    fn an_address_is_displayed_as_it_was_written() {
        for text in ["127.0.0.1:80", "[::1]:8080", "unix:/run/app.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "127.0.0.1", "unix:", "app:80", "unix:a\0b", &format!("unix:/{}", "x".repeat(107))] {
            assert_eq!(text.parse::<Address>(), Err(InvalidAddress), "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_has_one_canonical_form() {
        for (text, canonical) in
            [("[::ffff:10.0.0.1]:80", "10.0.0.1:80"), ("[::1]:80", "[::1]:80"), ("unix:/a//b", "unix:/a/b")]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_canonical(), canonical.parse().unwrap(), "{text}");
        }
    }
}
