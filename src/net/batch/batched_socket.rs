//! Owns: what the batcher needs of a socket, and how much it does in one go.
//! Invariant: each call does one system call at most, and never blocks.
//! Must not know: queues; when the batcher calls.

/// Sockets that are read in one go, and writes that wait to be done in one go, at most.
pub(in crate::net) const MAX_BATCH: usize = 64;

/// A socket whose reads and writes are batched.
pub(in crate::net) trait BatchedSocket {
    /// Reads what has arrived, if a task waits for it, and wakes this task.
    fn prefetch(&self);

    /// Wakes the task that waits to read, so that it reads on its own.
    fn wake_reader(&self);

    /// Writes the bytes of one queued write.
    fn write_queued(&self, bytes: &[u8]);
}
