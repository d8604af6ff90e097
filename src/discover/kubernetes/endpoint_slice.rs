//! Owns: the parts of `discovery.k8s.io/v1` that discovery reads: EndpointSlices, their lists and their watch events.
//! Invariant: what the API server may leave out or send as `null` is optional; unknown fields are ignored.
//! Must not know: what the fields mean for a pool.

use serde::Deserialize;

/// `EndpointSliceList`.
#[derive(Debug, Deserialize)]
pub(super) struct EndpointSliceList {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    pub(super) items: Option<Vec<EndpointSlice>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMeta {
    pub(super) resource_version: Option<String>,
    /// The token of the next page.
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

/// Some of the endpoints of a Service, all with the same ports and the same kind of address.
#[derive(Debug, Deserialize)]
pub(super) struct EndpointSlice {
    pub(super) metadata: ObjectMeta,
    pub(super) endpoints: Option<Vec<Endpoint>>,
    pub(super) ports: Option<Vec<EndpointPort>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectMeta {
    #[serde(default)]
    pub(super) name: String,
    pub(super) resource_version: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    /// They are all the same endpoint; only the first is used, as everywhere in Kubernetes.
    pub(super) addresses: Option<Vec<String>>,
    pub(super) conditions: Option<EndpointConditions>,
    pub(super) target_ref: Option<ObjectReference>,
}

/// What is known of an endpoint. `None` is unknown.
#[derive(Debug, Default, Deserialize)]
pub(super) struct EndpointConditions {
    /// Never true of a pod that terminates, but always true with `publishNotReadyAddresses`.
    pub(super) ready: Option<bool>,
    /// Its readiness probe passes, whether it terminates or not.
    pub(super) serving: Option<bool>,
    /// It was deleted, and has not ended yet.
    pub(super) terminating: Option<bool>,
}

/// The object behind an endpoint, usually a pod.
#[derive(Debug, Deserialize)]
pub(super) struct ObjectReference {
    pub(super) name: Option<String>,
    pub(super) uid: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EndpointPort {
    /// Empty or left out if the Service has a single port.
    pub(super) name: Option<String>,
    /// Left out if it means all ports.
    pub(super) port: Option<u16>,
    /// TCP if left out.
    pub(super) protocol: Option<String>,
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
pub(super) enum WatchEvent {
    Added(EndpointSlice),
    Modified(EndpointSlice),
    Deleted(EndpointSlice),
    /// Nothing has changed up to this version.
    Bookmark(Bookmark),
    /// The watch ends for this reason.
    Error(Status),
}

#[derive(Debug, Deserialize)]
pub(super) struct Bookmark {
    pub(super) metadata: ObjectMeta,
}

#[derive(Debug, Deserialize)]
pub(super) struct Status {
    /// The HTTP status that the request would have got.
    #[serde(default)]
    pub(super) code: u16,
}
