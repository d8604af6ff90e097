//! Owns: the keys of `[admin]`.
//! Invariant: the token is never part of a debug output.
//! Must not know: who may do what with the token.

use crate::net::Address;

/// `[admin]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub address: Address,
    /// The token that a client sends as `Authorization: Bearer …`: the content of `token_file`.
    pub token: Option<String>,
}

/// Hides the token.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("address", &self.address).finish_non_exhaustive()
    }
}
