//! Owns: the stream to a backend, as the versions of HTTP see it.
//! Invariant: what a backend has sent is read even if nothing more can be written to it.
//! Must not know: HTTP.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::Stream;

/// A stream to a backend. Shutting it down does nothing; dropping it closes the socket. A half-close first would be one
/// more system call, and some backends take it for a client that gave up.
///
/// A backend that refuses an upload sends its response and closes. The bytes still in flight then make its kernel reset
/// the connection. So after a failed write, this stream discards everything else that is written: the response before the
/// reset can still be read to its end, which is near.
pub(super) struct BackendStream {
    stream: Stream,
    /// The error that ended writing, if any.
    write_error: Option<ErrorKind>,
}

impl BackendStream {
    pub(super) fn new(stream: Stream) -> BackendStream {
        BackendStream { stream, write_error: None }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Writes as many of `length` bytes as the stream takes, or discards them all after a write error.
    fn write(
        &mut self,
        length: usize,
        write: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.write_error.is_none() {
            match ready!(write(Pin::new(&mut self.stream))) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(error) => self.write_error = Some(error.kind()),
            }
        }
        Poll::Ready(Ok(length))
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        // The batch's write may have met a reset that was not reported yet.
        if read == 0
            && self.write_error.is_none()
            && let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            self.write_error = Some(error.kind());
        }
        match self.write_error {
            // The kernel reported the reset to the write, and reports only the end here: that must not pass for the end
            // of a response. After a backend's orderly close, a write fails with EPIPE.
            Some(why) if read == 0 && why != ErrorKind::BrokenPipe => Poll::Ready(Err(why.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes.len(), |stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_error.is_none()
            && let Err(error) = ready!(Pin::new(&mut self.stream).poll_flush(cx))
        {
            self.write_error = Some(error.kind());
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
    fn a_reset_that_only_the_batched_write_has_met_is_no_end_of_a_response() {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            spawn_local(net::run_batcher());
            yield_now().await;
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            let mut backend = BackendStream::new(Socket::from(stream).into());
            peer.write_all(b"half a resp").unwrap();
            socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            // The batch writes it at the end of the event-loop iteration, and the kernel reports the reset once.
            backend.write_all(b"more of the request").await.unwrap();
            yield_now().await;
            let mut received = Vec::new();
            let end = backend.read_to_end(&mut received).await;
            assert_eq!(received, b"half a resp");
            assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
        });
    }
}
