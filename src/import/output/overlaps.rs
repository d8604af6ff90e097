//! Owns: what becomes of listeners that HAProxy and nginx open beside each other, and Linchpin can't: a wildcard
//! address, and an address of the same port.
//! Invariant: a listener joins another only if that one has the same TLS and settings; restricted requests stay so.
//! Must not know: the formats of sources.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::listener::Listener;
use super::super::own_addresses::OwnAddresses;
use super::{ListenerGroup, Output};
use crate::net::Address;

impl Output {
    /// Joins each listener whose address another one has, too, to that one, or disables it. Returns the addresses
    /// of all listeners. Listeners can't be looked up by their address any more.
    pub(super) fn join_overlapping(&mut self) -> OwnAddresses {
        let mut own_addresses = OwnAddresses::default();
        for (address, index) in std::mem::take(&mut self.by_address) {
            if let Ok(address) = address.parse() {
                own_addresses.add(&address, index);
            }
        }
        let live = self.listeners.iter().enumerate().filter(|(_, listener)| !listener.is_off());
        let mut live: Vec<(usize, Address)> =
            live.filter_map(|(index, listener)| Some((index, listener.address()?))).collect();
        live.sort_by_key(|(_, address)| width(address));
        let mut kept = OwnAddresses::default();
        let mut joined = Vec::new();
        let mut separate = HashSet::new();
        for (index, address) in live {
            match kept.overlapping(&address) {
                None => kept.add(&address, index),
                Some(wide) => {
                    if self.join(index, wide, &mut separate) {
                        joined.push((index, wide));
                    }
                }
            }
        }
        let mut listeners: BTreeMap<usize, Listener> =
            std::mem::take(&mut self.listeners).into_iter().enumerate().collect();
        for (index, wide) in joined {
            if let (Some(listener), Some(wide)) = (listeners.remove(&index), listeners.get_mut(&wide)) {
                wide.absorb(listener);
            }
        }
        self.listeners = listeners.into_values().collect();
        own_addresses
    }

    /// Makes the listener `wide` serve what the listener `index` serves; returns false if that one is disabled
    /// instead. `separate` has the listeners that were separated from their group.
    fn join(&mut self, index: usize, wide: usize, separate: &mut HashSet<usize>) -> bool {
        let (own, other) = (&self.listeners[index], &self.listeners[wide]);
        let (line, text) = (own.line, own.text.clone());
        let at = other.address().map(|address| address.to_string()).unwrap_or_default();
        let (from, to) = (own.group, other.group);
        let is_like = own.is_like(other);
        let is_private = is_loopback(own.address()) && !is_loopback(other.address());
        let is_at = |key, id: &usize, group: usize| {
            let other = self.groups[group].routes.get(key);
            other.is_some_and(|other| self.routes[*other].destination == self.routes[*id].destination)
        };
        let has_more = self.groups[from].routes.iter().any(|(key, id)| !is_at(key, id, to));
        let has_same = !has_more && self.groups[from].routes.len() == self.groups[to].routes.len();
        if !is_like || (is_private && has_more) {
            let why = match is_like {
                true => "but not only from this machine",
                false => "with other TLS or other settings",
            };
            let why = format!("{at} accepts these connections, too, {why}; this is disabled: choose another port");
            self.listeners[index].switch_off(line, &text, why);
            return false;
        }
        if from != to {
            if separate.insert(wide) {
                self.separate(wide);
            }
            self.extend(from, self.listeners[wide].group, &at);
        }
        self.groups[from].has_joined = true;
        let table = &mut self.listeners[index].table;
        let accepts = format!("{at} accepts these connections, too");
        match has_same {
            true => table.unneeded(line, &text, accepts),
            false => table.unsupported(
                line,
                &text,
                format!("{accepts}; routes can't tell the addresses apart, so those of both are for all clients"),
            ),
        }
        true
    }

    /// Gives a listener a group of its own, with the routes and restrictions of its group. The other listeners of that
    /// group don't serve what joins this one. And what joins is no route of its own for the restricted requests: they
    /// would still match the routes that were restricted for lack of one.
    fn separate(&mut self, listener: usize) {
        let group = self.listeners[listener].group;
        let new = self.groups.len();
        self.groups.push(ListenerGroup { has_joined: false, ..self.groups[group].clone() });
        self.listeners[listener].group = new;
        let ids: BTreeSet<usize> = self.groups[new].routes.values().copied().collect();
        for id in ids {
            self.routes[id].groups.push(new);
        }
        for guard in &mut self.guards {
            guard.extend_to_group(group, new);
        }
    }

    /// Serves the routes of the group `from` at `to`, too, except for requests that already have a route there.
    fn extend(&mut self, from: usize, to: usize, at: &str) {
        let ids: BTreeSet<usize> = self.groups[from].routes.values().copied().collect();
        for id in ids {
            let route = &self.routes[id];
            let (request, destination) = (route.request.clone(), route.destination.clone());
            let key = |host: &String| (request.secure, request.prefix.clone(), host.clone());
            let every_host = vec![String::new()];
            let hosts = if request.hosts.is_empty() { &every_host } else { &request.hosts };
            let routes = &self.groups[to].routes;
            let (free, taken): (Vec<_>, Vec<_>) =
                hosts.iter().cloned().partition(|host| !routes.contains_key(&key(host)));
            let others: BTreeSet<usize> = taken.iter().filter_map(|host| routes.get(&key(host)).copied()).collect();
            if !free.is_empty() {
                let served = if taken.is_empty() { id } else { self.split(id, &free, taken) };
                self.groups[to].routes.extend(free.iter().map(|host| (key(host), served)));
                self.routes[served].groups.push(to);
            }
            // Equal routes are merged, and need no comment.
            let others = others.into_iter().map(|other| &self.routes[other]);
            let others =
                others.filter(|other| other.request != self.routes[id].request || other.destination != destination);
            let others: BTreeSet<String> = others.map(|other| other.destination.shown()).collect();
            for other in others {
                self.routes[id].table.comment(format!("at {at}, these requests already go to {other}"));
            }
        }
    }

    /// Gives these hosts a route of their own, and leaves the others; returns the new route.
    fn split(&mut self, id: usize, hosts: &[String], others: Vec<String>) -> usize {
        let new = self.routes.len();
        let route = self.routes[id].split(hosts, others);
        let key = |host: &String| (route.request.secure, route.request.prefix.clone(), host.clone());
        for group in &route.groups {
            self.groups[*group].routes.extend(hosts.iter().map(|host| (key(host), new)));
        }
        for guard in &mut self.guards {
            guard.extend_to_route(id, new);
        }
        self.routes.push(route);
        new
    }
}

/// Returns the place of an address in the order of joining: wildcards are first, those of IPv6 before those of IPv4.
fn width(address: &Address) -> u8 {
    match address.to_canonical().ip() {
        Some(ip) if ip.is_unspecified() => u8::from(ip.is_ipv4()),
        _ => 2,
    }
}

fn is_loopback(address: Option<Address>) -> bool {
    address.and_then(|address| address.to_canonical().ip()).is_some_and(|ip| ip.is_loopback())
}
