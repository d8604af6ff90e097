//! Owns: the conversion of entry points, and of the routers' TLS, into listeners.
//! Invariant: an entry point with TLS becomes a listener with a certificate of the file, or a disabled one.
//! Must not know: rules, services.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::grammar;
use super::super::node::{Map, Node};
use super::super::node::{is_named, peek};
use super::super::output::Output;
use super::super::route::{Destination, Redirect, Request};
use super::super::toml::{Table, Value};
use super::super::units;

/// The entry points and TLS options of a router.
pub(super) struct RouterEntryPoints {
    names: BTreeSet<String>,
    is_tls: bool,
    /// The name of its TLS options.
    options: String,
}

/// The listener groups of the entry points.
pub(super) struct EntryPoints {
    /// The entry points by name; the empty name is for routers that name none.
    groups: BTreeMap<String, Entry>,
    /// All routers have the same entry points, so one listener is enough.
    is_one: bool,
}

struct Entry {
    group: usize,
    is_tls: bool,
    /// Its routers have different TLS options.
    is_mixed: bool,
}

impl RouterEntryPoints {
    /// Reads the entry points of a router. An entry point may require TLS itself.
    pub(super) fn of(router: &Map, entry_points: &Map) -> RouterEntryPoints {
        let nodes = peek(router, "entryPoints").map(Node::list).unwrap_or_default();
        let names: BTreeSet<String> = nodes.iter().filter_map(Node::text).map(str::to_owned).collect();
        let tls = peek(router, "tls").filter(|tls| tls.text() != Some("false"));
        let own = names.iter().find_map(|name| entry_tls(entry_points, name));
        let options = tls.or(own).and_then(Node::map).and_then(|tls| peek(tls, "options")).and_then(Node::text);
        let options = options.unwrap_or("default").trim_end_matches("@file").to_owned();
        RouterEntryPoints { names, is_tls: tls.is_some() || own.is_some(), options }
    }

    /// Returns the TLS settings of its entry points, each with the name of the entry point.
    pub(super) fn tls<'n>(&self, entry_points: &'n Map) -> impl Iterator<Item = (&'n str, &'n Map)> {
        let all = entry_points.all().map(|(name, ..)| name);
        let own = all.filter(|name| self.names.is_empty() || self.names.contains(*name));
        own.filter_map(|name| Some((name, entry_tls(entry_points, name)?.map()?)))
    }

    /// Returns the middlewares of its entry points.
    pub(super) fn middlewares<'n>(&self, entry_points: &'n Map) -> Vec<&'n Node> {
        let all = entry_points.all().map(|(name, ..)| name);
        let names = all.filter(|name| self.names.is_empty() || self.names.contains(*name));
        names.filter_map(|name| entry_http(entry_points, name)?.take("middlewares")).collect()
    }
}

/// Returns the `http` settings of an entry point.
fn entry_http<'n>(entry_points: &'n Map, name: &str) -> Option<&'n Map> {
    peek(peek(entry_points, name)?.map()?, "http")?.map()
}

/// Returns whether an entry point redirects to TLS permanently; `None` if it does not redirect.
fn redirection(entry_points: &Map, name: &str) -> Option<bool> {
    let to =
        peek(entry_http(entry_points, name)?, "redirections")?.map().and_then(|all| peek(all, "entryPoint"))?.map()?;
    // Traefik's default is a permanent redirect.
    let is_permanent = to.take_text("permanent") != Some("false");
    let scheme = to.take_text("scheme").unwrap_or("https");
    to.take_text("to").filter(|_| scheme == "https").map(|_| is_permanent)
}

/// Returns the TLS settings of an entry point.
fn entry_tls<'n>(entry_points: &'n Map, name: &str) -> Option<&'n Node> {
    peek(entry_http(entry_points, name)?, "tls")
}

impl EntryPoints {
    /// Adds a listener for each entry point of these routers, and for those at which an ACME server validates names; `ports` are
    /// those of backends.
    pub(super) fn open(
        routers: &[RouterEntryPoints],
        root: &Map,
        (ports, challenges_at): (&HashSet<u16>, &[String]),
        out: &mut Output,
    ) -> EntryPoints {
        let empty = Map::default();
        let entry_points = peek(root, "entryPoints").and_then(Node::map).unwrap_or(&empty);
        let sets: BTreeSet<(&BTreeSet<String>, bool)> =
            routers.iter().map(|router| (&router.names, router.is_tls)).collect();
        let is_one = sets.len() <= 1 && entry_points.is_empty();
        let mut names: BTreeSet<String> = routers.iter().flat_map(|router| router.names.iter().cloned()).collect();
        if is_one {
            names = BTreeSet::from([String::new()]);
        }
        names.extend(
            entry_points
                .all()
                .map(|(name, ..)| name.to_owned())
                .filter(|name| redirection(entry_points, name).is_some() || challenges_at.contains(name)),
        );
        let is_tls = |name: &String| {
            let at = |router: &&RouterEntryPoints| is_one || router.names.contains(name);
            routers.iter().filter(at).any(|router| router.is_tls) || entry_tls(entry_points, name).is_some()
        };
        // A router without entry points is served at all with the same use of TLS. If there is none, one is added.
        for wanted in routers.iter().filter(|router| router.names.is_empty() && !is_one) {
            if !names.iter().any(|name| is_tls(name) == wanted.is_tls) {
                names.insert(if wanted.is_tls { "websecure".into() } else { "web".into() });
            }
        }
        let unnamed_tls = routers.iter().any(|router| router.names.is_empty() && router.is_tls);
        let listening = |name: &String| {
            let address = peek(entry_points, name).and_then(Node::map).and_then(|entry| peek(entry, "address"))?;
            Some((units::listener(address.text()?.trim_end_matches("/tcp"))?, address.line))
        };
        let taken: HashSet<u16> = names.iter().filter_map(listening).map(|(address, _)| address.port()).collect();
        let mut free = (8080..=u16::MAX).filter(|port| !ports.contains(port) && !taken.contains(port));
        let mut groups = BTreeMap::new();
        for name in names {
            let is_new = !is_one && !routers.iter().any(|router| router.names.contains(&name));
            let is_tls = is_tls(&name) || (is_new && unnamed_tls && name == "websecure");
            let shown = if name.is_empty() { "the routers".to_owned() } else { format!("the entry point {name}") };
            let group = out.listener_group(0, &shown, if name.is_empty() { "listener" } else { &name });
            let address = listening(&name);
            peek(entry_points, &name).and_then(Node::map).and_then(|entry| entry.take_text("address"));
            let at = |router: &&RouterEntryPoints| {
                router.names.contains(&name) || is_one || (router.names.is_empty() && router.is_tls == is_tls)
            };
            let options: BTreeSet<&str> = routers
                .iter()
                .filter(at)
                .filter(|router| router.is_tls)
                .map(|router| router.options.as_str())
                .collect();
            let is_mixed = options.len() > 1;
            if is_one && !is_tls {
                // The output adds its listener at the end.
                groups.insert(name, Entry { group, is_tls, is_mixed });
                continue;
            }
            let made_up = || format!("127.0.0.1:{}", free.next().unwrap_or(8080));
            let line = address.map_or(0, |(_, line)| line);
            let address_text = address.map_or_else(made_up, |(address, _)| address.to_string());
            let listener = out.listener(group, &address_text, line, &shown);
            if address.is_none() {
                listener.table.comment(format!("the address of {shown} is in Traefik's static configuration: set it"));
            }
            if is_tls {
                let own = entry_http(entry_points, &name)
                    .filter(|http| peek(http, "tls").and_then(Node::map).is_some_and(Map::is_empty));
                own.map(|http| http.take("tls"));
                listener.secure();
                for (certificate, key) in certificates(root) {
                    listener.certificate(&certificate, key.as_deref());
                }
                if let (Some(options), false) = (options.first().and_then(|name| options_of(root, name)), is_mixed) {
                    apply(options, listener.secure());
                }
            }
            if let (Some(is_permanent), false) = (redirection(entry_points, &name), is_tls) {
                let request = Request { secure: Some(false), ..Request::to(Vec::new(), "/") };
                let destination =
                    Destination::Redirect(Redirect::to_scheme("https", if is_permanent { 308 } else { 307 }));
                out.route(&[group], &request, &destination, 1, &shown);
            }
            groups.insert(name, Entry { group, is_tls, is_mixed });
        }
        EntryPoints { groups, is_one }
    }

    /// Returns the listener groups of a router, and whether they enforce its TLS options.
    pub(super) fn of(&self, router: &RouterEntryPoints) -> (Vec<usize>, bool) {
        let is_at = |(name, entry): &(&String, &Entry)| {
            let is_named = router.names.is_empty() || router.names.contains(*name);
            self.is_one || (is_named && entry.is_tls == router.is_tls)
        };
        let all: Vec<_> = self.groups.iter().filter(is_at).map(|(_, entry)| entry).collect();
        (all.iter().map(|entry| entry.group).collect(), all.iter().all(|entry| !entry.is_mixed))
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.groups.contains_key(name)
    }
}

/// Returns the certificates of a file, the default one first.
fn certificates(root: &Map) -> Vec<(String, Option<String>)> {
    let Some(tls) = peek(root, "tls").and_then(Node::map) else { return Vec::new() };
    let store = peek(tls, "stores").and_then(Node::map).and_then(|stores| peek(stores, "default")).and_then(Node::map);
    let first = store.and_then(|store| peek(store, "defaultCertificate"));
    let listed = peek(tls, "certificates").map(Node::list).unwrap_or_default();
    let pair = |node: &Node| {
        let map = node.map()?;
        let file =
            |key: &str| peek(map, key).and_then(Node::text).and_then(grammar::file).filter(|path| !path.contains(' '));
        let (certificate, key) = (file("certFile")?, file("keyFile")?);
        let _ = ["certFile", "keyFile"].map(|key| map.take_text(key));
        Some((certificate, Some(key)))
    };
    first.into_iter().chain(listed).filter_map(pair).collect()
}

/// Returns the TLS options of a name.
fn options_of<'n>(root: &'n Map, name: &str) -> Option<&'n Map> {
    let all = peek(peek(root, "tls")?.map()?, "options")?.map()?;
    all.all().find(|(key, ..)| is_named(key, name))?.2.map()
}

/// Applies TLS options to a listener.
fn apply(options: &Map, table: &mut Table) {
    match peek(options, "minVersion").and_then(Node::text) {
        Some("VersionTLS13") => {
            options.take_text("minVersion");
            table.set("min_version", Value::text("1.3"));
        }
        Some("VersionTLS12") => {
            options.take_text("minVersion");
        }
        _ => {}
    }
    if let Some((file, is_required)) = authority(options) {
        if let Some(clients) = peek(options, "clientAuth").and_then(Node::map) {
            clients.take_texts("caFiles");
            clients.take_text("clientAuthType");
        }
        table.set("client_ca", Value::text(&file));
        table.set("client_certificate", Value::text(if is_required { "required" } else { "optional" }));
    }
}

/// Returns the authorities of client certificates, and whether a certificate is required; `None` if they have no
/// equivalent.
fn authority(options: &Map) -> Option<(String, bool)> {
    let clients = peek(options, "clientAuth")?.map()?;
    let [file] = peek(clients, "caFiles")?.list() else { return None };
    let file = file.text().and_then(grammar::file).filter(|path| !path.contains(' '))?;
    match peek(clients, "clientAuthType").and_then(Node::text) {
        Some("RequireAndVerifyClientCert") => Some((file, true)),
        Some("VerifyClientCertIfGiven") => Some((file, false)),
        _ => None,
    }
}

/// Returns the line and path of a requirement of client certificates that the router's listeners don't
/// enforce.
pub(super) fn certificate_demand(router: &RouterEntryPoints, is_enforced: bool, root: &Map) -> Option<(usize, String)> {
    let options = options_of(root, &router.options).filter(|_| router.is_tls)?;
    if is_enforced && authority(options).is_some() {
        return None;
    }
    let clients = peek(options, "clientAuth")?;
    let kind = clients.map().and_then(|clients| peek(clients, "clientAuthType")).and_then(Node::text);
    let asks = kind.is_none_or(|kind| !kind.eq_ignore_ascii_case("NoClientCert"));
    asks.then(|| (clients.line, format!("tls.options.{}.clientAuth", router.options)))
}
