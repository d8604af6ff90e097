//! Owns: which listeners each route is for.
//! Invariant: no address serves a route that it did not serve in the source.
//! Must not know: the formats of sources.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::listener::Listener;
use super::super::names::Names;
use super::super::toml::Value;
use super::Output;

impl Output {
    /// Assigns routes to listeners, and adds listeners if the source has none. If some route is not for all
    /// listeners, all routes name theirs, as routes that name listeners take precedence. A route is disabled if
    /// all its listeners are.
    pub(super) fn open(&mut self) {
        if self.listeners.is_empty() && !self.has_lost_listeners {
            self.invent();
        }
        let live: BTreeSet<usize> =
            self.listeners.iter().filter(|each| !each.is_off()).map(|each| each.front).collect();
        let is_open_at_all = |fronts: &[usize]| live.iter().all(|front| fronts.contains(front));
        let is_shut = |fronts: &[usize]| fronts.iter().all(|front| !live.contains(front));
        if self.routes.iter().any(|route| !is_open_at_all(&route.fronts) || is_shut(&route.fronts)) {
            self.tie(&live);
        }
        let mut noted = HashSet::new();
        for route in self.routes.iter_mut().filter(|route| is_shut(&route.fronts)) {
            route.is_off = true;
            for front in route.fronts.iter().filter(|front| noted.insert(**front)) {
                let front = &self.fronts[*front];
                let at = if front.line > 0 { format!(", line {}", front.line) } else { String::new() };
                route.table.remark(format!("disabled: none of its listeners could be imported ({}{at})", front.text));
            }
        }
    }

    /// Sets `listeners` of each route: those that are enabled, if any is.
    fn tie(&mut self, live: &BTreeSet<usize>) {
        let mut names = Names::default();
        let mut by_front: HashMap<usize, Vec<(String, bool)>> = HashMap::new();
        for listener in &mut self.listeners {
            let name = names.take(&self.fronts[listener.front].name);
            listener.table.set("name", Value::text(&name));
            by_front.entry(listener.front).or_default().push((name, listener.is_off()));
        }
        for route in &mut self.routes {
            let is_shut = route.fronts.iter().all(|front| !live.contains(front));
            let all = route.fronts.iter().filter_map(|front| by_front.get(front)).flatten();
            let tied: Vec<_> = all.filter(|(_, is_off)| is_shut || !is_off).map(|(name, _)| name.as_str()).collect();
            if !tied.is_empty() {
                route.table.set("listeners", Value::list(tied));
            }
        }
    }

    /// Adds a listener for each listener group with routes, on the loopback address and on ports that
    /// no backend has.
    fn invent(&mut self) {
        let mut fronts: BTreeSet<usize> = self.routes.iter().flat_map(|route| route.fronts.iter().copied()).collect();
        if fronts.is_empty() {
            fronts.insert(0);
        }
        let ports: Vec<u16> = self.free_ports().chain([8080]).take(fronts.len()).collect();
        for (front, port) in fronts.into_iter().zip(ports) {
            let mut listener = Listener::new(front, &format!("127.0.0.1:{port}"));
            listener.table.remark(format!("{} has no address that could be imported: set yours", self.source));
            self.listeners.push(listener);
        }
    }

    /// Returns the ports that neither a backend nor a listener has.
    pub(in crate::import) fn free_ports(&self) -> impl Iterator<Item = u16> + use<> {
        let mut taken: HashSet<u16> = self.pools.iter().flat_map(|pool| pool.ports().iter().copied()).collect();
        taken.extend(self.by_address.keys().filter_map(|address| address.rsplit_once(':')?.1.parse::<u16>().ok()));
        (8080..=u16::MAX).filter(move |port| !taken.contains(port))
    }
}
