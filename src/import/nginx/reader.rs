//! Owns: what is known of an nginx.conf while it is read.
//! Invariant: a directive that a place inherits is the innermost of its name.
//! Must not know: what becomes of a directive.

use std::collections::{HashMap, HashSet};

use super::super::pool::Pool;
use super::super::speech::Speech;
use super::syntax::Directive;

/// Directives that a location has from what it lies in, and that say something of its pool.
pub(super) const INHERITED: [&str; 22] = [
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
pub(super) type Scope<'d> = HashMap<&'d str, &'d Directive>;

/// A file being read.
/// Whose certificates let clients in, and whether they must have one.
pub(super) type Demand = Option<(String, bool)>;

pub(super) struct Reader<'d> {
    /// The variables that `map` makes, what of, and where.
    pub(super) maps: HashMap<&'d str, (&'d str, &'d Directive)>,
    /// The maps of which something was made.
    pub(super) used_maps: HashSet<usize>,
    /// What stands in `http`.
    pub(super) http: &'d [Directive],
    /// What servers ask of clients that speak TLS, by address.
    pub(super) demands: Vec<(String, Demand)>,
    /// Upstreams by name, and the pool of each.
    pub(super) upstreams: HashMap<&'d str, (&'d Directive, usize)>,
    /// Who is asked for names.
    pub(super) resolvers: Vec<String>,
    /// A name is asked for by them.
    pub(super) asks: bool,
    /// Pools by the names of their upstreams, or by their addresses, and by how they are spoken to.
    pub(super) pools: HashMap<(String, Speech), usize>,
    pub(super) made: Vec<Pool>,
    /// Inherited directives that a pool was told of.
    pub(super) applied: HashSet<usize>,
    /// What kept requests out of something that was taken over.
    pub(super) guarded: HashSet<usize>,
    /// Which inherited ones, and which pool.
    pub(super) applied_to: HashSet<(usize, usize)>,
    /// The line of the first server, if it is for some hosts only.
    pub(super) first: Option<usize>,
    /// A server is for all hosts.
    pub(super) has_default: bool,
    /// Limits of bodies, the line each stands in, and its text.
    pub(super) bodies: Vec<(u64, usize, &'d str)>,
}

/// What holds in a block that lies in `above`.
pub(super) fn scoped<'d>(block: &'d Directive, above: &Scope<'d>) -> Scope<'d> {
    let mut scope = above.clone();
    for directive in block.inside().iter().filter(|each| INHERITED.contains(&each.word(0))) {
        scope.insert(directive.word(0), directive);
    }
    scope
}
