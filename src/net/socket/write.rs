//! Owns: what a socket has to send, from the write until the kernel has it.
//! Invariant: bytes go out in order; none counts as sent that the kernel has not taken.
//! Must not know: what there is to read.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use super::raw::RawSocket;

/// Bytes of a socket that wait, at the most: a piece in one iteration, and what came before it.
const ROOM: usize = 32 * 1024;

/// A piece of so many bytes is large: of those that follow each other only the first waits. What waits and
/// then finds no room with the kernel is held here, in addition to what its writer holds; and to copy the
/// megabytes of a long body wins nothing.
const LARGE: usize = 4 * 1024;

/// What becomes of the bytes that are written to a socket. Can be asked when the socket is gone.
#[derive(Debug, Default)]
pub struct WriteProgress {
    bytes: Cell<u64>,
    discards_on_drop: Cell<bool>,
}

impl WriteProgress {
    /// How many the kernel has taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether dropping the socket takes back those that wait. If not, they are sent.
    pub fn discard_on_drop(&self, discards_on_drop: bool) {
        self.discards_on_drop.set(discards_on_drop);
    }
}

#[derive(Debug)]
pub(super) struct WriteSide {
    progress: Rc<WriteProgress>,
    /// Pieces that wait for the end of the iteration, and their bytes.
    waiting: Cell<u32>,
    bytes: Cell<usize>,
    /// A large piece was written since something was read last.
    is_long: Cell<bool>,
    /// Whether the writer waits for them to be sent.
    is_awaited: Cell<bool>,
    /// What became of those that the kernel has not taken.
    backlog: RefCell<Option<WriteBacklog>>,
    /// Whether there is any: asked at each poll.
    has_backlog: Cell<bool>,
    /// The task that wrote last.
    writer: RefCell<Waker>,
}

#[derive(Debug)]
enum WriteBacklog {
    /// They go out when there is room.
    Bytes(Vec<u8>),
    /// They never go out.
    Failed(io::ErrorKind),
}

impl WriteSide {
    pub(super) fn new() -> WriteSide {
        WriteSide {
            progress: Rc::default(),
            waiting: Cell::new(0),
            bytes: Cell::new(0),
            is_long: Cell::new(false),
            is_awaited: Cell::new(false),
            backlog: RefCell::new(None),
            has_backlog: Cell::new(false),
            writer: RefCell::new(Waker::noop().clone()),
        }
    }

    pub(super) fn write_progress(&self) -> Rc<WriteProgress> {
        Rc::clone(&self.progress)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.get() > 0
    }

    pub(super) fn has_backlog(&self) -> bool {
        self.has_backlog.get()
    }

    /// Whether what waits is to be sent if the socket is dropped.
    pub(super) fn outlives(&self) -> bool {
        self.is_waiting() && !self.progress.discards_on_drop.get()
    }

    /// Whether the next piece, of `length` bytes, may wait, too.
    pub(super) fn may_wait(&self, length: usize) -> bool {
        let is_next = length >= LARGE && self.is_long.replace(true);
        !is_next && self.bytes.get() + length <= ROOM
    }

    /// Something was read: what is written next is the answer to it.
    pub(super) fn begins(&self) {
        self.is_long.set(false);
    }

    /// A piece of this writer's is about to wait for the end of the iteration.
    pub(super) fn begin(&self, cx: &Context<'_>, length: usize) {
        self.writer.borrow_mut().clone_from(cx.waker());
        self.waiting.set(self.waiting.get() + 1);
        self.bytes.set(self.bytes.get() + length);
    }

    /// It waits no more.
    pub(super) fn end(&self, length: usize) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
        self.bytes.set(self.bytes.get().saturating_sub(length));
    }

    /// A piece has waited long enough.
    pub(super) fn send(&self, raw: &RawSocket, piece: &[u8]) {
        self.end(piece.len());
        let mut backlog = self.backlog.borrow_mut();
        let left = match &mut *backlog {
            None => self.try_send(raw, piece),
            Some(WriteBacklog::Bytes(bytes)) => {
                bytes.extend_from_slice(piece);
                return;
            }
            Some(WriteBacklog::Failed(_)) => return,
        };
        self.has_backlog.set(left.is_some());
        let is_heard = self.is_awaited.take() || left.is_some();
        *backlog = left;
        drop(backlog);
        if is_heard {
            self.writer.borrow().wake_by_ref();
        }
    }

    /// What is left of a piece.
    fn try_send(&self, raw: &RawSocket, piece: &[u8]) -> Option<WriteBacklog> {
        match raw.try_write(piece) {
            Ok(sent) => {
                self.count(sent);
                piece.get(sent..).filter(|rest| !rest.is_empty()).map(|rest| WriteBacklog::Bytes(rest.into()))
            }
            Err(error) => Some(match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => WriteBacklog::Bytes(piece.into()),
                kind => WriteBacklog::Failed(kind),
            }),
        }
    }

    /// Has the kernel take `pieces`, or some of them, now.
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

    fn count(&self, sent: usize) {
        self.progress.bytes.set(self.progress.bytes.get() + sent as u64);
    }

    /// Whether all is sent that has waited long enough; sends of it what can be sent.
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
                Ok(sent) if sent < bytes.len() => drop(bytes.drain(..sent)),
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

    /// The same, of pieces too that still wait.
    pub(super) fn poll_all_sent(&self, raw: &mut RawSocket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_waiting() {
            self.writer.borrow_mut().clone_from(cx.waker());
            self.is_awaited.set(true);
            return Poll::Pending;
        }
        self.poll_backlog(raw, cx)
    }
}
