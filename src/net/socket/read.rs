//! Owns: the reading half of a socket: what was prefetched, and which task waits for more.
//! Invariant: nothing is read that no task waits for; bytes keep their order.
//! Must not know: what there is to write.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use super::raw::{MAX_READ, RawSocket, SMALL_READ};
use crate::net::batch::waker::ReadinessWaker;
use crate::net::read_buffers::{self, BUFFER_SIZE};

#[derive(Debug)]
pub(super) struct ReadSide {
    prefetched: RefCell<Option<Prefetched>>,
    /// The task that waits for the batcher to read. While there is one, the [`ReadinessWaker`] has not been woken.
    reader: RefCell<Option<Waker>>,
    /// Bytes that arrived since the owner last had to wait.
    burst: Cell<usize>,
    /// How often the owner had to wait after a burst.
    bursts: Cell<u8>,
    /// The last burst did not fit into a buffer: to prefetch such a burst copies it twice.
    is_large: Cell<bool>,
    /// The most bytes that one read takes.
    read_limit: Cell<u64>,
}

#[derive(Debug)]
enum Prefetched {
    Bytes { buffer: Box<[u8]>, from: usize, to: usize },
    End,
    Failed(io::Error),
}

/// Bursts after which a socket gets a [`ReadinessWaker`]. A connection for one request doesn't repay its cost.
const MIN_BURSTS: u8 = 2;

impl ReadSide {
    pub(super) fn new() -> ReadSide {
        ReadSide {
            prefetched: RefCell::new(None),
            reader: RefCell::new(None),
            burst: Cell::new(0),
            bursts: Cell::new(0),
            is_large: Cell::new(false),
            read_limit: Cell::new(MAX_READ),
        }
    }

    /// Limits reads to [`SMALL_READ`] from now on.
    pub(super) fn use_small_reads(&self) {
        self.read_limit.set(SMALL_READ);
    }

    /// The most bytes that one read takes.
    pub(super) fn read_limit(&self) -> usize {
        self.read_limit.get() as usize
    }

    /// Whether batched reads repay the cost of a [`ReadinessWaker`].
    pub(super) fn is_worth_a_waker(&self) -> bool {
        self.bursts.get() >= MIN_BURSTS
    }

    #[cfg(test)]
    pub(super) fn has_prefetched(&self) -> bool {
        self.prefetched.borrow().is_some()
    }

    /// Reads what was prefetched. Returns `None` if the kernel has to be asked.
    pub(super) fn poll_prefetched(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Option<Poll<io::Result<()>>> {
        let mut prefetched = self.prefetched.borrow_mut();
        if let Some(taken) = prefetched.take() {
            return Some(Poll::Ready(taken.read(buffer, &mut prefetched)));
        }
        // hyper polls often. Until the ReadinessWaker is woken there is nothing to read, without a system call.
        let mut reader = self.reader.borrow_mut();
        reader.as_mut()?.clone_from(cx.waker());
        Some(Poll::Pending)
    }

    /// Reads what the kernel has.
    pub(super) fn poll_read(
        &self,
        raw: &mut RawSocket,
        cx: &mut Context<'_>,
        waker: Option<&ReadinessWaker>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let waker = waker.filter(|_| !self.is_large.get());
        let before = buffer.filled().len();
        let poll = raw.poll_read(
            &mut Context::from_waker(waker.map_or(cx.waker(), ReadinessWaker::waker)),
            buffer,
            self.read_limit.get(),
        );
        if poll.is_ready() {
            self.burst.set(self.burst.get() + buffer.filled().len() - before);
            return poll;
        }
        self.end_burst();
        self.reader.replace(waker.map(|_| cx.waker().clone()));
        poll
    }

    /// Waits until there is something to read, or the end.
    pub(super) fn poll_ready(&self, raw: &RawSocket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.prefetched.borrow().is_some() {
            return Poll::Ready(Ok(()));
        }
        // From here on the event loop wakes this task directly, without the batcher.
        self.reader.take();
        raw.poll_read_ready(cx)
    }

    /// Prefetches until `is_enough` accepts the bytes, a buffer is full, or the end. While it waits it keeps the bytes
    /// alone, without the rest of a buffer.
    pub(super) fn poll_prefetch(
        &self,
        raw: &mut RawSocket,
        cx: &mut Context<'_>,
        is_enough: fn(&[u8]) -> bool,
    ) -> Poll<()> {
        self.reader.take();
        let mut prefetched = self.prefetched.borrow_mut();
        let mut buffer = read_buffers::acquire();
        let mut read = ReadBuf::new(&mut buffer);
        match prefetched.take() {
            None => {}
            Some(Prefetched::Bytes { buffer: held, from, to }) if to - from < BUFFER_SIZE => {
                read.put_slice(&held[from..to])
            }
            all => *prefetched = all,
        }
        let mut poll = Poll::Ready(());
        while prefetched.is_none() && !is_enough(read.filled()) {
            let before = read.filled().len();
            match raw.poll_read(cx, &mut read, MAX_READ) {
                Poll::Ready(Ok(())) if read.filled().len() > before => {}
                // The bytes are read first. The kernel reports the end or the error again.
                Poll::Ready(_) if before > 0 => break,
                Poll::Ready(Ok(())) => *prefetched = Some(Prefetched::End),
                Poll::Ready(Err(error)) => *prefetched = Some(Prefetched::Failed(error)),
                Poll::Pending => {
                    poll = Poll::Pending;
                    break;
                }
            }
            if read.remaining() == 0 {
                break;
            }
        }
        let to = read.filled().len();
        if prefetched.is_some() || to == 0 {
            read_buffers::release(buffer);
        } else if poll.is_ready() {
            *prefetched = Some(Prefetched::Bytes { buffer, from: 0, to });
        } else {
            *prefetched = Some(Prefetched::Bytes { buffer: buffer[..to].into(), from: 0, to });
            read_buffers::release(buffer);
        }
        poll
    }

    /// Prefetches what the kernel has, also if the event loop has not reported it yet.
    pub(super) fn prefetch_now(&self, raw: &RawSocket) {
        if self.prefetched.borrow().is_some() {
            return;
        }
        let mut buffer = read_buffers::acquire();
        let prefetched = match raw.read_now(&mut buffer) {
            Ok(to @ 1..) => Prefetched::Bytes { buffer, from: 0, to },
            ended => {
                read_buffers::release(buffer);
                match ended {
                    Ok(_) => Prefetched::End,
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
                    Err(error) => Prefetched::Failed(error),
                }
            }
        };
        self.prefetched.replace(Some(prefetched));
        self.wake_reader();
    }

    /// Passes the prefetched bytes to `look`, and leaves them to be read.
    pub(super) fn peek_prefetched<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        match &*self.prefetched.borrow() {
            Some(Prefetched::Bytes { buffer, from, to }) => look(&buffer[*from..*to]),
            _ => look(&[]),
        }
    }

    fn end_burst(&self) {
        let burst = self.burst.take();
        if burst > 0 {
            self.is_large.set(burst > BUFFER_SIZE);
            self.bursts.set(self.bursts.get().saturating_add(1));
        }
    }

    /// Reads into a buffer and wakes the task that waits, once `waker` was woken. Without such a task it reads nothing.
    pub(super) fn prefetch(&self, raw: &mut RawSocket, waker: &ReadinessWaker) {
        if self.reader.borrow().is_none() {
            return;
        }
        let mut buffer = read_buffers::acquire();
        let mut unfilled = ReadBuf::new(&mut buffer);
        let poll = raw.poll_read(&mut Context::from_waker(waker.waker()), &mut unfilled, MAX_READ);
        let to = unfilled.filled().len();
        let prefetched = match poll {
            Poll::Ready(Ok(())) if to > 0 => {
                self.burst.set(to);
                Some(Prefetched::Bytes { buffer, from: 0, to })
            }
            other => {
                read_buffers::release(buffer);
                match other {
                    Poll::Ready(Ok(())) => Some(Prefetched::End),
                    Poll::Ready(Err(error)) => Some(Prefetched::Failed(error)),
                    Poll::Pending => None,
                }
            }
        };
        if prefetched.is_some() {
            self.prefetched.replace(prefetched);
            self.wake_reader();
        }
    }

    /// Wakes the task that waits, if there is one.
    pub(super) fn wake_reader(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Prefetched {
    /// Reads as much as fits into `into`, and puts what is left into `rest`.
    fn read(self, into: &mut ReadBuf<'_>, rest: &mut Option<Prefetched>) -> io::Result<()> {
        match self {
            Prefetched::Bytes { buffer, from, to } => {
                let end = to.min(from + into.remaining());
                into.put_slice(&buffer[from..end]);
                if end < to {
                    *rest = Some(Prefetched::Bytes { buffer, from: end, to });
                } else {
                    read_buffers::release(buffer);
                }
                Ok(())
            }
            Prefetched::End => Ok(()),
            Prefetched::Failed(error) => Err(error),
        }
    }
}
