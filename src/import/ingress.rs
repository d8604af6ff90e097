//! Owns: the conversion of Kubernetes Ingresses for ingress-nginx.
//! Invariant: each annotation is converted, or noted with its path; where two Ingresses differ, the older one counts.
//! Must not know: the format of the output; how a cluster is asked.

mod access;
mod affinity;
mod annotations;
mod canary;
mod controller;
mod global_settings;
mod objects;
mod paths;
mod service;

use std::collections::{BTreeSet, HashMap};

use self::canary::Canaries;
use self::objects::{Ingress, Objects, PathRule};
use self::service::ServicePort;
use super::field_edits::{Change, Message};
use super::guard::GuardScope;
use super::node;
use super::notes::note;
use super::output::Output;
use super::pool::Pool;
use super::route::{Destination, Redirect, Request};
use super::source::SyntaxError;

const PATTERN: &str = "routes match the beginning of a path, not a pattern";

/// Converts what `kubectl get ingress,service -o yaml` prints, or manifests of these, into `out`.
pub(super) fn read(text: &str, out: &mut Output) -> Result<(), SyntaxError> {
    let documents = node::documents(text)?;
    let objects = Objects::of(&documents, &mut out.rest);
    let Some(first) = objects.ingresses.first() else {
        return Err(SyntaxError::new(1, "the file has no Ingress"));
    };
    let group = out.listener_group(first.line, &first.shown(), "web");
    listeners(&objects, group, first, out);
    controller::listeners(&objects.settings, group, out);
    let canaries = Canaries::of(&objects);
    let mut reader = Reader { objects: &objects, canaries: &canaries, group, made: HashMap::new(), pools: Vec::new() };
    for ingress in objects.ingresses.iter().filter(|ingress| !ingress.is_canary()) {
        reader.ingress(ingress, out);
    }
    canaries.finish(out);
    controller::of_all(&objects, group, out);
    out.pools.append(&mut reader.pools);
    for ingress in &objects.ingresses {
        ingress.finish(&mut out.rest);
    }
    controller::rest(&objects.settings, &mut out.rest);
    objects.finish(&mut out.rest);
    Ok(())
}

/// Adds the listeners: ingress-nginx listens at ports 80 and 443.
fn listeners(objects: &Objects<'_>, group: usize, first: &Ingress<'_>, out: &mut Output) {
    const PORTS: &str = "a process without root can't listen below 1024: let the Service map ";
    let plain = out.listener(group, "0.0.0.0:8080", first.line, &first.shown());
    plain.table.comment(format!("{PORTS}80 to this port"));
    let folders = |ingress: &Ingress<'_>| {
        let secrets = ingress.secrets();
        secrets.into_iter().filter_map(|secret| objects.folder(&ingress.namespace, secret)).collect::<Vec<_>>()
    };
    let folders: BTreeSet<String> = objects.ingresses.iter().flat_map(folders).collect();
    let has_tls = objects.ingresses.iter().any(|ingress| !ingress.tls_hosts().is_empty());
    if !has_tls {
        return;
    }
    let secure = out.listener(group, "0.0.0.0:8443", first.line, &first.shown());
    secure.table.comment(format!("{PORTS}443 to this port"));
    secure.secure().comment("mount each Secret as a volume there, beside this file");
    for folder in &folders {
        secure.certificate(&format!("tls/{folder}/tls.crt"), Some(&format!("tls/{folder}/tls.key")));
    }
}

/// The state of the conversion.
struct Reader<'o, 'n> {
    objects: &'o Objects<'n>,
    canaries: &'o Canaries<'o, 'n>,
    group: usize,
    /// The index of each pool, and the Ingress that it was made for.
    made: HashMap<ServicePort, (usize, String)>,
    pools: Vec<Pool>,
}

impl<'o, 'n> Reader<'o, 'n> {
    fn ingress(&mut self, ingress: &'o Ingress<'n>, out: &mut Output) {
        let annotations = &ingress.annotations;
        let mut ids = Vec::new();
        let rules = ingress.paths();
        if let Some(redirect) = annotations::redirect(annotations, out) {
            for rule in &rules {
                let is_pattern = self.objects.has_patterns(rule.host.as_deref());
                let Some((prefix, _)) = paths::prefix(rule, annotations, is_pattern) else {
                    out.unrouted.unsupported(rule.line, &rule.text, PATTERN);
                    continue;
                };
                let request = Request::to(rule.host.clone().into_iter().collect(), &prefix);
                let destination = Destination::Redirect(redirect.clone());
                ids.extend(out.route(&[self.group], &request, &destination, rule.line, &rule.text));
            }
        } else {
            for rule in &rules {
                ids.extend(self.rule(ingress, rule, out));
            }
            self.to_tls(ingress, &rules, out);
            self.to_www(ingress, &rules, out);
        }
        access::restrict(ingress, &ids, (self.objects, self.group), &rules, out);
        annotations::of_routes(annotations, &ids, out);
        if let Some((line, name)) = annotations.text("custom-headers") {
            let (scope, shown) = (GuardScope::Routes(ids.clone()), annotations.shown("custom-headers"));
            let change = (Message::Response, Change::Set as fn(String) -> Change);
            controller::fields(self.objects, (name, &ingress.namespace), &scope, change, (line, &shown), out);
        }
        let limits = annotations::of_clients(annotations, out.notes(&ids));
        if ids.iter().any(|id| !out.is_redirect(*id)) {
            out.client_limits.push(limits);
        }
        annotations.rest(out.notes(&ids));
    }

    /// Converts one path of an Ingress into routes.
    fn rule(&mut self, ingress: &'o Ingress<'n>, rule: &PathRule<'n>, out: &mut Output) -> Vec<usize> {
        let is_pattern = self.objects.has_patterns(rule.host.as_deref());
        let Some((prefix, strip)) = paths::prefix(rule, &ingress.annotations, is_pattern) else {
            out.unrouted.unsupported(rule.line, &rule.text, PATTERN);
            return Vec::new();
        };
        let Some(port) = ServicePort::of(rule.backend, &ingress.namespace) else {
            note(&rule.text, rule.line, rule.backend, "a route needs a Service", &mut out.unrouted);
            return Vec::new();
        };
        let index = self.pool(ingress, rule, &port, out);
        let aliases = if rule.host.is_some() { ingress.aliases() } else { Vec::new() };
        let (strip, add) = paths::rewrite(&ingress.annotations, &prefix, strip);
        let destination = Destination::Pool { name: self.pools[index].name().to_owned(), strip, add };
        let request = Request::to(rule.host.iter().cloned().chain(aliases).collect(), &prefix);
        let ids = out.route(&[self.group], &request, &destination, rule.line, &rule.text);
        if rule.is_exact && prefix != "/" {
            let why = "routes match the beginning of a path: this one also matches what is below it";
            out.notes(&ids).unsupported(rule.line, &format!("{}: pathType Exact", rule.text), why);
        }
        ids
    }

    /// Returns the pool of a Service's port, which is made for the first Ingress that leads to it.
    fn pool(&mut self, ingress: &Ingress<'n>, rule: &PathRule<'n>, port: &ServicePort, out: &mut Output) -> usize {
        if let Some((index, owner)) = self.made.get(port) {
            if *owner != ingress.shown() {
                let why = format!("the pool is that of {owner}, and has its settings");
                affinity::take(&ingress.annotations, &why, &mut self.pools[*index].main);
            }
            return *index;
        }
        let mut pool = Pool::new(&out.pool_name(&port.pool_name(self.objects)));
        port.write(self.objects, &mut pool, rule.line, &rule.text);
        affinity::affinity(&ingress.annotations, &mut pool);
        annotations::of_pool(&ingress.annotations, &mut pool);
        if let Some(canary) = self.canaries.of_rule(ingress, rule) {
            canary.write(self.objects, &mut pool);
        }
        self.pools.push(pool);
        let index = self.pools.len() - 1;
        self.made.insert(port.clone(), (index, ingress.shown()));
        index
    }

    /// Redirects clients between a host and the same one with `www.`, if the Ingress says so.
    fn to_www(&self, ingress: &Ingress<'n>, rules: &[PathRule<'n>], out: &mut Output) {
        if ingress.annotations.peek("from-to-www-redirect") != Some("true") {
            return;
        }
        let Some((line, _)) = ingress.annotations.text("from-to-www-redirect") else { return };
        let hosts: BTreeSet<&String> = rules.iter().filter_map(|rule| rule.host.as_ref()).collect();
        for host in hosts.iter().filter(|host| !host.starts_with('*')) {
            let other = host.strip_prefix("www.").map_or_else(|| format!("www.{host}"), str::to_owned);
            let to = Redirect { scheme: None, host: Some((*host).clone()), path: None, status: 308 };
            let request = Request::to(vec![other], "/");
            let shown = ingress.annotations.shown("from-to-www-redirect");
            out.route(&[self.group], &request, &Destination::Redirect(to), line, &shown);
        }
    }

    /// Redirects clients to https, as ingress-nginx does for hosts with TLS.
    fn to_tls(&self, ingress: &Ingress<'n>, rules: &[PathRule<'n>], out: &mut Output) {
        let (forced, wanted) =
            (ingress.annotations.flag("force-ssl-redirect"), ingress.annotations.flag("ssl-redirect"));
        let is_forced = forced == Some(true);
        if wanted == Some(false) && !is_forced {
            return;
        }
        let tls = ingress.tls_hosts();
        let mut hosts: Vec<Option<String>> = Vec::new();
        for host in rules.iter().map(|rule| rule.host.clone()) {
            let has_tls = host.as_ref().is_some_and(|host| tls.contains(host)) || (is_forced && !hosts.contains(&host));
            if (has_tls || is_forced) && !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        for host in hosts {
            let request = Request { secure: Some(false), hosts: host.into_iter().collect(), prefix: "/".into() };
            let destination = Destination::Redirect(Redirect::to_scheme(
                "https",
                controller::redirect_status(&self.objects.settings),
            ));
            let ids = out.route(&[self.group], &request, &destination, ingress.line, &ingress.shown());
            if is_forced && tls.is_empty() {
                out.notes(&ids).comment(
                    "if something in front of Linchpin ends TLS, set `trusted_proxies` of the listener, or clients loop",
                );
            }
        }
    }
}
