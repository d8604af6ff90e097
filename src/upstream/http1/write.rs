//! Owns: sending one request: its header section, and its body at the pace of the backend.
//! Invariant: one piece of the body is held at most, and it is written only once all before it has been flushed.
//! Must not know: responses.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::encode::{BodyEncoder, WrongLength, encode_head};
use crate::upstream::outgoing::RequestHead;

/// The most memory that is kept for the next header section, in bytes.
const MAX_SCRATCH: usize = 16 * 1024;

thread_local! {
    /// Memory for the next header section: mostly it is written at once.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Why a request can't be sent.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Its body failed, or hasn't the length that was announced.
    Body,
    /// The connection failed.
    Io(io::Error),
}

/// A request on its way.
pub(super) struct RequestWriter<B> {
    /// `None` once it has ended.
    body: Option<(B, BodyEncoder)>,
    /// What comes before `data`: the header section, the size of a chunk, the end of a body. `prefix_written` bytes of
    /// it were written.
    prefix: Vec<u8>,
    prefix_written: usize,
    /// A piece of the body, and what follows it.
    data: Bytes,
    suffix: &'static [u8],
}

impl<B: Body<Data = Bytes> + Unpin> RequestWriter<B> {
    pub(super) fn new(head: &RequestHead<'_>, body: B) -> RequestWriter<B> {
        let mut prefix = SCRATCH.take();
        let (is_empty, length) = (body.is_end_stream(), body.size_hint().exact());
        let encoder = encode_head(head, is_empty, length, &mut prefix);
        let body = encoder.filter(|encoder| !encoder.is_complete()).map(|encoder| (body, encoder));
        RequestWriter { body, prefix, prefix_written: 0, data: Bytes::new(), suffix: &[] }
    }

    /// Writes as much as the stream takes and the body has. Ready once the whole request was written and flushed.
    ///
    /// # Errors
    /// Why the rest of the request can't be sent.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WriteError>> {
        loop {
            // The header section is written together with the beginning of the body, if that is there. Whether the
            // client has more to send has to be known even while the backend takes nothing: it decides which of them is
            // waited for.
            let waits_for_body = self.data.is_empty()
                && self.suffix.is_empty()
                && self.body.is_some()
                && self.poll_body(cx)?.is_pending();
            // TLS buffers what the socket doesn't take.
            ready!(Pin::new(&mut *stream).poll_flush(cx)).map_err(WriteError::Io)?;
            if !self.is_written() {
                ready!(self.poll_write(stream, cx)).map_err(WriteError::Io)?;
            } else if self.body.is_none() {
                return Poll::Ready(Ok(()));
            } else if waits_for_body {
                return Poll::Pending;
            }
        }
    }

    /// Takes the next piece out of the body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, WriteError> {
        let Some((body, encoder)) = &mut self.body else { return Ok(Poll::Ready(())) };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else { return Ok(Poll::Pending) };
        if self.prefix.is_empty() {
            self.prefix = SCRATCH.take();
        }
        let wrong_length = |_: WrongLength| WriteError::Body;
        let has_ended = match frame.transpose().map_err(|_| WriteError::Body)?.map(Frame::into_data) {
            Some(Ok(data)) if data.is_empty() => return Ok(Poll::Ready(())),
            Some(Ok(data)) => {
                let is_last = body.is_end_stream();
                self.suffix = encoder.encode(&data, is_last, &mut self.prefix).map_err(wrong_length)?;
                self.data = data;
                is_last || encoder.is_complete()
            }
            Some(Err(frame)) => {
                encoder.encode_end(frame.trailers_ref(), &mut self.prefix).map_err(wrong_length)?;
                true
            }
            None => {
                encoder.encode_end(None, &mut self.prefix).map_err(wrong_length)?;
                true
            }
        };
        if has_ended {
            self.body = None;
        }
        if self.prefix.is_empty() {
            self.release_prefix();
        }
        Ok(Poll::Ready(()))
    }

    fn is_written(&self) -> bool {
        self.prefix.is_empty() && self.data.is_empty() && self.suffix.is_empty()
    }

    /// Writes some of what there is.
    fn poll_write<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let prefix = self.prefix.get(self.prefix_written..).unwrap_or_default();
        let pieces = [prefix, &self.data, self.suffix].map(IoSlice::new);
        let stream = Pin::new(stream);
        let written = match (&*self.data, self.suffix) {
            (b"", b"") => stream.poll_write(cx, prefix),
            _ => stream.poll_write_vectored(cx, &pieces),
        };
        let written = ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_prefix = written.min(prefix.len());
        self.prefix_written += of_prefix;
        let of_data = (written - of_prefix).min(self.data.len());
        self.data.advance(of_data);
        self.suffix = self.suffix.get(written - of_prefix - of_data..).unwrap_or_default();
        if self.data.is_empty() {
            // The buffer that it was a part of.
            self.data = Bytes::new();
        }
        if self.prefix_written == self.prefix.len() {
            self.release_prefix();
        }
        Poll::Ready(Ok(()))
    }

    /// Returns the memory of what was written.
    fn release_prefix(&mut self) {
        let mut prefix = std::mem::take(&mut self.prefix);
        self.prefix_written = 0;
        if prefix.capacity() <= MAX_SCRATCH {
            prefix.clear();
            SCRATCH.set(prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use proptest::prelude::*;
    use std::task::Waker;

    /// Takes a few bytes at a time, and every other call nothing.
    struct Narrow {
        written: Vec<u8>,
        most: usize,
        is_ready: bool,
        /// The bytes of a body that were taken out of it and had not been written, at most.
        held: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.is_ready = !self.is_ready;
            if !self.is_ready {
                return Poll::Pending;
            }
            self.held = self.held.max(bytes.len());
            let taken = bytes.len().min(self.most);
            self.written.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            self.poll_write(cx, &all)
        }
    }

    /// Sends a body of these pieces, with or without a length. Returns what was written, or `None` if it failed.
    fn sent(pieces: &[Bytes], length: Option<u64>, most: usize) -> Option<Vec<u8>> {
        struct Sized<B>(B, Option<u64>);
        impl<B: Body + Unpin> Body for Sized<B> {
            type Data = B::Data;
            type Error = B::Error;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
                Pin::new(&mut self.0).poll_frame(cx)
            }
            fn size_hint(&self) -> http_body::SizeHint {
                self.1.map_or_else(http_body::SizeHint::default, http_body::SizeHint::with_exact)
            }
        }
        let frames: Vec<_> = pieces.iter().map(|piece| Ok::<_, ()>(Frame::data(piece.clone()))).collect();
        let body = Sized(StreamBody::new(futures_util::stream::iter(frames)), length);
        let (target, fields) = (http::Uri::from_static("/"), http::HeaderMap::new());
        let head = RequestHead { method: &http::Method::POST, target: &target, fields: &fields, added: None };
        let mut writer = RequestWriter::new(&head, body);
        let mut stream = Narrow { written: Vec::new(), most, is_ready: false, held: 0 };
        let cx = &mut Context::from_waker(Waker::noop());
        loop {
            match writer.poll(&mut stream, cx) {
                Poll::Ready(Ok(())) => return Some(stream.written),
                Poll::Ready(Err(_)) => return None,
                Poll::Pending => {
                    let largest = pieces.iter().map(Bytes::len).max().unwrap_or(0);
                    assert!(stream.held <= largest + 64, "one piece, and the header section or the frame around it");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_request_is_written_whole_and_in_order_however_little_the_stream_takes(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..5),
            most in 1_usize..40,
        ) {
            let pieces: Vec<Bytes> = pieces.into_iter().map(Bytes::from).collect();
            let all = pieces.concat();
            let mut expected = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", all.len()).into_bytes();
            expected.extend_from_slice(&all);
            prop_assert_eq!(sent(&pieces, Some(all.len() as u64), most), Some(expected));
            let mut expected = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                expected.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                expected.extend_from_slice(piece);
                expected.extend_from_slice(b"\r\n");
            }
            expected.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(sent(&pieces, None, most), Some(expected));
            prop_assert_eq!(sent(&pieces, Some(all.len() as u64 + 1), most), None);
        }
    }
}
