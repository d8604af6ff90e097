//! Owns: a response's body on its way through hyper: how much of it was written, and how it fails.
//! Invariant: hyper learns of a body's error only after all data before the error has been flushed.
//! Must not know: what the body contains, or why it fails.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::activity::{Activity, RequestGuard, Stall};
use crate::handler::ResponseContent;

/// A response's body, which keeps its connection busy until the body ends.
///
/// When a body fails, hyper drops what it has buffered, the head of the response too. If a response failed early, the
/// client would receive not one byte of it, and browsers resend a request, even a POST, when a reused connection
/// closes without a byte. So this type holds back the error of a body until all data before the error has been
/// flushed.
pub(super) struct TrackedBody<B: ResponseContent> {
    body: B,
    busy: Option<RequestGuard>,
    /// On a stream of HTTP/2: records since when the client accepts no data.
    stall: Option<Rc<Stall>>,
    /// The connection's count of flushes when hyper last received something of this response: at first, its head.
    flushes: u64,
    given: u64,
    held_error: Option<B::Error>,
}

impl<B: ResponseContent> TrackedBody<B> {
    pub(super) fn new(body: B, busy: Option<RequestGuard>, stall: Option<Rc<Stall>>) -> TrackedBody<B> {
        let flushes = busy.as_ref().map_or(0, |busy| busy.activity().flushes());
        TrackedBody { body, busy, stall, flushes, given: 0, held_error: None }
    }

    fn account(&self) -> Option<Account> {
        match &self.stall {
            Some(stall) => Some(Account::Stream(Rc::clone(stall))),
            None => self.busy.as_ref().map(|busy| Account::Connection(Rc::clone(busy.activity()))),
        }
    }

    /// Returns whether hyper has enough to write for now. If so, the task is woken when the body may continue.
    fn is_ahead(&self, cx: &Context<'_>) -> bool {
        match &self.stall {
            Some(stall) => stall.is_ahead(self.given, cx),
            None => self.busy.as_ref().is_some_and(|busy| busy.activity().is_ahead(self.given)),
        }
    }

    /// Returns whether all data that hyper received has been flushed. If not, the task is woken after the next flush.
    fn has_left(&self, cx: &Context<'_>) -> bool {
        let Some(busy) = &self.busy else { return true };
        // On a stream, a flush leaves out what exceeds the flow-control window.
        let waits_for_window = self.stall.as_ref().is_some_and(|stall| stall.unsent() > 0);
        let has_left = busy.activity().flushes() != self.flushes && !waits_for_window;
        if !has_left {
            busy.activity().breaks_off(cx.waker());
        }
        has_left
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
        if self.is_ahead(cx) {
            return Poll::Pending;
        }
        if self.held_error.is_none() {
            let frame = Pin::new(&mut self.body).poll_frame(cx);
            if let Some(stall) = &self.stall {
                stall.note(frame.is_ready());
            }
            match std::task::ready!(frame) {
                Some(Err(error)) => self.held_error = Some(error),
                None => return Poll::Ready(None),
                Some(Ok(frame)) => {
                    self.flushes = self.busy.as_ref().map_or(0, |busy| busy.activity().flushes());
                    self.given += frame.data_ref().map_or(0, |data| data.len() as u64);
                    let account = self.account();
                    return Poll::Ready(Some(Ok(frame.map_data(|bytes| CountedChunk::new(bytes, account)))));
                }
            }
        }
        if !self.has_left(cx) {
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

impl<B: ResponseContent> Drop for TrackedBody<B> {
    fn drop(&mut self) {
        // hyper drops a body that has ended before it flushes the last data: nothing is lost then.
        if !self.body.is_end_stream()
            && let Some(unsent @ 1..) = self.account().map(|account| account.unsent())
        {
            self.body.abort(unsent.min(self.given));
        }
    }
}

/// A chunk of a body, whose bytes count as unsent until hyper has written them.
pub(super) struct CountedChunk {
    bytes: Bytes,
    account: Option<Account>,
}

/// Where unsent bytes are counted.
enum Account {
    /// On HTTP/1: a connection has one response at a time.
    Connection(Rc<Activity>),
    /// On HTTP/2: for each stream.
    Stream(Rc<Stall>),
}

impl Account {
    fn unsent(&self) -> u64 {
        match self {
            Account::Connection(activity) => activity.unsent(),
            Account::Stream(stall) => stall.unsent(),
        }
    }
}

impl CountedChunk {
    fn new(bytes: Bytes, account: Option<Account>) -> CountedChunk {
        let length = bytes.len() as u64;
        match &account {
            Some(Account::Connection(activity)) => activity.gave(length),
            Some(Account::Stream(stall)) => stall.gave(length),
            None => {}
        }
        CountedChunk { bytes, account }
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
        match &self.account {
            Some(Account::Connection(activity)) => activity.wrote(count as u64),
            Some(Account::Stream(stall)) => stall.wrote(count as u64),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::task::Waker;

    /// A body of ten bytes and an error, which records how many bytes were discarded.
    struct Breaks(Option<Bytes>, Rc<Cell<u64>>);

    impl Body for Breaks {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(Some(self.0.take().map(Frame::data).ok_or("the body fails")))
        }
    }

    impl ResponseContent for Breaks {
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
            let body = Breaks(Some(Bytes::from_static(b"ten bytes.")), Rc::clone(&reported));
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
