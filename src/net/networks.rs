//! Owns: sets of IP networks, and whether an address is in one of them.
//! Invariant: a lookup takes logarithmic time, however many networks there are; spellings of an address are equal.
//! Must not know: what the networks are for.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// A set of networks. An IPv4 network also contains its addresses as IPv6 writes them (`::ffff:10.0.0.1`), and a network
/// of such addresses is that IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks {
    /// The first and last address of each range, in order; no two of them touch.
    ranges: Box<[(u128, u128)]>,
}

impl Networks {
    /// Makes the set of these networks.
    pub fn new(networks: &[IpNet]) -> Networks {
        let mut ranges: Vec<_> = networks.iter().map(|net| (number(net.network()), number(net.broadcast()))).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Networks { ranges: merged.into() }
    }

    /// Whether the set has no address.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `address` is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = number(address);
        let after = self.ranges.partition_point(|(first, _)| *first <= address);
        after.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|(_, last)| address <= *last)
    }

    /// Whether each address of `other` is in this set.
    pub fn covers(&self, other: &Networks) -> bool {
        let is_covered =
            |(first, last): &(u128, u128)| self.ranges.iter().any(|(own, end)| own <= first && last <= end);
        other.ranges.iter().all(is_covered)
    }
}

/// Returns an address as a number; an IPv4 address as IPv6 writes it.
fn number(address: IpAddr) -> u128 {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    Ipv6Addr::to_bits(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(networks: &[&str]) -> Networks {
        let networks: Vec<IpNet> = networks.iter().map(|net| net.parse().unwrap()).collect();
        Networks::new(&networks)
    }

    #[test]
    fn an_address_is_in_a_set_however_it_is_written() {
        let set = set(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32", "::ffff:198.51.100.0/120"]);
        for (address, is_in) in [
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("::ffff:10.1.2.3", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("198.51.100.200", true),
            ("::", false),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), is_in, "{address}");
        }
        assert!(!Networks::default().contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_set_covers_what_its_networks_have_together() {
        assert!(set(&["10.0.0.0/9", "10.128.0.0/9"]).covers(&set(&["10.0.0.0/8"])));
        assert!(!set(&["10.0.0.0/9"]).covers(&set(&["10.0.0.0/8"])));
        assert!(set(&["0.0.0.0/0"]).covers(&set(&["10.0.0.0/8"])) && !set(&["0.0.0.0/0"]).covers(&set(&["::/0"])));
    }

    proptest! {
        #[test]
        fn a_set_has_the_addresses_of_its_networks_and_no_others(
            networks in prop::collection::vec((any::<u32>(), 0..=32_u8), 0..20), addresses in prop::collection::vec(any::<u32>(), 20)
        ) {
            let networks: Vec<IpNet> = networks.into_iter()
                .map(|(address, length)| IpNet::new(std::net::Ipv4Addr::from(address).into(), length).unwrap()).collect();
            let set = Networks::new(&networks);
            let edges = networks.iter().flat_map(|net| [net.network(), net.broadcast()]);
            for address in addresses.into_iter().map(|address| std::net::Ipv4Addr::from(address).into()).chain(edges) {
                prop_assert_eq!(set.contains(address), networks.iter().any(|net| net.contains(&address)), "{}", address);
            }
        }
    }
}
