//! Owns: what the configuration says of one server of a pool.
//! Invariant: its name is its identity; its incarnation is one life of its address.
//! Must not know: probes, cookies, connections.

use std::sync::Arc;

use super::admission::AdminState;
use super::live::Live;
use crate::net::Address;

/// The keys of one `[[pools.backends]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Unique in its pool; what pins, logs, metrics and the admin API call it.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Its share of new sessions, 0 to 1000; 0 keeps the sessions it has and gets no new one.
    pub weight: u32,
    /// What the operator wants of it at start.
    pub state: AdminState,
    /// Gets new sessions only when no backend that is no backup can take them.
    pub backup: bool,
    /// Where its sessions go first when it is gone, by name, best first.
    pub failover: Vec<String>,
    /// What the application calls it in its session ids (persistence of type `route`); its name if
    /// not said.
    pub route: Option<String>,
    /// Requests in flight on it, over all threads, beyond which it is full; `None` for no limit.
    pub max_requests: Option<u32>,
    /// Sessions beyond which it gets no new one, about; `None` for no limit.
    pub max_sessions: Option<u32>,
    /// Nobody finds it any more: whatever the operator wants of it, it gets no new session.
    pub leaving: bool,
    /// Since when the name stands for this server, in seconds since the Unix epoch: what was pinned
    /// before was pinned to another one of the same name and address. 0 if there was none.
    pub since: u64,
}

impl Settings {
    /// A backend of which no more is said than its name and address.
    pub fn new(name: &str, address: Address) -> Settings {
        Settings {
            name: name.into(),
            address,
            weight: 1,
            state: AdminState::default(),
            backup: false,
            failover: Vec::new(),
            route: None,
            max_requests: None,
            max_sessions: None,
            leaving: false,
            since: 0,
        }
    }
}

/// One server of a pool.
#[derive(Debug)]
pub struct Backend {
    pub(super) name: Arc<str>,
    pub(super) address: Address,
    pub(super) incarnation: u64,
    pub(super) since: u64,
    pub(super) weight: u32,
    pub(super) name_hash: u64,
    pub(super) backup: bool,
    pub(super) failover: Vec<usize>,
    pub(super) route: Box<str>,
    pub(super) live: Arc<Live>,
}

impl Backend {
    /// Its identity.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// One life of its address. The same for every Linchpin that has the same configuration, and
    /// another as soon as the name stands for another address: a pin never follows an address
    /// to a different server.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Whether a pin that was sealed at `sealed`, in seconds since the Unix epoch, and names this
    /// incarnation can be one of this server: a pin to another that had its name and address is older.
    pub fn is_of(&self, incarnation: u64, sealed: u64) -> bool {
        self.incarnation == incarnation && sealed >= self.since
    }

    /// A hash of its name that is the same in every Linchpin, for rendezvous hashing.
    pub fn name_hash(&self) -> u64 {
        self.name_hash
    }

    /// Whether it serves new sessions only when the others can't.
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    /// Positions of the backends that its sessions prefer when it is gone, best first.
    pub fn failover(&self) -> &[usize] {
        &self.failover
    }

    /// What the application calls it in its session ids.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// What is known of it now.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}
