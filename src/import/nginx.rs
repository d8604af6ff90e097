//! Owns: the conversion of an nginx.conf, from `http` down.
//! Invariant: each directive is converted or noted; an inherited one is noted once.
//! Must not know: the format of the output.

mod acme;
mod dump;
mod fields;
mod guard;
mod known;
mod limits;
mod listen;
mod location;
mod pages;
mod pass;
mod reader;
mod redirect;
mod server;
mod sticky;
mod syntax;
mod upstream;

use std::collections::{BTreeSet, HashMap, HashSet};

use self::fields::Fields;
use self::guard::Guards;
use self::known::note_whole;
use self::pages::Pages;
use self::reader::{INHERITED, Reader, Scope};
use self::syntax::Directive;
use super::output::Output;
use super::pool::{Pool, WAIT};
use super::source::SyntaxError;
use super::toml::{Table, Value};
use super::units;

pub(super) use self::fields::of_snippet;

/// Converts the value of a `proxy_next_upstream`.
pub(super) fn next_upstream(value: &str, line: usize, text: &str, pool: &mut Pool) {
    pass::next_upstream(value.split_whitespace(), line, text, pool);
}

/// Converts an nginx.conf, or a file that one includes in `http`, into `out`.
pub(super) fn read(text: &str, out: &mut Output) -> Result<(), SyntaxError> {
    let main = dump::directives(text)?;
    let mut https: Vec<&[Directive]> = Vec::new();
    let mut of_main = Vec::new();
    for directive in &main {
        match directive.word(0) {
            "http" => https.push(directive.inside()),
            _ => of_main.push(directive),
        }
    }
    let mut reader = Reader {
        maps: HashMap::new(),
        used_maps: HashSet::new(),
        http: &[],
        demands: Vec::new(),
        upstreams: HashMap::new(),
        issuers: HashMap::new(),
        resolvers: Vec::new(),
        asks: false,
        pools: HashMap::new(),
        made: Vec::new(),
        applied: HashSet::new(),
        applied_to: HashSet::new(),
        guarded: HashSet::new(),
        own_hosts: BTreeSet::new(),
        lost_pages: HashMap::new(),
        page_locations: HashSet::new(),
        first: None,
        has_default: false,
    };
    if https.is_empty() {
        reader.http(&main, out);
    } else {
        of_main.iter().for_each(|directive| of_process(directive, out));
        https.iter().for_each(|http| reader.http(http, out));
    }
    if let Some(line) = reader.first.filter(|_| !reader.has_default) {
        out.unrouted.comment(format!("requests for unknown hosts went to the first server, in line {line}: add a route without `hosts` to keep that"));
    }
    if let Some(first) = reader.own_hosts.first() {
        let lines = reader.own_hosts.iter().skip(1).fold(first.to_string(), |lines, line| format!("{lines}, {line}"));
        out.top.comment(format!("nginx sent the host of the URL in Host where no proxy_set_header says otherwise (line {lines}). Linchpin forwards the client's Host; `set` of [routes.request_headers] changes it"));
    }
    out.pools.extend(reader.made);
    Ok(())
}

/// Converts a directive outside of `http`.
fn of_process(directive: &Directive, out: &mut Output) {
    let threads = directive.word(1).parse::<u64>().ok().filter(|threads| (1..=1024).contains(threads));
    match (directive.word(0), threads) {
        ("worker_processes", Some(threads)) => {
            out.server.share("threads", Value::number(threads), directive.line, &directive.text);
        }
        ("worker_processes", None) if directive.word(1) == "auto" => {}
        _ => note_whole(directive, known::why(directive), &mut out.top),
    }
}

impl<'d> Reader<'d> {
    fn http(&mut self, http: &'d [Directive], out: &mut Output) {
        self.http = http;
        let mut scope = Scope::new();
        let mut guards = Guards::default();
        for directive in http {
            match directive.word(0) {
                "map" => {
                    self.maps.insert(directive.word(2), (directive.word(1), directive));
                }
                "upstream" => {
                    let pool = Pool::new(&out.pool_name(directive.word(1)));
                    self.upstreams.insert(directive.word(1), (directive, self.made.len()));
                    self.made.push(pool);
                }
                word if INHERITED.contains(&word) => {
                    scope.insert(word, directive);
                }
                "acme_issuer" => {
                    self.issuers.insert(directive.word(1), acme::issuer(directive, &mut out.clients));
                }
                "server" if directive.block.is_some() => self.demands.extend(listen::demands(directive, http)),
                "resolver" => self.resolvers.extend(upstream::resolvers(directive)),
                _ => {}
            }
        }
        guards.read(http);
        let fields = Fields::default().inside(http);
        let pages = Pages::default().inside(http);
        for directive in http {
            match directive.word(0) {
                "map" | "acme_issuer" => {}
                "upstream" => {
                    if let Some((_, index)) = self.upstreams.get(directive.word(1)).copied() {
                        self.upstream(directive, index);
                    }
                }
                "server" if directive.block.is_some() => {
                    self.server(directive, (&scope, &guards, &fields, &pages), out);
                }
                "resolver" | "error_page" => {}
                "limit_req_zone" | "limit_conn_zone" => {}
                word if listen::OF_LISTENERS.contains(&word) || guard::belongs(word) => {}
                "client_max_body_size" => match limits::body_bytes(directive) {
                    Some(bytes) => out.limits.share("body_bytes", bytes, directive.line, &directive.text),
                    None => out.limits.unsupported(directive.line, &directive.text, "not a size"),
                },
                word if INHERITED.contains(&word) => {}
                _ if fields::edits(directive).is_some() || self.of_clients(directive, out) => {}
                _ => known::note(directive, &mut out.top),
            }
        }
        for directive in http.iter().filter(|each| each.word(0) == "map") {
            if directive.word(1) == "$http_upgrade" {
                let why = "Linchpin always forwards upgrades such as WebSocket";
                out.top.unneeded(directive.line, &directive.text, why);
                let is_usual = |entry: &&Directive| ["default", "", "websocket"].contains(&entry.word(0));
                for entry in directive.inside().iter().filter(|entry| !is_usual(entry)) {
                    out.top.unsupported(entry.line, &entry.text, "Linchpin has no variables");
                }
                continue;
            }
            if !self.used_maps.contains(&directive.at) {
                note_whole(directive, "Linchpin has no variables", &mut out.top);
                continue;
            }
            let is_pattern = |entry: &&Directive| entry.word(0).starts_with('~') || entry.word(0) == "default";
            for entry in directive.inside().iter().filter(|entry| !is_pattern(entry)) {
                out.top.unsupported(entry.line, &entry.text, "the route is the text after the separator, unchanged");
            }
        }
        let edits = http.iter().filter(|each| fields::edits(each).is_some());
        let inherited = scope.values().copied().filter(|each| each.word(0) != "client_max_body_size");
        let pages = http.iter().filter(|each| each.word(0) == "error_page");
        self.unapplied(inherited.chain(edits).chain(pages), &mut out.top);
        let is_zone = |each: &&Directive| matches!(each.word(0), "limit_req_zone" | "limit_conn_zone");
        for directive in http.iter().filter(is_zone).filter(|each| !self.applied.contains(&each.at)) {
            known::note(directive, &mut out.top);
        }
        for directive in http.iter().filter(|each| each.word(0) == "resolver" && !self.asks) {
            known::note(directive, &mut out.top);
        }
        for directive in http.iter().filter(|each| guard::belongs(each.word(0)) && !self.guarded.contains(&each.at)) {
            known::note(directive, &mut out.top);
        }
    }

    /// Notes the directives that no location with `proxy_pass` inherits.
    fn unapplied(&self, directives: impl Iterator<Item = &'d Directive>, notes: &mut Table) {
        let mut unapplied: Vec<_> = directives.filter(|each| !self.applied.contains(&each.at)).collect();
        unapplied.sort_by_key(|each| each.line);
        for directive in unapplied {
            match directive.word(0).starts_with("limit_") {
                true => known::note(directive, notes),
                false => {
                    let why = self.lost_pages.get(&directive.at).copied();
                    notes.unsupported(
                        directive.line,
                        &directive.text,
                        why.unwrap_or("no imported `proxy_pass` uses it"),
                    );
                }
            }
        }
    }

    /// Converts a directive for client connections, which may be in any block; returns whether it was one.
    fn of_clients(&mut self, directive: &'d Directive, out: &mut Output) -> bool {
        let (line, text) = (directive.line, directive.text.as_str());
        match directive.word(0) {
            "keepalive_timeout" => {
                out.limits.share_time("idle_timeout", units::seconds(directive.word(1)), WAIT, line, text)
            }
            "client_header_timeout" => {
                out.limits.share_time("header_read_timeout", units::seconds(directive.word(1)), WAIT, line, text);
            }
            "large_client_header_buffers" => {
                let bytes = directive.word(1).parse::<u64>().ok().zip(units::size(directive.word(2)));
                match bytes.and_then(|(count, size)| count.checked_mul(size)) {
                    Some(bytes) => {
                        out.limits.share("header_bytes", Value::size(bytes.clamp(8 << 10, 1 << 20)), line, text);
                    }
                    None => out.limits.unsupported(line, text, "not a size"),
                }
            }
            _ => return false,
        }
        true
    }
}
