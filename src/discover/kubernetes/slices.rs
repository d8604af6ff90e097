//! Owns: the EndpointSlices of one Service, and the backends that they are together.
//! Invariant: the same slices make the same backends in the same order, in every Linchpin; each pod is one backend.
//! Must not know: how slices arrive.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::super::answer::is_one_server;
use super::super::backend::DiscoveredBackend;
use super::super::name;
use super::super::settings::PodPort;
use super::api::RequestError;
use super::endpoint_slice::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice, ObjectMeta, ObjectReference};

/// What all slices may take, in bytes: those of some 200,000 pods.
const MAX_SIZE: usize = 64 << 20;

/// The slices of a Service, by name.
#[derive(Debug, Default)]
pub(super) struct Slices {
    by_name: BTreeMap<String, EndpointSlice>,
    /// What they take, in bytes.
    size: usize,
}

impl Slices {
    /// Adds a slice, or replaces the one of that name.
    ///
    /// # Errors
    /// If there are too many; this one is among them.
    pub(super) fn set(&mut self, slice: EndpointSlice) -> Result<(), RequestError> {
        self.remove(&slice.metadata.name);
        self.size += memory_of(&slice);
        self.by_name.insert(slice.metadata.name.clone(), slice);
        let too_many = || RequestError::Failed(format!("the Service's EndpointSlices take more than {MAX_SIZE} bytes"));
        if self.size > MAX_SIZE { Err(too_many()) } else { Ok(()) }
    }

    /// Removes a slice.
    pub(super) fn remove(&mut self, name: &str) {
        if let Some(slice) = self.by_name.remove(name) {
            self.size -= memory_of(&slice);
        }
    }

    /// Returns the backends of this Service at this port. A pod that several slices have is one backend: it may be in
    /// two while it moves from one to the other, and has one slice for each kind of address. `known` has the uids of
    /// pods that had such a port before.
    ///
    /// # Errors
    /// If there are endpoints, and none has such a port; or if a pod has lost it: ports of a pod don't change, so it is
    /// the Service that has, in one slice after the other.
    pub(super) fn backends(
        &self,
        service: &str,
        port: &PodPort,
        known: &HashSet<String>,
    ) -> Result<Vec<DiscoveredBackend>, String> {
        let mut found: BTreeMap<String, DiscoveredBackend> = BTreeMap::new();
        let mut without_port = Vec::new();
        for slice in self.by_name.values() {
            let endpoints = slice.endpoints.iter().flatten();
            let Some(number) = port_of(slice, port) else {
                without_port.extend(endpoints);
                continue;
            };
            for backend in endpoints.filter_map(|endpoint| backend(service, endpoint, number)) {
                let key = backend.identity.clone().unwrap_or_else(|| backend.name.clone());
                match found.get_mut(&key) {
                    Some(known) => merge(known, backend),
                    None => drop(found.insert(key, backend)),
                }
            }
        }
        let has_lost_it =
            |endpoint: &&Endpoint| uid(endpoint).is_some_and(|uid| known.contains(uid) && !found.contains_key(uid));
        if !without_port.is_empty() && (found.is_empty() || without_port.iter().any(has_lost_it)) {
            return Err(self.missing(port));
        }
        let mut found: Vec<_> = found.into_values().collect();
        // A pod that is gone may still be listed beside its successor, which has its name or its address: of two, the
        // one that serves counts.
        found.sort_by_key(|backend| (!backend.is_serving, backend.is_leaving));
        let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
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
    let ip: IpAddr = endpoint.address.as_deref()?.parse().ok().filter(|ip| is_one_server(*ip))?;
    let address = SocketAddr::new(ip, port);
    let target = endpoint.target_ref.as_ref();
    let name = match target.and_then(|target| target.name.as_deref()) {
        Some(name) => name::from_source(name),
        None => name::from_address(service, address),
    };
    let EndpointConditions { ready, serving, terminating } = endpoint.conditions.as_ref().unwrap_or(&UNKNOWN);
    Some(DiscoveredBackend {
        identity: uid(endpoint).map(str::to_owned),
        // The documentation of the fields says to take unknown for these.
        is_serving: serving.or(*ready).unwrap_or(true),
        is_leaving: terminating.unwrap_or(false),
        ..DiscoveredBackend::new(name, address.into())
    })
}

fn uid(endpoint: &Endpoint) -> Option<&str> {
    endpoint.target_ref.as_ref()?.uid.as_deref().filter(|uid| !uid.is_empty())
}

/// Returns what a slice takes, in bytes.
fn memory_of(slice: &EndpointSlice) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let target = |target: &ObjectReference| text(&target.name) + text(&target.uid);
    let of_endpoint = |endpoint: &Endpoint| {
        size_of::<Endpoint>() + text(&endpoint.address) + endpoint.target_ref.as_ref().map_or(0, target)
    };
    let of_port = |port: &EndpointPort| size_of::<EndpointPort>() + text(&port.name) + text(&port.protocol);
    let endpoints: usize = slice.endpoints.iter().flatten().map(of_endpoint).sum();
    let ports: usize = slice.ports.iter().flatten().map(of_port).sum();
    let ObjectMeta { name, resource_version } = &slice.metadata;
    size_of::<EndpointSlice>() + 2 * name.len() + text(resource_version) + endpoints + ports
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
        all.iter().for_each(|slice| slices.set(serde_json::from_value(slice.clone()).unwrap()).unwrap());
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
        let mut all: Vec<_> =
            slices.backends("web", port, &HashSet::new()).unwrap().into_iter().map(describe).collect();
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
        let missing = two.backends("web", &PodPort::Named("dns".into()), &HashSet::new()).unwrap_err();
        assert_eq!(missing, "the Service has no TCP port named \"dns\"");
        assert_eq!(
            Slices::default().backends("web", &http(), &HashSet::new()),
            Ok(Vec::new()),
            "without endpoints nothing is missing"
        );
    }

    #[test]
    fn endpoints_without_pods_are_named_by_address_and_those_without_address_are_none() {
        let endpoints = serde_json::json!([
            { "addresses": ["10.0.0.1"] }, { "addresses": ["db.internal"] }, { "addresses": [] }, { "addresses": null },
            { "addresses": ["0.0.0.0"] }, { "addresses": ["255.255.255.255"] }, {},
        ]);
        let none =
            serde_json::json!({ "metadata": { "name": "x" }, "addressType": "IPv4", "endpoints": null, "ports": null });
        assert_eq!(
            listed(&slices(&[slice("a", endpoints), none]), &http()),
            ["web-10.0.0.1-8080  10.0.0.1:8080 ready"]
        );
    }

    #[test]
    fn a_port_that_is_renamed_in_one_slice_after_the_other_ends_no_pod() {
        let none = serde_json::Value::Null;
        let of = |name: &str, uid: &str, ip: &str| slice(name, serde_json::json!([pod(uid, uid, ip, none.clone())]));
        let renamed = |mut slice: serde_json::Value| {
            slice["ports"][0]["name"] = "web".into();
            slice
        };
        let (a, b) = (of("web-1", "a", "10.0.0.1"), of("web-2", "b", "10.0.0.2"));
        let known = |uids: &[&str]| uids.iter().map(|uid| (*uid).to_owned()).collect::<HashSet<_>>();
        let found = |all: &[serde_json::Value], uids: &[&str]| {
            let found = slices(all).backends("web", &http(), &known(uids))?;
            Ok::<_, String>(found.into_iter().map(|each| each.name).collect::<Vec<_>>())
        };
        assert_eq!(found(&[a.clone(), b.clone()], &[]), Ok(vec!["a".into(), "b".into()]));
        for all in [[a.clone(), renamed(b.clone())], [renamed(a.clone()), renamed(b.clone())]] {
            assert_eq!(found(&all, &["a", "b"]), Err("the Service has no TCP port named \"http\"".into()));
        }
        // A pod that never had it is none of the pool's, and keeps nothing from happening to the others.
        assert_eq!(found(&[a.clone(), renamed(b.clone())], &["a"]), Ok(vec!["a".into()]));
        // Nor does one that has it in another slice.
        let both = [a.clone(), b.clone(), renamed(of("web-3", "b", "10.0.0.2"))];
        assert_eq!(found(&both, &["a", "b"]), Ok(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn what_the_slices_take_is_bounded_however_they_come_and_go() {
        let long = |name: usize, length: usize| {
            let pods: Vec<_> =
                (0..1000).map(|_| pod(&"n".repeat(length), "u", "10.0.0.1", serde_json::Value::Null)).collect();
            serde_json::from_value::<EndpointSlice>(slice(&name.to_string(), pods.into())).unwrap()
        };
        let mut slices = Slices::default();
        for round in 0..3 {
            (0..2).for_each(|name| slices.set(long(name, 20_000 + round)).unwrap());
        }
        assert!((40_000_000..45_000_000).contains(&slices.size), "each counts once: {}", slices.size);
        assert!(
            matches!(slices.set(long(9, 30_000)), Err(RequestError::Failed(why)) if why.contains("take more than"))
        );
        ["0", "1", "9", "none"].into_iter().for_each(|name| slices.remove(name));
        assert_eq!(slices.size, 0);
    }
}
