//! Owns: what people are told of a session's copy.
//! Invariant: plain values, and none of the copy's bytes.
//! Must not know: how an entry keeps them.

use super::holder::Holder;
use super::version::Version;

/// What is held of a session, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The newest known version.
    pub version: Version,
    /// The current term.
    pub term: u32,
    /// The session has ended.
    pub dropped: bool,
    /// A copy is held.
    pub is_held: bool,
    /// The length of the copy.
    pub bytes: usize,
    /// When the copy was saved, in seconds since the Unix epoch.
    pub saved_at: u64,
    /// The server that holds the session.
    pub holder: Option<Holder>,
}
