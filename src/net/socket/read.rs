//! Owns: what was read of a socket before its owner asked for it, and whether to do so.
//! Invariant: nothing is read that nobody waits for; bytes keep their order.
//! Must not know: what there is to send.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use super::raw::{MAX_READ, RawSocket, SMALL_READ};
use crate::net::batch::{self, PREFETCH_SIZE, ReadinessWaker};

#[derive(Debug)]
pub(super) struct ReadSide {
    /// What was read.
    prefetched: RefCell<Option<Prefetched>>,
    /// The task that waits for more, if one does and the waker is to be woken first. As long as there is one, it
    /// was not woken.
    reader: RefCell<Option<Waker>>,
    /// Bytes that came since the owner last had to wait.
    burst: Cell<usize>,
    /// How often the owner had to wait after some had come.
    bursts: Cell<u8>,
    /// The last burst was more than a piece: read at once it would be copied twice.
    is_large: Cell<bool>,
    /// What is read at once, at the most.
    read_limit: Cell<u64>,
}

#[derive(Debug)]
enum Prefetched {
    Bytes { buffer: Box<[u8]>, from: usize, to: usize },
    End,
    Failed(io::Error),
}

/// Bursts after which a socket has a waker. Those of one request don't pay for it.
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

    /// From now on less is read at once.
    pub(super) fn use_small_reads(&self) {
        self.read_limit.set(SMALL_READ);
    }

    /// What is read at once, at the most.
    pub(super) fn read_limit(&self) -> usize {
        self.read_limit.get() as usize
    }

    /// Whether it pays to have a waker.
    pub(super) fn is_worth_a_waker(&self) -> bool {
        self.bursts.get() >= MIN_BURSTS
    }

    #[cfg(test)]
    pub(super) fn has_prefetched(&self) -> bool {
        self.prefetched.borrow().is_some()
    }

    /// Reads what was read already. `None` if the system has to be asked.
    pub(super) fn poll_prefetched(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Option<Poll<io::Result<()>>> {
        let mut prefetched = self.prefetched.borrow_mut();
        if let Some(taken) = prefetched.take() {
            return Some(Poll::Ready(taken.read(buffer, &mut prefetched)));
        }
        // hyper asks often; as long as the waker has not been woken, the answer is known.
        let mut reader = self.reader.borrow_mut();
        reader.as_mut()?.clone_from(cx.waker());
        Some(Poll::Pending)
    }

    /// Reads of the system what there is.
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

    /// Whether there is something to read, or the end.
    pub(super) fn poll_ready(&self, raw: &RawSocket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.prefetched.borrow().is_some() {
            return Poll::Ready(Ok(()));
        }
        // From here on the system wakes the task, and no ReadinessWaker is used.
        self.reader.take();
        raw.poll_read_ready(cx)
    }

    /// Reads until `is_enough` is there of what is unread, or a piece, or the end. What was read is read again; of
    /// what is not enough no buffer is held.
    pub(super) fn poll_prefetch(
        &self,
        raw: &mut RawSocket,
        cx: &mut Context<'_>,
        is_enough: fn(&[u8]) -> bool,
    ) -> Poll<()> {
        self.reader.take();
        let mut prefetched = self.prefetched.borrow_mut();
        let mut buffer = batch::acquire_buffer();
        let mut read = ReadBuf::new(&mut buffer);
        match prefetched.take() {
            None => {}
            Some(Prefetched::Bytes { buffer: held, from, to }) if to - from < PREFETCH_SIZE => {
                read.put_slice(&held[from..to])
            }
            all => *prefetched = all,
        }
        let mut poll = Poll::Ready(());
        while prefetched.is_none() && !is_enough(read.filled()) {
            let before = read.filled().len();
            match raw.poll_read(cx, &mut read, MAX_READ) {
                Poll::Ready(Ok(())) if read.filled().len() > before => {}
                // What came is to be read first; the system tells of its end again, or of another one.
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
            batch::release_buffer(buffer);
        } else if poll.is_ready() {
            *prefetched = Some(Prefetched::Bytes { buffer, from: 0, to });
        } else {
            *prefetched = Some(Prefetched::Bytes { buffer: buffer[..to].into(), from: 0, to });
            batch::release_buffer(buffer);
        }
        poll
    }

    /// What was prefetched and is not read.
    pub(super) fn peek_prefetched<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        match &*self.prefetched.borrow() {
            Some(Prefetched::Bytes { buffer, from, to }) => look(&buffer[*from..*to]),
            _ => look(&[]),
        }
    }

    fn end_burst(&self) {
        let burst = self.burst.take();
        if burst > 0 {
            self.is_large.set(burst > PREFETCH_SIZE);
            self.bursts.set(self.bursts.get().saturating_add(1));
        }
    }

    /// The waker was woken: reads a piece for who waits, and wakes him.
    pub(super) fn prefetch(&self, raw: &mut RawSocket, waker: &ReadinessWaker) {
        if self.reader.borrow().is_none() {
            return;
        }
        let mut buffer = batch::acquire_buffer();
        let mut unfilled = ReadBuf::new(&mut buffer);
        let poll = raw.poll_read(&mut Context::from_waker(waker.waker()), &mut unfilled, MAX_READ);
        let to = unfilled.filled().len();
        let prefetched = match poll {
            Poll::Ready(Ok(())) if to > 0 => {
                self.burst.set(to);
                Some(Prefetched::Bytes { buffer, from: 0, to })
            }
            other => {
                batch::release_buffer(buffer);
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

    /// Wakes who waits.
    pub(super) fn wake_reader(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Prefetched {
    /// Reads of it what there is room for; `rest` is what is left.
    fn read(self, into: &mut ReadBuf<'_>, rest: &mut Option<Prefetched>) -> io::Result<()> {
        match self {
            Prefetched::Bytes { buffer, from, to } => {
                let end = to.min(from + into.remaining());
                into.put_slice(&buffer[from..end]);
                if end < to {
                    *rest = Some(Prefetched::Bytes { buffer, from: end, to });
                } else {
                    batch::release_buffer(buffer);
                }
                Ok(())
            }
            Prefetched::End => Ok(()),
            Prefetched::Failed(error) => Err(error),
        }
    }
}
