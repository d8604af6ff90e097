//! Owns: a pool of the output: its backends, persistence and balancing.
//! Invariant: a pool has one value of each setting; a different one is noted.
//! Must not know: the formats of sources.

mod backend;
mod cookie;
mod pages;

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::time::Duration;

pub(super) use self::backend::Backend;
pub(super) use self::cookie::Cookie;
pub(super) use self::pages::ErrorPage;
use super::backend_protocol::BackendProtocol;
use super::own_addresses::OwnAddresses;
use super::toml::{Table, Value};
use super::unique_names::{UniqueNames, named};
use super::units::Address;

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The range of time limits.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=YEAR;
/// The range of the interval of probes.
pub(super) const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=YEAR;
/// The range of a session's lifetime.
const LIFE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// The largest weight of a backend.
const MAX_WEIGHT: u64 = 1000;
/// The default of `total`.
const TOTAL: Duration = Duration::from_secs(120);
/// The default of `connect`.
const CONNECT: Duration = Duration::from_secs(2);

/// A pool of the output: a table for each of its sections.
pub(super) struct Pool {
    name: String,
    pub(super) main: Table,
    pub(super) pinning: Option<Pinning>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) absolute_timeout: Option<Duration>,
    /// The most learned sessions.
    pub(super) capacity: Option<u64>,
    /// What happens to a session's requests when its backend can't take them, by the cause.
    pub(super) on: Vec<(&'static str, &'static str)>,
    /// Paths of requests without pins.
    pub(super) exempt: Vec<String>,
    pub(super) persistence: Table,
    cookie: Table,
    rules: Table,
    pub(super) wait: Table,
    hash: Table,
    pub(super) queue: Table,
    pub(super) health: Table,
    pub(super) ejection: Table,
    pub(super) retry: Table,
    pub(super) timeouts: Table,
    pub(super) upstream: Table,
    pub(super) tls: Table,
    /// Its notes; the rest is made of `error_pages`.
    pub(super) pages: Table,
    error_pages: Vec<ErrorPage>,
    /// The protocol of its backends, once it is known.
    protocol: Option<BackendProtocol>,
    connect: Option<Duration>,
    response: Option<Duration>,
    backends: Vec<Backend>,
    names: UniqueNames,
    addresses: HashMap<Address, String>,
    ports: Vec<u16>,
    /// It is disabled: its access restriction has no equivalent.
    pub(super) is_kept: bool,
}

/// What keeps a client on its backend.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pinning {
    Cookie(Cookie),
    /// The application's own cookie.
    LearnedCookie(String),
    /// A header field of the application.
    LearnedHeader(String),
    /// The suffix that the application appends to its own cookie, or to a path parameter.
    Route {
        cookie: String,
        path_parameter: Option<String>,
    },
    /// Nothing.
    None,
}

/// How a backend is chosen for a new client.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Balance {
    RoundRobin,
    LeastRequests,
    RandomTwo,
    Hash(By),
}

/// What a hash is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum By {
    Address,
    Path,
    Header(String),
    Cookie(String),
    Query(String),
}

impl Pool {
    /// Returns a pool without backends; `name` must be unique.
    pub(super) fn new(name: &str) -> Pool {
        let mut main = Table::default();
        main.set("name", Value::text(name));
        Pool {
            name: name.into(),
            main,
            pinning: None,
            idle_timeout: None,
            absolute_timeout: None,
            capacity: None,
            on: Vec::new(),
            exempt: Vec::new(),
            persistence: Table::default(),
            cookie: Table::default(),
            rules: Table::default(),
            wait: Table::default(),
            hash: Table::default(),
            queue: Table::default(),
            health: Table::default(),
            ejection: Table::default(),
            retry: Table::default(),
            timeouts: Table::default(),
            upstream: Table::default(),
            tls: Table::default(),
            pages: Table::default(),
            error_pages: Vec::new(),
            protocol: None,
            connect: None,
            response: None,
            backends: Vec::new(),
            names: UniqueNames::default(),
            addresses: HashMap::new(),
            ports: Vec::new(),
            is_kept: false,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Adds a backend; one without a usable address is disabled.
    pub(super) fn backend(&mut self, wanted: &str, address: &Address, line: usize, text: &str) -> &mut Backend {
        let name = self.names.take(&named(wanted, "backend"));
        let mut backend = Backend::new(&name, address, line, text);
        if let Some(other) = self.addresses.get(address) {
            let why = format!("backend {other} already has this address: list each server once");
            backend.switch_off(line, text, why);
        } else if *address != Address::Other {
            self.addresses.insert(address.clone(), name);
        }
        match address {
            Address::Socket(socket) => self.ports.push(socket.port()),
            Address::Name(_, port) => self.ports.push(*port),
            Address::Unix(_) | Address::Service(_) | Address::Other => {}
        }
        self.backends.push(backend);
        let last = self.backends.len() - 1;
        &mut self.backends[last]
    }

    /// Adds the pods of a Service, as `NAMESPACE/SERVICE`; `port` is the number of theirs, or its name in the Service.
    pub(super) fn kubernetes(&mut self, service: &str, port: &Value, line: usize, text: &str) -> &mut Backend {
        self.backends.push(Backend::of_kubernetes(service, port, line, text));
        let last = self.backends.len() - 1;
        &mut self.backends[last]
    }

    /// Sets the weight of the backend that was added last.
    pub(super) fn last_weight(&mut self, weight: u64) {
        if let Some(backend) = self.backends.last_mut() {
            backend.weight(weight, 0, "");
        }
    }

    /// Returns the table of the backend that was added last, or else that of the pool.
    pub(super) fn last_table(&mut self) -> &mut Table {
        self.backends.last_mut().map_or(&mut self.main, |backend| &mut backend.table)
    }

    /// Scales the weights, if any is larger than Linchpin's can be.
    fn scale_weights(&mut self) {
        let most = self.backends.iter().filter_map(Backend::given_weight).max().unwrap_or_default();
        if most > MAX_WEIGHT {
            self.backends.iter_mut().for_each(|backend| backend.scale_weight(MAX_WEIGHT, most));
            self.main.comment(format!("weights are scaled: {MAX_WEIGHT} is the most"));
        }
    }

    /// Disables the backends that are listeners of the source.
    pub(super) fn leave_out(&mut self, own_addresses: &OwnAddresses) {
        let is_own = |address: &Address| address.listening().is_some_and(|address| own_addresses.has(&address));
        let own = self.addresses.iter().filter(|(address, _)| is_own(address)).map(|(_, name)| name);
        let own: HashSet<&String> = own.collect();
        for backend in self.backends.iter_mut().filter(|backend| own.contains(&backend.name)) {
            backend.leave_out();
        }
    }

    /// Returns whether its backends use this protocol. The first call decides.
    pub(super) fn uses_protocol(&mut self, protocol: &BackendProtocol) -> bool {
        self.protocol.get_or_insert_with(|| protocol.clone()) == protocol
    }

    /// Returns whether its backends speak TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.protocol.as_ref().is_some_and(|protocol| protocol.tls.is_some())
    }

    /// Returns the ports of its backends.
    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Returns whether any of its backends can serve requests.
    pub(super) fn can_serve(&self) -> bool {
        self.backends.iter().any(Backend::can_serve)
    }

    /// Sets the application's route for the backend that was added last.
    pub(super) fn last_route(&mut self, line: usize, route: &str) {
        if let Some(backend) = self.backends.last_mut() {
            backend.route = Some((line, route.into()));
        }
    }

    pub(super) fn balance(&mut self, balance: &Balance) {
        let (word, by) = match balance {
            Balance::RoundRobin => ("round_robin", None),
            Balance::LeastRequests => ("least_requests", None),
            Balance::RandomTwo => ("random_two", None),
            Balance::Hash(by) => ("hash", Some(by)),
        };
        self.main.set("balance", Value::text(word));
        let Some(by) = by else { return };
        let (word, name) = match by {
            By::Address => ("address", None),
            By::Path => ("path", None),
            By::Header(name) => ("header", Some(name)),
            By::Cookie(name) => ("cookie", Some(name)),
            By::Query(name) => ("query", Some(name)),
        };
        self.hash.set("by", Value::text(word));
        if let Some(name) = name {
            self.hash.set("name", Value::text(name));
        }
    }

    /// Lets requests wait for a server that has as many as it may, for this time at most; those of a session for its own.
    pub(super) fn wait_in_queue(&mut self, time: Duration) {
        let time = Value::duration(time.clamp(*WAIT.start(), *WAIT.end()));
        self.queue.set("timeout", time.clone());
        self.wait.set("time", time);
    }

    pub(super) fn slow_start(&mut self, time: Option<Duration>, line: usize, text: &str) {
        self.main.share_time("slow_start", time, Duration::ZERO..=YEAR, line, text);
    }

    pub(super) fn connect_timeout(&mut self, time: Option<Duration>, line: usize, text: &str) {
        self.timeouts.share_time("connect", time, WAIT, line, text);
        self.connect = self.connect.or(time);
    }

    /// Sets how long a backend may take until it responds, and between parts of the body.
    pub(super) fn response_timeout(&mut self, time: Option<Duration>, line: usize, text: &str) {
        self.timeouts.share_time("response", time, WAIT, line, text);
        if self.response.is_none()
            && let Some(time) = time.filter(|time| !time.is_zero())
        {
            self.timeouts.set("idle", Value::duration(time.clamp(*WAIT.start(), *WAIT.end())));
            self.response = Some(time);
        }
    }

    /// Adds a page for errors.
    pub(super) fn error_page(&mut self, page: ErrorPage) {
        if !self.error_pages.contains(&page) {
            self.error_pages.push(page);
        }
    }

    /// Returns how long it may take to connect, if the source says so.
    pub(super) fn connect(&self) -> Option<Duration> {
        self.connect
    }

    /// Returns whether clients stay on their backend.
    pub(super) fn pins(&self) -> bool {
        !matches!(self.pinning, None | Some(Pinning::None))
    }

    /// Returns whether a key seals the pins.
    pub(super) fn seals(&self) -> bool {
        matches!(self.pinning, Some(Pinning::Cookie(_)))
    }

    /// Completes the tables when all lines were read. `cookies` has the cookie names of the other pools.
    pub(super) fn complete(&mut self, cookies: &mut UniqueNames) {
        self.scale_weights();
        let notes = std::mem::replace(&mut self.pages, pages::pages(&self.error_pages));
        self.pages.append(notes);
        match self.pins() && !self.wait.is_empty() {
            true => self.on.push(("full", "wait")),
            false => self.wait = Table::default(),
        }
        self.complete_timeouts();
        self.complete_protocol();
        if matches!(self.pinning, Some(Pinning::Route { .. })) {
            self.complete_routes();
        }
        let mut table = Table::default();
        let pinning = self.pinning.get_or_insert(Pinning::None);
        let word = match pinning {
            Pinning::Cookie(_) => "cookie",
            Pinning::LearnedCookie(_) | Pinning::LearnedHeader(_) => "learned",
            Pinning::Route { .. } => "route",
            Pinning::None => "none",
        };
        table.set("type", Value::text(word));
        let is_hash = self.hash.get("by").is_some();
        match pinning {
            Pinning::Cookie(cookie) => cookie.write(&self.name, &mut self.cookie, cookies),
            Pinning::LearnedCookie(name) => table.set("learned", learned("cookie", name, self.capacity)),
            Pinning::LearnedHeader(name) => table.set("learned", learned("header", name, self.capacity)),
            Pinning::Route { cookie, path_parameter } => {
                let parameter = path_parameter.as_deref().map(|name| ("path_parameter", Value::text(name)));
                let pairs = [("cookie", Value::text(cookie))].into_iter().chain(parameter);
                table.set("route", Value::inline(pairs));
            }
            Pinning::None if is_hash => table.comment("the hash chooses the backend, as before; type = \"cookie\" would also keep clients in place when backends are added or removed"),
            Pinning::None => table.comment("clients were not sticky before; type = \"cookie\" keeps each client with its backend"),
        }
        if *pinning != Pinning::None {
            let life = |time: Duration| Value::duration(time.clamp(*LIFE.start(), *LIFE.end()));
            if let Some(time) = self.idle_timeout.filter(|time| !time.is_zero()) {
                table.set("idle_timeout", life(time));
            }
            if let Some(time) = self.absolute_timeout.filter(|time| !time.is_zero()) {
                table.set("absolute_timeout", life(time));
            }
            if !self.on.is_empty() {
                table.set("on", Value::inline(self.on.iter().map(|(cause, policy)| (*cause, Value::text(policy)))));
            }
            if !self.exempt.is_empty() {
                let paths = Value::list(self.exempt.iter().map(String::as_str));
                self.rules.set("exempt", Value::inline([("paths", paths)]));
            }
        }
        table.append(std::mem::take(&mut self.persistence));
        self.persistence = table;
    }

    /// Gives each backend a unique route without a separator: its name, if possible.
    fn complete_routes(&mut self) {
        let mut routes = UniqueNames::default();
        for backend in self.backends.iter_mut().filter(|backend| !backend.is_found()) {
            let wanted = backend.route.as_ref().map_or(&backend.name, |(_, route)| route);
            let plain = named(wanted, "backend").replace('.', "-");
            let route = routes.take(&plain);
            if let Some((line, wanted)) = backend.route.as_ref().filter(|(_, wanted)| *wanted != route) {
                let why = "each backend needs a route of its own, made of letters, digits, `_` and `-`: change the application's route";
                backend.table.unsupported(*line, &format!("route={wanted}"), why);
            } else if backend.route.is_none() {
                backend.table.comment("the source gives this server no route");
            }
            if route != backend.name {
                backend.table.set("route", Value::text(&route));
            }
        }
    }

    /// Writes the protocol. Disables Unix sockets if a certificate's name must be checked, as they have none.
    fn complete_protocol(&mut self) {
        let Some(protocol) = &self.protocol else { return };
        protocol.write(&mut self.upstream, &mut self.tls);
        if protocol.tls.as_ref().is_some_and(|tls| tls.verify && tls.server_name.is_none()) {
            let sockets = self.addresses.iter().filter(|(address, _)| matches!(address, Address::Unix(_)));
            let sockets: Vec<_> = sockets.map(|(_, name)| name.clone()).collect();
            for backend in self.backends.iter_mut().filter(|backend| sockets.contains(&backend.name)) {
                backend.leave(
                    "set `server_name` in [pools.upstream.tls]: a Unix socket has no name to check in a certificate",
                );
            }
        }
    }

    fn complete_timeouts(&mut self) {
        let wanted = self.response.unwrap_or_default().saturating_add(self.connect.unwrap_or(CONNECT)).min(*WAIT.end());
        if wanted > TOTAL && self.timeouts.get("total").is_none() {
            self.timeouts.set("total", Value::duration(wanted));
        }
    }

    /// Returns all tables, for their notes.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        let sections = self.sections().map(|(_, table)| table);
        [&self.main].into_iter().chain(sections).chain(self.backends.iter().map(|backend| &backend.table))
    }

    fn sections(&self) -> impl Iterator<Item = (&'static str, &Table)> {
        [
            ("[pools.persistence]", &self.persistence),
            ("[pools.persistence.cookie]", &self.cookie),
            ("[[pools.persistence.rules]]", &self.rules),
            ("[pools.persistence.wait]", &self.wait),
            ("[pools.hash]", &self.hash),
            ("[pools.queue]", &self.queue),
            ("[pools.health]", &self.health),
            ("[pools.pages]", &self.pages),
            ("[pools.ejection]", &self.ejection),
            ("[pools.retry]", &self.retry),
            ("[pools.timeouts]", &self.timeouts),
            ("[pools.upstream]", &self.upstream),
            ("[pools.upstream.tls]", &self.tls),
        ]
        .into_iter()
    }

    /// Writes the pool; `is_off` disables all of it.
    pub(super) fn write(&self, is_off: bool, text: &mut String) {
        self.main.write("[[pools]]", is_off, text);
        for (header, table) in self.sections() {
            table.write(header, is_off, text);
        }
        for backend in &self.backends {
            backend.write(is_off, text);
        }
    }
}

fn learned(carrier: &'static str, name: &str, capacity: Option<u64>) -> Value {
    let capacity = capacity.map(|capacity| ("capacity", Value::number(capacity.clamp(1, 100_000_000))));
    Value::inline([(carrier, Value::text(name))].into_iter().chain(capacity))
}

/// Returns a name for a backend without one: its address.
pub(super) fn name_of(address: &Address, text: &str) -> String {
    match address {
        Address::Socket(socket) => socket.to_string().replace(['[', ']'], ""),
        Address::Name(host, 80) => host.clone(),
        Address::Name(host, port) => format!("{host}-{port}"),
        Address::Unix(path) => path.rsplit('/').next().unwrap_or_default().trim_end_matches(".sock").to_owned(),
        Address::Service(host) => host.clone(),
        Address::Other => text.to_owned(),
    }
}
