//! Owns: the objects of a file: Ingresses with their rules, and Services.
//! Invariant: Ingresses are in the order of their age, as ingress-nginx prefers the older one.
//! Must not know: what an annotation means.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::grammar;
use super::super::node::{Map, Node, peek};
use super::super::notes::left;
use super::super::reasons::NONE;
use super::super::toml::Table;
use super::annotations::Annotations;
use super::global_settings::GlobalSettings;

/// All objects of a file.
pub(super) struct Objects<'n> {
    pub(super) ingresses: Vec<Ingress<'n>>,
    services: HashMap<(String, String), &'n Map>,
    config_maps: BTreeMap<(String, String), (&'n Node, &'n Map)>,
    secrets: HashMap<(String, String), &'n Map>,
    /// The settings of the controller.
    pub(super) settings: GlobalSettings<'n>,
    used: RefCell<BTreeSet<(String, String)>>,
}

/// An Ingress.
pub(super) struct Ingress<'n> {
    pub(super) line: usize,
    pub(super) namespace: String,
    name: String,
    created: String,
    object: &'n Map,
    spec: Option<&'n Map>,
    pub(super) annotations: Annotations<'n>,
}

/// One path of an Ingress, and where its requests go.
pub(super) struct PathRule<'n> {
    pub(super) line: usize,
    /// What names it in comments.
    pub(super) text: String,
    pub(super) host: Option<String>,
    pub(super) path: String,
    pub(super) is_exact: bool,
    pub(super) backend: &'n Node,
}

impl<'n> Objects<'n> {
    /// Finds the objects of these documents, and notes those of other kinds.
    pub(super) fn of(documents: &'n [Node], notes: &mut Table) -> Objects<'n> {
        let mut objects = Objects {
            ingresses: Vec::new(),
            services: HashMap::new(),
            config_maps: BTreeMap::new(),
            secrets: HashMap::new(),
            settings: GlobalSettings::default(),
            used: RefCell::default(),
        };
        for document in documents {
            objects.add(document, notes);
        }
        objects.find_controller();
        for ingress in &mut objects.ingresses {
            ingress.annotations.default_to(objects.settings.clone());
        }
        objects.ingresses.sort_by(|one, other| {
            (&one.created, &one.namespace, &one.name).cmp(&(&other.created, &other.namespace, &other.name))
        });
        objects
    }

    fn add(&mut self, node: &'n Node, notes: &mut Table) {
        let Some(object) = node.map() else { return };
        let kind = text(object, "kind").unwrap_or_default();
        if let Some(items) = peek(object, "items").filter(|_| kind.ends_with("List")) {
            return items.list().iter().for_each(|item| self.add(item, notes));
        }
        let metadata = peek(object, "metadata").and_then(Node::map);
        let of_metadata = |key: &str| metadata.and_then(|metadata| text(metadata, key));
        let name = of_metadata("name").unwrap_or_default().to_owned();
        let namespace = of_metadata("namespace").unwrap_or("default").to_owned();
        match kind {
            "Ingress" => {
                let created = of_metadata("creationTimestamp").unwrap_or_default().to_owned();
                let annotations = metadata.and_then(|metadata| peek(metadata, "annotations")).and_then(Node::map);
                let annotations = Annotations::new(annotations, &name);
                let spec = peek(object, "spec").and_then(Node::map);
                self.ingresses.push(Ingress { line: node.line, namespace, name, created, object, spec, annotations });
            }
            "Service" => drop(self.services.insert((namespace, name), object)),
            "ConfigMap" => drop(self.config_maps.insert((namespace, name), (node, object))),
            "" => {}
            kind => {
                other(kind, &name, node, notes);
                if kind == "Secret" {
                    self.secrets.insert((namespace, name), object);
                }
            }
        }
    }

    /// Finds the ConfigMap of the controller: by the label of its chart, or by a name that tells.
    fn find_controller(&mut self) {
        let is_it = |object: &Map, name: &str| {
            let labels = peek(object, "metadata").and_then(Node::map).and_then(|metadata| peek(metadata, "labels"));
            let labels = labels.and_then(Node::map);
            let label = labels.and_then(|labels| text(labels, "app.kubernetes.io/name"));
            label == Some("ingress-nginx")
                || name.ends_with("ingress-nginx-controller")
                || matches!(name, "nginx-configuration" | "nginx-ingress-controller" | "ingress-nginx")
        };
        let found = self.config_maps.iter().find(|((_, name), (_, object))| is_it(object, name));
        let Some((key, (_, object))) = found else { return };
        self.settings = GlobalSettings::new(&key.1, peek(object, "data").and_then(Node::map));
        self.used.borrow_mut().insert(key.clone());
    }

    /// Returns the data of a ConfigMap, if the file has it.
    pub(super) fn config_map(&self, namespace: &str, name: &str) -> Option<&'n Map> {
        let key = (namespace.to_owned(), name.to_owned());
        let (_, object) = self.config_maps.get(&key)?;
        self.used.borrow_mut().insert(key);
        peek(object, "data").and_then(Node::map)
    }

    /// Returns a text in a Secret, if the file has it.
    pub(super) fn secret(&self, namespace: &str, name: &str, key: &str) -> Option<String> {
        let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
        let object = self.secrets.get(&(namespace.to_owned(), name.to_owned()))?;
        let of = |field: &str| peek(object, field).and_then(Node::map).and_then(|data| text(data, key));
        let decoded = || base64::Engine::decode(&base64::prelude::BASE64_STANDARD, of("data")?.trim()).ok();
        of("stringData").map(str::to_owned).or_else(|| String::from_utf8(decoded()?).ok())
    }

    /// Notes the ConfigMaps that nothing refers to.
    pub(super) fn finish(&self, notes: &mut Table) {
        let used = self.used.borrow();
        for ((_, name), (node, _)) in self.config_maps.iter().filter(|(key, _)| !used.contains(*key)) {
            other("ConfigMap", name, node, notes);
        }
    }

    /// Returns the spec of a Service, if the file has it.
    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&'n Map> {
        let object = self.services.get(&(namespace.to_owned(), name.to_owned()))?;
        peek(object, "spec").and_then(Node::map)
    }

    /// Returns whether the paths of a host are patterns: if those of one of its Ingresses are, all are.
    pub(super) fn has_patterns(&self, host: Option<&str>) -> bool {
        let has_host = |ingress: &&Ingress<'n>| ingress.rules().any(|rule| text(rule, "host") == host);
        self.ingresses.iter().filter(|ingress| ingress.has_patterns()).any(|ingress| has_host(&ingress))
    }

    /// Returns the folder for a Secret of a namespace, whose name may begin with another one.
    pub(super) fn folder(&self, namespace: &str, secret: &str) -> Option<String> {
        let (namespace, name) = secret.split_once('/').unwrap_or((namespace, secret));
        let is_good = grammar::is_kubernetes_name(namespace) && grammar::is_kubernetes_name(name);
        is_good.then(|| if self.has_one_namespace() { name.to_owned() } else { format!("{namespace}-{name}") })
    }

    /// Returns whether all Ingresses are in one namespace.
    pub(super) fn has_one_namespace(&self) -> bool {
        self.ingresses.windows(2).all(|pair| match pair {
            [one, other] => one.namespace == other.namespace,
            _ => true,
        })
    }
}

impl<'n> Ingress<'n> {
    /// Returns its name in comments.
    pub(super) fn shown(&self) -> String {
        format!("Ingress {}/{}", self.namespace, self.name)
    }

    pub(super) fn is_canary(&self) -> bool {
        self.annotations.peek("canary") == Some("true")
    }

    /// Returns its paths; the default backend is the last.
    pub(super) fn paths(&self) -> Vec<PathRule<'n>> {
        let mut rules = Vec::new();
        let Some(spec) = self.spec else { return rules };
        for map in self.rules() {
            let host = text(map, "host").and_then(grammar::host);
            for (line, entry) in entries(map) {
                let Some(backend) = peek(entry, "backend") else { continue };
                let path = text(entry, "path").unwrap_or("/").to_owned();
                rules.push(PathRule {
                    line,
                    text: format!("{}: {}{path}", self.shown(), host.as_deref().unwrap_or("*")),
                    host: host.clone(),
                    is_exact: text(entry, "pathType") == Some("Exact"),
                    path,
                    backend,
                });
            }
        }
        if let Some(backend) = peek(spec, "defaultBackend").or_else(|| peek(spec, "backend")) {
            rules.push(PathRule {
                line: backend.line,
                text: format!("{}: default backend", self.shown()),
                host: None,
                path: "/".into(),
                is_exact: false,
                backend,
            });
        }
        rules
    }

    /// Returns its rules, each with a host and paths.
    fn rules(&self) -> impl Iterator<Item = &'n Map> {
        let rules = self.spec.and_then(|spec| peek(spec, "rules")).map(Node::list).unwrap_or_default();
        rules.iter().filter_map(Node::map)
    }

    /// Returns whether its paths are patterns.
    pub(super) fn has_patterns(&self) -> bool {
        self.annotations.peek("use-regex") == Some("true") || self.annotations.peek("rewrite-target").is_some()
    }

    /// Returns the other names of its hosts; `server-alias` is taken if all of them are names.
    pub(super) fn aliases(&self) -> Vec<String> {
        let Some(text) = self.annotations.peek("server-alias") else { return Vec::new() };
        let names: Option<Vec<String>> = text.split(',').map(|name| grammar::host(name.trim())).collect();
        if names.is_some() {
            self.annotations.take("server-alias");
        }
        names.unwrap_or_default()
    }

    /// Returns the hosts that have TLS.
    pub(super) fn tls_hosts(&self) -> Vec<String> {
        let entries = self.spec.and_then(|spec| peek(spec, "tls")).map(Node::list).unwrap_or_default();
        let hosts = entries.iter().filter_map(|entry| peek(entry.map()?, "hosts")).flat_map(Node::list);
        hosts.filter_map(Node::text).filter_map(grammar::host).collect()
    }

    /// Returns the Secrets with certificates.
    pub(super) fn secrets(&self) -> Vec<&'n str> {
        let entries = self.spec.and_then(|spec| peek(spec, "tls")).map(Node::list).unwrap_or_default();
        entries.iter().filter_map(|entry| peek(entry.map()?, "secretName")?.text()).collect()
    }

    /// Returns what else is in its class, if that is not one of ingress-nginx by its name.
    pub(super) fn other_class(&self) -> Option<(usize, &'n str)> {
        let node = peek(self.spec?, "ingressClassName")?;
        Some((node.line, node.text()?)).filter(|(_, class)| !class.contains("nginx"))
    }

    /// Notes what was not converted.
    pub(super) fn finish(&self, notes: &mut Table) {
        let shown = self.shown();
        if let Some(spec) = self.spec {
            for key in ["rules", "tls", "ingressClassName", "defaultBackend", "backend"] {
                spec.take(key);
            }
            for rule in self.rules() {
                let _ = (rule.take("host"), rule.take("http"));
                left(rule, &format!("{shown}.spec.rules"), NONE, notes);
                let http = peek(rule, "http").and_then(Node::map);
                for (_, entry) in entries(rule) {
                    let _ = ["path", "pathType", "backend"].map(|key| entry.take(key));
                    left(entry, &format!("{shown}.spec.rules.http.paths"), NONE, notes);
                    backend_left(peek(entry, "backend"), &format!("{shown}.spec.rules.http.paths.backend"), notes);
                }
                if let Some(http) = http {
                    http.take("paths");
                    left(http, &format!("{shown}.spec.rules.http"), NONE, notes);
                }
            }
            let default = ["defaultBackend", "backend"].into_iter().find_map(|key| peek(spec, key));
            backend_left(default, &format!("{shown}.spec.defaultBackend"), notes);
            for entry in peek(spec, "tls").map(Node::list).unwrap_or_default().iter().filter_map(Node::map) {
                let _ = ["hosts", "secretName"].map(|key| entry.take(key));
                left(entry, &format!("{shown}.spec.tls"), NONE, notes);
            }
            self.object.take("spec");
            left(spec, &format!("{shown}.spec"), NONE, notes);
        }
        for key in ["apiVersion", "kind", "metadata", "status"] {
            self.object.take(key);
        }
        left(self.object, &shown, NONE, notes);
        if let Some((line, class)) = self.other_class() {
            let why = "if another controller serves this class, leave the Ingress out of the source";
            notes.unneeded(line, &format!("{shown}.spec.ingressClassName: {class}"), why);
        }
        self.annotations.rest(notes);
    }
}

/// Notes what a backend has beside a Service and its port.
fn backend_left(backend: Option<&Node>, path: &str, notes: &mut Table) {
    let Some(map) = backend.and_then(Node::map) else { return };
    let _ = ["service", "serviceName", "servicePort", "resource"].map(|key| map.take(key));
    left(map, path, NONE, notes);
    let Some(service) = peek(map, "service").and_then(Node::map) else { return };
    let _ = ["name", "port"].map(|key| service.take(key));
    left(service, &format!("{path}.service"), NONE, notes);
    if let Some(port) = peek(service, "port").and_then(Node::map) {
        let _ = ["name", "number"].map(|key| port.take(key));
        left(port, &format!("{path}.service.port"), NONE, notes);
    }
}

/// Returns the paths of a rule, and their lines.
fn entries(rule: &Map) -> impl Iterator<Item = (usize, &Map)> {
    let http = peek(rule, "http").and_then(Node::map).and_then(|http| peek(http, "paths"));
    let all = http.map(Node::list).unwrap_or_default().iter();
    all.filter_map(|entry| Some((entry.line, entry.map()?)))
}

/// Returns the text of a key, without taking it.
pub(super) fn text<'n>(map: &'n Map, key: &str) -> Option<&'n str> {
    peek(map, key).and_then(Node::text)
}

/// Notes an object that is neither an Ingress nor a Service.
fn other(kind: &str, name: &str, node: &Node, notes: &mut Table) {
    let why = match kind {
        "Secret" => "mount it as a volume where the configuration names it",
        "ConfigMap" => {
            "nothing that was imported refers to it; the ConfigMap of the controller has the label app.kubernetes.io/name: ingress-nginx"
        }
        _ => NONE,
    };
    notes.unsupported(node.line, &format!("{name} of kind {kind}"), why);
}
