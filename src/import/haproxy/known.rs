//! Owns: what is said of lines that no section takes over.
//! Invariant: never silent: what is not known has no equivalent.
//! Must not know: sections and what they take over.

use super::super::reasons::{FILTER, NONE, PASSWORDS, RATES};
use super::fate::Fate;
use super::syntax::Statement;

const FORWARDING: &str = "Linchpin always sets the forwarding fields";
const LOG: &str = "what is logged, and where, is said in [log]";
const ADMIN: &str = "status, metrics and a dashboard are at the address of [admin]";
const KEPT_OPEN: &str =
    "connections to clients and backends are kept open, and idle ones are used again, by themselves";
const REWRITING: &str = "fields are not taken over: write [routes.request_headers] or [routes.response_headers]";
const REDIRECT: &str = "redirects are not taken over: write [[routes]] with `redirect`";
const TLS: &str =
    "of TLS no more is taken over than certificates, authorities, versions and protocols, see docs/tls.md";
const SERVICE: &str = "that is for the service manager to do";
/// Of a redirect that depends on what routes can't tell.
pub(super) const REDIRECT_WHEN: &str =
    "a route redirects by scheme, host and the beginning of the path alone: write [[routes]] with `redirect`";

/// Beginnings of lines that need no equivalent.
const NEEDLESS: [(&str, &str); 16] = [
    ("option forwardfor", FORWARDING),
    ("option forwarded", FORWARDING),
    ("option originalto", FORWARDING),
    ("option redispatch", "a request that fails before it was sent always goes to another backend"),
    ("redispatch", "a request that fails before it was sent always goes to another backend"),
    ("option http-keep-alive", KEPT_OPEN),
    ("option http-server-close", KEPT_OPEN),
    ("option prefer-last-server", KEPT_OPEN),
    ("option http-ignore-probes", "connections that say nothing are not logged"),
    ("option dontlognull", "connections that say nothing are not logged"),
    ("option clitcpka", KEPT_OPEN),
    ("option srvtcpka", KEPT_OPEN),
    ("option http-use-htx", "HTTP is read and written anew anyway"),
    ("http-reuse", KEPT_OPEN),
    ("http-request del-header x-forwarded-for", FORWARDING),
    ("option allbackups", "all backups take part anyway"),
];

/// Beginnings of lines that have no equivalent, and why, or what to do.
const LOST: [(&str, &str); 46] = [
    ("http-request set-header x-forwarded-", FORWARDING),
    ("http-request add-header x-forwarded-", FORWARDING),
    ("http-request set-header x-real-ip", "Linchpin sets X-Forwarded-For and Forwarded"),
    ("http-request redirect", REDIRECT),
    ("http-request auth", PASSWORDS),
    ("http-request deny", FILTER),
    ("http-request tarpit", FILTER),
    ("http-request reject", FILTER),
    ("tcp-request", FILTER),
    ("block", FILTER),
    ("reqdeny", FILTER),
    ("reqideny", FILTER),
    ("http-request track-sc", RATES),
    ("http-request cache-use", "Linchpin does not cache"),
    ("http-response cache-store", "Linchpin does not cache"),
    ("http-request return", "Linchpin makes no answers but its own error pages"),
    ("http-", REWRITING),
    ("reqadd", REWRITING),
    ("reqrep", REWRITING),
    ("reqirep", REWRITING),
    ("rspadd", REWRITING),
    ("rspdel", REWRITING),
    ("rspidel", REWRITING),
    ("redirect", REDIRECT),
    ("compression", "Linchpin does not compress"),
    ("filter", NONE),
    ("errorfile", "Linchpin has error pages of its own"),
    ("errorloc", "Linchpin has error pages of its own"),
    ("stats", ADMIN),
    ("monitor-uri", "/livez and /readyz at the address of [admin] say whether it lives"),
    ("option httplog", LOG),
    ("option tcplog", LOG),
    ("option logasap", LOG),
    ("option log-separate-errors", LOG),
    ("option dontlog-normal", LOG),
    ("option log-health-checks", "health is logged by itself, and said in [log]"),
    ("log", LOG),
    ("capture", LOG),
    ("unique-id-", LOG),
    ("option httpclose", "Linchpin keeps connections open"),
    ("option forceclose", "Linchpin keeps connections open"),
    ("option http-buffer-request", "bodies are streamed"),
    ("maxconn", "`max_connections` of [server] is one for all listeners"),
    ("fullconn", NONE),
    ("bind-process", SERVICE),
    ("acl", "no route is made of it"),
];

/// Beginnings of lines of `global`.
const GLOBAL: [(&str, &str); 24] = [
    ("daemon", SERVICE),
    ("chroot", SERVICE),
    ("user", SERVICE),
    ("group", SERVICE),
    ("uid", SERVICE),
    ("gid", SERVICE),
    ("pidfile", SERVICE),
    ("ulimit-n", SERVICE),
    ("nbproc", SERVICE),
    ("cpu-map", SERVICE),
    ("master-worker", SERVICE),
    ("setenv", SERVICE),
    ("presetenv", SERVICE),
    ("stats", ADMIN),
    ("log", LOG),
    ("ssl-", TLS),
    ("tune.ssl.", TLS),
    ("issuers-chain-path", TLS),
    ("tune.", NONE),
    ("spread-checks", "probes are spread by themselves"),
    ("lua-load", "there are no scripts"),
    ("default-path", "relative paths start at the folder of the file"),
    ("zero-warning", "linchpin check says all warnings"),
    ("maxconnrate", NONE),
];

/// What is said of a line of a proxy.
pub(super) fn fate(statement: &Statement) -> Fate {
    let text = statement.words.join(" ").to_ascii_lowercase();
    let positive = text.strip_prefix("no ").unwrap_or(&text);
    let is_about = |(beginning, _): &&(&str, &str)| positive.starts_with(beginning);
    match NEEDLESS.iter().find(is_about) {
        Some((_, why)) if positive == text => Fate::Needless(why),
        Some((_, why)) => Fate::Lost((*why).into()),
        None => Fate::Lost(LOST.iter().find(is_about).map_or(NONE, |(_, why)| why).into()),
    }
}

/// Why a line of `global` has no equivalent.
pub(super) fn global(statement: &Statement) -> &'static str {
    let text = statement.words.join(" ");
    GLOBAL.iter().find(|(beginning, _)| text.starts_with(beginning)).map_or(NONE, |(_, why)| why)
}

/// Why a section that is no proxy has no equivalent.
pub(super) fn section(kind: &str) -> &'static str {
    match kind {
        "peers" => "Linchpins that have the same [[keys]] agree on pins without talking to each other",
        "cache" => "Linchpin does not cache",
        "userlist" => PASSWORDS,
        "mailers" => "Linchpin sends no mail: watch its metrics",
        "ring" | "log-forward" | "log-profile" => LOG,
        "program" => SERVICE,
        "http-errors" => "Linchpin has error pages of its own",
        "crt-store" | "acme" => TLS,
        _ => NONE,
    }
}
