//! Owns: a response's body on its way out through hyper: what of it has left, and how it breaks off.
//! Invariant: the break of a body is reported to hyper only when all that came before it has been flushed.
//! Must not know: what is sent, or why it breaks off.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::activity::{Activity, RequestGuard, Stall};
use crate::handler::ResponseContent;

/// A response's body that keeps its connection busy until it ends.
///
/// hyper drops what it has buffered, the head of the response too, when a body fails: the client of an
/// answer that breaks off early would get not one byte of it, and browsers send a request again, a POST
/// too, account kept connection ended without a byte. So the error of a body is held back until
/// what came before it has been flushed.
pub(super) struct TrackedBody<B: ResponseContent> {
    body: B,
    busy: Option<RequestGuard>,
    /// On a stream of HTTP/2: where it is noted that the client doesn't take what there is.
    stall: Option<Rc<Stall>>,
    /// How often the connection had been flushed when hyper was given something last: the head, at first.
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

    /// Whether hyper has enough to write. Wakes the task when it is time to go on.
    fn is_ahead(&self, cx: &Context<'_>) -> bool {
        match &self.stall {
            Some(stall) => stall.is_ahead(self.given, cx),
            None => self.busy.as_ref().is_some_and(|busy| busy.activity().is_ahead(self.given)),
        }
    }

    /// Whether all that hyper was given has been flushed. Wakes the task when it is time to look again.
    fn has_left(&self, cx: &Context<'_>) -> bool {
        let Some(busy) = &self.busy else { return true };
        // On a stream a flush can have left out what its window has no room for.
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
        // hyper lets a body go that has come to its end before it has flushed it.
        if !self.body.is_end_stream()
            && let Some(unsent @ 1..) = self.account().map(|account| account.unsent())
        {
            self.body.abort(unsent.min(self.given));
        }
    }
}

/// A part of a body, which counts as unsent for as long as hyper holds it.
pub(super) struct CountedChunk {
    bytes: Bytes,
    account: Option<Account>,
}

/// Where it is counted.
enum Account {
    /// On HTTP/1, with all that there is of one response.
    Connection(Rc<Activity>),
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

    /// A body of ten bytes and an error, which notes what is lost of it.
    struct Breaks(Option<Bytes>, Rc<Cell<u64>>);

    impl Body for Breaks {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(Some(self.0.take().map(Frame::data).ok_or("it breaks off")))
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
    fn what_hyper_holds_when_a_body_is_given_up_has_not_left() {
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
