//! Owns: how far the shutdown of this process has come, for the connections of one thread.
//! Invariant: a shutdown only advances: it drains, then its grace period ends.
//! Must not know: signals, connections, who waits for either step.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::clock;

/// The state of the shutdown.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    /// When draining began, and how long a connection may then still send a request.
    draining: Cell<Option<(Instant, Duration)>>,
    is_grace_over: Cell<bool>,
}

impl Shutdown {
    /// Begins to drain: each connection may send one more request, if it arrives within `idle`.
    pub(super) fn drain(&self, idle: Duration) {
        self.draining.set(Some((clock::now(), idle)));
    }

    /// Ends the grace period: requests without a response are abandoned now.
    pub(super) fn end_grace(&self) {
        self.is_grace_over.set(true);
    }

    /// Returns whether the process drains.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// Returns whether the grace period is over.
    pub(super) fn is_grace_over(&self) -> bool {
        self.is_grace_over.get()
    }

    /// Returns when a draining process closes a connection that has had no request since `idle_since`.
    pub(super) fn idle_deadline(&self, idle_since: Instant) -> Option<Instant> {
        self.draining.get().map(|(since, idle)| since.max(idle_since) + idle)
    }
}
