//! Owns: the conversion of services into pools.
//! Invariant: a service becomes one pool, however many routers lead to it.
//! Must not know: routers.

use std::collections::{HashMap, HashSet};

use super::super::backend_protocol::{BackendProtocol, BackendTls, server_name};
use super::super::grammar;
use super::super::node::{Map, Node};
use super::super::node::{is_named, peek};
use super::super::notes::{duration, left, list_in, map_in, note, number_in};
use super::super::output::Output;
use super::super::pool::{Balance, By, Pool, WAIT, name_of};
use super::super::reasons::NONE;
use super::super::toml::{Table, Value};
use super::super::units::{self, Address};
use super::health::{health, passive};
use super::sticky::sticky;
use super::weights::{Part, weights};

/// The services of a file.
pub(super) struct Services<'n> {
    services: Vec<(&'n str, usize, &'n Node)>,
    by_name: HashMap<String, usize>,
    transports: &'n Map,
    /// The index of each pool, by the name of its service.
    made: HashMap<String, usize>,
    pools: Vec<Pool>,
    /// Services that are part of another service's pool.
    parts: HashSet<String>,
}

impl<'n> Services<'n> {
    pub(super) fn new(services: &'n Map, transports: &'n Map) -> Services<'n> {
        let services: Vec<_> = services.take_all().collect();
        let by_name =
            services.iter().enumerate().map(|(index, (name, ..))| (name.to_ascii_lowercase(), index)).collect();
        Services { services, by_name, transports, made: HashMap::new(), pools: Vec::new(), parts: HashSet::new() }
    }

    pub(super) fn name(&self, pool: usize) -> &str {
        self.pools[pool].name()
    }

    pub(super) fn retry(&mut self, pool: usize) -> &mut Table {
        &mut self.pools[pool].retry
    }

    /// Returns the index of a service's pool, which is added if it is new; `None` if there is no such service.
    pub(super) fn pool(&mut self, name: &str, out: &mut Output) -> Option<usize> {
        let (name, line, service) = self.find(name)?;
        if let Some(index) = self.made.get(name) {
            return Some(*index);
        }
        let pool = self.make(name, line, service, out);
        self.pools.push(pool);
        self.made.insert(name.to_owned(), self.pools.len() - 1);
        Some(self.pools.len() - 1)
    }

    /// Adds pools for the services that no router leads to, and moves all pools to the output.
    pub(super) fn finish(mut self, out: &mut Output) {
        for (name, ..) in self.services.clone() {
            if !self.parts.contains(name) {
                self.pool(name, out);
            }
        }
        for (name, _, service) in &self.services {
            // The pool has already converted the load balancer of its part.
            let rest = service.map().into_iter().flat_map(Map::left);
            let is_part = self.parts.contains(*name) && !self.made.contains_key(*name);
            for (key, line, node) in rest.filter(|(key, ..)| is_part && !key.eq_ignore_ascii_case("loadBalancer")) {
                note(&format!("http.services.{name}.{key}"), line, node, NONE, &mut out.rest);
            }
        }
        out.pools.append(&mut self.pools);
        left(self.transports, "http.serversTransports", NONE, &mut out.rest);
    }

    fn find(&self, name: &str) -> Option<(&'n str, usize, &'n Node)> {
        let name = name.strip_suffix("@file").unwrap_or(name).to_ascii_lowercase();
        self.by_name.get(&name).and_then(|index| self.services.get(*index)).copied()
    }

    fn make(&mut self, name: &str, line: usize, service: &'n Node, out: &mut Output) -> Pool {
        let mut pool = Pool::new(&out.pool_name(name));
        let path = format!("http.services.{name}");
        let Some(map) = service.map() else {
            note(&path, line, service, "a service needs a loadBalancer", &mut pool.main);
            return pool;
        };
        let mut parts = Vec::new();
        let mut sticky = None;
        for (kind, line, node) in map.left() {
            let at = format!("{path}.{kind}");
            match (kind.to_ascii_lowercase().as_str(), node.map()) {
                ("loadbalancer", Some(balancer)) => {
                    parts.push(Part { path: at, balancer, weight: 1, is_fallback: false })
                }
                ("weighted", Some(weighted)) => {
                    sticky = Some((at.clone(), weighted));
                    self.weighted(weighted, &at, &mut parts, &mut pool);
                }
                ("failover", Some(failover)) => {
                    self.part(failover.take("service"), &at, false, &mut parts, &mut pool);
                    self.part(failover.take("fallback"), &at, true, &mut parts, &mut pool);
                    left(failover, &at, NONE, &mut pool.main);
                }
                ("mirroring", Some(mirroring)) => {
                    self.part(mirroring.take("service"), &at, false, &mut parts, &mut pool);
                    left(mirroring, &at, "Linchpin does not mirror requests", &mut pool.main);
                }
                _ => note(&at, line, node, NONE, &mut pool.main),
            }
        }
        let is_weighted = sticky.is_some();
        if let Some((path, weighted)) = sticky {
            self::sticky(weighted, &path, &mut pool);
            left(weighted, &path, NONE, &mut pool.main);
        }
        let weights = weights(&parts, is_weighted);
        for (part, weights) in parts.iter().zip(weights) {
            self.balancer(part, &weights, &mut pool);
        }
        pool
    }

    fn weighted(&mut self, weighted: &'n Map, path: &str, parts: &mut Vec<Part<'n>>, pool: &mut Pool) {
        for member in list_in(weighted, "services", &format!("{path}.services"), &mut pool.main) {
            let Some(map) = member.map() else {
                note(&format!("{path}.services"), member.line, member, NONE, &mut pool.main);
                continue;
            };
            let weight = number_in(map, "weight", path, &mut pool.main);
            let before = parts.len();
            self.part(map.take("name"), path, false, parts, pool);
            if let Some(part) = parts.get_mut(before) {
                part.weight = weight.unwrap_or(1);
            }
            left(map, path, NONE, &mut pool.main);
        }
    }

    /// Adds the load balancer of a service to the parts of a pool.
    fn part(
        &mut self,
        name: Option<&'n Node>,
        path: &str,
        is_fallback: bool,
        parts: &mut Vec<Part<'n>>,
        pool: &mut Pool,
    ) {
        let Some(node) = name else { return };
        let Some(name) = node.text() else {
            return note(path, node.line, node, NONE, &mut pool.main);
        };
        let found = self.find(name);
        let balancer = found.and_then(|(_, _, service)| {
            let (_, _, node) = service.map()?.left().find(|(kind, ..)| kind.eq_ignore_ascii_case("loadBalancer"))?;
            node.map()
        });
        match (found, balancer) {
            (Some((name, ..)), Some(balancer)) => {
                self.parts.insert(name.to_owned());
                let path = format!("http.services.{name}.loadBalancer");
                parts.push(Part { path, balancer, weight: 1, is_fallback });
            }
            _ => pool.main.unsupported(
                node.line,
                &format!("{path}: {name}"),
                "a pool can combine only load balancers of this file",
            ),
        }
    }

    fn balancer(&self, part: &Part<'n>, weights: &[Option<u64>], pool: &mut Pool) {
        let Part { path, balancer, is_fallback, .. } = part;
        let servers = list_in(balancer, "servers", &format!("{path}.servers"), &mut pool.main);
        for (node, weight) in servers.iter().zip(weights) {
            server(node, path, *weight, *is_fallback, self.tls(balancer), pool);
        }
        sticky(balancer, path, pool);
        let at = format!("{path}.healthCheck");
        if let Some(check) = map_in(balancer, "healthCheck", &at, &mut pool.health) {
            let wants_tls =
                peek(check, "scheme").and_then(Node::text).map(|scheme| scheme.eq_ignore_ascii_case("https"));
            if let Some(wants_tls) = wants_tls.filter(|wants| *wants != pool.has_tls()) {
                pool.health.set("tls", Value::flag(wants_tls));
            }
            health(check, &at, &mut pool.health);
        }
        let at = format!("{path}.passiveHealthCheck");
        if let Some(check) = map_in(balancer, "passiveHealthCheck", &at, &mut pool.ejection) {
            passive(check, &at, &mut pool.ejection);
        }
        if let Some(node) = balancer.take("serversTransport") {
            self.transport(node, path, pool);
        }
        if let Some(node) = balancer.take("passHostHeader").filter(|node| node.text() != Some("true")) {
            note(
                &format!("{path}.passHostHeader"),
                node.line,
                node,
                "Linchpin always forwards the Host that the client sent",
                &mut pool.main,
            );
        }
        if let Some(node) = balancer.take("strategy") {
            match node.text().unwrap_or_default() {
                "wrr" => pool.balance(&Balance::RoundRobin),
                "p2c" => pool.balance(&Balance::RandomTwo),
                "hrw" => pool.balance(&Balance::Hash(By::Address)),
                "leasttime" => pool.balance(&Balance::LeastRequests),
                _ => note(&format!("{path}.strategy"), node.line, node, NONE, &mut pool.main),
            }
        }
        left(balancer, path, NONE, &mut pool.main);
    }

    /// Returns the TLS settings of a service's transport.
    fn tls(&self, balancer: &Map) -> BackendTls {
        let name = balancer
            .all()
            .find(|(key, ..)| key.eq_ignore_ascii_case("serversTransport"))
            .and_then(|(_, _, node)| node.text());
        let transport = name.and_then(|name| self.transports.all().find(|(other, ..)| is_named(other, name)));
        let mut tls = BackendTls::default();
        let Some(transport) = transport.and_then(|(_, _, node)| node.map()) else { return tls };
        let file = |node: &Node| node.text().and_then(grammar::file).filter(|path| !path.contains(' '));
        let all = || transport.all();
        let named = |wanted: &str| all().find(|(key, ..)| key.eq_ignore_ascii_case(wanted)).map(|(_, _, node)| node);
        tls.server_name = named("serverName").and_then(Node::text).and_then(server_name);
        if tls.server_name.is_some() {
            transport.take_text("serverName");
        }
        if named("insecureSkipVerify").and_then(Node::text) == Some("true") {
            transport.take_text("insecureSkipVerify");
            tls.verify = false;
        }
        if let Some([authority]) = named("rootCAs").map(Node::list)
            && let Some(authority) = file(authority)
        {
            transport.take("rootCAs");
            tls.ca = Some(authority);
        }
        if let Some([pair]) = named("certificates").map(Node::list)
            && let Some(pair) = pair.map()
            && let (Some(cert), Some(key)) =
                (peek(pair, "certFile").and_then(file), peek(pair, "keyFile").and_then(file))
        {
            let _ = ["certFile", "keyFile"].map(|key| pair.take_text(key));
            (tls.cert, tls.key) = (Some(cert), Some(key));
        }
        tls
    }

    /// Applies the timeouts and connection limits of a transport to a pool.
    fn transport(&self, node: &Node, path: &str, pool: &mut Pool) {
        let name = node.text().unwrap_or_default();
        if name.is_empty() {
            return note(&format!("{path}.serversTransport"), node.line, node, NONE, &mut pool.main);
        }
        let Some((name, _, found)) = self.transports.all().find(|(other, ..)| is_named(other, name)) else {
            return note(
                &format!("{path}.serversTransport"),
                node.line,
                node,
                "it is not in this file",
                &mut pool.main,
            );
        };
        let Some(transport) = found.map() else { return };
        let path = format!("http.serversTransports.{name}");
        let at = format!("{path}.forwardingTimeouts");
        if let Some(timeouts) = map_in(transport, "forwardingTimeouts", &at, &mut pool.timeouts) {
            for (key, line, node) in timeouts.all().filter(|(_, _, node)| node.text().is_none()) {
                note(&format!("{at}.{key}"), line, node, "not a duration", &mut pool.timeouts);
            }
            if let Some(node) = timeouts.take("dialTimeout") {
                pool.connect_timeout(duration(node), node.line, &format!("{path}.forwardingTimeouts.dialTimeout"));
            }
            if let Some(node) = timeouts.take("responseHeaderTimeout") {
                pool.response_timeout(
                    duration(node),
                    node.line,
                    &format!("{path}.forwardingTimeouts.responseHeaderTimeout"),
                );
            }
            if let Some(node) = timeouts.take("idleConnTimeout") {
                let shown = format!("{path}.forwardingTimeouts.idleConnTimeout");
                pool.upstream.share_time("idle_timeout", duration(node), WAIT, node.line, &shown);
            }
            left(timeouts, &format!("{path}.forwardingTimeouts"), NONE, &mut pool.timeouts);
        }
        if let Some(count) = number_in(transport, "maxIdleConnsPerHost", &path, &mut pool.upstream) {
            pool.upstream.set("max_idle_per_thread", Value::number(count.min(100_000)));
        }
        left(
            transport,
            &path,
            "of TLS settings for backends, only authorities, names and certificates are imported: see docs/tls.md",
            &mut pool.upstream,
        );
        self.transports.take(name);
    }
}

/// Returns the ports of all servers.
pub(super) fn ports(services: &Map) -> HashSet<u16> {
    let mut ports = HashSet::new();
    for (_, _, service) in services.all() {
        let balancers = service.map().into_iter().flat_map(Map::all).filter_map(|(_, _, kind)| kind.map());
        let servers = balancers.flat_map(Map::all).filter(|(key, ..)| key.eq_ignore_ascii_case("servers"));
        for server in servers.flat_map(|(_, _, node)| node.list()).filter_map(Node::map) {
            let url =
                server.all().find(|(key, ..)| key.eq_ignore_ascii_case("url")).and_then(|(_, _, node)| node.text());
            match url.map(|url| located(url).1) {
                Some(Address::Socket(socket)) => drop(ports.insert(socket.port())),
                Some(Address::Name(_, port)) => drop(ports.insert(port)),
                _ => {}
            }
        }
    }
    ports
}

/// Splits a URL into scheme, address, authority and path.
fn located(url: &str) -> (&str, Address, &str, &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, behind) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let port = if scheme == "https" { 443 } else { 80 };
    (scheme, units::address(host, Some(port)), host, behind)
}

fn server(node: &Node, path: &str, weight: Option<u64>, is_fallback: bool, mut tls: BackendTls, pool: &mut Pool) {
    let path = format!("{path}.servers");
    let Some(map) = node.map() else {
        return note(&path, node.line, node, "a server needs a url", &mut pool.main);
    };
    let url = map.take("url");
    if let Some(url) = url.filter(|url| url.text().is_none()) {
        note(&format!("{path}.url"), url.line, url, "not a URL", &mut pool.main);
    }
    number_in(map, "weight", &path, &mut pool.main);
    let line = url.map_or(node.line, |url| url.line);
    let text = url.and_then(Node::text).unwrap_or_default();
    let (scheme, address, host, behind) = located(text);
    let shown = format!("{path}.url: {text}");
    if let (None, Address::Name(host, _)) = (&tls.server_name, &address) {
        tls.server_name = server_name(host);
    }
    let protocol = BackendProtocol { http2: scheme == "h2c", proxy: None, tls: (scheme == "https").then_some(tls) };
    let fits = address == Address::Other || pool.uses_protocol(&protocol);
    let backend = pool.backend(&name_of(&address, host), &address, line, &shown);
    if let Some(weight) = weight {
        backend.weight(weight, line, &shown);
    }
    if is_fallback {
        backend.backup(line, &shown);
    }
    if !fits {
        let why = "all backends of a pool use the same protocol and TLS settings, and this one differs from the first: give it a pool of its own";
        backend.switch_off(line, &shown, why);
    }
    let table = &mut backend.table;
    if !matches!(scheme, "http" | "https" | "h2c") {
        table.unsupported(line, &shown, "Linchpin connects to backends by HTTP, with or without TLS");
    }
    if !matches!(behind, "" | "/") {
        table.unsupported(line, &shown, "a backend has no path: Linchpin forwards the request's path unchanged");
    }
    left(map, &path, NONE, table);
}
