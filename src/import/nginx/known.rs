//! Owns: the reasons for nginx's directives that are not converted.
//! Invariant: each directive has a reason, even an unknown one.
//! Must not know: blocks, and the directives that they convert.

use super::super::reasons::{FILTER, NONE, PASSWORDS, RATES};
use super::super::secret;
use super::super::toml::Table;
use super::syntax::Directive;

const FORWARDING: &str = "Linchpin always sets the forwarding fields and forwards Host";
const REWRITING: &str = "routes change only whole fields, to a value that is the same for all requests";
const STREAMED: &str = "Linchpin streams bodies";
const LOG: &str = "[log] controls what is logged, and where";
const FILES: &str = "Linchpin serves no files";
const REDIRECT: &str = "Linchpin itself sends only redirects to a scheme, host and path, and error pages";
const ANSWERS: &str = "Linchpin forwards Location and Set-Cookie unchanged";
const PATHS: &str =
    "this rewrite is not imported: `strip_prefix` and `add_prefix` of [[routes]] change the beginning of a path";
const TLS: &str = "Linchpin chooses versions, ciphers and curves: see docs/tls.md";
const SERVICE: &str = "leave this to the service manager";
const KEPT_OPEN: &str = "Linchpin always keeps connections open and reuses idle ones";

/// Directives that need no equivalent.
const NEEDLESS: [(&str, &str); 14] = [
    ("acme_shared_zone", "all threads always share what is known of certificates"),
    ("ssl_certificate_cache", "a certificate is read when its file changes"),
    ("proxy_http_version", KEPT_OPEN),
    ("proxy_buffering", STREAMED),
    ("proxy_request_buffering", STREAMED),
    ("proxy_buffers", STREAMED),
    ("proxy_buffer_size", STREAMED),
    ("proxy_busy_buffers_size", STREAMED),
    ("client_body_buffer_size", STREAMED),
    ("client_body_timeout", "`idle` of [pools.timeouts] ends stalled bodies"),
    ("tcp_nodelay", "it is always on"),
    ("zone", "all threads always share the state of backends"),
    ("server_tokens", "Linchpin does not name itself in responses"),
    ("proxy_socket_keepalive", KEPT_OPEN),
];

/// Beginnings of directives that have no equivalent, each with the reason.
const LOST: [(&str, &str); 54] = [
    ("include", "included files are not read: import what nginx -T prints, which has them all"),
    ("stream", "Linchpin handles only HTTP"),
    ("mail", "Linchpin handles only HTTP"),
    ("events", "use `max_connections` of [server]"),
    ("acme_certificate", "no `ssl_certificate $acme_certificate` uses it"),
    ("worker_connections", "use `max_connections` of [server]"),
    ("worker_", SERVICE),
    ("user", SERVICE),
    ("pid", SERVICE),
    ("daemon", SERVICE),
    ("load_module", "Linchpin has no loadable modules"),
    ("error_log", LOG),
    ("access_log", LOG),
    ("log_", LOG),
    ("ssl_verify_client", FILTER),
    ("ssl_", TLS),
    ("proxy_ssl_", TLS),
    ("grpc_ssl_", TLS),
    ("http2", "HTTP/2 is on with TLS; without TLS, set http2 = true in [[listeners]]"),
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
    ("error_page", "no imported `proxy_pass` uses it"),
    (
        "proxy_intercept_errors",
        "Linchpin forwards the error responses of backends as they are; its own errors have the page of [pools.pages]",
    ),
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
    ("satisfy", "with lists of addresses and a password, a client needs both"),
    ("valid_referers", FILTER),
    ("if", "only [[routes]] have conditions"),
    ("set", "Linchpin has no variables"),
    ("geo", "Linchpin has no variables"),
    ("resolver", "no imported name uses it"),
];

/// Notes a directive and its block.
pub(super) fn note_whole(directive: &Directive, why: &str, notes: &mut Table) {
    notes.unsupported(directive.line, &directive.text, why);
    note_inside(directive, directive.line, notes);
}

/// Notes the block of a directive.
fn note_inside(directive: &Directive, line: usize, notes: &mut Table) {
    let is_secret = secret::is_in(&directive.text);
    for each in directive.inside() {
        let text = if is_secret { "…" } else { &each.text };
        notes.unsupported(each.line, text, format!("belongs to line {line}"));
        note_inside(each, line, notes);
    }
}

/// Returns why a directive has no equivalent.
pub(super) fn why(directive: &Directive) -> &'static str {
    let word = directive.word(0);
    LOST.iter().find(|(beginning, _)| word.starts_with(beginning)).map_or(NONE, |(_, why)| why)
}

/// Notes a directive that is not converted, and its block.
pub(super) fn note(directive: &Directive, notes: &mut Table) {
    let (line, text) = (directive.line, directive.text.as_str());
    if let Some((_, why)) = NEEDLESS.iter().find(|(word, _)| *word == directive.word(0)) {
        return notes.unneeded(line, text, *why);
    }
    if directive.word(0) == "include" && directive.word(1).ends_with("mime.types") {
        return notes.unneeded(line, text, FILES);
    }
    if directive.word(0) == "proxy_set_header" {
        let field = directive.word(1).to_ascii_lowercase();
        let is_forwarding = field.starts_with("x-forwarded-") || ["host", "forwarded"].contains(&field.as_str());
        let is_of_client =
            ["$host", "$http_host", "$proxy_add_x_forwarded_for", "$scheme", "$remote_addr", "$server_port"];
        if is_forwarding && is_of_client.contains(&directive.word(2)) {
            return notes.unneeded(line, text, FORWARDING);
        }
        if field == "connection" && directive.word(2).is_empty() {
            return notes.unneeded(line, text, KEPT_OPEN);
        }
        let is_upgrade = ["$http_upgrade", "$connection_upgrade", "upgrade", "websocket"].contains(&directive.word(2));
        if ["upgrade", "connection"].contains(&field.as_str()) && is_upgrade {
            return notes.unneeded(line, text, "Linchpin always forwards upgrades such as WebSocket");
        }
        if field == "x-real-ip" {
            return notes.unsupported(
                line,
                text,
                "Linchpin sends the client's address in X-Forwarded-For and Forwarded",
            );
        }
    }
    note_whole(directive, why(directive), notes);
}
