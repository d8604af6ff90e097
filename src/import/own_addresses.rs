//! Owns: the addresses at which the source listens itself.
//! Invariant: `net::local_addresses` decides, for a machine whose interfaces are unknown; no file is read.
//! Must not know: what follows if an address is one of them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::{Address, local_addresses};

/// Listeners by their canonical address.
#[derive(Debug, Default)]
pub(super) struct OwnAddresses(HashMap<Address, usize>);

impl OwnAddresses {
    /// Adds a listener, unless there is one at the same address.
    pub(super) fn add(&mut self, address: &Address, listener: usize) {
        self.0.entry(address.to_canonical()).or_insert(listener);
    }

    /// Returns whether a connection to `target` reaches one of these listeners.
    ///
    /// The interfaces of this machine do not count, as the source may be another machine's.
    pub(super) fn has(&self, target: &Address) -> bool {
        self.near(target).any(|(listening, _)| local_addresses::reaches(target, &listening, &HashSet::new()))
    }

    /// Returns the listener that can't listen beside one at `address`; of several, the one of its IP version.
    pub(super) fn overlapping(&self, address: &Address) -> Option<usize> {
        let conflicts = |other: &Address| {
            local_addresses::overlap(address, other) && !local_addresses::are_wildcards_of_both_families(address, other)
        };
        self.near(address).find(|(other, _)| conflicts(other)).map(|(_, listener)| listener)
    }

    /// Returns the listeners at this address, and at the wildcard and loopback addresses of its port: one look-up
    /// each, as there may be a hundred thousand listeners.
    fn near(&self, address: &Address) -> impl Iterator<Item = (Address, usize)> {
        let at = |ip: IpAddr, port| Address::Tcp(SocketAddr::new(ip, port));
        let others = address.tcp().map(|tcp| {
            let v4 = [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST].map(|ip| at(ip.into(), tcp.port()));
            let v6 = [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST].map(|ip| at(ip.into(), tcp.port()));
            v4.into_iter().chain(v6)
        });
        let all = [address.to_canonical()].into_iter().chain(others.into_iter().flatten());
        all.filter_map(|key| self.0.get(&key).map(|listener| (key, *listener)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(addresses: &[&str]) -> OwnAddresses {
        let mut own = OwnAddresses::default();
        for (index, address) in addresses.iter().enumerate() {
            own.add(&address.parse().unwrap(), index);
        }
        own
    }

    #[test]
    fn a_listener_is_reached_at_its_address_and_a_wildcard_by_loopback() {
        let own = own(&["0.0.0.0:80", "10.0.0.4:81", "[::]:82", "127.0.0.1:83", "unix:/run/a.sock"]);
        for (target, is_own) in [
            ("127.0.0.1:80", true),
            ("127.8.8.8:80", true),
            ("0.0.0.0:80", true),
            ("10.0.0.4:80", false),
            ("[::1]:80", false),
            ("10.0.0.4:81", true),
            ("[::ffff:10.0.0.4]:81", true),
            ("127.0.0.1:81", false),
            ("127.0.0.1:82", true),
            ("[::1]:82", true),
            ("0.0.0.0:83", true),
            ("127.0.0.2:83", false),
            ("unix:/run//a.sock", true),
            ("unix:/run/b.sock", false),
        ] {
            assert_eq!(own.has(&target.parse().unwrap()), is_own, "{target}");
        }
    }

    #[test]
    fn a_wildcard_overlaps_with_the_addresses_of_its_port() {
        let own = own(&["[::]:80", "0.0.0.0:80", "[::]:81", "10.0.0.4:82", "unix:/run/a.sock"]);
        for (address, listener) in [
            ("10.0.0.4:80", Some(1)),
            ("[::1]:80", Some(0)),
            ("[::ffff:10.0.0.4]:80", Some(1)),
            ("10.0.0.4:81", Some(2)),
            ("0.0.0.0:81", None),
            ("[::ffff:10.0.0.4]:82", Some(3)),
            ("10.0.0.5:82", None),
            ("unix:/run//a.sock", Some(4)),
        ] {
            assert_eq!(own.overlapping(&address.parse().unwrap()), listener, "{address}");
        }
    }
}
