//! Owns: `server`: where it listens, and for which hosts.
//! Invariant: what is bound with TLS is not opened without.
//! Must not know: what a location does.

use std::net::{Ipv4Addr, SocketAddr};

use super::super::output::Output;
use super::super::rule;
use super::super::units::{self, Address};
use super::syntax::Directive;
use super::{INHERITED, Reader, Scope, known, whole};

/// A server being read.
pub(super) struct Server {
    pub(super) front: usize,
    /// None for all.
    pub(super) hosts: Vec<String>,
}

impl<'d> Reader<'d> {
    pub(super) fn server(&mut self, server: &'d Directive, above: &Scope<'d>, out: &mut Output) {
        if !passes(server) {
            let why = "it sends nothing to a backend";
            return whole(server, why, &mut out.unrouted);
        }
        let mut scope = above.clone();
        for directive in server.inside().iter().filter(|each| INHERITED.contains(&each.word(0))) {
            scope.insert(directive.word(0), directive);
        }
        let mut read = listen(server, out);
        for directive in server.inside() {
            match directive.word(0) {
                "listen" => {}
                "server_name" => hosts(directive, &mut read.hosts, out),
                _ => {}
            }
        }
        if !read.hosts.is_empty() && takes_all(server) {
            read.hosts.clear();
        }
        if read.hosts.is_empty() {
            self.has_default = true;
        } else {
            self.first = self.first.or(Some(server.line));
        }
        for directive in server.inside() {
            match directive.word(0) {
                "listen" | "server_name" => {}
                "location" => self.location(directive, &read, &scope, out),
                word if INHERITED.contains(&word) => {}
                _ if self.of_clients(directive, out) => {}
                _ => known::note(directive, &mut out.unrouted),
            }
        }
        let own = server.inside().iter().filter(|each| INHERITED.contains(&each.word(0)));
        self.unapplied(own, &mut out.unrouted);
    }
}

/// Whether a request may be passed to a backend.
fn passes(directive: &Directive) -> bool {
    directive.inside().iter().any(|each| each.word(0) == "proxy_pass" || (each.word(0) == "location" && passes(each)))
}

/// Whether hosts that no server names go to this one.
fn takes_all(server: &Directive) -> bool {
    server
        .inside()
        .iter()
        .filter(|each| each.word(0) == "listen")
        .any(|each| each.from(2).iter().any(|word| matches!(word.as_str(), "default_server" | "default")))
}

fn listen(server: &Directive, out: &mut Output) -> Server {
    let listens: Vec<_> = server.inside().iter().filter(|each| each.word(0) == "listen").collect();
    let addresses: Vec<_> = listens.iter().map(|each| (*each, address(each.word(1)))).collect();
    // Servers at one address belong together.
    let front = addresses.iter().find_map(|(_, address)| out.front_at(address.as_ref()?));
    let front = front.unwrap_or_else(|| out.front(server.line, &server.text, "server"));
    if listens.is_empty() {
        let table = out.listener(front, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80), false);
        if table.is_plain() {
            table.remark("nginx listens here if nothing is said");
        }
    }
    for (directive, address) in addresses {
        let (line, text) = (directive.line, directive.text.as_str());
        let Some(address) = address else {
            out.clients.lost(line, text, "this is no IP address and port: write [[listeners]] with one");
            continue;
        };
        let words = directive.from(2);
        let is_off = words.iter().any(|word| matches!(word.as_str(), "ssl" | "quic"));
        let is_kept = |word: &String| {
            matches!(word.as_str(), "default_server" | "default" | "reuseport" | "deferred")
                || word.starts_with("ipv6only=")
        };
        let table = out.listener(front, address, is_off);
        if is_off {
            table.lost(
                line,
                text,
                "TLS is not taken over, so that this stands here switched off: write [listeners.tls], see docs/tls.md",
            );
        } else if !words.iter().all(is_kept) {
            table.lost(line, text, "nothing but the address is taken over");
        }
    }
    Server { front, hosts: Vec::new() }
}

/// `80`, `*:80`, `10.0.0.1`, `10.0.0.1:80`, `[::]:80`, `localhost:80`
fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(port) = text.parse::<u16>() {
        return (port != 0).then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    }
    match units::address(text, Some(80)) {
        Address::Socket(socket) => Some(socket),
        _ => units::listener(text),
    }
}

fn hosts(directive: &Directive, hosts: &mut Vec<String>, out: &mut Output) {
    for name in directive.from(1) {
        let read = match name.strip_prefix('.') {
            Some(below) => [rule::host(below), rule::host(&format!("*.{below}"))].into_iter().collect(),
            None if matches!(name.as_str(), "_" | "" | "\"\"") => Some(Vec::new()),
            None => rule::host(name).map(|host| vec![host]),
        };
        match read {
            Some(read) => hosts.extend(read),
            None => {
                let why = "routes take whole host names, or \"*.\" and the end of names";
                out.unrouted.lost(directive.line, &format!("server_name {name}"), why);
            }
        }
    }
}
