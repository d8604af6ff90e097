//! Owns: the queues in which interim responses wait until they may be sent to the client.
//! Invariant: a response is queued and sent whole; the queues are bounded.
//! Must not know: what an interim response says; who sends it, and when.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Poll, ready};

use http::Response;

/// The most bytes that wait. A response that doesn't fit is dropped, as RFC 9110 §15.2 lets a proxy do.
const MAX_BYTES: usize = 16 * 1024;

/// The interim responses (RFC 9110 §15.2) that wait to be written on one connection of HTTP/1.1.
#[derive(Debug, Default)]
pub struct InterimQueue {
    bytes: RefCell<Vec<u8>>,
}

impl InterimQueue {
    /// Queues one whole interim response, or drops it if it doesn't fit. Returns whether it was queued.
    pub fn push(&self, response: &[u8]) -> bool {
        let mut bytes = self.bytes.borrow_mut();
        let fits = bytes.len() + response.len() <= MAX_BYTES;
        if fits {
            bytes.extend_from_slice(response);
        }
        fits
    }

    /// Writes everything that waits with `write`, which returns how many bytes it took.
    ///
    /// # Errors
    /// The error of `write`, and [`io::ErrorKind::WriteZero`] if it takes nothing.
    pub fn poll_drain(&self, mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>) -> Poll<io::Result<()>> {
        let mut bytes = self.bytes.borrow_mut();
        while !bytes.is_empty() {
            match ready!(write(&bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(bytes.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Drops everything that waits. Not to be called once a response was written in part.
    pub fn clear(&self) {
        self.bytes.borrow_mut().clear();
    }
}

/// The interim responses to one request over HTTP/2.
#[derive(Debug, Default)]
pub struct StreamInterim {
    waiting: RefCell<Vec<Response<()>>>,
    /// The bytes of all so far: nothing says when h2 has written them.
    bytes: Cell<usize>,
}

impl StreamInterim {
    /// Queues an interim response, or drops it if the request then had more than 16 KiB of them.
    pub fn push(&self, response: Response<()>) {
        let fields = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
        let bytes = self.bytes.get().saturating_add(fields.sum());
        if bytes <= MAX_BYTES {
            self.bytes.set(bytes);
            self.waiting.borrow_mut().push(response);
        }
    }

    /// Takes those that wait.
    pub fn take(&self) -> Vec<Response<()>> {
        self.waiting.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queued_responses_are_written_whole_and_in_order_even_a_byte_at_a_time() {
        let queue = InterimQueue::default();
        assert!(queue.push(b"one") && queue.push(b"two"));
        let mut written = Vec::new();
        let mut calls = 0;
        while queue
            .poll_drain(|bytes| {
                calls += 1;
                if calls % 2 == 0 {
                    return Poll::Pending;
                }
                written.push(bytes[0]);
                Poll::Ready(Ok(1))
            })
            .is_pending()
        {}
        assert_eq!(written, b"onetwo");
        assert!(queue.poll_drain(|_| panic!("nothing waits")).is_ready());
    }

    #[test]
    fn a_request_over_http_2_has_a_bounded_number_of_bytes_of_interim_responses() {
        let interim = StreamInterim::default();
        let response = |bytes| Response::builder().status(103).header("link", "x".repeat(bytes)).body(()).unwrap();
        interim.push(response(MAX_BYTES));
        interim.push(response(1000));
        assert_eq!(interim.take().len(), 1, "the first one does not fit");
        interim.push(response(MAX_BYTES - 1100));
        interim.push(response(1));
        assert_eq!(interim.take().len(), 1, "what was taken counts");
    }

    #[test]
    fn a_response_that_does_not_fit_is_dropped_and_so_are_cleared_ones() {
        let queue = InterimQueue::default();
        assert!(!queue.push(&[b'x'; MAX_BYTES + 1]));
        assert!(queue.push(&[b'x'; MAX_BYTES]));
        assert!(!queue.push(b"y"));
        queue.clear();
        assert!(queue.poll_drain(|_| panic!("nothing waits")).is_ready());
        assert!(queue.push(b"z"));
        let error = queue.poll_drain(|_| Poll::Ready(Ok(0)));
        assert!(matches!(error, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::WriteZero));
    }
}
