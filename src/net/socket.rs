//! Owns: one connected socket, over TCP or a Unix socket.
//! Invariant: bytes pass in order; what is small passes with the turn of the event loop.
//! Must not know: TLS, HTTP.

mod incoming;
mod outgoing;
mod raw;

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixSocket, UnixStream};

use super::turn::{self, Bell, Carried};
use super::{Address, shortage};
use incoming::Incoming;
use outgoing::Outgoing;
pub use outgoing::Sent;
use raw::Raw;

/// A connected socket.
///
/// On a thread whose sockets are [carried](turn::carry), small pieces are sent at the end of the event loop's
/// turn. There a write is ready before the kernel has the bytes, and so is a flush: nothing more has to
/// be done to have them sent. Who has to know asks [`sent`](Self::sent), or waits for
/// [`poll_sent`](Self::poll_sent). That they can't be sent is told by the next write or flush, for which the
/// task that wrote is woken. Dropping a socket sends what waits, or [takes it back](Sent::take_back), and closes it.
#[derive(Debug)]
pub struct Socket(Rc<Shared>);

/// A socket, shared with the turn.
#[derive(Debug)]
struct Shared {
    /// `None` once its owner has gone.
    raw: RefCell<Option<Raw>>,
    incoming: Incoming,
    outgoing: Outgoing,
    /// What rings when there is something to read, once that pays.
    bell: RefCell<Option<Bell>>,
}

impl Socket {
    /// Connects to `address`. A TCP socket sends small pieces at once: without TCP_NODELAY a small
    /// request's last segment could wait for an acknowledgement. Where it is `for_request`, it takes none of the
    /// descriptors that are [kept](shortage::keep_from).
    ///
    /// # Errors
    /// What the system says.
    pub async fn connect(address: &Address, for_request: bool) -> io::Result<Socket> {
        let check = |socket: &dyn AsRawFd| if for_request { shortage::check(&socket.as_raw_fd()) } else { Ok(()) };
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
    pub fn silent(self) -> Socket {
        let _ = self.0.with(|raw| raw.expect_nothing());
        self
    }

    fn new(raw: Raw) -> Socket {
        Socket(Rc::new(Shared {
            raw: RefCell::new(Some(raw)),
            incoming: Incoming::new(),
            outgoing: Outgoing::new(),
            bell: RefCell::new(None),
        }))
    }

    /// What becomes of the bytes that are written.
    pub fn sent(&self) -> Rc<Sent> {
        self.0.outgoing.sent()
    }

    /// Reads less at once from now on, in smaller buffers: as a client's connection of HTTP/1 does.
    pub fn read_little(&self) {
        self.0.incoming.take_little();
    }

    /// Bytes that are read at once, at the most.
    pub(super) fn most(&self) -> usize {
        self.0.incoming.most()
    }

    /// Whether there is something to read, or the end.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(|raw| {
            let _ = self.0.outgoing.poll_untroubled(raw, cx);
            self.0.incoming.poll_ready(raw, cx)
        })
    }

    /// Waits until `is_enough` is there of what is unread, or as much as is read at once, or the end. It is all
    /// still to be read, and of what is not enough no buffer is held.
    pub fn poll_gather(&self, cx: &mut Context<'_>, is_enough: fn(&[u8]) -> bool) -> Poll<()> {
        let gathered = self.0.poll(|raw| self.0.incoming.poll_gather(raw, cx, is_enough).map(Ok));
        // A socket that is gone has nothing more to read.
        gathered.map(drop)
    }

    /// What `look` says of what has been gathered and is not read.
    pub fn gathered<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        self.0.incoming.gathered(look)
    }

    /// Bytes that the kernel takes at once, about; 0 if it can't tell.
    pub fn room(&self) -> usize {
        self.0.with(|raw| Ok(raw.room())).unwrap_or(0)
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
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(|raw| self.0.outgoing.poll_sent(raw, cx))
    }

    /// Sends what waits now, and not at the end of the turn.
    pub fn send_now(&self) {
        if self.0.outgoing.is_waiting() {
            turn::send();
        }
    }

    #[cfg(test)]
    pub(super) fn is_fetched(&self) -> bool {
        self.0.incoming.is_fetched()
    }

    fn poll_send(&self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Shared { outgoing, .. } = &*self.0;
        ready!(self.poll_untroubled(cx))?;
        let length = pieces.iter().map(|piece| piece.len()).sum();
        if outgoing.may_wait(length) {
            outgoing.begin(cx, length);
            if turn::put(&self.0, pieces, length) {
                return Poll::Ready(Ok(length));
            }
            outgoing.end(length);
        }
        if outgoing.is_waiting() {
            // Nothing overtakes what waits.
            turn::send();
            ready!(self.poll_untroubled(cx))?;
        }
        self.0.poll(|raw| outgoing.poll_write(raw, cx, pieces))
    }

    fn poll_untroubled(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(|raw| self.0.outgoing.poll_untroubled(raw, cx))
    }
}

impl Shared {
    fn with<T>(&self, work: impl FnOnce(&mut Raw) -> io::Result<T>) -> io::Result<T> {
        self.raw.borrow_mut().as_mut().map_or_else(|| Err(io::ErrorKind::NotConnected.into()), work)
    }

    fn poll<T>(&self, poll: impl FnOnce(&mut Raw) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let mut raw = self.raw.borrow_mut();
        raw.as_mut().map_or_else(|| Poll::Ready(Err(io::ErrorKind::NotConnected.into())), poll)
    }
}

impl Carried for Shared {
    fn fetch(&self) {
        if let (Some(raw), Some(bell)) = (&mut *self.raw.borrow_mut(), &*self.bell.borrow()) {
            self.incoming.fetch(raw, bell);
        }
    }

    fn call(&self) {
        self.incoming.call();
    }

    fn send(&self, piece: &[u8]) {
        if let Some(raw) = &*self.raw.borrow() {
            self.outgoing.send(raw, piece);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.bell.take();
        if self.0.outgoing.outlives() {
            turn::send();
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
        let Shared { incoming, outgoing, bell, .. } = &*self.0;
        // Whoever polls a socket has it send what it could not. Why it can't is told to who writes: there
        // may be an answer to read.
        if outgoing.is_troubled() {
            let _ = self.poll_untroubled(cx);
        }
        let poll = match incoming.poll_fetched(cx, buffer) {
            Some(known) => known,
            None => {
                let mut bell = bell.borrow_mut();
                if bell.is_none() && incoming.is_regular() {
                    *bell = Bell::new(&self.0);
                }
                self.0.poll(|raw| incoming.poll_read(raw, cx, bell.as_ref(), buffer))
            }
        };
        if poll.is_ready() {
            outgoing.begins();
        }
        poll
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_untroubled(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx))?;
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
