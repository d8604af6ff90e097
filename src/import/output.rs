//! Owns: the configuration that is made, as a whole, and the order in which it is written.
//! Invariant: names and routes are unique, whatever the source says.
//! Must not know: how a source is read.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use super::names::{Names, named};
use super::pool::Pool;
use super::toml::{Table, Value, comment};
use super::{Format, Imported};

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
    by_address: HashMap<SocketAddr, usize>,
    routes: Vec<Route>,
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
    line: usize,
    text: String,
    /// What its listeners are called where routes have to name them.
    name: String,
    /// Path and host, empty for every host, and the pool that they lead to.
    taken: HashMap<(String, String), String>,
    /// It led elsewhere than the main one.
    is_apart: bool,
}

struct Listener {
    front: usize,
    table: Table,
    is_off: bool,
}

struct Route {
    front: usize,
    hosts: Vec<String>,
    prefix: String,
    pool: String,
    table: Table,
    is_off: bool,
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
            routes: Vec::new(),
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
        let name = named(name, "listener");
        self.fronts.push(Front { line, text: text.into(), name, taken: HashMap::new(), is_apart: false });
        self.fronts.len() - 1
    }

    /// What listens on an address already.
    pub(super) fn front_at(&self, address: &SocketAddr) -> Option<usize> {
        self.by_address.get(address).map(|index| self.listeners[*index].front)
    }

    /// A listener; its table, for what is to be said of it. One address is one listener.
    pub(super) fn listener(&mut self, front: usize, address: SocketAddr, is_off: bool) -> &mut Table {
        let next = self.listeners.len();
        let index = *self.by_address.entry(address).or_insert(next);
        if index == next {
            let mut table = Table::default();
            table.set("address", Value::text(&address.to_string()));
            self.listeners.push(Listener { front, table, is_off });
        }
        let listener = &mut self.listeners[index];
        listener.is_off &= is_off;
        &mut listener.table
    }

    /// A route, as `line` wants it. Hosts that have such a route already are left out.
    pub(super) fn route(
        &mut self,
        front: usize,
        hosts: Vec<String>,
        prefix: &str,
        pool: &str,
        line: usize,
        text: &str,
    ) {
        let every_host = hosts.is_empty();
        let wanted = if every_host { vec![String::new()] } else { hosts };
        let mut other = None;
        let mut free = Vec::new();
        for host in wanted {
            match self.fronts[front].taken.entry((prefix.to_owned(), host)) {
                Entry::Occupied(taken) => other = Some(taken.get().clone()).filter(|taken| taken != pool),
                Entry::Vacant(place) => {
                    free.push(place.key().1.clone());
                    place.insert(pool.to_owned());
                }
            }
        }
        if let Some(other) = other {
            self.unrouted.lost(line, text, format!("such requests go to the pool {other} already"));
        }
        if free.is_empty() {
            return;
        }
        let mut table = Table::default();
        if every_host {
            free.clear();
        } else {
            table.set("hosts", Value::list(free.iter().map(String::as_str)));
        }
        if prefix != "/" {
            table.set("path_prefix", Value::text(prefix));
        }
        table.set("pool", Value::text(pool));
        if prefix != "/" && !std::mem::replace(&mut self.says_segments, true) {
            table.remark(format!("a path_prefix is of whole segments: {prefix} and {prefix}/x, not {prefix}x"));
        }
        self.routes.push(Route { front, hosts: free, prefix: prefix.into(), pool: pool.into(), table, is_off: false });
    }

    /// The table of the route that was added last.
    pub(super) fn last_route(&mut self) -> &mut Table {
        self.routes.last_mut().map_or(&mut self.unrouted, |route| &mut route.table)
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
            listener.table.write("[[listeners]]", listener.is_off, &mut text);
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
        Imported { text, lost: lost.len(), guards }
    }

    /// Settles what depends on the whole; the pools that no request gets to.
    fn complete(&mut self) -> HashSet<String> {
        self.keep_apart();
        let unreached = self.unreached();
        if self.listeners.iter().all(|listener| listener.is_off) {
            let mut table = Table::default();
            table.set("address", Value::text("127.0.0.1:8080"));
            table.remark(format!("{} says of no address that could be taken over: write yours", self.source));
            self.listeners.push(Listener { front: 0, table, is_off: false });
        }
        // The only pool gets every request without being told.
        if let ([route], [_]) = (&self.routes[..], &self.pools[..])
            && route.hosts.is_empty()
            && route.prefix == "/"
            && route.table.is_plain()
        {
            self.routes.clear();
        }
        let mut cookies = Names::default();
        for pool in &mut self.pools {
            pool.complete(&mut cookies);
        }
        unreached
    }

    /// The pools that no route leads to, if there are any routes.
    fn unreached(&mut self) -> HashSet<String> {
        let reached: HashSet<&str> =
            self.routes.iter().filter(|route| !route.is_off).map(|route| route.pool.as_str()).collect();
        let unreached = self.pools.iter_mut().filter(|pool| !reached.is_empty() && !reached.contains(pool.name()));
        let names = unreached.map(|pool| {
            pool.main.remark("no route leads here, so that this pool is switched off");
            pool.name().to_owned()
        });
        names.collect()
    }

    /// Nothing can be reached where it could not be reached: what listened on addresses of its own and led
    /// elsewhere than the main one gets routes of its own, which are tied to its listeners. Where those are
    /// switched off, so are the routes.
    fn keep_apart(&mut self) {
        let live: HashSet<usize> =
            self.listeners.iter().filter(|listener| !listener.is_off).map(|listener| listener.front).collect();
        let first = self.listeners.iter().find(|listener| !listener.is_off).map(|listener| listener.front);
        let Some(main) = first.or_else(|| self.routes.first().map(|route| route.front)) else { return };
        let mut taken = std::mem::take(&mut self.fronts[main].taken);
        let pools = |taken: &HashMap<_, String>| taken.values().cloned().collect::<BTreeSet<String>>();
        let mains = taken.clone();
        for (index, front) in self.fronts.iter_mut().enumerate().filter(|(index, _)| *index != main) {
            let fits = match live.contains(&index) {
                true => front.taken == mains,
                // It listens nowhere: what it has is at the main one's addresses, or nowhere.
                false => {
                    let is_free = |(request, pool): (_, &String)| taken.get(request).is_none_or(|other| other == pool);
                    front.taken.iter().all(is_free) && pools(&front.taken) == pools(&mains)
                }
            };
            if fits {
                // What the main one has already is not said again.
                front.taken.retain(|request, _| !taken.contains_key(request));
                taken.extend(front.taken.clone());
            } else {
                front.is_apart = true;
            }
        }
        self.fronts[main].taken = taken;
        self.merge(main);
        if live.iter().any(|front| self.fronts[*front].is_apart) {
            self.tie(&live);
        }
        self.switch_off(main, &live);
    }

    /// Ties routes to the listeners of their fronts, or of all fronts that lead where the main one does.
    fn tie(&mut self, live: &HashSet<usize>) {
        let mut names = Names::default();
        let mut by_front: HashMap<Option<usize>, Vec<String>> = HashMap::new();
        let group = |fronts: &[Front], front: usize| fronts[front].is_apart.then_some(front);
        for listener in self.listeners.iter_mut().filter(|listener| !listener.is_off) {
            let name = names.take(&self.fronts[listener.front].name);
            listener.table.set("name", Value::text(&name));
            by_front.entry(group(&self.fronts, listener.front)).or_default().push(name);
        }
        for route in &mut self.routes {
            let of = group(&self.fronts, route.front).filter(|front| live.contains(front));
            let is_off = self.fronts[route.front].is_apart && of.is_none();
            if let Some(names) = by_front.get(&of).filter(|_| !is_off) {
                route.table.set("listeners", Value::list(names.iter().map(String::as_str)));
            }
        }
    }

    /// Leaves of the routes of other fronts what the main one has not.
    fn merge(&mut self, main: usize) {
        let fronts = &self.fronts;
        self.routes.retain_mut(|route| {
            let front = &fronts[route.front];
            let is_own = |host: &str| front.taken.contains_key(&(route.prefix.clone(), host.to_owned()));
            if route.front == main || front.is_apart {
                return true;
            }
            if route.hosts.is_empty() {
                return is_own("");
            }
            let own: Vec<_> = route.hosts.iter().filter(|host| is_own(host)).map(String::as_str).collect();
            route.table.set("hosts", Value::list(own.iter().copied()));
            !own.is_empty()
        });
    }

    fn switch_off(&mut self, main: usize, live: &HashSet<usize>) {
        let why = format!(
            "it had addresses of its own, which are switched off, and led elsewhere than {} (line {}), so that its routes are, too: name its listeners in their `listeners` when you take the # away",
            self.fronts[main].text, self.fronts[main].line
        );
        let listeners = self.listeners.iter_mut().map(|each| (each.front, &mut each.is_off, &mut each.table));
        let routes = self.routes.iter_mut().map(|each| (each.front, &mut each.is_off, &mut each.table));
        let mut told = HashSet::new();
        let is_out = |front: usize| self.fronts[front].is_apart && !live.contains(&front);
        for (front, is_off, table) in listeners.chain(routes).filter(|(front, ..)| is_out(*front)) {
            *is_off = true;
            if told.insert(front) {
                table.lost(self.fronts[front].line, &self.fronts[front].text, why.clone());
            }
        }
    }

    /// The route that was added last kept clients out in a way that routes have not.
    pub(super) fn guard_last_route(&mut self, line: usize, text: &str, why: &str) {
        if let Some(route) = self.routes.last_mut() {
            route.is_off = true;
            route.table.lost(line, text, why);
        }
    }

    /// How many routes there are.
    pub(super) fn routes(&self) -> usize {
        self.routes.len()
    }

    fn head(&self, guards: &[usize], text: &mut String) {
        let product = self.format.product();
        comment(
            text,
            &format!(
                "Made of {} by `linchpin import`. A line of it that has no equivalent stands here as a",
                self.source
            ),
        );
        comment(text, "comment, with its number. Read them, then run: linchpin check -c FILE");
        if self.pools.iter().any(Pool::pins) {
            text.push_str("#\n");
            comment(
                text,
                &format!(
                    "Clients bring the cookies that {product} gave them. Linchpin opens none but those it sealed itself,"
                ),
            );
            comment(
                text,
                "so that each client gets a new pin with its first request, and maybe another backend, once.",
            );
        }
        if let Some((first, rest)) = guards.split_first() {
            text.push_str("#\n");
            let lines = rest.iter().fold(first.to_string(), |lines, line| format!("{lines}, {line}"));
            comment(
                text,
                &format!(
                    "Requests were kept out or held back by what stands in line {lines} of {}. Nothing does that here:",
                    self.source
                ),
            );
            comment(text, "let the application do it, or something before Linchpin.");
        }
        if self.pools.iter().any(Pool::seals) {
            text.push_str(
                "\n# Without a key, pins end with the process. Make one with: linchpin keygen -o linchpin.key\n",
            );
            text.push_str("#[[keys]]\n#id = \"1\"\n#file = \"linchpin.key\"\n");
        }
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        let tables = [&self.top, &self.server, &self.limits, &self.clients, &self.unrouted, &self.rest].into_iter();
        let tables = tables.chain(self.listeners.iter().map(|listener| &listener.table));
        let tables = tables.chain(self.routes.iter().map(|route| &route.table));
        tables.chain(self.pools.iter().flat_map(Pool::tables))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_host_and_path_has_one_route() {
        let mut output = Output::new("x", Format::Nginx);
        let front = output.front(1, "x", "x");
        output.route(front, hosts(&["a", "b"]), "/", "one", 1, "");
        output.route(front, hosts(&["b", "c"]), "/", "two", 2, "");
        output.route(front, hosts(&["c"]), "/", "three", 3, "");
        output.route(front, vec![], "/", "four", 4, "");
        output.route(front, vec![], "/", "four", 5, "");
        output.route(front, vec![], "/x", "five", 6, "");
        let routes: Vec<_> = output.routes.iter().map(|route| route.hosts.join(" ") + &route.prefix).collect();
        assert_eq!(routes, ["a b/", "c/", "/", "/x"]);
        assert_eq!(output.unrouted.lost_lines().collect::<Vec<_>>(), [2, 3]);
    }

    /// A port, whether it is off, and hosts with their pools.
    type Given<'g> = (u16, bool, &'g [(&'g str, &'g str)]);

    /// Whether each listener is off; the same of each route, and what it is tied to.
    fn apart(fronts: &[Given<'_>]) -> (Vec<bool>, Vec<(bool, String)>) {
        let mut output = Output::new("x", Format::Nginx);
        for (port, is_off, routes) in fronts {
            let number = output.front(usize::from(*port), "front", "web");
            output.listener(number, SocketAddr::from(([0, 0, 0, 0], *port)), *is_off);
            for (host, pool) in *routes {
                output.route(number, hosts(&[*host]), "/", pool, 1, "");
            }
        }
        output.keep_apart();
        let listeners = |route: &Route| route.table.get("listeners").map_or("", Value::as_str).to_owned();
        (
            output.listeners.iter().map(|listener| listener.is_off).collect(),
            output.routes.iter().map(|route| (route.is_off, listeners(route))).collect(),
        )
    }

    #[test]
    fn what_leads_elsewhere_at_an_address_of_its_own_is_tied_to_it() {
        let (listeners, routes) =
            apart(&[(80, false, &[("a", "web")]), (81, false, &[("a", "web")]), (9000, false, &[("a", "intern")])]);
        assert_eq!(listeners, [false, false, false]);
        assert_eq!(routes, [(false, "[\"web\", \"web-2\"]".into()), (false, "[\"web-3\"]".into())]);
        // A host that was not there is not there, though its pool is.
        let (_, routes) = apart(&[(80, false, &[("a", "web")]), (81, false, &[("a", "web"), ("b", "web")])]);
        assert_eq!(routes[0].1, "[\"web\"]");
        assert!(routes[1..].iter().all(|route| *route == (false, "[\"web-2\"]".into())), "{routes:?}");
    }

    #[test]
    fn what_leads_elsewhere_and_listens_nowhere_is_switched_off() {
        let (listeners, routes) =
            apart(&[(80, false, &[("a", "web")]), (443, true, &[("a", "web")]), (9000, true, &[("a", "intern")])]);
        assert_eq!(listeners, [false, true, true]);
        assert_eq!(routes, [(false, String::new()), (true, String::new())]);
    }
}
