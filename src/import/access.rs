//! Owns: the restrictions of access that Linchpin has, too.
//! Invariant: a route with two of a kind lets in nobody whom one of them keeps out.
//! Must not know: routes; the formats of sources.

use super::address_lists::AddressLists;
use super::toml::Value;

/// A restriction of access that routes have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    /// Who may use a route by address.
    Lists(AddressLists),
    /// The value of `basic_auth`.
    Passwords(Value),
}
