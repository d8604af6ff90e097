//! Owns: the ways in which a response ends before it is complete.
//! Invariant: only what the backend did is held against it.
//! Must not know: how an end is noticed.

/// Why a response ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseEnd {
    /// The backend closed the connection or reset the stream.
    Backend,
    /// The same, as for other responses on the connection, and it has counted for one of them.
    Connection,
    /// The same, but the client read so slowly that the backend may have timed out.
    KeptWaiting,
    /// The backend sent nothing for too long. This is no failure of the backend: a stream may pause, and not every
    /// stream can be recognised by its header fields.
    Quiet,
}
