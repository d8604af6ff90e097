//! Owns: what a store that several Linchpins share knows of one session, and what it does with a new state.
//! Invariant: plain values; the versions are those of the rules.
//! Must not know: what kind of store it is, how it is reached.

use bytes::Bytes;

use super::fields::NewState;
use super::version::Version;

/// The state of a session in a shared store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedState {
    /// A copy, and how long the application keeps the session, in seconds.
    Held(Bytes, Option<u64>),
    /// The session has ended.
    Dropped,
    /// There is no copy.
    Lost,
}

impl SharedState {
    /// Returns what a response of this term brings, with its version. What can't be read has no seq, and replaces
    /// whatever is there.
    pub fn of(new: &NewState, term: u32) -> (Version, SharedState) {
        match new {
            NewState::Save { version, ttl, bytes } => (*version, SharedState::Held(bytes.clone(), *ttl)),
            NewState::Drop(version) => (*version, SharedState::Dropped),
            NewState::Unchanged | NewState::Unusable(..) => (Version { term, seq: 0 }, SharedState::Lost),
        }
    }
}

/// What a shared store knows of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The term: of a hand-over the one that no other server gets; otherwise 0 if it knows nothing.
    pub term: u32,
    /// The server of the question has this term.
    pub is_holder: bool,
    /// The newest state, if there is one.
    pub newest: Option<(Version, SharedState)>,
}

/// What a shared store did with a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedSaved {
    /// It is the newest.
    Stored,
    /// A newer one is there.
    Stale,
    /// Another server holds the session in this term or a later one: this one.
    Fenced(u32),
}
