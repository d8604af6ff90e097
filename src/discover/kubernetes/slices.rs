//! Owns: the EndpointSlices of one Service, and the backends that they are together.
//! Invariant: the same slices make the same backends in the same order, in every Linchpin; each pod is one backend.
//! Must not know: how slices arrive.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::super::backend::DiscoveredBackend;
use super::super::name;
use super::super::settings::PodPort;
use super::endpoint_slice::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

/// The slices of a Service, by name.
#[derive(Debug, Default)]
pub(super) struct Slices(BTreeMap<String, EndpointSlice>);

impl Slices {
    /// Adds a slice, or replaces the one of that name.
    pub(super) fn set(&mut self, slice: EndpointSlice) {
        self.0.insert(slice.metadata.name.clone(), slice);
    }

    /// Removes a slice.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the backends of this Service at this port. A pod that several slices have is one backend: it may be in
    /// two while it moves from one to the other, and has one slice for each kind of address.
    ///
    /// # Errors
    /// If there are endpoints, and none has such a port.
    pub(super) fn backends(&self, service: &str, port: &PodPort) -> Result<Vec<DiscoveredBackend>, String> {
        let mut found: BTreeMap<String, DiscoveredBackend> = BTreeMap::new();
        let mut has_port = None;
        for slice in self.0.values() {
            let endpoints = slice.endpoints.iter().flatten();
            let Some(number) = port_of(slice, port) else {
                has_port = has_port.or((endpoints.count() > 0).then_some(false));
                continue;
            };
            has_port = Some(true);
            for backend in endpoints.filter_map(|endpoint| backend(service, endpoint, number)) {
                let key = backend.identity.clone().unwrap_or_else(|| backend.name.clone());
                match found.get_mut(&key) {
                    Some(known) => merge(known, backend),
                    None => drop(found.insert(key, backend)),
                }
            }
        }
        if has_port == Some(false) {
            return Err(self.missing(port));
        }
        let mut found: Vec<_> = found.into_values().collect();
        // A pod that is gone may still be listed beside its successor, which has its name or its address: of two, the
        // one that serves counts.
        found.sort_by_key(|backend| (!backend.is_serving, backend.is_leaving));
        let (mut names, mut addresses) = (std::collections::HashSet::new(), std::collections::HashSet::new());
        found.retain(|each| names.insert(each.name.clone()) && addresses.insert(each.address.clone()));
        Ok(found)
    }

    fn missing(&self, port: &PodPort) -> String {
        match port {
            PodPort::Named(name) => format!("the Service has no TCP port named \"{name}\""),
            PodPort::Only | PodPort::Number(_) => {
                "the Service has no TCP port, or several: write `port` with the name of one".into()
            }
        }
    }
}

/// Returns the number of the wanted port in this slice.
fn port_of(slice: &EndpointSlice, port: &PodPort) -> Option<u16> {
    let is_tcp = |port: &&EndpointPort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let mut all = slice.ports.iter().flatten().filter(is_tcp);
    let number = match port {
        PodPort::Number(number) => Some(*number),
        PodPort::Named(name) => all.find(|each| each.name.as_deref() == Some(name.as_str()))?.port,
        PodPort::Only => {
            let only = all.next()?.port;
            only.filter(|_| all.next().is_none())
        }
    };
    number.filter(|number| *number != 0)
}

/// Makes a backend of an endpoint; `None` if it has no address at which a server can be.
fn backend(service: &str, endpoint: &Endpoint, port: u16) -> Option<DiscoveredBackend> {
    let ip: IpAddr = endpoint.addresses.as_ref()?.first()?.parse().ok()?;
    if ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    let address = SocketAddr::new(ip, port);
    let target = endpoint.target_ref.as_ref();
    let name = match target.and_then(|target| target.name.as_deref()) {
        Some(name) => name::from_source(name),
        None => name::from_address(service, address),
    };
    let EndpointConditions { ready, serving, terminating } = endpoint.conditions.as_ref().unwrap_or(&UNKNOWN);
    Some(DiscoveredBackend {
        identity: target.and_then(|target| target.uid.clone()).filter(|uid| !uid.is_empty()),
        // The documentation of the fields says to take unknown for these.
        is_serving: serving.or(*ready).unwrap_or(true),
        is_leaving: terminating.unwrap_or(false),
        ..DiscoveredBackend::new(name, address.into())
    })
}

const UNKNOWN: EndpointConditions = EndpointConditions { ready: None, serving: None, terminating: None };

/// Takes in another endpoint of the same pod. Its lowest address counts, IPv4 before IPv6. The slices may be of different
/// age: no pod returns from terminating, and of two words on readiness the better one counts, as in kube-proxy.
fn merge(known: &mut DiscoveredBackend, other: DiscoveredBackend) {
    known.is_leaving |= other.is_leaving;
    known.is_serving |= other.is_serving;
    if other.address.tcp() < known.address.tcp() {
        known.address = other.address;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(all: &[serde_json::Value]) -> Slices {
        let mut slices = Slices::default();
        all.iter().for_each(|slice| slices.set(serde_json::from_value(slice.clone()).unwrap()));
        slices
    }

    fn slice(name: &str, endpoints: serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "metadata": { "name": name, "resourceVersion": "7", "labels": {} },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" }],
        })
    }

    fn pod(name: &str, uid: &str, ip: &str, conditions: serde_json::Value) -> serde_json::Value {
        let target = serde_json::json!({ "kind": "Pod", "name": name, "namespace": "shop", "uid": uid });
        serde_json::json!({ "addresses": [ip], "conditions": conditions, "targetRef": target })
    }

    fn listed(slices: &Slices, port: &PodPort) -> Vec<String> {
        let describe = |found: DiscoveredBackend| {
            let state = match (found.is_serving, found.is_leaving) {
                (true, false) => "ready",
                (true, true) => "drains",
                (false, _) => "down",
            };
            format!("{} {} {} {state}", found.name, found.identity.unwrap_or_default(), found.address)
        };
        let mut all: Vec<_> = slices.backends("web", port).unwrap().into_iter().map(describe).collect();
        all.sort();
        all
    }

    fn http() -> PodPort {
        PodPort::Named("http".into())
    }

    #[test]
    fn serving_and_terminating_decide_and_ready_only_where_serving_is_unknown() {
        for (conditions, state) in [
            (serde_json::json!({ "ready": true, "serving": true, "terminating": false }), "ready"),
            (serde_json::json!({ "ready": false, "serving": true, "terminating": true }), "drains"),
            (serde_json::json!({ "ready": true, "serving": true, "terminating": true }), "drains"),
            (serde_json::json!({ "ready": true, "serving": false, "terminating": false }), "down"),
            (serde_json::json!({ "ready": false, "serving": false, "terminating": true }), "down"),
            (serde_json::json!({ "ready": false }), "down"),
            (serde_json::json!({ "ready": true, "serving": null, "terminating": null }), "ready"),
            (serde_json::json!({}), "ready"),
            (serde_json::Value::Null, "ready"),
        ] {
            let all =
                slices(&[slice("web-1", serde_json::json!([pod("web-0", "u0", "10.0.0.1", conditions.clone())]))]);
            assert_eq!(listed(&all, &http()), [format!("web-0 u0 10.0.0.1:8080 {state}")], "{conditions}");
        }
    }

    #[test]
    fn a_pod_of_several_slices_is_one_backend() {
        let ready = serde_json::json!({ "serving": true });
        let leaving = serde_json::json!({ "serving": true, "terminating": true });
        let v6 = slice("web-6", serde_json::json!([pod("web-0", "u0", "2001:db8::1", ready.clone())]));
        let v4 = slice("web-4", serde_json::json!([pod("web-0", "u0", "10.0.0.1", ready.clone())]));
        assert_eq!(listed(&slices(&[v6.clone(), v4.clone()]), &http()), ["web-0 u0 10.0.0.1:8080 ready"]);
        // While it moves from one slice to another, one of them may be older.
        let moving = slice("web-5", serde_json::json!([pod("web-0", "u0", "10.0.0.1", leaving)]));
        assert_eq!(listed(&slices(&[moving.clone(), v4.clone(), v6]), &http()), ["web-0 u0 10.0.0.1:8080 drains"]);
        let mut fewer = slices(&[moving, v4]);
        fewer.remove("web-5");
        assert_eq!(listed(&fewer, &http()), ["web-0 u0 10.0.0.1:8080 ready"]);
    }

    #[test]
    fn of_a_pod_and_its_successor_with_the_same_name_or_address_the_one_that_serves_counts() {
        let (ready, down) = (serde_json::json!({ "serving": true }), serde_json::json!({ "serving": false }));
        let of = |a: &serde_json::Value, b: &serde_json::Value| {
            let endpoints = [pod("web-0", "old", "10.0.0.1", a.clone()), pod("web-0", "new", "10.0.0.2", b.clone())];
            listed(&slices(&[slice("web-1", serde_json::json!(endpoints))]), &http())
        };
        assert_eq!(of(&down, &ready), ["web-0 new 10.0.0.2:8080 ready"]);
        assert_eq!(of(&ready, &down), ["web-0 old 10.0.0.1:8080 ready"]);
        let endpoints = [pod("web-0", "u0", "10.0.0.1", down), pod("web-1", "u1", "10.0.0.1", ready)];
        let all = slices(&[slice("web-1", serde_json::json!(endpoints))]);
        assert_eq!(listed(&all, &http()), ["web-1 u1 10.0.0.1:8080 ready"]);
    }

    #[test]
    fn the_port_is_named_numbered_or_the_only_one() {
        let two = slices(&[slice("web-1", serde_json::json!([pod("a", "u", "10.0.0.1", serde_json::Value::Null)]))]);
        assert_eq!(listed(&two, &PodPort::Only), ["a u 10.0.0.1:8080 ready"], "the UDP port is none");
        assert_eq!(listed(&two, &PodPort::Number(9000)), ["a u 10.0.0.1:9000 ready"]);
        let missing = two.backends("web", &PodPort::Named("dns".into())).unwrap_err();
        assert_eq!(missing, "the Service has no TCP port named \"dns\"");
        assert_eq!(Slices::default().backends("web", &http()), Ok(Vec::new()), "without endpoints nothing is missing");
    }

    #[test]
    fn endpoints_without_pods_are_named_by_address_and_those_without_address_are_none() {
        let endpoints = serde_json::json!([
            { "addresses": ["10.0.0.1"] }, { "addresses": ["db.internal"] }, { "addresses": [] }, { "addresses": null },
            { "addresses": ["0.0.0.0"] },
        ]);
        let none =
            serde_json::json!({ "metadata": { "name": "x" }, "addressType": "IPv4", "endpoints": null, "ports": null });
        assert_eq!(
            listed(&slices(&[slice("a", endpoints), none]), &http()),
            ["web-10.0.0.1-8080  10.0.0.1:8080 ready"]
        );
    }
}
