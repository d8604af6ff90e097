//! Owns: a backend's stream as hyper sees it.
//! Invariant: what a backend has said is read before it matters that nothing more can be written to it.
//! Must not know: HTTP.

use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::upload_pacing::UploadPacing;
use crate::net::Stream;

/// What hyper gets.
pub(super) type BackendIo = TokioIo<BackendStream>;

/// A stream to a backend that ends by closing the socket. Half-closing it first is one more system call, and
/// there are backends that take it for the client's going away.
///
/// A backend that refuses an upload answers and closes, and what is still on its way to it has its kernel
/// reset the connection. hyper gives up a connection that can't be written to, with the answer unread. So once
/// a write fails, whatever else is written is thrown away, and hyper reads on to the end, which is near.
pub(super) struct BackendStream {
    stream: Stream,
    pacing: Rc<UploadPacing>,
    received: Rc<BytesReceived>,
    /// Why nothing can be written any more.
    write_error: Option<ErrorKind>,
}

/// How many bytes a backend has sent on a connection, those of TLS itself left out.
#[derive(Debug, Default)]
pub(super) struct BytesReceived(Cell<u64>);

impl BytesReceived {
    pub(super) fn bytes(&self) -> u64 {
        self.0.get()
    }
}

impl BackendStream {
    pub(super) fn new(stream: Stream, pacing: &Rc<UploadPacing>, received: &Rc<BytesReceived>) -> BackendStream {
        BackendStream { stream, pacing: Rc::clone(pacing), received: Rc::clone(received), write_error: None }
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Writes of `length` bytes what can be written, or throws them away.
    fn write(
        &mut self,
        length: usize,
        write: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut written = length;
        if self.write_error.is_none() {
            match write(Pin::new(&mut self.stream)) {
                Poll::Ready(Ok(bytes)) => written = bytes,
                Poll::Ready(Err(error)) => self.write_error = Some(error.kind()),
                Poll::Pending => {
                    self.pacing.on_blocked();
                    return Poll::Pending;
                }
            }
        }
        self.pacing.on_written(written);
        Poll::Ready(Ok(written))
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        self.received.0.set(self.received.0.get() + read as u64);
        // What was sent with the turn may have met a reset of which nobody has been told.
        if read == 0
            && self.write_error.is_none()
            && let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            self.write_error = Some(error.kind());
        }
        match self.write_error {
            // The system has told the write of the reset, and says here only that this is the end: that must not
            // pass for the end of an answer. A write to a backend that had said that it ends fails with EPIPE.
            Some(why) if read == 0 && why != ErrorKind::BrokenPipe => Poll::Ready(Err(why.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes.len(), |stream| stream.poll_write(cx, bytes))
    }

    /// hyper comes here when nothing is left for it to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_error.is_none() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.write_error = Some(error.kind()),
                Poll::Pending => {
                    self.pacing.on_blocked();
                    return Poll::Pending;
                }
            }
        }
        self.pacing.on_flushed(cx, || self.stream.socket().send_buffer_space());
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
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        self.write(length, |stream| stream.poll_write_vectored(cx, pieces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{self, Socket};
    use std::io::Write;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{spawn_local, yield_now};

    #[test]
    fn a_reset_that_only_the_turn_has_met_is_no_end_of_an_answer() {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            spawn_local(net::run_batcher());
            yield_now().await;
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            let mut backend = BackendStream::new(Socket::from(stream).into(), &Rc::default(), &Rc::default());
            peer.write_all(b"half an ans").unwrap();
            socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            // It is sent at the end of the turn, and the system tells of the reset once.
            backend.write_all(b"more of the request").await.unwrap();
            yield_now().await;
            let mut received = Vec::new();
            let end = backend.read_to_end(&mut received).await;
            assert_eq!(received, b"half an ans");
            assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
        });
    }
}
