//! Owns: the memory that a thread's HTTP/1.1 connections to backends read into.
//! Invariant: a connection that waits for bytes holds none of it, and what was read takes about as much memory as it has
//! bytes.
//! Must not know: what is read.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// The size of the buffer, in bytes: as many as one read of a socket takes.
const BUFFER_SIZE: usize = 16 * 1024;

/// From this many bytes on, the buffer itself is passed on instead of a copy of its bytes.
const LARGE: usize = BUFFER_SIZE / 4 * 3;

thread_local! {
    /// The buffer that the next read fills. It has no memory while that is in use, or was passed on.
    static BUFFER: Cell<BytesMut> = Cell::default();
}

/// Reads what there is. No bytes at all mean the end.
pub(super) fn poll_read<S: AsyncRead + Unpin>(stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    let mut buffer = BUFFER.take();
    buffer.reserve(BUFFER_SIZE);
    let poll = poll_read_buf(Pin::new(stream), cx, &mut buffer);
    let read = match poll {
        Poll::Ready(Ok(LARGE..)) => return Poll::Ready(Ok(buffer.freeze())),
        Poll::Ready(Ok(_)) => Poll::Ready(Ok(Bytes::copy_from_slice(&buffer))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    };
    buffer.clear();
    BUFFER.set(buffer);
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn what_was_read_is_passed_on_whole_and_the_next_read_has_a_buffer() {
        let cx = &mut Context::from_waker(Waker::noop());
        let input: Vec<u8> = (0..60_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for size in [1, 100, LARGE - 1, LARGE, BUFFER_SIZE] {
            let mut rest = &input[..];
            let mut all = Vec::new();
            loop {
                let mut piece = &rest[..size.min(rest.len())];
                let Poll::Ready(Ok(read)) = poll_read(&mut piece, cx) else { panic!("a slice is always ready") };
                if read.is_empty() {
                    break;
                }
                all.extend_from_slice(&read);
                rest = &rest[read.len()..];
            }
            assert!(all == input, "{size}");
        }
    }
}
