//! Owns: pieces that wait for the end of a iteration.
//! Invariant: bounded in index and bytes; sent in the order in which they came.
//! Must not know: the event loop.

use std::io::IoSlice;
use std::mem::take;
use std::rc::Rc;

use super::{BatchedSocket, MAX_BATCH};

/// The longest piece that waits, in bytes: a buffer of 16 KiB and a head. To copy a longer one costs more
/// than is won.
pub(super) const MAX_WRITE: usize = 20 * 1024;

/// Bytes from which on no more wait.
const MAX_BYTES: usize = 512 * 1024;

/// Pieces, and their bytes one behind the other.
#[derive(Default)]
pub(super) struct WriteQueue {
    pending: Vec<PendingWrite>,
    bytes: Vec<u8>,
}

struct PendingWrite {
    socket: Rc<dyn BatchedSocket>,
    length: usize,
}

impl WriteQueue {
    pub(super) const fn new() -> WriteQueue {
        WriteQueue { pending: Vec::new(), bytes: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes a piece in; true if it is the last for which there is room.
    pub(super) fn put(&mut self, socket: Rc<dyn BatchedSocket>, pieces: &[IoSlice<'_>], length: usize) -> bool {
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
        self.pending.push(PendingWrite { socket, length });
        self.pending.len() >= MAX_BATCH || self.bytes.len() >= MAX_BYTES
    }

    /// What waits, if anything does.
    pub(super) fn take(&mut self) -> Option<WriteQueue> {
        (!self.is_empty()).then(|| take(self))
    }

    /// Sends what waits.
    pub(super) fn send(&mut self) {
        let mut rest = &self.bytes[..];
        for PendingWrite { socket, length } in self.pending.drain(..) {
            let piece;
            (piece, rest) = rest.split_at(length);
            socket.send(piece);
        }
        self.bytes.clear();
    }

    /// Goes on with the room of an emptied one.
    pub(super) fn reuse(&mut self, emptied: WriteQueue) {
        if self.is_empty() {
            *self = emptied;
        }
    }
}
