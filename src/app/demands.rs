//! Owns: what the tasks of a takeover ask of the running configuration.
//! Invariant: the configuration's own task carries them out, between two changes.
//! Must not know: the messages of a takeover.

use tokio::sync::oneshot;

use crate::takeover::{Frame, Prepared, Stop};

/// A demand.
pub(super) enum Demand {
    /// Returns the messages with all sockets and the state that a successor needs to begin.
    Offer(oneshot::Sender<std::io::Result<Vec<Frame>>>),
    /// Accepts no more connections at the sockets that the successor has.
    Pause(Prepared, oneshot::Sender<()>),
    /// Accepts connections again: the successor has failed.
    Resume(oneshot::Sender<()>),
    /// Leaves the sockets to the successor, which waits for older processes at this path.
    Leave(Option<String>, oneshot::Sender<()>),
    /// Leaves the sockets to the predecessor: this process has failed.
    GiveBack(oneshot::Sender<()>),
    /// Accepts connections at the sockets that were handed over.
    Accept(oneshot::Sender<Result<(), String>>),
}

/// What becomes of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeEvent {
    /// The process with this id accepts connections in the place of this one.
    TakenOver(u32),
    /// That process has failed: this one accepts connections again.
    Resumed,
    /// That process has proven itself: this one ends with its last connection.
    Left,
    /// This process has failed, and its predecessor accepts connections again: it ends with its last connection.
    GivenBack,
    /// The process that has taken over was asked to stop: this one shall stop, too.
    Stop,
    /// The last worker thread of this process has failed: it can serve nobody any more.
    AllFailed,
    /// There are too many old processes, and this is the oldest: it shall stop.
    TooMany,
}

impl LifeEvent {
    /// Returns what another process asks for.
    pub(super) fn of(stop: &Stop) -> LifeEvent {
        if stop.is_too_many { LifeEvent::TooMany } else { LifeEvent::Stop }
    }
}
