//! Owns: what is known of one session of a backend, and how long a session counts as live.
//! Invariant: pure.
//! Must not know: pins, tables, threads.

/// What one thread knows of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) session: u64,
    /// When its last request began or ended, in milliseconds since the Unix epoch.
    pub(super) seen: u64,
    /// When its last request began, in milliseconds since the Unix epoch.
    pub(super) begun: u64,
    /// When the session began, in seconds since the Unix epoch.
    pub(super) issued: u32,
    /// Its requests in flight.
    pub(super) in_flight: u32,
    /// It has left the backend, at `seen`. Requests in flight do not bring it back, only one that begins later.
    pub(super) has_left: bool,
}

/// How long a session counts as live, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLifetime {
    /// After its last request.
    pub idle: u64,
    /// After its start; `None` for no limit.
    pub absolute: Option<u64>,
}

impl SessionLifetime {
    /// Returns whether a session without a request in flight is live at `now`, in milliseconds since the Unix epoch.
    pub(super) fn covers(self, entry: &Entry, now: u64) -> bool {
        let is_old = |limit| (now / 1000).saturating_sub(entry.issued.into()) >= limit;
        now.saturating_sub(entry.seen) < self.idle_ms() && !self.absolute.is_some_and(is_old)
    }

    pub(super) fn idle_ms(self) -> u64 {
        self.idle.saturating_mul(1000)
    }
}
