//! Owns: the version of a session's state.
//! Invariant: versions are ordered by term, then by seq; clocks play no part.
//! Must not know: who has a state.

/// The version of a session's state. The highest one is right, whatever arrives when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version {
    /// How often the session was handed over. Linchpin alone raises it.
    pub term: u32,
    /// Which state of that term it is, from 1. The server that holds the session numbers its states. At most
    /// 999,999,999,999,999, the largest integer of a structured field (RFC 9651 §3.3.1).
    pub seq: u64,
}

/// The largest `seq`.
pub const MAX_SEQ: u64 = 999_999_999_999_999;

/// The largest `term` that a server may name. From there Linchpin can raise it more often than any session moves.
const MAX_TERM: u32 = u32::MAX / 2;

impl Version {
    /// Makes the version that a server names. Returns `None` if a number is out of range.
    pub(super) fn named(term: u64, seq: u64) -> Option<Version> {
        let term = u32::try_from(term).ok().filter(|term| *term <= MAX_TERM)?;
        (1..=MAX_SEQ).contains(&seq).then_some(Version { term, seq })
    }
}
