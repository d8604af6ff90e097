//! Owns: `location`: which requests go where.
//! Invariant: a request never goes to a pool that it did not go to, but for the segments of its path.
//! Must not know: listeners; what is said of a pool.

use super::super::grammar;
use super::super::guard::{Guard, Place};
use super::super::output::Output;
use super::super::route::{Goal, Request};
use super::guard::{self, Guards};
use super::known::{self, note_whole};
use super::pass;
use super::reader::{Reader, Scope, scoped};
use super::server::Server;
use super::syntax::Directive;
use super::{redirect, upstream};

impl<'d> Reader<'d> {
    pub(super) fn location(
        &mut self,
        location: &'d Directive,
        server: &Server,
        (above, around): (&Scope<'d>, &Guards<'d>),
        out: &mut Output,
    ) {
        let guards = around.inside(location);
        let prefix = match prefix(location) {
            Ok(prefix) => prefix,
            Err(why) => return self.refused(location, server, &guards, why, out),
        };
        let scope = scoped(location, above);
        let inside = || location.inside().iter();
        let answer = inside().find_map(|each| Some((each, redirect::read(each, server.name.as_deref())?)));
        if let Some((directive, redirect)) = answer {
            let request = Request::to(server.hosts.clone(), &prefix);
            self.redirect(directive, server, request, redirect, out);
            return self.rest(location, directive, &scope, out);
        }
        let pass = inside().find(|each| matches!(each.word(0), "proxy_pass" | "grpc_pass"));
        let is_nested = inside().any(|each| each.word(0) == "location");
        let pool = match pass.map(|pass| self.target(pass, &scope, out)) {
            Some(Ok(pool)) => Some(pool),
            Some(Err(why)) => return self.refused(location, server, &guards, why, out),
            None if !is_nested || inside().any(redirect::refuses) => {
                let why = "nothing in it is passed to a backend; a route with a shorter path takes its requests";
                return self.refused(location, server, &guards, why, out);
            }
            None => None,
        };
        let mut ids = Vec::new();
        if let (Some(pass), Some(index)) = (pass, pool) {
            let (strip, add) = self.rewritten(location, pass, &prefix);
            let goal = Goal::Pool { name: self.made[index].name().to_owned(), strip, add };
            ids = out.route(
                &server.fronts,
                &Request::to(server.hosts.clone(), &prefix),
                &goal,
                location.line,
                &location.text,
            );
            self.apply(&scope, index);
            for (each, why) in guards.all() {
                self.guarded.insert(each.at);
                let place = Place::Routes(ids.clone());
                out.guard(Guard { place, line: each.line, text: each.text.clone(), why: why.into() });
            }
            if let Some((line, text)) = server.guard.clone() {
                let why = "clients had to show a certificate, and others at the same address had not: write `client_ca` into [listeners.tls] of a listener, and its name into `listeners` of the route".into();
                out.guard(Guard { place: Place::Routes(ids.clone()), line, text, why });
            }
        }
        let stripped = inside().find(|each| redirect::stripped(each).is_some()).map(|each| each.at);
        for directive in location.inside() {
            match directive.word(0) {
                "proxy_pass" | "grpc_pass" | "location" => {}
                word if scope.contains_key(word) => {}
                word if guard::belongs(word) => {}
                "health_check" if pool.is_some() => {
                    if let Some(index) = pool {
                        upstream::health_check(directive, &mut self.made[index]);
                    }
                }
                "if" if directive.inside().iter().any(redirect::refuses) => {}
                "rewrite" if Some(directive.at) == stripped && pool.is_some() => {}
                _ if self.of_clients(directive, out) => {}
                _ => known::note(directive, out.notes(&ids)),
            }
        }
        for directive in location.inside().iter().filter(|each| each.word(0) == "location") {
            self.location(directive, server, (&scope, &guards), out);
        }
        let own = location.inside().iter().filter(|each| scope.contains_key(each.word(0)));
        self.unapplied(own, &mut out.unrouted);
        self.unguarded(location, out.notes(&ids));
    }

    /// Notes a location of which no route is made. What it kept out is kept out.
    fn refused(&mut self, location: &'d Directive, server: &Server, guards: &Guards<'d>, why: &str, out: &mut Output) {
        note_whole(location, why, &mut out.unrouted);
        let is_reached = !location.word(1).starts_with('@');
        if guards.is_empty() || !is_reached {
            return;
        }
        let path = if location.word(1) == "=" { grammar::prefix(location.word(2)) } else { prefix(location).ok() };
        let request = Request::to(server.hosts.clone(), path.as_deref().unwrap_or("/"));
        for (each, why) in guards.all().filter(|(each, _)| location.inside().iter().any(|own| own.at == each.at)) {
            let place = Place::Fronts(server.fronts.clone(), vec![request.clone()]);
            out.guard(Guard { place, line: each.line, text: each.text.clone(), why: why.into() });
        }
    }

    /// Notes what stands beside a redirect.
    fn rest(&mut self, location: &'d Directive, answer: &Directive, scope: &Scope<'d>, out: &mut Output) {
        let others = location.inside().iter().filter(|each| each.at != answer.at);
        for directive in others {
            match directive.word(0) {
                word if scope.contains_key(word) => {
                    out.unrouted.lost(directive.line, &directive.text, "the redirect answers first")
                }
                _ if self.of_clients(directive, out) => {}
                _ => known::note(directive, &mut out.unrouted),
            }
        }
    }

    /// What backends don't see of a path, and what they see before it.
    fn rewritten(&self, location: &Directive, pass: &Directive, prefix: &str) -> (Option<String>, Option<String>) {
        let path = pass::uri(pass.word(1));
        let own = (prefix != "/").then(|| prefix.to_owned());
        match path.map(|path| path.trim_end_matches('/')) {
            Some(path) if path == prefix.trim_end_matches('/') => (None, None),
            Some(path) => (own, grammar::prefix(path).filter(|path| path != "/")),
            None => {
                let stripped = location.inside().iter().find_map(redirect::stripped);
                (stripped.filter(|stripped| grammar::is_below(prefix, stripped)), None)
            }
        }
    }
}

/// The beginning of the path that a location is for.
fn prefix(location: &Directive) -> Result<String, &'static str> {
    match (location.word(1), location.words.len()) {
        ("=", _) => Err("routes take the beginnings of paths: one with path_prefix takes what lies below, too"),
        ("~" | "~*", _) => Err("routes take the beginnings of paths, not patterns"),
        ("^~", 3) => grammar::prefix(location.word(2)).ok_or("this is no path"),
        (path, 2) if path.starts_with('@') => Err("requests are not passed on from within"),
        (path, 2) => grammar::prefix(path).ok_or("routes take the beginnings of paths, not patterns"),
        _ => Err("this is no path"),
    }
}
