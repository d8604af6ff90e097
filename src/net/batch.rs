//! Owns: the batching of a thread's socket I/O: in each event-loop iteration it reads, lets tasks run, and then writes.
//! Invariant: the bytes of a socket keep their order; only small writes are delayed, by at most one iteration.
//! Must not know: what the bytes mean; how a socket reads and writes.

pub(super) mod batched_socket;
mod ready;
pub(super) mod waker;
mod writes;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Poll, Waker};

use batched_socket::{BatchedSocket, MAX_BATCH};
use ready::ReadyQueue;
use writes::WriteQueue;

thread_local! {
    static BATCHER: RefCell<Batcher> =
        const { RefCell::new(Batcher { task: None, ready: ReadyQueue::new(), writes: WriteQueue::new() }) };
}

/// Batches the reads and writes of a thread's sockets.
///
/// The kernel's code for one packet fills a core's instruction cache, and so does our code for one request. A task that
/// reads, works and writes runs them one after the other for each request, and finds none of them in the cache. So
/// an iteration reads all ready sockets, then runs all tasks, then writes everything: only the first socket finds
/// the cache cold. A socket that is ready alone waits for no other.
struct Batcher {
    /// Wakes the task that runs [`run_batcher`]. Without it each socket reads and writes on its own.
    task: Option<Waker>,
    ready: ReadyQueue,
    writes: WriteQueue,
}

/// Reads and writes for all sockets of this thread, for as long as it is polled.
///
/// The event loop runs tasks in the order in which they were woken. Sockets wake this task before it wakes their
/// readers, so it runs before them. These readers wake it again by what they write, so it runs again after them.
pub async fn run_batcher() {
    struct Running;
    impl Drop for Running {
        fn drop(&mut self) {
            let registered = BATCHER.with_borrow_mut(|batcher| {
                batcher.task = None;
                batcher.ready.registered()
            });
            registered.iter().for_each(|socket| socket.wake_reader());
            flush();
        }
    }
    let _running = Running;
    poll_fn(|cx| {
        BATCHER
            .with_borrow_mut(|batcher| batcher.task.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker()));
        prefetch();
        flush();
        Poll::Pending
    })
    .await
}

/// Queues `pieces`, which have `length` bytes together, to be written when this event-loop iteration ends. Returns
/// false if the socket has to write them itself: they are too long, or no batcher runs.
pub(super) fn queue<S: BatchedSocket + 'static>(socket: &Rc<S>, pieces: &[IoSlice<'_>], length: usize) -> bool {
    if length > writes::MAX_WRITE {
        return false;
    }
    let is_full = BATCHER.with_borrow_mut(|batcher| {
        let task = batcher.task.as_ref()?;
        if batcher.writes.is_empty() {
            task.wake_by_ref();
        }
        let socket: Rc<dyn BatchedSocket> = Rc::clone(socket) as _;
        Some(batcher.writes.push(socket, pieces, length))
    });
    if is_full == Some(true) {
        flush();
    }
    is_full.is_some()
}

/// Writes everything that is queued on this thread.
pub(super) fn flush() {
    // The queue is taken out meanwhile: a write may wake a task or drop a socket, and either may use the batcher.
    let taken = BATCHER.with_borrow_mut(|batcher| batcher.writes.take());
    let Some(mut writes) = taken else { return };
    writes.write_all();
    BATCHER.with_borrow_mut(|batcher| batcher.writes.reuse(writes));
}

/// Reads the sockets that are ready.
fn prefetch() {
    for _ in 0..MAX_BATCH {
        let Some(socket) = BATCHER.with_borrow_mut(|batcher| batcher.ready.pop()) else { return };
        socket.prefetch();
    }
    // The rest comes after the tasks that have something to read now.
    BATCHER.with_borrow_mut(|batcher| {
        if let Some(task) = batcher.task.as_ref().filter(|_| !batcher.ready.is_empty()) {
            task.wake_by_ref();
        }
    });
}

#[cfg(test)]
mod tests;
