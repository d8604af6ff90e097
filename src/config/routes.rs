//! Owns: `[[routes]]` and the sections below it.
//! Invariant: defaults are those of `proxy`; no route changes fields that frame a message or say who the client is.
//! Must not know: listeners, backends.

use std::collections::HashMap;
use std::ops::Range;

use http::header::{HeaderName, HeaderValue};
use http::{StatusCode, Uri};
use toml::de::DeValue;

use super::names::{authority, edited_field, host_pattern, name, network, path_prefix, plain_path, upgrade};
use super::pools::{PoolDraft, warn_of_total};
use super::reader::{Spanned, Table};
use super::report::Notes;
use super::users;
use super::values::{
    InvalidValue, MILLISECOND, Value, YEAR, body_bytes, duration, flag, found, must_be, plain_text, shown, text, whole,
    word,
};
use crate::affinity::{Carrier, learned};
use crate::proxy::Timeouts;
use crate::proxy::access::{self, AccessRules};
use crate::proxy::fields::Fields;
use crate::proxy::host::without_port;
use crate::proxy::redirect::{Redirect, RedirectPath};
use crate::proxy::route::{RouteAction, Routes, Settings, TimeoutOverrides};

/// One `[[routes]]`. A `None` has an error, which is noted, or is not in the file.
pub(super) struct RouteDraft {
    pub(super) span: Range<usize>,
    /// Whether the file has `hosts`. All of them are in `hosts`, except those with an error.
    pub(super) has_hosts: bool,
    pub(super) hosts: Vec<Spanned<String>>,
    /// The names of its listeners; empty for all.
    pub(super) listeners: Vec<Spanned<String>>,
    pub(super) pool: Option<Spanned<String>>,
    redirect: Option<Spanned<Redirect>>,
    persistence: Option<Spanned<bool>>,
    timeouts_at: Range<usize>,
    response_at: Range<usize>,
    /// All other settings, without the action.
    pub(super) settings: Settings,
}

const POOL_ONLY: [&str; 9] = [
    "pool",
    "persistence",
    "stream",
    "upgrades",
    "timeouts",
    "body_bytes",
    "strip_prefix",
    "add_prefix",
    "request_headers",
];

pub(super) fn route(table: &Table<'_>) -> RouteDraft {
    let default = Settings::all_to("");
    let scheme = word([("http", false), ("https", true)]);
    let persistence = table.spot("persistence", flag);
    let redirect = table.section("redirect", redirect);
    let draft = RouteDraft {
        span: table.span().clone(),
        has_hosts: table.has("hosts"),
        hosts: table.filled_list("hosts", host_pattern).unwrap_or_default(),
        listeners: table.filled_list("listeners", plain_text).unwrap_or_default(),
        pool: match table.has("redirect") {
            true => table.spot("pool", name),
            false => table.required("pool", "\"app\"", name),
        },
        timeouts_at: table.at("timeouts"),
        response_at: table.at("response_headers"),
        settings: Settings {
            is_secure: table.get("scheme", scheme),
            path_prefix: table.get("path_prefix", path_prefix).unwrap_or(default.path_prefix),
            persistence: persistence.as_ref().map_or(default.persistence, |spot| spot.value),
            is_stream: table.get("stream", flag).unwrap_or(default.is_stream),
            upgrades: table
                .list("upgrades", upgrade)
                .map_or(default.upgrades, |list| list.into_iter().map(|spot| spot.value).collect()),
            timeouts: table.section("timeouts", timeouts),
            body_bytes: table.get("body_bytes", body_bytes),
            strip_prefix: table.get("strip_prefix", path_prefix),
            add_prefix: table.get("add_prefix", path_prefix),
            access: access(table),
            request_headers: table.section("request_headers", |table| fields(table, MessageKind::Request)),
            response_headers: table.section("response_headers", |table| fields(table, MessageKind::Response)),
            ..default
        },
        persistence,
        redirect,
    };
    check_keys(table, &draft.settings);
    draft
}

/// Notes keys of one route that do not fit together.
fn check_keys(table: &Table<'_>, route: &Settings) {
    let notes = table.notes();
    if table.has("redirect") {
        for key in POOL_ONLY.into_iter().filter(|key| table.has(key)) {
            match key {
                "pool" => {
                    let problem = "the route has both `pool` and `redirect`";
                    notes.error(&table.at(key), problem, "remove one of the two, or write a second route");
                }
                _ => {
                    let problem = format!(
                        "`{key}` has no effect: the route redirects and sends nothing to a \
                                           backend"
                    );
                    notes.warn(&table.at(key), problem, "remove it");
                }
            }
        }
    }
    if let Some(strip) = &route.strip_prefix {
        let behind = route.path_prefix.strip_prefix(strip.as_str());
        if strip == "/" {
            notes.warn(&table.at("strip_prefix"), "`strip_prefix` = \"/\" strips nothing", "remove it");
        } else if !behind.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            let prefix = shown(&route.path_prefix);
            let problem = format!("`path_prefix`, which is {prefix}, does not start with `strip_prefix`");
            let remedy = match route.path_prefix.as_str() {
                "/" => format!("write path_prefix = {}", shown(strip)),
                _ => format!("write strip_prefix = {prefix}"),
            };
            notes.error(&table.at("strip_prefix"), problem, remedy);
        }
    }
    if route.add_prefix.as_deref() == Some("/") {
        notes.warn(&table.at("add_prefix"), "`add_prefix` = \"/\" adds nothing", "remove it");
    }
}

/// Reads who may use the route.
fn access(table: &Table<'_>) -> access::Settings {
    let list = |key: &'static str| {
        let networks = table.filled_list(key, network).unwrap_or_default();
        networks.into_iter().map(|spot| spot.value).collect()
    };
    let basic_auth =
        table.section("basic_auth", |table| table.is_present().then(|| users::basic_auth(table))).flatten();
    let settings = access::Settings { allow: list("allow"), deny: list("deny"), basic_auth };
    if AccessRules::new(&settings).is_some_and(|rules| rules.refuse_everybody()) {
        let problem = "`deny` has every address that `allow` has: the route refuses all clients";
        table.notes().warn(&table.at("deny"), problem, "`deny` always wins: take addresses out of it");
    }
    settings
}

fn redirect(table: &Table<'_>) -> Option<Spanned<Redirect>> {
    let scheme = table.get("scheme", word([("http", "http"), ("https", "https")]));
    let host = table.get("host", authority);
    let whole_path = table.get("path", plain_path);
    let prefix = table.get("prefix", path_prefix);
    let status = table.get("status", redirect_status).unwrap_or(StatusCode::FOUND);
    if !table.is_present() {
        return None;
    }
    let notes = table.notes();
    if table.has("path") && table.has("prefix") {
        let problem = "a redirect cannot have both `path` and `prefix`";
        notes.error(&table.at("prefix"), problem, "remove one of the two");
    }
    if ["scheme", "host", "path", "prefix"].into_iter().all(|key| !table.has(key)) {
        let problem = "the redirect changes nothing: it leads to the same URL";
        notes.missing(table.span(), problem, "write a `scheme`, a `host`, a `path` or a `prefix`");
    }
    let path = whole_path
        .map(RedirectPath::ReplaceFull)
        .or(prefix.map(RedirectPath::ReplacePrefix))
        .unwrap_or(RedirectPath::Keep);
    Some(Spanned { value: Redirect { scheme, host, port: None, path, status }, span: table.span().clone() })
}

fn redirect_status(value: &DeValue<'_>) -> Value<StatusCode> {
    const WHAT: &str = "301, 302, 303, 307 or 308";
    let code = whole::<u16>(100..=599)(value).ok().filter(|code| matches!(code, 301..=303 | 307 | 308));
    let status = code.and_then(|code| StatusCode::from_u16(code).ok());
    status.ok_or_else(|| {
        must_be(
            WHAT,
            found(value),
            "write 308 (permanent) or 307 (temporary), which keep the \
                                                      method",
        )
    })
}

fn timeouts(table: &Table<'_>) -> TimeoutOverrides {
    let wait = || duration(MILLISECOND..=YEAR);
    TimeoutOverrides {
        connect: table.get("connect", wait()),
        response: table.get("response", wait()),
        idle: table.get("idle", wait()),
        total: table.get("total", wait()),
        stream_idle: table.get("stream_idle", wait()),
        tunnel_lifetime: table.get("tunnel_lifetime", wait()),
    }
}

/// The kind of message that has the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessageKind {
    Request,
    Response,
}

fn fields(table: &Table<'_>, kind: MessageKind) -> Fields {
    let is_request = kind == MessageKind::Request;
    let named = |what| move |text: &str| edited_field(text, is_request, what);
    let mut set = table.entries("set", named("set"), field_value);
    let add = table.entries("add", named("add"), field_value);
    let remove = table.list("remove", |value| edited_field(text(value)?, is_request, "remove")).unwrap_or_default();
    let names = set.iter().chain(&add).map(|(name, _)| name).chain(&remove);
    let mut first: HashMap<HeaderName, ()> = HashMap::new();
    for name in names {
        if first.insert(name.value.clone(), ()).is_some() {
            let problem = format!("the field {} appears twice", shown(name.value.as_str()));
            table.notes().error(
                &name.span,
                problem,
                "name it once: `set` replaces existing values, `add` keeps \
                                                      them",
            );
        }
    }
    // Host is the only field that must be present and valid.
    for (_, value) in set.iter_mut().filter(|(name, _)| name.value == http::header::HOST) {
        let text = value.value.to_str().unwrap_or_default();
        if !super::names::is_authority(text) {
            let problem = format!("`Host` must be a host, or host:port, not {}", shown(text));
            table.notes().error(&value.span, problem, "write for example \"example.com\"");
        }
    }
    let pairs = |list: Vec<(Spanned<HeaderName>, Spanned<HeaderValue>)>| {
        list.into_iter().map(|(name, value)| (name.value, value.value)).collect()
    };
    Fields { set: pairs(set), add: pairs(add), remove: remove.into_iter().map(|name| name.value).collect() }
}

/// Reads the value of a field: no control characters, no spaces at either end. It may be a token, so no message shows it.
fn field_value(value: &DeValue<'_>) -> Value<HeaderValue> {
    const LONGEST: usize = 4096;
    let text = value.as_str().ok_or_else(|| must_be("a string", "a bare value", "put it in quotes"))?;
    if text.len() > LONGEST {
        let found = format!("one of {}", text.len());
        return Err(must_be(&format!("a value of at most {LONGEST} bytes"), found, "shorten it"));
    }
    let is_plain = text.trim() == text && text.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    let value = is_plain.then(|| HeaderValue::from_str(text).ok()).flatten();
    value.ok_or_else(|| InvalidValue {
        problem: "has a character that is not visible ASCII, or a space at an end".into(),
        remedy: "encode the other characters".into(),
    })
}

impl RouteDraft {
    /// Returns the name of each of its listeners; an empty one for all.
    pub(super) fn each_listener(&self) -> impl Iterator<Item = &str> {
        let all = self.listeners.is_empty().then_some("");
        let names = self.listeners.iter().map(|name| name.value.as_str());
        let is_new = |(at, name): &(usize, &str)| self.listeners.iter().take(*at).all(|known| known.value != *name);
        names.enumerate().filter(is_new).map(|(_, name)| name).chain(all)
    }

    /// Returns each host and its position; an empty host for every host.
    pub(super) fn each_host(&self) -> Vec<(&str, &Range<usize>)> {
        if self.has_hosts {
            self.hosts.iter().map(|spot| (spot.value.as_str(), &spot.span)).collect()
        } else {
            vec![("", &self.span)]
        }
    }

    /// Notes keys that do not fit to the pool.
    pub(super) fn check_with_pool(&self, pool: &PoolDraft, notes: &Notes<'_>) {
        let name = || shown(pool.name.as_ref().map_or("", |name| name.value.as_str()));
        let is_on = self.persistence.as_ref().filter(|spot| spot.value);
        if let (Some(on), Carrier::None) = (is_on, &pool.persistence.carrier) {
            let problem = format!("`persistence` cannot be true: the pool {} does not pin its clients", name());
            notes.error(
                &on.span,
                problem,
                "change the `type` in the pool's [pools.persistence], or remove \
                                            `persistence`",
            );
        }
        if let Carrier::Learned(learned::Settings { source: learned::SessionIdSource::Header(field), .. }) =
            &pool.persistence.carrier
            && self.settings.response_headers.names().any(|name| name == field)
        {
            let problem = format!(
                "the pool {} learns its sessions from the field {}, which this route changes",
                name(),
                shown(field.as_str())
            );
            notes.error(&self.response_at, problem, "remove that field from `response_headers`");
        }
        if let Some(total) = self.settings.timeouts.total {
            pool.warn_of_waits(&self.timeouts_at, total, notes);
        }
        let (own, timeouts) = (&self.settings.timeouts, self.settings.timeouts.apply_to(&pool.timeouts));
        for (key, timeout) in [("connect", own.connect), ("response", own.response)] {
            if let Some(timeout) = timeout {
                warn_of_total(key, timeout, timeouts.total, &self.timeouts_at, notes);
            }
        }
    }

    /// Returns the settings, if the route has a pool or a redirect.
    pub(super) fn plan(&self) -> Option<Settings> {
        (self.redirect.is_some() || self.pool.is_some()).then(|| self.filled_in())
    }

    fn filled_in(&self) -> Settings {
        let action = match &self.redirect {
            Some(redirect) => RouteAction::Redirect(redirect.value.clone()),
            None => RouteAction::Pool(self.pool.as_ref().map(|pool| pool.value.clone()).unwrap_or_default()),
        };
        let hosts = self.hosts.iter().map(|host| host.value.clone()).collect();
        let listeners = self.listeners.iter().map(|name| name.value.clone()).collect();
        Settings { hosts, listeners, action, ..self.settings.clone() }
    }

    /// Returns its redirect, if that stays on this Linchpin as far as the file shows. Another port may be another
    /// server, and so may another host if the route is for every host.
    fn redirects_here(&self) -> Option<&Redirect> {
        let redirect = &self.redirect.as_ref()?.value;
        let leaves = redirect.host.as_ref().is_some_and(|host| !self.has_hosts || without_port(host) != host);
        (!leaves && !redirect.is_noop()).then_some(redirect)
    }
}

/// Whether a client that follows the redirect of `first` is redirected again and again, and never reaches a pool.
fn is_redirect_loop(
    first: &RouteDraft,
    all: &[RouteDraft],
    table: &Routes,
    listener: impl Fn(&str) -> Option<usize>,
) -> bool {
    let Some(redirect) = first.redirects_here() else { return false };
    let mut is_secure = first.settings.is_secure.unwrap_or(redirect.scheme == Some("https"));
    let mut host = first.hosts.first().map_or("a.example", |host| host.value.as_str()).replace('*', "a");
    // A route without `listeners` also serves a listener that no other route names.
    let at = first.listeners.first().and_then(|name| listener(&name.value)).unwrap_or(usize::MAX);
    let Ok(mut requested) = first.settings.path_prefix.parse::<Uri>() else { return false };
    for _ in 0..=all.len() {
        let found = table.find(at, is_secure, without_port(&host), requested.path()).and_then(|at| all.get(at));
        let next = found.and_then(|draft| {
            draft
                .redirects_here()?
                .location(&host, is_secure, &requested, &draft.settings.path_prefix)?
                .parse::<Uri>()
                .ok()
        });
        let Some(next) = next else { return false };
        is_secure = next.scheme_str().map_or(is_secure, |scheme| scheme == "https");
        host = next.authority().map_or(host, |authority| authority.to_string());
        requested = next;
    }
    true
}

/// Notes redirects that loop.
pub(super) fn redirect_loops(drafts: &[RouteDraft], notes: &Notes<'_>) {
    let timeouts = Timeouts::default();
    // Each entry of the table has the index of its draft, since each finds its pool.
    let settings: Vec<_> = drafts.iter().map(RouteDraft::filled_in).collect();
    let names: Vec<_> = drafts.iter().flat_map(|draft| &draft.listeners).map(|name| name.value.as_str()).collect();
    let listener = |name: &str| names.iter().position(|known| *known == name);
    let table = Routes::new(&settings, 0, listener, |_| Some((0, &timeouts)));
    for draft in drafts.iter().filter(|draft| is_redirect_loop(draft, drafts, &table, listener)) {
        let Some(Spanned { value: redirect, span }) = &draft.redirect else { continue };
        let problem = "clients would loop: the redirect leads only to itself or to other redirects, never to a pool";
        match (redirect.scheme, &redirect.host) {
            (None, None) => notes.error(span, problem, "write a route to a pool for the path that it leads to"),
            // Another server may answer the other scheme, so this may be intended.
            (Some(scheme), None) if draft.settings.is_secure.is_none() => {
                let other = if scheme == "https" { "http" } else { "https" };
                notes.warn(span, problem, format!("write scheme = \"{other}\" in the route itself"));
            }
            _ => notes.warn(span, problem, "write a route to a pool for the URL that it leads to"),
        }
    }
}
