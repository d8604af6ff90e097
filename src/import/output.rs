//! Owns: the whole output, and the order of its parts.
//! Invariant: names and routes are unique, whatever the source has.
//! Must not know: the formats of sources.

mod edits;
mod guard;
mod head;
mod listeners;
mod overlaps;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};

use super::acme::Issuer;
use super::client_limits::ClientLimits;
use super::guard::Guard;
use super::listener::Listener;
use super::pool::Pool;
use super::route::{Destination, Redirect, Request, Route};
use super::scoped_edit::ScopedEdit;
use super::source::{Format, Imported};
use super::toml::{Table, Value};
use super::unique_names::{UniqueNames, named};

/// A Linchpin configuration under construction.
pub(super) struct Output {
    source: String,
    format: Format,
    /// Notes on the source as a whole.
    pub(super) top: Table,
    pub(super) server: Table,
    pub(super) limits: Table,
    /// Notes on client connections that belong to no listener.
    pub(super) clients: Table,
    groups: Vec<ListenerGroup>,
    listeners: Vec<Listener>,
    by_address: HashMap<String, usize>,
    /// Some listener could not be converted: none is added in its place.
    has_lost_listeners: bool,
    routes: Vec<Route>,
    guards: Vec<Guard>,
    strips: Vec<Strip>,
    to_tls: Vec<PoolRedirect>,
    edits: Vec<ScopedEdit>,
    pub(super) client_limits: ClientLimits,
    /// Notes on requests without a route.
    pub(super) unrouted: Table,
    pub(super) pools: Vec<Pool>,
    /// Notes at the end.
    pub(super) rest: Table,
    names: UniqueNames,
    says_segments: bool,
}

/// Listeners that have the same routes: a frontend, an entry point, or an address.
#[derive(Clone)]
struct ListenerGroup {
    /// The line in the source; 0 if it has none.
    line: usize,
    text: String,
    /// The name of its listeners, where routes refer to them.
    name: String,
    /// The index of each route.
    routes: HashMap<RouteKey, usize>,
    /// One of its listeners is part of another group's.
    has_joined: bool,
}

/// The scheme, path prefix and host of a route; the host is empty for all.
type RouteKey = (Option<bool>, String, String);

/// A path prefix to remove from the requests of a pool.
struct Strip {
    pool: String,
    prefix: String,
    line: usize,
    text: String,
}

/// A redirect to TLS of the requests to a pool.
struct PoolRedirect {
    pool: String,
    redirect: Redirect,
    line: usize,
    text: String,
}

impl Output {
    pub(super) fn new(source: &str, format: Format) -> Output {
        Output {
            source: source.into(),
            format,
            top: Table::default(),
            server: Table::default(),
            limits: Table::default(),
            clients: Table::default(),
            groups: Vec::new(),
            listeners: Vec::new(),
            by_address: HashMap::new(),
            has_lost_listeners: false,
            routes: Vec::new(),
            guards: Vec::new(),
            strips: Vec::new(),
            to_tls: Vec::new(),
            edits: Vec::new(),
            client_limits: ClientLimits::default(),
            unrouted: Table::default(),
            pools: Vec::new(),
            rest: Table::default(),
            names: UniqueNames::default(),
            says_segments: false,
        }
    }

    /// Returns a unique pool name, `wanted` if possible.
    pub(super) fn pool_name(&mut self, wanted: &str) -> String {
        self.names.take(&named(wanted, "pool"))
    }

    /// Adds a listener group called `name`; returns its index.
    pub(super) fn listener_group(&mut self, line: usize, text: &str, name: &str) -> usize {
        let name = named(name, "listener");
        self.groups.push(ListenerGroup { line, text: text.into(), name, routes: HashMap::new(), has_joined: false });
        self.groups.len() - 1
    }

    /// Returns the listener group that has an address.
    pub(super) fn group_at(&self, address: &str) -> Option<usize> {
        self.by_address.get(address).map(|index| self.listeners[*index].group)
    }

    /// Returns the listener at an address, which is added if it is new, with the line and text of the source.
    pub(super) fn listener(&mut self, group: usize, address: &str, line: usize, text: &str) -> &mut Listener {
        let next = self.listeners.len();
        let index = *self.by_address.entry(address.to_owned()).or_insert(next);
        if index == next {
            self.listeners.push(Listener::new(group, address, line, text));
        }
        &mut self.listeners[index]
    }

    /// Returns the listeners of a group.
    pub(super) fn listeners_of(&mut self, group: usize) -> impl Iterator<Item = &mut Listener> {
        self.listeners.iter_mut().filter(move |listener| listener.group == group)
    }

    /// Orders a certificate for a name at the listeners of a group with TLS.
    ///
    /// # Errors
    /// The reason why one of them can't have it.
    pub(super) fn order(&mut self, group: usize, issuer: &Issuer, name: &str) -> Result<(), String> {
        let all = self.listeners_of(group).filter(|listener| listener.is_secure());
        let mut done = Ok(());
        for listener in all {
            done = done.and(listener.order(issuer, name));
        }
        done
    }

    /// Notes a listener that can't be converted.
    pub(super) fn lost_listener(&mut self, line: usize, text: &str, why: impl Into<String>) {
        self.has_lost_listeners = true;
        self.clients.unsupported(line, text, why);
    }

    /// Returns whether the listeners of a group have TLS; `None` if they differ.
    pub(super) fn is_secure(&self, group: usize) -> Option<bool> {
        let mut all = self.listeners.iter().filter(|listener| listener.group == group).map(Listener::is_secure);
        let first = all.next()?;
        all.all(|other| other == first).then_some(first)
    }

    /// Adds a route at these listener groups, except for requests that already have one. Returns the routes that
    /// now lead there.
    pub(super) fn route(
        &mut self,
        groups: &[usize],
        request: &Request,
        destination: &Destination,
        line: usize,
        text: &str,
    ) -> Vec<usize> {
        let every_host = [String::new()];
        let wanted = if request.hosts.is_empty() { &every_host[..] } else { &request.hosts[..] };
        let mut ids: Vec<usize> = Vec::new();
        // Groups that need the same hosts share a route.
        let mut made: HashMap<Vec<String>, usize> = HashMap::new();
        let mut noted = HashSet::new();
        for group in groups {
            let key = |host: &String| (request.secure, request.prefix.clone(), host.clone());
            let mut free = Vec::new();
            for host in wanted {
                match self.groups[*group].routes.get(&key(host)) {
                    Some(other) if self.routes[*other].destination == *destination => ids.push(*other),
                    Some(other) => {
                        let shown = self.routes[*other].destination.shown();
                        if noted.insert(shown.clone()) {
                            self.unrouted.unsupported(line, text, format!("these requests already go to {shown}"));
                        }
                    }
                    None if !free.contains(host) => free.push(host.clone()),
                    None => {}
                }
            }
            if free.is_empty() {
                continue;
            }
            let next = self.routes.len();
            let id = match made.entry(free.clone()) {
                Entry::Occupied(made) => *made.get(),
                Entry::Vacant(place) => *place.insert(next),
            };
            self.groups[*group].routes.extend(free.iter().map(|host| (key(host), id)));
            if id < next {
                self.routes[id].groups.push(*group);
                continue;
            }
            let hosts = if request.hosts.is_empty() { Vec::new() } else { free };
            let mut route = Route::new(Request { hosts, ..request.clone() }, destination.clone(), vec![*group]);
            let prefix = &request.prefix;
            if prefix != "/" && !std::mem::replace(&mut self.says_segments, true) {
                route
                    .table
                    .comment(format!("path_prefix matches whole segments: {prefix} and {prefix}/x, but not {prefix}x"));
            }
            self.routes.push(route);
            ids.push(id);
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Returns where requests for exactly this host and path go.
    pub(super) fn destination_of(&self, group: usize, request: &Request) -> Option<Destination> {
        let host = request.hosts.first().cloned().unwrap_or_default();
        let id = self.groups.get(group)?.routes.get(&(request.secure, request.prefix.clone(), host))?;
        self.routes.get(*id).map(|route| route.destination.clone())
    }

    /// Returns the table for notes on routes: that of the first one.
    pub(super) fn notes(&mut self, ids: &[usize]) -> &mut Table {
        match ids.first().and_then(|id| self.routes.get_mut(*id)) {
            Some(route) => &mut route.table,
            None => &mut self.unrouted,
        }
    }

    /// Returns whether some route at a listener group leads to a pool.
    pub(super) fn has_pool_routes(&self, group: usize) -> bool {
        self.routes.iter().any(|route| route.pool().is_some() && route.groups.contains(&group))
    }

    /// Returns whether a route redirects.
    pub(super) fn is_redirect(&self, id: usize) -> bool {
        self.routes.get(id).is_some_and(|route| route.pool().is_none())
    }

    /// Sets a key of these routes.
    pub(super) fn set_on(&mut self, ids: &[usize], key: &'static str, value: &Value) {
        for id in ids {
            if let Some(route) = self.routes.get_mut(*id) {
                route.table.set(key, value.clone());
            }
        }
    }

    /// Adds an access restriction without an equivalent.
    pub(super) fn guard(&mut self, guard: Guard) {
        self.guards.push(guard);
    }

    /// Redirects the requests to a pool that come without TLS.
    pub(super) fn redirect_pool(&mut self, pool: &str, redirect: Redirect, line: usize, text: &str) {
        self.to_tls.push(PoolRedirect { pool: pool.into(), redirect, line, text: text.into() });
    }

    /// Removes a path prefix from the requests of a pool.
    pub(super) fn strip(&mut self, pool: &str, prefix: &str, line: usize, text: &str) {
        self.strips.push(Strip { pool: pool.into(), prefix: prefix.into(), line, text: text.into() });
    }

    /// Completes the configuration and writes it.
    pub(super) fn render(mut self) -> Imported {
        let unreached = self.complete();
        let mut text = String::new();
        let guards: BTreeSet<usize> = self.tables().flat_map(Table::guard_lines).collect();
        let guards: Vec<usize> = guards.into_iter().collect();
        self.head(&guards, &mut text);
        self.top.write("", false, &mut text);
        self.server.write("[server]", false, &mut text);
        self.limits.write("[server.limits]", false, &mut text);
        for listener in &self.listeners {
            listener.write(&mut text);
        }
        self.clients.write("", false, &mut text);
        for route in &self.routes {
            route.write(&mut text);
        }
        self.unrouted.write("", false, &mut text);
        for pool in &self.pools {
            pool.write(unreached.contains(pool.name()), &mut text);
        }
        self.rest.write("", false, &mut text);
        let lost: BTreeSet<usize> = self.tables().flat_map(Table::unsupported_lines).collect();
        let (may_serve, lost_access_control) = (self.may_serve(&unreached), self.tables().any(Table::has_restriction));
        Imported { text, unsupported: lost.len(), guards, lost_access_control, may_serve }
    }

    /// Completes what depends on the whole; returns the pools that no request reaches.
    fn complete(&mut self) -> HashSet<String> {
        std::mem::take(&mut self.client_limits).finish(&mut self.limits);
        self.strip_paths();
        self.redirect_pools();
        self.apply_edits();
        let own_addresses = self.join_overlapping();
        self.merge();
        self.disable_guarded();
        self.open();
        let mut cookies = UniqueNames::default();
        for pool in &mut self.pools {
            pool.complete(&mut cookies);
            pool.leave_out(&own_addresses);
        }
        let unreached = self.unreached();
        // A single pool needs no route.
        if let ([route], [_]) = (&self.routes[..], &self.pools[..])
            && route.request.is_everything()
            && !route.is_off
            && route.is_plain()
        {
            self.routes.clear();
        }
        unreached
    }

    /// Applies the path prefixes to remove to the routes of their pools.
    fn strip_paths(&mut self) {
        for Strip { pool, prefix, line, text } in std::mem::take(&mut self.strips) {
            let mut found = false;
            for id in 0..self.routes.len() {
                let Destination::Pool { name, strip: None, add } = self.routes[id].destination.clone() else {
                    continue;
                };
                let request = self.routes[id].request.clone();
                if name != pool {
                    continue;
                }
                let destination = Destination::Pool { name, strip: Some(prefix.clone()), add };
                if super::grammar::is_below(&request.prefix, &prefix) {
                    let groups = std::mem::take(&mut self.routes[id].groups);
                    let old = std::mem::replace(&mut self.routes[id], Route::new(request, destination, groups));
                    self.routes[id].table.append(old.table);
                    found = true;
                } else if super::grammar::is_below(&prefix, &request.prefix) {
                    let groups = self.routes[id].groups.clone();
                    let below = Request { prefix: prefix.clone(), ..request };
                    found |= !self.route(&groups, &below, &destination, line, &text).is_empty();
                }
            }
            if !found {
                self.unrouted.unsupported(line, &text, format!("no route to the pool {pool} matches {prefix}"));
            }
        }
    }

    /// Adds the redirects to TLS beside the routes of their pools.
    fn redirect_pools(&mut self) {
        for PoolRedirect { pool, redirect, line, text } in std::mem::take(&mut self.to_tls) {
            let is_clear = |group: &usize| self.is_secure(*group) != Some(true);
            let leads = |route: &&Route| route.pool() == Some(&pool) && route.request.secure != Some(true);
            let parts = self.routes.iter().filter(leads).map(|route| {
                let groups: Vec<usize> = route.groups.iter().copied().filter(is_clear).collect();
                (groups, Request { secure: Some(false), ..route.request.clone() })
            });
            let parts: Vec<_> = parts.filter(|(groups, _)| !groups.is_empty()).collect();
            if parts.is_empty() {
                self.unrouted.unneeded(line, &text, "all clients here use TLS");
            }
            for (groups, request) in parts {
                self.route(&groups, &request, &Destination::Redirect(redirect.clone()), line, &text);
            }
        }
    }

    /// Merges equal routes of several listener groups.
    fn merge(&mut self) {
        let mut kept: Vec<Route> = Vec::new();
        // Hashes the parts that are cheap to compare: there may be thousands of routes.
        let mut known: HashMap<(String, Vec<String>), Vec<usize>> = HashMap::new();
        let mut places = Vec::new();
        for route in std::mem::take(&mut self.routes) {
            let alike = known.entry((route.request.prefix.clone(), route.request.hosts.clone())).or_default();
            let is_alike = |at: &&usize| kept[**at].is_like(&route);
            match alike.iter().find(is_alike).copied() {
                Some(at) => {
                    let free: Vec<_> =
                        route.groups.into_iter().filter(|group| !kept[at].groups.contains(group)).collect();
                    kept[at].groups.extend(free);
                    kept[at].table.append(route.table);
                    places.push(at);
                }
                None => {
                    alike.push(kept.len());
                    places.push(kept.len());
                    kept.push(route);
                }
            }
        }
        self.routes = kept;
        for guard in &mut self.guards {
            guard.moved(&places);
        }
    }

    /// Returns the pools that no request reaches.
    fn unreached(&mut self) -> HashSet<String> {
        let live = self.routes.iter().filter(|route| !route.is_off);
        let reached: HashSet<&str> = live.filter_map(Route::pool).collect();
        let is_sole = self.routes.is_empty();
        let unreached =
            self.pools.iter_mut().filter(|pool| pool.is_kept || (!is_sole && !reached.contains(pool.name())));
        let names = unreached.map(|pool| {
            if !pool.is_kept {
                pool.main.comment("disabled: no route leads to this pool");
            }
            pool.name().to_owned()
        });
        names.collect()
    }

    /// Returns whether some request reaches a backend or is redirected elsewhere.
    fn may_serve(&self, unreached: &HashSet<String>) -> bool {
        let can_serve = |name: &str| self.pools.iter().any(|pool| pool.name() == name && pool.can_serve());
        let is_tls = self.listeners.iter().any(|listener| !listener.is_off() && listener.is_secure());
        let leads = |route: &Route| match &route.destination {
            Destination::Pool { .. } if route.lists.are_of_nobody() => false,
            Destination::Pool { name, .. } => can_serve(name),
            Destination::Redirect(redirect) => redirect.host.is_some() || redirect.scheme == Some("https") && is_tls,
        };
        let is_open = self.listeners.iter().any(|listener| !listener.is_off());
        let sole = || {
            self.routes.is_empty() && self.pools.iter().any(|pool| !unreached.contains(pool.name()) && pool.can_serve())
        };
        is_open && (self.routes.iter().any(|route| !route.is_off && leads(route)) || sole())
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        let tables = [&self.top, &self.server, &self.limits, &self.clients, &self.unrouted, &self.rest].into_iter();
        let tables = tables.chain(self.listeners.iter().flat_map(Listener::tables));
        let tables = tables.chain(self.routes.iter().map(|route| &route.table));
        tables.chain(self.pools.iter().flat_map(Pool::tables))
    }
}

#[cfg(test)]
mod tests;
