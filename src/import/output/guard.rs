//! Owns: the protection of routes whose access restrictions have no equivalent.
//! Invariant: a restricted route stays disabled until the operator enables it.
//! Must not know: the formats of sources.

use super::super::access::Access;
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
        // What routes have divides them, so that the rest disables no more than it has to.
        let is_had = |guard: &Guard| matches!(guard.kind, Restriction::Access(_));
        let (had, others): (Vec<_>, Vec<_>) = guards.into_iter().partition(is_had);
        for guard in had.into_iter().chain(others) {
            let ids = self.guarded(&guard.place);
            let is_for_requests = matches!(guard.kind, Restriction::Access(_))
                && matches!(guard.place, GuardScope::Groups(..) | GuardScope::PoolPart(..));
            if ids.is_empty() && is_for_requests && !self.routes.is_empty() {
                self.unrouted.unneeded(guard.line, &guard.text, "no route serves these requests");
                continue;
            }
            if let Restriction::Access(access) = &guard.kind
                && self.restrict(&ids, &guard, access)
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

    /// Restricts these routes, if they take it; returns whether they do.
    pub(in crate::import) fn restrict_on(&mut self, ids: &[usize], access: &Access) -> bool {
        let fits =
            !ids.is_empty() && ids.iter().all(|id| self.routes.get(*id).is_some_and(|route| route.takes(access)));
        for id in ids.iter().filter(|_| fits) {
            self.routes[*id].restrict(access);
        }
        fits
    }

    /// Restricts these routes; a route that also has other requests is divided. Returns false if that would not be what the
    /// source had.
    fn restrict(&mut self, ids: &[usize], guard: &Guard, access: &Access) -> bool {
        let (groups, requests) = match &guard.place {
            GuardScope::Groups(groups, requests) => (Some(groups), requests),
            GuardScope::PoolPart(_, requests) => (None, requests),
            GuardScope::Pool(_) | GuardScope::Routes(_) => return self.restrict_on(ids, access),
        };
        let areas = self.areas(requests);
        let mut parts: Vec<(usize, Request, Vec<usize>)> = Vec::new();
        for id in ids {
            let route = &self.routes[*id];
            let is_in = |group: &usize| groups.is_none_or(|groups| groups.contains(group));
            let at: Vec<usize> = route.groups.iter().copied().filter(is_in).collect();
            for area in areas.iter().filter(|area| area.meets(route, &at)) {
                match route.request.and(area.request) {
                    Some(part) if !parts.iter().any(|(known, other, _)| known == id && *other == part) => {
                        parts.push((*id, part, at.clone()));
                    }
                    Some(_) => {}
                    None => return false,
                }
            }
        }
        // Hosts go before paths: a route for more hosts never has the requests of one for these.
        let known = parts.clone();
        let rank = |id: usize, part: &Request| {
            let Request { hosts, prefix, .. } = &self.routes[id].request;
            (!hosts.is_empty(), part.hosts.iter().all(|host| hosts.contains(host)), prefix.len())
        };
        parts.retain(|(id, part, at)| {
            let is_before = |(other, same, there): &(usize, Request, Vec<usize>)| {
                same == part && rank(*other, part) > rank(*id, part) && at.iter().all(|group| there.contains(group))
            };
            !known.iter().any(is_before)
        });
        let is_whole = |(id, part, at): &(usize, Request, Vec<usize>)| {
            *part == self.routes[*id].request && at.len() == self.routes[*id].groups.len()
        };
        let is_free = |(id, part, at): &(usize, Request, Vec<usize>)| {
            self.routes.iter().enumerate().all(|(other, route)| {
                other == *id || !route.is_for_some_of(part) || route.groups.iter().all(|group| !at.contains(group))
            })
        };
        let takes = |(id, ..): &(usize, Request, Vec<usize>)| self.routes[*id].takes(access);
        if parts.is_empty() || !parts.iter().all(|part| takes(part) && (is_whole(part) || is_free(part))) {
            return false;
        }
        let (whole, parts): (Vec<_>, Vec<_>) = parts.into_iter().partition(is_whole);
        for (id, ..) in whole {
            self.routes[id].restrict(access);
        }
        for (id, part, at) in parts {
            let route = &mut self.routes[id];
            let mut new = route.narrowed(part, at);
            if new.request == route.request {
                route.groups.retain(|group| !new.groups.contains(group));
            }
            new.restrict(access);
            new.table.unneeded(guard.line, &guard.text, "this gives these requests a route of their own");
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
            GuardScope::PoolPart(name, requests) => {
                let areas = self.areas(requests);
                let meets = |route: &Route| areas.iter().any(|area| area.meets(route, &route.groups));
                all.filter(|(_, route)| route.pool() == Some(name) && meets(route)).map(|(id, _)| id).collect()
            }
            GuardScope::Groups(groups, requests) => {
                let areas = self.areas(requests);
                let meets = |route: &Route| {
                    let at: Vec<usize> = route.groups.iter().copied().filter(|group| groups.contains(group)).collect();
                    !at.is_empty() && areas.iter().any(|area| area.meets(route, &at))
                };
                all.filter(|(_, route)| meets(route)).map(|(id, _)| id).collect()
            }
        }
    }

    /// Returns these requests, each with the routes that are for exactly its path.
    fn areas<'g>(&self, requests: &'g [Request]) -> Vec<Area<'g>> {
        let own = |request: &Request| {
            let is_own = |route: &&Route| route.request.prefix == request.prefix && route.request.secure.is_none();
            let own = self.routes.iter().filter(is_own);
            own.map(|route| (route.request.hosts.clone(), route.groups.clone())).collect()
        };
        requests.iter().map(|request| Area { request, own: own(request) }).collect()
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

/// Requests that are restricted, and the hosts and listener groups of each route for exactly their path.
struct Area<'g> {
    request: &'g Request,
    own: Vec<(Vec<String>, Vec<usize>)>,
}

impl Area<'_> {
    /// Returns whether some of the requests at these listener groups match this route, and no more specific one.
    fn meets(&self, route: &Route, at: &[usize]) -> bool {
        let is_below_it = is_below(&route.request.prefix, &self.request.prefix);
        let is_above_it = is_below(&self.request.prefix, &route.request.prefix);
        route.request.shares_a_host(&self.request.hosts) && (is_below_it || (is_above_it && !self.has_own(route, at)))
    }

    /// Returns whether routes of their own have all of the requests that would match this one. Hosts go before paths: a
    /// route for every host has none of the requests of one for some.
    fn has_own(&self, route: &Route, at: &[usize]) -> bool {
        let mut own = self.own.iter().filter(|(_, groups)| at.iter().all(|group| groups.contains(group)));
        let Some(part) = route.request.and(self.request) else { return false };
        match (route.request.hosts.is_empty(), part.hosts.is_empty()) {
            (true, true) => own.any(|(hosts, _)| hosts.is_empty()),
            (true, false) if own.clone().any(|(hosts, _)| hosts.is_empty()) => true,
            _ => part.hosts.iter().all(|host| own.clone().any(|(hosts, _)| hosts.contains(host))),
        }
    }
}
