//! Owns: the pool that `proxy_pass` or `grpc_pass` leads to, and the inherited settings of it.
//! Invariant: a backend with TLS is never used without; each pool has one value of each setting.
//! Must not know: which requests go to a pool.

use super::super::grammar;
use super::super::reasons::NONE;
use std::collections::HashSet;

use super::super::backend_protocol::{BackendProtocol, BackendTls, server_name};
use super::super::output::Output;
use super::super::pool::{Pool, WAIT, name_of};
use super::super::toml::Value;
use super::super::units::{self, Address};
use super::reader::{Reader, Scope};
use super::syntax::Directive;
use super::{limits, upstream};

impl<'d> Reader<'d> {
    /// Returns the index of the pool that a `proxy_pass` leads to; the pool is added if it is new.
    pub(super) fn target(
        &mut self,
        pass: &Directive,
        scope: &Scope<'d>,
        out: &mut Output,
    ) -> Result<usize, &'static str> {
        let is_grpc = pass.word(0) == "grpc_pass";
        let url = pass.word(1);
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) => (scheme, rest),
            None if is_grpc => ("grpc", url),
            None => return Err("it has no URL"),
        };
        if url.contains('$') {
            return Err("a route leads to one fixed pool, and this URL has a variable");
        }
        let host = host(rest);
        let is_tls = match scheme {
            "http" | "grpc" => false,
            "https" | "grpcs" => true,
            _ => return Err("its URL is neither http, https, grpc nor grpcs"),
        };
        let prefix = if is_grpc { "grpc_ssl_" } else { "proxy_ssl_" };
        let tls = is_tls.then(|| self.tls(prefix, host, scope));
        let named = scope.get(format!("{prefix}name").as_str()).copied().filter(|_| is_tls);
        let protocol = BackendProtocol { http2: is_grpc, proxy: None, tls };
        let key = (host.to_owned(), protocol.clone());
        if let Some(index) = self.pools.get(&key) {
            let index = *index;
            self.note_name(named, index);
            return Ok(index);
        }
        let declared = self.upstreams.get(host).copied();
        let index = match declared {
            Some((directive, index)) => {
                if self.made[index].uses_protocol(&protocol) {
                    index
                } else {
                    // A group that is used with two protocols becomes two pools.
                    self.made.push(Pool::new(&out.pool_name(host)));
                    let other = self.made.len() - 1;
                    self.upstream(directive, other);
                    other
                }
            }
            None => {
                let address = match host.strip_prefix("unix:") {
                    Some(path) => units::unix(path),
                    None => units::address(host, Some(if is_tls { 443 } else { 80 })),
                };
                let name = out.pool_name(&name_of(&address, host));
                self.made.push(upstream::single(&name, host, &address, pass));
                self.made.len() - 1
            }
        };
        self.made[index].uses_protocol(&protocol);
        self.pools.insert(key, index);
        self.note_name(named, index);
        Ok(index)
    }

    /// Notes a `proxy_ssl_name` that varies by request, or that no certificate can be for.
    fn note_name(&mut self, named: Option<&'d Directive>, index: usize) {
        let Some(directive) = named else { return };
        let why = match directive.word(1) {
            "$proxy_host" => return,
            name if name.contains('$') => "`server_name` of [pools.upstream.tls] is the same for all requests",
            name if server_name(name).is_none() => "not a host name",
            _ => return,
        };
        if self.applied_to.insert((directive.at, index)) {
            self.made[index].tls.unsupported(directive.line, &directive.text, why);
        }
    }

    /// Returns the TLS settings of a `proxy_pass`. nginx verifies no certificate by default.
    fn tls(&mut self, prefix: &str, host: &str, scope: &Scope<'d>) -> BackendTls {
        let mut value = |name: &str| {
            let directive = scope.get(format!("{prefix}{name}").as_str())?;
            self.applied.insert(directive.at);
            Some(directive.word(1).to_owned()).filter(|word| !word.contains('$'))
        };
        let verify = value("verify").is_some_and(|word| word == "on");
        let named = value("name");
        let _ = value("server_name");
        // nginx checks the certificates of a group's servers for the group's name.
        let has_name = verify || !self.upstreams.contains_key(host);
        let host = units::address(host, Some(443));
        let own = match &host {
            Address::Name(host, _) if has_name => Some(host.clone()),
            _ => None,
        };
        let name = named.or(own).and_then(|name| server_name(&name));
        let mut value = |name: &str| {
            let directive = scope.get(format!("{prefix}{name}").as_str())?;
            self.applied.insert(directive.at);
            grammar::file(directive.word(1))
        };
        let (ca, cert, key) = (value("trusted_certificate"), value("certificate"), value("certificate_key"));
        BackendTls { ca, server_name: name, key: key.filter(|_| cert.is_some()), cert, verify }
    }

    /// Applies inherited settings to a pool. If several locations disagree, the first wins.
    pub(super) fn apply(&mut self, scope: &Scope<'d>, index: usize) {
        let mut directives: Vec<_> = scope.values().copied().filter(|each| is_of_pool(each.word(0))).collect();
        directives.sort_by_key(|each| each.at);
        for directive in directives {
            // More than one location may lead to the pool.
            if self.applied_to.insert((directive.at, index)) {
                apply(directive, &mut self.made[index]);
            }
            self.applied.insert(directive.at);
        }
    }
}

fn is_of_pool(word: &str) -> bool {
    !word.contains("_ssl_") && !limits::OF_ROUTES.contains(&word)
}

/// Returns the host of a URL from which the scheme was cut; of `unix:/path:`, up to the second colon.
pub(super) fn host(rest: &str) -> &str {
    match rest.strip_prefix("unix:") {
        Some(path) => {
            let end = path.find(':').map_or(rest.len(), |at| at + "unix:".len());
            rest.get(..end).unwrap_or(rest)
        }
        None => rest.split(['/', '?']).next().unwrap_or_default(),
    }
}

/// Returns the host and port of a URL.
pub(super) fn authority(url: &str) -> &str {
    url.split_once("://").map_or("", |(_, rest)| host(rest))
}

/// Returns the path of a `proxy_pass`, if it has one.
pub(super) fn uri(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let behind = rest.get(host(rest).len()..)?;
    let path = behind.strip_prefix(':').unwrap_or(behind);
    path.starts_with('/').then_some(path)
}

fn apply(directive: &Directive, pool: &mut Pool) {
    let (line, text) = (directive.line, directive.text.as_str());
    let time = || units::seconds(directive.word(1));
    match directive.word(0) {
        "proxy_connect_timeout" | "grpc_connect_timeout" => pool.connect_timeout(time(), line, text),
        "proxy_read_timeout" | "grpc_read_timeout" => pool.response_timeout(time(), line, text),
        // Linchpin has one limit for both directions: that of the response counts.
        "proxy_send_timeout" | "grpc_send_timeout" if pool.timeouts.get("idle").is_none() => {
            pool.timeouts.share_time("idle", time(), WAIT, line, text);
        }
        "proxy_send_timeout" | "grpc_send_timeout" => {}
        "proxy_next_upstream" => next_upstream(directive.from(1).iter().map(String::as_str), line, text, pool),
        "proxy_next_upstream_tries" => match directive.word(1).parse::<u64>() {
            Ok(0) => pool.retry.unsupported(line, text, "Linchpin always limits attempts"),
            Ok(tries) => pool.retry.share("attempts", Value::number(tries.min(16)), line, text),
            Err(_) => pool.retry.unsupported(line, text, "not a number"),
        },
        _ => pool.retry.unsupported(line, text, "use `total` of [pools.timeouts], which limits all attempts together"),
    }
}

/// Converts the words of `proxy_next_upstream`.
pub(super) fn next_upstream<'w>(words: impl Iterator<Item = &'w str>, line: usize, text: &str, pool: &mut Pool) {
    let mut on: Vec<&str> = Vec::new();
    let mut seen = HashSet::new();
    for word in words {
        match word {
            "off" => return pool.retry.share("attempts", Value::number(1), line, text),
            "error" | "invalid_header" => on.push("reset"),
            "timeout" => on.push("timeout"),
            "non_idempotent" => on.push("non_idempotent"),
            word => match word
                .strip_prefix("http_")
                .filter(|code| code.parse().is_ok_and(|code: u16| (400..=599).contains(&code)))
            {
                Some(code) => on.push(code),
                None => pool.retry.unsupported(line, word, NONE),
            },
        }
    }
    on.retain(|word| seen.insert(*word));
    pool.retry.share("retry_on", Value::list(on), line, text);
}
