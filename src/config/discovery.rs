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
use crate::discover::{Dns, Records, RefreshInterval, Settings, Source};
use crate::files;

const RECORDS: [(&str, Records); 4] =
    [("a", Records::A), ("aaaa", Records::Aaaa), ("a+aaaa", Records::Both), ("srv", Records::Srv)];

/// Reads one source. `None` if it has an error, which is noted.
pub(super) fn discover(table: &Table<'_>) -> Option<Settings> {
    let dns = dns(table);
    let file = table.get("file", |value| backends_file(table.notes().resolve(&plain_text(value)?)));
    match (table.has("dns"), table.has("file")) {
        (true, true) => {
            let problem = "a source cannot have both `dns` and `file`";
            table.notes().error(&table.at("file"), problem, "write one [[pools.discover]] for each");
        }
        (false, false) if table.is_present() => {
            let problem = "[[pools.discover]] has neither `dns` nor `file`";
            let remedy = "write dns = \"app.internal\" and port = 8080, or file = \"backends.txt\"";
            table.notes().missing(table.span(), problem, remedy);
        }
        (false, true) => {
            for key in ["port", "type", "resolver", "min_interval", "max_interval", "prefix"] {
                without_effect(table, key, "only `dns` uses it");
            }
        }
        (true, false) | (false, false) => {}
    }
    // Read all keys even after an error: the reader calls a key unknown if nothing reads it.
    let default = Settings::new(Source::File(std::path::PathBuf::new()));
    let settings = Settings {
        weight: table.get("weight", whole(0..=1000)).unwrap_or(default.weight),
        max_requests: table.get("max_requests", whole(1..=1_000_000)),
        max_sessions: table.get("max_sessions", whole(1..=1_000_000_000)),
        group: table.get("group", name),
        max_backends: table.get("max_backends", whole(1..=100_000)).unwrap_or(default.max_backends),
        drain: table.get("drain", duration(Duration::ZERO..=YEAR)).unwrap_or(default.drain),
        source: default.source,
    };
    dns.or(file).map(|source| Settings { source, ..settings })
}

fn dns(table: &Table<'_>) -> Option<Source> {
    let default = RefreshInterval::default();
    let records = table.get("type", word(RECORDS));
    let port = table.get("port", whole(1..=65_535));
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
        port: port.unwrap_or_default(),
        prefix,
        resolvers: resolvers.into_iter().map(|spot| spot.value).collect(),
        refresh_interval: RefreshInterval { min, max },
    }))
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
