//! Owns: leaving out the empty DATA frames that a backend sends.
//! Invariant: all other bytes pass unchanged and in order; a frame's header costs no read of its own, unless a read ends in
//! it.
//! Must not know: streams, what frames mean otherwise.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The length of a frame's header (RFC 9113 §4.1).
const HEADER: usize = 9;

/// The flag of the last frame of a stream.
const END_STREAM: u8 = 1;

/// A stream whose reader gets no empty DATA frames: after a hundred of them h2 ends the connection, with the responses of
/// all clients that share it, however long it has lived. Some servers send one whenever an application flushes nothing.
pub(super) struct NonemptyFrames<S> {
    stream: S,
    /// The bytes of the current frame that have not been read yet.
    left: usize,
    /// The first bytes of a header in which a read has ended, or a whole header that the reader gets next.
    header: [u8; HEADER],
    header_read: usize,
    /// How many bytes of a whole header the reader has got.
    header_given: usize,
}

impl<S: AsyncRead + Unpin> NonemptyFrames<S> {
    pub(super) fn new(stream: S) -> NonemptyFrames<S> {
        NonemptyFrames { stream, left: 0, header: [0; HEADER], header_read: 0, header_given: 0 }
    }

    /// Reads the rest of a header. Ready with false at the end of the stream.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Some(rest) = self.header.get_mut(self.header_read..) else { return Poll::Ready(Ok(false)) };
        let mut rest = ReadBuf::new(rest);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut rest))?;
        let read = rest.filled().len();
        self.header_read += read;
        if self.header_read == HEADER {
            match is_empty_data(&self.header) {
                true => self.header_read = 0,
                false => self.left = payload(&self.header),
            }
        }
        Poll::Ready(Ok(read > 0))
    }

    /// Removes the empty DATA frames from bytes that were read, and keeps an incomplete header back. Returns how many of the
    /// bytes the reader gets: those are at the beginning.
    fn filter(&mut self, bytes: &mut [u8]) -> usize {
        let (mut from, mut kept) = (0, 0);
        while from < bytes.len() {
            if self.left == 0 {
                let rest = bytes.get(from..).unwrap_or_default();
                let Some(header) = rest.first_chunk::<HEADER>() else {
                    self.header_read = rest.len();
                    self.header.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                    break;
                };
                if is_empty_data(header) {
                    from += HEADER;
                    continue;
                }
                self.left = HEADER + payload(header);
            }
            let part = self.left.min(bytes.len() - from);
            if from != kept {
                bytes.copy_within(from..from + part, kept);
            }
            self.left -= part;
            from += part;
            kept += part;
        }
        kept
    }
}

/// Whether a header is of a DATA frame that has no bytes, and is not the last of its stream. Padding counts as bytes: it takes
/// from the peer's window.
fn is_empty_data(header: &[u8; HEADER]) -> bool {
    let [_, _, _, kind, flags, ..] = *header;
    payload(header) == 0 && kind == 0 && flags & END_STREAM == 0
}

fn payload(header: &[u8; HEADER]) -> usize {
    let [high, middle, low, ..] = header.map(usize::from);
    (high << 16) | (middle << 8) | low
}

impl<S: AsyncRead + Unpin> AsyncRead for NonemptyFrames<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.header_read == HEADER {
                let rest = self.header.get(self.header_given..).unwrap_or_default();
                let part = rest.get(..buffer.remaining()).unwrap_or(rest);
                buffer.put_slice(part);
                self.header_given += part.len();
                if self.header_given == HEADER {
                    (self.header_read, self.header_given) = (0, 0);
                }
                return Poll::Ready(Ok(()));
            }
            if self.header_read > 0 {
                if !ready!(self.poll_header(cx))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            let read = buffer.filled_mut().get_mut(before..).unwrap_or_default();
            let is_end = read.is_empty();
            let kept = self.filter(read);
            buffer.set_filled(before + kept);
            // No bytes would mean the end of the stream.
            if kept > 0 || is_end {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NonemptyFrames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Gives its bytes in reads of these lengths, again and again.
    struct Pieces(Vec<u8>, Vec<usize>, usize);

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.2 += 1;
            let length = self.1[self.2 % self.1.len()].min(self.0.len()).min(buffer.remaining());
            buffer.put_slice(&self.0[..length]);
            self.0.drain(..length);
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn only_empty_data_frames_are_left_out_wherever_reads_end(
            frames in proptest::collection::vec((prop_oneof![Just(0_usize), 1_usize..40], 0_u8..3, 0_u8..3), 0..20),
            reads in proptest::collection::vec(1_usize..50, 1..5),
            rooms in proptest::collection::vec(1_usize..50, 1..5),
        ) {
            let (mut all, mut expected) = (Vec::new(), Vec::new());
            for (length, kind, flags) in frames {
                let head = [&u32::try_from(length).unwrap().to_be_bytes()[1..], &[kind, flags], &[0, 0, 0, 1]].concat();
                let frame = [head, vec![kind; length]].concat();
                all.extend_from_slice(&frame);
                if length > 0 || kind != 0 || flags == 1 {
                    expected.extend_from_slice(&frame);
                }
            }
            let mut frames = NonemptyFrames::new(Pieces(all, reads, 0));
            let mut read = Vec::new();
            for room in rooms.iter().cycle() {
                let mut bytes = vec![0; *room];
                let mut buffer = ReadBuf::new(&mut bytes);
                let poll = Pin::new(&mut frames).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
                prop_assert!(matches!(poll, Poll::Ready(Ok(()))));
                if buffer.filled().is_empty() {
                    break;
                }
                read.extend_from_slice(buffer.filled());
            }
            prop_assert_eq!(read, expected);
        }
    }

    #[tokio::test]
    async fn h2_reads_a_response_with_any_number_of_empty_frames() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let backend = async {
            far.read_exact(&mut [0; 24]).await.unwrap();
            // SETTINGS, the head `:status: 200`, empty DATA, and DATA that ends the stream.
            let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
                [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
            };
            far.write_all(&frame(4, 0, 0, b"")).await.unwrap();
            far.write_all(&frame(1, 4, 1, &[0x88])).await.unwrap();
            far.write_all(&frame(0, 0, 1, b"").repeat(1000)).await.unwrap();
            far.write_all(&frame(0, END_STREAM, 1, b"x")).await.unwrap();
            std::future::pending::<()>().await;
        };
        let client = async {
            let handshake = h2::client::handshake(NonemptyFrames::new(near));
            let (mut sender, mut connection) = handshake.await.unwrap();
            let response = sender.send_request(http::Request::new(()), true).unwrap().0;
            let mut body = pin!(async { response.await?.into_body().data().await.transpose() });
            poll_fn(|cx| {
                let end = Pin::new(&mut connection).poll(cx);
                assert!(end.is_pending(), "{end:?}");
                body.as_mut().poll(cx)
            })
            .await
        };
        tokio::select! {
            body = client => assert_eq!(body.unwrap(), Some(Bytes::from_static(b"x"))),
            () = backend => {}
        }
    }
}
