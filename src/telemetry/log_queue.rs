//! Owns: the queue between the threads that log requests and the thread that writes the access log.
//! Invariant: the queue is bounded; a sender that finds it full drops its lines and counts them.
//! Must not know: the content of a line, or where the log is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::SyncSender;

/// Complete lines, and their number.
#[derive(Default)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

/// The senders' side of the queue to the writer of the access log.
pub(super) struct LogQueue {
    pub(super) queue: SyncSender<Buffer>,
    pub(super) dropped: Arc<AtomicU64>,
    /// Requests that the writer reopens the file.
    pub(super) reopen: Arc<AtomicBool>,
    pub(super) is_file: bool,
}
