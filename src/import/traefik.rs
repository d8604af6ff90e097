//! Owns: a dynamic file of Traefik: its routers, and what of the file is no service.
//! Invariant: each value is taken over, or noted with its path.
//! Must not know: how the output is written; YAML and TOML.

mod health;
mod node;
mod notes;
mod rule;
mod service;
mod sticky;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use self::node::{Map, Node};
use self::notes::{left, note};
use self::service::Services;
use super::Broken;
use super::output::Output;
use super::toml::{GUARDS, Value};

/// Of what nothing better is known.
const NONE: &str = "has no equivalent";
const HTTP_ALONE: &str = "Linchpin speaks HTTP alone";
const TLS: &str = "TLS is not taken over: write [listeners.tls] with `cert` and `key`, see docs/tls.md";

/// Reads a dynamic file into `out`.
pub(super) fn read(text: &str, out: &mut Output) -> Result<(), Broken> {
    let root = node::read(text)?;
    let Some(root) = root.map() else {
        return Err(Broken::new(root.line, "no keys and values"));
    };
    let empty = Map::default();
    let http = map_of(root, "http", &empty);
    let middlewares = map_of(http, "middlewares", &empty);
    let mut services = Services::new(map_of(http, "services", &empty), map_of(http, "serversTransports", &empty));
    let routers = map_of(http, "routers", &empty);
    let fronts = Fronts::new(routers, out);
    for (name, line, node) in routers.take_all() {
        let path = format!("http.routers.{name}");
        match node.map() {
            Some(map) => {
                let entries = entry_points(map, &path, &fronts, out);
                let own = fronts.of(&entries);
                let place = Place { path: &path, line, fronts: &own, guard: certificates(map, root) };
                router(map, &place, middlewares, &mut services, out);
            }
            None => note(&path, line, node, NONE, &mut out.unrouted),
        }
    }
    services.finish(out);
    for (name, line, middleware) in middlewares.left() {
        let kind = middleware.map().and_then(|map| map.left().next()).map_or("", |(kind, ..)| kind);
        note(&format!("http.middlewares.{name}"), line, middleware, why_of(kind), &mut out.rest);
    }
    left(http, "http", NONE, &mut out.rest);
    for (key, line, node) in root.left() {
        let why = match key.to_ascii_lowercase().as_str() {
            "tcp" | "udp" => HTTP_ALONE,
            "tls" => TLS,
            "entrypoints"
            | "providers"
            | "api"
            | "log"
            | "accesslog"
            | "metrics"
            | "certificatesresolvers"
            | "ping" => "this is of Traefik's static configuration: import the dynamic one",
            _ => NONE,
        };
        note(key, line, node, why, &mut out.rest);
    }
    Ok(())
}

/// What the entry points of the routers become.
struct Fronts {
    /// By name, where routers that lead somewhere differ in them: then each is a listener of its own.
    named: BTreeMap<String, usize>,
    /// Stands for all of them otherwise.
    one: usize,
}

impl Fronts {
    fn new(routers: &Map, out: &mut Output) -> Fronts {
        let leads = |map: &&Map| {
            let text = |key: &str| peek(map, key).and_then(Node::text).unwrap_or_default();
            rule::read(text("rule")).is_ok() && !text("service").ends_with("@internal")
        };
        let sets: BTreeSet<Vec<String>> =
            routers.all().filter_map(|(_, _, node)| node.map()).filter(leads).map(entries_of).collect();
        let one = out.front(1, "the routers", "listener");
        let mut named = BTreeMap::new();
        let names: BTreeSet<String> = sets.iter().flatten().cloned().collect();
        if sets.len() > 1 && names.len() > 1 {
            for (port, name) in (8080..=u16::MAX).zip(names) {
                let front = out.front(1, &format!("the entry point {name}"), &name);
                let table = out.listener(front, SocketAddr::from(([127, 0, 0, 1], port)), false);
                table.remark(format!("the entry point {name} is in Traefik's static configuration: write its address"));
                named.insert(name, front);
            }
        }
        Fronts { named, one }
    }

    /// Those of a router with these entry points; one that names none is at all of them.
    fn of(&self, entries: &[String]) -> Vec<usize> {
        match (self.named.is_empty(), entries.is_empty()) {
            (true, _) => vec![self.one],
            (false, true) => self.named.values().copied().collect(),
            (false, false) => entries.iter().filter_map(|name| self.named.get(name)).copied().collect(),
        }
    }
}

/// The names of a router's entry points.
fn entries_of(router: &Map) -> Vec<String> {
    let nodes = peek(router, "entryPoints").map(Node::list).unwrap_or_default();
    let names: BTreeSet<String> = nodes.iter().filter_map(Node::text).map(str::to_owned).collect();
    names.into_iter().collect()
}

/// A value that is not taken by that.
fn peek<'n>(map: &'n Map, key: &str) -> Option<&'n Node> {
    map.all().find(|(other, ..)| other.eq_ignore_ascii_case(key)).map(|(_, _, node)| node)
}

/// Notes the entry points of a router; their names.
fn entry_points(router: &Map, path: &str, fronts: &Fronts, out: &mut Output) -> Vec<String> {
    const STATIC: &str = "entry points are in Traefik's static configuration: write [[listeners]] with their addresses";
    let names = entries_of(router);
    let Some(node) = router.take("entryPoints") else { return names };
    let is_kept = |node: &Node| node.text().is_some_and(|name| fronts.named.contains_key(name));
    let path = format!("{path}.entryPoints");
    if node.list().iter().any(is_kept) {
        for each in node.list() {
            match each.text().filter(|_| is_kept(each)) {
                Some(name) => out.clients.needless(each.line, &format!("{path}: {name}"), "a listener is called so"),
                None => note(&path, each.line, each, STATIC, &mut out.clients),
            }
        }
    } else {
        note(&path, node.line, node, STATIC, &mut out.clients);
    }
    names
}

/// Where clients of a router are asked for certificates, if they are: the line, and what stands there.
fn certificates(router: &Map, root: &Map) -> Option<(usize, String)> {
    let tls = peek(router, "tls")?;
    let name = tls.map().and_then(|tls| peek(tls, "options")).and_then(Node::text).unwrap_or("default");
    let all = peek(peek(root, "tls")?.map()?, "options")?.map()?;
    let (name, _, options) = all.all().find(|(key, ..)| is_named(key, name))?;
    let clients = peek(options.map()?, "clientAuth")?;
    let kind = clients.map().and_then(|clients| peek(clients, "clientAuthType")).and_then(Node::text);
    let asks = kind.is_none_or(|kind| !kind.eq_ignore_ascii_case("NoClientCert"));
    asks.then(|| (clients.line, format!("tls.options.{name}.clientAuth")))
}

/// Where a router stands, and where it is reached.
struct Place<'p> {
    path: &'p str,
    line: usize,
    fronts: &'p [usize],
    /// What keeps out clients without a certificate.
    guard: Option<(usize, String)>,
}

fn router(router: &Map, place: &Place<'_>, middlewares: &Map, services: &mut Services<'_>, out: &mut Output) {
    let Place { path, line, fronts, guard } = place;
    let (rule, service) = (router.take("rule"), router.take("service"));
    for (key, node) in [("rule", rule), ("service", service)] {
        if let Some(node) = node.filter(|node| node.text().is_none()) {
            note(&format!("{path}.{key}"), node.line, node, NONE, &mut out.unrouted);
        }
    }
    let name = service.and_then(Node::text).unwrap_or_default();
    let text = rule.and_then(Node::text).unwrap_or_default();
    let at = rule.map_or(*line, |rule| rule.line);
    let routes = match (rule::read(text), services.pool(name, out)) {
        (Err(why), _) => Err(why),
        (_, None) => Err("its service is not in this file"),
        (Ok(condition), Some(index)) => Ok((condition.routes(), index)),
    };
    let told = format!("{path}.rule: {text}");
    match routes {
        Ok((routes, index)) => {
            for (hosts, prefix) in routes {
                let pool = services.name(index).to_owned();
                for front in *fronts {
                    let before = out.routes();
                    out.route(*front, hosts.clone(), &prefix, &pool, at, &told);
                    if let (Some((line, text)), true) = (guard, out.routes() > before) {
                        out.guard_last_route(*line, text, GUARDS[3]);
                    }
                }
            }
            retries(router, middlewares, index, services);
        }
        Err(why) => {
            out.unrouted.lost(at, &told, why);
            if let Some(service) = service {
                out.unrouted.lost(service.line, &format!("{path}.service: {name}"), format!("belongs to line {at}"));
            }
        }
    }
    let named = router.take("middlewares");
    if let Some(node) = named.filter(|node| node.list().is_empty()) {
        note(&format!("{path}.middlewares"), node.line, node, NONE, &mut out.unrouted);
    }
    for node in named.map(Node::list).unwrap_or_default() {
        let Some(name) = node.text() else {
            note(&format!("{path}.middlewares"), node.line, node, NONE, &mut out.unrouted);
            continue;
        };
        let told = format!("{path}.middlewares: {name}");
        match middlewares.all().any(|(other, ..)| is_named(other, name)) {
            true => out.unrouted.needless(node.line, &told, "what becomes of it is said where it is defined"),
            false => out.unrouted.lost(node.line, &told, "it is not in this file"),
        }
    }
    if let Some(node) = router.take("priority") {
        note(
            &format!("{path}.priority"),
            node.line,
            node,
            "the most specific route wins: hosts before paths, longer paths first",
            &mut out.unrouted,
        );
    }
    if let Some(node) = router.take("tls") {
        note(&format!("{path}.tls"), node.line, node, TLS, &mut out.unrouted);
    }
    left(router, path, NONE, &mut out.unrouted);
}

/// A `retry` among the middlewares of a router is one of its pool.
fn retries(router: &Map, middlewares: &Map, index: usize, services: &mut Services<'_>) {
    let names = router.take("middlewares").map(Node::list).unwrap_or_default();
    for name in names.iter().filter_map(Node::text) {
        if let Some((line, count)) = attempts(middlewares, name) {
            let told = format!("http.middlewares.{name}.retry.attempts: {count}");
            services.retry(index).share("attempts", Value::number(count.clamp(1, 16)), line, &told);
        }
    }
}

/// How often a middleware tries, and its line. It is taken if it says that.
fn attempts(middlewares: &Map, name: &str) -> Option<(usize, u64)> {
    let (_, _, middleware) = middlewares.all().find(|(other, ..)| is_named(other, name))?;
    let (_, _, retry) = middleware.map()?.all().find(|(kind, ..)| kind.eq_ignore_ascii_case("retry"))?;
    let (_, line, node) = retry.map()?.all().find(|(key, ..)| key.eq_ignore_ascii_case("attempts"))?;
    let count = node.text()?.parse().ok()?;
    retry.map()?.take("attempts");
    Some((line, count))
}

/// Whether a name, which may say that it is of this file, is that of `key`.
fn is_named(key: &str, name: &str) -> bool {
    key.eq_ignore_ascii_case(name.strip_suffix("@file").unwrap_or(name))
}

/// Why a middleware has no equivalent.
fn why_of(kind: &str) -> &'static str {
    match kind.to_ascii_lowercase().as_str() {
        "ipallowlist" | "ipwhitelist" => GUARDS[0],
        "basicauth" | "digestauth" | "forwardauth" => GUARDS[1],
        "ratelimit" | "inflightreq" => GUARDS[2],
        "stripprefix" | "stripprefixregex" | "addprefix" | "replacepath" | "replacepathregex" => {
            "paths are not taken over: `strip_prefix` and `add_prefix` of [[routes]] change their beginnings"
        }
        "redirectscheme" | "redirectregex" => "redirects are not taken over: write [[routes]] with `redirect`",
        "headers" => "fields are not taken over: write [routes.request_headers] or [routes.response_headers]",
        "compress" => "Linchpin does not compress",
        "errors" => "Linchpin has error pages of its own",
        "buffering" => "bodies are streamed; `body_bytes` of [server.limits] is their limit",
        "circuitbreaker" => "[pools.ejection] takes out backends on which requests fail",
        _ => NONE,
    }
}

fn map_of<'n>(map: &'n Map, key: &str, empty: &'n Map) -> &'n Map {
    match map.left().find(|(other, ..)| other.eq_ignore_ascii_case(key)) {
        Some((_, _, node)) if node.map().is_some() => map.take(key).and_then(Node::map).unwrap_or(empty),
        _ => empty,
    }
}
