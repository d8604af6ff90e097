//! Owns: the queue between the threads that log requests and the thread that writes the access log.
//! Invariant: the queue is bounded by its maker; a sender that finds it full counts its lines as dropped.
//! Must not know: what a line says, or where the log goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::SyncSender;

/// Whole lines, and how many they are.
#[derive(Default)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

/// The queue of the access log's writer, and what goes with it.
pub(super) struct LogQueue {
    pub(super) queue: SyncSender<Buffer>,
    pub(super) dropped: Arc<AtomicU64>,
    /// The file is to be opened anew, if it is one.
    pub(super) reopen: Arc<AtomicBool>,
    pub(super) is_file: bool,
}
