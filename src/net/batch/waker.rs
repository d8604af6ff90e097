//! Owns: the waker by which the event loop reports that a socket is readable.
//! Invariant: a readable socket is queued for the batcher; without a batcher its reader is woken.
//! Must not know: how a socket is read.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::BATCHER;
use super::batched_socket::BatchedSocket;

/// Registers a socket with the batcher of this thread, and deregisters it when dropped.
#[derive(Debug)]
pub(in crate::net) struct ReadinessWaker {
    index: usize,
    waker: Waker,
}

/// The index of a registered socket.
#[derive(Debug)]
struct WakeEntry(usize);

impl ReadinessWaker {
    /// Registers `socket`. Returns `None` if no batcher runs on this thread.
    pub(in crate::net) fn new<S: BatchedSocket + 'static>(socket: &Rc<S>) -> Option<ReadinessWaker> {
        let socket: Rc<dyn BatchedSocket> = Rc::clone(socket) as _;
        BATCHER.with_borrow_mut(|batcher| {
            batcher.task.as_ref()?;
            let index = batcher.ready.register(socket);
            Some(ReadinessWaker { index, waker: Arc::new(WakeEntry(index)).into() })
        })
    }

    /// Returns the waker to poll the socket with.
    pub(in crate::net) fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl Drop for ReadinessWaker {
    fn drop(&mut self) {
        BATCHER.with_borrow_mut(|batcher| batcher.ready.deregister(self.index));
    }
}

impl Wake for WakeEntry {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let unbatched = BATCHER.with_borrow_mut(|batcher| {
            let Some(task) = &batcher.task else { return batcher.ready.get(self.0) };
            if batcher.ready.is_empty() {
                task.wake_by_ref();
            }
            batcher.ready.push(self.0);
            None
        });
        if let Some(socket) = unbatched {
            socket.wake_reader();
        }
    }
}
