//! Owns: one connection, over TCP or a Unix socket, plain or in TLS.
//! Invariant: nothing is buffered here but what TLS itself holds back.
//! Must not know: certificates, HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::TlsStream;

use super::Socket;

/// A connection, with TLS on it or without.
#[derive(Debug)]
pub enum Stream {
    /// The socket as it is.
    Plain(Socket),
    /// After a TLS handshake. In a box: it is many times as large, and rarely moved.
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// The socket below.
    pub fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Says that nothing more is sent, but not that all was: TLS has a word for that, without which the other side
    /// knows that what it got was cut off (RFC 9112 §9.8).
    ///
    /// # Errors
    /// What the system says.
    pub async fn shutdown_without_close_notify(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.shutdown().await,
            Stream::Tls(tls) => tls.get_mut().0.shutdown().await,
        }
    }

    /// Writes what goes out at once, and forgets the rest: a last word to a client that may not
    /// listen any more.
    pub fn write_best_effort(&mut self, bytes: &[u8]) {
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        // A fresh socket buffer takes a few hundred bytes at once; if not, so be it.
        if Pin::new(&mut *self).poll_write(cx, bytes).is_ready() {
            let _ = Pin::new(&mut *self).poll_flush(cx);
            self.socket().flush_batch();
        }
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Stream {
        Stream::Plain(socket)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Stream::Tls(tls) => {
                let read_limit = tls.get_ref().0.read_limit();
                let record = ready!(Pin::new(&mut **tls).poll_fill_buf(cx))?;
                let part = part_size(record.len(), read_limit).min(buffer.remaining());
                buffer.put_slice(record.get(..part).unwrap_or(record));
                Pin::new(&mut **tls).consume(part);
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// How much of a record is read at once, so that all parts of it are alike and none has more than `limit` bytes: of a whole
/// record a byte would be left, and be passed on in a buffer of its own.
fn part_size(record: usize, limit: usize) -> usize {
    record.div_ceil(record.div_ceil(limit).max(1))
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, pieces),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, pieces),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_in_parts_that_are_alike() {
        for (record, most, part) in [
            (0, 8191, 0),
            (1, 8191, 1),
            (8191, 8191, 8191),
            (8192, 8191, 4096),
            (16384, 16383, 8192),
            (16384, 8191, 5462),
        ] {
            assert_eq!(part_size(record, most), part, "{record} of {most}");
        }
    }
}
