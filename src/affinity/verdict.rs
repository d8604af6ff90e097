//! Owns: the words for what persistence decides: verdict and cause.
//! Invariant: each word is the same in logs, metrics and the API.
//! Must not know: how either is decided.

/// What persistence decided for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A new session.
    New,
    /// Served by the backend it is pinned to.
    Hit,
    /// Its backend can't serve it: served by another, and pinned there.
    Moved,
    /// Its backend can't serve it: served by another, and still pinned where it was.
    Borrowed,
    /// No backend could serve it, or none but one that can't.
    Refused,
    /// The pool doesn't pin, or not this request.
    None,
}

impl Verdict {
    /// The words of the design, as they stand in logs and metrics, in the order of the variants.
    pub const NAMES: [&'static str; 6] = ["new", "hit", "moved", "borrowed", "refused", "none"];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// What is left of it where no backend's answer reaches the client: nobody was moved.
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
    /// The backend drains, and a policy has its sessions leave.
    Draining,
    /// The operator took the backend out.
    Maintenance,
    /// The backend has as many requests as it may have.
    Full,
    /// The backend failed this very request, or the session's last one.
    Failed,
    /// The configuration has no backend of that name, or the table no such session.
    Unknown,
    /// The name stands for another server now.
    Replaced,
    /// The session was silent for too long.
    IdleExpired,
    /// The session is too old.
    AbsoluteExpired,
    /// Forged, damaged, foreign, sealed with a key that is no longer known, or dated in the future.
    Unreadable,
}

impl Cause {
    /// The words of the design, as they stand in logs and metrics, in the order of the variants.
    pub const NAMES: [&'static str; 10] = [
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
    ];

    /// All causes, in the order of [`Cause::NAMES`].
    pub const ALL: [Cause; 10] = [
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
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}
