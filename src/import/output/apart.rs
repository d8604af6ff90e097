//! Owns: which listener each route is open at.
//! Invariant: nothing can be reached at an address where it could not be reached.
//! Must not know: how a source is read.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::listener::Listener;
use super::super::names::Names;
use super::super::toml::Value;
use super::Output;

impl Output {
    /// Opens the listeners: one is made up where the source says of none. Routes that are not open at all of
    /// them are tied to theirs, and then all are, as those that are tied come before all others. Where the
    /// listeners of a route are all switched off, so is the route.
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
                route.table.remark(format!(
                    "no listener of it ({}{at}) could be opened, so that its routes are switched off, too",
                    front.text
                ));
            }
        }
    }

    /// Ties each route to the listeners of its fronts: those that are open, if any is.
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

    /// Makes up listeners where the source has none: one for each group of routes, at this machine alone, at ports that
    /// no backend has.
    fn invent(&mut self) {
        let mut fronts: BTreeSet<usize> = self.routes.iter().flat_map(|route| route.fronts.iter().copied()).collect();
        if fronts.is_empty() {
            fronts.insert(0);
        }
        let ports: Vec<u16> = self.free_ports().chain([8080]).take(fronts.len()).collect();
        for (front, port) in fronts.into_iter().zip(ports) {
            let mut listener = Listener::new(front, &format!("127.0.0.1:{port}"));
            listener.table.remark(format!("{} says of no address that could be taken over: write yours", self.source));
            self.listeners.push(listener);
        }
    }

    /// Ports that are neither a backend's nor a listener's.
    pub(in crate::import) fn free_ports(&self) -> impl Iterator<Item = u16> + use<> {
        let mut taken: HashSet<u16> = self.pools.iter().flat_map(|pool| pool.ports().iter().copied()).collect();
        taken.extend(self.by_address.keys().filter_map(|address| address.rsplit_once(':')?.1.parse::<u16>().ok()));
        (8080..=u16::MAX).filter(move |port| !taken.contains(port))
    }
}
