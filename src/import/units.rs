//! Owns: the parsers of durations, sizes and addresses as other products write them.
//! Invariant: an ambiguous text is refused.
//! Must not know: what a value is for.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::net;

/// Parses `1h30m`, `500ms`, `30s`; a number without a unit is in `bare`.
fn duration(text: &str, bare: Duration) -> Option<Duration> {
    const YEAR: u64 = 365 * 24 * 60 * 60;
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, behind) = rest.split_at_checked(digits)?;
        let number: u32 = number.parse().ok()?;
        let unit_end = behind.find(|c: char| !c.is_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(unit_end)?;
        let unit = match unit {
            "" => bare,
            "us" => Duration::from_micros(1),
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(60 * 60),
            "d" => Duration::from_secs(24 * 60 * 60),
            "w" => Duration::from_secs(7 * 24 * 60 * 60),
            "M" => Duration::from_secs(30 * 24 * 60 * 60),
            "y" => Duration::from_secs(YEAR),
            _ => return None,
        };
        total = total.checked_add(unit.checked_mul(number)?)?;
        rest = behind.trim_start();
    }
    Some(total)
}

/// Parses a duration; without a unit, it is in seconds.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    duration(text, Duration::from_secs(1))
}

/// Parses a duration; without a unit, it is in milliseconds.
pub(super) fn milliseconds(text: &str) -> Option<Duration> {
    duration(text, Duration::from_millis(1))
}

/// Parses `8m`, `64k`, `1g`, or a number of bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = match unit {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// The address of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Address {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// The path of a Unix socket.
    Unix(String),
    /// A host name, which DNS resolves, and a port.
    Name(String, u16),
    /// A name with SRV records.
    Service(String),
    /// Unusable: a variable, or an address without a port.
    Other,
}

impl Address {
    /// Returns the address that something may listen on; `None` if only DNS knows it.
    pub(super) fn listening(&self) -> Option<net::Address> {
        match self {
            Address::Socket(socket) => Some(net::Address::Tcp(*socket)),
            Address::Unix(path) => Some(net::Address::Unix(path.into())),
            Address::Name(..) | Address::Service(_) | Address::Other => None,
        }
    }
}

/// Parses the path of a Unix socket. It must name a file, and be absolute, as the working directory of the source is
/// unknown.
pub(super) fn unix(path: &str) -> Address {
    const LONGEST: usize = 107;
    let is_good = path.starts_with('/')
        && !path.ends_with('/')
        && path.len() <= LONGEST
        && path.chars().all(|c| c.is_ascii_graphic());
    if is_good { Address::Unix(path.into()) } else { Address::Other }
}

/// Parses `10.0.0.1:80`, `[::1]:80`, `name:80`; `port` is the default.
pub(super) fn address(text: &str, port: Option<u16>) -> Address {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return if socket.port() == 0 { Address::Other } else { Address::Socket(socket) };
    }
    if let Some(ip) = ip(text) {
        return port.map_or(Address::Other, |port| Address::Socket(SocketAddr::new(ip, port)));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, written)) => (host, digits(written)),
        None => (text, port),
    };
    let is_host =
        |host: &str| super::grammar::host(host).is_some_and(|read| !read.starts_with('*') && !host.contains(':'));
    // Digits and dots that are no IP address are no host name, either.
    let is_host = |host: &str| is_host(host) && !host.chars().all(|c| c.is_ascii_digit() || c == '.');
    match port.filter(|port| *port != 0) {
        Some(port) if host == "localhost" => Address::Socket(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
        Some(port) if is_host(host) => Address::Name(host.into(), port),
        _ => Address::Other,
    }
}

/// Parses a port. A sign would make it relative, and is refused.
fn digits(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn ip(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// Parses the address of a listener: `*:80`, `:80`, `10.0.0.1:80`, `[::]:80`.
pub(super) fn listener(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let port = digits(port).filter(|port| *port != 0)?;
    match host {
        "" | "*" => Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)),
        "localhost" => Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
        "::" => Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)),
        host => ip(host).map(|ip| SocketAddr::new(ip, port)),
    }
}

/// Parses an IP address or a network.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok();
    network.or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from)).map(|network| network.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_unit_of_their_product_if_none() {
        let (ms, s) = (Duration::from_millis(1), Duration::from_secs(1));
        for (text, bare, read) in [
            ("5000", ms, 5000),
            ("60", s, 60_000),
            ("1h30m", s, 5_400_000),
            ("1h 30m", s, 5_400_000),
            ("1d", ms, 86_400_000),
            ("300ms", s, 300),
        ] {
            assert_eq!(duration(text, bare), Some(Duration::from_millis(read)), "{text}");
        }
        for text in ["", "-1", "1.5s", "1 fortnight", "s", "99999999999999999999"] {
            assert_eq!(duration(text, s), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("8m"), Some(8 << 20));
        assert_eq!(size("512"), Some(512));
        assert_eq!(size("1t"), None);
        assert_eq!(size("99999999999g"), None);
    }

    #[test]
    fn addresses() {
        let socket = |text: &str| Address::Socket(text.parse().unwrap());
        assert_eq!(address("10.0.0.1:80", None), socket("10.0.0.1:80"));
        assert_eq!(address("10.0.0.1", Some(80)), socket("10.0.0.1:80"));
        assert_eq!(address("[::1]", Some(80)), socket("[::1]:80"));
        assert_eq!(address("localhost:9000", None), socket("127.0.0.1:9000"));
        assert_eq!(address("app.example.com:80", None), Address::Name("app.example.com".into(), 80));
        assert_eq!(address("app.example.com", Some(80)), Address::Name("app.example.com".into(), 80));
        for text in ["", ":80", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:+100", "unix:/tmp/a", "${HOST}:80", "a:99999"] {
            assert_eq!(address(text, None), Address::Other, "{text}");
        }
    }

    #[test]
    fn sockets() {
        assert_eq!(unix("/run/app.sock"), Address::Unix("/run/app.sock".into()));
        for path in ["", "/", "/run/", "app.sock", "/run/a b", "\u{fc}"] {
            assert_eq!(unix(path), Address::Other, "{path}");
        }
    }

    #[test]
    fn listeners() {
        for (text, read) in [
            ("*:80", "0.0.0.0:80"),
            (":80", "0.0.0.0:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::]:80", "[::]:80"),
            (":::80", "[::]:80"),
        ] {
            assert_eq!(listener(text), Some(read.parse().unwrap()), "{text}");
        }
        for text in ["80", "name:80", "*:80-90", "*:0", "unix@/tmp/a", ""] {
            assert_eq!(listener(text), None, "{text}");
        }
    }
}
