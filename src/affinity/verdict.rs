//! Owns: verdict and cause: the words for what persistence decides.
//! Invariant: logs, metrics and the API use the same words.
//! Must not know: how a verdict is reached.

/// What persistence decided for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A new session.
    New,
    /// The backend that the pin names served the request.
    Hit,
    /// The pinned backend can't serve: another one serves, and the session is pinned there from now on.
    Moved,
    /// The pinned backend can't serve: another one serves, and the pin stays.
    Borrowed,
    /// No backend can serve the request, or the only one that may can't.
    Refused,
    /// The pool does not pin, or does not pin this request.
    None,
}

impl Verdict {
    /// The words for logs, metrics and the API, in the order of the variants.
    pub const NAMES: [&'static str; 6] = ["new", "hit", "moved", "borrowed", "refused", "none"];

    /// The word for this verdict.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The verdict that remains when no backend's response reaches the client: then nobody was moved.
    #[must_use]
    pub fn unserved(self) -> Verdict {
        match self {
            Verdict::Moved | Verdict::Borrowed => Verdict::Refused,
            Verdict::New | Verdict::Hit | Verdict::Refused | Verdict::None => self,
        }
    }
}

/// Why a pin did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The backend is down or ejected.
    Down,
    /// The backend drains, and the pool has a policy for `draining`, or it was the session's turn to leave.
    Draining,
    /// The operator put the backend into maintenance.
    Maintenance,
    /// The backend has reached `max_requests`.
    Full,
    /// The backend failed this request, or the session's last one.
    Failed,
    /// The pool has no backend of that name, or the table has no such session.
    Unknown,
    /// Another server has the name now.
    Replaced,
    /// The session had no request for `idle_timeout`.
    IdleExpired,
    /// The session is older than `absolute_timeout`.
    AbsoluteExpired,
    /// The token is forged, damaged, for another pool, sealed with an unknown key, or dated in the future.
    Unreadable,
    /// The pool evens out its load: the session was idle, its backend has many sessions, and another one has few.
    Rebalanced,
}

impl Cause {
    /// The words for logs, metrics and the API, in the order of the variants.
    pub const NAMES: [&'static str; 11] = [
        "down",
        "draining",
        "maintenance",
        "full",
        "failed",
        "unknown",
        "replaced",
        "idle_expired",
        "absolute_expired",
        "unreadable",
        "rebalanced",
    ];

    /// All causes, in the order of [`Cause::NAMES`].
    pub const ALL: [Cause; 11] = [
        Cause::Down,
        Cause::Draining,
        Cause::Maintenance,
        Cause::Full,
        Cause::Failed,
        Cause::Unknown,
        Cause::Replaced,
        Cause::IdleExpired,
        Cause::AbsoluteExpired,
        Cause::Unreadable,
        Cause::Rebalanced,
    ];

    /// The word for this cause.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}
