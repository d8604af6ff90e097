//! Owns: the rules that apply between sections.
//! Invariant: a draft without errors can run: every name in it refers to exactly one thing.
//! Must not know: how the file is written; the disk.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

use super::access;
use super::file::Draft;
use super::pools::PoolDraft;
use super::reach;
use super::reader::Spanned;
use super::report::Notes;
use super::routes::{self, RouteDraft};
use super::values::{known, shown};
use crate::admin;
use crate::affinity::seal::short_id;
use crate::affinity::{Carrier, Cause};
use crate::balance::BalancerKind;
use crate::health::Probe;
use crate::net::{Address, local_addresses};

/// Notes all sections that do not fit together.
pub(super) fn check(draft: &Draft, notes: &Notes<'_>) {
    let file = notes.whole_file();
    if draft.listeners.is_empty() {
        let remedy = "write [[listeners]] with address = \"127.0.0.1:8080\"";
        notes.missing(&file, "the file has no [[listeners]]: no client can connect", remedy);
    }
    if draft.pools.is_empty() {
        let remedy = "write [[pools]] with a `name` and [[pools.backends]]";
        notes.missing(&file, "the file has no [[pools]]: requests have no backend to go to", remedy);
    }
    let listeners = draft.listeners.iter();
    unique("listener named", listeners.clone().filter_map(|each| each.name.as_ref()), notes);
    overlaps(listeners.filter_map(|each| each.address.as_ref()), notes);
    unique("pool named", draft.pools.iter().filter_map(|each| each.name.as_ref()), notes);
    keys(draft, notes);
    let interfaces = local_addresses::interfaces();
    admin_address(draft, notes);
    handover_path(draft, notes);
    for pool in &draft.pools {
        backends(pool, notes);
        backends_are_not_local(pool, draft, &interfaces, notes);
        persistence(pool, notes);
        copies(pool, notes);
        queue(pool, notes);
        probes(pool, notes);
        rebalance(pool, notes);
        if pool.balance == BalancerKind::LeastSessions && !pool.pins() && notes.is_whole() {
            let problem =
                "balance = \"least_sessions\" chooses at random: persistence of type = \"none\" has no sessions";
            notes.warn(&pool.balance_at, problem, "write \"least_requests\", or another type of persistence");
        }
        if pool.pins() && pool.health.probe == Probe::None && notes.is_whole() {
            let problem = "clients are pinned, but there are no health checks: Linchpin notices a dead backend only \
                           when requests fail";
            notes.warn(&pool.span, problem, "write [pools.health] with path = \"/\" or with type = \"tcp\"");
        }
    }
    routes(draft, notes);
    cookies(draft, notes);
    encryption(draft, notes);
}

/// Refuses the second of two equal values.
fn unique<'d, T>(what: &str, spots: impl Iterator<Item = &'d Spanned<T>>, notes: &Notes<'_>)
where
    T: Hash + Eq + ToString + 'd,
{
    let mut first: HashMap<&T, usize> = HashMap::new();
    for spot in spots {
        let line = notes.line_of(spot.span.start) + 1;
        if let Some(line) = first.get(&spot.value) {
            let problem = format!("line {line} already has a {what} {}", shown(&spot.value.to_string()));
            notes.error(&spot.span, problem, "change or remove one of the two");
        } else {
            first.insert(&spot.value, line);
        }
    }
}

/// Refuses the second of two listeners that cannot both listen. Port 0 is a new port for each.
fn overlaps<'d>(listeners: impl Iterator<Item = &'d Spanned<Address>>, notes: &Notes<'_>) {
    let mut by_port: HashMap<Option<u16>, Vec<&Spanned<Address>>> = HashMap::new();
    for listener in listeners {
        let others = by_port.entry(listener.value.tcp().map(|address| address.port())).or_default();
        let conflicts = |other: &&&Spanned<Address>| {
            let (one, other) = (&listener.value, &other.value);
            local_addresses::overlap(one, other) && !local_addresses::are_wildcards_of_both_families(one, other)
        };
        if let Some(other) = others.iter().find(conflicts) {
            let line = notes.line_of(other.span.start) + 1;
            let address = shown(&other.value.to_string());
            let problem = if listener.value == other.value {
                format!("line {line} already has a listener at {address}")
            } else {
                format!(
                    "this address overlaps with that of the listener in line {line}, {address}: only one of the \
                         two can listen"
                )
            };
            notes.error(&listener.span, problem, "change or remove one of the two");
        }
        others.push(listener);
    }
}

fn keys(draft: &Draft, notes: &Notes<'_>) {
    let ids = || draft.keys.iter().filter_map(|key| key.id.as_ref());
    unique("key with the id", ids(), notes);
    let mut short: HashMap<_, &str> = HashMap::new();
    for id in ids() {
        let other = short.entry(short_id(&id.value)).or_insert(&id.value);
        if *other != id.value {
            let problem = format!("in pins, this id has the same short form as the id {}", shown(other));
            notes.error(&id.span, problem, "choose another id");
        }
    }
    if draft.keys.is_empty() && notes.is_whole() && draft.seals() {
        let problem = "no [[keys]]: Linchpin makes a random key at each start, so a restart ends all pins, and \
                       other Linchpins cannot read them";
        let remedy =
            "run `linchpin keygen -o linchpin.key`, then write [[keys]] with id = \"1\" and file = \"linchpin.key\"";
        notes.warn(&notes.whole_file(), problem, remedy);
    }
}

fn admin_address(draft: &Draft, notes: &Notes<'_>) {
    let Some(Spanned { value: admin::Settings { address: admin, .. }, span }) = &draft.admin else { return };
    let taken = draft.listeners.iter().filter_map(|listener| listener.address.as_ref());
    for listener in taken.filter(|listener| local_addresses::overlap(admin, &listener.value)) {
        let line = notes.line_of(listener.span.start) + 1;
        let problem = format!("[admin] has the address of the listener in line {line}");
        notes.error(span, problem, "choose another address");
    }
}

/// Refuses a socket for the next process where something else listens, or a backend does.
fn handover_path(draft: &Draft, notes: &Notes<'_>) {
    let Some(path) = &draft.server.handover else { return };
    let listeners = draft.listeners.iter().filter_map(|listener| listener.address.as_ref());
    let listeners = listeners.map(|address| ("the listener", &address.value, &address.span));
    let admin = draft.admin.as_ref().map(|admin| ("[admin]", &admin.value.address, &admin.span));
    let backends = draft.pools.iter().flat_map(|pool| &pool.backends).filter_map(|backend| backend.address.as_ref());
    let backends = backends.map(|address| ("the backend", &address.value, &address.span));
    for (what, _, span) in listeners.chain(admin).chain(backends).filter(|(_, other, _)| other.unix() == Some(path)) {
        let line = notes.line_of(span.start) + 1;
        let problem = format!("`handover` is the address of {what} in line {line}");
        notes.error(&draft.handover_at, problem, "choose another path, such as \"/run/linchpin/handover.sock\"");
    }
}

fn backends(pool: &PoolDraft, notes: &Notes<'_>) {
    if pool.backends.is_empty() && pool.discover.is_empty() {
        let remedy = "write [[pools.backends]] with name = \"a\" and address = \"127.0.0.1:9001\"";
        notes.missing(&pool.span, "the pool has no [[pools.backends]]", remedy);
    }
    if let ([only], true, true) = (&*pool.backends, pool.discover.is_empty(), !pool.slow_start.is_zero()) {
        let problem = "`slow_start` has no effect: the pool has one backend, which gets all clients";
        let span = only.name.as_ref().map_or(&pool.span, |name| &name.span);
        notes.warn(span, problem, "remove it, or add [[pools.backends]]");
    }
    let names = || pool.backends.iter().filter_map(|backend| backend.name.as_ref());
    unique("backend of this pool named", names(), notes);
    unique("backend of this pool at", pool.backends.iter().filter_map(|backend| backend.address.as_ref()), notes);
    let known_names: HashSet<_> = names().map(|name| &name.value).collect();
    for backend in &pool.backends {
        let own = backend.name.as_ref().map(|name| &name.value);
        let mut seen = HashSet::new();
        for next in &backend.failover {
            if Some(&next.value) == own {
                notes.error(&next.span, "a backend cannot be its own failover", "name other backends of the pool");
            } else if !known_names.contains(&next.value) && pool.discover.is_empty() {
                let problem = format!("the pool has no backend {}", shown(&next.value));
                let others =
                    names().map(|name| name.value.as_str()).filter(|name| Some(*name) != own.map(String::as_str));
                notes.missing(&next.span, problem, known("backends", &next.value, others));
            } else if !seen.insert(&next.value) {
                notes.error(&next.span, format!("{} is in this list twice", shown(&next.value)), "remove one");
            }
        }
    }
    if !pool.backends.is_empty()
        && pool.discover.is_empty()
        && pool.backends.iter().all(|backend| backend.weight == Some(0))
    {
        let problem = "every backend has weight 0: the pool accepts no new clients";
        notes.warn(&pool.span, problem, "give at least one backend a weight of 1 or more");
    }
}

/// Checks that persistence and backends fit together.
fn persistence(pool: &PoolDraft, notes: &Notes<'_>) {
    pool.warn_of_waits(&pool.waits_at, pool.timeouts.total, notes);
    let routes = || pool.backends.iter().filter_map(|backend| backend.route.as_ref());
    unique("backend of this pool with the route", routes(), notes);
    if let Carrier::Route(route) = &pool.persistence.carrier {
        let is_split = |name: &&Spanned<String>| name.value.contains(route.separator);
        let remedy = "choose a `route` without it, or another `separator`";
        for name in routes().filter(is_split) {
            let problem = format!("{} contains the `separator` of [pools.persistence.route]", shown(&name.value));
            notes.error(&name.span, problem, remedy);
        }
        let without_route = pool.backends.iter().filter(|backend| backend.route.is_none());
        for name in without_route.filter_map(|backend| backend.name.as_ref()).filter(is_split) {
            let problem = format!(
                "no session id can name the backend {}: its name contains the `separator` of \
                                   [pools.persistence.route]",
                shown(&name.value)
            );
            notes.warn(&name.span, problem, remedy);
        }
    } else {
        for route in routes() {
            let problem = "`route` has no effect: only persistence of type = \"route\" uses it";
            notes.warn(&route.span, problem, "remove it");
        }
    }
    let found = pool.discover.iter().flatten();
    let has_limit = pool.backends.iter().any(|backend| backend.max_requests.is_some())
        || found.into_iter().any(|source| source.max_requests.is_some());
    if pool.persistence.on.is_set(Cause::Full) && !has_limit && notes.is_whole() {
        let problem = "`on.full` has no effect: no backend of the pool has `max_requests`, so none is ever full";
        notes.warn(&pool.span, problem, "add `max_requests` to [[pools.backends]], or remove `on.full`");
    }
}

/// Checks that the rebalance and the other sections fit together.
fn rebalance(pool: &PoolDraft, notes: &Notes<'_>) {
    let Some(rebalance) = &pool.rebalance else { return };
    if !pool.pins() && notes.is_whole() {
        let problem = "[pools.rebalance] has no effect: persistence of type = \"none\" has no sessions";
        notes.warn(&pool.rebalance_at, problem, "remove it, or write another type of persistence");
    }
    if let Some(idle) = pool.persistence.idle_timeout.filter(|idle| rebalance.idle >= *idle) {
        let idle = humantime::format_duration(idle);
        let problem =
            format!("`idle` of [pools.rebalance] is no shorter than `idle_timeout`: sessions end after {idle}");
        notes.warn(&pool.rebalance_at, problem, "shorten it, or make `idle_timeout` longer");
    }
    if pool.copies.is_none() && notes.is_whole() {
        let problem = "sessions that [pools.rebalance] moves lose their state, unless the application shares it";
        notes.warn(&pool.rebalance_at, problem, "write [pools.copies], or check that the servers share their sessions");
    }
}

/// Checks that the queue and the other sections fit together.
fn queue(pool: &PoolDraft, notes: &Notes<'_>) {
    let Some(queue) = &pool.queue else { return };
    let has_limit = pool
        .backends
        .iter()
        .any(|backend| backend.max_requests.is_some() || backend.max_sessions.is_some())
        || pool.discover.iter().flatten().any(|source| source.max_requests.is_some() || source.max_sessions.is_some());
    if !has_limit && notes.is_whole() {
        let problem = "[pools.queue] has no effect: no backend of the pool has `max_requests` or `max_sessions`, so none \
                       is ever full";
        notes.warn(&pool.queue_at, problem, "add `max_requests` to [[pools.backends]], or remove the queue");
    }
    if queue.timeout >= pool.timeouts.total {
        let total = humantime::format_duration(pool.timeouts.total);
        let problem = format!("`timeout` of [pools.queue] never applies: `total` ends the request after {total}");
        notes.warn(&pool.queue_at, problem, "shorten it, or make `total` longer");
    }
}

/// Checks that session copies and the other sections fit together.
fn copies(pool: &PoolDraft, notes: &Notes<'_>) {
    let Some(copies) = &pool.copies else { return };
    if pool.persistence.carrier == Carrier::None && notes.is_whole() {
        let problem = "session copies need pinned clients, and persistence of type = \"none\" pins nobody";
        notes.error(&pool.copies_at, problem, "remove [pools.copies], or write type = \"cookie\"");
    }
    if copies.handover >= pool.timeouts.total {
        let total = humantime::format_duration(pool.timeouts.total);
        let problem = format!("`handover` never applies: `total` ends the request after {total}");
        notes.warn(&pool.copies_at, problem, "shorten it, or make `total` longer");
    }
}

/// Warns of backends that have no port to probe.
fn probes(pool: &PoolDraft, notes: &Notes<'_>) {
    let addresses = pool.backends.iter().filter_map(|backend| backend.address.as_ref());
    if pool.health.port.is_some() && addresses.into_iter().any(|address| address.value.unix().is_some()) {
        let problem = "`port` has no effect for backends at Unix sockets, which are probed there";
        notes.warn(&pool.health_port_at, problem, "remove it, or write IP addresses");
    }
}

/// Refuses backends at an address of this process: a listener or the admin listener.
fn backends_are_not_local(pool: &PoolDraft, draft: &Draft, interfaces: &HashSet<IpAddr>, notes: &Notes<'_>) {
    for address in pool.backends.iter().filter_map(|backend| backend.address.as_ref()) {
        let leads_to = |listening: &Address| local_addresses::reaches(&address.value, listening, interfaces);
        let listeners = draft.listeners.iter().filter_map(|listener| listener.address.as_ref());
        for listener in listeners.filter(|listener| leads_to(&listener.value)) {
            let line = notes.line_of(listener.span.start) + 1;
            let problem = format!("this is the address of the listener in line {line}: requests would loop");
            notes.error(&address.span, problem, "write the backend's own address");
        }
        if let Some(admin) = draft.admin.as_ref().filter(|admin| leads_to(&admin.value.address)) {
            let line = notes.line_of(admin.span.start) + 1;
            let problem = format!(
                "this is the address of [admin] in line {line}: clients of this pool could use the admin \
                         API"
            );
            notes.error(&address.span, problem, "write the backend's own address");
        }
    }
}

fn routes(draft: &Draft, notes: &Notes<'_>) {
    let names = || draft.pools.iter().filter_map(|pool| pool.name.as_ref()).map(|name| name.value.as_str());
    if let (true, Some(second)) = (draft.routes.is_empty(), draft.pools.get(1)) {
        let problem = format!("there are {} pools and no [[routes]] to choose between them", draft.pools.len());
        notes.missing(
            &second.span,
            problem,
            "write [[routes]] for each pool, with `pool` and with `hosts` or \
                                              `path_prefix`",
        );
    }
    let mut first: HashMap<(&str, Option<bool>, &str, &str), usize> = HashMap::new();
    let named = draft.pools.iter().rev().filter_map(|pool| Some((pool.name.as_ref()?.value.as_str(), pool)));
    // If two pools have the same name, which is an error, take the first.
    let pools: HashMap<_, _> = named.collect();
    for route in &draft.routes {
        let of_name = route.pool.as_ref().map(|pool| pools.get(pool.value.as_str()));
        if let Some(Some(pool)) = of_name {
            route.check_with_pool(pool, notes);
        }
        if let (Some(pool), Some(None)) = (&route.pool, of_name) {
            let problem = format!("there is no pool {}", shown(&pool.value));
            notes.missing(&pool.span, problem, known("pools", &pool.value, names()));
        }
        for (host, span) in route.each_host() {
            let line = notes.line_of(span.start) + 1;
            let (is_secure, prefix) = (route.settings.is_secure, route.settings.path_prefix.as_str());
            let keys = route.each_listener().map(|listener| (listener, is_secure, host, prefix));
            let mut other = None;
            for key in keys {
                match first.entry(key) {
                    Entry::Occupied(taken) => other = other.or(Some(*taken.get())),
                    Entry::Vacant(free) => drop(free.insert(line)),
                }
            }
            if let Some(line) = other {
                let host = if host.is_empty() { "every host".into() } else { shown(host) };
                let problem = format!("line {line} already has a route for {host} and {}", shown(prefix));
                notes.error(span, problem, "change or remove one of the two");
            }
        }
    }
    routes::redirect_loops(&draft.routes, notes);
    reach::check(draft, notes);
    access::check(draft, notes);
    let reached: HashSet<_> =
        draft.routes.iter().filter_map(|route| route.pool.as_ref()).map(|pool| &pool.value).collect();
    for name in draft.pools.iter().filter_map(|pool| pool.name.as_ref()) {
        if !draft.routes.is_empty() && notes.is_whole() && !reached.contains(&name.value) {
            let problem = format!("no route leads to the pool {}", shown(&name.value));
            notes.warn(&name.span, problem, "add [[routes]] with this `pool`, or remove the pool");
        }
    }
}

/// Checks redirects to https, and the host names for TLS to backends.
fn encryption(draft: &Draft, notes: &Notes<'_>) {
    if notes.is_whole() && !draft.listeners.iter().any(|listener| listener.tls.is_some()) {
        for port in draft.listeners.iter().filter_map(|listener| listener.redirect_https.as_ref()) {
            let problem = "`redirect_https` sends clients to https, but no listener in this file speaks TLS";
            notes.warn(
                &port.span,
                problem,
                "add [[listeners]] with [listeners.tls], unless something else serves https on that port",
            );
        }
    }
    if draft.listeners.iter().all(|listener| listener.tls.is_some()) {
        let drafts = draft.listeners.iter().filter_map(|listener| listener.tls.as_ref()?.acme.as_ref());
        for span in drafts.filter_map(|acme| acme.http01.as_ref()) {
            let problem = "\"http-01\" arrives without TLS on port 80, and every listener in this file speaks TLS";
            let remedy =
                "add [[listeners]] for port 80, which may have `redirect_https`, or write \"tls-alpn-01\" alone";
            notes.warn(span, problem, remedy);
        }
    }
    let nameless =
        |pool: &&PoolDraft| pool.upstream.tls.as_ref().is_some_and(|tls| tls.verify && tls.server_name.is_none());
    for pool in draft.pools.iter().filter(nameless) {
        let addresses = pool.backends.iter().filter_map(|backend| backend.address.as_ref());
        for address in addresses.filter(|address| address.value.unix().is_some()) {
            let problem = "a Unix socket has no host name to verify in a certificate";
            notes.error(&address.span, problem, "write `server_name` in [pools.upstream.tls]");
        }
    }
}

/// Refuses pools whose cookies a client cannot tell apart: the response of one pool would overwrite the pin of the
/// other.
fn cookies(draft: &Draft, notes: &Notes<'_>) {
    let cookies: Vec<_> = draft.pools.iter().filter_map(|pool| Some((pool, pool.cookie()?))).collect();
    for (index, (pool, cookie)) in cookies.iter().enumerate() {
        let same = cookies.iter().take(index).find(|(other_pool, other)| {
            let is_same = (&cookie.name, &cookie.path, &cookie.domain) == (&other.name, &other.path, &other.domain);
            is_same && (cookie.domain.is_some() || share_a_host(draft, pool, other_pool))
        });
        if let Some(other) = same.and_then(|(other, _)| other.name.as_ref()) {
            let problem = format!(
                "the pool {} also has a routing cookie named {}: each would overwrite the other's pins",
                shown(&other.value),
                shown(&cookie.name)
            );
            notes.error(&pool.cookie_at, problem, "choose another name, path or domain");
        }
    }
}

fn share_a_host(draft: &Draft, one: &PoolDraft, other: &PoolDraft) -> bool {
    let routes_to = |pool: &PoolDraft| -> Vec<&RouteDraft> {
        let leads = |route: &&RouteDraft| {
            route.pool.as_ref().map(|spot| &spot.value) == pool.name.as_ref().map(|spot| &spot.value)
        };
        draft.routes.iter().filter(leads).collect()
    };
    let hosts = |pool| routes_to(pool).into_iter().flat_map(RouteDraft::each_host).map(|(host, _)| host).collect();
    let (one, other): (Vec<&str>, Vec<&str>) = (hosts(one), hosts(other));
    one.iter().any(|one| other.iter().any(|other| reach::covers(one, other) || reach::covers(other, one)))
}

impl Draft {
    /// Whether any pool seals its pins.
    fn seals(&self) -> bool {
        let is_sealed = |pool: &PoolDraft| matches!(pool.persistence.carrier, Carrier::Cookie(_) | Carrier::Header(_));
        self.pools.iter().any(is_sealed)
    }
}

impl PoolDraft {
    fn cookie(&self) -> Option<&crate::affinity::cookie::Settings> {
        match &self.persistence.carrier {
            Carrier::Cookie(cookie) => Some(cookie),
            Carrier::None | Carrier::Header(_) | Carrier::Route(_) | Carrier::Learned(_) => None,
        }
    }

    fn pins(&self) -> bool {
        !matches!(self.persistence.carrier, Carrier::None)
    }
}
