//! Owns: one connected socket, over TCP or a Unix socket.
//! Invariant: bytes keep their order, each way; a small write is delayed by one event-loop iteration at most.
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

use super::address::Address;
use super::batch::batched_socket::BatchedSocket;
use super::batch::waker::ReadinessWaker;
use super::{batch, descriptor_reserve};
use raw::RawSocket;
use read::ReadSide;
pub use write::WriteProgress;
use write::WriteSide;

/// A connected socket, for one task at a time on each side.
///
/// It reads and writes like a socket of tokio, with one difference: on a thread that runs
/// [`run_batcher`](super::run_batcher), a write or flush is ready before the kernel has the bytes, which are then sent
/// without a further call. The next write or flush, for which the writer is woken, reports a failure. To learn how much
/// the kernel has accepted, ask [`write_progress`](Self::write_progress); to wait for all of it, use
/// [`poll_all_sent`](Self::poll_all_sent). Dropping the socket closes it.
///
/// # Reading
///
/// ```text
///              the kernel has nothing                readable: the batcher reads
/// +----------+ ----------------------> +-----------+ up to 4 KiB, wakes the reader   +------------+
/// |   idle   |                         |  waiting  | ------------------------------> | prefetched |
/// +----------+ <---------------------- +-----------+                                 +------------+
///   ^      |   readable: the event loop                                                |   ^    |
///   |      |   wakes the reader itself                                                 |   |    |
///   |      +-------------- poll_prefetch reads until it has enough -------------------------+    |
///   +--------------------- the reader has taken all prefetched bytes ------------------+        |
///                                                                                               |
///   idle and waiting too: the kernel reports the end or an error     +----------+               |
///                         and the reader has read it --------------> |  closed  | <-------------+
///                                                                    +----------+
/// ```
///
/// - *idle*: no task waits; a read asks the kernel.
/// - *waiting*: a task waits. The batcher wakes it once this pays: after the second burst of bytes, unless the last
///   burst was over 4 KiB. Before that, and on a thread without a batcher, the event loop wakes the task directly. It
///   always does so for a task that only waits in [`poll_read_ready`](Self::poll_read_ready).
/// - *prefetched*: bytes, the end or an error were read ahead of the reader, and make the socket readable.
/// - *closed*: the reader has seen the end or an error. Each further read asks the kernel, which repeats the end.
///
/// # Writing
///
/// ```text
///              a small write                     the iteration ends,
/// +----------+ ------------------> +----------+  the kernel takes a part   +-----------+
/// |  clear   |                     |  queued  | -------------------------> |  blocked  |
/// +----------+ <------------------ +----------+                            +-----------+
///   ^          the iteration ends,      |                                     |     |
///   |          the kernel takes all     |        the kernel has taken the rest|     |
///   +-------------------------------------------------------------------------+     |
///                                       |  error   +----------+  error              |
///                                       +--------> |  failed  | <-------------------+
///                                                  +----------+
/// ```
///
/// | state | bytes are | next write | [`WriteProgress::bytes`] has | dropping the socket |
/// | --- | --- | --- | --- | --- |
/// | *clear* | with the kernel | is queued or done | every byte | loses nothing |
/// | *queued* | here, for this iteration | is queued behind, or done after them | none of the queued bytes | writes them, or [discards](WriteProgress::discard_on_drop) them |
/// | *blocked* | here, the backlog | waits | what the kernel took of them | loses the backlog |
/// | *failed* | lost | fails | what the kernel took before | loses nothing more |
///
/// A write is queued if it has 20 KiB at most, 32 KiB at most are queued with it, and it isn't a second write of 4 KiB
/// or more since the last read. Any other write first writes the queue, and then its own bytes to the kernel directly:
/// what the kernel doesn't accept stays with the writer, and the socket stays clear. Every poll of a blocked socket,
/// reads too, writes what the kernel has room for.
#[derive(Debug)]
pub struct Socket(Rc<Inner>);

/// What a socket shares with the batcher.
#[derive(Debug)]
struct Inner {
    /// `None` once the socket was dropped.
    raw: RefCell<Option<RawSocket>>,
    read: ReadSide,
    write: WriteSide,
    /// `None` until batched reads pay.
    waker: RefCell<Option<ReadinessWaker>>,
}

impl Socket {
    /// Connects to `address`. A TCP socket gets TCP_NODELAY, or the last segment of a small request could wait for an
    /// acknowledgement. A connection `for_request` takes none of the descriptors that are
    /// [reserved](descriptor_reserve::reserve_from).
    ///
    /// # Errors
    /// The error of the system.
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

    /// Returns the socket as one that has nothing to read until the kernel reports it. tokio assumes that a socket that
    /// was just accepted is readable.
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

    /// Returns the count of the bytes that the kernel has taken.
    pub fn write_progress(&self) -> Rc<WriteProgress> {
        self.0.write.write_progress()
    }

    /// Reads 8 KiB at most at once from now on, instead of 16: for a client's HTTP/1 connection.
    pub fn use_small_reads(&self) {
        self.0.read.use_small_reads();
    }

    /// The most bytes that one read takes.
    pub(super) fn read_limit(&self) -> usize {
        self.0.read.read_limit()
    }

    /// Waits until there is something to read, or the end.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It may wait for long, and needs none meanwhile.
        self.0.waker.take();
        self.0.poll(|raw| {
            let _ = self.0.write.poll_backlog(raw, cx);
            self.0.read.poll_ready(raw, cx)
        })
    }

    /// Prefetches until `is_enough` accepts the bytes, 4 KiB have arrived, or the connection ends. Later reads return
    /// these bytes. While it waits, it keeps only the bytes, and no buffer.
    pub fn poll_prefetch(&self, cx: &mut Context<'_>, is_enough: fn(&[u8]) -> bool) -> Poll<()> {
        let prefetched = self.0.poll(|raw| self.0.read.poll_prefetch(raw, cx, is_enough).map(Ok));
        // A closed socket has nothing more to read.
        prefetched.map(drop)
    }

    /// Prefetches what the kernel has now, also if the event loop has not reported it yet: the next read returns that. It
    /// costs a system call.
    pub fn prefetch_now(&self) {
        let _ = self.0.with(|raw| {
            self.0.read.prefetch_now(raw);
            Ok(())
        });
    }

    /// Passes the prefetched bytes to `look`, and leaves them to be read.
    pub fn peek_prefetched<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        self.0.read.peek_prefetched(look)
    }

    /// Estimates how many bytes the kernel takes at once beside those that are queued; 0 if the system can't tell.
    pub fn send_buffer_space(&self) -> usize {
        let space = self.0.with(|raw| Ok(raw.send_buffer_space())).unwrap_or(0);
        space.saturating_sub(self.0.write.queued_bytes())
    }

    /// Whether the peer has ended its side, even if there are bytes left to read.
    pub fn is_read_closed(&self) -> bool {
        self.0.with(|raw| Ok(raw.is_read_closed())).unwrap_or(true)
    }

    /// Takes the error of the connection since the last call: a reset, above all.
    ///
    /// # Errors
    /// If the system can't tell.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.0.with(|raw| raw.take_error())
    }

    /// Waits until the kernel has taken everything that was written.
    ///
    /// # Errors
    /// The error of a write that failed.
    pub fn poll_all_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(|raw| self.0.write.poll_all_sent(raw, cx))
    }

    /// Writes what is queued now, before the iteration ends.
    pub(super) fn flush_queued(&self) {
        if self.0.write.has_queued() {
            batch::flush();
        }
    }

    #[cfg(test)]
    pub(super) fn has_prefetched(&self) -> bool {
        self.0.read.has_prefetched()
    }

    fn poll_write_pieces(&self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Inner { write, .. } = &*self.0;
        ready!(self.poll_backlog(cx))?;
        let length = pieces.iter().map(|piece| piece.len()).sum();
        if write.may_queue(length) {
            write.add_queued(cx, length);
            if batch::queue(&self.0, pieces, length) {
                return Poll::Ready(Ok(length));
            }
            write.remove_queued(length);
        }
        if write.has_queued() {
            // Nothing overtakes what is queued.
            batch::flush();
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

    fn write_queued(&self, bytes: &[u8]) {
        if let Some(raw) = &*self.raw.borrow() {
            self.write.write_queued(raw, bytes);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.waker.take();
        if self.0.write.must_flush_on_drop() {
            batch::flush();
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
        // Every poll writes the backlog. Its error is left to the writer: there may be a response to read.
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
            write.begin_message();
        }
        poll
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_pieces(cx, &[IoSlice::new(bytes)])
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
        self.poll_write_pieces(cx, pieces)
    }
}
