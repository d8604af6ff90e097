//! Owns: what was read of a socket before its owner asked for it, and whether to do so.
//! Invariant: nothing is read that nobody waits for; bytes keep their order.
//! Must not know: what there is to send.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use super::raw::{LITTLE, MOST, Raw};
use crate::net::turn::{self, Bell, PIECE};

#[derive(Debug)]
pub(super) struct Incoming {
    /// What was read.
    fetched: RefCell<Option<Fetched>>,
    /// The task that waits for more, if one does and the bell is to ring first. As long as there is one, it
    /// has not rung.
    reader: RefCell<Option<Waker>>,
    /// Bytes that came since the owner last had to wait.
    burst: Cell<usize>,
    /// How often the owner had to wait after some had come.
    bursts: Cell<u8>,
    /// The last burst was more than a piece: read at once it would be copied twice.
    is_large: Cell<bool>,
    /// What is read at once, at the most.
    most: Cell<u64>,
}

#[derive(Debug)]
enum Fetched {
    Bytes { buffer: Box<[u8]>, from: usize, to: usize },
    End,
    Failed(io::Error),
}

/// Bursts after which a socket has a bell. Those of one request don't pay for it.
const REGULAR: u8 = 2;

impl Incoming {
    pub(super) fn new() -> Incoming {
        Incoming {
            fetched: RefCell::new(None),
            reader: RefCell::new(None),
            burst: Cell::new(0),
            bursts: Cell::new(0),
            is_large: Cell::new(false),
            most: Cell::new(MOST),
        }
    }

    /// From now on less is read at once.
    pub(super) fn take_little(&self) {
        self.most.set(LITTLE);
    }

    /// What is read at once, at the most.
    pub(super) fn most(&self) -> usize {
        self.most.get() as usize
    }

    /// Whether it pays to have a bell.
    pub(super) fn is_regular(&self) -> bool {
        self.bursts.get() >= REGULAR
    }

    #[cfg(test)]
    pub(super) fn is_fetched(&self) -> bool {
        self.fetched.borrow().is_some()
    }

    /// Reads what was read already. `None` if the system has to be asked.
    pub(super) fn poll_fetched(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Option<Poll<io::Result<()>>> {
        let mut fetched = self.fetched.borrow_mut();
        if let Some(taken) = fetched.take() {
            return Some(Poll::Ready(taken.read(buffer, &mut fetched)));
        }
        // hyper asks often; as long as the bell has not rung, the answer is known.
        let mut reader = self.reader.borrow_mut();
        reader.as_mut()?.clone_from(cx.waker());
        Some(Poll::Pending)
    }

    /// Reads of the system what there is.
    pub(super) fn poll_read(
        &self,
        raw: &mut Raw,
        cx: &mut Context<'_>,
        bell: Option<&Bell>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bell = bell.filter(|_| !self.is_large.get());
        let before = buffer.filled().len();
        let poll =
            raw.poll_read(&mut Context::from_waker(bell.map_or(cx.waker(), Bell::waker)), buffer, self.most.get());
        if poll.is_ready() {
            self.burst.set(self.burst.get() + buffer.filled().len() - before);
            return poll;
        }
        self.end_burst();
        self.reader.replace(bell.map(|_| cx.waker().clone()));
        poll
    }

    /// Whether there is something to read, or the end.
    pub(super) fn poll_ready(&self, raw: &Raw, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.fetched.borrow().is_some() {
            return Poll::Ready(Ok(()));
        }
        // From here on the system wakes the task, and no bell rings.
        self.reader.take();
        raw.poll_read_ready(cx)
    }

    /// Reads until `is_enough` is there of what is unread, or a piece, or the end. What was read is read again; of
    /// what is not enough no buffer is held.
    pub(super) fn poll_gather(&self, raw: &mut Raw, cx: &mut Context<'_>, is_enough: fn(&[u8]) -> bool) -> Poll<()> {
        self.reader.take();
        let mut fetched = self.fetched.borrow_mut();
        let mut buffer = turn::buffer();
        let mut read = ReadBuf::new(&mut buffer);
        match fetched.take() {
            None => {}
            Some(Fetched::Bytes { buffer: held, from, to }) if to - from < PIECE => read.put_slice(&held[from..to]),
            all => *fetched = all,
        }
        let mut poll = Poll::Ready(());
        while fetched.is_none() && !is_enough(read.filled()) {
            let before = read.filled().len();
            match raw.poll_read(cx, &mut read, MOST) {
                Poll::Ready(Ok(())) if read.filled().len() > before => {}
                // What came is to be read first; the system tells of its end again, or of another one.
                Poll::Ready(_) if before > 0 => break,
                Poll::Ready(Ok(())) => *fetched = Some(Fetched::End),
                Poll::Ready(Err(error)) => *fetched = Some(Fetched::Failed(error)),
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
        if fetched.is_some() || to == 0 {
            turn::give_back(buffer);
        } else if poll.is_ready() {
            *fetched = Some(Fetched::Bytes { buffer, from: 0, to });
        } else {
            *fetched = Some(Fetched::Bytes { buffer: buffer[..to].into(), from: 0, to });
            turn::give_back(buffer);
        }
        poll
    }

    /// What has been gathered and is not read.
    pub(super) fn gathered<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        match &*self.fetched.borrow() {
            Some(Fetched::Bytes { buffer, from, to }) => look(&buffer[*from..*to]),
            _ => look(&[]),
        }
    }

    fn end_burst(&self) {
        let burst = self.burst.take();
        if burst > 0 {
            self.is_large.set(burst > PIECE);
            self.bursts.set(self.bursts.get().saturating_add(1));
        }
    }

    /// The bell has rung: reads a piece for who waits, and wakes him.
    pub(super) fn fetch(&self, raw: &mut Raw, bell: &Bell) {
        if self.reader.borrow().is_none() {
            return;
        }
        let mut buffer = turn::buffer();
        let mut unfilled = ReadBuf::new(&mut buffer);
        let poll = raw.poll_read(&mut Context::from_waker(bell.waker()), &mut unfilled, MOST);
        let to = unfilled.filled().len();
        let fetched = match poll {
            Poll::Ready(Ok(())) if to > 0 => {
                self.burst.set(to);
                Some(Fetched::Bytes { buffer, from: 0, to })
            }
            other => {
                turn::give_back(buffer);
                match other {
                    Poll::Ready(Ok(())) => Some(Fetched::End),
                    Poll::Ready(Err(error)) => Some(Fetched::Failed(error)),
                    Poll::Pending => None,
                }
            }
        };
        if fetched.is_some() {
            self.fetched.replace(fetched);
            self.call();
        }
    }

    /// Wakes who waits.
    pub(super) fn call(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Fetched {
    /// Reads of it what there is room for; `rest` is what is left.
    fn read(self, into: &mut ReadBuf<'_>, rest: &mut Option<Fetched>) -> io::Result<()> {
        match self {
            Fetched::Bytes { buffer, from, to } => {
                let end = to.min(from + into.remaining());
                into.put_slice(&buffer[from..end]);
                if end < to {
                    *rest = Some(Fetched::Bytes { buffer, from: end, to });
                } else {
                    turn::give_back(buffer);
                }
                Ok(())
            }
            Fetched::End => Ok(()),
            Fetched::Failed(error) => Err(error),
        }
    }
}
