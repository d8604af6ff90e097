//! Owns: turning the records of a DNS answer into backends with names and weights.
//! Invariant: the same records make the same backends in the same order, in every Linchpin.
//! Must not know: which server answered, or whether the answer is believed.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::backend::DiscoveredBackend;
use super::name;
use super::settings::Dns;

/// An SRV record, with the addresses of its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvRecord {
    /// Records of the lowest priority are the primaries; all others are backups.
    pub priority: u16,
    /// The share among records of the same priority.
    pub weight: u16,
    /// The port of the service.
    pub port: u16,
    /// The host of the service.
    pub target: String,
    /// The addresses of the host.
    pub addresses: Vec<IpAddr>,
}

/// Makes a backend of each address that can be one server.
pub fn from_addresses(dns: &Dns, pool: &str, addresses: &[IpAddr]) -> Vec<DiscoveredBackend> {
    let prefix = dns.prefix.as_deref().unwrap_or(pool);
    let found = |ip: &IpAddr| {
        let address = SocketAddr::new(*ip, dns.port);
        DiscoveredBackend::new(name::from_address(prefix, address), address.into())
    };
    addresses.iter().filter(|ip| is_one_server(**ip)).map(found).collect()
}

/// Makes a backend of each SRV record whose target has an address. A target is one server: of several addresses the
/// lowest counts, IPv4 before IPv6, so that every Linchpin chooses the same one.
pub fn from_srv_records(dns: &Dns, services: &[SrvRecord]) -> Vec<DiscoveredBackend> {
    let primary = services.iter().map(|service| service.priority).min();
    let heaviest = services.iter().map(|service| service.weight).max().unwrap_or_default();
    let found = |service: &SrvRecord| {
        let ip = service.addresses.iter().copied().filter(|ip| is_one_server(*ip)).min()?;
        let address = SocketAddr::new(ip, service.port);
        let name = name::from_target(dns.prefix.as_deref(), &service.target, service.port);
        (service.port != 0).then(|| DiscoveredBackend {
            weight: Some(weight(service.weight, heaviest)),
            backup: Some(service.priority) != primary,
            ..DiscoveredBackend::new(name, address.into())
        })
    };
    services.iter().filter_map(found).collect()
}

/// Sorts the backends, removes repeated names and addresses, and keeps `most` of them. Returns how many that cut off.
pub fn normalized(mut found: Vec<DiscoveredBackend>, most: usize) -> (Vec<DiscoveredBackend>, usize) {
    found.sort_by(|a, b| (a.backup, &a.name).cmp(&(b.backup, &b.name)));
    let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
    found.retain(|each| names.insert(each.name.clone()) && addresses.insert(each.address.clone()));
    let left_out = found.len().saturating_sub(most);
    found.truncate(most);
    (found, left_out)
}

/// Scales a weight to 1…1000. 0 means "rarely" in a record (RFC 2782), but "no new sessions" here.
fn weight(weight: u16, heaviest: u16) -> u32 {
    let scaled = u32::from(weight) * 1000 / u32::from(heaviest).max(1000);
    scaled.max(1)
}

/// Whether an address can be that of one server: it is neither unspecified, multicast nor broadcast.
pub(super) fn is_one_server(ip: IpAddr) -> bool {
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Records, RefreshInterval};
    use super::*;

    fn dns() -> Dns {
        let name = "app.internal".into();
        Dns {
            name,
            records: Records::A,
            port: 80,
            prefix: None,
            resolvers: Vec::new(),
            refresh_interval: RefreshInterval::default(),
        }
    }

    fn service(target: &str, priority: u16, weight: u16, addresses: &[&str]) -> SrvRecord {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        SrvRecord { priority, weight, port: 80, target: target.into(), addresses }
    }

    #[test]
    fn an_address_is_a_backend_unless_it_cannot_be_one_server() {
        let ips = ["10.0.0.2", "10.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "::1", "10.0.0.1"];
        let (found, left_out) = normalized(from_addresses(&dns(), "app", &ips.map(|ip| ip.parse().unwrap())), 10);
        let names: Vec<_> = found.iter().map(|found| found.name.as_str()).collect();
        assert_eq!((names.as_slice(), left_out), (&["app---1-80", "app-10.0.0.1-80", "app-10.0.0.2-80"][..], 0));
    }

    #[test]
    fn the_lowest_priority_is_primary_and_the_others_are_backups() {
        let services =
            [service("b.", 20, 5, &["10.0.0.2"]), service("a.", 10, 0, &["fe80::1", "10.0.0.9", "10.0.0.1"])];
        let (found, _) = normalized(from_srv_records(&dns(), &services), 10);
        let described: Vec<_> =
            found.iter().map(|f| (f.name.as_str(), f.address.to_string(), f.weight, f.backup)).collect();
        let expected =
            [("a-80", "10.0.0.1:80".to_owned(), Some(1), false), ("b-80", "10.0.0.2:80".to_owned(), Some(5), true)];
        assert_eq!(described, expected);
        assert_eq!(normalized(found, 1).1, 1);
    }

    #[test]
    fn weights_keep_their_shares_within_the_bounds() {
        for (record, heaviest, ours) in [(0, 0, 1), (1, 1, 1), (10, 100, 10), (65535, 65535, 1000), (655, 65535, 9)] {
            assert_eq!(weight(record, heaviest), ours, "{record} of {heaviest}");
        }
    }
}
