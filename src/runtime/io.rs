//! Owns: a client's socket as hyper sees it, and what can be told from its reads and writes.
//! Invariant: bytes pass unchanged; what was read before comes first.
//! Must not know: HTTP.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;

use super::activity::Activity;
use super::phase;
use crate::clock;
use crate::net::Stream;

/// A client's socket.
pub(super) struct Io {
    stream: TokioIo<Stream>,
    prefix: Bytes,
    activity: Rc<Activity>,
    /// Bytes that the client had taken when it was last seen to take no more.
    taken: u64,
}

impl Io {
    pub(super) fn new(stream: Stream, prefix: Bytes, activity: &Rc<Activity>) -> Io {
        Io { stream: TokioIo::new(stream), prefix, activity: Rc::clone(activity), taken: 0 }
    }

    /// The stream, and what was read before and not asked for since.
    pub(super) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream.into_inner(), self.prefix)
    }

    /// Takes note of whether the client takes what there is for it.
    fn noted<T>(&mut self, poll: Poll<T>) -> Poll<T> {
        let blocked = &self.activity.blocked_since;
        match poll {
            Poll::Ready(_) if blocked.get().is_none() => {}
            Poll::Ready(_) => blocked.set(None),
            Poll::Pending => {
                // It may be taking what was written before.
                let taken = self.stream.inner().socket().sent().bytes();
                if blocked.get().is_none() || taken != self.taken {
                    blocked.set(Some(clock::now()));
                    self.taken = taken;
                }
            }
        }
        poll
    }
}

impl Read for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        if self.prefix.has_remaining() {
            let length = room.min(self.prefix.len());
            let part = self.prefix.split_to(length);
            buf.put_slice(&part);
            return Poll::Ready(Ok(()));
        }
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        let activity = &self.activity;
        if poll.is_ready() && activity.busy.get() == 0 && activity.head_since.get().is_none() {
            activity.head_since.set(Some(clock::now()));
        }
        poll
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.noted(poll)
    }

    /// hyper comes here whenever it is polled, and reads nothing while a request is being served, so
    /// that a client may close its sending side: a reset is seen nowhere else.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.probe.take() {
            let socket = self.stream.inner().socket();
            if let Some(error) = socket.take_error()? {
                return Poll::Ready(Err(error));
            }
            if socket.is_read_closed() {
                let activity = &self.activity;
                let since = activity.closed_since.get().unwrap_or(clock::now());
                activity.closed_since.set(Some(since));
                let waits = !activity.is_answered.get();
                if phase::has_left(clock::now().saturating_duration_since(since), waits, activity.is_stream.get()) {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
            }
        }
        let mut poll = Pin::new(&mut self.stream).poll_flush(cx);
        if poll.is_ready() && self.activity.is_breaking() {
            // The connection ends next, and what waits for the turn to end might find no room then.
            poll = self.stream.inner().socket().poll_sent(cx);
        }
        if matches!(poll, Poll::Ready(Ok(()))) && !self.activity.has_streams() {
            self.activity.flushed();
        }
        self.noted(poll)
    }

    /// Left to the connection's driver, which knows whether closing the socket is enough: it is,
    /// unless the client is still sending, and costs a system call less. TLS has an end of its own,
    /// without which a client could not tell it from a cut.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match self.stream.inner() {
            Stream::Plain(socket) => socket.poll_sent(cx),
            Stream::Tls(_) => Pin::new(&mut self.stream).poll_shutdown(cx),
        };
        self.noted(poll)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.noted(poll)
    }
}
