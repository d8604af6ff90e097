//! Owns: an Ingress's annotations, and those that stand for themselves.
//! Invariant: an annotation is taken once, by the setting that it becomes or by a note.
//! Must not know: affinity, access, canaries.

use std::cell::RefCell;
use std::time::Duration;

use super::super::backend_protocol::{BackendProtocol, BackendTls};
use super::super::client_limits::{Given, PartLimits, Rate};
use super::super::field_edits::{Change, FieldEdit, Message};
use super::super::grammar;
use super::super::guard::GuardScope;
use super::super::nginx;
use super::super::node::{Map, Node, peek};
use super::super::output::Output;
use super::super::pool::{Balance, By, Pool, WAIT};
use super::super::reasons::{NONE, RATES};
use super::super::route::Redirect;
use super::super::toml::{Table, Value};
use super::super::units;
use super::global_settings::GlobalSettings;

/// The prefix of the annotations of ingress-nginx.
const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Annotations that need no equivalent, by the beginning of their name.
const NEEDLESS: [(&str, &str); 15] = [
    ("connection-proxy-header", "Linchpin always keeps connections open and reuses idle ones"),
    ("http2-push-preload", "browsers have dropped server push"),
    ("enable-rewrite-log", "[log] controls what is logged"),
    ("use-regex", "patterns that only name a prefix become `path_prefix`"),
    ("websocket-services", "WebSockets always pass"),
    ("service-upstream", "Linchpin always connects to the pods"),
    ("proxy-buffer", "Linchpin streams bodies"),
    ("proxy-request-buffering", "Linchpin streams bodies"),
    ("proxy-max-temp-file-size", "Linchpin streams bodies"),
    ("client-body-buffer-size", "Linchpin streams bodies"),
    ("proxy-http-version", "Linchpin speaks HTTP/1.1 or HTTP/2 with backends"),
    ("x-forwarded-prefix", "Linchpin sets X-Forwarded-Prefix where it strips a prefix"),
    ("enable-access-log", "[log] controls what is logged"),
    ("canary", "see the pool"),
    ("preserve-trailing-slash", "redirects keep the path as it is"),
];

/// Annotations without an equivalent, by the beginning of their name.
const LOST: [(&str, &str); 19] = [
    ("proxy-next-upstream-timeout", "use `total` of [pools.timeouts], which limits all attempts together"),
    ("ssl-passthrough", "Linchpin ends TLS: `[listeners.tls]` needs the certificate"),
    ("ssl-", "Linchpin chooses versions, ciphers and curves: see docs/tls.md"),
    ("proxy-ssl-", "of TLS settings for backends, only `proxy-ssl-secret`, `-name` and `-verify` are imported"),
    ("global-rate-limit", RATES),
    ("enable-cors", "use [routes.response_headers], or let the application answer preflights"),
    ("cors-", "use [routes.response_headers], or let the application answer preflights"),
    ("configuration-snippet", "Linchpin has no snippets: use [routes.request_headers] or [routes.response_headers]"),
    ("server-snippet", "Linchpin has no snippets"),
    ("stream-snippet", "Linchpin handles only HTTP"),
    ("rewrite-target", "`strip_prefix` and `add_prefix` of [[routes]] change only the beginning of a path"),
    ("app-root", "write a route for \"/\" with `redirect`"),
    ("from-to-www-redirect", "write a route for the other host with `redirect`"),
    (
        "custom-http-errors",
        "its pages come from the default backend, and replace the error responses of backends, too: Linchpin forwards those as they are, and its own errors have the page in the file that `error` of [pools.pages] names",
    ),
    (
        "default-backend",
        "while no server is available, Linchpin shows the page in the file that `error` of [pools.pages] names",
    ),
    ("mirror-", "Linchpin does not mirror requests"),
    ("proxy-cookie-", "Linchpin forwards Set-Cookie unchanged"),
    ("proxy-redirect-", "Linchpin forwards Location unchanged"),
    ("limit-", RATES),
];

/// Beginnings of annotations that tools leave on every object.
const NOISE: [&str; 5] =
    ["kubectl.kubernetes.io/", "kubernetes.io/ingress.class", "meta.helm.sh/", "helm.sh/", "argocd.argoproj.io/"];
const CERT_MANAGER: &str = "keep cert-manager, and Linchpin uses each certificate that it renews in the Secret: write a Certificate for it if you delete this Ingress, and let a DNS-01 solver prove the names, or an HTTP-01 solver whose Ingress some controller serves; or do without cert-manager, and write [listeners.tls.acme]";

/// The annotations of one Ingress.
pub(super) struct Annotations<'n> {
    map: Option<&'n Map>,
    ingress: String,
    defaults: GlobalSettings<'n>,
    noted: RefCell<bool>,
}

impl<'n> Annotations<'n> {
    pub(super) fn new(map: Option<&'n Map>, ingress: &str) -> Annotations<'n> {
        Annotations { map, ingress: ingress.into(), defaults: GlobalSettings::default(), noted: RefCell::new(false) }
    }

    /// Takes the settings of the controller as defaults.
    pub(super) fn default_to(&mut self, settings: GlobalSettings<'n>) {
        self.defaults = settings;
    }

    fn own(&self, key: &str) -> Option<&'n Node> {
        peek(self.map?, &format!("{PREFIX}{key}"))
    }

    /// Returns how comments name an annotation with its value.
    pub(super) fn shown(&self, key: &str) -> String {
        if self.own(key).is_none() && self.defaults.default_of(key).is_some() {
            return self.defaults.shown(key);
        }
        format!("{}: {key}: {}", self.ingress, self.peek(key).unwrap_or_default())
    }

    /// Returns an annotation's value without taking it.
    pub(super) fn peek(&self, key: &str) -> Option<&'n str> {
        self.own(key).or_else(|| self.defaults.default_of(key))?.text()
    }

    /// Takes an annotation.
    pub(super) fn take(&self, key: &str) -> Option<&'n Node> {
        let own = self.map.and_then(|map| map.take(&format!("{PREFIX}{key}")));
        own.or_else(|| self.defaults.take_default(key))
    }

    /// Takes an annotation; returns its line and value.
    pub(super) fn text(&self, key: &str) -> Option<(usize, &'n str)> {
        let node = self.take(key)?;
        Some((node.line, node.text()?.trim()))
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.text(key)?.1.parse().ok()
    }

    /// Takes an annotation without an equivalent, and notes it.
    pub(super) fn unsupported(&self, key: &str, why: &str, notes: &mut Table) {
        let shown = self.shown(key);
        if let Some((line, _)) = self.text_once(key) {
            notes.unsupported(line, &shown, why);
        }
    }

    /// Takes an annotation that needs no equivalent, and notes it.
    pub(super) fn unneeded(&self, key: &str, why: &str, notes: &mut Table) {
        let shown = self.shown(key);
        if let Some((line, _)) = self.text_once(key) {
            notes.unneeded(line, &shown, why);
        }
    }

    /// Takes an annotation that nobody has taken.
    fn text_once(&self, key: &str) -> Option<(usize, &'n str)> {
        let name = format!("{PREFIX}{key}");
        self.map?.left().find(|(other, ..)| *other == name)?;
        self.text(key)
    }

    /// Notes those that ingress-nginx ignores on a canary.
    pub(super) fn of_canary(&self, notes: &mut Table) {
        let why = "of a canary, ingress-nginx takes this from the Ingress that has the same path";
        let left: Vec<_> = self.map.into_iter().flat_map(Map::left).collect();
        for key in left.iter().filter_map(|(key, ..)| key.strip_prefix(PREFIX)).filter(|key| !key.starts_with("canary"))
        {
            self.unneeded(key, why, notes);
        }
    }

    /// Returns those of other controllers, each with its line.
    pub(super) fn of_others(&self) -> Vec<(usize, String)> {
        let is_other = |key: &str| {
            let known = NOISE.iter().chain(&[PREFIX, "cert-manager.io/", "external-dns.alpha.kubernetes.io/"]);
            !known.into_iter().any(|beginning| key.starts_with(beginning)) && key.contains('/')
        };
        let others = self.map.into_iter().flat_map(Map::left).filter(|(key, ..)| is_other(key));
        let shown = |(key, line, _): (&str, usize, &Node)| (line, format!("{}: {key}", self.ingress));
        let others: Vec<_> = others.map(shown).collect();
        for (_, text) in &others {
            let key = text.get(self.ingress.len() + 2..).unwrap_or_default();
            self.map.map(|map| map.take(key));
        }
        others
    }

    /// Notes the annotations that nobody has taken.
    pub(super) fn rest(&self, notes: &mut Table) {
        if self.noted.replace(true) {
            return;
        }
        let left: Vec<_> = self.map.into_iter().flat_map(Map::left).collect();
        for (key, line, node) in left {
            let Some(key) = key.strip_prefix(PREFIX) else {
                if !NOISE.iter().any(|beginning| key.starts_with(beginning)) {
                    let why = if key.contains("cert-manager.io/") { CERT_MANAGER } else { "not for ingress-nginx" };
                    notes.unneeded(line, &format!("{}: {key}: {}", self.ingress, node.text().unwrap_or_default()), why);
                }
                continue;
            };
            let text = format!("{}: {key}: {}", self.ingress, node.text().unwrap_or_default());
            let is_about = |(beginning, _): &&(&str, &str)| key.starts_with(beginning);
            match (NEEDLESS.iter().find(is_about), LOST.iter().find(is_about)) {
                (Some((_, why)), None) => notes.unneeded(line, &text, *why),
                _ if matches!(node.text(), Some("false" | "off")) => notes.unneeded(line, &text, "it is off"),
                (_, Some((_, why))) => notes.unsupported(line, &text, *why),
                (None, None) => notes.unsupported(line, &text, NONE),
            }
            self.take(key);
        }
    }
}

/// Returns where an Ingress redirects all of its requests, if it does.
pub(super) fn redirect(annotations: &Annotations<'_>, out: &mut Output) -> Option<Redirect> {
    for (key, code_key, default) in
        [("permanent-redirect", "permanent-redirect-code", 301), ("temporal-redirect", "temporal-redirect-code", 302)]
    {
        let Some((line, url)) = annotations.text(key) else { continue };
        let code = annotations.text(code_key).and_then(|(_, code)| code.parse().ok()).unwrap_or(default);
        match Redirect::read(url, &["$host", "$http_host"], &["$request_uri"], code) {
            Some(redirect) => return Some(redirect),
            None => out.unrouted.unsupported(line, &annotations.shown(key), "use `redirect` of [[routes]]"),
        }
    }
    None
}

/// Converts what concerns the routes of an Ingress.
pub(super) fn of_routes(annotations: &Annotations<'_>, ids: &[usize], out: &mut Output) {
    if let Some((line, text)) = annotations.text("proxy-body-size") {
        match units::size(text) {
            Some(0) => out.set_on(ids, "body_bytes", &Value::text("unlimited")),
            Some(bytes) => out.set_on(ids, "body_bytes", &Value::size(bytes)),
            None => out.notes(ids).unsupported(line, &annotations.shown("proxy-body-size"), "not a size"),
        }
    }
    if let Some((line, text)) = annotations.text("upstream-vhost") {
        match grammar::host(text).filter(|host| !host.starts_with('*')) {
            Some(host) => {
                if let Ok(edit) = FieldEdit::new(Message::Request, "Host", Change::Set(host)) {
                    out.edit(GuardScope::Routes(ids.to_vec()), edit, line, &annotations.shown("upstream-vhost"));
                }
            }
            None => out.notes(ids).unsupported(line, &annotations.shown("upstream-vhost"), "not a host"),
        }
    }
    let shown = annotations.shown("configuration-snippet");
    if let Some(edits) =
        annotations.peek("configuration-snippet").and_then(nginx::of_snippet).filter(|_| !ids.is_empty())
        && let Some((line, _)) = annotations.text("configuration-snippet")
    {
        for edit in edits {
            out.edit(GuardScope::Routes(ids.to_vec()), edit, line, &shown);
        }
    }
}

/// Returns the limits of each client.
pub(super) fn of_clients(annotations: &Annotations<'_>, notes: &mut Table) -> PartLimits {
    let mut part = PartLimits::default();
    let mut number = |key: &str| {
        let (line, text) = annotations.text(key)?;
        let shown = annotations.shown(key);
        match text.parse::<u64>() {
            Ok(value) if value > 0 => Some(Given { value, line, text: shown }),
            _ => {
                notes.unsupported(line, &shown, "not a limit");
                None
            }
        }
    };
    let (second, minute) = (number("limit-rps"), number("limit-rpm"));
    part.connections = number("limit-connections");
    // ingress-nginx's default.
    let times = number("limit-burst-multiplier").map_or(5, |given| given.value);
    let rate = second.map(|given| (given, 1)).or(minute.map(|given| (given, 60)));
    part.rate = rate.map(|(Given { value, line, text }, seconds)| {
        let (period, burst) = (Duration::from_secs(seconds), Some(value.saturating_mul(times)));
        Given { value: Rate { requests: value, period, burst }, line, text }
    });
    part
}

/// Converts what concerns a pool.
pub(super) fn of_pool(annotations: &Annotations<'_>, pool: &mut Pool) {
    let time =
        |key: &str| annotations.text(key).map(|(line, text)| (line, units::seconds(text), annotations.shown(key)));
    if let Some((line, time, shown)) = time("proxy-connect-timeout") {
        pool.connect_timeout(time, line, &shown);
    }
    if let Some((line, time, shown)) = time("proxy-read-timeout") {
        pool.response_timeout(time, line, &shown);
        if let Some(time) = time.filter(|time| WAIT.contains(time)) {
            // ingress-nginx ended idle WebSockets after this time, too.
            pool.timeouts.set("stream_idle", Value::duration(time));
        }
    }
    if let Some((line, _, shown)) = time("proxy-send-timeout") {
        pool.timeouts.unneeded(line, &shown, "`idle` limits both directions");
    }
    if let Some((line, text)) = annotations.text("load-balance") {
        match text {
            "round_robin" => pool.balance(&Balance::RoundRobin),
            "ewma" => pool.balance(&Balance::LeastRequests),
            _ => pool.main.unsupported(line, &annotations.shown("load-balance"), NONE),
        }
    }
    if let Some((line, text)) = annotations.text("upstream-hash-by") {
        match hash_by(text) {
            Some(by) => pool.balance(&Balance::Hash(by)),
            None => {
                let why = "Linchpin can hash only by address, path, field, cookie or query parameter";
                pool.main.unsupported(line, &annotations.shown("upstream-hash-by"), why);
            }
        }
    }
    if let Some((line, text)) = annotations.text("proxy-next-upstream") {
        nginx::next_upstream(text, line, &annotations.shown("proxy-next-upstream"), pool);
    }
    if let Some((line, text)) = annotations.text("proxy-next-upstream-tries") {
        match text.parse::<u64>() {
            Ok(0) => pool.retry.unneeded(line, &annotations.shown("proxy-next-upstream-tries"), "0 is no limit"),
            Ok(count) => {
                pool.retry.share(
                    "attempts",
                    Value::number(count.clamp(1, 16)),
                    line,
                    &annotations.shown("proxy-next-upstream-tries"),
                );
            }
            Err(_) => pool.retry.unsupported(line, &annotations.shown("proxy-next-upstream-tries"), "not a number"),
        }
    }
    protocol(annotations, pool);
}

fn protocol(annotations: &Annotations<'_>, pool: &mut Pool) {
    let Some((line, text)) = annotations.text("backend-protocol") else { return };
    let (http2, has_tls) = match text.to_ascii_uppercase().as_str() {
        "HTTP" | "AUTO_HTTP" => (false, false),
        "HTTPS" => (false, true),
        "GRPC" => (true, false),
        "GRPCS" => (true, true),
        _ => {
            let why = "Linchpin speaks HTTP with backends";
            return pool.upstream.unsupported(line, &annotations.shown("backend-protocol"), why);
        }
    };
    let verify = annotations.text("proxy-ssl-verify").is_some_and(|(_, text)| text == "on");
    let server_name = annotations.text("proxy-ssl-name").map(|(_, name)| name.to_owned());
    let secret = annotations.text("proxy-ssl-secret").map(|(_, name)| name.rsplit('/').next().unwrap_or_default());
    let ca = secret.filter(|name| grammar::is_kubernetes_name(name) && verify).map(|name| format!("tls/{name}/ca.crt"));
    let tls = has_tls.then(|| BackendTls {
        ca,
        server_name: server_name.filter(|_| verify),
        verify,
        ..BackendTls::default()
    });
    pool.uses_protocol(&BackendProtocol { http2, proxy: None, tls });
}

fn hash_by(text: &str) -> Option<By> {
    let name = |prefix: &str| text.strip_prefix(prefix);
    Some(match text {
        "$remote_addr" | "$binary_remote_addr" => By::Address,
        "$request_uri" | "$uri" => By::Path,
        _ if name("$http_").is_some() => By::Header(grammar::field(&name("$http_")?.replace('_', "-"))?),
        _ if name("$cookie_").is_some() => By::Cookie(grammar::token(name("$cookie_")?)?),
        _ if name("$arg_").is_some() => By::Query(grammar::parameter(name("$arg_")?)?),
        _ => return None,
    })
}
