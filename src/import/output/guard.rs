//! Owns: the protection of routes whose access restrictions have no equivalent.
//! Invariant: a restricted route stays disabled until the operator enables it.
//! Must not know: the formats of sources.

use super::super::address_lists::AddressLists;
use super::super::grammar::is_below;
use super::super::guard::{Guard, GuardScope, Restriction};
use super::super::reasons::NAMES;
use super::super::route::{Request, Route};
use super::Output;

impl Output {
    /// Disables the routes with restrictions, and all other routes by which the same requests would reach
    /// the same pool: a path can be spelled in more than one way, so a route to a part of an application
    /// does not protect the rest.
    pub(super) fn disable_guarded(&mut self) {
        let is_of_names = |guard: &Guard| matches!(guard.kind, Restriction::Names);
        let (names, guards): (Vec<_>, Vec<_>) = std::mem::take(&mut self.guards).into_iter().partition(is_of_names);
        for guard in guards {
            let ids = self.guarded(&guard.place);
            let is_list = matches!(guard.kind, Restriction::Lists(_)) && matches!(guard.place, GuardScope::Groups(..));
            if ids.is_empty() && is_list && !self.routes.is_empty() {
                self.unrouted.unneeded(guard.line, &guard.text, "no route serves these requests");
                continue;
            }
            if let Restriction::Lists(lists) = &guard.kind
                && self.list_addresses(&ids, &guard, lists)
            {
                continue;
            }
            let why = format!("{}, so this is disabled", guard.why);
            for id in &ids {
                let route = &mut self.routes[*id];
                route.is_off = true;
                route.table.guard(guard.line, &guard.text, why.clone());
            }
            self.disable_detours(&ids, guard.line);
            if !ids.is_empty() {
                continue;
            }
            let sole = match &guard.place {
                GuardScope::Pool(name) if self.routes.is_empty() => {
                    self.pools.iter_mut().find(|pool| pool.name() == name)
                }
                _ => None,
            };
            match sole {
                Some(pool) => {
                    pool.is_kept = true;
                    pool.main.guard(guard.line, &guard.text, why);
                }
                None => self.unrouted.guard(guard.line, &guard.text, guard.why),
            }
        }
        self.note_names(names);
    }

    /// Restricts routes to lists of addresses, if they take them; returns whether they do.
    pub(in crate::import) fn list_on(&mut self, ids: &[usize], lists: &AddressLists) -> bool {
        let fits = !ids.is_empty() && ids.iter().all(|id| self.routes.get(*id).is_some_and(|route| route.takes(lists)));
        for id in ids.iter().filter(|_| fits) {
            self.routes[*id].restrict(lists);
        }
        fits
    }

    /// Writes lists of addresses into these routes; a route that also has other requests is divided. Returns false if that
    /// would not be what the source had.
    fn list_addresses(&mut self, ids: &[usize], guard: &Guard, lists: &AddressLists) -> bool {
        let GuardScope::Groups(groups, requests) = &guard.place else { return self.list_on(ids, lists) };
        let requests: Vec<_> = requests.iter().map(|request| (request, self.has_own(request, groups))).collect();
        let mut parts: Vec<(usize, Request, Vec<usize>)> = Vec::new();
        for id in ids {
            let route = &self.routes[*id];
            let at: Vec<usize> = route.groups.iter().copied().filter(|group| groups.contains(group)).collect();
            for (request, _) in requests.iter().filter(|(request, has_own)| meets(route, request, *has_own)) {
                match route.request.and(request) {
                    Some(part) if !parts.iter().any(|(known, other, _)| known == id && *other == part) => {
                        parts.push((*id, part, at.clone()));
                    }
                    Some(_) => {}
                    None => return false,
                }
            }
        }
        let is_whole = |(id, part, at): &(usize, Request, Vec<usize>)| {
            *part == self.routes[*id].request && at.len() == self.routes[*id].groups.len()
        };
        let is_free = |(id, part, at): &(usize, Request, Vec<usize>)| {
            self.routes.iter().enumerate().all(|(other, route)| {
                other == *id || !route.is_for_some_of(part) || route.groups.iter().all(|group| !at.contains(group))
            })
        };
        let takes = |(id, ..): &(usize, Request, Vec<usize>)| self.routes[*id].takes(lists);
        if parts.is_empty() || !parts.iter().all(|part| takes(part) && (is_whole(part) || is_free(part))) {
            return false;
        }
        let (whole, parts): (Vec<_>, Vec<_>) = parts.into_iter().partition(is_whole);
        for (id, ..) in whole {
            self.routes[id].restrict(lists);
        }
        for (id, part, at) in parts {
            let route = &mut self.routes[id];
            let mut new = route.narrowed(part, at);
            if new.request == route.request {
                route.groups.retain(|group| !new.groups.contains(group));
            }
            new.restrict(lists);
            new.table.unneeded(guard.line, &guard.text, "a route of its own, as the rest of these requests is served");
            self.routes.push(new);
        }
        true
    }

    /// Notes restrictions for paths that begin with a prefix, where another route serves the paths that the route of the
    /// prefix does not match.
    fn note_names(&mut self, names: Vec<Guard>) {
        for guard in names {
            let is_wider = |own: &Route, other: &Route| {
                !other.is_off
                    && other.pool().is_some()
                    && other.request.prefix != own.request.prefix
                    && is_below(&own.request.prefix, &other.request.prefix)
                    && own.request.shares_a_host(&other.request.hosts)
                    && own.groups.iter().any(|group| other.groups.contains(group))
                    && !own.has_same_access(other)
            };
            let own = self.guarded(&guard.place).into_iter().map(|id| (id, &self.routes[id]));
            let mut own = own.filter(|(_, route)| route.request.prefix != "/");
            let first = own.find(|(_, own)| self.routes.iter().any(|other| is_wider(own, other))).map(|(id, _)| id);
            if let Some(id) = first {
                self.routes[id].table.guard(guard.line, &guard.text, NAMES);
            }
        }
    }

    /// Returns the routes that a restriction applied to.
    fn guarded(&self, place: &GuardScope) -> Vec<usize> {
        let all = self.routes.iter().enumerate().filter(|(_, route)| route.pool().is_some());
        match place {
            GuardScope::Routes(ids) => all.filter(|(id, _)| ids.contains(id)).map(|(id, _)| id).collect(),
            GuardScope::Pool(name) => all.filter(|(_, route)| route.pool() == Some(name)).map(|(id, _)| id).collect(),
            GuardScope::Groups(groups, requests) => {
                let is_at = |route: &Route| route.groups.iter().any(|group| groups.contains(group));
                let requests: Vec<_> =
                    requests.iter().map(|request| (request, self.has_own(request, groups))).collect();
                let meets = |route: &Route| requests.iter().any(|(request, has_own)| meets(route, request, *has_own));
                all.filter(|(_, route)| is_at(route) && meets(route)).map(|(id, _)| id).collect()
            }
        }
    }

    /// Returns whether some route is for exactly these requests.
    fn has_own(&self, request: &Request, groups: &[usize]) -> bool {
        self.routes.iter().any(|route| {
            route.request.prefix == request.prefix
                && route.request.secure.is_none()
                && (route.request.hosts.is_empty() || route.request.hosts == request.hosts)
                && groups.iter().all(|group| route.groups.contains(group))
        })
    }

    /// Disables the routes that would bypass the restriction of these routes.
    fn disable_detours(&mut self, ids: &[usize], line: usize) {
        let guarded: Vec<(String, Vec<String>, Vec<usize>)> = ids
            .iter()
            .filter_map(|id| {
                let route = &self.routes[*id];
                Some((route.pool()?.to_owned(), route.request.hosts.clone(), route.groups.clone()))
            })
            .collect();
        let leads_around = |route: &Route| {
            guarded.iter().any(|(pool, hosts, groups)| {
                route.pool() == Some(pool)
                    && route.request.shares_a_host(hosts)
                    && route.groups.iter().any(|group| groups.contains(group))
            })
        };
        for route in self.routes.iter_mut().filter(|route| !route.is_off && leads_around(route)) {
            route.is_off = true;
            route.table.comment(format!(
                "also disabled: it leads to the pool that line {line} protected, and a path can be spelled in more than one way"
            ));
        }
    }
}

/// Returns whether some of the requests match this route, and no more specific one.
fn meets(route: &Route, request: &Request, has_own: bool) -> bool {
    let is_below_it = is_below(&route.request.prefix, &request.prefix);
    let is_above_it = is_below(&request.prefix, &route.request.prefix);
    route.request.shares_a_host(&request.hosts) && (is_below_it || (is_above_it && !has_own))
}
