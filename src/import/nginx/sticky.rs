//! Owns: the conversion of `sticky`, of nginx and of the older third-party module.
//! Invariant: a pool identifies clients by what nginx identified them by.
//! Must not know: servers and locations.

use super::super::reasons::NONE;
use super::super::units;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::super::grammar::{self, domain, field, routing_cookie, same_site, token};
use super::super::pool::{Cookie, Pinning, Pool};
use super::syntax::Directive;

/// The default time that `sticky learn` keeps an idle session.
const LEARNED: Duration = Duration::from_secs(10 * 60);

type Maps<'d> = HashMap<&'d str, (&'d str, &'d Directive)>;

pub(super) fn read<'d>(directive: &'d Directive, pool: &mut Pool, maps: &Maps<'d>, used: &mut HashSet<usize>) {
    if pool.pinning.is_some() {
        return pool.persistence.unsupported(
            directive.line,
            &directive.text,
            "the pool already has another kind of pin",
        );
    }
    match directive.word(1) {
        "learn" => learn(directive, pool),
        "route" => route(directive, pool, maps, used),
        "cookie" => cookie(directive, directive.word(2), directive.from(3), pool),
        _ => cookie(directive, "", directive.from(1), pool),
    }
}

/// Converts `sticky cookie srv_id expires=1h domain=.example.com httponly secure path=/`, and
/// `sticky name=srv_id …` of the older module.
fn cookie(directive: &Directive, name: &str, words: &[String], pool: &mut Pool) {
    let line = directive.line;
    // The older module has a default name.
    let older = if directive.word(1) == "cookie" { None } else { routing_cookie("route") };
    let mut cookie = Cookie { name: routing_cookie(name).or(older), ..Cookie::default() };
    if cookie.name.is_none() {
        pool.persistence.unsupported(line, name, NONE);
    }
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let is_kept = match key.to_ascii_lowercase().as_str() {
            "name" => set(&mut cookie.name, routing_cookie(value)),
            "domain" => set(&mut cookie.domain, domain(value)),
            "path" => set(&mut cookie.path, grammar::prefix(value)),
            "httponly" => set(&mut cookie.http_only, Some(true)),
            "secure" => set(&mut cookie.secure, Some(true)),
            "samesite" => set(&mut cookie.same_site, same_site(value)),
            "expires" | "max-age" => {
                let time = if value == "max" {
                    Some(Duration::from_secs(10 * 365 * 24 * 60 * 60))
                } else {
                    units::seconds(value)
                };
                cookie.permanent = time.is_some_and(|time| !time.is_zero());
                set(&mut pool.absolute_timeout, time.filter(|_| cookie.permanent))
            }
            // These define the value of a cookie that is not sealed.
            "hash" | "hmac" | "hmac_key" | "text" | "index" => true,
            "no_fallback" => {
                pool.on.push(("down", "refuse"));
                true
            }
            _ => false,
        };
        if !is_kept {
            pool.persistence.unsupported(line, word, NONE);
        }
    }
    pool.pinning = Some(Pinning::Cookie(cookie));
}

/// Sets a value that could be parsed; returns whether it could.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let is_read = value.is_some();
    *place = value.or(place.take());
    is_read
}

/// Converts `sticky learn create=$upstream_cookie_sid lookup=$cookie_sid zone=sessions:1m timeout=1h`.
fn learn(directive: &Directive, pool: &mut Pool) {
    let (line, text) = (directive.line, directive.text.as_str());
    let mut created = None;
    let mut looked_up = None;
    pool.idle_timeout = Some(LEARNED);
    for word in directive.from(2) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "create" if created.is_none() => created = carrier(value),
            "lookup" if looked_up.is_none() => looked_up = carrier(value),
            "timeout" => pool.idle_timeout = units::seconds(value).or(pool.idle_timeout),
            "zone" => pool.persistence.unneeded(
                line,
                word,
                "`capacity` limits the sessions in the table: learned = { …, capacity = 1000000 }",
            ),
            "header" => {
                pool.persistence.unneeded(line, word, "Linchpin always learns a session from the response's header section")
            }
            "sync" => pool.persistence.unsupported(line, word, "replicas share a table through `store`: learned = { …, store = \"redis://HOST\" }; sealed cookies need none"),
            _ => pool.persistence.unsupported(line, word, "Linchpin learns one cookie or header field of the application"),
        }
    }
    match looked_up.clone().or(created.clone()) {
        Some(pinning) => pool.pinning = Some(pinning),
        None => return pool.persistence.unsupported(line, text, "Linchpin can learn only a cookie or a header field"),
    }
    if created.is_some() && looked_up.is_some() && created != looked_up {
        pool.persistence.unsupported(line, text, "`create` and `lookup` differ: Linchpin learns what clients send");
    }
}

fn carrier(variable: &str) -> Option<Pinning> {
    let named = |prefix: &str| variable.strip_prefix(prefix).and_then(token);
    let cookie = named("$upstream_cookie_").or_else(|| named("$cookie_"));
    let header = || named("$upstream_http_").or_else(|| named("$http_")).or_else(|| named("$sent_http_"));
    cookie
        .map(|name| Pinning::LearnedCookie(cased(&name)))
        .or_else(|| header().and_then(|name| field(&name.replace('_', "-"))).map(Pinning::LearnedHeader))
}

/// Converts `sticky route $route_cookie $route_uri`, with the `map` directives of these variables.
fn route<'d>(directive: &'d Directive, pool: &mut Pool, maps: &Maps<'d>, used: &mut HashSet<usize>) {
    let line = directive.line;
    let (mut cookie, mut path_parameter) = (None, None);
    for variable in directive.from(2) {
        let (source, map) =
            maps.get(variable.as_str()).map_or((variable.as_str(), None), |(source, map)| (*source, Some(*map)));
        let named = source.strip_prefix("$cookie_").and_then(token);
        let is_uri = matches!(source, "$request_uri" | "$uri");
        let parameter =
            map.filter(|_| is_uri).and_then(|map| map.inside().iter().find_map(|entry| parameter(entry.word(0))));
        match (named, parameter) {
            (Some(name), _) if cookie.is_none() => cookie = Some(cased(&name)),
            (None, Some(name)) if path_parameter.is_none() => path_parameter = Some(name),
            _ => {
                pool.persistence.unsupported(
                    line,
                    variable,
                    "a route comes at the end of a cookie or a path parameter",
                );
                continue;
            }
        }
        used.extend(map.map(|map| map.at));
    }
    let Some(name) = cookie.clone().or_else(|| path_parameter.as_deref().map(cased)) else { return };
    if cookie.is_none() {
        pool.persistence.comment("the cookie is assumed to have the same name as the path parameter");
    }
    pool.persistence.comment("the route follows the last \".\" of the cookie or parameter; `separator` changes that");
    pool.pinning = Some(Pinning::Route { cookie: name, path_parameter });
}

/// Returns the parameter in a pattern such as `~jsessionid=.+\.(?P<route>\w+)$`.
fn parameter(pattern: &str) -> Option<String> {
    let pattern = pattern.strip_prefix('~')?.trim_start_matches('*').trim_start_matches([';', '?', '&']);
    let (name, _) = pattern.split_once('=')?;
    grammar::parameter(name)
}

/// Returns a cookie's name: nginx's variables are in lower case, but Java's cookie is in upper case.
fn cased(name: &str) -> String {
    if name.eq_ignore_ascii_case("jsessionid") { "JSESSIONID".into() } else { name.into() }
}
