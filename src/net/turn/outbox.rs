//! Owns: pieces that wait for the end of a turn.
//! Invariant: bounded in number and bytes; sent in the order in which they came.
//! Must not know: the event loop.

use std::io::IoSlice;
use std::mem::take;
use std::rc::Rc;

use super::{Carried, MOST};

/// The longest piece that waits, in bytes: a buffer of 16 KiB and a head. To copy a longer one costs more
/// than is won.
pub(super) const LONGEST: usize = 20 * 1024;

/// Bytes from which on no more wait.
const MOST_BYTES: usize = 512 * 1024;

/// Pieces, and their bytes one behind the other.
#[derive(Default)]
pub(super) struct Outbox {
    letters: Vec<Letter>,
    bytes: Vec<u8>,
}

struct Letter {
    socket: Rc<dyn Carried>,
    length: usize,
}

impl Outbox {
    pub(super) const fn new() -> Outbox {
        Outbox { letters: Vec::new(), bytes: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Takes a piece in; true if it is the last for which there is room.
    pub(super) fn put(&mut self, socket: Rc<dyn Carried>, pieces: &[IoSlice<'_>], length: usize) -> bool {
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
        self.letters.push(Letter { socket, length });
        self.letters.len() >= MOST || self.bytes.len() >= MOST_BYTES
    }

    /// What waits, if anything does.
    pub(super) fn take(&mut self) -> Option<Outbox> {
        (!self.is_empty()).then(|| take(self))
    }

    /// Sends what waits.
    pub(super) fn send(&mut self) {
        let mut rest = &self.bytes[..];
        for Letter { socket, length } in self.letters.drain(..) {
            let piece;
            (piece, rest) = rest.split_at(length);
            socket.send(piece);
        }
        self.bytes.clear();
    }

    /// Goes on with the room of an emptied one.
    pub(super) fn reuse(&mut self, emptied: Outbox) {
        if self.is_empty() {
            *self = emptied;
        }
    }
}
