//! Owns: the addresses of listeners and backends: an IP address and a port, or a Unix socket.
//! Invariant: a remedy names the address that was probably meant, as this file writes it.
//! Must not know: which process listens at an address; DNS.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::names::is_host;
use super::reader::Table;
use super::values::{InvalidValue, Value, clipped, found, must_be, shown, text};
use crate::files;
use crate::net::{Address, MAX_SOCKET_PATH};

/// The side that has the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AddressOf {
    /// Linchpin listens there.
    Listener,
    /// A backend listens there.
    Backend,
}

/// Reads the address of a listener. The path after `unix:` starts at the folder of the file.
pub(super) fn endpoint<'t>(table: &'t Table<'_>) -> impl Fn(&DeValue<'_>) -> Value<Address> + 't {
    move |value| {
        let address = address(value, table, AddressOf::Listener)?;
        match address.unix().and_then(|path| Some((path, files::cannot_listen(path)?))) {
            None => Ok(address),
            Some((path, why)) => Err(InvalidValue {
                problem: format!("cannot be {}: {why}", shown(&format!("unix:{}", path.display()))),
                remedy: "choose an unused path, in a folder where the user who runs Linchpin can create files".into(),
            }),
        }
    }
}

/// Reads the path of a Unix socket at which Linchpin listens. It starts at the folder of the file.
pub(super) fn socket_path<'t>(table: &'t Table<'_>) -> impl Fn(&DeValue<'_>) -> Value<PathBuf> + 't {
    move |value| {
        let text = text(value)?;
        let address = socket_file(text.strip_prefix("unix:").unwrap_or(text), value, table)?;
        let path = address.unix().unwrap_or(Path::new("")).to_path_buf();
        match files::cannot_listen(&path) {
            None => Ok(path),
            Some(why) => Err(InvalidValue {
                problem: format!("cannot be {}: {why}", shown(&path.to_string_lossy())),
                remedy: "choose an unused path, in a folder where the user who runs Linchpin can create files".into(),
            }),
        }
    }
}

/// Reads the address of a backend.
pub(super) fn backend_endpoint<'t>(table: &'t Table<'_>) -> impl Fn(&DeValue<'_>) -> Value<Address> + 't {
    move |value| {
        let address = address(value, table, AddressOf::Backend)?;
        if address.tcp().is_none_or(|address| address.port() != 0) {
            return Ok(address);
        }
        let found = value.as_str().map(shown).unwrap_or_default();
        Err(must_be("an address with a port from 1 to 65535", found, "write the port the backend listens on"))
    }
}

fn address(value: &DeValue<'_>, table: &Table<'_>, of: AddressOf) -> Value<Address> {
    match value.as_str().and_then(|text| text.strip_prefix("unix:")) {
        Some(path) => socket_file(path, value, table),
        None => socket(value, of).map(Address::Tcp),
    }
}

fn socket_file(path: &str, value: &DeValue<'_>, table: &Table<'_>) -> Value<Address> {
    if path.is_empty() || path.chars().any(char::is_control) {
        let remedy = "write a path after `unix:`, such as \"unix:/run/linchpin.sock\"";
        return Err(must_be("IP:port or unix:PATH", found(value), remedy));
    }
    let path = table.notes().resolve(path.strip_prefix("//").map_or(path, |rest| rest));
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        let what = format!("a path of at most {MAX_SOCKET_PATH} bytes");
        return Err(must_be(&what, found(value), "use a shorter path"));
    }
    Ok(Address::Unix(path))
}

/// Reads an IP address and a port; `localhost:PORT` is 127.0.0.1. Refuses host names: their addresses could change
/// while the proxy runs, and it would not follow.
fn socket(value: &DeValue<'_>, of: AddressOf) -> Value<SocketAddr> {
    const WHAT: &str = "an IP address and a port";
    if let Some(port) = value.as_integer().and_then(|number| number.as_str().parse::<u16>().ok()) {
        return Err(must_be(WHAT, found(value), format!("write {}", addresses_for_port(port, of))));
    }
    let text = text(value)?;
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| must_be(WHAT, shown(text), remedy(text, of)))
}

/// Returns the remedy for a text that is not an IP address with a port.
fn remedy(text: &str, of: AddressOf) -> String {
    let text = text.trim();
    if let Some((scheme, rest)) = text.split_once("://") {
        return remedy_for_url(&scheme.to_ascii_lowercase(), rest, of);
    }
    // HAProxy and Caddy write address families and socket types like this.
    let bare = ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@", "tcp/", "tcp4/", "tcp6/"];
    let bare = bare.into_iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
    if let Some(path) = ["unix@", "unix/"].iter().find_map(|prefix| text.strip_prefix(prefix)) {
        return format!("write {}", shown(&format!("unix:{path}")));
    }
    if text.starts_with(['/', '.']) {
        return format!("write {}", shown(&format!("unix:{text}")));
    }
    // nginx and HAProxy write a server and its options like this.
    if let Some((first, _)) = bare.split_once(char::is_whitespace) {
        return match first.parse::<SocketAddr>() {
            Ok(_) => format!("write only {}, and use separate keys for the rest", shown(first)),
            Err(_) => "write one address, without spaces".into(),
        };
    }
    format!("write {}", plain(bare, 8080, of))
}

/// Returns the remedy for a URL: its address, and where its scheme and path belong.
fn remedy_for_url(scheme: &str, rest: &str, of: AddressOf) -> String {
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (port, is_tls, is_http2) = match scheme {
        "http" | "ws" | "tcp" => (80, false, false),
        "https" | "wss" | "tls" => (443, true, false),
        "h2c" | "grpc" => (80, false, true),
        "h2" | "grpcs" => (443, true, true),
        "unix" | "http+unix" => return format!("write {}", shown(&format!("unix:{rest}"))),
        "fcgi" | "fastcgi" | "uwsgi" | "scgi" | "ajp" => {
            return format!(
                "Linchpin speaks HTTP to backends, not {}; write an address where the backend speaks \
                            HTTP",
                clipped(scheme)
            );
        }
        _ => return "write only the address, such as \"127.0.0.1:8080\"".into(),
    };
    let mut words = vec![plain(authority, port, of)];
    match (is_tls, of) {
        (true, AddressOf::Listener) => words.push("[listeners.tls] with `cert` and `key`".into()),
        (true, AddressOf::Backend) => words.push("tls = true in [pools.upstream]".into()),
        (false, _) => {}
    }
    if is_http2 {
        words.push(if of == AddressOf::Listener { "http2 = true" } else { "http2 = true in [pools.upstream]" }.into());
    }
    match (path.trim_end_matches('/'), of) {
        ("", _) | (_, AddressOf::Listener) => {}
        (path, AddressOf::Backend) => {
            words.push(format!("add_prefix = {} in its [[routes]]", shown(&format!("/{path}"))));
        }
    }
    format!("write {}", words.join(", and "))
}

/// Returns the address without scheme and options, with a port if it has none.
fn plain(text: &str, port: u16, of: AddressOf) -> String {
    let with_port = |ip: IpAddr, port: u16| format!("\"{}\"", SocketAddr::new(ip, port));
    if let Ok(address) = text.parse::<SocketAddr>() {
        return format!("\"{address}\"");
    }
    // `::1:8080` is a valid IPv6 address, too, but forgotten brackets are far more likely.
    if let Some((host, port)) = text.rsplit_once(':')
        && let (Ok(ip), true) = (host.parse::<Ipv6Addr>(), port.len() >= 2)
        && let Ok(port) = port.parse::<u16>()
    {
        return format!("{}: an IPv6 address with a port needs brackets", with_port(ip.into(), port));
    }
    let in_brackets = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = in_brackets.parse::<IpAddr>() {
        return format!("the port as well, such as {}", with_port(ip, port));
    }
    let (host, port_text) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let number = port_text.and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
    match (host, port_text, number) {
        ("" | "*", Some(_), Some(port)) => addresses_for_port(port, of),
        (_, None, _) if text.parse::<u16>().is_ok_and(|port| port > 0) => {
            addresses_for_port(text.parse().unwrap_or(port), of)
        }
        ("localhost", None, _) => with_port(IpAddr::from([127, 0, 0, 1]), port),
        (_, Some(range), None) if range.contains('-') && range.chars().all(|c| c.is_ascii_digit() || c == '-') => {
            "one port; give each port its own section".into()
        }
        (_, Some(port_text), None) if port_text.chars().all(|c| c.is_ascii_digit()) && !port_text.is_empty() => {
            "a port from 1 to 65535".into()
        }
        _ if is_host(&host.to_ascii_lowercase()) && host.starts_with(|c: char| c.is_ascii_alphabetic()) => match of {
            AddressOf::Listener => {
                let port = number.unwrap_or(port);
                format!("IP:port, such as \"127.0.0.1:{port}\"; a listener cannot have a host name")
            }
            AddressOf::Backend => {
                let port = number.unwrap_or(port);
                format!("[[pools.discover]] with dns = \"{}\" and port = {port}", clipped(host))
            }
        },
        _ => "IP:port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"".into(),
    }
}

/// Returns addresses for a port alone, which other proxies read as every address of the machine.
fn addresses_for_port(port: u16, of: AddressOf) -> String {
    match of {
        AddressOf::Listener => format!(
            "\"0.0.0.0:{port}\" for every IPv4 address of this machine, \"[::]:{port}\" for IPv4 and IPv6, or \
             \"127.0.0.1:{port}\" for this machine only"
        ),
        AddressOf::Backend => format!("\"127.0.0.1:{port}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYWHERE: &str = "write \"0.0.0.0:80\" for every IPv4 address of this machine, \"[::]:80\" for IPv4 and \
                              IPv6, or \"127.0.0.1:80\" for this machine only";

    #[test]
    fn the_remedy_is_the_address_that_was_meant() {
        for (text, of, expected) in [
            ("http://10.0.0.1:8080", AddressOf::Backend, "write \"10.0.0.1:8080\""),
            ("http://10.0.0.1/", AddressOf::Backend, "write the port as well, such as \"10.0.0.1:80\""),
            (
                "https://10.0.0.1:8443",
                AddressOf::Backend,
                "write \"10.0.0.1:8443\", and tls = true in [pools.upstream]",
            ),
            (
                "https://0.0.0.0:443",
                AddressOf::Listener,
                "write \"0.0.0.0:443\", and [listeners.tls] with `cert` and `key`",
            ),
            (
                "h2c://10.0.0.1:50051",
                AddressOf::Backend,
                "write \"10.0.0.1:50051\", and http2 = true in [pools.upstream]",
            ),
            (
                "http://u:p@10.0.0.1:80/app/",
                AddressOf::Backend,
                "write \"10.0.0.1:80\", and add_prefix = \"/app\" in its [[routes]]",
            ),
            (
                "https://app.internal",
                AddressOf::Backend,
                "write [[pools.discover]] with dns = \"app.internal\" and port = 443, and tls = true in \
                 [pools.upstream]",
            ),
            ("app:3000", AddressOf::Backend, "write [[pools.discover]] with dns = \"app\" and port = 3000"),
            ("::1:8080", AddressOf::Backend, "write \"[::1]:8080\": an IPv6 address with a port needs brackets"),
            (
                "2001:db8::5:80",
                AddressOf::Listener,
                "write \"[2001:db8::5]:80\": an IPv6 address with a port needs brackets",
            ),
            (":::80", AddressOf::Listener, "write \"[::]:80\": an IPv6 address with a port needs brackets"),
            ("::1", AddressOf::Listener, "write the port as well, such as \"[::1]:8080\""),
            ("[::1]", AddressOf::Listener, "write the port as well, such as \"[::1]:8080\""),
            ("10.0.0.1", AddressOf::Backend, "write the port as well, such as \"10.0.0.1:8080\""),
            ("localhost", AddressOf::Backend, "write \"127.0.0.1:8080\""),
            (":80", AddressOf::Listener, EVERYWHERE),
            ("*:80", AddressOf::Listener, EVERYWHERE),
            ("9001", AddressOf::Backend, "write \"127.0.0.1:9001\""),
            ("10.0.0.1:99999", AddressOf::Backend, "write a port from 1 to 65535"),
            ("10.0.0.1:80-90", AddressOf::Listener, "write one port; give each port its own section"),
            (
                "10.0.0.1:80 weight=3",
                AddressOf::Backend,
                "write only \"10.0.0.1:80\", and use separate keys for the rest",
            ),
            ("ipv4@10.0.0.1:80", AddressOf::Listener, "write \"10.0.0.1:80\""),
            ("unix@/run/app.sock", AddressOf::Backend, "write \"unix:/run/app.sock\""),
            ("unix//run/app.sock", AddressOf::Backend, "write \"unix:/run/app.sock\""),
            ("unix:///run/app.sock", AddressOf::Backend, "write \"unix:/run/app.sock\""),
            ("/run/app.sock", AddressOf::Backend, "write \"unix:/run/app.sock\""),
            (
                "fastcgi://10.0.0.1:9000",
                AddressOf::Backend,
                "Linchpin speaks HTTP to backends, not fastcgi; write an address where the backend speaks HTTP",
            ),
            ("", AddressOf::Backend, "write IP:port, such as \"127.0.0.1:8080\" or \"[::1]:8080\""),
        ] {
            assert_eq!(remedy(text, of), expected, "{text:?}");
        }
    }
}
