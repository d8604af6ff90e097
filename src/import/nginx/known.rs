//! Owns: what is said of directives that are not taken over.
//! Invariant: never silent: what is not known has no equivalent.
//! Must not know: blocks, and what is taken over of them.

use super::super::reasons::{FILTER, NONE, PASSWORDS, RATES};
use super::super::secret;
use super::super::toml::Table;
use super::syntax::Directive;

const FORWARDING: &str = "Linchpin always sets the forwarding fields, and passes Host on";
const REWRITING: &str = "fields are not taken over: write [routes.request_headers] or [routes.response_headers]";
const STREAMED: &str = "bodies are streamed";
const LOG: &str = "what is logged, and where, is said in [log]";
const FILES: &str = "Linchpin serves no files";
const REDIRECT: &str = "Linchpin makes no answers but redirects to a scheme, a host and a path";
const ANSWERS: &str = "Location and cookies of answers are passed on as they are";
const PATHS: &str = "paths are not taken over: `strip_prefix` and `add_prefix` of [[routes]] change their beginnings";
const TLS: &str = "versions, ciphers and curves are chosen by themselves, see docs/tls.md";
const SERVICE: &str = "that is for the service manager to do";
const KEPT_OPEN: &str = "connections to backends are kept open, and idle ones are used again, by themselves";

/// Directives that need no equivalent.
const NEEDLESS: [(&str, &str); 12] = [
    ("proxy_http_version", KEPT_OPEN),
    ("proxy_buffering", STREAMED),
    ("proxy_request_buffering", STREAMED),
    ("proxy_buffers", STREAMED),
    ("proxy_buffer_size", STREAMED),
    ("proxy_busy_buffers_size", STREAMED),
    ("client_body_buffer_size", STREAMED),
    ("client_body_timeout", "a silent body ends after `idle` of [pools.timeouts]"),
    ("tcp_nodelay", "it is always on"),
    ("zone", "what is known of backends is shared by all threads anyway"),
    ("server_tokens", "Linchpin does not name itself in answers"),
    ("proxy_socket_keepalive", KEPT_OPEN),
];

/// Beginnings of directives that have no equivalent, and why.
const LOST: [(&str, &str); 52] = [
    ("include", "other files are not read: import them as well"),
    ("stream", "Linchpin speaks HTTP alone"),
    ("mail", "Linchpin speaks HTTP alone"),
    ("events", "connections are limited by `max_connections` of [server]"),
    ("worker_connections", "connections are limited by `max_connections` of [server]"),
    ("worker_", SERVICE),
    ("user", SERVICE),
    ("pid", SERVICE),
    ("daemon", SERVICE),
    ("load_module", "there are no modules"),
    ("error_log", LOG),
    ("access_log", LOG),
    ("log_", LOG),
    ("ssl_verify_client", FILTER),
    ("ssl_", TLS),
    ("proxy_ssl_", TLS),
    ("grpc_ssl_", TLS),
    ("http2", "HTTP/2 comes with TLS; without it, write http2 = true into [[listeners]]"),
    ("root", FILES),
    ("alias", FILES),
    ("index", FILES),
    ("try_files", FILES),
    ("autoindex", FILES),
    ("expires", REWRITING),
    ("types", FILES),
    ("default_type", FILES),
    ("sendfile", FILES),
    ("tcp_nopush", FILES),
    ("error_page", "Linchpin has error pages of its own"),
    ("return", REDIRECT),
    ("rewrite", PATHS),
    ("add_header", REWRITING),
    ("more_set_headers", REWRITING),
    ("proxy_set_header", REWRITING),
    ("proxy_hide_header", REWRITING),
    ("proxy_pass_header", REWRITING),
    ("proxy_redirect", ANSWERS),
    ("proxy_cookie_", ANSWERS),
    ("proxy_cache", "Linchpin does not cache"),
    ("gzip", "Linchpin does not compress"),
    ("limit_except", FILTER),
    ("limit_", RATES),
    ("auth_", PASSWORDS),
    ("allow", FILTER),
    ("deny", FILTER),
    ("internal", FILTER),
    ("satisfy", FILTER),
    ("valid_referers", FILTER),
    ("if", "there are no conditions but those of [[routes]]"),
    ("set", "there are no variables"),
    ("geo", "there are no variables"),
    ("resolver", "no name that was taken over is asked for by it"),
];

/// Notes a directive and all that stands in its braces.
pub(super) fn note_whole(directive: &Directive, why: &str, notes: &mut Table) {
    notes.lost(directive.line, &directive.text, why);
    note_inside(directive, directive.line, notes);
}

/// Notes all that stands in the braces of a directive that is noted.
fn note_inside(directive: &Directive, line: usize, notes: &mut Table) {
    let is_secret = secret::is_in(&directive.text);
    for each in directive.inside() {
        let text = if is_secret { "…" } else { &each.text };
        notes.lost(each.line, text, format!("belongs to line {line}"));
        note_inside(each, line, notes);
    }
}

/// Why a directive has no equivalent.
pub(super) fn why(directive: &Directive) -> &'static str {
    let word = directive.word(0);
    LOST.iter().find(|(beginning, _)| word.starts_with(beginning)).map_or(NONE, |(_, why)| why)
}

/// Notes a directive that is not taken over, with all that stands in its braces.
pub(super) fn note(directive: &Directive, notes: &mut Table) {
    let (line, text) = (directive.line, directive.text.as_str());
    if let Some((_, why)) = NEEDLESS.iter().find(|(word, _)| *word == directive.word(0)) {
        return notes.needless(line, text, *why);
    }
    if directive.word(0) == "proxy_set_header" {
        let field = directive.word(1).to_ascii_lowercase();
        let is_forwarding = field.starts_with("x-forwarded-") || ["host", "forwarded"].contains(&field.as_str());
        let is_of_client =
            ["$host", "$http_host", "$proxy_add_x_forwarded_for", "$scheme", "$remote_addr", "$server_port"];
        if is_forwarding && is_of_client.contains(&directive.word(2)) {
            return notes.needless(line, text, FORWARDING);
        }
        if field == "connection" && directive.word(2).is_empty() {
            return notes.needless(line, text, KEPT_OPEN);
        }
        let is_upgrade = ["$http_upgrade", "$connection_upgrade", "upgrade", "websocket"].contains(&directive.word(2));
        if ["upgrade", "connection"].contains(&field.as_str()) && is_upgrade {
            return notes.needless(line, text, "upgrades, WebSockets above all, are passed on by themselves");
        }
        if field == "x-real-ip" {
            return notes.lost(line, text, "X-Forwarded-For and Forwarded say who the client is");
        }
    }
    note_whole(directive, why(directive), notes);
}
