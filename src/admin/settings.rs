//! Owns: the keys of `[admin]`.
//! Invariant: no token is ever part of a debug output.
//! Must not know: who may do what with a token.

use crate::net::Address;

/// `[admin]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub address: Address,
    /// The token that a client sends as `Authorization: Bearer …`: the content of `token_file`.
    pub token: Option<String>,
    /// The token with which a client may only read: the content of `read_token_file`.
    pub read_token: Option<String>,
    /// Who may connect to a Unix socket.
    pub socket: SocketAccess,
}

/// Who may connect to a Unix socket: those who may write to its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketAccess {
    /// The mode of the file.
    pub mode: u32,
    /// The id of its group; `None` for that of the process.
    pub group: Option<u32>,
}

impl Default for SocketAccess {
    /// Only the user of the process.
    fn default() -> SocketAccess {
        SocketAccess { mode: 0o600, group: None }
    }
}

impl Settings {
    /// Makes the settings of a listener at `address`, with this token if it requires one.
    pub fn new(address: Address, token: Option<String>) -> Settings {
        Settings { address, token, read_token: None, socket: SocketAccess::default() }
    }
}

/// Hides the tokens.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("address", &self.address).field("socket", &self.socket).finish_non_exhaustive()
    }
}
