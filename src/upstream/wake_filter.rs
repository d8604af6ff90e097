//! Owns: which wake-ups of an HTTP/1.1 connection reach its task: those of its socket, not those that the task caused.
//! Invariant: a wake-up that hyper requests while it is polled reaches the task, so no pending work is missed.
//! Must not know: requests.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use hyper::rt::{Read, ReadBufCursor, Write};

/// Drops the wake-ups between hyper's two halves. Sending a request, or polling for the next frame of a body, wakes the
/// connection. Here one task does both and polls the connection right afterwards, so each such wake-up would poll it
/// once more for nothing. So the connection gets a waker that only sets a flag, and its socket gets the task's own
/// waker.
pub(super) struct WakeFilter {
    task: Rc<RefCell<Waker>>,
    flag: Arc<WakeFlag>,
    waker: Waker,
}

/// The connection's waker: it sets a flag.
#[derive(Default)]
struct WakeFlag(AtomicBool);

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl WakeFilter {
    pub(super) fn new() -> WakeFilter {
        let flag = Arc::<WakeFlag>::default();
        WakeFilter { task: Rc::new(RefCell::new(Waker::noop().clone())), waker: Arc::clone(&flag).into(), flag }
    }

    /// Wraps a socket so that it wakes the task that polled the connection last, with whichever waker hyper polls the
    /// socket.
    pub(super) fn wrap<I>(&self, io: I) -> FilteredIo<I> {
        FilteredIo { io, task: Rc::clone(&self.task) }
    }

    /// Polls the connection that owns the socket. If hyper requests a wake-up meanwhile (it yields now and then), the
    /// task is woken. A wake-up from before this poll is dropped, since this poll does what it was for.
    pub(super) fn poll<T>(&self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.set_task(cx);
        self.flag.0.store(false, Ordering::Relaxed);
        let result = poll(&mut Context::from_waker(&self.waker));
        if self.flag.0.load(Ordering::Relaxed) {
            cx.waker().wake_by_ref();
        }
        result
    }

    /// Makes the socket wake this task from now on.
    pub(super) fn set_task(&self, cx: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.will_wake(cx.waker()) {
            task.clone_from(cx.waker());
        }
    }
}

/// A socket that wakes the task of a [`WakeFilter`]. See [`WakeFilter::wrap`].
pub(super) struct FilteredIo<I> {
    io: I,
    task: Rc<RefCell<Waker>>,
}

impl<I: Unpin> FilteredIo<I> {
    pub(super) fn into_inner(self) -> I {
        self.io
    }

    fn poll<T>(&mut self, poll: impl FnOnce(Pin<&mut I>, &mut Context<'_>) -> T) -> T {
        poll(Pin::new(&mut self.io), &mut Context::from_waker(&self.task.borrow()))
    }
}

impl<I: Read + Unpin> Read for FilteredIo<I> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.poll(|io, cx| io.poll_read(cx, buf))
    }
}

impl<I: Write + Unpin> Write for FilteredIo<I> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|io, cx| io.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|io, cx| io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|io, cx| io.poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(|io, cx| io.poll_write_vectored(cx, bufs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wake_up_during_a_poll_reaches_the_task() {
        let (filter, task) = (WakeFilter::new(), Arc::<WakeFlag>::default());
        let waker = Waker::from(Arc::clone(&task));
        let cx = &mut Context::from_waker(&waker);
        let inner = filter.poll(cx, |cx| cx.waker().clone());
        inner.wake_by_ref();
        filter.poll(cx, |_| ());
        assert!(!task.0.load(Ordering::Relaxed));
        filter.poll(cx, |cx| cx.waker().wake_by_ref());
        assert!(task.0.load(Ordering::Relaxed));
    }

    #[test]
    fn a_socket_wakes_the_task_that_polled_last() {
        struct PendingRead(Option<Waker>);
        impl Read for PendingRead {
            fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, _: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
                self.0 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
        let filter = WakeFilter::new();
        let mut socket = filter.wrap(PendingRead(None));
        let tasks = [Arc::<WakeFlag>::default(), Arc::default()];
        for task in &tasks {
            let waker = Waker::from(Arc::clone(task));
            let poll = filter.poll(&mut Context::from_waker(&waker), |cx| {
                let mut buffer = [0; 1];
                Pin::new(&mut socket).poll_read(cx, hyper::rt::ReadBuf::new(&mut buffer).unfilled())
            });
            assert!(poll.is_pending());
        }
        socket.io.0.unwrap().wake();
        assert_eq!(tasks.map(|task| task.0.load(Ordering::Relaxed)), [false, true]);
    }
}
