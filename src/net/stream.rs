//! Owns: one connection, over TCP or a Unix socket, with TLS or without.
//! Invariant: it buffers nothing but what TLS itself holds back.
//! Must not know: certificates, HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::TlsStream;

use super::socket::Socket;
use super::tls_records::RecordSocket;

/// A connection, with TLS or without.
#[derive(Debug)]
pub enum Stream {
    /// The bare socket.
    Plain(Socket),
    /// The socket after a TLS handshake. Boxed: it is many times as large as a bare socket, and rarely moved.
    Tls(Box<TlsStream<RecordSocket>>),
}

impl Stream {
    /// Returns the socket below.
    pub fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => tls.get_ref().0.socket(),
        }
    }

    /// Ends the sending side without TLS's close_notify, so that the peer knows that what it received is incomplete
    /// (RFC 9112 §9.8).
    ///
    /// # Errors
    /// The error of the system.
    pub async fn shutdown_without_close_notify(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.shutdown().await,
            Stream::Tls(tls) => tls.get_mut().0.socket_mut().shutdown().await,
        }
    }

    /// Writes what the kernel takes at once, and drops the rest: for a last response to a client that may no longer
    /// read.
    pub fn write_best_effort(&mut self, bytes: &[u8]) {
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        // An empty send buffer takes a few hundred bytes at once. If it is full, the client misses them.
        if Pin::new(&mut *self).poll_write(cx, bytes).is_ready() {
            let _ = Pin::new(&mut *self).poll_flush(cx);
            self.socket().flush_queued();
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
                let read_limit = tls.get_ref().0.socket().read_limit();
                let record = ready!(Pin::new(&mut **tls).poll_fill_buf(cx))?;
                let part = part_size(record.len(), read_limit).min(buffer.remaining());
                buffer.put_slice(record.get(..part).unwrap_or(record));
                Pin::new(&mut **tls).consume(part);
                free_record(tls);
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// Splits a TLS record into parts of equal size, of `limit` bytes at most, and returns this size. Reading up to the
/// limit would leave one byte of a full record, which would be forwarded in a buffer of its own.
fn part_size(record: usize, limit: usize) -> usize {
    record.div_ceil(record.div_ceil(limit).max(1))
}

/// Frees the buffer that a large record was read into, once that was decrypted. rustls does so when it next reads, which is
/// not before all of the record was passed on: a peer that takes nothing would hold both.
fn free_record(tls: &mut TlsStream<RecordSocket>) {
    if tls.get_mut().0.take_large_record() {
        let _ = match tls {
            TlsStream::Client(tls) => tls.get_mut().1.read_tls(&mut NothingToRead),
            TlsStream::Server(tls) => tls.get_mut().1.read_tls(&mut NothingToRead),
        };
    }
}

struct NothingToRead;

impl io::Read for NothingToRead {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
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
    fn a_record_is_read_in_parts_of_equal_size() {
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
