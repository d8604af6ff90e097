//! Owns: the conversion of certificate resolvers, and of the names that routers obtain certificates for.
//! Invariant: a name that no certificate is ordered for is noted.
//! Must not know: listeners' addresses, services.

use std::collections::HashMap;

use super::super::acme::{ANEW, Issuer, KEY_FILE, NO_DNS, NO_SETTING};
use super::super::node::{Map, Node, peek};
use super::super::notes::{left, note};
use super::super::output::Output;
use super::super::reasons::NONE;
use super::rule;

const TERMS: &str =
    "Traefik agreed to the authority's terms of service; Linchpin makes a new account, so read them again";
const STATIC: &str = "this resolver is in Traefik's static configuration: put its certificatesResolvers into the imported file; or complete this section (directory, email, agree_to_terms = true), if it doesn't prove names by DNS records, and remove the #";
const OTHER: &str = "Linchpin obtains certificates by ACME only: complete this section, and remove the #";
const SEE: &str = "[listeners.tls.acme] of the listener has to be completed";
const NO_HOST: &str = "neither its rule nor `domains` has a host, so there is no certificate to obtain";

/// The certificate resolvers of a file, by their names in lower case.
pub(super) struct Resolvers {
    named: HashMap<String, Issuer>,
    /// The entry points at which the authority validates names.
    pub(super) challenges_at: Vec<String>,
}

impl Resolvers {
    /// Reads `certificatesResolvers` of a file.
    pub(super) fn read(resolvers: &Map, out: &mut Output) -> Resolvers {
        let mut found = Resolvers { named: HashMap::new(), challenges_at: Vec::new() };
        for (name, _, node) in resolvers.all() {
            let path = format!("certificatesResolvers.{name}");
            let acme = node.map().and_then(|map| map.take("acme")).and_then(Node::map);
            let issuer = match acme {
                Some(acme) => found.issuer(name, acme, &format!("{path}.acme"), out),
                None => Issuer::unusable(name, OTHER),
            };
            note(&path, node.line, node, NONE, &mut out.clients);
            found.named.insert(name.to_ascii_lowercase(), issuer);
        }
        found
    }

    fn issuer(&mut self, name: &str, acme: &Map, path: &str, out: &mut Output) -> Issuer {
        let mut issuer = Issuer::new(name, Some(TERMS));
        let set = |key: &str, set: &mut dyn FnMut(&str) -> bool| {
            if peek(acme, key).and_then(Node::text).is_some_and(set) {
                acme.take(key);
            }
        };
        set("email", &mut |text| issuer.email(text));
        set("caServer", &mut |text| issuer.directory(text));
        set("profile", &mut |text| issuer.profile(text));
        let notes = &mut out.clients;
        if let Some([file]) = peek(acme, "caCertificates").map(Node::list)
            && file.text().is_some_and(|file| issuer.authorities(file))
        {
            acme.take("caCertificates");
        }
        if let (Some(file), Some(node)) = (acme.take_text("storage"), peek(acme, "storage")) {
            notes.unneeded(node.line, &format!("{path}.storage: {file}"), ANEW);
        }
        if let Some(eab) = peek(acme, "eab").and_then(Node::map) {
            let key_id = peek(eab, "kid").and_then(Node::text);
            if key_id.is_some_and(|key_id| issuer.external(key_id, None)) {
                let _ = eab.take("kid");
                if let (Some(_), Some(key)) = (eab.take_text("hmacEncoded"), peek(eab, "hmacEncoded")) {
                    notes.unsupported(key.line, &format!("{path}.eab.hmacEncoded"), KEY_FILE);
                }
            }
        }
        let mut kinds = Vec::new();
        for (key, kind) in [("httpChallenge", "http-01"), ("tlsChallenge", "tls-alpn-01")] {
            if let Some(node) = peek(acme, key).filter(|node| node.text() != Some("false")) {
                kinds.push(kind);
                let entry_point = node.map().and_then(|map| map.take_text("entryPoint"));
                self.challenges_at.extend(entry_point.map(str::to_owned));
                if node.text().is_some() || node.map().is_some_and(|map| map.left().next().is_none()) {
                    acme.take(key);
                }
            }
        }
        match kinds.is_empty() {
            false => issuer.challenges(&kinds),
            true if peek(acme, "dnsChallenge").is_some() => issuer.switch_off(NO_DNS),
            true => {}
        }
        if let Some(dns) = acme.take("dnsChallenge") {
            note(&format!("{path}.dnsChallenge"), dns.line, dns, "see [listeners.tls.acme]", notes);
        }
        left(acme, path, NO_SETTING, notes);
        issuer
    }

    /// Orders the certificates that the `tls` of a router or entry point asks for, at these listener groups.
    pub(super) fn order(&self, tls: &Map, rule: &str, path: &str, groups: &[usize], out: &mut Output) {
        let Some(resolver) = peek(tls, "certResolver") else { return };
        let (line, name) = (resolver.line, resolver.text().unwrap_or_default());
        let shown = format!("{path}.certResolver: {name}");
        if name.is_empty() {
            return;
        }
        let known = self.named.get(&name.to_ascii_lowercase()).cloned();
        let issuer = known.unwrap_or_else(|| Issuer::unusable(name, STATIC));
        tls.take("certResolver");
        let names = names(tls, rule);
        if names.is_empty() {
            return out.clients.unsupported(line, &shown, NO_HOST);
        }
        if let Some(node) = tls.take("domains") {
            note(&format!("{path}.domains"), node.line, node, NONE, &mut out.clients);
        }
        for (at, name) in names {
            for group in groups {
                if let Err(why) = out.order(*group, &issuer, name) {
                    let text = if at > 0 { format!("{path}.domains: {name}") } else { format!("{shown}, for {name}") };
                    out.clients.unsupported(if at > 0 { at } else { line }, &text, why);
                }
            }
        }
        if !issuer.is_usable() {
            out.clients.unsupported(line, &shown, SEE);
        }
    }
}

/// Returns the names of `domains`, each with its line, or else the hosts of the rule.
fn names<'n>(tls: &'n Map, rule: &'n str) -> Vec<(usize, &'n str)> {
    let mut names = Vec::new();
    for domain in peek(tls, "domains").map(Node::list).unwrap_or_default().iter().filter_map(Node::map) {
        let line = peek(domain, "main").map_or(0, |node| node.line);
        names.extend(domain.take_text("main").map(|name| (line, name)));
        names.extend(domain.take_texts("sans").iter().filter_map(|node| Some((node.line, node.text()?))));
    }
    if names.is_empty() { rule::host_texts(rule).into_iter().map(|host| (0, host)).collect() } else { names }
}
