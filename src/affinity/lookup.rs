//! Owns: what a request says of its pin, before anybody judges it.
//! Invariant: nothing here says whether a pin holds.
//! Must not know: where the pin travelled; the state of a backend.

use std::sync::Arc;

use super::learned::record::SessionKey;
use super::seal::Pin;

/// What a request said of its pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinLookup {
    /// Nothing.
    Absent,
    /// Something that no key of the ring opens, or that is not for this pool.
    Unreadable,
    /// A pin.
    Pinned(Arc<Pin>),
    /// An id of the application's that names its server.
    Routed(RoutedId),
    /// An id of the application's that nobody has learned.
    Unlearned(SessionKey),
}

/// What was read of a request, and the session of the application's that it is about, if it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractedPin {
    /// What the request said.
    pub lookup: PinLookup,
    pub(super) key: Option<SessionKey>,
    /// The removals of the table when a store was asked.
    pub(super) removals: u64,
}

impl From<PinLookup> for ExtractedPin {
    fn from(lookup: PinLookup) -> ExtractedPin {
        ExtractedPin { lookup, key: None, removals: 0 }
    }
}

impl ExtractedPin {
    /// The session of the application's that the request is about.
    pub fn key(&self) -> Option<SessionKey> {
        self.key
    }
}

/// How many servers an id may name. WebLogic names two (`id!primary!secondary`), WildFly up to three.
pub(super) const MAX_NODES: usize = 3;

/// What an application's session id says of its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutedId {
    /// Names the session: a hash of the id without its servers, the same in every Linchpin.
    pub session: u64,
    /// The servers that it names and the pool has, in its order: the one that holds the session,
    /// then those that have a copy of it.
    pub nodes: [Option<usize>; MAX_NODES],
}
