//! Owns: one thread's lines of the access log.
//! Invariant: a request appends to its own thread's buffer; whole buffers go to the writer, or are counted as dropped.
//! Must not know: where the log is written; how the values of a record are found.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::access_layout::{AccessLayout, Captures};
use super::access_line;
use super::access_record::Record;
use super::line_format::Timestamps;
use super::log_queue::{Buffer, LogQueue};

/// Makes the logs of threads. The writer runs for as long as there is a handle.
#[derive(Clone)]
pub struct AccessLogHandle {
    pub(super) shared: Option<Arc<LogQueue>>,
    pub(super) layout: Arc<AccessLayout>,
}

impl AccessLogHandle {
    /// Makes the log of one thread.
    pub fn thread_log(&self) -> ThreadLog {
        ThreadLog::new(self.shared.clone(), Arc::clone(&self.layout))
    }
}

/// One thread's buffer of the access log.
pub struct ThreadLog {
    pending: RefCell<Pending>,
    captures: Cell<Captures>,
}

struct Pending {
    shared: Option<Arc<LogQueue>>,
    layout: Arc<AccessLayout>,
    buffer: Buffer,
    timestamps: Timestamps,
}

/// A buffer is sent to the writer when it has this many bytes, or at the next [`ThreadLog::flush`]. Each buffer costs
/// four futex calls, and two context switches if the writer shares a core with the sender.
const FLUSH_BYTES: usize = 64 * 1024;

impl ThreadLog {
    /// Makes a log that discards its lines.
    pub fn off() -> ThreadLog {
        ThreadLog::new(None, Arc::default())
    }

    fn new(shared: Option<Arc<LogQueue>>, layout: Arc<AccessLayout>) -> ThreadLog {
        let captures = Cell::new(captures(shared.as_deref(), &layout));
        let (buffer, timestamps) = (Buffer::default(), Timestamps::default());
        ThreadLog { pending: RefCell::new(Pending { shared, layout, buffer, timestamps }), captures }
    }

    /// Returns what the records of the requests that begin now have to keep of their heads.
    #[inline]
    pub fn captures(&self) -> Captures {
        self.captures.get()
    }

    /// Writes the lines that follow to another log. Those before it go to the log that they were written for.
    pub fn switch(&self, next: &AccessLogHandle) {
        let is_same = match (&self.pending.borrow().shared, &next.shared) {
            (Some(old), Some(next)) => Arc::ptr_eq(old, next),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            return;
        }
        self.flush();
        let mut pending = self.pending.borrow_mut();
        (pending.shared, pending.layout) = (next.shared.clone(), Arc::clone(&next.layout));
        self.captures.set(captures(pending.shared.as_deref(), &pending.layout));
    }

    /// Appends a line.
    pub fn write(&self, record: &Record<'_>) {
        let mut pending = self.pending.borrow_mut();
        let Pending { shared, layout, buffer, timestamps } = &mut *pending;
        if shared.is_none() {
            return;
        }
        access_line::write(&mut buffer.bytes, timestamps, layout, record);
        buffer.lines += 1;
        if buffer.bytes.len() >= FLUSH_BYTES {
            drop(pending);
            self.flush();
        }
    }

    /// Sends the buffered lines to the writer. Call it regularly: else the last lines of a quiet server would stay in
    /// the buffer until more requests fill it.
    pub fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        let Pending { shared: Some(shared), buffer, .. } = &mut *pending else { return };
        if buffer.lines == 0 {
            return;
        }
        let next = Buffer { bytes: Vec::with_capacity(FLUSH_BYTES + 1024), lines: 0 };
        let buffer = std::mem::replace(buffer, next);
        let lines = buffer.lines;
        if shared.queue.try_send(buffer).is_err() {
            shared.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

impl Drop for ThreadLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Returns what lines need of requests' heads: nothing, if none are written.
fn captures(shared: Option<&LogQueue>, layout: &AccessLayout) -> Captures {
    shared.map_or_else(Captures::default, |_| layout.captures)
}
