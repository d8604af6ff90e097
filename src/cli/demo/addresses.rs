//! Owns: the demo's two addresses: whether they can be used, and under which addresses a browser reaches them.
//! Invariant: an unusable address is detected before anything starts, and the message names the option to change.
//! Must not know: what listens there.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use crate::net::local_addresses;

/// Most addresses listed of a machine with many interfaces.
const MAX_LISTED: usize = 3;

/// Holds both addresses until the proxy binds them, so that no other program, nor a demo backend, takes them.
#[derive(Debug)]
pub(super) struct Reserved {
    _listen: TcpListener,
    _admin: TcpListener,
}

/// Reserves the addresses. These sockets, unlike the proxy's, don't set SO_REUSEPORT, so that an address that another
/// Linchpin listens on is refused.
pub(super) fn reserve(listen: SocketAddr, admin: SocketAddr) -> Result<Reserved, AddressError> {
    if local_addresses::overlap(&listen.into(), &admin.into()) {
        return Err(AddressError::SamePort { listen, admin });
    }
    let bind = |address, option| {
        TcpListener::bind(address).map_err(|source| AddressError::Unavailable { address, option, source })
    };
    Ok(Reserved { _listen: bind(listen, "--listen")?, _admin: bind(admin, "--admin")? })
}

/// Why an address can't be used.
#[derive(Debug)]
pub enum AddressError {
    /// Both options need the same port.
    SamePort {
        /// The proxy's address.
        listen: SocketAddr,
        /// The dashboard's address.
        admin: SocketAddr,
    },
    /// The system refuses to bind it.
    Unavailable {
        /// The address.
        address: SocketAddr,
        /// The option that sets it.
        option: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, option, source) = match self {
            Self::SamePort { listen, admin } => {
                let other = SocketAddr::new(admin.ip(), 0);
                return write!(
                    f,
                    "--listen {listen} and --admin {admin} need the same port; choose another for one of them, e.g. --admin {other}"
                );
            }
            Self::Unavailable { address, option, source } => (address, option, source),
        };
        write!(f, "the demo cannot listen on {address}: {source}; ")?;
        // With port 0 the system picks a free port, so that this advice always works.
        let any_port = SocketAddr::new(address.ip(), 0);
        match source.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "another program uses it (`ss -ltnp 'sport = :{}'` shows which); stop that program, or take any free \
                 port with {option} {any_port}",
                address.port()
            ),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "no interface of this machine has that address; use {option} 127.0.0.1:{}", address.port())
            }
            io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "ports below 1024 need root or CAP_NET_BIND_SERVICE; take any free port with {option} {any_port}"
                )
            }
            _ => write!(f, "use another address, e.g. {option} 127.0.0.1:0"),
        }
    }
}

impl std::error::Error for AddressError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::SamePort { .. } => None,
            Self::Unavailable { source, .. } => Some(source),
        }
    }
}

/// Whether only this machine can reach the address.
pub(super) fn is_loopback_only(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Returns the addresses under which browsers reach `listening`: first from this machine, then from others. A browser
/// can't open a wildcard address, so the addresses of its interfaces stand for it.
pub(super) fn reachable_addresses(listening: SocketAddr, interfaces: &HashSet<IpAddr>) -> Vec<SocketAddr> {
    if !listening.ip().is_unspecified() {
        return vec![listening];
    }
    let loopback: IpAddr = if listening.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let reachable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        // A link-local address would need its interface's name.
        IpAddr::V6(ip) => listening.is_ipv6() && !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let mut others: Vec<_> = interfaces.iter().copied().filter(reachable).collect();
    others.sort_unstable();
    others.truncate(MAX_LISTED);
    std::iter::once(loopback).chain(others).map(|ip| SocketAddr::new(ip, listening.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_option_to_change_when_an_address_is_taken() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let (taken, free) = (other.local_addr().unwrap(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let failure = reserve(free, taken).unwrap_err().to_string();
        for words in [&taken.to_string(), "another program uses it", "--admin 127.0.0.1:0"] {
            assert!(failure.contains(words), "{failure}");
        }
        drop(other);
        assert!(reserve(free, taken).is_ok());
        assert!(reserve(taken, free).is_ok());
    }

    #[test]
    fn an_address_of_no_interface_is_not_reported_as_taken() {
        let failure = reserve(([192, 0, 2, 1], 80).into(), ([127, 0, 0, 1], 0).into()).unwrap_err().to_string();
        assert!(failure.contains("--listen 127.0.0.1:80") && !failure.contains("another program"), "{failure}");
    }

    #[test]
    fn two_options_with_one_port_are_not_reported_as_another_program_s() {
        for (listen, admin) in
            [("127.0.0.1:80", "127.0.0.1:80"), ("0.0.0.0:80", "127.0.0.1:80"), ("127.0.0.1:80", "[::]:80")]
        {
            let failure = reserve(listen.parse().unwrap(), admin.parse().unwrap()).unwrap_err();
            assert!(matches!(failure, AddressError::SamePort { .. }), "{failure}");
        }
    }

    #[test]
    fn a_reserved_address_cannot_be_bound_by_others() {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let reserved = reserve(free, free).unwrap();
        let held = reserved._listen.local_addr().unwrap();
        assert!(TcpListener::bind(held).is_err());
        drop(reserved);
        assert!(TcpListener::bind(held).is_ok());
    }

    #[test]
    fn a_wildcard_is_listed_as_addresses_that_a_browser_opens() {
        let interfaces =
            ["127.0.0.1", "::1", "10.0.0.5", "2001:db8::5", "fe80::1"].map(|ip| ip.parse().unwrap()).into();
        let reachable = |listening: &str| -> Vec<_> {
            reachable_addresses(listening.parse().unwrap(), &interfaces).iter().map(SocketAddr::to_string).collect()
        };
        assert_eq!(reachable("127.0.0.1:80"), ["127.0.0.1:80"]);
        assert_eq!(reachable("10.0.0.5:80"), ["10.0.0.5:80"]);
        assert_eq!(reachable("0.0.0.0:80"), ["127.0.0.1:80", "10.0.0.5:80"]);
        assert_eq!(reachable("[::]:80"), ["[::1]:80", "10.0.0.5:80", "[2001:db8::5]:80"]);
    }
}
