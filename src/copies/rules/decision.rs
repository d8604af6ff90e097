//! Owns: what the rules are told of a session, and what they decide.
//! Invariant: plain values; what a request claims does not change.
//! Must not know: why anything is decided.

use super::super::holder::Holder;
use super::super::version::Version;

/// What a request claims about the session's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The current term.
    pub term: u32,
    /// The newest state, which this server is known to have; `None` if no copy is held.
    pub seq: Option<u64>,
    /// The session has ended at `seq`.
    pub dropped: bool,
    /// The server.
    pub to: Holder,
    /// The number of the request among those of its session; 0 if they are not counted.
    pub(super) number: u32,
}

/// What happens to a request before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeforeRequest {
    /// Send it.
    Send(Claim),
    /// Give the server this version of the state first; then report it to [`super::Session::gave`], and ask again.
    Give {
        /// Identifies the hand-over.
        hand_over: u32,
        /// The version that the state has from now on.
        version: Version,
    },
    /// Raise the term in the shared store first; then report it to [`super::Session::fetched`] with this number, and ask again.
    Fetch(u32),
    /// Read what the shared store knows first; then report it to [`super::Session::looked`] with this number, and ask again.
    Look(u32),
    /// Wait, and ask again when the session has changed.
    Wait(Wait),
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The running hand-over of its session.
    HandOver,
    /// The session's requests on the server that it leaves.
    Requests,
}

/// The outcome of a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// The server has the state.
    Taken,
    /// The server has this newer state: another Linchpin gave it, or the server's answer was lost.
    Newer(Version),
    /// The server will never take this copy: it is not authentic, or there is no middleware.
    Refused,
    /// The server responded with an error, or not in time.
    Failed,
    /// The connection broke while the server had the copy.
    Broken,
    /// The server could not be reached, or the hand-over was abandoned.
    Unreached,
}

/// What a shared store knows of a session, by its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// A copy.
    Held(Version),
    /// The session has ended.
    Dropped(Version),
    /// It once had a copy.
    Lost(Version),
}

/// What a shared store knows of a session, and of the server that has it by its pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The term, or 0 if it knows nothing.
    pub term: u32,
    /// That server has this term.
    pub is_holder: bool,
    /// The newest state, if there is one.
    pub newest: Option<Fetched>,
}

/// What becomes of a state that a response brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It is the newest.
    Stored,
    /// A newer one is known, and the response may be passed on.
    Stale,
    /// The server no longer holds the session: the response must not reach the client.
    Fenced,
}

impl Claim {
    /// What a request of a session tells `to` if nothing is known of the session but its pin's term.
    pub fn nothing(term: u32, to: Holder) -> Claim {
        Claim { term: term.max(1), seq: None, dropped: false, to, number: 0 }
    }
}
