//! Owns: the two addresses that the demo is given: whether they can be had, and what one types to get there.
//! Invariant: what can't be had is found out before anything is started, and the message says which option helps.
//! Must not know: what listens there.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use crate::net::own;

/// Of a machine with many interfaces, so many addresses are named.
const MAX_LISTED: usize = 3;

/// Keeps both addresses from everybody else, the demo's own backends included, until the proxy takes them.
#[derive(Debug)]
pub(super) struct Reserved {
    _listen: TcpListener,
    _admin: TcpListener,
}

/// Reserves the addresses. The proxy shares its ports between threads, and so might share them with another Linchpin;
/// this does not.
pub(super) fn reserve(listen: SocketAddr, admin: SocketAddr) -> Result<Reserved, AddressError> {
    if own::overlap(&listen.into(), &admin.into()) {
        return Err(AddressError::SamePort { listen, admin });
    }
    let bind = |address, option| {
        TcpListener::bind(address).map_err(|source| AddressError::Unavailable { address, option, source })
    };
    Ok(Reserved { _listen: bind(listen, "--listen")?, _admin: bind(admin, "--admin")? })
}

/// Why an address can't be had.
#[derive(Debug)]
pub enum AddressError {
    /// Both options say the same one.
    SamePort {
        /// That of the proxy.
        listen: SocketAddr,
        /// That of the dashboard.
        admin: SocketAddr,
    },
    /// The system does not give it.
    Unavailable {
        /// The address.
        address: SocketAddr,
        /// The option that chooses another.
        option: &'static str,
        /// What the system said.
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
                    "--listen {listen} and --admin {admin} need the same port; give one of them another, e.g. --admin {other}"
                );
            }
            Self::Unavailable { address, option, source } => (address, option, source),
        };
        write!(f, "the demo cannot listen on {address}: {source}; ")?;
        // With port 0 the system chooses one, so that this advice always works.
        let any_port = SocketAddr::new(address.ip(), 0);
        match source.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "another program has it (`ss -ltnp 'sport = :{}'` tells which): end that one, or take any free port \
                 with {option} {any_port}",
                address.port()
            ),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "no interface of this machine has that address: take {option} 127.0.0.1:{}", address.port())
            }
            io::ErrorKind::PermissionDenied => {
                write!(f, "ports below 1024 are not for everybody: take any free port with {option} {any_port}")
            }
            _ => write!(f, "take another address, e.g. {option} 127.0.0.1:0"),
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

/// Whether only this machine gets there.
pub(super) fn is_loopback_only(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Where a browser finds who listens at `listening`: first from this machine, then from others. A wildcard is no address
/// that one can type everywhere.
pub(super) fn reachable_addresses(listening: SocketAddr, interfaces: &HashSet<IpAddr>) -> Vec<SocketAddr> {
    if !listening.ip().is_unspecified() {
        return vec![listening];
    }
    let loopback: IpAddr = if listening.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let reachable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        // One of a link needs its interface named.
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
    fn says_which_option_helps_when_an_address_is_taken() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let (taken, free) = (other.local_addr().unwrap(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let failure = reserve(free, taken).unwrap_err().to_string();
        for words in [&taken.to_string(), "another program has it", "--admin 127.0.0.1:0"] {
            assert!(failure.contains(words), "{failure}");
        }
        drop(other);
        assert!(reserve(free, taken).is_ok());
        assert!(reserve(taken, free).is_ok());
    }

    #[test]
    fn an_address_that_this_machine_has_not_is_not_said_to_be_taken() {
        let failure = reserve(([192, 0, 2, 1], 80).into(), ([127, 0, 0, 1], 0).into()).unwrap_err().to_string();
        assert!(failure.contains("--listen 127.0.0.1:80") && !failure.contains("another program"), "{failure}");
    }

    #[test]
    fn two_options_that_need_one_port_are_told_apart_from_a_stranger_who_has_it() {
        for (listen, admin) in
            [("127.0.0.1:80", "127.0.0.1:80"), ("0.0.0.0:80", "127.0.0.1:80"), ("127.0.0.1:80", "[::]:80")]
        {
            let failure = reserve(listen.parse().unwrap(), admin.parse().unwrap()).unwrap_err();
            assert!(matches!(failure, AddressError::SamePort { .. }), "{failure}");
        }
    }

    #[test]
    fn a_reserved_address_is_nobody_else_s() {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let reserved = reserve(free, free).unwrap();
        let held = reserved._listen.local_addr().unwrap();
        assert!(TcpListener::bind(held).is_err());
        drop(reserved);
        assert!(TcpListener::bind(held).is_ok());
    }

    #[test]
    fn a_wildcard_is_said_as_addresses_that_one_can_type() {
        let interfaces =
            ["127.0.0.1", "::1", "10.0.0.5", "2001:db8::5", "fe80::1"].map(|ip| ip.parse().unwrap()).into();
        let ways = |listening: &str| -> Vec<_> {
            reachable_addresses(listening.parse().unwrap(), &interfaces).iter().map(SocketAddr::to_string).collect()
        };
        assert_eq!(ways("127.0.0.1:80"), ["127.0.0.1:80"]);
        assert_eq!(ways("10.0.0.5:80"), ["10.0.0.5:80"]);
        assert_eq!(ways("0.0.0.0:80"), ["127.0.0.1:80", "10.0.0.5:80"]);
        assert_eq!(ways("[::]:80"), ["[::1]:80", "10.0.0.5:80", "[2001:db8::5]:80"]);
    }
}
