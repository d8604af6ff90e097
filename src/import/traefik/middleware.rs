//! Owns: the effects of middlewares on the requests of a router.
//! Invariant: a middleware that restricts requests, or may do so, is recognized as such.
//! Must not know: services, entry points.

use std::time::Duration;

use super::super::access::Access;
use super::super::address_lists::AddressLists;
use super::super::client_limits::{Given, Rate};
use super::super::field_edits::FieldEdit;
use super::super::grammar;
use super::super::node::{Map, Node};
use super::super::node::{is_named, peek};
use super::super::notes::note;
use super::super::reasons::{FILTER, NONE, PASSWORDS, RATES};
use super::super::route::Redirect;
use super::super::source::DEEPEST;
use super::super::toml::{Table, Value};
use super::super::units;
use super::super::users::{self, User};
use super::headers;

/// The combined effects of a router's middlewares.
#[derive(Default)]
pub(super) struct Effects {
    /// Path prefixes to remove.
    pub(super) strips: Vec<String>,
    /// The path prefix to add.
    pub(super) add: Option<String>,
    pub(super) redirect: Option<Redirect>,
    /// Access restrictions that Linchpin has, too, each with its line and text.
    pub(super) access: Vec<(usize, String, Access)>,
    /// Changes to header fields, each with its line and text.
    pub(super) edits: Vec<(usize, String, FieldEdit)>,
    /// Users in the file itself, and the file that they belong into.
    pub(super) users: Vec<(Vec<User>, String)>,
    /// The rate of each client.
    pub(super) rate: Option<Given<Rate>>,
    /// Access restrictions: line, text, and why each has no equivalent.
    pub(super) guards: Vec<(usize, String, &'static str)>,
}

impl Effects {
    /// Adds the effects of the middlewares of these names.
    pub(super) fn read<'n>(
        &mut self,
        names: impl IntoIterator<Item = &'n Node>,
        path: &str,
        middlewares: &Map,
        depth: usize,
    ) {
        for node in names.into_iter().filter(|_| depth < DEEPEST) {
            let Some(name) = node.text() else { continue };
            match middlewares.all().find(|(other, ..)| is_named(other, name)) {
                Some((name, _, middleware)) => {
                    for (kind, line, settings) in middleware.map().into_iter().flat_map(Map::all) {
                        self.one(kind, line, settings, &format!("http.middlewares.{name}.{kind}"), middlewares, depth);
                    }
                }
                None => {
                    let why = "it is not in this file and may restrict requests";
                    self.guards.push((node.line, format!("{path}.middlewares: {name}"), why));
                }
            }
        }
    }

    fn one(&mut self, kind: &str, line: usize, settings: &Node, path: &str, middlewares: &Map, depth: usize) {
        let empty = Map::default();
        let map = settings.map().unwrap_or(&empty);
        match kind.to_ascii_lowercase().as_str() {
            "stripprefix" => {
                let prefixes = peek(map, "prefixes").map(Node::list).unwrap_or_default();
                if let Some(prefixes) =
                    prefixes.iter().map(|node| grammar::prefix(node.text()?)).collect::<Option<Vec<_>>>()
                {
                    map.take_texts("prefixes");
                    self.strips.extend(prefixes);
                }
                map.take_text("forceSlash");
            }
            "addprefix" => {
                let prefix = peek_text(map, "prefix").and_then(grammar::prefix);
                if prefix.is_some() {
                    map.take_text("prefix");
                }
                self.add = prefix.filter(|prefix| prefix != "/").or(self.add.take());
            }
            "redirectscheme" => {
                let is_usual = peek_text(map, "port").is_none_or(|port| matches!(port, "443" | ""));
                let is_permanent = peek_text(map, "permanent") == Some("true");
                if is_usual && peek_text(map, "scheme") == Some("https") {
                    let _ = ["scheme", "permanent", "port"].map(|key| map.take_text(key));
                    // 307 and 308 keep the method, as Traefik does.
                    self.redirect = Some(Redirect::to_scheme("https", if is_permanent { 308 } else { 307 }));
                }
            }
            "redirectregex" => {
                let is_permanent = peek_text(map, "permanent") == Some("true");
                let from = peek_text(map, "regex").unwrap_or_default();
                let to = peek_text(map, "replacement").unwrap_or_default().replace("${1}", "$1");
                if let ("^http://(.*)" | "^http://(.*)$", "https://$1") = (from, to.as_str()) {
                    let _ = ["regex", "replacement", "permanent"].map(|key| map.take_text(key));
                    self.redirect = Some(Redirect::to_scheme("https", if is_permanent { 308 } else { 307 }));
                }
            }
            "headers" => {
                self.edits.extend(headers::edits(map, path));
            }
            "ratelimit" => {
                let given = rate(map).map(|value| Given { value, line, text: path.into() });
                self.rate = given.or(self.rate.take());
            }
            "chain" => {
                let names = map.take_texts("middlewares");
                self.read(names, path, middlewares, depth + 1);
            }
            "ipallowlist" | "ipwhitelist" => match networks(map) {
                Some(networks) => {
                    map.take("sourceRange");
                    let lists = AddressLists { allow: networks, ..AddressLists::default() };
                    self.access.push((line, path.into(), Access::Lists(lists)));
                }
                None => self.guards.push((line, path.into(), FILTER)),
            },
            "basicauth" => match users_of(map, path, &mut self.users) {
                Some(value) => self.access.push((line, path.into(), Access::Passwords(value))),
                None => self.guards.push((line, path.into(), PASSWORDS)),
            },
            "digestauth" | "forwardauth" => self.guards.push((line, path.into(), PASSWORDS)),
            "plugin" => self.guards.push((line, path.into(), "a plugin may restrict requests")),
            _ => {}
        }
    }

    /// Returns the longest prefix of `prefix` to remove.
    pub(super) fn strip(&self, prefix: &str) -> Option<String> {
        let all = self.strips.iter().filter(|strip| *strip != "/" && grammar::is_below(prefix, strip));
        all.max_by_key(|strip| strip.len()).cloned()
    }
}

/// Returns the networks of a list without further conditions.
fn networks(map: &Map) -> Option<Vec<String>> {
    if map.all().any(|(key, ..)| !key.eq_ignore_ascii_case("sourceRange")) {
        return None;
    }
    let nodes = peek(map, "sourceRange").map(Node::list).filter(|nodes| !nodes.is_empty())?;
    nodes.iter().map(|node| units::network(node.text()?).map(|network| network.to_string())).collect()
}

/// Returns `basic_auth` for users in a file, or for users in the configuration itself, which belong into one.
fn users_of(map: &Map, path: &str, inline: &mut Vec<(Vec<User>, String)>) -> Option<Value> {
    let file = match (peek_text(map, "usersFile").and_then(grammar::file), peek(map, "users")) {
        (Some(file), None) => {
            map.take("usersFile");
            file
        }
        (None, Some(listed)) if peek(map, "usersFile").is_none() => {
            let name = path.rsplit('.').nth(1).unwrap_or_default();
            let file = users::file(name);
            let all = listed.list().iter().map(|node| (node.line, node.text().and_then(|text| text.split_once(':'))));
            let user = |(line, pair): (usize, Option<(&str, &str)>)| {
                let (user, hash) = pair?;
                Some(User { line, shown: format!("{path}, user {user}"), weak: users::weakness(hash) })
            };
            let all: Vec<User> = all.map(user).collect::<Option<_>>().filter(|all: &Vec<User>| !all.is_empty())?;
            map.take("users");
            inline.push((all, file.clone()));
            file
        }
        _ => return None,
    };
    let realm = map.take_text("realm");
    let forwards = map.take_text("removeHeader") != Some("true");
    Some(users::basic_auth(&file, realm, forwards))
}

/// Takes a rate per address of the client: Traefik's default.
fn rate(map: &Map) -> Option<Rate> {
    let is_known = |(key, _, node): (&str, usize, &Node)| {
        node.text().is_some() && ["average", "period", "burst"].iter().any(|known| key.eq_ignore_ascii_case(known))
    };
    if !map.all().all(is_known) {
        return None;
    }
    let requests = peek_text(map, "average")?.parse().ok().filter(|requests| *requests > 0)?;
    let period = peek_text(map, "period").map_or(Some(Duration::from_secs(1)), units::seconds);
    let burst = peek_text(map, "burst").map_or(Some(1), |burst| burst.parse::<u64>().ok());
    let rate = Rate { requests, period: period.filter(|period| !period.is_zero())?, burst: Some(burst?.max(1)) };
    let _ = ["average", "period", "burst"].map(|key| map.take(key));
    Some(rate)
}

fn peek_text<'n>(map: &'n Map, key: &str) -> Option<&'n str> {
    map.all().find(|(other, ..)| other.eq_ignore_ascii_case(key))?.2.text()
}

/// Takes the `attempts` of a retry middleware; returns its line and value.
pub(super) fn attempts(middlewares: &Map, name: &str) -> Option<(usize, u64)> {
    let (_, _, middleware) = middlewares.all().find(|(other, ..)| is_named(other, name))?;
    let (_, _, retry) = middleware.map()?.all().find(|(kind, ..)| kind.eq_ignore_ascii_case("retry"))?;
    let (_, line, node) = retry.map()?.all().find(|(key, ..)| key.eq_ignore_ascii_case("attempts"))?;
    let count = node.text()?.parse().ok()?;
    retry.map()?.take("attempts");
    Some((line, count))
}

/// Notes the middlewares that were not converted.
pub(super) fn rest(middlewares: &Map, notes: &mut Table) {
    for (name, line, middleware) in middlewares.left() {
        let kind = middleware.map().and_then(|map| map.left().next()).map_or("", |(kind, ..)| kind);
        let path = format!("http.middlewares.{name}");
        let is_headers = kind.eq_ignore_ascii_case("headers");
        if kind.eq_ignore_ascii_case("basicAuth")
            && let Some(node) = middleware
                .map()
                .and_then(|map| peek(map, kind))
                .and_then(Node::map)
                .and_then(|map| map.take("headerField"))
        {
            let why = "backends get the user's name in Linchpin-User";
            note(&format!("{path}.{kind}.headerField"), node.line, node, why, notes);
        }
        match middleware.map().filter(|_| is_headers).and_then(|map| map.take(kind)).and_then(Node::map) {
            Some(headers) => {
                for (key, line, node) in headers.left() {
                    note(&format!("{path}.{kind}.{key}"), line, node, headers::why(key), notes);
                }
                note(&path, line, middleware, NONE, notes);
            }
            None => note(&path, line, middleware, why_of(kind), notes),
        }
    }
}

/// Returns why a middleware has no equivalent.
fn why_of(kind: &str) -> &'static str {
    match kind.to_ascii_lowercase().as_str() {
        "ipallowlist" | "ipwhitelist" | "basicauth" | "digestauth" | "forwardauth" => {
            "a part of a restriction: the routers that use it are disabled, if any does"
        }
        "ratelimit" | "inflightreq" => RATES,
        "stripprefix" | "addprefix" => "no imported router uses it",
        "stripprefixregex" | "replacepath" | "replacepathregex" => {
            "`strip_prefix` and `add_prefix` of [[routes]] change only the beginning of a path"
        }
        "redirectscheme" | "redirectregex" => {
            "`redirect` of [[routes]] sets only the scheme, host and path, and no imported router uses this one"
        }
        "compress" => "Linchpin does not compress",
        "errors" => {
            "its pages come from a service, and replace the error responses of backends, too: Linchpin forwards those as they are, and its own errors have the page in the file that `error` of [pools.pages] names"
        }
        "buffering" => "Linchpin streams bodies; `body_bytes` of [server.limits] limits them",
        "circuitbreaker" => "use [pools.ejection], which ejects backends on which requests fail",
        _ => NONE,
    }
}
