//! Owns: a backend as a source describes it.
//! Invariant: it says what the source says, and nothing of probes or sessions.
//! Must not know: DNS, files, or what becomes of the backend.

use crate::net::Address;

/// A backend as a source describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveredBackend {
    /// The identity of the backend: the same name for as long as the source believes it to be the same server.
    pub name: String,
    /// The address of the backend.
    pub address: Address,
    /// The share of new sessions, if the source gives one.
    pub weight: Option<u32>,
    /// Whether it gets new sessions only when no other backend can take them.
    pub backup: bool,
    /// What tells it from an earlier server of the same name, if the source says more than its address.
    pub identity: Option<String>,
    /// Whether the source says that it serves.
    pub is_serving: bool,
    /// Whether the source says that it is about to end.
    pub is_leaving: bool,
}

impl DiscoveredBackend {
    /// Makes a backend that serves, of which the source says nothing else.
    pub fn new(name: String, address: Address) -> DiscoveredBackend {
        let (weight, backup, identity) = (None, false, None);
        DiscoveredBackend { name, address, weight, backup, identity, is_serving: true, is_leaving: false }
    }
}
