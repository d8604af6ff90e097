//! Owns: the conversion of a frontend, or of the client side of a listen section, into listeners and routes.
//! Invariant: an address with TLS never becomes a listener without; the output learns of each access restriction.
//! Must not know: backends.

use super::super::reasons::NONE;
use std::collections::HashMap;

use super::super::guard::{Guard, GuardScope, Restriction};
use super::super::output::Output;
use super::super::pool::WAIT;
use super::super::route::{Destination, Request};
use super::super::rule::Condition;
use super::super::units::{self, Address};
use super::acl::Acls;
use super::disposition::Disposition;
use super::fields::{self, Field, FieldRule};
use super::global::Globals;
use super::limits::{FrontendLimits, Tables};
use super::section::ProxySection;
use super::syntax::Statement;
use super::tls::Bind;
use super::userlist::UserLists;
use super::{acme, known, rules};

/// A frontend being read.
pub(super) struct FrontendReader<'p> {
    proxy: &'p ProxySection<'p>,
    acls: &'p Acls,
    users: &'p UserLists<'p>,
    pools: &'p HashMap<String, String>,
    globals: &'p Globals,
    keeps_alive: bool,
    limits: FrontendLimits,
    number: usize,
    default: Option<(&'p Statement, &'p str)>,
    /// Path prefixes that a redirect excludes, and whether for TLS clients only.
    exempt: Vec<(Option<bool>, String, &'p Statement)>,
}

impl<'p> FrontendReader<'p> {
    pub(super) fn new(
        proxy: &'p ProxySection<'p>,
        (acls, users): (&'p Acls, &'p UserLists<'p>),
        (pools, tables): (&'p HashMap<String, String>, &Tables<'_>),
        globals: &'p Globals,
        out: &mut Output,
    ) -> FrontendReader<'p> {
        let number = out.listener_group(proxy.header.line, &proxy.header.text, proxy.header.word(1));
        let keeps_alive = proxy.each("timeout").any(|statement| statement.word(1) == "http-keep-alive");
        let limits = FrontendLimits::read(proxy, acls, tables);
        FrontendReader {
            proxy,
            acls,
            users,
            pools,
            globals,
            keeps_alive,
            limits,
            number,
            default: None,
            exempt: Vec::new(),
        }
    }

    /// Converts an address after the section's name, as old versions of HAProxy have it.
    pub(super) fn header(&mut self, out: &mut Output) {
        if let Some(address) = self.proxy.header.from(2).first().filter(|word| *word != "from") {
            self.bind(std::slice::from_ref(address), self.proxy.header, out);
        }
    }

    pub(super) fn read(&mut self, statement: &'p Statement, out: &mut Output) -> Disposition {
        let (line, text) = (statement.line, statement.text.as_str());
        let time = |at: usize| units::milliseconds(statement.word(at));
        if let Some(why) = rules::guard(statement, self.acls) {
            self.guard(why, statement, out);
            return Disposition::Converted;
        }
        if self.limits.has(statement) {
            return Disposition::Converted;
        }
        if let Some(why) = rules::limit(statement, self.acls) {
            out.unrouted.guard(line, text, why);
            return Disposition::Converted;
        }
        if let Some(rule) = fields::read(statement) {
            return self.field(rule, statement, out);
        }
        if let Some(words) = rules::redirect(statement) {
            return self.redirect(words, statement, out);
        }
        match (statement.word(0), statement.word(1)) {
            ("mode", "http") | ("ssl-f-use", _) => Disposition::Converted,
            ("http-request", _) if acme::is_challenge(statement) => {
                Disposition::Unneeded("Linchpin responds to the challenges of ACME servers itself")
            }
            ("bind", _) => self.bind(statement.from(1), statement, out),
            ("use_backend", _) => self.use_backend(statement, out),
            ("default_backend", name) => match self.pools.get(name) {
                Some(pool) => {
                    self.default = Some((statement, pool));
                    Disposition::Converted
                }
                None => Disposition::Unsupported("there is no such backend".into()),
            },
            ("timeout", "http-request") => {
                out.limits.share_time("header_read_timeout", time(2), WAIT, line, text);
                Disposition::Converted
            }
            ("timeout", "http-keep-alive") => {
                out.limits.share_time("idle_timeout", time(2), WAIT, line, text);
                Disposition::Converted
            }
            ("timeout", "client") | ("clitimeout", _) if self.keeps_alive => Disposition::Unneeded(
                "`idle_timeout` of [server.limits] closes idle connections, and `idle` of [pools.timeouts] ends stalled bodies",
            ),
            ("timeout", "client") => {
                out.limits.share_time("idle_timeout", time(2), WAIT, line, text);
                Disposition::Converted
            }
            ("clitimeout", _) => {
                out.limits.share_time("idle_timeout", time(1), WAIT, line, text);
                Disposition::Converted
            }
            _ => Disposition::Unhandled,
        }
    }

    /// Adds the routes for all other requests.
    pub(super) fn finish(self, own_pool: Option<&str>, out: &mut Output) {
        let header = self.proxy.header;
        let everything = Request::to(Vec::new(), "/");
        let default = match (self.default, own_pool) {
            (Some((statement, pool)), _) => Some((statement, pool)),
            (None, Some(pool)) => Some((header, pool)),
            (None, None) => None,
        };
        for (secure, prefix, statement) in &self.exempt {
            let request = Request::to(Vec::new(), prefix);
            let destination =
                out.destination_of(self.number, &request).or(default.map(|(_, pool)| Destination::pool(pool)));
            match destination {
                Some(destination) => {
                    let request = Request { secure: *secure, ..request };
                    out.route(&[self.number], &request, &destination, statement.line, &statement.text);
                }
                None => out.unrouted.unsupported(
                    statement.line,
                    &statement.text,
                    format!("the source does not say where {prefix} leads"),
                ),
            }
        }
        if default.is_some() || out.has_pool_routes(self.number) || !self.limits.is_empty() {
            out.client_limits.push(self.limits.limits.clone());
        }
        if let Some((statement, pool)) = default {
            out.route(&[self.number], &everything, &Destination::pool(pool), statement.line, &statement.text);
        }
    }

    fn bind(&mut self, words: &[String], statement: &Statement, out: &mut Output) -> Disposition {
        let (line, text) = (statement.line, statement.text.as_str());
        let Some((addresses, parameters)) = words.split_first() else {
            return Disposition::Unsupported("it has no address".into());
        };
        let mut bind = Bind::read(parameters, self.globals);
        for statement in self.proxy.each("ssl-f-use") {
            for word in bind.uses(statement.from(1), self.globals) {
                out.clients.unsupported(statement.line, &word, NONE);
            }
        }
        for address in addresses.split(',') {
            let Some(place) = listening(address) else {
                let why = format!(
                    "{address} is neither an IP address and port nor a socket path: add [[listeners]] with one"
                );
                out.lost_listener(line, text, why);
                continue;
            };
            if out.group_at(&place).is_some_and(|group| group != self.number) {
                out.lost_listener(line, text, format!("another listener already has {place}"));
                continue;
            }
            bind.apply(out.listener(self.number, &place, line, text), line, text);
        }
        Disposition::Converted
    }

    /// Returns the requests of a condition that can arrive at the listeners of this frontend.
    fn requests(&self, condition: &Condition, out: &Output) -> Vec<Request> {
        let known = out.is_secure(self.number);
        let can_be = |request: &Request| known.is_none() || request.secure.is_none() || request.secure == known;
        let requests = condition.routes().into_iter().filter(can_be);
        requests.map(|request| Request { secure: request.secure.filter(|_| known.is_none()), ..request }).collect()
    }

    /// Adds an access restriction.
    fn guard(&self, why: &'static str, statement: &Statement, out: &mut Output) {
        let (line, text) = (statement.line, &statement.text);
        let (_, when) = rules::split(statement.from(1));
        let guard = |area: &Condition, kind| {
            let place = GuardScope::Groups(vec![self.number], area.routes());
            Guard { place, line, text: text.clone(), why: why.into(), kind }
        };
        match rules::access(statement, self.acls, self.users) {
            Some((area, access)) => {
                out.guard(guard(&area, Restriction::Access(access)));
                if self.acls.has_wider_paths(when.words) {
                    out.guard(guard(&area, Restriction::Names));
                }
            }
            None => {
                let area = if when.is_unless { Condition::always() } else { self.acls.over(when.words) };
                out.guard(guard(&area, Restriction::Lost));
            }
        }
    }

    fn redirect(&mut self, words: &'p [String], statement: &'p Statement, out: &mut Output) -> Disposition {
        let (line, text) = (statement.line, statement.text.as_str());
        let (action, when) = rules::split(words);
        let Some((redirect, lost)) = rules::target(action) else {
            return Disposition::Unsupported("`redirect` of [[routes]] sets only the scheme, host and path".into());
        };
        let condition = match when.words.is_empty() {
            true => Some((Condition::always(), Vec::new())),
            false => self.acls.without_exempt(when.words, when.is_unless),
        };
        let Some((condition, exempt)) = condition else {
            return Disposition::Unsupported(known::REDIRECT_WHEN.into());
        };
        let mut requests = self.requests(&condition, out);
        let leads_to_tls = redirect.scheme == Some("https") && redirect.host.is_none() && redirect.path.is_none();
        if leads_to_tls {
            // A client that already uses TLS would be redirected for ever.
            requests.retain(|request| request.secure != Some(true) && out.is_secure(self.number) != Some(true));
            requests.iter_mut().for_each(|request| request.secure = Some(false));
        }
        if requests.is_empty() {
            return Disposition::Unneeded("all clients here use TLS");
        }
        for request in &requests {
            let ids = out.route(&[self.number], request, &Destination::Redirect(redirect.clone()), line, text);
            for option in &lost {
                out.notes(&ids).unsupported(line, option, NONE);
            }
            self.exempt.extend(exempt.iter().map(|prefix| (request.secure, prefix.clone(), statement)));
        }
        Disposition::Converted
    }

    /// Changes a field on all routes of this frontend.
    fn field(&self, rule: FieldRule<'_>, statement: &Statement, out: &mut Output) -> Disposition {
        let edit = match rule.field {
            Field::Edit(edit) => edit,
            Field::Unneeded(why) => return Disposition::Unneeded(why),
            Field::Lost(why) => return Disposition::Unsupported(why.into()),
        };
        let is_always = rule.condition.is_empty()
            || (out.is_secure(self.number) == Some(true)
                && self.acls.condition(rule.condition).is_ok_and(|condition| condition == Condition::secure(true)));
        if !is_always {
            return Disposition::Unsupported(known::FIELD_WHEN.into());
        }
        let scope = GuardScope::Groups(vec![self.number], Vec::new());
        out.edit(scope, edit, statement.line, &statement.text);
        Disposition::Converted
    }

    fn use_backend(&mut self, statement: &Statement, out: &mut Output) -> Disposition {
        let Some(pool) = self.pools.get(statement.word(1)) else {
            let is_dynamic = statement.word(1).contains("%[");
            let why = if is_dynamic {
                "a route leads to one pool: add [[routes]] for each"
            } else {
                "there is no such backend"
            };
            return Disposition::Unsupported(why.into());
        };
        const NOT: &str = "routes can't match what a request is not";
        let condition = match statement.word(2) {
            "if" => self.acls.condition(statement.from(3)),
            "" => Ok(Condition::always()),
            _ => self.acls.condition(statement.from(3)).and_then(|condition| condition.negated().ok_or(NOT)),
        };
        let condition = match condition {
            Ok(condition) => condition,
            Err(why) => return Disposition::Unsupported(why.into()),
        };
        let requests = self.requests(&condition, out);
        if requests.is_empty() {
            return Disposition::Unneeded("no client here can match it");
        }
        for request in requests {
            out.route(&[self.number], &request, &Destination::pool(pool), statement.line, &statement.text);
        }
        Disposition::Converted
    }
}

/// Converts the address of a `bind`.
fn listening(address: &str) -> Option<String> {
    let path = address.strip_prefix("unix@").or_else(|| address.starts_with('/').then_some(address));
    if let Some(path) = path {
        return match units::unix(path) {
            Address::Unix(path) => Some(format!("unix:{path}")),
            _ => None,
        };
    }
    let plain = address.strip_prefix("ipv4@").or_else(|| address.strip_prefix("ipv6@")).unwrap_or(address);
    units::listener(plain).map(|socket| socket.to_string())
}
