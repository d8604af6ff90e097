//! Owns: the conversion of `server`: its listeners, hosts and redirects.
//! Invariant: directives of a server apply to each of its routes.
//! Must not know: how a location is converted.

use super::super::field_edits::Message;
use super::super::grammar;
use super::super::guard::GuardScope;
use super::super::output::Output;
use super::super::route::{Destination, Redirect, Request};
use super::super::toml::Table;
use super::fields::{self, Fields};
use super::guard::{self, Guards};
use super::known::{self, note_whole};
use super::listen::OF_LISTENERS;
use super::pages::Pages;
use super::reader::{Reader, Scope, scoped};
use super::redirect::{self, If};
use super::syntax::Directive;

/// A server being read.
pub(super) struct Server<'d> {
    pub(super) inside: &'d [Directive],
    pub(super) groups: Vec<usize>,
    /// Empty for all hosts.
    pub(super) hosts: Vec<String>,
    /// The first name.
    pub(super) name: Option<String>,
    /// The line and text of a requirement of client certificates that the listener can't enforce.
    pub(super) guard: Option<(usize, String)>,
}

impl<'d> Reader<'d> {
    pub(super) fn server(
        &mut self,
        server: &'d Directive,
        (above, guards, fields, pages): (&Scope<'d>, &Guards<'d>, &Fields<'d>, &Pages<'d>),
        out: &mut Output,
    ) {
        if !answers(server) {
            let why = "it sends no request to a backend";
            return note_whole(server, why, &mut out.unrouted);
        }
        let scope = scoped(server, above);
        let guards = guards.inside(server);
        let fields = fields.inside(server.inside());
        let pages = pages.inside(server.inside());
        self.find_pages(server, &pages);
        let listening = self.listen(server, out);
        let mut names = Vec::new();
        for directive in server.inside().iter().filter(|each| each.word(0) == "server_name") {
            hosts(directive, &mut names, out);
        }
        let verify = server.inside().iter().chain(self.http).find(|each| Some(each.at) == listening.guard);
        let mut read = Server {
            inside: server.inside(),
            groups: listening.groups,
            name: names.first().cloned(),
            hosts: names,
            guard: verify.map(|each| (each.line, each.text.clone())),
        };
        if !read.hosts.is_empty() && takes_all(server) {
            read.hosts.clear();
        }
        if read.hosts.is_empty() {
            self.has_default = true;
        } else {
            self.first = self.first.or(Some(server.line));
        }
        let first_answer = server.inside().iter().find(|each| self.is_answer(each, &read));
        for directive in server.inside() {
            match directive.word(0) {
                "listen" | "server_name" | "error_page" => {}
                "location" => match first_answer {
                    Some(answer) => {
                        note_whole(directive, &format!("line {} responds first", answer.line), &mut out.unrouted)
                    }
                    None => self.location(directive, &read, (&scope, &guards, &fields, &pages), out),
                },
                "return" | "rewrite" | "if" => {
                    let ids = self.answer(directive, &read, &guards, out);
                    self.edit(&fields, &ids, out);
                }
                "set_real_ip_from" | "real_ip_header" | "real_ip_recursive" if !self.believes(server) => {
                    known::note(directive, &mut out.unrouted);
                }
                "acme_certificate" if self.applied.contains(&directive.at) => {}
                word if scope.contains_key(word) || OF_LISTENERS.contains(&word) => {}
                word if guard::belongs(word) => {}
                _ if fields::edits(directive).is_some() || self.of_clients(directive, out) => {}
                _ => known::note(directive, &mut out.unrouted),
            }
        }
        let is_kept = |each: &&Directive| {
            scope.contains_key(each.word(0)) || fields::edits(each).is_some() || each.word(0) == "error_page"
        };
        let own = server.inside().iter().filter(is_kept);
        self.unapplied(own, &mut out.unrouted);
        self.unguarded(server, &mut out.unrouted);
    }

    /// Finds the locations of a server that only serve pages for errors.
    fn find_pages(&mut self, server: &'d Directive, pages: &Pages<'d>) {
        let around = [self.http, server.inside()];
        let locations = server.inside().iter().filter(|each| each.word(0) == "location");
        let own = locations.map(|location| pages.inside(location.inside()));
        for pages in std::iter::once(pages.clone()).chain(own) {
            let all = pages.read(&around).filter_map(|(_, page)| page.ok()?.location);
            self.page_locations.extend(all);
        }
    }

    /// Returns whether a directive responds to all requests of a server.
    fn is_answer(&self, directive: &Directive, server: &Server) -> bool {
        matches!(directive.word(0), "return" | "rewrite")
            && (directive.word(0) == "return" || redirect::read(directive, server.name.as_deref()).is_some())
    }

    /// Converts a directive by which a server itself responds; returns its routes.
    fn answer(
        &mut self,
        directive: &'d Directive,
        server: &Server<'d>,
        guards: &Guards<'d>,
        out: &mut Output,
    ) -> Vec<usize> {
        let condition = match directive.word(0) {
            "if" => redirect::condition(directive),
            _ => None,
        };
        let answer = match (directive.word(0), directive.inside()) {
            ("if", [inside]) if condition.is_some() => redirect::read(inside, server.name.as_deref()),
            ("if", _) => None,
            _ => redirect::read(directive, server.name.as_deref()),
        };
        if let Some(redirect) = answer {
            let mut request = Request::to(server.hosts.clone(), "/");
            match condition {
                Some(If::Host(host)) => request.hosts = vec![host],
                Some(If::ClearText) => request.secure = Some(false),
                None => {}
            }
            return self.redirect(directive, server, request, redirect, out);
        }
        // A restriction is noted with the locations that it applied to.
        if directive.word(0) != "if" || !guards.all().any(|(each, _)| each.at == directive.at) {
            known::note(directive, &mut out.unrouted);
        }
        Vec::new()
    }

    /// Adds a redirect, except where it would loop; returns its routes.
    pub(super) fn redirect(
        &mut self,
        directive: &Directive,
        server: &Server<'d>,
        mut request: Request,
        redirect: Redirect,
        out: &mut Output,
    ) -> Vec<usize> {
        let (line, text) = (directive.line, directive.text.as_str());
        let mut groups = server.groups.clone();
        let stays = redirect.scheme == Some("https")
            && redirect.path.is_none()
            && redirect.host.as_ref().is_none_or(|host| request.hosts.is_empty() || request.hosts.contains(host));
        if stays {
            request.secure = Some(false);
        }
        if request.secure == Some(false) {
            groups.retain(|group| out.is_secure(*group) != Some(true));
        }
        if groups.is_empty() {
            out.unrouted.unneeded(line, text, "all clients here use TLS");
            return Vec::new();
        }
        out.route(&groups, &request, &Destination::Redirect(redirect), line, text)
    }

    /// Changes header fields on these routes.
    pub(super) fn edit(&mut self, fields: &Fields<'d>, ids: &[usize], out: &mut Output) {
        for (directive, edits) in fields.edits().filter(|_| !ids.is_empty()) {
            let is_redirect = |id: &&usize| out.is_redirect(**id);
            let (redirects, others): (Vec<&usize>, Vec<&usize>) = ids.iter().partition(is_redirect);
            for edit in edits {
                // A redirect sends no request on.
                let is_request = edit.message() == Message::Request;
                let ids: Vec<usize> =
                    others.iter().chain(redirects.iter().filter(|_| !is_request)).map(|id| **id).collect();
                if !ids.is_empty() {
                    self.applied.insert(directive.at);
                    out.edit(GuardScope::Routes(ids), edit, directive.line, &directive.text);
                }
            }
        }
    }

    /// Notes the access restrictions that apply to no converted location.
    pub(super) fn unguarded(&mut self, block: &'d Directive, notes: &mut Table) {
        let is_open = |each: &Directive| each.word(1) == "off" || (each.word(0) == "allow" && each.word(1) == "all");
        let refuses = |each: &Directive| each.word(0) == "if" && each.inside().iter().any(redirect::refuses);
        let kept = |each: &&Directive| (guard::belongs(each.word(0)) && !is_open(each)) || refuses(each);
        for each in block.inside().iter().filter(kept).filter(|each| !self.guarded.contains(&each.at)) {
            known::note(each, notes);
        }
    }
}

/// Returns whether a block forwards or redirects any request.
pub(super) fn answers(directive: &Directive) -> bool {
    directive.inside().iter().any(|each| {
        matches!(each.word(0), "proxy_pass" | "grpc_pass")
            || redirect::read(each, Some("a.example")).is_some()
            || (matches!(each.word(0), "location" | "if") && answers(each))
    })
}

/// Returns whether a server is the default for unknown hosts.
fn takes_all(server: &Directive) -> bool {
    server
        .inside()
        .iter()
        .filter(|each| each.word(0) == "listen")
        .any(|each| each.from(2).iter().any(|word| matches!(word.as_str(), "default_server" | "default")))
}

fn hosts(directive: &Directive, hosts: &mut Vec<String>, out: &mut Output) {
    for name in directive.from(1) {
        let read = match name.strip_prefix('.') {
            Some(below) => [grammar::host(below), grammar::host(&format!("*.{below}"))].into_iter().collect(),
            None if matches!(name.as_str(), "_" | "" | "\"\"") => Some(Vec::new()),
            None => grammar::host(name).map(|host| vec![host]),
        };
        match read {
            Some(read) => hosts.extend(read),
            None => {
                let why = "routes match whole host names, or \"*.\" followed by the end of a name";
                out.unrouted.unsupported(directive.line, &format!("server_name {name}"), why);
            }
        }
    }
}
