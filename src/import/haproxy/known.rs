//! Owns: the reasons for HAProxy's lines that are not converted.
//! Invariant: each line has a reason, even an unknown one.
//! Must not know: sections, and the lines that they convert.

use super::super::reasons::{FILTER, NONE, PASSWORDS, RATES};
use super::disposition::Disposition;
use super::syntax::Statement;

const FORWARDING: &str = "Linchpin always sets the forwarding fields";
const LOG: &str = "[log] controls what is logged, and where";
const ADMIN: &str = "[admin] serves status, metrics and a dashboard";
const KEPT_OPEN: &str = "Linchpin always keeps connections open and reuses idle ones";
const REWRITING: &str =
    "this change is not imported: [routes.request_headers] and [routes.response_headers] set, add and remove fields";
/// The reason for a change to a field whose condition is not that of its routes.
pub(super) const FIELD_WHEN: &str = "routes change fields of all their requests: write this into [routes.request_headers] or [routes.response_headers] of the right one";
const REDIRECT: &str = "this redirect is not imported: use `redirect` of [[routes]]";
const TLS: &str =
    "of TLS settings, only certificates, authorities, versions and protocols are imported: see docs/tls.md";
const SERVICE: &str = "leave this to the service manager";
const PAGES: &str = "HAProxy's files begin with a header section: write what follows it into a file of HTML, and name that in `error` of [pools.pages]";
const ONE_PAGE: &str =
    "a pool has one page for all errors of Linchpin itself, in a file of HTML: name it in `error` of [pools.pages]";
/// The reason for a redirect whose condition routes can't express.
pub(super) const REDIRECT_WHEN: &str =
    "a redirect depends only on scheme, host and the beginning of the path: use `redirect` of [[routes]]";

/// Beginnings of lines that need no equivalent.
const NEEDLESS: [(&str, &str); 15] = [
    ("option forwardfor", FORWARDING),
    ("option forwarded", FORWARDING),
    ("option originalto", FORWARDING),
    ("option redispatch", "Linchpin always sends a request that failed before it was sent to another backend"),
    ("redispatch", "Linchpin always sends a request that failed before it was sent to another backend"),
    ("option http-keep-alive", KEPT_OPEN),
    ("option http-server-close", KEPT_OPEN),
    ("option prefer-last-server", KEPT_OPEN),
    ("option http-ignore-probes", "Linchpin does not log connections without a request"),
    ("option dontlognull", "Linchpin does not log connections without a request"),
    ("option clitcpka", KEPT_OPEN),
    ("option srvtcpka", KEPT_OPEN),
    ("option http-use-htx", "Linchpin always parses HTTP and writes it anew"),
    ("http-reuse", KEPT_OPEN),
    ("option allbackups", "Linchpin always uses all backups"),
];

/// Beginnings of lines that have no equivalent, each with the reason or what to do.
const LOST: [(&str, &str); 62] = [
    ("http-request redirect", REDIRECT),
    ("http-request auth", PASSWORDS),
    ("http-request deny", FILTER),
    ("http-request tarpit", FILTER),
    ("http-request reject", FILTER),
    ("tcp-request inspect-delay", "`header_read_timeout` of [server.limits] limits the wait for a request"),
    ("tcp-request content track-sc", RATES),
    ("tcp-request connection track-sc", RATES),
    ("tcp-request connection expect-proxy", "set `proxy_protocol` and `trusted_proxies` of the listener"),
    ("tcp-request content accept", "a rule after this one may now refuse these requests, too"),
    ("tcp-request connection accept", "a rule after this one may now refuse these requests, too"),
    ("tcp-request", FILTER),
    ("block", FILTER),
    ("reqdeny", FILTER),
    ("reqideny", FILTER),
    ("http-request track-sc", RATES),
    ("http-request allow", "a rule after this one may now refuse these requests, too"),
    ("http-request use-service prometheus-exporter", ADMIN),
    ("http-request set-log-level", LOG),
    ("http-request capture", LOG),
    ("http-response capture", LOG),
    ("http-request wait-for-body", "Linchpin streams bodies"),
    ("http-request set-src", "`trusted_proxies` and `proxy_protocol` of the listener say who the client is"),
    ("http-request set-var", "Linchpin has no variables"),
    ("http-request lua", "Linchpin runs no scripts"),
    ("http-request replace-path", "`strip_prefix` and `add_prefix` of [[routes]] change the beginning of a path"),
    ("http-request replace-uri", "`strip_prefix` and `add_prefix` of [[routes]] change the beginning of a path"),
    ("http-request set-path", "`strip_prefix` and `add_prefix` of [[routes]] change the beginning of a path"),
    ("http-request cache-use", "Linchpin does not cache"),
    ("http-response cache-store", "Linchpin does not cache"),
    ("http-request return", "Linchpin itself sends only redirects and error pages"),
    ("http-error", ONE_PAGE),
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
    ("errorfile", PAGES),
    ("errorloc", "Linchpin responds to errors with a page, and redirects none"),
    ("stats", ADMIN),
    ("monitor-uri", "use /livez and /readyz of [admin]"),
    ("option httplog", LOG),
    ("option tcplog", LOG),
    ("option logasap", LOG),
    ("option log-separate-errors", LOG),
    ("option dontlog-normal", LOG),
    ("option log-health-checks", "Linchpin always logs changes of health"),
    ("log", LOG),
    ("capture", LOG),
    ("unique-id-", LOG),
    ("option httpclose", "Linchpin keeps connections open"),
    ("option forceclose", "Linchpin keeps connections open"),
    ("option http-buffer-request", "Linchpin streams bodies"),
    ("maxconn", "use `max_connections` of [server], which counts all listeners together"),
    ("fullconn", NONE),
    ("bind-process", SERVICE),
    ("acl", "no route uses it"),
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
    ("spread-checks", "Linchpin always spreads probes"),
    ("lua-load", "Linchpin runs no scripts"),
    ("default-path", "relative paths start at the folder of the configuration file"),
    ("zero-warning", "linchpin check always shows warnings"),
    ("maxconnrate", NONE),
];

/// Returns how to note a line of a frontend or backend.
pub(super) fn disposition(statement: &Statement) -> Disposition {
    let text = statement.words.join(" ").to_ascii_lowercase();
    let positive = text.strip_prefix("no ").unwrap_or(&text);
    let is_about = |(beginning, _): &&(&str, &str)| positive.starts_with(beginning);
    // Only a server that fails, or that there is none, has a page.
    if let ["errorfile", code, _] = &statement.words.iter().map(String::as_str).collect::<Vec<_>>()[..]
        && !["500", "502", "503", "504"].contains(code)
    {
        let why = format!("{ONE_PAGE}; there is none for {code} alone");
        return Disposition::Unsupported(why);
    }
    match NEEDLESS.iter().find(is_about) {
        Some((_, why)) if positive == text => Disposition::Unneeded(why),
        Some((_, why)) => Disposition::Unsupported((*why).into()),
        None => Disposition::Unsupported(LOST.iter().find(is_about).map_or(NONE, |(_, why)| why).into()),
    }
}

/// Returns why a line of `global` has no equivalent.
pub(super) fn global(statement: &Statement) -> &'static str {
    let text = statement.words.join(" ");
    GLOBAL.iter().find(|(beginning, _)| text.starts_with(beginning)).map_or(NONE, |(_, why)| why)
}

/// Returns why a section other than frontends and backends has no equivalent.
pub(super) fn section(kind: &str) -> &'static str {
    match kind {
        "peers" => "replicas with the same [[keys]] accept each other's pins without talking to each other",
        "cache" => "Linchpin does not cache",
        "mailers" => "Linchpin sends no mail: watch its metrics",
        "ring" | "log-forward" | "log-profile" => LOG,
        "program" => SERVICE,
        "http-errors" => PAGES,
        _ => NONE,
    }
}
