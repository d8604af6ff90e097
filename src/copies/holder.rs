//! Owns: what identifies a server that may hold a session.
//! Invariant: a server that may have lost its memory is another one.
//! Must not know: sessions.

use crate::pool::Backend;

/// A server, for as long as it can't have lost its memory without being noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The backend's number in this process.
    pub backend: usize,
    /// The incarnation of its address.
    pub incarnation: u64,
    /// How often it had been down or ejected by then. A server that was down may have restarted.
    pub losses: u32,
}

impl Holder {
    /// Returns the server that `backend` is now.
    pub fn of(backend: &Backend) -> Holder {
        let live = backend.live();
        Holder { backend: live.id(), incarnation: backend.incarnation(), losses: live.times_lost() }
    }
}
