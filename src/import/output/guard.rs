//! Owns: the protection of routes whose access restrictions have no equivalent.
//! Invariant: a restricted route stays disabled until the operator enables it.
//! Must not know: the formats of sources.

use super::super::address_lists::AddressLists;
use super::super::grammar::is_below;
use super::super::guard::GuardScope;
use super::super::route::{Request, Route};
use super::Output;

impl Output {
    /// Disables the routes with restrictions, and all other routes by which the same requests would reach
    /// the same pool: a path can be spelled in more than one way, so a route to a part of an application
    /// does not protect the rest.
    pub(super) fn disable_guarded(&mut self) {
        for guard in std::mem::take(&mut self.guards) {
            let ids = self.guarded(&guard.place);
            if guard.lists.as_ref().is_some_and(|lists| self.list_addresses(&ids, &guard.place, lists)) {
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
    }

    /// Writes lists of addresses into these routes. Returns false if that would not be what the source had: if a route also
    /// has other requests, or has such a list already.
    fn list_addresses(&mut self, ids: &[usize], place: &GuardScope, lists: &AddressLists) -> bool {
        let is_whole = |route: &Route| match place {
            GuardScope::Pool(_) | GuardScope::Routes(_) => true,
            GuardScope::Groups(_, requests) => requests.iter().any(|request| {
                let has_hosts = request.hosts.is_empty()
                    || !route.request.hosts.is_empty()
                        && route.request.hosts.iter().all(|host| request.hosts.contains(host));
                has_hosts && is_below(&route.request.prefix, &request.prefix)
            }),
        };
        // At all of its listeners, or a route would refuse elsewhere what the source served there.
        let is_at_all = |route: &Route| match place {
            GuardScope::Groups(groups, _) => route.groups.iter().all(|group| groups.contains(group)),
            GuardScope::Pool(_) | GuardScope::Routes(_) => true,
        };
        let fits = |id: &usize| {
            self.routes.get(*id).is_some_and(|route| is_whole(route) && route.takes(lists) && is_at_all(route))
        };
        if ids.is_empty() || !ids.iter().all(fits) {
            return false;
        }
        for id in ids {
            self.routes[*id].restrict(lists);
        }
        true
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
