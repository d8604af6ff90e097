//! Owns: a backend as a source describes it.
//! Invariant: it says what the source says, and nothing of health or sessions.
//! Must not know: DNS, files, or what becomes of the backend.

use crate::net::Address;

/// A backend as a source tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveredBackend {
    /// Its identity: the same as long as it is the same server, as far as the source can tell.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Its share of new sessions, if the source says so.
    pub weight: Option<u32>,
    /// Gets new sessions only when no backend that is no backup can take them.
    pub backup: bool,
}
