//! Owns: how far hyper reads a request body ahead of a backend that reads slowly, over HTTP/1.1.
//! Invariant: hyper holds a few KiB of the body and one frame; once they are written, the body continues.
//! Must not know: whose body it is; HTTP/2, which has flow control for each stream.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::net::body_pacing::BodyPacing;

/// What hyper still has to write on one connection.
#[derive(Debug, Default)]
pub(super) struct UploadPacing {
    body: BodyPacing,
    /// Whether the socket takes nothing at the moment.
    is_blocked: Cell<bool>,
}

impl UploadPacing {
    /// Notes that `bytes` bytes were written, whether of a body or not.
    pub(super) fn on_written(&self, bytes: usize) {
        self.body.written(bytes as u64);
        self.is_blocked.set(false);
    }

    /// Notes that the socket has no room.
    pub(super) fn on_blocked(&self) {
        self.is_blocked.set(true);
    }

    /// Notes that nothing is left to write. If the body waits for this, it continues with as many bytes as the
    /// backend's socket has `space` for. The task that flushes polls the body.
    pub(super) fn on_flushed(&self, cx: &Context<'_>, space: impl FnOnce() -> usize) {
        self.body.all_written();
        self.is_blocked.set(false);
        if self.body.resume(space) {
            cx.waker().wake_by_ref();
        }
    }
}

pin_project! {
    /// A request body that hyper gets no faster than it can write it.
    pub(super) struct PacedBody<B> {
        #[pin]
        body: B,
        pacing: Rc<UploadPacing>,
        passed: u64,
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
        if this.pacing.body.must_wait(*this.passed, this.pacing.is_blocked.get()) {
            return Poll::Pending;
        }
        let frame = this.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let bytes = frame.data_ref().map_or(0, Buf::remaining) as u64;
            *this.passed = this.passed.saturating_add(bytes);
            this.pacing.body.queued(bytes);
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

    use crate::net::body_pacing::{INITIAL_BYTES, MAX_UNWRITTEN};

    const INITIAL: usize = INITIAL_BYTES as usize;
    const UNWRITTEN: usize = MAX_UNWRITTEN as usize;

    #[derive(Default)]
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_body_waits_until_hyper_has_written_its_frames_and_then_continues() {
        let (pacing, woken) = (Rc::<UploadPacing>::default(), Arc::<Woken>::default());
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        let pieces =
            [INITIAL - 1, 1, 1, UNWRITTEN, 1].map(|length| Ok::<_, ()>(Frame::data(Bytes::from(vec![0; length]))));
        let mut body = PacedBody::new(StreamBody::new(futures_util::stream::iter(pieces)), &pacing);
        let mut continues = |cx: &mut Context<'_>| Pin::new(&mut body).poll_frame(cx).is_ready();
        assert!(continues(&mut cx) && continues(&mut cx), "the first bytes are sent with the header section");
        assert!(!continues(&mut cx));
        pacing.on_written(INITIAL - 1);
        assert!(!woken.0.load(Ordering::Relaxed), "hyper has not written it all");
        pacing.on_flushed(&cx, || 0);
        assert!(woken.0.load(Ordering::Relaxed));
        assert!(continues(&mut cx) && continues(&mut cx) && !continues(&mut cx));
    }
}
