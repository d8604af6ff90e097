//! Owns: why a state was not stored, or a copy not given, and the words for it.
//! Invariant: metrics and log use the same words; none contains anything that a server sent.
//! Must not know: who counts them.

use super::fields::Defect;

/// Why a state was not stored, or a copy not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The state is of a former term: the session was handed over meanwhile.
    StaleTerm,
    /// A newer state is known.
    StaleSeq,
    /// The copy is longer than `max`.
    TooLong,
    /// The field is malformed, or there are several.
    Malformed,
    /// The server can't open the copy (422).
    NotAuthentic,
    /// The server has a newer state (409).
    Newer,
    /// There is no middleware (404, 405, 501).
    NoMiddleware,
    /// The server responded to the copy with another status, or with something that is no response.
    Status,
    /// The server did not respond to the copy in time.
    Late,
    /// The server closed the connection when it got the copy.
    Broken,
    /// No other server took a copy, so this Linchpin keeps it.
    NotPlaced,
    /// A hand-over took so long that a request went on without it.
    HandOver,
    /// The server wanted the copy again after it had taken it.
    WantedTwice,
    /// The server wanted the copy, but the request's body was too long to be kept.
    BodyNotKept,
    /// The shared store is down or slow: this Linchpin uses its own copies alone.
    SharedStore,
}

impl Refusal {
    /// The words for log and metrics, in the order of the variants.
    pub const NAMES: [&'static str; 15] = [
        "stale_term",
        "stale_seq",
        "too_long",
        "malformed",
        "not_authentic",
        "newer",
        "no_middleware",
        "status",
        "late",
        "broken",
        "not_placed",
        "hand_over",
        "wanted_twice",
        "body_not_kept",
        "shared_store",
    ];

    /// The word for this reason.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// What it means and what to do about it, for the log.
    pub fn explanation(self) -> &'static str {
        match self {
            Refusal::StaleTerm => {
                "a server responded for a session that had moved to another one meanwhile, so the client got 502: the \
                 server hung, or was slower than `handover` while it drained"
            }
            Refusal::StaleSeq => "a response brought an older state than one that had come before it",
            Refusal::TooLong => {
                "a session is longer than `max` in [pools.copies], so no copy is kept of it: raise `max`, or keep less \
                 in the session"
            }
            Refusal::Malformed => {
                "a server sent a malformed Linchpin-Session-Save or -Drop, so no copy is kept: check its middleware"
            }
            Refusal::NotAuthentic => {
                "a server could not open a copy: give all servers of the pool the same secret, and keep a former one"
            }
            Refusal::Newer => "a server has a newer state than the copy that it was given",
            Refusal::NoMiddleware => {
                "a server has no middleware for session copies, so sessions that move there are lost: install it on all \
                 servers of the pool, or remove [pools.copies]"
            }
            Refusal::Status => "a server responded to a copy with an error, so the session goes on without it",
            Refusal::Late => {
                "a server did not respond to a copy within `handover` of [pools.copies], so the session goes on without it"
            }
            Refusal::Broken => "a server closed the connection when it got a copy: check its log",
            Refusal::NotPlaced => "no other server of the pool took a copy, so this Linchpin keeps it until one does",
            Refusal::HandOver => {
                "a request waited for `handover` of [pools.copies] for its session, and went on without it"
            }
            Refusal::WantedTwice => {
                "a server wanted a copy again right after it had taken it, so the client got 502: if a server has \
                 several processes, they need to share their sessions"
            }
            Refusal::BodyNotKept => {
                "a server wanted a copy, but the request's body was longer than `replay_limit`, so the client got 503"
            }
            Refusal::SharedStore => {
                "the store of [pools.copies] is down or slow, so a state is known to this Linchpin alone: check Redis"
            }
        }
    }
}

impl From<Defect> for Refusal {
    fn from(defect: Defect) -> Refusal {
        match defect {
            Defect::TooLong => Refusal::TooLong,
            Defect::Malformed => Refusal::Malformed,
        }
    }
}
