//! Owns: how many bytes of a response body h2 holds for a stream of HTTP/2, and since when its client accepts nothing.
//! Invariant: h2 holds a few KiB of each stream; the window of the stream is not counted.
//! Must not know: sockets, h2, what a body contains.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};
use std::time::Instant;

use crate::clock;
use crate::net::body_pacing::INITIAL_BYTES;

/// Unsent bytes of a body at which it waits: enough to send small chunks together.
const MAX_UNSENT: u64 = 4 * 1024;

/// The backlog of a stream of HTTP/2, and since when its client accepts nothing while the connection goes on.
#[derive(Debug, Default)]
pub(super) struct StreamBacklog {
    stalled_since: Cell<Option<Instant>>,
    /// Bytes of the body that h2 has not written.
    unsent: Cell<u64>,
    /// Wakes the body, which waits until h2 has written some of those.
    waiting: RefCell<Option<Waker>>,
}

impl StreamBacklog {
    /// The body was polled, and had data or not: data waits for the client from now on.
    pub(super) fn polled(&self, has_data: bool) {
        self.stalled_since.set(has_data.then(clock::now));
    }

    /// h2 was given `bytes` more of the body.
    pub(super) fn queued(&self, bytes: u64) {
        self.unsent.set(self.unsent.get() + bytes);
    }

    /// h2 has written `bytes` of the body.
    pub(super) fn written(&self, bytes: u64) {
        self.unsent.set(self.unsent.get().saturating_sub(bytes));
        // The client accepted data, though the body was not polled again.
        if self.stalled_since.get().is_some() {
            self.stalled_since.set(Some(clock::now()));
        }
        if self.unsent.get() < MAX_UNSENT
            && let Some(waker) = self.waiting.take()
        {
            waker.wake();
        }
    }

    /// Returns whether the body must wait, which has given h2 `given` bytes so far. If so, its task is woken once
    /// h2 has written enough.
    pub(super) fn must_wait(&self, given: u64, cx: &Context<'_>) -> bool {
        let must_wait = given >= INITIAL_BYTES && self.unsent.get() >= MAX_UNSENT;
        if must_wait {
            self.waiting.replace(Some(cx.waker().clone()));
        }
        must_wait
    }

    /// Returns the bytes of the body that h2 has not written.
    pub(super) fn unsent(&self) -> u64 {
        self.unsent.get()
    }

    /// Returns since when data waits for the client to accept it.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since.get()
    }
}
