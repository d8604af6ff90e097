//! Owns: the conversion of `upstream`: its servers and its balancing.
//! Invariant: each server becomes a backend, if only a disabled one.
//! Must not know: `server` blocks and locations.

use super::super::reasons::NONE;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::grammar::{field, parameter, token};
use super::super::pool::{Balance, By, Pool, WAIT, name_of};
use super::super::toml::Value;
use super::super::units::{self, Address};
use super::known;
use super::reader::Reader;
use super::sticky;
use super::syntax::Directive;

/// nginx's default of the time in a queue.
const QUEUED: Duration = Duration::from_secs(60);

/// The range of consecutive failures that eject a backend.
const FAILURES: RangeInclusive<u64> = 0..=1_000_000;

impl<'d> Reader<'d> {
    /// Converts an upstream group into the pool at `index`.
    pub(super) fn upstream(&mut self, upstream: &'d Directive, index: usize) {
        let own = upstream.inside().iter().filter(|each| each.word(0) == "resolver");
        let own: Vec<_> = own.flat_map(resolvers).collect();
        let resolvers = if own.is_empty() { self.resolvers.clone() } else { own };
        for directive in upstream.inside() {
            let (line, text) = (directive.line, directive.text.as_str());
            let pool = &mut self.made[index];
            match directive.word(0) {
                "server" => self.asks |= server(directive, pool, &resolvers),
                "resolver" => {}
                "sticky" => sticky::read(directive, pool, &self.maps, &mut self.used_maps),
                "ip_hash" => {
                    pool.balance(&Balance::Hash(By::Address));
                    if directive.words.len() > 1 {
                        pool.main.unsupported(line, text, NONE);
                    }
                }
                "hash" => match hashed(directive.word(1)) {
                    Some(by) => pool.balance(&Balance::Hash(by)),
                    None => pool.main.unsupported(
                        line,
                        text,
                        "Linchpin can hash only the client's address, the path, a header field, a cookie or a query parameter",
                    ),
                },
                "least_conn" => pool.balance(&Balance::LeastRequests),
                "least_time" => {
                    pool.balance(&Balance::LeastRequests);
                    pool.main.unsupported(line, text, "least_requests is the closest equivalent");
                }
                "random" => pool.balance(&Balance::RandomTwo),
                "keepalive" => match directive.word(1).parse::<u64>() {
                    Ok(count) => pool.upstream.set("max_idle_per_thread", Value::number(count.min(100_000))),
                    Err(_) => pool.upstream.unsupported(line, text, "not a number"),
                },
                "keepalive_timeout" => {
                    pool.upstream.share_time("idle_timeout", units::seconds(directive.word(1)), WAIT, line, text);
                }
                "queue" => queue(directive, pool),
                _ => known::note(directive, &mut pool.main),
            }
        }
    }
}

/// Converts `queue 100 timeout=70s`.
fn queue(directive: &Directive, pool: &mut Pool) {
    let (line, text) = (directive.line, directive.text.as_str());
    let time = directive.from(2).iter().find_map(|word| word.strip_prefix("timeout="));
    match (directive.word(1).parse::<u64>(), time.map_or(Some(QUEUED), units::seconds)) {
        (Ok(size), Some(time)) => {
            pool.wait_in_queue(time);
            pool.queue.set("size", Value::number(size.clamp(1, 100_000)));
        }
        _ => pool.main.unsupported(line, text, "neither a number of requests nor a time"),
    }
}

/// Returns what a `hash` of a variable hashes.
fn hashed(variable: &str) -> Option<By> {
    match variable {
        "$remote_addr" | "$binary_remote_addr" => Some(By::Address),
        "$request_uri" | "$uri" | "$scheme$proxy_host$request_uri" => Some(By::Path),
        _ => {
            let named = |prefix: &str| variable.strip_prefix(prefix).and_then(token);
            named("$cookie_")
                .map(By::Cookie)
                .or_else(|| named("$arg_").and_then(|name| parameter(&name)).map(By::Query))
                .or_else(|| named("$http_").and_then(|name| field(&name.replace('_', "-"))).map(By::Header))
        }
    }
}

/// Returns the DNS servers of a `resolver`.
pub(super) fn resolvers(directive: &Directive) -> Vec<String> {
    let addresses = directive.from(1).iter().filter(|word| !word.contains('='));
    let read = |text: &String| match units::address(text, Some(53)) {
        Address::Socket(socket) if !socket.ip().is_unspecified() => Some(socket.to_string()),
        _ => None,
    };
    addresses.filter_map(read).collect()
}

/// Adds a server to a pool; returns whether DNS resolves its name at run time.
fn server(directive: &Directive, pool: &mut Pool, resolvers: &[String]) -> bool {
    let (line, text) = (directive.line, directive.text.as_str());
    let service = directive.from(2).iter().find_map(|word| word.strip_prefix("service="));
    let address = match (directive.word(1).strip_prefix("unix:"), units::address(directive.word(1), Some(80)), service)
    {
        (Some(path), ..) => units::unix(path),
        (None, Address::Name(host, _), Some(service)) => Address::Service(service_of(service, &host)),
        (None, address, _) => address,
    };
    let value = |key: &str| directive.from(2).iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let wanted = value("route").map_or_else(|| name_of(&address, directive.word(1)), str::to_owned);
    let failures = value("max_fails").and_then(|count| count.parse::<u64>().ok());
    if let Some(failures) = failures {
        let failures = failures.clamp(*FAILURES.start(), *FAILURES.end());
        pool.ejection.share("consecutive_failures", Value::number(failures), line, text);
    }
    if let Some(time) = value("fail_timeout") {
        pool.ejection.share_time("base_time", units::seconds(time), WAIT, line, text);
    }
    if let Some(time) = value("slow_start") {
        pool.slow_start(units::seconds(time), line, text);
    }
    let is_resolved = directive.from(2).iter().any(|word| word == "resolve");
    let backend = pool.backend(&wanted, &address, line, text);
    if is_resolved {
        backend.resolvers(resolvers);
    }
    for word in directive.from(2) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match (key, value.parse::<u64>()) {
            ("weight", Ok(weight)) => backend.weight(weight, line, word),
            ("max_conns", Ok(0)) => {}
            ("max_conns", Ok(count)) => backend.max_requests(count),
            ("backup", _) => backend.backup(line, word),
            ("down", _) => backend.out(line, word),
            ("drain", _) => backend.drain(line, word),
            ("route" | "fail_timeout" | "slow_start", _) | ("max_fails", Ok(_)) => {}
            ("resolve" | "service", _) => {}
            _ => backend.table.unsupported(line, word, NONE),
        }
    }
    if let Some(route) = value("route") {
        pool.last_route(line, route);
    }
    is_resolved
}

/// Returns the name of SRV records: for `http` of `app.example`, `_http._tcp.app.example`.
fn service_of(service: &str, host: &str) -> String {
    match service.starts_with('_') {
        true => format!("{service}.{host}"),
        false => format!("_{service}._tcp.{host}"),
    }
}

/// Returns a pool for an address in `proxy_pass` itself.
pub(super) fn single(name: &str, text: &str, address: &Address, directive: &Directive) -> Pool {
    let mut pool = Pool::new(name);
    pool.backend(&name_of(address, text), address, directive.line, &directive.text);
    pool
}

/// Converts `health_check interval=5s fails=3 passes=2 uri=/health`.
pub(super) fn health_check(directive: &Directive, pool: &mut Pool) {
    let (line, text) = (directive.line, directive.text.as_str());
    let health = &mut pool.health;
    health.share("type", Value::text("http"), line, text);
    for word in directive.from(1) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match (key, value.parse::<u64>()) {
            ("uri", _) if value.starts_with('/') && value.chars().all(|c| c.is_ascii_graphic() && c != '#') => {
                health.share("path", Value::text(value), line, text);
            }
            ("interval", _) => {
                let limits = Duration::from_millis(10)..=*WAIT.end();
                health.share_time("interval", units::seconds(value), limits, line, text);
            }
            ("fails", Ok(count)) => health.share("fall", Value::number(count.clamp(1, 100)), line, text),
            ("passes", Ok(count)) => health.share("rise", Value::number(count.clamp(1, 100)), line, text),
            _ => health.unsupported(line, word, NONE),
        }
    }
}
