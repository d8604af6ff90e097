//! Owns: an iteration of a thread's event loop, as its sockets see it: what has come is read, then those who wait for it run, then what they have to say is sent.
//! Invariant: a socket's bytes keep their order; what is small alone is held up, and by no more than one iteration.
//! Must not know: what is read and sent, or how a socket does it.

mod ready;
mod writes;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Poll, Waker};

use ready::ReadyQueue;
pub(super) use ready::{PREFETCH_SIZE, ReadinessWaker, acquire_buffer, release_buffer};
use writes::WriteQueue;

/// Sockets and pieces that are seen to in one go, at the most.
const MAX_BATCH: usize = 64;

thread_local! {
    static BATCHER: RefCell<Batcher> =
        const { RefCell::new(Batcher { task: None, ready: ReadyQueue::new(), writes: WriteQueue::new() }) };
}

/// The kernel's way of a packet, out or in, fills a core's cache for instructions, and so does this
/// program's of a request. A task that reads, works and sends goes one after the other for each request, and
/// finds none of them in the cache. So all sockets of a iteration are read in one go, all tasks run in
/// one go, and all is sent in one go: each way is cold for the first of them, and warm for the rest.
/// Where only one is ready, it waits for nobody.
struct Batcher {
    /// The task that reads and sends for all. Without one each socket does so by itself.
    task: Option<Waker>,
    ready: ReadyQueue,
    writes: WriteQueue,
}

/// What the batcher has to know of a socket.
pub(super) trait BatchedSocket {
    /// Reads a piece, if one is waited for, and wakes who waits.
    fn prefetch(&self);

    /// Wakes who waits for a piece, to read it himself.
    fn wake_reader(&self);

    /// Sends a piece.
    fn send(&self, piece: &[u8]);
}

/// Reads and sends for all sockets of this thread, for as long as it is polled. The event loop runs those
/// tasks first that were woken first: one that its sockets wake runs before those who wait for
/// them, and one that these wake by what they send runs after them.
pub async fn run_batcher() {
    struct Running;
    impl Drop for Running {
        fn drop(&mut self) {
            let waiting = BATCHER.with_borrow_mut(|batcher| {
                batcher.task = None;
                batcher.ready.all()
            });
            waiting.iter().for_each(|socket| socket.wake_reader());
            send();
        }
    }
    let _running = Running;
    poll_fn(|cx| {
        BATCHER
            .with_borrow_mut(|batcher| batcher.task.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker()));
        prefetch();
        send();
        Poll::Pending
    })
    .await
}

/// Has `pieces`, as one of `length` bytes, wait for the end of the iteration. False if they are to be sent at once.
pub(super) fn put<S: BatchedSocket + 'static>(socket: &Rc<S>, pieces: &[IoSlice<'_>], length: usize) -> bool {
    if length > writes::MAX_WRITE {
        return false;
    }
    let is_full = BATCHER.with_borrow_mut(|batcher| {
        let task = batcher.task.as_ref()?;
        if batcher.writes.is_empty() {
            task.wake_by_ref();
        }
        let socket: Rc<dyn BatchedSocket> = Rc::clone(socket) as _;
        Some(batcher.writes.put(socket, pieces, length))
    });
    if is_full == Some(true) {
        send();
    }
    is_full.is_some()
}

/// Sends what waits.
pub(super) fn send() {
    // Taken out meanwhile, so that nothing that comes of it finds the writes in use.
    let taken = BATCHER.with_borrow_mut(|batcher| batcher.writes.take());
    let Some(mut pending) = taken else { return };
    pending.send();
    BATCHER.with_borrow_mut(|batcher| batcher.writes.reuse(pending));
}

/// Reads what has come.
fn prefetch() {
    for _ in 0..MAX_BATCH {
        let Some(socket) = BATCHER.with_borrow_mut(|batcher| batcher.ready.next()) else { return };
        socket.prefetch();
    }
    // Behind those who run on what was read.
    BATCHER.with_borrow_mut(|batcher| {
        if let Some(task) = batcher.task.as_ref().filter(|_| !batcher.ready.is_empty()) {
            task.wake_by_ref();
        }
    });
}

#[cfg(test)]
mod tests;
