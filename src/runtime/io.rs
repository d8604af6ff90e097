//! Owns: a client's socket as hyper and h2 see it, and the events that its reads and writes show.
//! Invariant: bytes pass unchanged, and bytes that were read earlier come first.
//! Must not know: HTTP.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

use super::activity::{Activity, HalfClosed};
use super::request_line::RequestLine;
use crate::net::Stream;

/// A client's socket, for hyper or h2.
pub(super) struct Io {
    stream: TokioIo<Stream>,
    /// Bytes that were read from the stream earlier.
    prefix: Bytes,
    activity: Rc<Activity>,
    /// How far the request line has been read; `None` if it is not inspected.
    request_line: Option<RequestLine>,
}

impl Io {
    pub(super) fn new(stream: Stream, prefix: Bytes, activity: &Rc<Activity>) -> Io {
        let (stream, activity) = (TokioIo::new(stream), Rc::clone(activity));
        Io { stream, prefix, activity, request_line: None }
    }

    /// Rejects requests whose target has a fragment: hyper then gets an error, and [`Activity::has_fragment`] says why.
    /// This inspects requests only while no other is in flight; in a pipelined request, the fragment is cut off.
    pub(super) fn without_fragments(mut self) -> Io {
        self.request_line = Some(RequestLine::Start);
        self
    }

    /// Inspects bytes that hyper is about to get.
    fn check_target(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(line) = &mut self.request_line else { return Ok(()) };
        if line.has_fragment(bytes) && self.activity.fragment_found() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }

    /// Reads the beginning of a request's head through a local buffer, since hyper's can't be inspected.
    fn poll_read_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        // As large as hyper's, so that no more reads are needed.
        let mut space = [MaybeUninit::uninit(); 8192];
        let length = buf.remaining().min(space.len());
        let mut read = ReadBuf::uninit(&mut space[..length]);
        ready!(Pin::new(self.stream.inner_mut()).poll_read(cx, &mut read))?;
        self.check_target(read.filled())?;
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }

    /// Returns the stream, and the bytes that were read earlier and not used.
    pub(super) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream.into_inner(), self.prefix)
    }

    /// Writes the queued interim responses. Call it only while hyper is between two messages. hyper's server can't send
    /// interim responses, so this writes them below it, before the head of the final response.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(queue) = self.activity.interim() else { return Poll::Ready(Ok(())) };
        let poll = queue.poll_drain(|bytes| Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.record_progress(poll)
    }

    /// Prepares a write of hyper. If hyper had nothing left to write, this write begins a message.
    fn poll_before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.is_between_messages() {
            ready!(self.poll_interim(cx))?;
            self.activity.message_began();
        }
        Poll::Ready(Ok(()))
    }

    /// Reports whether the client accepts what is written.
    fn record_progress<T>(&mut self, poll: Poll<T>) -> Poll<T> {
        match poll {
            Poll::Ready(_) => self.activity.write_accepted(),
            Poll::Pending => self.activity.write_blocked(self.stream.inner().socket().write_progress().bytes()),
        }
        poll
    }
}

impl Read for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let capacity = buf.remaining();
        if self.prefix.has_remaining() {
            let length = capacity.min(self.prefix.len());
            let part = self.prefix.split_to(length);
            self.check_target(&part)?;
            buf.put_slice(&part);
            return Poll::Ready(Ok(()));
        }
        let is_idle = self.activity.is_idle();
        let begins = is_idle && !self.activity.has_partial_head();
        if let (true, Some(line)) = (begins, &mut self.request_line) {
            *line = RequestLine::Start;
        }
        let is_inspected = is_idle && self.request_line.is_some_and(|line| line != RequestLine::Done);
        let poll = match is_inspected {
            true => self.poll_read_head(cx, &mut buf),
            false => Pin::new(&mut self.stream).poll_read(cx, buf),
        };
        if poll.is_ready() && begins {
            self.activity.head_began();
        }
        poll
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_before_write(cx))?;
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.record_progress(poll)
    }

    /// Flushes the stream. hyper calls this whenever it is polled and has nothing left to write. While a request is in
    /// flight, hyper doesn't read, so that a client may close its sending side: only this call can notice a reset.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.activity.message_ended();
        ready!(self.poll_interim(cx))?;
        if self.activity.take_probe() {
            let socket = self.stream.inner().socket();
            if let Some(error) = socket.take_error()? {
                return Poll::Ready(Err(error));
            }
            if socket.is_read_closed() {
                match self.activity.half_closed() {
                    HalfClosed::Serve => {}
                    HalfClosed::Abandon => cx.waker().wake_by_ref(),
                    HalfClosed::Abort => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                }
            }
        }
        let mut poll = Pin::new(&mut self.stream).poll_flush(cx);
        if poll.is_ready() && self.activity.has_failing_body() {
            // The connection closes next, and the socket may then have no space for a batched write.
            poll = self.stream.inner().socket().poll_all_sent(cx);
        }
        if matches!(poll, Poll::Ready(Ok(()))) && !self.activity.is_http2() {
            self.activity.flushed();
        }
        if poll.is_ready() && self.activity.pacing().resume(|| self.stream.inner().socket().send_buffer_space()) {
            cx.waker().wake_by_ref();
        }
        self.record_progress(poll)
    }

    /// Waits until all is written, but leaves the shutdown of a plain socket to the connection's driver. The driver
    /// knows whether closing it is enough, which saves a system call: it is, unless the client is still sending. TLS
    /// needs its close_notify (RFC 8446 §6.1); without it a client would see a truncated response.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match self.stream.inner() {
            Stream::Plain(socket) => socket.poll_all_sent(cx),
            Stream::Tls(_) => Pin::new(&mut self.stream).poll_shutdown(cx),
        };
        self.record_progress(poll)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_before_write(cx))?;
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.record_progress(poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Socket;
    use crate::runtime::activity::RequestGuard;
    use http::Version;
    use std::task::Waker;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    /// Returns a client's socket, the client's end of it, and the connection's state.
    fn pair() -> (Io, UnixStream, Rc<Activity>) {
        let (near, far) = UnixStream::pair().unwrap();
        let activity = Activity::http1(&Rc::default(), None);
        (Io::new(Socket::from(near).into(), Bytes::new(), &activity), far, activity)
    }

    fn write(io: &mut Io, bytes: &[u8]) {
        let written = Pin::new(io).poll_write(&mut Context::from_waker(Waker::noop()), bytes);
        assert!(matches!(written, Poll::Ready(Ok(length)) if length == bytes.len()));
    }

    fn flush(io: &mut Io) {
        assert!(Pin::new(io).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready());
    }

    async fn sent(io: Io, mut client: UnixStream) -> String {
        drop(io);
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        received
    }

    #[tokio::test]
    async fn an_interim_response_waits_for_the_end_of_the_message_that_has_begun() {
        let (mut io, client, activity) = pair();
        let interim = activity.interim_of(Version::HTTP_11).unwrap();
        write(&mut io, b"[one ");
        interim.push(b"[hints of two]");
        write(&mut io, b"more of one]");
        flush(&mut io);
        write(&mut io, b"[two]");
        assert_eq!(sent(io, client).await, "[one more of one][hints of two][two]");
    }

    #[tokio::test]
    async fn an_interim_response_is_dropped_that_could_not_be_written_before_its_final_response() {
        for (is_flushed, expected) in [(true, "[one][hints of two][two]"), (false, "[one][two]")] {
            let (mut io, client, activity) = pair();
            write(&mut io, b"[one]");
            let interim = activity.interim_of(Version::HTTP_11).unwrap();
            if is_flushed {
                flush(&mut io);
            }
            interim.push(b"[hints of two]");
            let mut request = RequestGuard::begin(&activity, false);
            request.responded(false);
            write(&mut io, b"[two]");
            flush(&mut io);
            assert_eq!(sent(io, client).await, expected);
        }
    }
}
