//! Owns: what was read of a request's pin, before it is judged.
//! Invariant: nothing here says whether a pin holds.
//! Must not know: which carrier the pin came in, or the state of a backend.

use std::sync::Arc;

use super::learned::record::SessionKey;
use super::seal::Pin;

/// The pin that was read from a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinLookup {
    /// The request carries none.
    Absent,
    /// The request carries a token that can't be opened: it is forged, damaged, or belongs to another pool.
    Unreadable,
    /// The request carries a token that names a key which the ring doesn't have.
    UnknownKey,
    /// The request carries a pin.
    Pinned(Arc<Pin>),
    /// The request carries a session id of the application that names its backend.
    Routed(RoutedId),
    /// The request carries a session id of the application that the table does not have.
    Unlearned(SessionKey),
}

/// A request's pin, and the learned session that the request belongs to, if any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractedPin {
    /// The pin.
    pub lookup: PinLookup,
    /// The pin was sealed with another key than new pins are.
    pub is_of_former_key: bool,
    pub(super) key: Option<SessionKey>,
    /// What [`super::learned::SessionTable::removals`] returned when the store was asked.
    pub(super) removals: u64,
}

impl From<PinLookup> for ExtractedPin {
    fn from(lookup: PinLookup) -> ExtractedPin {
        ExtractedPin { lookup, is_of_former_key: false, key: None, removals: 0 }
    }
}

impl ExtractedPin {
    /// The key of the application's session that the request names.
    pub fn key(&self) -> Option<SessionKey> {
        self.key
    }
}

/// How many backends an id may name. WebLogic names two (`id!primary!secondary`), WildFly up to three.
pub(super) const MAX_NAMED_BACKENDS: usize = 3;

/// The backends that an application's session id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutedId {
    /// The id of the session: a hash of the application's id without the backends' names. Every Linchpin computes the
    /// same.
    pub session: u64,
    /// The positions of the named backends that the pool has, in the id's order: first the backend that holds the
    /// session, then those that have a copy.
    pub backends: [Option<usize>; MAX_NAMED_BACKENDS],
}
