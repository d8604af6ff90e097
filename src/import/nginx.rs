//! Owns: an nginx.conf: what stands in `http`, and what its servers inherit.
//! Invariant: each directive is taken over, or noted; what is inherited is noted once.
//! Must not know: how the output is written.

mod guard;
mod known;
mod listen;
mod location;
mod pass;
mod redirect;
mod server;
mod sticky;
mod syntax;
mod upstream;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use self::guard::Guards;
use self::listen::Demand;
use self::syntax::Directive;
use super::Broken;
use super::output::Output;
use super::pool::{Pool, WAIT};
use super::secret;
use super::speech::Speech;
use super::toml::{Table, Value};
use super::units;

/// Directives that a location has from what it lies in, and that say something of its pool.
const INHERITED: [&str; 22] = [
    "proxy_connect_timeout",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "proxy_next_upstream",
    "proxy_next_upstream_tries",
    "proxy_next_upstream_timeout",
    "grpc_connect_timeout",
    "grpc_read_timeout",
    "grpc_send_timeout",
    "proxy_ssl_verify",
    "proxy_ssl_trusted_certificate",
    "proxy_ssl_name",
    "proxy_ssl_server_name",
    "proxy_ssl_certificate",
    "proxy_ssl_certificate_key",
    "grpc_ssl_verify",
    "grpc_ssl_trusted_certificate",
    "grpc_ssl_name",
    "grpc_ssl_server_name",
    "grpc_ssl_certificate",
    "grpc_ssl_certificate_key",
    "proxy_ssl_session_reuse",
];

/// What holds at a place of the file: the innermost of each.
type Scope<'d> = HashMap<&'d str, &'d Directive>;

/// A file being read.
struct Reader<'d> {
    /// The variables that `map` makes, what of, and where.
    maps: HashMap<&'d str, (&'d str, &'d Directive)>,
    /// The maps of which something was made.
    used_maps: HashSet<usize>,
    /// What stands in `http`.
    http: &'d [Directive],
    /// What servers ask of clients that speak TLS, by address.
    demands: Vec<(String, Demand)>,
    /// Upstreams by name, and the pool of each.
    upstreams: HashMap<&'d str, (&'d Directive, usize)>,
    /// Who is asked for names.
    resolvers: Vec<String>,
    /// A name is asked for by them.
    asks: bool,
    /// Pools by the names of their upstreams, or by their addresses, and by how they are spoken to.
    pools: HashMap<(String, Speech), usize>,
    made: Vec<Pool>,
    /// Inherited directives that a pool was told of.
    applied: HashSet<usize>,
    /// What kept requests out of something that was taken over.
    guarded: HashSet<usize>,
    /// Which inherited ones, and which pool.
    told: HashSet<(usize, usize)>,
    /// The line of the first server, if it is for some hosts only.
    first: Option<usize>,
    /// A server is for all hosts.
    has_default: bool,
    /// Limits of bodies, the line each stands in, and its text.
    bodies: Vec<(u64, usize, &'d str)>,
}

/// Reads an nginx.conf into `out`. One that is included in `http` may stand for itself.
pub(super) fn read(text: &str, out: &mut Output) -> Result<(), Broken> {
    let main = syntax::directives(text)?;
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
        resolvers: Vec::new(),
        asks: false,
        pools: HashMap::new(),
        made: Vec::new(),
        applied: HashSet::new(),
        told: HashSet::new(),
        guarded: HashSet::new(),
        first: None,
        has_default: false,
        bodies: Vec::new(),
    };
    if https.is_empty() {
        reader.http(&main, out);
    } else {
        of_main.iter().for_each(|directive| of_process(directive, out));
        https.iter().for_each(|http| reader.http(http, out));
    }
    reader.limit_bodies(out);
    if let Some(line) = reader.first.filter(|_| !reader.has_default) {
        out.unrouted.remark(format!("requests for hosts that no server names went to the first one, in line {line}: a route without `hosts` would do that"));
    }
    out.pools.extend(reader.made);
    Ok(())
}

/// Directives of the process, outside of `http`.
fn of_process(directive: &Directive, out: &mut Output) {
    let threads = directive.word(1).parse::<u64>().ok().filter(|threads| (1..=1024).contains(threads));
    match (directive.word(0), threads) {
        ("worker_processes", Some(threads)) => {
            out.server.share("threads", Value::number(threads), directive.line, &directive.text);
        }
        ("worker_processes", None) if directive.word(1) == "auto" => {}
        _ => whole(directive, known::why(directive), &mut out.top),
    }
}

/// Notes a directive and all that stands in its braces.
fn whole(directive: &Directive, why: &str, notes: &mut Table) {
    notes.lost(directive.line, &directive.text, why);
    inside(directive, directive.line, notes);
}

/// Notes all that stands in the braces of a directive that is noted.
fn inside(directive: &Directive, line: usize, notes: &mut Table) {
    let is_secret = secret::is_in(&directive.text);
    for each in directive.inside() {
        let text = if is_secret { "…" } else { &each.text };
        notes.lost(each.line, text, format!("belongs to line {line}"));
        inside(each, line, notes);
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
                "server" if directive.block.is_some() => self.demands.extend(listen::demands(directive, http)),
                "resolver" => self.resolvers.extend(upstream::resolvers(directive)),
                _ => {}
            }
        }
        guards.read(http);
        for directive in http {
            match directive.word(0) {
                "map" => {}
                "upstream" => {
                    if let Some((_, index)) = self.upstreams.get(directive.word(1)).copied() {
                        self.upstream(directive, index);
                    }
                }
                "server" if directive.block.is_some() => self.server(directive, &scope, &guards, out),
                "resolver" => {}
                word if listen::OF_LISTENERS.contains(&word) || guard::belongs(word) => {}
                word if INHERITED.contains(&word) => {}
                _ if self.of_clients(directive, out) => {}
                _ => known::note(directive, &mut out.top),
            }
        }
        for directive in http.iter().filter(|each| each.word(0) == "map") {
            if !self.used_maps.contains(&directive.at) {
                whole(directive, "there are no variables", &mut out.top);
                continue;
            }
            let is_pattern = |entry: &&Directive| entry.word(0).starts_with('~') || entry.word(0) == "default";
            for entry in directive.inside().iter().filter(|entry| !is_pattern(entry)) {
                out.top.lost(entry.line, &entry.text, "a route is what stands behind the separator, as it is");
            }
        }
        self.unapplied(scope.values().copied(), &mut out.top);
        for directive in http.iter().filter(|each| each.word(0) == "resolver" && !self.asks) {
            known::note(directive, &mut out.top);
        }
        for directive in http.iter().filter(|each| guard::belongs(each.word(0)) && !self.guarded.contains(&each.at)) {
            known::note(directive, &mut out.top);
        }
    }

    /// Notes what is inherited by no location that passes requests on.
    fn unapplied(&self, directives: impl Iterator<Item = &'d Directive>, notes: &mut Table) {
        let mut unapplied: Vec<_> = directives.filter(|each| !self.applied.contains(&each.at)).collect();
        unapplied.sort_by_key(|each| each.line);
        for directive in unapplied {
            notes.lost(directive.line, &directive.text, "it holds for no `proxy_pass` that was taken over");
        }
    }

    /// Directives on connections from clients, wherever they stand. Whether it was one.
    fn of_clients(&mut self, directive: &'d Directive, out: &mut Output) -> bool {
        let (line, text) = (directive.line, directive.text.as_str());
        match directive.word(0) {
            "client_max_body_size" => match units::size(directive.word(1)) {
                Some(bytes) => self.bodies.push((bytes, line, text)),
                None => out.limits.lost(line, text, "this is no size"),
            },
            "keepalive_timeout" => out.limits.share_time("idle_timeout", duration(directive.word(1)), WAIT, line, text),
            "client_header_timeout" => {
                out.limits.share_time("header_read_timeout", duration(directive.word(1)), WAIT, line, text);
            }
            "large_client_header_buffers" => {
                let bytes = directive.word(1).parse::<u64>().ok().zip(units::size(directive.word(2)));
                match bytes.and_then(|(count, size)| count.checked_mul(size)) {
                    Some(bytes) => {
                        out.limits.share("header_bytes", Value::size(bytes.clamp(8 << 10, 1 << 20)), line, text);
                    }
                    None => out.limits.lost(line, text, "this is no size"),
                }
            }
            _ => return false,
        }
        true
    }

    /// There is one limit of bodies: the largest, so that nothing is refused that was not.
    fn limit_bodies(&self, out: &mut Output) {
        let is_unlimited = self.bodies.iter().any(|(bytes, ..)| *bytes == 0);
        let Some(largest) = self.bodies.iter().map(|(bytes, ..)| *bytes).max() else { return };
        let value = if is_unlimited { Value::text("unlimited") } else { Value::size(largest.min(1 << 50)) };
        out.limits.set("body_bytes", value);
        let kept = if is_unlimited { 0 } else { largest };
        for (_, line, text) in self.bodies.iter().filter(|(bytes, ..)| *bytes != kept) {
            out.limits.lost(*line, text, "there is one `body_bytes` for all here: the largest");
        }
    }
}

/// What holds in a block that lies in `above`.
fn scoped<'d>(block: &'d Directive, above: &Scope<'d>) -> Scope<'d> {
    let mut scope = above.clone();
    for directive in block.inside().iter().filter(|each| INHERITED.contains(&each.word(0))) {
        scope.insert(directive.word(0), directive);
    }
    scope
}

/// A duration, which counts in seconds if it has no unit.
fn duration(text: &str) -> Option<Duration> {
    units::duration(text, Duration::from_secs(1))
}
