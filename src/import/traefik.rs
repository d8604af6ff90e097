//! Owns: the conversion of a dynamic Traefik file, except for its services.
//! Invariant: each value is converted, or noted with its path.
//! Must not know: the format of the output; YAML and TOML.

mod acme;
mod entry;
mod headers;
mod health;
mod middleware;
mod rule;
mod service;
mod sticky;
mod weights;

use std::collections::HashSet;

use self::acme::Resolvers;
use self::entry::{EntryPoints, RouterEntryPoints};
use self::middleware::Effects;
use self::service::Services;
use super::access::Access;
use super::client_limits::PartLimits;
use super::field_edits::Message;
use super::guard::{Guard, GuardScope, Restriction};
use super::node::{self, Map, Node, is_named, peek};
use super::notes::{left, note};
use super::output::Output;
use super::reasons::{FILTER, NONE, PASSWORDS};
use super::route::{Destination, Request};
use super::source::SyntaxError;
use super::toml::{Table, Value};

const HTTP_ALONE: &str = "Linchpin handles only HTTP";
const TLS: &str = "of TLS settings, only certificates, authorities and versions are imported: see docs/tls.md";
const LABELS: &str =
    "labels of containers are not read: write their routers, middlewares and services into a file, and import that";
const STATIC: &str = "entry points are in Traefik's static configuration: add [[listeners]] with their addresses";

/// Converts a dynamic file into `out`.
pub(super) fn read(text: &str, out: &mut Output) -> Result<(), SyntaxError> {
    let root = node::read(text)?;
    let Some(root) = root.map() else {
        return Err(SyntaxError::new(root.line, "the file has no keys and values"));
    };
    let empty = Map::default();
    let http = map_of(root, "http", &empty);
    let middlewares = map_of(http, "middlewares", &empty);
    let services = map_of(http, "services", &empty);
    let ports = service::ports(services);
    let mut services = Services::new(services, map_of(http, "serversTransports", &empty));
    let entry_points = peek(root, "entryPoints").and_then(Node::map).unwrap_or(&empty);
    let routers: Vec<_> = map_of(http, "routers", &empty).take_all().collect();
    let leading: Vec<_> = routers
        .iter()
        .filter_map(|(_, _, node)| node.map())
        .filter(|router| leads(router, middlewares))
        .map(|router| RouterEntryPoints::of(router, entry_points))
        .collect();
    let resolvers = Resolvers::read(map_of(root, "certificatesResolvers", &empty), out);
    let entries = EntryPoints::open(&leading, root, (&ports, &resolvers.challenges_at), out);
    let mut users_noted = HashSet::new();
    for (name, line, node) in routers {
        let path = format!("http.routers.{name}");
        let Some(map) = node.map() else {
            note(&path, line, node, NONE, &mut out.unrouted);
            continue;
        };
        let reached = RouterEntryPoints::of(map, entry_points);
        entry_points_of(map, &path, &entries, out);
        let (groups, is_enforced) = entries.of(&reached);
        let rule = peek(map, "rule").and_then(Node::text).unwrap_or_default();
        match peek(map, "tls").filter(|tls| tls.text().is_none_or(|text| text == "true")) {
            Some(tls) => tls.map().into_iter().for_each(|tls| {
                resolvers.order(tls, rule, &format!("{path}.tls"), &groups, out);
            }),
            None => reached.tls(entry_points).for_each(|(name, tls)| {
                resolvers.order(tls, rule, &format!("entryPoints.{name}.http.tls"), &groups, out);
            }),
        }
        let mut effects = Effects::default();
        for names in reached.middlewares(entry_points).into_iter().chain(peek(map, "middlewares")) {
            effects.read(names.list(), &path, middlewares, 0);
        }
        if let Some((line, text)) = entry::certificate_demand(&reached, is_enforced, root) {
            let why = "clients had to present a certificate: set `client_ca` in [listeners.tls] of a listener, and its name in `listeners` of the route";
            effects.guards.push((line, text, why));
        }
        let place = RouterContext { path: &path, line, groups: &groups, effects: &effects };
        router(map, &place, middlewares, (&mut services, &mut users_noted), out);
    }
    services.finish(out);
    middleware::rest(middlewares, &mut out.rest);
    left(http, "http", NONE, &mut out.rest);
    labels(root, &mut out.rest);
    for (key, line, node) in root.left() {
        let why = match key.to_ascii_lowercase().as_str() {
            "tcp" | "udp" => HTTP_ALONE,
            "tls" => TLS,
            "services" => LABELS,
            "entrypoints" => "of entry points, only addresses, TLS, redirections and middlewares are imported",
            "providers" | "api" | "log" | "accesslog" | "metrics" | "certificatesresolvers" | "ping" => {
                "this belongs to Traefik's static configuration: import the dynamic one"
            }
            _ => NONE,
        };
        note(key, line, node, why, &mut out.rest);
    }
    Ok(())
}

/// Notes the labels of containers that restrict requests, in a file of Docker Compose or Swarm.
fn labels(root: &Map, notes: &mut Table) {
    let services = peek(root, "services").and_then(Node::map).into_iter().flat_map(Map::all);
    for (name, _, service) in services.filter_map(|(name, line, node)| Some((name, line, node.map()?))) {
        let deploy = peek(service, "deploy").and_then(Node::map);
        for labels in [Some(service), deploy].into_iter().flatten().filter_map(|map| peek(map, "labels")) {
            let of_list = labels.list().iter().filter_map(|node| Some((node.line, node.text()?.split('=').next()?)));
            let of_map = labels.map().into_iter().flat_map(Map::all).map(|(key, line, _)| (line, key));
            for (line, key) in of_list.chain(of_map).filter(|(_, key)| restricts(key)) {
                notes.guard(line, &format!("services.{name}.labels: {key}"), LABELS);
            }
        }
    }
}

/// Returns whether a label names a middleware that may restrict requests.
fn restricts(label: &str) -> bool {
    let label = label.to_ascii_lowercase();
    let kinds = ["auth", "ipallowlist", "ipwhitelist", "plugin"];
    label.starts_with("traefik.http.middlewares.") && kinds.iter().any(|kind| label.contains(kind))
        || label.starts_with("traefik.http.routers.") && label.ends_with(".middlewares")
}

/// Returns whether a router may lead to a service or a redirect.
fn leads(router: &Map, middlewares: &Map) -> bool {
    let text = |key: &str| peek(router, key).and_then(Node::text).unwrap_or_default();
    let names = peek(router, "middlewares").map(Node::list).unwrap_or_default();
    let redirects = names.iter().filter_map(Node::text).any(|name| {
        let found = middlewares.all().find(|(other, ..)| is_named(other, name));
        found
            .and_then(|(_, _, node)| node.map())
            .is_some_and(|map| map.all().any(|(kind, ..)| kind.to_ascii_lowercase().starts_with("redirect")))
    });
    rule::read(text("rule")).is_ok() && (redirects || !text("service").ends_with("@internal"))
}

/// Notes the entry points of a router.
fn entry_points_of(router: &Map, path: &str, entries: &EntryPoints, out: &mut Output) {
    let Some(node) = router.take("entryPoints") else { return };
    let is_kept = |node: &Node| node.text().is_some_and(|name| entries.knows(name));
    let path = format!("{path}.entryPoints");
    if node.list().iter().any(is_kept) {
        for each in node.list() {
            match each.text().filter(|_| is_kept(each)) {
                Some(name) => out.clients.unneeded(each.line, &format!("{path}: {name}"), "a listener has this name"),
                None => note(&path, each.line, each, STATIC, &mut out.clients),
            }
        }
    } else {
        note(&path, node.line, node, STATIC, &mut out.clients);
    }
}

/// A router's path, line, listener groups and middlewares.
struct RouterContext<'p> {
    path: &'p str,
    line: usize,
    groups: &'p [usize],
    effects: &'p Effects,
}

fn router(
    router: &Map,
    at: &RouterContext<'_>,
    middlewares: &Map,
    (services, users_noted): (&mut Services<'_>, &mut HashSet<String>),
    out: &mut Output,
) {
    let RouterContext { path, line, groups, effects } = at;
    let (rule, service) = (router.take("rule"), router.take("service"));
    for (key, node) in [("rule", rule), ("service", service)] {
        if let Some(node) = node.filter(|node| node.text().is_none()) {
            note(&format!("{path}.{key}"), node.line, node, NONE, &mut out.unrouted);
        }
    }
    let name = service.and_then(Node::text).unwrap_or_default();
    let text = rule.and_then(Node::text).unwrap_or_default();
    let rule_text = text;
    let line = rule.map_or(*line, |rule| rule.line);
    let shown = format!("{path}.rule: {text}");
    let pool = if effects.redirect.is_some() { None } else { services.pool(name, out) };
    let destination = match (&effects.redirect, pool) {
        (Some(redirect), _) => Ok(Destination::Redirect(redirect.clone())),
        (None, Some(index)) => Ok(Destination::pool(services.name(index))),
        (None, None) => Err("its service is not in this file"),
    };
    let mut place = GuardScope::Routes(Vec::new());
    match rule::read(text).and_then(|condition| Ok((condition, destination?))) {
        Ok(_) if groups.is_empty() => {
            out.unrouted.unsupported(line, &shown, "its entry points use TLS for other routers, but not for this one");
        }
        Ok((condition, destination)) => {
            let mut ids = Vec::new();
            for request in condition.routes() {
                ids.extend(self::routed(groups, request, &destination, effects, (line, &shown), out));
            }
            place = GuardScope::Routes(ids);
        }
        Err(why) => {
            // Other routers would serve the requests that it restricted.
            place = GuardScope::Groups(groups.to_vec(), vec![Request::to(rule::hosts(text), "/")]);
            out.unrouted.unsupported(line, &shown, why);
            if let Some(service) = service {
                let why = format!("belongs to line {line}");
                out.unrouted.unsupported(service.line, &format!("{path}.service: {name}"), why);
            }
        }
    }
    let ids = match &place {
        GuardScope::Routes(ids) => ids.clone(),
        _ => Vec::new(),
    };
    let mut guards = effects.guards.clone();
    if pool.is_some() && !ids.is_empty() {
        out.client_limits.push(PartLimits { rate: effects.rate.clone(), connections: None });
    }
    for (users, file) in &effects.users {
        if users_noted.insert(file.clone()) {
            super::users::note(users, file, &mut out.unrouted);
        }
    }
    for (line, text, access) in &effects.access {
        // Two lists would have to be one of what both have, and two files of users one of both.
        let is_kept = out.restrict_on(&ids, access);
        let why = if matches!(access, Access::Lists(_)) { FILTER } else { PASSWORDS };
        match is_kept {
            true if rule::has_names(rule_text) => {
                let (place, kind) = (place.clone(), Restriction::Names);
                out.guard(Guard { place, line: *line, text: text.clone(), why: why.into(), kind });
            }
            true => {}
            false => guards.push((*line, text.clone(), why)),
        }
    }
    for (line, text, edit) in &effects.edits {
        if pool.is_none() && edit.message() == Message::Request {
            out.unrouted.unsupported(*line, text, "a redirect sends no request on");
        } else if !ids.is_empty() {
            out.edit(GuardScope::Routes(ids.clone()), edit.clone(), *line, text);
        }
    }
    for (line, text, why) in &guards {
        out.guard(Guard {
            place: place.clone(),
            line: *line,
            text: text.clone(),
            why: (*why).into(),
            kind: Restriction::Lost,
        });
    }
    if let Some(index) = pool {
        retries(router, middlewares, index, services);
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
        let shown = format!("{path}.middlewares: {name}");
        // A middleware of another file may restrict requests, and is noted as such.
        if middlewares.all().any(|(other, ..)| is_named(other, name)) {
            out.unrouted.unneeded(node.line, &shown, "see the notes on its definition");
        }
    }
    if let Some(node) = router.take("priority") {
        let why = "the most specific route wins: hosts before paths, longer paths first";
        note(&format!("{path}.priority"), node.line, node, why, &mut out.unrouted);
    }
    if let Some(node) = router.take("tls") {
        if let Some(options) = node.map().and_then(|tls| tls.take("options")).filter(|node| node.text().is_none()) {
            note(&format!("{path}.tls.options"), options.line, options, NONE, &mut out.unrouted);
        }
        let is_plain = node.text() == Some("true") || node.map().is_some_and(|map| map.left().next().is_none());
        if !is_plain {
            note(&format!("{path}.tls"), node.line, node, TLS, &mut out.unrouted);
        }
    }
    left(router, path, NONE, &mut out.unrouted);
}

/// Adds the routes of a router.
fn routed(
    groups: &[usize],
    request: Request,
    destination: &Destination,
    effects: &Effects,
    (line, shown): (usize, &str),
    out: &mut Output,
) -> Vec<usize> {
    let mut request = request;
    let mut groups = groups.to_vec();
    let destination = match destination {
        Destination::Pool { name, .. } => {
            let strip = effects.strip(&request.prefix);
            if let Some(lost) = effects.strips.iter().find(|_| strip.is_none()) {
                out.unrouted.unsupported(
                    line,
                    shown,
                    format!("{lost} is stripped, but is not the beginning of {}", request.prefix),
                );
            }
            Destination::Pool { name: name.clone(), strip, add: effects.add.clone() }
        }
        Destination::Redirect(redirect) => {
            // A client that already uses TLS would be redirected for ever.
            request.secure = Some(false);
            groups.retain(|group| out.is_secure(*group) != Some(true));
            if groups.is_empty() {
                out.unrouted.unneeded(line, shown, "all clients here use TLS");
            }
            Destination::Redirect(redirect.clone())
        }
    };
    out.route(&groups, &request, &destination, line, shown)
}

/// Applies a router's `retry` middleware to its pool.
fn retries(router: &Map, middlewares: &Map, index: usize, services: &mut Services<'_>) {
    let names = router.take("middlewares").map(Node::list).unwrap_or_default();
    for name in names.iter().filter_map(Node::text) {
        if let Some((line, count)) = middleware::attempts(middlewares, name) {
            let shown = format!("http.middlewares.{name}.retry.attempts: {count}");
            services.retry(index).share("attempts", Value::number(count.clamp(1, 16)), line, &shown);
        }
    }
}

fn map_of<'n>(map: &'n Map, key: &str, empty: &'n Map) -> &'n Map {
    match map.left().find(|(other, ..)| other.eq_ignore_ascii_case(key)) {
        Some((_, _, node)) if node.map().is_some() => map.take(key).and_then(Node::map).unwrap_or(empty),
        _ => empty,
    }
}
