//! Owns: what is known of a learned session, and the key under which it is known.
//! Invariant: a key is a hash: nobody who reads it has an id that an application would take.
//! Must not know: tables, stores.

use std::sync::Arc;

/// 128 bits of a hash of the pool's name and an application's session id: whoever reads the table,
/// a core dump or the shared store finds no id that a server would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey(pub(crate) [u64; 2]);

impl SessionKey {
    /// Names the session in logs, and decides where it moves; the same in every Linchpin.
    pub fn session(self) -> u64 {
        self.0[0]
    }
}

/// 32 hex digits.
impl std::fmt::Display for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

/// What a key's `Display` writes.
impl std::str::FromStr for SessionKey {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<SessionKey, Self::Err> {
        let (high, low) = text.split_at_checked(16).unwrap_or((text, ""));
        Ok(SessionKey([u64::from_str_radix(high, 16)?, u64::from_str_radix(low, 16)?]))
    }
}

/// A server, in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendRef {
    /// Its name.
    pub name: Arc<str>,
    /// The life of its address.
    pub incarnation: u64,
}

/// What is known of a session. Times are seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// The server that holds it.
    pub backend: BackendRef,
    /// When it began.
    pub issued: u64,
    /// When it was seen last.
    pub last_seen: u64,
    /// Counts its moves, from 1: of two Linchpins that say different things, the higher one is
    /// right, whatever their clocks say.
    pub version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_and_read_back() {
        let key = SessionKey([7, u64::MAX]);
        assert_eq!(key.to_string().parse(), Ok(key));
        for bad in ["", "12", "+0000000000000000000000000000000z"] {
            assert!(bad.parse::<SessionKey>().is_err(), "{bad}");
        }
    }
}
