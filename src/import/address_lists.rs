//! Owns: lists of the addresses that may use a route, and of those that may not.
//! Invariant: `deny` counts whatever `allow` says.
//! Must not know: routes; the formats of sources.

/// The addresses that may use a route, and those that may not; an empty list is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AddressLists {
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
}
