//! Owns: the queue in which interim responses wait until their client's socket may be written to.
//! Invariant: what has been begun is written whole; what waits is bounded.
//! Must not know: HTTP; who writes, and when.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};

/// Bytes that wait at the most; what finds no room is dropped, as RFC 9110 §15.2 lets a proxy do.
const ROOM: usize = 16 * 1024;

/// Interim responses of one connection on their way to its client (RFC 9110 §15.2).
///
/// Those who queue and those who write are of one thread; hyper's callback for interim responses has to be
/// `Send` all the same, so the lock is never contended, and is not taken where nothing waits.
#[derive(Debug, Default)]
pub struct InterimQueue {
    has_any: AtomicBool,
    bytes: Mutex<Vec<u8>>,
}

impl InterimQueue {
    /// Queues one whole interim response, and drops it if there is no room. Returns whether there was.
    pub fn push(&self, response: &[u8]) -> bool {
        let mut bytes = self.lock();
        let has_room = bytes.len() + response.len() <= ROOM;
        if has_room {
            bytes.extend_from_slice(response);
            self.has_any.store(true, Ordering::Relaxed);
        }
        has_room
    }

    /// Writes what waits by `write`, which returns how many bytes it took.
    ///
    /// # Errors
    /// That of `write`, and [`io::ErrorKind::WriteZero`] if it takes nothing.
    pub fn poll_drain(&self, mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>) -> Poll<io::Result<()>> {
        if !self.has_any.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut bytes = self.lock();
        while !bytes.is_empty() {
            match ready!(write(&bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(bytes.drain(..written)),
            }
        }
        self.has_any.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    /// Drops what waits. Not for whoever has begun to write.
    pub fn clear(&self) {
        if self.has_any.swap(false, Ordering::Relaxed) {
            self.lock().clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_written_whole_and_in_order_however_little_is_taken_at_a_time() {
        let queue = InterimQueue::default();
        assert!(queue.push(b"one") && queue.push(b"two"));
        let mut written = Vec::new();
        let mut turns = 0;
        while queue
            .poll_drain(|bytes| {
                turns += 1;
                if turns % 2 == 0 {
                    return Poll::Pending;
                }
                written.push(bytes[0]);
                Poll::Ready(Ok(1))
            })
            .is_pending()
        {}
        assert_eq!(written, b"onetwo");
        assert!(queue.poll_drain(|_| panic!("nothing waits")).is_ready());
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_what_is_dropped_is_not_written() {
        let queue = InterimQueue::default();
        assert!(!queue.push(&[b'x'; ROOM + 1]));
        assert!(queue.push(&[b'x'; ROOM]));
        assert!(!queue.push(b"y"));
        queue.clear();
        assert!(queue.poll_drain(|_| panic!("nothing waits")).is_ready());
        assert!(queue.push(b"z"));
        let error = queue.poll_drain(|_| Poll::Ready(Ok(0)));
        assert!(matches!(error, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::WriteZero));
    }
}
