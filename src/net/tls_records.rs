//! Owns: how far a socket below TLS is read: to the end of a large record, and no further.
//! Invariant: bytes pass unchanged; small records cost no further reads.
//! Must not know: what records contain.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

use super::socket::Socket;

/// The length of a record's header: its type, its version and its length (RFC 8446 §5.1).
const HEADER: usize = 5;

/// Records of this many bytes are large. rustls reads this many at first.
const LARGE: usize = 4096;

/// A socket below TLS. rustls frees the buffer of a record, 32 KiB for one of full length, only if it has read nothing
/// that follows it.
#[derive(Debug)]
pub struct RecordSocket {
    socket: Take<Socket>,
    bounds: RecordBounds,
}

impl From<Socket> for RecordSocket {
    fn from(socket: Socket) -> RecordSocket {
        RecordSocket { socket: socket.take(u64::MAX), bounds: RecordBounds::default() }
    }
}

impl RecordSocket {
    /// Returns the socket.
    pub fn socket(&self) -> &Socket {
        self.socket.get_ref()
    }

    pub(super) fn socket_mut(&mut self) -> &mut Socket {
        self.socket.get_mut()
    }

    /// Returns, once, whether a large record has been read to its end.
    pub(super) fn take_large_record(&mut self) -> bool {
        std::mem::take(&mut self.bounds.has_ended_large)
    }
}

impl AsyncRead for RecordSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let limit = self.bounds.read_limit();
        self.socket.set_limit(limit);
        let poll = Pin::new(&mut self.socket).poll_read(cx, buffer);
        self.bounds.read(buffer.filled().get(before..).unwrap_or_default());
        poll
    }
}

impl AsyncWrite for RecordSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.socket_mut()).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.socket_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.socket_mut()).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.socket_mut()).poll_write_vectored(cx, pieces)
    }
}

/// Follows the records in the bytes that were read.
#[derive(Debug, Default)]
struct RecordBounds {
    /// The bytes of the next header that were read.
    header: [u8; HEADER],
    header_read: usize,
    /// The bytes of the current record that were not read yet.
    left: usize,
    is_large: bool,
    has_ended_large: bool,
}

impl RecordBounds {
    /// Returns the most bytes to read now.
    fn read_limit(&self) -> u64 {
        if self.is_large && self.left > 0 { self.left as u64 } else { u64::MAX }
    }

    /// Notes the bytes that were read.
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let missing = HEADER - self.header_read;
            if missing > 0 {
                let (part, rest) = bytes.split_at(missing.min(bytes.len()));
                for (to, from) in self.header.iter_mut().skip(self.header_read).zip(part) {
                    *to = *from;
                }
                self.header_read += part.len();
                bytes = rest;
                let [.., high, low] = self.header;
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.is_large = self.left >= LARGE;
            } else {
                bytes = bytes.get(self.left.min(bytes.len())..).map_or(&[][..], |rest| {
                    self.left -= bytes.len() - rest.len();
                    rest
                });
            }
            if self.header_read == HEADER && self.left == 0 {
                self.header_read = 0;
                self.has_ended_large |= self.is_large;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_read_goes_beyond_the_end_of_a_large_record_that_has_begun(
            lengths in proptest::collection::vec(prop_oneof![0_usize..300, 4000_usize..17_000], 1..8),
            most in 1_usize..9000,
        ) {
            let mut all = Vec::new();
            let mut ends = Vec::new();
            for length in lengths {
                all.extend_from_slice(&[23, 3, 3]);
                all.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
                all.extend_from_slice(&vec![0xff; length]);
                ends.push((length >= LARGE, all.len()));
            }
            let (mut bounds, mut at) = (RecordBounds::default(), 0);
            while at < all.len() {
                let limit = usize::try_from(bounds.read_limit()).unwrap();
                let read = most.min(limit).min(all.len() - at);
                // The record whose header, at least, has been read.
                let begun = ends.iter().find(|(_, end)| *end > at);
                let start = ends.iter().rev().map(|(_, end)| *end).find(|end| *end <= at).unwrap_or(0);
                if let Some((true, end)) = begun && at >= start + HEADER {
                    prop_assert!(at + read <= *end);
                }
                bounds.read(&all[at..at + read]);
                at += read;
            }
            prop_assert_eq!(bounds.left, 0);
            prop_assert_eq!(bounds.has_ended_large, ends.iter().any(|(is_large, _)| *is_large));
        }
    }
}
