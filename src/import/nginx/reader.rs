//! Owns: the state of the conversion of an nginx.conf.
//! Invariant: of several inherited directives of one name, the innermost applies.
//! Must not know: how a directive is converted.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::acme::Issuer;
use super::super::backend_protocol::BackendProtocol;
use super::super::pool::Pool;
use super::syntax::Directive;

/// Directives that a location inherits, and that set something of its pool.
pub(super) const INHERITED: [&str; 25] = [
    "client_max_body_size",
    "limit_req",
    "limit_conn",
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

/// The inherited directives that apply in a block, by name.
pub(super) type Scope<'d> = HashMap<&'d str, &'d Directive>;

/// The authorities of client certificates, and whether a certificate is required; `None` if none is asked for.
pub(super) type ClientCertificates = Option<(String, bool)>;

/// A file under conversion.
pub(super) struct Reader<'d> {
    /// The variables of `map` directives, each with its source variable and its directive.
    pub(super) maps: HashMap<&'d str, (&'d str, &'d Directive)>,
    /// The `map` directives that were converted.
    pub(super) used_maps: HashSet<usize>,
    /// The directives of `http`.
    pub(super) http: &'d [Directive],
    /// What servers require of TLS clients, by address.
    pub(super) demands: Vec<(String, ClientCertificates)>,
    /// Who issues the certificates that nginx obtains, by the name of the `acme_issuer`.
    pub(super) issuers: HashMap<&'d str, Issuer>,
    /// The upstream groups by name, each with the index of its pool.
    pub(super) upstreams: HashMap<&'d str, (&'d Directive, usize)>,
    /// The DNS servers.
    pub(super) resolvers: Vec<String>,
    /// A converted name uses them.
    pub(super) asks: bool,
    /// Pools by the name of their upstream group or their address, and by their protocol.
    pub(super) pools: HashMap<(String, BackendProtocol), usize>,
    pub(super) made: Vec<Pool>,
    /// Inherited directives that were applied to a pool.
    pub(super) applied: HashSet<usize>,
    /// Access restrictions of converted locations.
    pub(super) guarded: HashSet<usize>,
    /// Inherited directives and the pools that they were applied to.
    pub(super) applied_to: HashSet<(usize, usize)>,
    /// The lines at which nginx sent a Host of its own.
    pub(super) own_hosts: BTreeSet<usize>,
    /// Why an `error_page` that applies has no equivalent.
    pub(super) lost_pages: HashMap<usize, &'static str>,
    /// The locations that only serve a page for errors.
    pub(super) page_locations: HashSet<usize>,
    /// The line of the first server with host names.
    pub(super) first: Option<usize>,
    /// Some server is for all hosts.
    pub(super) has_default: bool,
}

/// Returns the scope of a block nested in `above`.
pub(super) fn scoped<'d>(block: &'d Directive, above: &Scope<'d>) -> Scope<'d> {
    let mut scope = above.clone();
    for directive in block.inside().iter().filter(|each| INHERITED.contains(&each.word(0))) {
        scope.insert(directive.word(0), directive);
    }
    scope
}
