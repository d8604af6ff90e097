//! Owns: a backend's stream as hyper sees it.
//! Invariant: what a backend has said is read before it matters that nothing more can be written to it.
//! Must not know: HTTP.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;

use super::pace::Pace;
use crate::net::Stream;

/// What is read at once of a connection that can't be written to.
const PIECE: usize = 4096;

/// A stream that ends by closing the socket. Half-closing it first is one more system call, and
/// there are backends that take it for the client's going away.
///
/// A backend that refuses an upload answers and closes, and what is still on its way to it has its kernel
/// reset the connection. hyper gives up a connection that can't be written to, with the answer unread. So once
/// a write fails, whatever else is written is thrown away, and hyper reads on to the end, which is near.
pub(super) struct Io {
    stream: TokioIo<Stream>,
    pace: Rc<Pace>,
    /// Why nothing can be written any more.
    broken: Option<io::ErrorKind>,
}

impl Io {
    pub(super) fn new(stream: Stream, pace: Rc<Pace>) -> Io {
        Io { stream: TokioIo::new(stream), pace, broken: None }
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream.into_inner()
    }

    /// Writes of `length` bytes what can be written, or throws them away.
    fn write(
        &mut self,
        length: usize,
        write: impl FnOnce(Pin<&mut TokioIo<Stream>>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut written = length;
        if self.broken.is_none() {
            match std::task::ready!(write(Pin::new(&mut self.stream))) {
                Ok(bytes) => written = bytes,
                Err(error) => self.broken = Some(error.kind()),
            }
        }
        self.pace.wrote(written);
        Poll::Ready(Ok(written))
    }

    /// Reads what came before the connection broke. The system has told of the break already, and says of its
    /// end no more than that it is one: that must not pass for the end of an answer, unless the backend had said
    /// that it was (which makes a write fail with EPIPE).
    fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
        why: io::ErrorKind,
    ) -> Poll<io::Result<()>> {
        let mut space = [0; PIECE];
        let room = buf.remaining().min(PIECE);
        let mut piece = ReadBuf::new(&mut space[..room]);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, piece.unfilled()))?;
        if piece.filled().is_empty() && why != io::ErrorKind::BrokenPipe {
            return Poll::Ready(Err(why.into()));
        }
        buf.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl Read for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.broken {
            None => Pin::new(&mut self.stream).poll_read(cx, buf),
            Some(why) => self.poll_rest(cx, buf, why),
        }
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(buf.len(), |stream| stream.poll_write(cx, buf))
    }

    /// hyper comes here when nothing is left for it to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pace.flushed(cx);
        if self.broken.is_none()
            && let Err(error) = std::task::ready!(Pin::new(&mut self.stream).poll_flush(cx))
        {
            self.broken = Some(error.kind());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        self.write(length, |stream| stream.poll_write_vectored(cx, bufs))
    }
}
