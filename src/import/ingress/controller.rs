//! Owns: the settings of ingress-nginx itself, in its ConfigMap, and the ConfigMaps of fields that it names.
//! Invariant: each of them is a setting of the output or the default of an annotation, or is noted with the reason.
//! Must not know: Ingresses, pools.

use std::time::Duration;

use super::super::access::Access;
use super::super::address_lists::AddressLists;
use super::super::field_edits::{Change, FieldEdit, Message};
use super::super::guard::{Guard, GuardScope, Restriction};
use super::super::output::Output;
use super::super::pool::WAIT;
use super::super::reasons::{FILTER, NONE};
use super::super::route::Request;
use super::super::toml::{Table, Value};
use super::super::units;
use super::global_settings::GlobalSettings;
use super::objects::Objects;

/// The longest time of `hsts`, in seconds.
const MAX_AGE: u64 = 2 * 365 * 24 * 60 * 60;

/// Beginnings of keys that need no equivalent.
const NEEDLESS: [(&str, &str); 11] = [
    ("allow-snippet-annotations", "Linchpin runs no snippets"),
    ("annotations-risk-level", "Linchpin runs no snippets"),
    ("strict-validate-path-type", "a path is a prefix or is noted"),
    ("compute-full-forwarded-for", "Linchpin appends to X-Forwarded-For what trusted proxies report"),
    ("proxy-buffer", "Linchpin streams bodies"),
    ("proxy-request-buffering", "Linchpin streams bodies"),
    ("client-body-buffer-size", "Linchpin streams bodies"),
    ("server-tokens", "Linchpin does not name itself in responses"),
    ("upstream-keepalive", "Linchpin always keeps connections open and reuses idle ones"),
    ("hsts", "see the listener"),
    ("ssl-session", "Linchpin resumes sessions by tickets, and rotates their keys"),
];

/// Beginnings of keys without an equivalent.
const LOST: [(&str, &str); 11] = [
    ("ssl-", "Linchpin chooses versions, ciphers and curves: see docs/tls.md"),
    ("log-format", "[log] controls what is logged, and where"),
    ("access-log", "[log] controls what is logged, and where"),
    ("error-log", "[log] controls what is logged, and where"),
    ("use-gzip", "Linchpin does not compress"),
    ("gzip", "Linchpin does not compress"),
    ("enable-brotli", "Linchpin does not compress"),
    ("brotli", "Linchpin does not compress"),
    (
        "custom-http-errors",
        "Linchpin forwards error responses as they are; its own have the page that `error` of [pools.pages] names",
    ),
    ("max-worker", "use `max_connections` of [server]"),
    ("enable-opentelemetry", "[tracing] sends spans to a collector"),
];

/// Returns the status of redirects to TLS.
pub(super) fn redirect_status(settings: &GlobalSettings<'_>) -> u16 {
    let code = settings.text("http-redirect-code").and_then(|(_, code)| code.parse().ok());
    code.filter(|code| matches!(code, 301 | 302 | 307 | 308)).unwrap_or(308)
}

/// Converts what belongs to the listeners of a group.
pub(super) fn listeners(settings: &GlobalSettings<'_>, group: usize, out: &mut Output) {
    if settings.is_empty() {
        return;
    }
    let cidrs = settings.text("proxy-real-ip-cidr");
    let networks: Option<Vec<String>> =
        cidrs.map(|(_, text)| text.split(',')).into_iter().flatten().map(network).collect();
    let networks = networks.filter(|networks| !networks.is_empty());
    let (speaks, believes) = (settings.is("use-proxy-protocol", "true"), settings.is("use-forwarded-headers", "true"));
    let line_of = |key: &str| settings.text(key).map_or(0, |(line, _)| line);
    if let Some((line, field)) = settings.text("forwarded-for-header")
        && !field.eq_ignore_ascii_case("x-forwarded-for")
    {
        out.clients.unsupported(
            line,
            &settings.shown("forwarded-for-header"),
            "`forwarded` of the listener names the field: x-forwarded-for or forwarded",
        );
    }
    let max_age = settings.text("hsts-max-age").and_then(|(_, text)| text.parse::<u64>().ok()).unwrap_or(31_536_000);
    let has_hsts = !settings.is("hsts", "false");
    let below = !settings.is("hsts-include-subdomains", "false");
    let is_13 = settings.peek("ssl-protocols") == Some("TLSv1.3");
    if is_13 {
        let _ = settings.text("ssl-protocols");
    }
    let has_http2 = !settings.is("use-http2", "false");
    for listener in out.listeners_of(group) {
        match (&networks, speaks, believes) {
                (Some(networks), true, _) | (Some(networks), _, true) => {
                    listener.table.set("trusted_proxies", Value::list(networks.iter().map(String::as_str)));
                    if speaks {
                        listener.table.set("proxy_protocol", Value::flag(true));
                    }
                }
                (None, true, _) => listener.switch_off(
                    line_of("use-proxy-protocol"),
                    &settings.shown("use-proxy-protocol"),
                    "any client could claim any address, so the listener is disabled: set proxy_protocol = true and list the load balancers before this one in trusted_proxies",
                ),
                (None, _, true) => listener.table.unsupported(
                    line_of("use-forwarded-headers"),
                    &settings.shown("use-forwarded-headers"),
                    "it believed every client: list the load balancers before this one in trusted_proxies",
                ),
                (_, false, false) => {}
            }
        if !listener.is_secure() {
            continue;
        }
        let table = listener.secure();
        if has_hsts {
            table.set("hsts", Value::duration(Duration::from_secs(max_age.min(MAX_AGE))));
            if below {
                table.comment("it was for all names below these, too: for that, set Strict-Transport-Security in [routes.response_headers]");
            }
        }
        if is_13 {
            table.set("min_version", Value::text("1.3"));
        }
        if !has_http2 {
            table.set("http2", Value::flag(false));
        }
    }
}

/// Converts what belongs to the whole process, and to all routes of a group.
pub(super) fn of_all(objects: &Objects<'_>, group: usize, out: &mut Output) {
    let settings = &objects.settings;
    let time = |key: &str| settings.text(key).map(|(line, text)| (line, units::seconds(text), settings.shown(key)));
    for (key, own) in [("keep-alive", "idle_timeout"), ("client-header-timeout", "header_read_timeout")] {
        if let Some((line, time, shown)) = time(key) {
            out.limits.share_time(own, time, WAIT, line, &shown);
        }
    }
    let number =
        |key: &str| settings.text(key).map(|(line, text)| (line, text.parse::<u64>().ok(), settings.shown(key)));
    match number("keep-alive-requests") {
        Some((line, Some(count), shown)) if count > 0 => {
            out.limits.share("requests_per_connection", Value::number(count), line, &shown);
        }
        Some((line, _, shown)) => out.limits.unsupported(line, &shown, "not a number"),
        None => {}
    }
    match number("worker-processes") {
        Some((line, Some(count), shown)) if (1..=1024).contains(&count) => {
            out.server.share("threads", Value::number(count), line, &shown);
        }
        _ => {}
    }
    if let Some((line, text)) = settings.text("block-cidrs") {
        let lists: Option<Vec<String>> = text.split(',').map(network).collect();
        let place = GuardScope::Groups(vec![group], vec![Request::to(Vec::new(), "/")]);
        let kind = lists.map_or(Restriction::Lost, |deny| {
            Restriction::Access(Access::Lists(AddressLists { deny, ..AddressLists::default() }))
        });
        out.guard(Guard { place, line, text: settings.shown("block-cidrs"), why: FILTER.into(), kind });
    }
    for key in ["block-user-agents", "block-referers"] {
        if let Some((line, _)) = settings.text(key) {
            out.rest.guard(line, &settings.shown(key), "routes refuse clients by their address or their password only");
        }
    }
    for (key, message, change) in [
        ("proxy-set-headers", Message::Request, Change::Set as fn(String) -> Change),
        ("add-headers", Message::Response, Change::Set),
    ] {
        if let Some((line, name)) = settings.text(key) {
            let scope = GuardScope::Groups(vec![group], Vec::new());
            fields(objects, (name, "default"), &scope, (message, change), (line, &settings.shown(key)), out);
        }
    }
    if let Some((line, names)) = settings.text("hide-headers") {
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match FieldEdit::new(Message::Response, name, Change::Remove) {
                Ok(edit) => {
                    let scope = GuardScope::Groups(vec![group], Vec::new());
                    out.edit(scope, edit, line, &settings.shown("hide-headers"));
                }
                Err(why) => out.rest.unsupported(line, &settings.shown("hide-headers"), why),
            }
        }
    }
}

/// Notes the settings that nobody has taken.
pub(super) fn rest(settings: &GlobalSettings<'_>, notes: &mut Table) {
    for (key, line, node) in settings.left() {
        let text = settings.shown(key);
        let is_about = |(beginning, _): &&(&str, &str)| key.starts_with(beginning);
        match (NEEDLESS.iter().find(is_about), LOST.iter().find(is_about)) {
            (Some((_, why)), _) => notes.unneeded(line, &text, *why),
            _ if matches!(node.text(), Some("false" | "off" | "")) => notes.unneeded(line, &text, "it is off"),
            (_, Some((_, why))) => notes.unsupported(line, &text, *why),
            _ if GlobalSettings::is_default(key) => notes.unneeded(line, &text, "each Ingress has a value of its own"),
            _ => notes.unsupported(line, &text, NONE),
        }
    }
}

/// Changes the fields that a ConfigMap has, which may be in another namespace, in a scope.
pub(super) fn fields(
    objects: &Objects<'_>,
    (name, namespace): (&str, &str),
    scope: &GuardScope,
    (message, change): (Message, fn(String) -> Change),
    (line, shown): (usize, &str),
    out: &mut Output,
) {
    let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
    let Some(data) = objects.config_map(namespace, name) else {
        let why = "its ConfigMap is not in the file: add that, or write [routes.request_headers] or [routes.response_headers]";
        return out.rest.unsupported(line, shown, why);
    };
    for (field, line, node) in data.take_all() {
        let value = node.text().unwrap_or_default();
        let shown = format!("ConfigMap {name}: {field}: {value}");
        let edit = match value.contains('$') || node.text().is_none() {
            true => Err("the value of a field is the same for all requests of a route"),
            false => FieldEdit::new(message, field, change(value.to_owned())),
        };
        match edit {
            Ok(edit) => out.edit(scope.clone(), edit, line, &shown),
            Err(why) => out.rest.unsupported(line, &shown, why),
        }
    }
}

/// Reads a network other than that of all addresses.
fn network(text: &str) -> Option<String> {
    units::network(text.trim()).filter(|network| network.prefix_len() > 0).map(|network| network.to_string())
}
