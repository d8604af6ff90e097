//! Owns: the buffers into which a thread's sockets prefetch.
//! Invariant: a thread keeps as many buffers as the batcher reads sockets in one go, and no more.
//! Must not know: what is read.

use std::cell::RefCell;

use super::batch::batched_socket::MAX_BATCH;

/// The size of a buffer in bytes: a request's header section, or a response's with a small body.
pub(super) const BUFFER_SIZE: usize = 4096;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Returns a buffer of [`BUFFER_SIZE`] bytes, whatever their values.
pub(super) fn acquire() -> Box<[u8]> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER_SIZE].into())
}

/// Takes a buffer back. Drops it if it has another size or enough others are free.
pub(super) fn release(buffer: Box<[u8]>) {
    FREE.with_borrow_mut(|free| {
        if buffer.len() == BUFFER_SIZE && free.len() < MAX_BATCH {
            free.push(buffer);
        }
    });
}
