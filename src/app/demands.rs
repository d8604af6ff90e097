//! Owns: what the tasks of a takeover ask of the running configuration.
//! Invariant: the configuration's own task carries them out, between two changes.
//! Must not know: the messages of a takeover.

use tokio::sync::oneshot;

use crate::takeover::{Frame, Prepared};

/// A demand.
pub(super) enum Demand {
    /// Returns the messages with all sockets and the state that a successor needs to begin.
    Offer(oneshot::Sender<std::io::Result<Vec<Frame>>>),
    /// Leaves the sockets to the successor, which has these.
    Leave(Prepared, oneshot::Sender<()>),
    /// Accepts connections at the sockets that were handed over.
    Accept(oneshot::Sender<Result<(), String>>),
}

/// What becomes of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeEvent {
    /// The process with this id has taken over: this one ends with its last connection.
    TakenOver(u32),
    /// The process that has taken over was asked to stop: this one shall stop, too.
    Stop,
}
