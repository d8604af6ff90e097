//! Owns: what the configuration says about one server of a pool.
//! Invariant: its name is its identity; its incarnation is one life of its address.
//! Must not know: probes, cookies, connections.

use std::sync::Arc;

use super::admission::AdminState;
use super::hash::stable_hash;
use super::live::Live;
use super::merge::{KeyValues, Merged, merge};
use crate::net::Address;

/// The keys of one `[[pools.backends]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name, unique in its pool; pins, logs, metrics and the admin API use it.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Its share of new sessions, 0 to 1000; 0 keeps the sessions it has and gets no new one.
    pub weight: u32,
    /// Its admin state at start.
    pub state: AdminState,
    /// It gets new sessions only while no regular backend accepts them.
    pub backup: bool,
    /// The backends that its sessions prefer while it is unavailable, by name, best first.
    pub failover: Vec<String>,
    /// Its name in the application's session ids (persistence of type `route`); `name` if not set.
    pub route: Option<String>,
    /// Requests in flight on it at a time, over all threads; `None` for no limit.
    pub max_requests: Option<u32>,
    /// Sessions beyond which it gets no new one (an estimate); `None` for no limit.
    pub max_sessions: Option<u32>,
    /// No source lists it any more: it gets no new session, whatever the operator has set.
    pub leaving: bool,
    /// When its last sessions leave, if it is leaving: in milliseconds since the Unix epoch. `None` if they stay for as
    /// long as it serves.
    pub leaves_at: Option<u64>,
    /// Its source says that it does not serve.
    pub reported_down: bool,
    /// What its source tells it by from an earlier server of the same name, such as the uid of a pod. Its address if not
    /// set.
    pub identity: Option<String>,
    /// The name of a group of servers. Its sessions prefer another one of its group when it is lost or drains.
    pub group: Option<String>,
    /// Since when the name means this server, in seconds since the Unix epoch: an older pin belongs to another server
    /// of the same name and address. 0 if there was none.
    pub since: u64,
    /// Identifies how connections to it are made: connections with another value are not used again.
    pub connection_tag: u64,
}

impl Settings {
    /// Returns the settings of a backend that has a name and an address, and defaults otherwise.
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
            leaves_at: None,
            reported_down: false,
            identity: None,
            group: None,
            since: 0,
            connection_tag: 0,
        }
    }

    /// Returns what identifies this server among all that have its name, the same in every Linchpin
    /// ([`Backend::incarnation`]).
    pub(super) fn incarnation(&self) -> u64 {
        match &self.identity {
            Some(identity) => stable_hash(identity.as_bytes()),
            None => stable_hash(self.address.to_string().as_bytes()),
        }
    }

    /// Returns whether both mean the same server.
    pub fn is_same_server(&self, other: &Settings) -> bool {
        self.name == other.name && self.address == other.address && self.identity == other.identity
    }
}

/// One server of a pool.
#[derive(Debug)]
pub struct Backend {
    pub(super) name: Arc<str>,
    pub(super) address: Address,
    pub(super) incarnation: u64,
    pub(super) since: u64,
    pub(super) connection_key: u64,
    pub(super) weight: u32,
    pub(super) state: AdminState,
    pub(super) name_hash: u64,
    pub(super) backup: bool,
    pub(super) failover: Vec<usize>,
    pub(super) route: Box<str>,
    pub(super) group: Option<Box<str>>,
    pub(super) live: Arc<Live>,
}

impl Backend {
    /// Its name, which is its identity.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Identifies one server that has its name: one life of its address, or what its source tells servers by. It is the
    /// same in every Linchpin with the same configuration, and changes when the name gets another address or identity: a
    /// pin never follows a name to a different server.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Identifies its incarnation and how connections to it are made. A connection serves only requests with the same.
    pub fn connection_key(&self) -> u64 {
        self.connection_key
    }

    /// Returns whether a pin that was sealed at `sealed`, in seconds since the Unix epoch, and names this `incarnation`
    /// belongs to this server. A pin to an earlier server of the same name and address is older than `since`.
    pub fn is_of(&self, incarnation: u64, sealed: u64) -> bool {
        self.incarnation == incarnation && sealed >= self.since
    }

    /// Its configured weight; the operator may have set another one ([`Live::weight`]).
    pub fn configured_weight(&self) -> u32 {
        self.weight
    }

    /// Its configured admin state; the operator may have set another one ([`Live::wanted`]).
    pub fn configured_state(&self) -> AdminState {
        self.state
    }

    /// Decides which weight holds if the next configuration has this one.
    pub fn merge_weight(&self, file: u32) -> Merged<u32> {
        merge(KeyValues { was: self.weight, runtime: self.live.weight(), file })
    }

    /// Decides which admin state holds if the next configuration has this one.
    pub fn merge_state(&self, file: AdminState) -> Merged<AdminState> {
        merge(KeyValues { was: self.state, runtime: self.live.wanted(), file })
    }

    /// Returns a hash of its name that is the same in every Linchpin, for rendezvous hashing.
    pub fn name_hash(&self) -> u64 {
        self.name_hash
    }

    /// Returns whether it gets new sessions only while no regular backend accepts them.
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    /// Positions of the backends that its sessions prefer while it is unavailable, best first.
    pub fn failover(&self) -> &[usize] {
        &self.failover
    }

    /// The name of its group, if it has one.
    pub fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// Its name in the application's session ids.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Its live state.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}
