//! Owns: a response's body on its way through hyper or h2: how much of it was written, and how it fails.
//! Invariant: they learn of a body's error only after all data before the error has been flushed.
//! Must not know: what the body contains, or why it fails.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::activity::{Activity, RequestGuard};
use super::backlog::StreamBacklog;
use crate::handler::ResponseContent;
use crate::http2::{PacedBody, Piece};

/// A response's body, which keeps its connection busy until the body ends.
///
/// When a body fails, hyper and h2 drop what they have buffered, the head of the response too. If a response failed early,
/// the client would receive not one byte of it, and browsers resend a request, even a POST, when a reused connection
/// closes without a byte. So this type holds back the error of a body until all data before the error has been
/// flushed.
pub(super) struct TrackedBody<B: ResponseContent> {
    body: B,
    guard: Option<RequestGuard>,
    /// On a stream of HTTP/2: records since when the client accepts no data.
    stream: Option<Rc<StreamBacklog>>,
    /// The connection's count of flushes when the last part of this response was given to hyper or h2: at first, its head.
    flushes: u64,
    given: u64,
    held_error: Option<B::Error>,
}

impl<B: ResponseContent> TrackedBody<B> {
    pub(super) fn new(body: B, guard: Option<RequestGuard>, stream: Option<Rc<StreamBacklog>>) -> TrackedBody<B> {
        let flushes = guard.as_ref().map_or(0, |guard| guard.activity().flushes());
        TrackedBody { body, guard, stream, flushes, given: 0, held_error: None }
    }

    fn counter(&self) -> Option<Counter> {
        match &self.stream {
            Some(stream) => Some(Counter::Stream(Rc::clone(stream))),
            None => self.guard.as_ref().map(|guard| Counter::Connection(Rc::clone(guard.activity()))),
        }
    }

    /// Returns whether hyper or h2 has enough to write. If so, the task is woken when the body may continue.
    fn must_wait(&self, cx: &Context<'_>) -> bool {
        match &self.stream {
            Some(stream) => stream.must_wait(self.given, cx),
            None => self.guard.as_ref().is_some_and(|guard| {
                let activity = guard.activity();
                activity.pacing().must_wait(self.given, activity.is_blocked(), self.body.is_windowed())
            }),
        }
    }

    /// Returns whether all data that hyper or h2 was given has been flushed. If not, the task is woken after the next flush.
    fn is_flushed(&self, cx: &Context<'_>) -> bool {
        let Some(guard) = &self.guard else { return true };
        // On a stream, a flush leaves out what exceeds the flow-control window.
        let waits_for_window = self.stream.as_ref().is_some_and(|stream| stream.unsent() > 0);
        let is_flushed = guard.activity().flushes() != self.flushes && !waits_for_window;
        if !is_flushed {
            guard.activity().body_fails(cx.waker());
        }
        is_flushed
    }
}

impl<B: ResponseContent + Unpin> Body for TrackedBody<B>
where
    B::Error: Unpin,
{
    type Data = CountedChunk;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<CountedChunk>, B::Error>>> {
        if self.must_wait(cx) {
            self.body.hold(cx);
            return Poll::Pending;
        }
        if self.held_error.is_none() {
            let frame = Pin::new(&mut self.body).poll_frame(cx);
            if let Some(stream) = &self.stream {
                stream.polled(frame.is_ready());
            }
            match std::task::ready!(frame) {
                Some(Err(error)) => self.held_error = Some(error),
                None => return Poll::Ready(None),
                Some(Ok(frame)) => {
                    self.flushes = self.guard.as_ref().map_or(0, |guard| guard.activity().flushes());
                    self.given += frame.data_ref().map_or(0, |data| data.len() as u64);
                    let counter = self.counter();
                    return Poll::Ready(Some(Ok(frame.map_data(|bytes| CountedChunk::new(bytes, counter)))));
                }
            }
        }
        if !self.is_flushed(cx) {
            return Poll::Pending;
        }
        Poll::Ready(self.held_error.take().map(Err))
    }

    fn is_end_stream(&self) -> bool {
        self.held_error.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: ResponseContent + Unpin> PacedBody for TrackedBody<B>
where
    B::Error: Unpin,
{
    fn hold(&mut self, cx: &mut Context<'_>) {
        self.body.hold(cx);
    }
}

impl<B: ResponseContent> Drop for TrackedBody<B> {
    fn drop(&mut self) {
        // A body that has ended is dropped before its last data is flushed: nothing is lost then.
        if !self.body.is_end_stream()
            && let Some(unsent @ 1..) = self.counter().map(|counter| counter.unsent())
        {
            self.body.abort(unsent.min(self.given));
        }
    }
}

/// A chunk of a body, whose bytes count as unsent until they are written.
#[derive(Default)]
pub(super) struct CountedChunk {
    bytes: Bytes,
    counter: Option<Counter>,
}

/// Where unsent bytes are counted.
#[derive(Clone)]
enum Counter {
    /// On HTTP/1: a connection has one response at a time.
    Connection(Rc<Activity>),
    /// On HTTP/2: for each stream.
    Stream(Rc<StreamBacklog>),
}

impl Counter {
    fn unsent(&self) -> u64 {
        match self {
            Counter::Connection(activity) => activity.pacing().unwritten(),
            Counter::Stream(stream) => stream.unsent(),
        }
    }
}

impl CountedChunk {
    fn new(bytes: Bytes, counter: Option<Counter>) -> CountedChunk {
        let length = bytes.len() as u64;
        match &counter {
            Some(Counter::Connection(activity)) => activity.pacing().queued(length),
            Some(Counter::Stream(stream)) => stream.queued(length),
            None => {}
        }
        CountedChunk { bytes, counter }
    }
}

impl Buf for CountedChunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        match &self.counter {
            Some(Counter::Connection(activity)) => activity.pacing().written(count as u64),
            Some(Counter::Stream(stream)) => stream.written(count as u64),
            None => {}
        }
    }
}

impl Piece for CountedChunk {
    fn split_to(&mut self, length: usize) -> CountedChunk {
        CountedChunk { bytes: self.bytes.split_to(length), counter: self.counter.clone() }
    }
}

/// Bytes that count nowhere.
impl From<Bytes> for CountedChunk {
    fn from(bytes: Bytes) -> CountedChunk {
        CountedChunk { bytes, counter: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::task::Waker;

    /// A body of ten bytes and an error, which records how many bytes were discarded.
    struct FailingBody(Option<Bytes>, Rc<Cell<u64>>);

    impl Body for FailingBody {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(Some(self.0.take().map(Frame::data).ok_or("the body fails")))
        }
    }

    impl PacedBody for FailingBody {}

    impl ResponseContent for FailingBody {
        fn has_read_request(&self) -> bool {
            true
        }

        fn abort(&mut self, bytes: u64) {
            self.1.set(bytes);
        }
    }

    #[test]
    fn bytes_that_hyper_holds_when_a_body_is_dropped_count_as_unsent() {
        for (written, unsent) in [(0, 10), (4, 6), (10, 0)] {
            let reported = Rc::new(Cell::new(0));
            let body = FailingBody(Some(Bytes::from_static(b"ten bytes.")), Rc::clone(&reported));
            let mut tracked = TrackedBody::new(body, None, Some(Rc::default()));
            let cx = &mut Context::from_waker(Waker::noop());
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut tracked).poll_frame(cx) else { panic!("a frame") };
            let Ok(mut chunk) = frame.into_data() else { panic!("data") };
            chunk.advance(written);
            drop((chunk, tracked));
            assert_eq!(reported.get(), unsent, "{written} bytes were written");
        }
    }
}
