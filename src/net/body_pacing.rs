//! Owns: how many bytes of a body may be given to hyper ahead of the socket that they go to.
//! Invariant: hyper holds hardly more of a body than the socket has no space for.
//! Must not know: hyper, what a body contains, which side of the proxy the socket is on.

use std::cell::Cell;

/// The first bytes of a body, which never waits for them: every socket has space for those at first. Linux gives a
/// socket 16 KiB (`tcp_wmem`); hyper holds the bytes that exceed its space, once for each body.
pub const INITIAL_BYTES: u64 = 16 * 1024;

/// The most bytes of a body that need no second look at the socket's space: other connections get their turn then.
const MAX_QUOTA: u64 = 256 * 1024;

/// The pace of the bodies of one connection of HTTP/1, which has one body at a time in each direction.
#[derive(Debug, Default)]
pub struct BodyPacing {
    /// Bytes that hyper was given and has not written.
    unwritten: Cell<u64>,
    /// Whether a body waits until hyper has written some of those.
    is_waiting: Cell<bool>,
    /// The free space of the socket at the last look, less the bytes that hyper was given since.
    quota: Cell<u64>,
}

impl BodyPacing {
    /// Notes that hyper was given `bytes` more of a body.
    pub fn queued(&self, bytes: u64) {
        self.unwritten.set(self.unwritten.get() + bytes);
        self.quota.set(self.quota.get().saturating_sub(bytes));
    }

    /// Notes that hyper has written `bytes`.
    pub fn written(&self, bytes: u64) {
        self.unwritten.set(self.unwritten.get().saturating_sub(bytes));
    }

    /// Notes that hyper has nothing left to write.
    pub fn all_written(&self) {
        self.unwritten.set(0);
    }

    /// Returns the bytes that hyper has not written.
    pub fn unwritten(&self) -> u64 {
        self.unwritten.get()
    }

    /// Returns whether a body must wait that has given hyper `given` bytes so far: by itself hyper takes 400 KiB for each
    /// peer that reads nothing. If so, [`Self::resume`] lets it continue. A byte that is not written yet is enough, since
    /// it holds all of the buffer that it was read into. In TLS the session buffers what the socket doesn't take, so `is_blocked` counts, too: the peer accepts
    /// nothing now. A body that `is_windowed` always waits for what is unwritten.
    pub fn must_wait(&self, given: u64, is_blocked: bool, is_windowed: bool) -> bool {
        let is_full = (is_windowed || self.quota.get() == 0) && self.unwritten.get() > 0;
        let must_wait = given >= INITIAL_BYTES && (is_full || is_blocked);
        if must_wait {
            self.is_waiting.set(true);
        }
        must_wait
    }

    /// Returns whether a body waits for the flush that was just made; it may now give hyper as many bytes as the socket
    /// has `space` for. So a peer that reads gets a long body without a pause, and for one that doesn't, this process
    /// holds hardly more than its kernel has no space for.
    pub fn resume(&self, space: impl FnOnce() -> usize) -> bool {
        let was_waiting = self.is_waiting.take();
        if was_waiting {
            self.quota.set((space() as u64).min(MAX_QUOTA));
        }
        was_waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_waits_once_hyper_holds_enough_and_continues_with_what_the_socket_has_space_for() {
        let pacing = BodyPacing::default();
        pacing.queued(INITIAL_BYTES);
        assert!(!pacing.must_wait(INITIAL_BYTES - 1, true, false), "the first bytes never wait");
        assert!(!pacing.resume(|| 1), "nobody waits");
        assert!(pacing.must_wait(INITIAL_BYTES, false, false));
        assert!(pacing.resume(|| 10_000));
        pacing.queued(9_999);
        assert!(!pacing.must_wait(INITIAL_BYTES, false, false), "the socket has space");
        assert!(pacing.must_wait(INITIAL_BYTES, false, true), "that is not written yet");
        assert!(pacing.resume(|| 10_000 - 9_999));
        assert!(pacing.must_wait(INITIAL_BYTES, true, false), "the peer accepts nothing");
        pacing.queued(1);
        assert!(pacing.must_wait(INITIAL_BYTES, false, false));
        pacing.written(INITIAL_BYTES + 9_999);
        assert!(pacing.must_wait(INITIAL_BYTES, false, false), "the last byte holds a buffer, too");
        pacing.written(1);
        assert!(!pacing.must_wait(INITIAL_BYTES, false, false));
        pacing.queued(2);
        pacing.all_written();
        assert_eq!(pacing.unwritten(), 0);
    }
}
