//! Owns: `[[pools.discover]]`.
//! Invariant: the defaults are those of `discover`.
//! Must not know: other sections; it resolves no name and reads no file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::names::{is_host, name};
use super::reader::Table;
use super::values::{MILLISECOND, Value, YEAR, duration, must_be, plain_text, shown, text, whole, word};
use crate::discover::{ApiServer, Dns, Kubernetes, PodPort, Records, RefreshInterval, Settings, Source};
use crate::files;
use crate::tls::client::is_server_name;

const RECORDS: [(&str, Records); 4] =
    [("a", Records::A), ("aaaa", Records::Aaaa), ("a+aaaa", Records::Both), ("srv", Records::Srv)];

/// Reads one source. `None` if it has an error, which is noted.
pub(super) fn discover(table: &Table<'_>) -> Option<Settings> {
    let port = table.get("port", source_port(table.has("kubernetes")));
    let dns = dns(table, &port);
    let file = table.get("file", |value| backends_file(table.notes().resolve(&plain_text(value)?)));
    let kubernetes = kubernetes(table, port);
    const KINDS: [&str; 3] = ["dns", "file", "kubernetes"];
    let kinds: Vec<_> = KINDS.into_iter().filter(|kind| table.has(kind)).collect();
    match *kinds {
        [] if table.is_present() => {
            let problem = "[[pools.discover]] has none of `dns`, `file` and `kubernetes`";
            let remedy = "write dns = \"app.internal\" and port = 8080, or file = \"backends.txt\", or kubernetes = \
                          \"namespace/service\"";
            table.notes().missing(table.span(), problem, remedy);
        }
        [first, second, ..] => {
            let problem = format!("a source cannot have both `{first}` and `{second}`");
            table.notes().error(&table.at(second), problem, "write one [[pools.discover]] for each");
        }
        [kind] => {
            let of_dns = ["type", "resolver", "min_interval", "max_interval", "prefix"].map(|key| (key, "dns"));
            let of_kubernetes = ["api_server", "token_file", "ca"].map(|key| (key, "kubernetes"));
            for (key, user) in of_dns.into_iter().chain(of_kubernetes).filter(|(_, user)| *user != kind) {
                without_effect(table, key, &format!("only `{user}` uses it"));
            }
            if kind == "file" {
                without_effect(table, "port", "only `dns` and `kubernetes` use it");
            }
        }
        [] => {}
    }
    // Read all keys even after an error: the reader calls a key unknown if nothing reads it.
    let default = Settings::new(Source::File(std::path::PathBuf::new()));
    let settings = Settings {
        weight: table.get("weight", whole(0..=1000)).unwrap_or(default.weight),
        max_requests: table.get("max_requests", whole(1..=1_000_000)),
        max_sessions: table.get("max_sessions", whole(1..=1_000_000_000)),
        group: table.get("group", name),
        max_backends: table.get("max_backends", whole(1..=100_000)).unwrap_or(default.max_backends),
        drain: table.get("drain", duration(Duration::ZERO..=YEAR)),
        source: default.source,
    };
    dns.or(file).or(kubernetes).map(|source| Settings { source, ..settings })
}

fn dns(table: &Table<'_>, port: &Option<PodPort>) -> Option<Source> {
    let default = RefreshInterval::default();
    let records = table.get("type", word(RECORDS));
    let prefix = table.get("prefix", name);
    let resolvers = table.filled_list("resolver", resolver).unwrap_or_default();
    let interval = || duration(MILLISECOND * 100..=YEAR);
    let min = table.get("min_interval", interval()).unwrap_or(default.min);
    let max = table.get("max_interval", interval()).unwrap_or(default.max.max(min));
    if min > max {
        let problem = "`min_interval` is longer than `max_interval`";
        table.notes().error(&table.at("min_interval"), problem, "shorten it, or make `max_interval` longer");
    }
    let is_srv = records == Some(Records::Srv);
    if table.has("dns") && is_srv {
        without_effect(table, "port", "SRV records contain their own");
        without_effect(table, "weight", "SRV records contain their own");
    } else if table.has("dns") && !table.has("port") {
        let problem = "`dns` needs the `port` of the backends: address records contain none";
        table.notes().missing(&table.at("dns"), problem, "write for example port = 8080, or type = \"srv\"");
    }
    let name = table.get("dns", dns_name)?;
    Some(Source::Dns(Dns {
        name,
        records: records.unwrap_or(Records::A),
        port: if let Some(PodPort::Number(port)) = *port { port } else { 0 },
        prefix,
        resolvers: resolvers.into_iter().map(|spot| spot.value).collect(),
        refresh_interval: RefreshInterval { min, max },
    }))
}

/// Reads `port`. With `kubernetes` it may be the name of one, too.
fn source_port(may_be_named: bool) -> impl Fn(&DeValue<'_>) -> Value<PodPort> {
    move |value| match value.as_str() {
        Some(name) if may_be_named => {
            let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            let wrong = || must_be("the name of a port of the Service", shown(name), "write for example \"http\"");
            Some(name).filter(|name| is_name(name) && (1..=63).contains(&name.len())).ok_or_else(wrong)?;
            Ok(PodPort::Named(name.into()))
        }
        _ => whole(1..=65_535)(value).map(PodPort::Number),
    }
}

fn kubernetes(table: &Table<'_>, port: Option<PodPort>) -> Option<Source> {
    let api_server = table.get("api_server", api_server);
    let file = |key| table.get(key, |value| Ok(table.notes().resolve(&plain_text(value)?)));
    let (token_file, authorities) = (file("token_file"), file("ca"));
    if api_server.is_some() {
        for key in ["token_file", "ca"].into_iter().filter(|key| !table.has(key)) {
            let problem = format!("`api_server` without `{key}`: Linchpin uses that of the pod in which it runs");
            table.notes().warn(&table.at("api_server"), problem, format!("add `{key}`, or remove `api_server`"));
        }
    }
    let (namespace, service) = table.get("kubernetes", service)?;
    let port = port.unwrap_or(PodPort::Only);
    Some(Source::Kubernetes(Kubernetes { namespace, service, port, api_server, token_file, authorities }))
}

/// Reads `NAMESPACE/SERVICE`.
fn service(value: &DeValue<'_>) -> Value<(String, String)> {
    let text = text(value)?;
    // RFC 1123 labels.
    let is_label = |name: &str| {
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&name.len()) && name.bytes().all(is_part) && !name.starts_with('-') && !name.ends_with('-')
    };
    match text.split_once('/') {
        Some((namespace, service)) if is_label(namespace) && is_label(service) => {
            Ok((namespace.into(), service.into()))
        }
        None if is_label(text) => {
            let remedy = format!("write the namespace, too: kubernetes = \"default/{text}\"");
            Err(must_be("a namespace and a Service", shown(text), remedy))
        }
        _ => Err(must_be("a namespace and a Service", shown(text), "write for example \"shop/web\"")),
    }
}

/// Reads the URL of an API server.
fn api_server(value: &DeValue<'_>) -> Value<ApiServer> {
    let text = text(value)?;
    let wrong =
        || must_be("the https URL of an API server", shown(text), "write for example \"https://10.0.0.1:6443\"");
    let authority = text.strip_prefix("https://").ok_or_else(wrong)?;
    let authority: http::uri::Authority =
        authority.strip_suffix('/').unwrap_or(authority).parse().map_err(|_| wrong())?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let has_port = authority.as_str().len() > authority.host().len();
    let port = if has_port { authority.port_u16().filter(|port| *port != 0) } else { Some(443) };
    match port {
        Some(port) if is_server_name(host) && !authority.as_str().contains('@') => {
            Ok(ApiServer { host: host.into(), port })
        }
        _ => Err(wrong()),
    }
}

fn without_effect(table: &Table<'_>, key: &'static str, why: &str) {
    if table.has(key) {
        table.notes().warn(&table.at(key), format!("`{key}` has no effect: {why}"), "remove it");
    }
}

/// Reads a DNS name.
fn dns_name(value: &DeValue<'_>) -> Value<String> {
    const WHAT: &str = "a name such as \"app.internal\"";
    let text = text(value)?;
    let name = text.strip_suffix('.').unwrap_or(text);
    if text.parse::<std::net::IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok() {
        return Err(must_be(WHAT, shown(text), "write an address in [[pools.backends]]"));
    }
    if is_host(name) && !name.starts_with('[') {
        return Ok(text.into());
    }
    let remedy = match name.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok() => {
            format!("write the port separately: dns = \"{host}\" and port = {port}")
        }
        _ => "write letters, digits, `-`, `_` and dots".into(),
    };
    Err(must_be(WHAT, shown(text), remedy))
}

/// Reads the address of a DNS server. The default port is 53.
fn resolver(value: &DeValue<'_>) -> Value<SocketAddr> {
    let text = text(value)?;
    let address = text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)));
    let address = address.filter(|address| address.port() != 0 && !address.ip().is_unspecified());
    let wrong = || must_be("the IP address of a DNS server", shown(text), "write \"10.0.0.2\" or \"127.0.0.1:5353\"");
    address.ok_or_else(wrong)
}

/// Reads the path of the file of backends, which may not exist yet.
fn backends_file(path: PathBuf) -> Value<Source> {
    match files::irregular_type_at(&path) {
        None => Ok(Source::File(path)),
        Some(what) => {
            let found = format!("{what}: {}", shown(&path.to_string_lossy()));
            Err(must_be("the path of a regular file", found, "write the backends in a regular file"))
        }
    }
}
