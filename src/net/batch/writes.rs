//! Owns: the writes that wait for the end of an event-loop iteration.
//! Invariant: they are bounded in number and bytes, and are done in the order in which they were queued.
//! Must not know: the event loop.

use std::io::IoSlice;
use std::mem::take;
use std::rc::Rc;

use super::batched_socket::{BatchedSocket, MAX_BATCH};

/// The longest write that is queued, in bytes: a buffer of 16 KiB and a header section. Copying a longer one costs more
/// than batching saves.
pub(super) const MAX_WRITE: usize = 20 * 1024;

/// The queue is full with this many bytes.
const MAX_BYTES: usize = 512 * 1024;

/// Writes, and their bytes one after the other.
#[derive(Default)]
pub(super) struct WriteQueue {
    writes: Vec<PendingWrite>,
    bytes: Vec<u8>,
}

struct PendingWrite {
    socket: Rc<dyn BatchedSocket>,
    length: usize,
}

impl WriteQueue {
    pub(super) const fn new() -> WriteQueue {
        WriteQueue { writes: Vec::new(), bytes: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Queues a write. Returns whether the queue is full now.
    pub(super) fn push(&mut self, socket: Rc<dyn BatchedSocket>, pieces: &[IoSlice<'_>], length: usize) -> bool {
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
        self.writes.push(PendingWrite { socket, length });
        self.writes.len() >= MAX_BATCH || self.bytes.len() >= MAX_BYTES
    }

    /// Takes all writes out, if there are any.
    pub(super) fn take(&mut self) -> Option<WriteQueue> {
        (!self.is_empty()).then(|| take(self))
    }

    /// Does all writes, and keeps the memory.
    pub(super) fn write_all(&mut self) {
        let mut rest = &self.bytes[..];
        for PendingWrite { socket, length } in self.writes.drain(..) {
            let bytes;
            (bytes, rest) = rest.split_at(length);
            socket.write_queued(bytes);
        }
        self.bytes.clear();
    }

    /// Reuses the memory of an emptied queue, unless writes were queued meanwhile.
    pub(super) fn reuse(&mut self, emptied: WriteQueue) {
        if self.is_empty() {
            *self = emptied;
        }
    }
}
