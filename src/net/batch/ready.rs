//! Owns: the sockets of which something has come in a iteration, and the buffers into which it is read.
//! Invariant: a socket is read for who waits for it, and for nobody else; buffers are kept for as many as are read at once.
//! Must not know: the event loop.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::{BATCHER, BatchedSocket, MAX_BATCH};

/// What is read of one socket, in bytes: a request's head, or a response's with a small body.
pub(in super::super) const PREFETCH_SIZE: usize = 4096;

/// Sockets by index.
pub(super) struct ReadyQueue {
    sockets: Vec<Option<Rc<dyn BatchedSocket>>>,
    free: Vec<usize>,
    /// In the order in which they were: under load none waits for ever.
    ready: VecDeque<usize>,
    buffers: Vec<Box<[u8]>>,
}

/// What the event loop wakes when there is something to read on a socket.
#[derive(Debug)]
pub(in super::super) struct ReadinessWaker {
    index: usize,
    waker: Waker,
}

#[derive(Debug)]
struct WakeEntry(usize);

impl ReadyQueue {
    pub(super) const fn new() -> ReadyQueue {
        ReadyQueue { sockets: Vec::new(), free: Vec::new(), ready: VecDeque::new(), buffers: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// The next of which something has come.
    pub(super) fn next(&mut self) -> Option<Rc<dyn BatchedSocket>> {
        std::iter::from_fn(|| self.ready.pop_front()).find_map(|index| self.sockets.get(index)?.clone())
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.sockets.len()
    }

    /// All that have a waker.
    pub(super) fn all(&mut self) -> Vec<Rc<dyn BatchedSocket>> {
        self.ready.clear();
        self.sockets.iter().flatten().cloned().collect()
    }
}

impl ReadinessWaker {
    /// A waker for a socket. `None` where nobody answers it.
    pub(in super::super) fn new<S: BatchedSocket + 'static>(socket: &Rc<S>) -> Option<ReadinessWaker> {
        let socket: Rc<dyn BatchedSocket> = Rc::clone(socket) as _;
        BATCHER.with_borrow_mut(|batcher| {
            batcher.task.as_ref()?;
            let ReadyQueue { sockets, free, .. } = &mut batcher.ready;
            let index = free.pop().unwrap_or(sockets.len());
            match sockets.get_mut(index) {
                Some(slot) => *slot = Some(socket),
                None => sockets.push(Some(socket)),
            }
            Some(ReadinessWaker { index, waker: Arc::new(WakeEntry(index)).into() })
        })
    }

    /// The waker to register.
    pub(in super::super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl Drop for ReadinessWaker {
    fn drop(&mut self) {
        BATCHER.with_borrow_mut(|batcher| {
            if let Some(slot) = batcher.ready.sockets.get_mut(self.index) {
                *slot = None;
                batcher.ready.free.push(self.index);
            }
        });
    }
}

impl Wake for WakeEntry {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let unbatched = BATCHER.with_borrow_mut(|batcher| {
            let Some(task) = &batcher.task else { return batcher.ready.sockets.get(self.0).cloned().flatten() };
            if batcher.ready.ready.is_empty() {
                task.wake_by_ref();
            }
            batcher.ready.ready.push_back(self.0);
            None
        });
        if let Some(socket) = unbatched {
            socket.wake_reader();
        }
    }
}

/// A buffer of [`PREFETCH_SIZE`] bytes.
pub(in super::super) fn acquire_buffer() -> Box<[u8]> {
    BATCHER.with_borrow_mut(|batcher| batcher.ready.buffers.pop()).unwrap_or_else(|| vec![0; PREFETCH_SIZE].into())
}

/// Takes one back; one of another size goes.
pub(in super::super) fn release_buffer(buffer: Box<[u8]>) {
    BATCHER.with_borrow_mut(|batcher| {
        if buffer.len() == PREFETCH_SIZE && batcher.ready.buffers.len() < MAX_BATCH {
            batcher.ready.buffers.push(buffer);
        }
    });
}
