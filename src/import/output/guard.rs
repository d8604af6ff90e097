//! Owns: what becomes of routes that lost what kept requests out.
//! Invariant: what could be reached by some only is reached by nobody, until the operator has read of it.
//! Must not know: how a source is read; why nothing here does the same.

use super::super::grammar::is_below;
use super::super::guard::Place;
use super::super::route::{Request, Route};
use super::Output;

impl Output {
    /// Switches off the routes that lost what kept requests out, and all others by which the same requests
    /// would get to the same pool: paths can be written in more than one way, so that a route to a part of
    /// an application is no wall around the rest.
    pub(super) fn keep_out(&mut self) {
        for guard in std::mem::take(&mut self.guards) {
            let ids = self.guarded(&guard.place);
            let why = format!("{}, so that this is switched off", guard.why);
            for id in &ids {
                let route = &mut self.routes[*id];
                route.is_off = true;
                route.table.guard(guard.line, &guard.text, why.clone());
            }
            self.detours(&ids, guard.line);
            if !ids.is_empty() {
                continue;
            }
            let sole = match &guard.place {
                Place::Pool(name) if self.routes.is_empty() => self.pools.iter_mut().find(|pool| pool.name() == name),
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

    /// The routes to pools that a guard was before.
    fn guarded(&self, place: &Place) -> Vec<usize> {
        let all = self.routes.iter().enumerate().filter(|(_, route)| route.pool().is_some());
        match place {
            Place::Routes(ids) => all.filter(|(id, _)| ids.contains(id)).map(|(id, _)| id).collect(),
            Place::Pool(name) => all.filter(|(_, route)| route.pool() == Some(name)).map(|(id, _)| id).collect(),
            Place::Fronts(fronts, requests) => {
                let is_at = |route: &Route| route.fronts.iter().any(|front| fronts.contains(front));
                let requests: Vec<_> =
                    requests.iter().map(|request| (request, self.has_own(request, fronts))).collect();
                let meets = |route: &Route| requests.iter().any(|(request, has_own)| meets(route, request, *has_own));
                all.filter(|(_, route)| is_at(route) && meets(route)).map(|(id, _)| id).collect()
            }
        }
    }

    /// Whether a route is for these requests and no others.
    fn has_own(&self, request: &Request, fronts: &[usize]) -> bool {
        self.routes.iter().any(|route| {
            route.request.prefix == request.prefix
                && route.request.secure.is_none()
                && (route.request.hosts.is_empty() || route.request.hosts == request.hosts)
                && fronts.iter().all(|front| route.fronts.contains(front))
        })
    }

    /// Switches off what leads around a guard that was before these routes.
    fn detours(&mut self, ids: &[usize], line: usize) {
        let guarded: Vec<(String, Vec<String>, Vec<usize>)> = ids
            .iter()
            .filter_map(|id| {
                let route = &self.routes[*id];
                Some((route.pool()?.to_owned(), route.request.hosts.clone(), route.fronts.clone()))
            })
            .collect();
        let leads_around = |route: &Route| {
            guarded.iter().any(|(pool, hosts, fronts)| {
                route.pool() == Some(pool)
                    && route.request.shares_a_host(hosts)
                    && route.fronts.iter().any(|front| fronts.contains(front))
            })
        };
        for route in self.routes.iter_mut().filter(|route| !route.is_off && leads_around(route)) {
            route.is_off = true;
            route.table.remark(format!(
                "switched off, too: it leads to the pool that line {line} kept requests from, and paths can be written in more than one way"
            ));
        }
    }
}

/// Whether some of the requests go by this route, and not by one of their own.
fn meets(route: &Route, request: &Request, has_own: bool) -> bool {
    let is_below_it = is_below(&route.request.prefix, &request.prefix);
    let is_above_it = is_below(&request.prefix, &route.request.prefix);
    route.request.shares_a_host(&request.hosts) && (is_below_it || (is_above_it && !has_own))
}
