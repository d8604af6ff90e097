//! Owns: how far the body of a request is read ahead of a backend that takes it slowly, over HTTP/1.1.
//! Invariant: hyper holds some KiB and a frame of it; once those are written the body goes on.
//! Must not know: whose body it is; HTTP/2, which has its own measure for each stream.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Bytes that hyper has to write from which on it gets no more: enough that small pieces go out together. By
/// itself it takes 400 KiB, for each server that reads nothing.
const MAX_UNWRITTEN: usize = 4 * 1024;

/// The first bytes of a body, of which it gets as many as come: every socket has room for those to begin with. Linux
/// gives one 16 KiB (`tcp_wmem`), and what it has no room for is held here, once for each request.
const MAX_UNPACED: usize = 16 * 1024;

/// Bytes of a body that go on without a look at the room for them, at the most.
const MAX_ROOM: usize = 256 * 1024;

/// What hyper has to write on one connection.
#[derive(Debug, Default)]
pub(super) struct UploadPacing {
    unwritten: Cell<usize>,
    /// The backend takes nothing at the moment. In TLS there is more that waits for it than hyper has to write.
    is_blocked: Cell<bool>,
    /// The body waits until all of it is written.
    is_body_waiting: Cell<bool>,
    /// Bytes for which the backend's socket had room, less those that hyper was passed since.
    room: Cell<usize>,
}

impl UploadPacing {
    /// So many bytes are written, of a body or else.
    pub(super) fn on_written(&self, bytes: usize) {
        self.unwritten.set(self.unwritten.get().saturating_sub(bytes));
        self.is_blocked.set(false);
    }

    /// The socket has no room for what was to be written.
    pub(super) fn on_blocked(&self) {
        self.is_blocked.set(true);
    }

    /// Nothing is left to be written: the body goes on, if it waits for that, with as much as the backend's socket
    /// has `room` for. It is polled by the task that flushes.
    pub(super) fn on_flushed(&self, cx: &Context<'_>, room: impl FnOnce() -> usize) {
        self.unwritten.set(0);
        self.is_blocked.set(false);
        if self.is_body_waiting.take() {
            self.room.set(room().min(MAX_ROOM));
            cx.waker().wake_by_ref();
        }
    }

    fn on_frame(&self, bytes: usize) {
        self.unwritten.set(self.unwritten.get() + bytes);
        self.room.set(self.room.get().saturating_sub(bytes));
    }

    fn is_ahead(&self, passed: usize) -> bool {
        let is_full = self.room.get() == 0 && self.unwritten.get() >= MAX_UNWRITTEN;
        let is_ahead = passed >= MAX_UNPACED && (is_full || self.is_blocked.get());
        if is_ahead {
            self.is_body_waiting.set(true);
        }
        is_ahead
    }
}

pin_project! {
    /// A body that is passed to hyper no faster than hyper can write it.
    pub(super) struct PacedBody<B> {
        #[pin]
        body: B,
        pacing: Rc<UploadPacing>,
        passed: usize,
    }
}

impl<B> PacedBody<B> {
    pub(super) fn new(body: B, pacing: &Rc<UploadPacing>) -> PacedBody<B> {
        PacedBody { body, pacing: Rc::clone(pacing), passed: 0 }
    }

    pub(super) fn into_inner(self) -> B {
        self.body
    }
}

impl<B: Body> Body for PacedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        if this.pacing.is_ahead(*this.passed) {
            return Poll::Pending;
        }
        let frame = this.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let bytes = frame.data_ref().map_or(0, Buf::remaining);
            *this.passed = this.passed.saturating_add(bytes);
            this.pacing.on_frame(bytes);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::StreamBody;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_body_waits_for_what_was_given_to_be_written_and_then_goes_on() {
        let (pacing, woken) = (Rc::<UploadPacing>::default(), Arc::<Woken>::default());
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        let pieces = [MAX_UNPACED - 1, 1, 1, MAX_UNWRITTEN, 1]
            .map(|length| Ok::<_, ()>(Frame::data(Bytes::from(vec![0; length]))));
        let mut body = PacedBody::new(StreamBody::new(futures_util::stream::iter(pieces)), &pacing);
        let mut goes_on = |cx: &mut Context<'_>| Pin::new(&mut body).poll_frame(cx).is_ready();
        assert!(goes_on(&mut cx) && goes_on(&mut cx), "the first go with the head");
        assert!(!goes_on(&mut cx));
        pacing.on_written(MAX_UNPACED - 1);
        assert!(!woken.0.load(Ordering::Relaxed), "hyper has not written it all");
        pacing.on_flushed(&cx, || 0);
        assert!(woken.0.load(Ordering::Relaxed));
        assert!(goes_on(&mut cx) && goes_on(&mut cx) && !goes_on(&mut cx));
    }
}
