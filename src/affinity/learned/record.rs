//! Owns: the record of a learned session, and its key.
//! Invariant: a key is a hash: it reveals no id that an application would accept.
//! Must not know: tables, stores.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

/// 128 bits of a hash of the pool's name and an application's session id. The table, a core dump and the shared store
/// contain no id that a backend would accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey(pub(crate) [u64; 2]);

impl SessionKey {
    /// Makes the key of an application's session id in the pool named `pool`.
    pub(in crate::affinity) fn of(pool: &str, id: &[u8]) -> SessionKey {
        let mut context = Vec::with_capacity(pool.len() + 1 + id.len());
        context.extend_from_slice(pool.as_bytes());
        context.push(0);
        context.extend_from_slice(id);
        let hash = digest(&SHA256, &context);
        let word = |at: usize| hash.as_ref().iter().skip(at).take(8).fold(0, |word, byte| word << 8 | u64::from(*byte));
        SessionKey([word(0), word(8)])
    }

    /// Its two halves.
    pub fn words(self) -> [u64; 2] {
        self.0
    }

    /// The session id for logs and for the failover order. Every Linchpin computes the same.
    pub fn session(self) -> u64 {
        self.0[0]
    }
}

/// Writes 32 hex digits.
impl std::fmt::Display for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

/// Reads what `Display` writes.
impl std::str::FromStr for SessionKey {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<SessionKey, Self::Err> {
        let (high, low) = text.split_at_checked(16).unwrap_or((text, ""));
        Ok(SessionKey([u64::from_str_radix(high, 16)?, u64::from_str_radix(low, 16)?]))
    }
}

/// A backend in one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendRef {
    /// The backend's name.
    pub name: Arc<str>,
    /// The incarnation of its address.
    pub incarnation: u64,
}

/// Where a session is held.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'a> {
    /// The backend that holds the session.
    pub backend: &'a BackendRef,
    /// How often the session was handed over together with its copy, as in [`super::super::Pin::term`].
    pub term: u32,
    /// The name of a second backend that holds the session's state.
    pub replica: Option<&'a str>,
}

/// A learned session. Times are seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// The backend that holds the session.
    pub backend: BackendRef,
    /// When the session began.
    pub issued: u64,
    /// When it was last seen.
    pub last_seen: u64,
    /// The number of its moves, from 1. Of two records that differ, the one with the higher version is right, whatever
    /// the clocks of their writers say.
    pub version: u32,
    /// How often the session was handed over together with its copy.
    pub term: u32,
    /// The name of a second backend that holds the session's state.
    pub replica: Option<Arc<str>>,
}

impl SessionRecord {
    /// Where the session is held.
    pub fn placement(&self) -> Placement<'_> {
        Placement { backend: &self.backend, term: self.term, replica: self.replica.as_deref() }
    }
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
