//! Owns: the parts of `discovery.k8s.io/v1` that discovery reads: EndpointSlices, their lists and their watch events.
//! Invariant: what the API server may leave out or send as `null` is optional; unknown fields are ignored; lists are bounded.
//! Must not know: what the fields mean for a pool.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};

/// The most slices of one page. A server that knows no pages sends all of them at once.
const MAX_SLICES: usize = 1000;
/// The most endpoints of one slice: as many as Kubernetes lets one have.
const MAX_ENDPOINTS: usize = 1000;
/// The most ports of one slice.
const MAX_PORTS: usize = 1000;

/// `EndpointSliceList`.
#[derive(Debug, Deserialize)]
pub(super) struct EndpointSliceList {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    #[serde(default, deserialize_with = "at_most::<MAX_SLICES, _, _>")]
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
    #[serde(default, deserialize_with = "at_most::<MAX_ENDPOINTS, _, _>")]
    pub(super) endpoints: Option<Vec<Endpoint>>,
    #[serde(default, deserialize_with = "at_most::<MAX_PORTS, _, _>")]
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
    /// The first one: they are all the same endpoint, and only the first is used, as everywhere in Kubernetes.
    #[serde(default, rename = "addresses", deserialize_with = "first")]
    pub(super) address: Option<String>,
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

/// Reads a list that has no more than `MOST` items: three bytes of text can become more than a hundred in memory.
fn at_most<'de, const MOST: usize, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    struct AtMost<const MOST: usize, T>(PhantomData<T>);
    impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for AtMost<MOST, T> {
        type Value = Option<Vec<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of up to {MOST} items")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(item) = items.next_element()? {
                if all.len() == MOST {
                    return Err(A::Error::invalid_length(MOST + 1, &self));
                }
                all.push(item);
            }
            Ok(Some(all))
        }
    }
    deserializer.deserialize_any(AtMost::<MOST, T>(PhantomData))
}

/// Reads the first item of a list.
fn first<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct First;
    impl<'de> Visitor<'de> for First {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of texts")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let first = items.next_element()?;
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok(first)
        }
    }
    deserializer.deserialize_any(First)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(text: &str) -> Result<EndpointSlice, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn lists_that_are_longer_than_those_of_kubernetes_are_refused_before_they_take_memory() {
        let with = |key: &str, item: &str, count: usize| {
            format!(r#"{{"metadata":{{}},"{key}":[{}]}}"#, vec![item; count].join(","))
        };
        for key in ["endpoints", "ports"] {
            assert!(slice(&with(key, "{}", 1000)).is_ok());
            assert!(slice(&with(key, "{}", 1001)).unwrap_err().to_string().contains("up to 1000 items"));
        }
        let list = |count| serde_json::from_str::<EndpointSliceList>(&with("items", r#"{"metadata":{}}"#, count));
        assert_eq!(list(1000).unwrap().items.unwrap().len(), 1000);
        assert!(list(1001).is_err());
        let addresses =
            format!(r#"{{"metadata":{{}},"endpoints":[{{"addresses":["10.0.0.1"{}]}}]}}"#, ",\"\"".repeat(5000));
        let endpoints = slice(&addresses).unwrap().endpoints.unwrap();
        assert_eq!(endpoints[0].address.as_deref(), Some("10.0.0.1"));
    }

    #[test]
    fn what_is_null_or_left_out_is_unknown() {
        for text in [
            r#"{"metadata":{}}"#,
            r#"{"metadata":{"name":"a"},"endpoints":null,"ports":null}"#,
            r#"{"metadata":{},"endpoints":[{"addresses":null,"conditions":null,"targetRef":null},{}],"ports":[{}]}"#,
        ] {
            let slice = slice(text).unwrap();
            assert!(
                slice.endpoints.into_iter().flatten().all(|each| each.address.is_none() && each.conditions.is_none())
            );
        }
        assert!(slice(r#"{"metadata":{},"endpoints":"none"}"#).is_err());
    }
}
