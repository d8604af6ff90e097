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
const AHEAD: usize = 4 * 1024;

/// The first bytes of a body, of which it gets as many as come: every socket has room for those to begin with. Linux
/// gives one 16 KiB (`tcp_wmem`), and what it has no room for is held here, once for each request.
const FIRST: usize = 16 * 1024;

/// Bytes of a body that go on without a look at the room for them, at the most.
const MOST_AT_ONCE: usize = 256 * 1024;

/// What hyper has to write on one connection.
#[derive(Debug, Default)]
pub(super) struct Pace {
    unwritten: Cell<usize>,
    /// The backend takes nothing at the moment. In TLS there is more that waits for it than hyper has to write.
    is_blocked: Cell<bool>,
    /// The body waits until all of it is written.
    waits: Cell<bool>,
    /// Bytes for which the backend's socket had room, less those that hyper was given since.
    room: Cell<usize>,
}

impl Pace {
    /// So many bytes are written, of a body or else.
    pub(super) fn wrote(&self, bytes: usize) {
        self.unwritten.set(self.unwritten.get().saturating_sub(bytes));
        self.is_blocked.set(false);
    }

    /// The socket has no room for what was to be written.
    pub(super) fn blocked(&self) {
        self.is_blocked.set(true);
    }

    /// Nothing is left to be written: the body goes on, if it waits for that, with as much as the backend's socket
    /// has `room` for. It is polled by the task that flushes.
    pub(super) fn flushed(&self, cx: &Context<'_>, room: impl FnOnce() -> usize) {
        self.unwritten.set(0);
        self.is_blocked.set(false);
        if self.waits.take() {
            self.room.set(room().min(MOST_AT_ONCE));
            cx.waker().wake_by_ref();
        }
    }

    fn gave(&self, bytes: usize) {
        self.unwritten.set(self.unwritten.get() + bytes);
        self.room.set(self.room.get().saturating_sub(bytes));
    }

    fn is_ahead(&self, given: usize) -> bool {
        let is_full = self.room.get() == 0 && self.unwritten.get() >= AHEAD;
        let is_ahead = given >= FIRST && (is_full || self.is_blocked.get());
        if is_ahead {
            self.waits.set(true);
        }
        is_ahead
    }
}

pin_project! {
    /// A body that is given to hyper no faster than hyper can write it.
    pub(super) struct Paced<B> {
        #[pin]
        body: B,
        pace: Rc<Pace>,
        given: usize,
    }
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, pace: &Rc<Pace>) -> Paced<B> {
        Paced { body, pace: Rc::clone(pace), given: 0 }
    }

    pub(super) fn into_inner(self) -> B {
        self.body
    }
}

impl<B: Body> Body for Paced<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        if this.pace.is_ahead(*this.given) {
            return Poll::Pending;
        }
        let frame = this.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let bytes = frame.data_ref().map_or(0, Buf::remaining);
            *this.given = this.given.saturating_add(bytes);
            this.pace.gave(bytes);
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
        let (pace, woken) = (Rc::<Pace>::default(), Arc::<Woken>::default());
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        let pieces = [FIRST - 1, 1, 1, AHEAD, 1].map(|length| Ok::<_, ()>(Frame::data(Bytes::from(vec![0; length]))));
        let mut body = Paced::new(StreamBody::new(futures_util::stream::iter(pieces)), &pace);
        let mut goes_on = |cx: &mut Context<'_>| Pin::new(&mut body).poll_frame(cx).is_ready();
        assert!(goes_on(&mut cx) && goes_on(&mut cx), "the first go with the head");
        assert!(!goes_on(&mut cx));
        pace.wrote(FIRST - 1);
        assert!(!woken.0.load(Ordering::Relaxed), "hyper has not written it all");
        pace.flushed(&cx, || 0);
        assert!(woken.0.load(Ordering::Relaxed));
        assert!(goes_on(&mut cx) && goes_on(&mut cx) && !goes_on(&mut cx));
    }
}
