//! Owns: lists of the addresses that may use a route, and of those that may not.
//! Invariant: `deny` counts whatever `allow` says.
//! Must not know: routes; the formats of sources.

/// The networks of all addresses.
const ALL: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// The addresses that may use a route, and those that may not; an empty list is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AddressLists {
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
}

impl AddressLists {
    /// Returns the lists by which nobody may use a route.
    pub(super) fn nobody() -> AddressLists {
        AddressLists { allow: Vec::new(), deny: ALL.map(str::to_owned).into() }
    }

    /// Returns whether nobody may use a route with these lists.
    pub(super) fn are_of_nobody(&self) -> bool {
        ALL.iter().all(|network| self.deny.iter().any(|denied| denied == network))
    }
}
