//! Owns: how many bytes of response bodies hyper holds, and when a body must wait before it gives hyper more.
//! Invariant: hyper holds little more of a body than the client's socket has space for.
//! Must not know: sockets, hyper, what a body contains.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};
use std::time::Instant;

use crate::clock;

/// Bytes of bodies in hyper at which a body waits: enough to write small chunks together. By itself hyper takes
/// 400 KiB for each client that reads nothing.
const MAX_BACKLOG: u64 = 4 * 1024;

/// The first bytes of a body, which never waits for them: every socket has space for those at first. Linux gives a
/// socket 16 KiB (`tcp_wmem`); hyper holds the bytes that exceed its space, once for each client.
const INITIAL_BYTES: u64 = 16 * 1024;

/// The most bytes of a body that need no second look at the socket's space: other connections get their turn then.
const MAX_QUOTA: u64 = 256 * 1024;

/// The backlog of a connection of HTTP/1, which has one response at a time.
#[derive(Debug, Default)]
pub(super) struct ConnectionBacklog {
    /// Bytes of bodies that hyper has not written.
    unsent: Cell<u64>,
    /// Whether a body waits until hyper has written some of those.
    is_waiting: Cell<bool>,
    /// The free space of the client's socket at the last look, less the bytes that hyper was given since.
    quota: Cell<u64>,
}

impl ConnectionBacklog {
    /// hyper was given `bytes` more of a body.
    pub(super) fn queued(&self, bytes: u64) {
        self.unsent.set(self.unsent.get() + bytes);
        self.quota.set(self.quota.get().saturating_sub(bytes));
    }

    /// hyper has written `bytes` of a body.
    pub(super) fn written(&self, bytes: u64) {
        self.unsent.set(self.unsent.get().saturating_sub(bytes));
    }

    /// Returns the bytes of bodies that hyper has not written.
    pub(super) fn unsent(&self) -> u64 {
        self.unsent.get()
    }

    /// Returns whether a body must wait that has given hyper `given` bytes so far. If so, [`Self::resume`] lets it
    /// continue. In TLS the session buffers what the socket doesn't take, so `is_blocked` counts, too: the client
    /// accepts nothing now.
    pub(super) fn must_wait(&self, given: u64, is_blocked: bool) -> bool {
        let is_full = self.quota.get() == 0 && self.unsent.get() >= MAX_BACKLOG;
        let must_wait = given >= INITIAL_BYTES && (is_full || is_blocked);
        if must_wait {
            self.is_waiting.set(true);
        }
        must_wait
    }

    /// hyper has flushed. Returns whether a body waited for that; it may now give hyper as many bytes as the client's
    /// socket has `space` for. So a client that reads gets a long body without a pause, and for one that doesn't, this
    /// process holds hardly more than its kernel has no space for.
    pub(super) fn resume(&self, space: impl FnOnce() -> usize) -> bool {
        let was_waiting = self.is_waiting.take();
        if was_waiting {
            self.quota.set((space() as u64).min(MAX_QUOTA));
        }
        was_waiting
    }
}

/// The backlog of a stream of HTTP/2, and since when its client accepts nothing while the connection goes on.
#[derive(Debug, Default)]
pub(super) struct StreamBacklog {
    stalled_since: Cell<Option<Instant>>,
    /// Bytes of the body that hyper has not written.
    unsent: Cell<u64>,
    /// Wakes the body, which waits until hyper has written some of those.
    waiting: RefCell<Option<Waker>>,
}

impl StreamBacklog {
    /// hyper has polled the body, which had data or not: data waits for the client from now on.
    pub(super) fn polled(&self, has_data: bool) {
        self.stalled_since.set(has_data.then(clock::now));
    }

    /// hyper was given `bytes` more of the body.
    pub(super) fn queued(&self, bytes: u64) {
        self.unsent.set(self.unsent.get() + bytes);
    }

    /// hyper has written `bytes` of the body.
    pub(super) fn written(&self, bytes: u64) {
        self.unsent.set(self.unsent.get().saturating_sub(bytes));
        // The client accepted data, though hyper has not polled the body again.
        if self.stalled_since.get().is_some() {
            self.stalled_since.set(Some(clock::now()));
        }
        if self.unsent.get() < MAX_BACKLOG
            && let Some(waker) = self.waiting.take()
        {
            waker.wake();
        }
    }

    /// Returns whether the body must wait, which has given hyper `given` bytes so far. If so, its task is woken once
    /// hyper has written enough.
    pub(super) fn must_wait(&self, given: u64, cx: &Context<'_>) -> bool {
        let must_wait = given >= INITIAL_BYTES && self.unsent.get() >= MAX_BACKLOG;
        if must_wait {
            self.waiting.replace(Some(cx.waker().clone()));
        }
        must_wait
    }

    /// Returns the bytes of the body that hyper has not written.
    pub(super) fn unsent(&self) -> u64 {
        self.unsent.get()
    }

    /// Returns since when data waits for the client to accept it.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since.get()
    }
}
