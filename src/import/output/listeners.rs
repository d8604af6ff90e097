//! Owns: which listeners each route is for.
//! Invariant: no address serves a route that it did not serve in the source, except where `overlaps` says so.
//! Must not know: the formats of sources.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::listener::Listener;
use super::super::toml::Value;
use super::super::unique_names::UniqueNames;
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
            self.listeners.iter().filter(|each| !each.is_off()).map(|each| each.group).collect();
        let is_open_at_all = |groups: &[usize]| live.iter().all(|group| groups.contains(group));
        let is_shut = |groups: &[usize]| groups.iter().all(|group| !live.contains(group));
        if self.routes.iter().any(|route| !is_open_at_all(&route.groups) || is_shut(&route.groups)) {
            self.tie(&live);
        }
        let mut noted = HashSet::new();
        for route in self.routes.iter_mut().filter(|route| is_shut(&route.groups)) {
            route.is_off = true;
            let all = route.groups.iter().filter(|group| noted.insert(**group)).map(|group| &self.groups[*group]);
            for group in all.filter(|group| !group.has_joined) {
                let at = if group.line > 0 { format!(", line {}", group.line) } else { String::new() };
                route.table.comment(format!("disabled: none of its listeners could be imported ({}{at})", group.text));
            }
        }
    }

    /// Sets `listeners` of each route: those that are enabled, if any is.
    fn tie(&mut self, live: &BTreeSet<usize>) {
        let mut names = UniqueNames::default();
        let mut by_group: HashMap<usize, Vec<(String, bool)>> = HashMap::new();
        for listener in &mut self.listeners {
            let name = names.take(&self.groups[listener.group].name);
            listener.table.set("name", Value::text(&name));
            by_group.entry(listener.group).or_default().push((name, listener.is_off()));
        }
        for route in &mut self.routes {
            let is_shut = route.groups.iter().all(|group| !live.contains(group));
            let all = route.groups.iter().filter_map(|group| by_group.get(group)).flatten();
            let tied: Vec<_> = all.filter(|(_, is_off)| is_shut || !is_off).map(|(name, _)| name.as_str()).collect();
            if !tied.is_empty() {
                route.table.set("listeners", Value::list(tied));
            }
        }
    }

    /// Adds a listener for each listener group with routes, on the loopback address and on ports that
    /// no backend has.
    fn invent(&mut self) {
        let mut groups: BTreeSet<usize> = self.routes.iter().flat_map(|route| route.groups.iter().copied()).collect();
        if groups.is_empty() {
            groups.insert(0);
        }
        let ports: Vec<u16> = self.free_ports().chain([8080]).take(groups.len()).collect();
        for (group, port) in groups.into_iter().zip(ports) {
            let mut listener = Listener::new(group, &format!("127.0.0.1:{port}"), 0, "");
            listener.table.comment(format!("{} has no address that could be imported: set yours", self.source));
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
