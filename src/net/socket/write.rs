//! Owns: the writing half of a socket: bytes from the write until the kernel takes them.
//! Invariant: bytes go out in order; only those that the kernel took count as written.
//! Must not know: what there is to read.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use super::raw::RawSocket;

/// The most bytes of one socket that are queued: one long write of this iteration, and shorter ones before it.
const MAX_QUEUED: usize = 32 * 1024;

/// A write of this many bytes is large: of large writes in a row only the first is queued. A queued write that the
/// kernel then doesn't take is held here, in addition to what its writer holds. And to copy the megabytes of a long
/// body saves nothing.
const LARGE: usize = 4 * 1024;

/// How much of what was written to a socket the kernel has taken. Outlives the socket.
#[derive(Debug, Default)]
pub struct WriteProgress {
    bytes: Cell<u64>,
    discards_on_drop: Cell<bool>,
}

impl WriteProgress {
    /// Returns how many bytes the kernel has taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Sets whether dropping the socket discards its queued writes. By default they are written.
    pub fn discard_on_drop(&self, discards_on_drop: bool) {
        self.discards_on_drop.set(discards_on_drop);
    }
}

#[derive(Debug)]
pub(super) struct WriteSide {
    progress: Rc<WriteProgress>,
    /// Writes that are queued until the iteration ends, and their bytes.
    queued: Cell<u32>,
    queued_bytes: Cell<usize>,
    /// There was a large write since the last read.
    had_large: Cell<bool>,
    /// A task waits until the queued writes are done.
    is_awaited: Cell<bool>,
    /// What is left of a queued write that the kernel did not take whole.
    backlog: RefCell<Option<WriteBacklog>>,
    /// Whether there is a backlog: each poll asks, and this costs no borrow.
    has_backlog: Cell<bool>,
    /// The task that wrote last.
    writer: RefCell<Waker>,
}

#[derive(Debug)]
enum WriteBacklog {
    /// These bytes are written as soon as the kernel has room.
    Bytes(Vec<u8>),
    /// The connection failed; nothing more is written.
    Failed(io::ErrorKind),
}

impl WriteSide {
    pub(super) fn new() -> WriteSide {
        WriteSide {
            progress: Rc::default(),
            queued: Cell::new(0),
            queued_bytes: Cell::new(0),
            had_large: Cell::new(false),
            is_awaited: Cell::new(false),
            backlog: RefCell::new(None),
            has_backlog: Cell::new(false),
            writer: RefCell::new(Waker::noop().clone()),
        }
    }

    pub(super) fn write_progress(&self) -> Rc<WriteProgress> {
        Rc::clone(&self.progress)
    }

    pub(super) fn has_queued(&self) -> bool {
        self.queued.get() > 0
    }

    /// The bytes of the writes that are queued.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes.get()
    }

    pub(super) fn has_backlog(&self) -> bool {
        self.has_backlog.get()
    }

    /// Whether dropping the socket has to write what is queued.
    pub(super) fn must_flush_on_drop(&self) -> bool {
        self.has_queued() && !self.progress.discards_on_drop.get()
    }

    /// Whether the next write, of `length` bytes, may be queued.
    pub(super) fn may_queue(&self, length: usize) -> bool {
        let follows_large = length >= LARGE && self.had_large.replace(true);
        !follows_large && self.queued_bytes.get() + length <= MAX_QUEUED
    }

    /// Forgets large writes after a read: the next write begins a new message.
    pub(super) fn begin_message(&self) {
        self.had_large.set(false);
    }

    /// Counts a write of `length` bytes as queued, and remembers its task.
    pub(super) fn add_queued(&self, cx: &Context<'_>, length: usize) {
        self.writer.borrow_mut().clone_from(cx.waker());
        self.queued.set(self.queued.get() + 1);
        self.queued_bytes.set(self.queued_bytes.get() + length);
    }

    /// Counts a write of `length` bytes as no longer queued.
    pub(super) fn remove_queued(&self, length: usize) {
        self.queued.set(self.queued.get().saturating_sub(1));
        self.queued_bytes.set(self.queued_bytes.get().saturating_sub(length));
    }

    /// Does a queued write. What the kernel doesn't take becomes the backlog.
    pub(super) fn write_queued(&self, raw: &RawSocket, bytes: &[u8]) {
        self.remove_queued(bytes.len());
        let mut backlog = self.backlog.borrow_mut();
        let left = match &mut *backlog {
            None => self.try_write(raw, bytes),
            Some(WriteBacklog::Bytes(before)) => {
                before.extend_from_slice(bytes);
                return;
            }
            Some(WriteBacklog::Failed(_)) => return,
        };
        self.has_backlog.set(left.is_some());
        let wakes_writer = self.is_awaited.take() || left.is_some();
        *backlog = left;
        drop(backlog);
        if wakes_writer {
            self.writer.borrow().wake_by_ref();
        }
    }

    /// Writes without waiting. Returns what is left.
    fn try_write(&self, raw: &RawSocket, bytes: &[u8]) -> Option<WriteBacklog> {
        match raw.try_write(bytes) {
            Ok(written) => {
                self.count(written);
                bytes.get(written..).filter(|rest| !rest.is_empty()).map(|rest| WriteBacklog::Bytes(rest.into()))
            }
            Err(error) => Some(match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => WriteBacklog::Bytes(bytes.into()),
                kind => WriteBacklog::Failed(kind),
            }),
        }
    }

    /// Writes `pieces`, or some of them, to the kernel directly.
    pub(super) fn poll_write(
        &self,
        raw: &mut RawSocket,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(raw.poll_write(cx, pieces))?;
        self.count(written);
        Poll::Ready(Ok(written))
    }

    fn count(&self, written: usize) {
        self.progress.bytes.set(self.progress.bytes.get() + written as u64);
    }

    /// Waits until the kernel has taken the backlog, and writes it as far as the kernel has room.
    ///
    /// # Errors
    /// The error of a write that failed earlier.
    #[inline]
    pub(super) fn poll_backlog(&self, raw: &mut RawSocket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.has_backlog.get() {
            true => self.poll_write_backlog(raw, cx),
            false => Poll::Ready(Ok(())),
        }
    }

    #[cold]
    fn poll_write_backlog(&self, raw: &mut RawSocket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut backlog = self.backlog.borrow_mut();
        while let Some(WriteBacklog::Bytes(bytes)) = &mut *backlog {
            match ready!(self.poll_write(raw, cx, &[IoSlice::new(bytes)])) {
                Ok(written) if written < bytes.len() => drop(bytes.drain(..written)),
                Ok(_) => {
                    *backlog = None;
                    self.has_backlog.set(false);
                }
                Err(error) => *backlog = Some(WriteBacklog::Failed(error.kind())),
            }
        }
        Poll::Ready(match *backlog {
            Some(WriteBacklog::Failed(kind)) => Err(kind.into()),
            _ => Ok(()),
        })
    }

    /// Waits until the kernel has taken the queued writes, too.
    pub(super) fn poll_all_sent(&self, raw: &mut RawSocket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_queued() {
            self.writer.borrow_mut().clone_from(cx.waker());
            self.is_awaited.set(true);
            return Poll::Pending;
        }
        self.poll_backlog(raw, cx)
    }
}
