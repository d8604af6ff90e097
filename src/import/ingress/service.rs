//! Owns: the Services that Ingresses lead to, and how Linchpin finds their pods.
//! Invariant: a Service's port is one pool, however many paths lead to it.
//! Must not know: annotations.

use super::super::grammar::is_kubernetes_name;
use super::super::node::{Map, Node, peek};
use super::super::pool::Pool;
use super::super::toml::Value;
use super::super::units::Address;
use super::objects::{Objects, text};

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ServicePort {
    namespace: String,
    service: String,
    /// The port's number in the Service, or its name.
    port: String,
}

impl ServicePort {
    /// Reads the `backend` of a path.
    pub(super) fn of(backend: &Node, namespace: &str) -> Option<ServicePort> {
        let map = backend.map()?;
        let (service, port) = match peek(map, "service").and_then(Node::map) {
            Some(service) => {
                let port = peek(service, "port").and_then(Node::map)?;
                (text(service, "name")?, text(port, "name").or_else(|| text(port, "number"))?)
            }
            // Before networking.k8s.io/v1.
            None => (text(map, "serviceName")?, text(map, "servicePort")?),
        };
        let is_good = [service, namespace, port].into_iter().all(is_kubernetes_name);
        is_good.then(|| ServicePort { namespace: namespace.into(), service: service.into(), port: port.into() })
    }

    /// Returns the pool's name, if no other has it.
    pub(super) fn pool_name(&self, objects: &Objects<'_>) -> String {
        match objects.has_one_namespace() {
            true => self.service.clone(),
            false => format!("{}-{}", self.namespace, self.service),
        }
    }

    /// Adds the Service's pods to a pool. Returns whether it could.
    pub(super) fn write(&self, objects: &Objects<'_>, pool: &mut Pool, line: usize, shown: &str) -> bool {
        let spec = objects.service(&self.namespace, &self.service);
        if let Some(name) = spec.and_then(|spec| text(spec, "externalName")) {
            let port = self.port.parse().unwrap_or(80);
            pool.backend(&self.service, &Address::Name(name.trim_end_matches('.').into(), port), line, shown);
            return true;
        }
        let (port, doubt) = self.pod_port(spec);
        let backend = pool.kubernetes(&format!("{}/{}", self.namespace, self.service), &port, line, shown);
        if let Some(doubt) = doubt {
            backend.table.comment(doubt);
        }
        true
    }

    /// Returns the port of the pods: its name in the Service, or its number, with what is in doubt.
    fn pod_port(&self, spec: Option<&Map>) -> (Value, Option<String>) {
        let value = |port: &str| port.parse().map_or_else(|_| Value::text(port), Value::number);
        let ports = spec.and_then(|spec| peek(spec, "ports")).map(Node::list).unwrap_or_default();
        let is_it = |port: &&Map| text(port, "port") == Some(&self.port) || text(port, "name") == Some(&self.port);
        let found = ports.iter().filter_map(Node::map).find(is_it);
        match found {
            Some(port) => match (text(port, "name"), text(port, "targetPort").or_else(|| text(port, "port"))) {
                (Some(name), _) => (Value::text(name), None),
                (None, Some(target)) if target.parse::<u16>().is_ok() => (value(target), None),
                _ => {
                    let doubt =
                        "the Service's port has no name, and its targetPort is one: write the number of the pods' port";
                    (value(&self.port), Some(doubt.into()))
                }
            },
            None if self.port.parse::<u16>().is_err() => (value(&self.port), None),
            None => {
                let doubt = format!(
                    "{} is the Service's port; if that of its pods differs, write that, or the port's name",
                    self.port
                );
                (value(&self.port), Some(doubt))
            }
        }
    }
}
