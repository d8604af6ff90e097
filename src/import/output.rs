//! Owns: the configuration that is made, as a whole, and the order in which it is written.
//! Invariant: names and routes are unique, whatever the source says.
//! Must not know: how a source is read.

mod apart;
mod guard;
mod head;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};

use super::guard::Guard;
use super::listener::Listener;
use super::names::{Names, named};
use super::pool::Pool;
use super::route::{Goal, Request, Route};
use super::source::{Format, Imported};
use super::toml::Table;

/// A configuration in the making.
pub(super) struct Output {
    source: String,
    format: Format,
    /// What is said of the source as a whole.
    pub(super) top: Table,
    pub(super) server: Table,
    pub(super) limits: Table,
    /// What is said of connections from clients, where there is no listener to say it of.
    pub(super) clients: Table,
    fronts: Vec<Front>,
    listeners: Vec<Listener>,
    by_address: HashMap<String, usize>,
    /// A listener could not be taken over: none is invented in its place.
    has_lost_listeners: bool,
    routes: Vec<Route>,
    /// By front, and what requests it is for.
    taken: HashMap<(usize, Option<bool>, String, String), usize>,
    guards: Vec<Guard>,
    strips: Vec<Strip>,
    /// What is said of requests that no route is for.
    pub(super) unrouted: Table,
    pub(super) pools: Vec<Pool>,
    /// What is left, at the end.
    pub(super) rest: Table,
    names: Names,
    says_segments: bool,
}

/// What listens on addresses of its own.
struct Front {
    /// 0 if it stands nowhere.
    line: usize,
    text: String,
    /// What its listeners are called where routes have to name them.
    name: String,
}

/// A beginning of paths that a pool doesn't see.
struct Strip {
    pool: String,
    prefix: String,
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
            fronts: Vec::new(),
            listeners: Vec::new(),
            by_address: HashMap::new(),
            has_lost_listeners: false,
            routes: Vec::new(),
            taken: HashMap::new(),
            guards: Vec::new(),
            strips: Vec::new(),
            unrouted: Table::default(),
            pools: Vec::new(),
            rest: Table::default(),
            names: Names::default(),
            says_segments: false,
        }
    }

    /// A name for a pool that no other has: the one that is wanted, if it can be one.
    pub(super) fn pool_name(&mut self, wanted: &str) -> String {
        self.names.take(&named(wanted, "pool"))
    }

    /// Begins what listens on addresses of its own, called `name`; a number that names it.
    pub(super) fn front(&mut self, line: usize, text: &str, name: &str) -> usize {
        self.fronts.push(Front { line, text: text.into(), name: named(name, "listener") });
        self.fronts.len() - 1
    }

    /// What listens on an address already.
    pub(super) fn front_at(&self, address: &str) -> Option<usize> {
        self.by_address.get(address).map(|index| self.listeners[*index].front)
    }

    /// The listener at an address, which is made if there is none yet.
    pub(super) fn listener(&mut self, front: usize, address: &str) -> &mut Listener {
        let next = self.listeners.len();
        let index = *self.by_address.entry(address.to_owned()).or_insert(next);
        if index == next {
            self.listeners.push(Listener::new(front, address));
        }
        &mut self.listeners[index]
    }

    /// A listener that can't be written down.
    pub(super) fn lost_listener(&mut self, line: usize, text: &str, why: impl Into<String>) {
        self.has_lost_listeners = true;
        self.clients.lost(line, text, why);
    }

    /// Whether clients of a front speak TLS, where all of them do alike.
    pub(super) fn is_secure(&self, front: usize) -> Option<bool> {
        let mut all = self.listeners.iter().filter(|listener| listener.front == front).map(Listener::is_secure);
        let first = all.next()?;
        all.all(|other| other == first).then_some(first)
    }

    /// A route from these fronts, as `line` wants it. Requests that have a route already are left out. The
    /// routes that such requests have now, if they lead there.
    pub(super) fn route(
        &mut self,
        fronts: &[usize],
        request: &Request,
        goal: &Goal,
        line: usize,
        text: &str,
    ) -> Vec<usize> {
        let every_host = [String::new()];
        let wanted = if request.hosts.is_empty() { &every_host[..] } else { &request.hosts[..] };
        let mut ids: Vec<usize> = Vec::new();
        // Fronts that want the same hosts share a route.
        let mut made: HashMap<Vec<String>, usize> = HashMap::new();
        let mut noted = HashSet::new();
        for front in fronts {
            let key = |host: &String| (*front, request.secure, request.prefix.clone(), host.clone());
            let mut free = Vec::new();
            for host in wanted {
                match self.taken.get(&key(host)) {
                    Some(other) if self.routes[*other].goal == *goal => ids.push(*other),
                    Some(other) => {
                        let shown = self.routes[*other].goal.shown();
                        if noted.insert(shown.clone()) {
                            self.unrouted.lost(line, text, format!("such requests go to {shown} already"));
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
            self.taken.extend(free.iter().map(|host| (key(host), id)));
            if id < next {
                self.routes[id].fronts.push(*front);
                continue;
            }
            let hosts = if request.hosts.is_empty() { Vec::new() } else { free };
            let mut route = Route::new(Request { hosts, ..request.clone() }, goal.clone(), vec![*front]);
            let prefix = &request.prefix;
            if prefix != "/" && !std::mem::replace(&mut self.says_segments, true) {
                route
                    .table
                    .remark(format!("a path_prefix is of whole segments: {prefix} and {prefix}/x, not {prefix}x"));
            }
            self.routes.push(route);
            ids.push(id);
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Where requests go from a front that are for exactly this host and path.
    pub(super) fn goal_of(&self, front: usize, request: &Request) -> Option<Goal> {
        let host = request.hosts.first().cloned().unwrap_or_default();
        let id = self.taken.get(&(front, request.secure, request.prefix.clone(), host))?;
        self.routes.get(*id).map(|route| route.goal.clone())
    }

    /// Where what belongs to routes is noted: at the first of them.
    pub(super) fn notes(&mut self, ids: &[usize]) -> &mut Table {
        match ids.first().and_then(|id| self.routes.get_mut(*id)) {
            Some(route) => &mut route.table,
            None => &mut self.unrouted,
        }
    }

    /// What kept requests out there, and is not done here.
    pub(super) fn guard(&mut self, guard: Guard) {
        self.guards.push(guard);
    }

    /// A pool does not see a beginning of paths.
    pub(super) fn strip(&mut self, pool: &str, prefix: &str, line: usize, text: &str) {
        self.strips.push(Strip { pool: pool.into(), prefix: prefix.into(), line, text: text.into() });
    }

    /// Writes it all.
    pub(super) fn written(mut self) -> Imported {
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
            route.table.write("[[routes]]", route.is_off, &mut text);
        }
        self.unrouted.write("", false, &mut text);
        for pool in &self.pools {
            pool.write(unreached.contains(pool.name()), &mut text);
        }
        self.rest.write("", false, &mut text);
        let lost: BTreeSet<usize> = self.tables().flat_map(Table::lost_lines).collect();
        Imported { text, lost: lost.len(), guards, answers: self.answers(&unreached) }
    }

    /// Settles what depends on the whole; the pools that no request gets to.
    fn complete(&mut self) -> HashSet<String> {
        self.strip_paths();
        self.merge();
        self.keep_out();
        self.open();
        let mut cookies = Names::default();
        for pool in &mut self.pools {
            pool.complete(&mut cookies);
        }
        let unreached = self.unreached();
        // The only pool gets every request without being told.
        if let ([route], [_]) = (&self.routes[..], &self.pools[..])
            && route.request.is_everything()
            && route.table.is_plain()
            && !route.is_off
            && matches!(&route.goal, Goal::Pool { strip: None, add: None, .. })
            && route.table.get("listeners").is_none()
        {
            self.routes.clear();
        }
        unreached
    }

    /// Takes beginnings of paths out of what pools see that are not to see them.
    fn strip_paths(&mut self) {
        for Strip { pool, prefix, line, text } in std::mem::take(&mut self.strips) {
            let mut found = false;
            for id in 0..self.routes.len() {
                let Goal::Pool { name, strip: None, add } = self.routes[id].goal.clone() else { continue };
                let request = self.routes[id].request.clone();
                if name != pool {
                    continue;
                }
                let goal = Goal::Pool { name, strip: Some(prefix.clone()), add };
                if super::grammar::is_below(&request.prefix, &prefix) {
                    let fronts = std::mem::take(&mut self.routes[id].fronts);
                    let old = std::mem::replace(&mut self.routes[id], Route::new(request, goal, fronts));
                    self.routes[id].table.append(old.table);
                    found = true;
                } else if super::grammar::is_below(&prefix, &request.prefix) {
                    let fronts = self.routes[id].fronts.clone();
                    let below = Request { prefix: prefix.clone(), ..request };
                    found |= !self.route(&fronts, &below, &goal, line, &text).is_empty();
                }
            }
            if !found {
                self.unrouted.lost(line, &text, format!("no route to the pool {pool} is for {prefix}"));
            }
        }
    }

    /// Makes one route of those that are alike from several fronts.
    fn merge(&mut self) {
        let mut kept: Vec<Route> = Vec::new();
        // By what is compared cheaply: there may be thousands.
        let mut known: HashMap<(String, Vec<String>), Vec<usize>> = HashMap::new();
        let mut places = Vec::new();
        for route in std::mem::take(&mut self.routes) {
            let alike = known.entry((route.request.prefix.clone(), route.request.hosts.clone())).or_default();
            let is_alike = |at: &&usize| {
                let other = &kept[**at];
                other.request == route.request && other.goal == route.goal && other.table.says_the_same(&route.table)
            };
            match alike.iter().find(is_alike).copied() {
                Some(at) => {
                    let free: Vec<_> =
                        route.fronts.into_iter().filter(|front| !kept[at].fronts.contains(front)).collect();
                    kept[at].fronts.extend(free);
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

    /// The pools that no request gets to.
    fn unreached(&mut self) -> HashSet<String> {
        let live = self.routes.iter().filter(|route| !route.is_off);
        let reached: HashSet<&str> = live.filter_map(Route::pool).collect();
        let is_sole = self.routes.is_empty();
        let unreached =
            self.pools.iter_mut().filter(|pool| pool.is_kept || (!is_sole && !reached.contains(pool.name())));
        let names = unreached.map(|pool| {
            if !pool.is_kept {
                pool.main.remark("no route leads here, so that this pool is switched off");
            }
            pool.name().to_owned()
        });
        names.collect()
    }

    /// Whether some request gets an answer of a backend, or is sent elsewhere.
    fn answers(&self, unreached: &HashSet<String>) -> bool {
        let can_serve = |name: &str| self.pools.iter().any(|pool| pool.name() == name && pool.can_serve());
        let is_tls = self.listeners.iter().any(|listener| !listener.is_off() && listener.is_secure());
        let leads = |route: &Route| match &route.goal {
            Goal::Pool { name, .. } => can_serve(name),
            Goal::Redirect(redirect) => redirect.host.is_some() || redirect.scheme == Some("https") && is_tls,
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
