//! Owns: a dynamic file of Traefik: its routers, and what of the file is no service.
//! Invariant: each value is taken over, or noted with its path.
//! Must not know: how the output is written; YAML and TOML.

mod node;
mod rule;
mod service;

use std::collections::BTreeSet;

use self::node::{Data, Map, Node};
use self::service::Services;
use super::Broken;
use super::output::Output;
use super::toml::{GUARDS, Table, Value};

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
    let mut entries = BTreeSet::new();
    let front = out.front(1, "the routers");
    for (name, line, node) in map_of(http, "routers", &empty).take_all() {
        let path = format!("http.routers.{name}");
        match node.map() {
            Some(map) => {
                entries.insert(entry_points(map, &path, out));
                router(map, &path, line, front, middlewares, &mut services, out);
            }
            None => note(&path, line, node, NONE, &mut out.unrouted),
        }
    }
    if entries.len() > 1 {
        out.clients.remark("the routers have different entry points; here routes hold for every listener: what is reached at one address is reached at all of them");
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

/// Notes the entry points of a router; their names.
fn entry_points(router: &Map, path: &str, out: &mut Output) -> Vec<String> {
    const STATIC: &str = "entry points are in Traefik's static configuration: write [[listeners]] with their addresses";
    let Some(node) = router.take("entryPoints") else { return Vec::new() };
    note(&format!("{path}.entryPoints"), node.line, node, STATIC, &mut out.clients);
    let mut names: Vec<String> = node.list().iter().filter_map(Node::text).map(str::to_owned).collect();
    names.sort();
    names
}

fn router(
    router: &Map,
    path: &str,
    line: usize,
    front: usize,
    middlewares: &Map,
    services: &mut Services<'_>,
    out: &mut Output,
) {
    let (rule, service) = (router.take("rule"), router.take("service"));
    for (key, node) in [("rule", rule), ("service", service)] {
        if let Some(node) = node.filter(|node| node.text().is_none()) {
            note(&format!("{path}.{key}"), node.line, node, NONE, &mut out.unrouted);
        }
    }
    let name = service.and_then(Node::text).unwrap_or_default();
    let text = rule.and_then(Node::text).unwrap_or_default();
    let at = rule.map_or(line, |rule| rule.line);
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
                out.route(front, hosts, &prefix, &pool, at, &told);
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

/// Notes what nobody took of a map.
fn left(map: &Map, path: &str, why: &str, notes: &mut Table) {
    for (key, line, node) in map.left() {
        note(&format!("{path}.{key}"), line, node, why, notes);
    }
}

/// Notes a value: each text in it, with its path. Of maps in it, what nobody took.
fn note(path: &str, line: usize, node: &Node, why: &str, notes: &mut Table) {
    match &node.data {
        Data::Text(text) if text.is_empty() => notes.lost(line, path, why),
        Data::Text(text) => notes.lost(line, &format!("{path}: {text}"), why),
        Data::List(nodes) if nodes.is_empty() => notes.lost(line, path, why),
        Data::List(nodes) => nodes.iter().for_each(|each| note(path, each.line, each, why, notes)),
        Data::Map(map) if map.is_empty() => notes.lost(line, path, why),
        Data::Map(map) => left(map, path, why, notes),
    }
}
