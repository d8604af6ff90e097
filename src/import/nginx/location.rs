//! Owns: `location`: which requests go to which pool, and how.
//! Invariant: a request never goes to a pool that it did not go to, but for the segments of its path.
//! Must not know: listeners.

use std::collections::HashSet;

use super::super::output::Output;
use super::super::pool::{Pool, WAIT};
use super::super::rule;
use super::super::toml::{Table, Value};
use super::super::units;
use super::server::Server;
use super::syntax::Directive;
use super::{INHERITED, Reader, Scope, duration, known, upstream, whole};

impl<'d> Reader<'d> {
    pub(super) fn location(&mut self, location: &'d Directive, server: &Server, above: &Scope<'d>, out: &mut Output) {
        let prefix = match prefix(location) {
            Ok(prefix) => prefix,
            Err(why) => return whole(location, why, &mut out.unrouted),
        };
        let mut scope = above.clone();
        for directive in location.inside().iter().filter(|each| INHERITED.contains(&each.word(0))) {
            scope.insert(directive.word(0), directive);
        }
        let pass = location.inside().iter().find(|each| each.word(0) == "proxy_pass");
        let is_nested = location.inside().iter().any(|each| each.word(0) == "location");
        let pool = match pass.map(|pass| self.target(pass, out)) {
            Some(Ok(pool)) => Some(pool),
            Some(Err(why)) => return whole(location, why, &mut out.unrouted),
            None if !is_nested => {
                let why = "nothing in it is passed to a backend; a route with a shorter path takes its requests";
                return whole(location, why, &mut out.unrouted);
            }
            None => None,
        };
        if let (Some(pass), Some(index)) = (pass, pool) {
            let name = self.made[index].name().to_owned();
            out.route(server.front, server.hosts.clone(), &prefix, &name, location.line, &location.text);
            passed(pass, &prefix, out.last_route());
            self.apply(&scope, index);
        }
        for directive in location.inside() {
            match directive.word(0) {
                "proxy_pass" | "location" => {}
                word if INHERITED.contains(&word) => {}
                "health_check" if pool.is_some() => {
                    if let Some(index) = pool {
                        upstream::health_check(directive, &mut self.made[index]);
                    }
                }
                _ if self.of_clients(directive, out) => {}
                _ if pool.is_some() => known::note(directive, out.last_route()),
                _ => known::note(directive, &mut out.unrouted),
            }
        }
        for directive in location.inside().iter().filter(|each| each.word(0) == "location") {
            self.location(directive, server, &scope, out);
        }
        let own = location.inside().iter().filter(|each| INHERITED.contains(&each.word(0)));
        self.unapplied(own, &mut out.unrouted);
    }

    /// The pool that a `proxy_pass` leads to.
    fn target(&mut self, pass: &Directive, out: &mut Output) -> Result<usize, &'static str> {
        let url = pass.word(1);
        let (_, rest) = url.split_once("://").ok_or("it leads to no URL")?;
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        if url.contains('$') {
            return Err("a route leads to one pool, not to where a variable says");
        }
        if let Some(index) = self.pools.get(host) {
            return Ok(*index);
        }
        let address = units::address(host, Some(80));
        let name = out.pool_name(&super::super::pool::name_of(&address, host));
        self.made.push(upstream::single(&name, host, &address, pass));
        self.pools.insert(host.to_owned(), self.made.len() - 1);
        Ok(self.made.len() - 1)
    }

    /// Tells a pool what is inherited. Each pool has one of each: the first holds.
    fn apply(&mut self, scope: &Scope<'d>, index: usize) {
        let mut directives: Vec<_> = scope.values().copied().collect();
        directives.sort_by_key(|each| each.line);
        for directive in directives {
            // More than one location may lead to the pool.
            if self.told.insert((directive.line, index)) {
                apply(directive, &mut self.made[index]);
            }
            self.applied.insert(directive.line);
        }
    }
}

/// The beginning of the path that a location is for.
fn prefix(location: &Directive) -> Result<String, &'static str> {
    match (location.word(1), location.words.len()) {
        ("=", _) => Err("routes take the beginnings of paths: one with path_prefix takes what lies below, too"),
        ("~" | "~*", _) => Err("routes take the beginnings of paths, not patterns"),
        ("^~", 3) => rule::prefix(location.word(2)).ok_or("this is no path"),
        (path, 2) if path.starts_with('@') => Err("requests are not passed on from within"),
        (path, 2) => rule::prefix(path).ok_or("routes take the beginnings of paths, not patterns"),
        _ => Err("this is no path"),
    }
}

/// What of a `proxy_pass` is more than a pool.
fn passed(pass: &Directive, prefix: &str, notes: &mut Table) {
    let (line, text) = (pass.line, pass.text.as_str());
    let url = pass.word(1);
    if url.starts_with("https://") {
        notes.lost(line, text, "TLS to backends is not taken over: write `tls` into [pools.upstream], see docs/tls.md");
    }
    let path = url.split_once("://").and_then(|(_, rest)| rest.find('/').and_then(|at| rest.get(at..)));
    if path.is_some_and(|path| rule::prefix(path).as_deref() != Some(prefix)) {
        notes.lost(
            line,
            text,
            format!("the path goes on as it is, with {prefix}: write `strip_prefix` or `add_prefix`"),
        );
    }
}

fn apply(directive: &Directive, pool: &mut Pool) {
    let (line, text) = (directive.line, directive.text.as_str());
    let time = || duration(directive.word(1));
    match directive.word(0) {
        "proxy_connect_timeout" => pool.connect_timeout(time(), line, text),
        "proxy_read_timeout" => pool.response_timeout(time(), line, text),
        // Whoever is silent, there is one limit here, and the answer's counts.
        "proxy_send_timeout" if pool.timeouts.get("idle").is_none() => {
            pool.timeouts.share_time("idle", time(), WAIT, line, text);
        }
        "proxy_send_timeout" => {}
        "proxy_next_upstream" => next_upstream(directive, pool),
        "proxy_next_upstream_tries" => match directive.word(1).parse::<u64>() {
            Ok(0) => pool.retry.lost(line, text, "attempts have a limit here"),
            Ok(tries) => pool.retry.share("attempts", Value::number(tries.min(16)), line, text),
            Err(_) => pool.retry.lost(line, text, "this is no number"),
        },
        _ => pool.retry.lost(line, text, "`total` of [pools.timeouts] is the limit of all attempts"),
    }
}

fn next_upstream(directive: &Directive, pool: &mut Pool) {
    let (line, text) = (directive.line, directive.text.as_str());
    let mut on: Vec<&str> = Vec::new();
    let mut seen = HashSet::new();
    for word in directive.from(1) {
        match word.as_str() {
            "off" => return pool.retry.share("attempts", Value::number(1), line, text),
            "error" | "invalid_header" => on.push("reset"),
            "timeout" => on.push("timeout"),
            "non_idempotent" => on.push("non_idempotent"),
            word => match word
                .strip_prefix("http_")
                .filter(|code| code.parse().is_ok_and(|code: u16| (400..=599).contains(&code)))
            {
                Some(code) => on.push(code),
                None => pool.retry.lost(line, word, known::NONE),
            },
        }
    }
    on.retain(|word| seen.insert(*word));
    pool.retry.share("retry_on", Value::list(on), line, text);
}
