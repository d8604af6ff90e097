//! Owns: the conversion of `location` into routes.
//! Invariant: a route sends a request to the same pool as nginx did, except that its path matches by whole segments.
//! Must not know: listeners; the settings of pools.

use super::super::access::Access;
use super::super::address_lists::AddressLists;
use super::super::field_edits::{Change, FieldEdit, Message};
use super::super::grammar;
use super::super::guard::{Guard, GuardScope, Restriction};
use super::super::output::Output;
use super::super::pool::ErrorPage;
use super::super::route::{Destination, Request};
use super::super::units::{self, Address};
use super::fields::{self, Fields};
use super::guard::{self, Guards};
use super::known::{self, note_whole};
use super::limits;
use super::pages::{self, Page, Pages};
use super::pass;
use super::reader::{Reader, Scope, scoped};
use super::server::Server;
use super::syntax::Directive;
use super::{redirect, upstream};

impl<'d> Reader<'d> {
    pub(super) fn location(
        &mut self,
        location: &'d Directive,
        server: &Server<'d>,
        (above, around, fields, pages): (&Scope<'d>, &Guards<'d>, &Fields<'d>, &Pages<'d>),
        out: &mut Output,
    ) {
        let guards = around.inside(location);
        let fields = fields.inside(location.inside());
        let pages = pages.inside(location.inside());
        let prefix = match prefix(location) {
            Ok(prefix) => prefix,
            Err(why) => return self.refused(location, server, &guards, why, out),
        };
        let scope = scoped(location, above);
        let inside = || location.inside().iter();
        let answer = inside().find_map(|each| Some((each, redirect::read(each, server.name.as_deref())?)));
        if let Some((directive, redirect)) = answer {
            let request = Request::to(server.hosts.clone(), &prefix);
            let ids = self.redirect(directive, server, request, redirect, out);
            self.edit(&fields, &ids, out);
            return self.rest(location, directive, &scope, out);
        }
        let pass = inside().find(|each| matches!(each.word(0), "proxy_pass" | "grpc_pass"));
        let is_nested = inside().any(|each| each.word(0) == "location");
        let pool = match pass.map(|pass| self.target(pass, &scope, out)) {
            Some(Ok(pool)) => Some(pool),
            Some(Err(why)) => return self.refused(location, server, &guards, why, out),
            None if !is_nested || inside().any(redirect::refuses) => {
                let why = "it passes no request to a backend; its requests follow the route with the next shorter path";
                return self.refused(location, server, &guards, why, out);
            }
            None => None,
        };
        let mut ids = Vec::new();
        if let (Some(pass), Some(index)) = (pass, pool) {
            let (strip, add) = self.rewritten(location, pass, &prefix);
            let destination = Destination::Pool { name: self.made[index].name().to_owned(), strip, add };
            ids = out.route(
                &server.groups,
                &Request::to(server.hosts.clone(), &prefix),
                &destination,
                location.line,
                &location.text,
            );
            self.apply(&scope, index);
            self.error_pages(&pages, (location, server), index);
            self.edit(&fields, &ids, out);
            self.limit(&scope, &ids, out);
            if pass.word(0) == "proxy_pass" && !fields.sets_host() {
                self.own_host(pass, &ids, out);
            }
            self.restrict(location, &guards, &ids, out);
            if let Some((line, text)) = server.guard.clone() {
                let why = "clients had to present a certificate here, but not everywhere at this address: set `client_ca` in [listeners.tls] of a separate listener, and its name in `listeners` of the route".into();
                out.guard(Guard { place: GuardScope::Routes(ids.clone()), line, text, why, kind: Restriction::Lost });
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
                "error_page" => {}
                "if" if directive.inside().iter().any(redirect::refuses) => {}
                "rewrite" if Some(directive.at) == stripped && pool.is_some() => {}
                _ if fields::edits(directive).is_some() || self.of_clients(directive, out) => {}
                _ => known::note(directive, out.notes(&ids)),
            }
        }
        for directive in location.inside().iter().filter(|each| each.word(0) == "location") {
            self.location(directive, server, (&scope, &guards, &fields, &pages), out);
        }
        let is_kept = |each: &&Directive| {
            scope.contains_key(each.word(0)) || fields::edits(each).is_some() || each.word(0) == "error_page"
        };
        let own = location.inside().iter().filter(is_kept);
        self.unapplied(own, &mut out.unrouted);
        self.unguarded(location, out.notes(&ids));
    }

    /// Gives a pool the pages for errors that apply in a location.
    fn error_pages(&mut self, pages: &Pages<'d>, (location, server): (&'d Directive, &Server<'d>), index: usize) {
        for (directive, page) in pages.read(&[self.http, server.inside, location.inside()]) {
            match page {
                Ok(Page { statuses, file, .. }) => {
                    let (line, text) = (directive.line, directive.text.clone());
                    self.made[index].error_page(ErrorPage { statuses, file, line, text });
                    self.applied.insert(directive.at);
                }
                Err(why) => drop(self.lost_pages.insert(directive.at, why)),
            }
        }
    }

    /// Limits the bodies and the clients of a location's routes.
    fn limit(&mut self, scope: &Scope<'d>, ids: &[usize], out: &mut Output) {
        let part = self.limits_of(scope);
        out.client_limits.push(part);
        let Some(directive) = scope.get("client_max_body_size") else { return };
        self.applied.insert(directive.at);
        let is_of_all = self.http.iter().any(|each| each.at == directive.at);
        match limits::body_bytes(directive) {
            Some(bytes) if !is_of_all => out.set_on(ids, "body_bytes", &bytes),
            None if !is_of_all => out.notes(ids).unsupported(directive.line, &directive.text, "not a size"),
            _ => {}
        }
    }

    /// Restricts the routes of a location.
    fn restrict(&mut self, location: &Directive, guards: &Guards<'d>, ids: &[usize], out: &mut Output) {
        let translated = guards.translated();
        let is_listed = translated.lists.is_none_or(|lists| out.restrict_on(ids, &Access::Lists(lists)));
        if let Some(value) = &translated.passwords {
            out.set_on(ids, "basic_auth", value);
        }
        let is_translated = |each: &Directive| {
            let is_list = matches!(each.word(0), "allow" | "deny");
            (is_listed || !is_list) && translated.directives.iter().any(|known| known.at == each.at)
        };
        let guard = |each: &Directive, why: &str, kind| {
            let place = GuardScope::Routes(ids.to_vec());
            Guard { place, line: each.line, text: each.text.clone(), why: why.into(), kind }
        };
        self.guarded.extend(translated.directives.iter().map(|each| each.at));
        for (each, why) in guards.all() {
            self.guarded.insert(each.at);
            match is_translated(each) {
                false => out.guard(guard(each, why, Restriction::Lost)),
                true if !location.words.last().is_some_and(|path| path.ends_with('/')) => {
                    out.guard(guard(each, why, Restriction::Names));
                }
                true => {}
            }
        }
    }

    /// Keeps the Host that nginx sends by default: that of the URL. A group's name or an address is no more than mentioned.
    fn own_host(&mut self, pass: &Directive, ids: &[usize], out: &mut Output) {
        let host = pass::authority(pass.word(1));
        let is_name = !self.upstreams.contains_key(host) && matches!(units::address(host, Some(80)), Address::Name(..));
        let edit = FieldEdit::new(Message::Request, "Host", Change::Set(host.into())).ok().filter(|_| is_name);
        match edit {
            Some(edit) => out.edit(GuardScope::Routes(ids.to_vec()), edit, pass.line, &pass.text),
            None => drop(self.own_hosts.insert(pass.line)),
        }
    }

    /// Notes a location that becomes no route. Its access restrictions still apply.
    fn refused(
        &mut self,
        location: &'d Directive,
        server: &Server<'d>,
        guards: &Guards<'d>,
        why: &str,
        out: &mut Output,
    ) {
        let is_reached = !location.word(1).starts_with('@');
        let is_page = self.page_locations.contains(&location.at)
            && location.inside().iter().all(|each| pages::belongs(each.word(0)) || guard::belongs(each.word(0)));
        let is_restriction = |each: &Directive| guard::belongs(each.word(0)) || redirect::refuses(each) || is_page;
        // A route of its own refuses what only refuses.
        let only_refuses = is_reached && prefix(location).is_ok() && location.inside().iter().all(is_restriction);
        if !is_page && (!only_refuses || guards.is_empty()) {
            note_whole(location, why, &mut out.unrouted);
        }
        if guards.is_empty() || !is_reached {
            return;
        }
        let own = |each: &Directive| location.inside().iter().any(|own| own.at == each.at);
        if is_of_hidden_files(location) {
            for (each, _) in guards.all().filter(|(each, _)| own(each)) {
                out.unrouted.guard(each.line, &each.text, HIDDEN);
            }
            return;
        }
        let path = if location.word(1) == "=" { grammar::prefix(location.word(2)) } else { prefix(location).ok() };
        let request = Request::to(server.hosts.clone(), path.as_deref().unwrap_or("/"));
        let translated = guards.translated();
        for (each, why) in guards.all().filter(|(each, _)| own(each)) {
            let is_list = translated.directives.iter().any(|known| known.at == each.at);
            let is_refusal = redirect::refuses(each) || each.word(0) == "internal";
            let kind = match (&translated.lists, &path) {
                (Some(lists), Some(_)) if is_list && matches!(each.word(0), "allow" | "deny") => {
                    Restriction::Access(Access::Lists(lists.clone()))
                }
                (_, Some(_)) if is_refusal => Restriction::Access(Access::Lists(AddressLists::nobody())),
                _ => Restriction::Lost,
            };
            let place = GuardScope::Groups(server.groups.clone(), vec![request.clone()]);
            out.guard(Guard { place, line: each.line, text: each.text.clone(), why: why.into(), kind });
        }
    }

    /// Notes the other directives of a location that redirects.
    fn rest(&mut self, location: &'d Directive, answer: &Directive, scope: &Scope<'d>, out: &mut Output) {
        let others = location.inside().iter().filter(|each| each.at != answer.at);
        for directive in others {
            match directive.word(0) {
                word if scope.contains_key(word) => {
                    out.unrouted.unsupported(directive.line, &directive.text, "the redirect comes first")
                }
                _ if fields::edits(directive).is_some() && self.applied.contains(&directive.at) => {}
                _ if self.of_clients(directive, out) => {}
                _ => known::note(directive, &mut out.unrouted),
            }
        }
    }

    /// Returns the path prefixes to strip and to add.
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

/// The reason why a restriction of files whose names begin with a dot disables nothing.
const HIDDEN: &str = "Linchpin serves no files: if a server behind it does, refuse hidden ones there";

/// Returns whether a location is a pattern for paths such as `/.git` and `/.htaccess` alone.
fn is_of_hidden_files(location: &Directive) -> bool {
    let pattern = location.word(2).trim_start_matches('^');
    matches!(location.word(1), "~" | "~*") && (pattern.starts_with("/\\.") || pattern.starts_with("\\/\\."))
}

/// Returns the path prefix of a location.
fn prefix(location: &Directive) -> Result<String, &'static str> {
    match (location.word(1), location.words.len()) {
        ("=", _) => Err("routes match the beginning of a path: path_prefix also matches everything below it"),
        ("~" | "~*", _) => Err("routes match the beginning of a path, not a pattern"),
        ("^~", 3) => grammar::prefix(location.word(2)).ok_or("not a path"),
        (path, 2) if path.starts_with('@') => Err("Linchpin has no internal redirects"),
        (path, 2) => grammar::prefix(path).ok_or("routes match the beginning of a path, not a pattern"),
        _ => Err("not a path"),
    }
}
