//! Owns: the socket of tokio below, TCP or Unix, with one set of methods for both.
//! Invariant: a read takes no more bytes than its limit.
//! Must not know: what was prefetched or queued.

use std::future::Future;
use std::io::{self, IoSlice, Read};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf, Take};
use tokio::net::{TcpStream, UnixStream};

use crate::net::send_buffer;

/// The most bytes that one read takes, however large the buffer: what was read is held until the other side takes it.
/// A byte less than 16 KiB: hyper doubles its buffer, up to 400 KiB, each time one of its steps was filled.
pub(super) const MAX_READ: u64 = 16 * 1024 - 1;

/// The same for a side of which several reads are held at a time: hyper holds one part of a request's body while the
/// part before it waits for the backend.
pub(super) const SMALL_READ: u64 = 8 * 1024 - 1;

#[derive(Debug)]
pub(super) enum RawSocket {
    Tcp(Take<TcpStream>),
    Unix(Take<UnixStream>),
}

impl From<TcpStream> for RawSocket {
    fn from(stream: TcpStream) -> RawSocket {
        RawSocket::Tcp(stream.take(MAX_READ))
    }
}

impl From<UnixStream> for RawSocket {
    fn from(stream: UnixStream) -> RawSocket {
        RawSocket::Unix(stream.take(MAX_READ))
    }
}

impl RawSocket {
    /// Reads `limit` bytes at most.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        limit: u64,
    ) -> Poll<io::Result<()>> {
        match self {
            RawSocket::Tcp(stream) => {
                stream.set_limit(limit);
                Pin::new(stream).poll_read(cx, buffer)
            }
            RawSocket::Unix(stream) => {
                stream.set_limit(limit);
                Pin::new(stream).poll_read(cx, buffer)
            }
        }
    }

    /// Reads without waiting for the event loop to report that there is something.
    pub(super) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let socket = match self {
            RawSocket::Tcp(stream) => SockRef::from(stream.get_ref()),
            RawSocket::Unix(stream) => SockRef::from(stream.get_ref()),
        };
        (&*socket).read(buffer)
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            RawSocket::Tcp(stream) => stream.get_ref().poll_read_ready(cx),
            RawSocket::Unix(stream) => stream.get_ref().poll_read_ready(cx),
        }
    }

    /// Clears tokio's readiness: the socket is readable once the kernel reports it.
    pub(super) fn clear_readiness(&self) -> io::Result<()> {
        let nothing = || Err(io::ErrorKind::WouldBlock.into());
        match self {
            RawSocket::Tcp(stream) => stream.get_ref().try_io(Interest::READABLE, nothing),
            RawSocket::Unix(stream) => stream.get_ref().try_io(Interest::READABLE, nothing),
        }
    }

    /// Estimates how many bytes the kernel takes at once.
    pub(super) fn send_buffer_space(&self) -> usize {
        match self {
            RawSocket::Tcp(stream) => send_buffer::available(stream.get_ref()),
            RawSocket::Unix(stream) => send_buffer::available(stream.get_ref()),
        }
    }

    pub(super) fn is_read_closed(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let ready = match self {
            RawSocket::Tcp(stream) => pin!(stream.get_ref().ready(Interest::READABLE)).poll(cx),
            RawSocket::Unix(stream) => pin!(stream.get_ref().ready(Interest::READABLE)).poll(cx),
        };
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            RawSocket::Tcp(stream) => stream.get_ref().take_error(),
            RawSocket::Unix(stream) => stream.get_ref().take_error(),
        }
    }

    /// Writes all pieces or some of them. One piece goes out by `send`, the cheaper system call.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match (self, pieces) {
            (RawSocket::Tcp(stream), [only]) => Pin::new(stream.get_mut()).poll_write(cx, only),
            (RawSocket::Tcp(stream), _) => Pin::new(stream.get_mut()).poll_write_vectored(cx, pieces),
            (RawSocket::Unix(stream), [only]) => Pin::new(stream.get_mut()).poll_write(cx, only),
            (RawSocket::Unix(stream), _) => Pin::new(stream.get_mut()).poll_write_vectored(cx, pieces),
        }
    }

    pub(super) fn try_write(&self, piece: &[u8]) -> io::Result<usize> {
        match self {
            RawSocket::Tcp(stream) => stream.get_ref().try_write(piece),
            RawSocket::Unix(stream) => stream.get_ref().try_write(piece),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            RawSocket::Tcp(stream) => Pin::new(stream.get_mut()).poll_shutdown(cx),
            RawSocket::Unix(stream) => Pin::new(stream.get_mut()).poll_shutdown(cx),
        }
    }
}
