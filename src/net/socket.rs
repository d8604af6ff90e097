//! Owns: one connected socket, over TCP or a Unix socket.
//! Invariant: bytes pass in order; what is small passes in one iteration of the event loop.
//! Must not know: TLS, HTTP.

mod raw;
mod read;
mod write;

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixSocket, UnixStream};

use super::batch::{self, BatchedSocket, ReadinessWaker};
use super::{Address, descriptor_reserve};
use raw::RawSocket;
use read::ReadSide;
pub use write::WriteProgress;
use write::WriteSide;

/// A connected socket.
///
/// On a thread whose sockets are [batched](batch::run_batcher), small pieces are sent at the end of the event loop's
/// iteration. There a write is ready before the kernel has the bytes, and so is a flush: nothing more has to
/// be done to have them sent. Who has to know asks [`write_progress`](Self::write_progress), or waits for
/// [`poll_all_sent`](Self::poll_all_sent). That they can't be sent is told by the next write or flush, for which the
/// task that wrote is woken. Dropping a socket sends what waits, or [takes it back](WriteProgress::discard_on_drop), and closes it.
#[derive(Debug)]
pub struct Socket(Rc<Inner>);

/// A socket, shared with the batcher.
#[derive(Debug)]
struct Inner {
    /// `None` once its owner has gone.
    raw: RefCell<Option<RawSocket>>,
    read: ReadSide,
    write: WriteSide,
    /// Woken when there is something to read, once that pays.
    waker: RefCell<Option<ReadinessWaker>>,
}

impl Socket {
    /// Connects to `address`. A TCP socket sends small pieces at once: without TCP_NODELAY a small
    /// request's last segment could wait for an acknowledgement. Where it is `for_request`, it takes none of the
    /// descriptors that are [reserved](descriptor_reserve::reserve_from).
    ///
    /// # Errors
    /// What the system says.
    pub async fn connect(address: &Address, for_request: bool) -> io::Result<Socket> {
        let check =
            |socket: &dyn AsRawFd| if for_request { descriptor_reserve::check(&socket.as_raw_fd()) } else { Ok(()) };
        match address {
            Address::Tcp(address) => {
                let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                check(&socket)?;
                let stream = socket.connect(*address).await?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
            Address::Unix(path) => {
                let socket = UnixSocket::new_stream()?;
                check(&socket)?;
                socket.connect(path).await.map(Socket::from)
            }
        }
    }

    /// The same, without anything to read as far as is known. tokio takes a socket that was just accepted
    /// for one on which there is.
    pub fn assume_not_readable(self) -> Socket {
        let _ = self.0.with(|raw| raw.clear_readiness());
        self
    }

    fn new(raw: RawSocket) -> Socket {
        Socket(Rc::new(Inner {
            raw: RefCell::new(Some(raw)),
            read: ReadSide::new(),
            write: WriteSide::new(),
            waker: RefCell::new(None),
        }))
    }

    /// What becomes of the bytes that are written.
    pub fn write_progress(&self) -> Rc<WriteProgress> {
        self.0.write.write_progress()
    }

    /// Reads less at once from now on, in smaller buffers: as a client's connection of HTTP/1 does.
    pub fn use_small_reads(&self) {
        self.0.read.use_small_reads();
    }

    /// Bytes that are read at once, at the most.
    pub(super) fn read_limit(&self) -> usize {
        self.0.read.read_limit()
    }

    /// Whether there is something to read, or the end.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(|raw| {
            let _ = self.0.write.poll_backlog(raw, cx);
            self.0.read.poll_ready(raw, cx)
        })
    }

    /// Waits until `is_enough` is there of what is unread, or as much as is read at once, or the end. It is all
    /// still to be read, and of what is not enough no buffer is held.
    pub fn poll_prefetch(&self, cx: &mut Context<'_>, is_enough: fn(&[u8]) -> bool) -> Poll<()> {
        let prefetched = self.0.poll(|raw| self.0.read.poll_prefetch(raw, cx, is_enough).map(Ok));
        // A socket that is gone has nothing more to read.
        prefetched.map(drop)
    }

    /// What `look` says of what was prefetched and is not read.
    pub fn peek_prefetched<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        self.0.read.peek_prefetched(look)
    }

    /// Bytes that the kernel takes at once, about; 0 if it can't tell.
    pub fn send_buffer_space(&self) -> usize {
        self.0.with(|raw| Ok(raw.send_buffer_space())).unwrap_or(0)
    }

    /// Whether the other side has said that it sends no more, whatever is still to be read.
    pub fn is_read_closed(&self) -> bool {
        self.0.with(|raw| Ok(raw.is_read_closed())).unwrap_or(true)
    }

    /// What has befallen the connection since this was last asked: a reset, above all.
    ///
    /// # Errors
    /// If the system can't tell.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.with(|raw| raw.take_error())
    }

    /// Whether the kernel has taken all that was written.
    pub fn poll_all_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(|raw| self.0.write.poll_all_sent(raw, cx))
    }

    /// Sends what waits now, and not at the end of the iteration.
    pub fn flush_batch(&self) {
        if self.0.write.is_waiting() {
            batch::send();
        }
    }

    #[cfg(test)]
    pub(super) fn has_prefetched(&self) -> bool {
        self.0.read.has_prefetched()
    }

    fn poll_send(&self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Inner { write, .. } = &*self.0;
        ready!(self.poll_backlog(cx))?;
        let length = pieces.iter().map(|piece| piece.len()).sum();
        if write.may_wait(length) {
            write.begin(cx, length);
            if batch::put(&self.0, pieces, length) {
                return Poll::Ready(Ok(length));
            }
            write.end(length);
        }
        if write.is_waiting() {
            // Nothing overtakes what waits.
            batch::send();
            ready!(self.poll_backlog(cx))?;
        }
        self.0.poll(|raw| write.poll_write(raw, cx, pieces))
    }

    fn poll_backlog(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(|raw| self.0.write.poll_backlog(raw, cx))
    }
}

impl Inner {
    fn with<T>(&self, work: impl FnOnce(&mut RawSocket) -> io::Result<T>) -> io::Result<T> {
        self.raw.borrow_mut().as_mut().map_or_else(|| Err(io::ErrorKind::NotConnected.into()), work)
    }

    fn poll<T>(&self, poll: impl FnOnce(&mut RawSocket) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let mut raw = self.raw.borrow_mut();
        raw.as_mut().map_or_else(|| Poll::Ready(Err(io::ErrorKind::NotConnected.into())), poll)
    }
}

impl BatchedSocket for Inner {
    fn prefetch(&self) {
        if let (Some(raw), Some(waker)) = (&mut *self.raw.borrow_mut(), &*self.waker.borrow()) {
            self.read.prefetch(raw, waker);
        }
    }

    fn wake_reader(&self) {
        self.read.wake_reader();
    }

    fn send(&self, piece: &[u8]) {
        if let Some(raw) = &*self.raw.borrow() {
            self.write.send(raw, piece);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.waker.take();
        if self.0.write.outlives() {
            batch::send();
        }
        self.0.raw.take();
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Socket {
        Socket::new(stream.into())
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Socket {
        Socket::new(stream.into())
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Inner { read, write, waker, .. } = &*self.0;
        // Whoever polls a socket has it send what it could not. Why it can't is told to who writes: there
        // may be an answer to read.
        if write.has_backlog() {
            let _ = self.poll_backlog(cx);
        }
        let poll = match read.poll_prefetched(cx, buffer) {
            Some(known) => known,
            None => {
                let mut waker = waker.borrow_mut();
                if waker.is_none() && read.is_worth_a_waker() {
                    *waker = ReadinessWaker::new(&self.0);
                }
                self.0.poll(|raw| read.poll_read(raw, cx, waker.as_ref(), buffer))
            }
        };
        if poll.is_ready() {
            write.begins();
        }
        poll
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_backlog(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_all_sent(cx))?;
        self.0.poll(|raw| raw.poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, pieces)
    }
}
