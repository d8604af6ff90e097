//! Owns: whether an address leads back to a listener of this process, directly or by a wildcard.
//! Invariant: the results depend on the arguments, and for Unix sockets on the files; nothing is connected to.
//! Must not know: which listeners there are; what follows if an address leads back.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::address::Address;

/// Returns the IP addresses of this machine's interfaces at this moment; none if the system can't tell.
pub fn interfaces() -> HashSet<IpAddr> {
    let ip_of = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    };
    nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(ip_of).map(|ip| ip.to_canonical()).collect()
}

/// Whether a connection to `target` reaches a listener at `listening`, on a machine with these `interfaces`.
///
/// A wildcard listens on every address of the machine, and `[::]` on the IPv4 addresses, too. A connection to a
/// wildcard goes to loopback.
pub fn reaches(target: &Address, listening: &Address, interfaces: &HashSet<IpAddr>) -> bool {
    match (target, listening) {
        (Address::Tcp(target), Address::Tcp(listening)) => {
            let is_same_port = target.port() == listening.port() && target.port() != 0;
            is_same_port && reaches_ip(*target, *listening, interfaces)
        }
        (Address::Unix(target), Address::Unix(listening)) => is_same_file(target, listening),
        _ => false,
    }
}

fn reaches_ip(target: SocketAddr, listening: SocketAddr, interfaces: &HashSet<IpAddr>) -> bool {
    let target = match target.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let listening = listening.ip().to_canonical();
    let is_local = target.is_loopback() || interfaces.contains(&target);
    target == listening || (listening.is_unspecified() && is_local && (listening.is_ipv6() || target.is_ipv4()))
}

/// Whether two listeners at these addresses exclude each other, since one would accept the other's connections.
pub fn overlap(one: &Address, other: &Address) -> bool {
    let (one, other) = match (one, other) {
        (Address::Tcp(one), Address::Tcp(other)) if one.port() == other.port() && one.port() != 0 => (one, other),
        (Address::Unix(one), Address::Unix(other)) => return is_same_file(one, other),
        _ => return false,
    };
    let has_all = |one: IpAddr, other: IpAddr| one.is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    let (one, other) = (one.ip().to_canonical(), other.ip().to_canonical());
    one == other || has_all(one, other) || has_all(other, one)
}

/// Whether one address is `[::]` and the other `0.0.0.0`, at the same port. A configuration with both means each to
/// have its own family, as with nginx: `[::]` then accepts IPv6 alone.
pub fn are_wildcards_of_both_families(one: &Address, other: &Address) -> bool {
    let (Some(one), Some(other)) = (one.tcp(), other.tcp()) else { return false };
    let is_any = one.ip().is_unspecified() && other.ip().is_unspecified();
    is_any && one.is_ipv4() != other.is_ipv4() && one.port() == other.port() && one.port() != 0
}

/// Compares the paths, and if both exist, the files that they lead to.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    one == other || real(one).is_some_and(|one| real(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(target: &str, listening: &str) -> bool {
        let interfaces = ["10.0.0.5", "2001:db8::5", "fe80::1"].map(|ip| ip.parse().unwrap()).into();
        reaches(&target.parse().unwrap(), &listening.parse().unwrap(), &interfaces)
    }

    #[test]
    fn a_wildcard_is_reached_at_every_address_of_the_machine() {
        for (target, listening, is_reached) in [
            ("10.0.0.5:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.8.8.8:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("[::ffff:10.0.0.5]:80", "0.0.0.0:80", true),
            ("10.0.0.6:80", "0.0.0.0:80", false),
            ("10.0.0.5:81", "0.0.0.0:80", false),
            ("[::1]:80", "0.0.0.0:80", false),
            ("[2001:db8::5]:80", "0.0.0.0:80", false),
            ("10.0.0.5:80", "[::]:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("[2001:db8::5]:80", "[::]:80", true),
            ("[fe80::1]:80", "[::]:80", true),
            ("[::1]:80", "[::]:80", true),
            ("10.0.0.6:80", "[::]:80", false),
        ] {
            assert_eq!(reached(target, listening), is_reached, "{target} at {listening}");
        }
    }

    #[test]
    fn another_address_is_reached_by_itself_and_by_a_wildcard() {
        for (target, listening, is_reached) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.2:80", "127.0.0.1:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("0.0.0.0:80", "10.0.0.5:80", false),
            ("10.0.0.5:80", "127.0.0.1:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:/run/a.sock", "unix:/run/a.sock", true),
            ("unix:/run/a.sock", "unix:/run/b.sock", false),
            ("unix:/run/a.sock", "127.0.0.1:80", false),
        ] {
            assert_eq!(reached(target, listening), is_reached, "{target} at {listening}");
        }
    }

    #[test]
    fn a_wildcard_overlaps_with_every_address_of_its_families() {
        for (one, other, do_overlap) in [
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "10.9.9.9:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::1]:80", "0.0.0.0:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:81", false),
            ("0.0.0.0:0", "127.0.0.1:0", false),
            ("unix:/run/a.sock", "unix:/run/a.sock", true),
        ] {
            let overlap = |one: &str, other: &str| overlap(&one.parse().unwrap(), &other.parse().unwrap());
            assert_eq!((overlap(one, other), overlap(other, one)), (do_overlap, do_overlap), "{one} {other}");
        }
    }

    #[test]
    fn the_wildcards_of_both_families_at_one_port_are_recognised() {
        for (one, other, are_both) in [
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80", "0.0.0.0:81", false),
            ("[::]:0", "0.0.0.0:0", false),
            ("[::]:80", "[::]:80", false),
            ("[::]:80", "127.0.0.1:80", false),
            ("[::1]:80", "0.0.0.0:80", false),
            ("unix:/run/a.sock", "0.0.0.0:80", false),
        ] {
            let are =
                |one: &str, other: &str| are_wildcards_of_both_families(&one.parse().unwrap(), &other.parse().unwrap());
            assert_eq!((are(one, other), are(other, one)), (are_both, are_both), "{one} {other}");
        }
    }

    #[test]
    fn a_socket_file_is_the_same_by_any_path() {
        let folder = std::env::temp_dir().join(format!("linchpin-local-addresses-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, link) = (folder.join("a.sock"), folder.join("link"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(is_same_file(&link, &file) && is_same_file(&folder.join("../").join(&file), &file));
        assert!(!is_same_file(&folder, &file));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn this_machine_has_interfaces() {
        assert!(interfaces().contains(&IpAddr::from(Ipv4Addr::LOCALHOST)));
    }
}
