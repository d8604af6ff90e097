//! Owns: tunnels, which move bytes in both directions after a connection has switched protocols, and their timeouts.
//! Invariant: an idle tunnel holds no buffer; a side that reads slowly slows the other down; every tunnel ends.
//! Must not know: what the bytes mean.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::exchange::Exchange;
use super::timeouts::Timeouts;
use crate::clock;
use crate::handler::{self, Duplex};
use crate::net::Stream;

/// Bytes read at once, and so the most that is held for a side that can't take them.
const PIECE: usize = 16 * 1024;

/// How long both sides of a tunnel that was ended have to end theirs.
const LINGER: Duration = Duration::from_secs(1);

/// Pieces that one direction may move before other connections run.
const PIECES_PER_POLL: usize = 16;

thread_local! {
    /// The read buffer of all tunnels of a thread: most bytes are written before anything else happens.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into());
}

/// The timeouts of a tunnel.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TunnelTimeouts {
    /// How long it may go without a byte moved.
    pub(super) idle: Duration,
    /// The same, once one side has ended.
    pub(super) ending: Duration,
    /// Its maximum lifetime.
    pub(super) lifetime: Option<Duration>,
}

/// A tunnel that has not begun yet. Dropping it ends its request and writes the record.
pub struct BackendTunnel {
    exchange: Box<Exchange>,
    backend: Stream,
    /// What the backend has sent after its response.
    read: Bytes,
    limits: TunnelTimeouts,
}

impl BackendTunnel {
    pub(super) fn new(exchange: Box<Exchange>, backend: Stream, read: Bytes, limits: TunnelTimeouts) -> BackendTunnel {
        BackendTunnel { exchange, backend, read, limits }
    }
}

impl handler::Tunnel for BackendTunnel {
    fn run(self: Box<Self>, client: Box<dyn Duplex>, read: Bytes) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(run(*self, client, read))
    }
}

/// Moves bytes between the client, from which `read` was read before, and the backend, until both have ended or a
/// timeout is reached.
async fn run(tunnel: BackendTunnel, mut client: Box<dyn Duplex>, read: Bytes) {
    let BackendTunnel { mut exchange, mut backend, read: backend_read, mut limits } = tunnel;
    let begun = clock::now();
    let mut up = Direction::new(read);
    let mut down = Direction::new(backend_read);
    let (mut is_ending, mut is_drained) = (false, false);
    exchange.wait_deadline().set(limits.due(begun, begun));
    let ended = poll_fn(|cx| {
        if !is_drained && exchange.ends_stream() {
            is_drained = true;
            up.finish();
            down.finish();
            // What is held has a moment to be written.
            limits = TunnelTimeouts { idle: LINGER, ending: LINGER, ..limits };
            exchange.wait_deadline().set(clock::now() + LINGER);
        }
        let moved = up.moved + down.moved;
        let up_ends = up.poll(cx, &mut client, &mut backend);
        let down_ends = down.poll(cx, &mut backend, &mut client);
        if let (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) = (&up_ends, &down_ends) {
            return Poll::Ready(Some(error.kind()));
        }
        if up_ends.is_ready() && down_ends.is_ready() {
            return Poll::Ready(None);
        }
        let ends = up_ends.is_ready() || down_ends.is_ready();
        if up.moved + down.moved != moved || ends != is_ending {
            is_ending = ends;
            let limits = if ends { limits.at_the_end() } else { limits };
            exchange.wait_deadline().set(limits.due(begun, clock::now()));
        }
        exchange.wait_deadline().poll(cx).map(|()| Some(io::ErrorKind::TimedOut))
    })
    .await;
    exchange.tunnel_ended_with(up.moved, down.moved, ended);
    if is_drained {
        exchange.drained();
        exchange.wait_deadline().set(clock::now() + LINGER);
        poll_fn(|cx| {
            let ends = [discard(cx, &mut client), discard(cx, &mut backend)];
            if ends.iter().all(Poll::is_ready) { Poll::Ready(()) } else { exchange.wait_deadline().poll(cx) }
        })
        .await;
    }
}

/// Reads and discards until the peer has ended, so that what it still sends causes no reset, which could overtake our
/// last bytes.
fn discard(cx: &mut Context<'_>, from: &mut (impl AsyncRead + Unpin)) -> Poll<()> {
    SCRATCH.with_borrow_mut(|scratch| {
        for _ in 0..PIECES_PER_POLL {
            let mut buffer = ReadBuf::new(scratch);
            match ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

impl TunnelTimeouts {
    pub(super) fn of(timeouts: &Timeouts) -> TunnelTimeouts {
        TunnelTimeouts { idle: timeouts.stream_idle, ending: timeouts.idle, lifetime: timeouts.tunnel_lifetime }
    }

    /// Returns the timeouts once one side has closed. Few protocols continue in one direction, and a peer that has left
    /// looks like one that has only finished sending.
    fn at_the_end(self) -> TunnelTimeouts {
        TunnelTimeouts { idle: self.idle.min(self.ending), ..self }
    }

    /// Returns when a tunnel times out that began at `begun` and moved its last byte at `last`.
    fn due(self, begun: Instant, last: Instant) -> Instant {
        let far = Duration::from_secs(366 * 86_400);
        let idle = last + self.idle.min(far);
        self.lifetime.map_or(idle, |lifetime| idle.min(begun + lifetime.min(far)))
    }
}

/// One direction.
struct Direction {
    /// Bytes that were read and could not be written yet.
    held: Bytes,
    moved: u64,
    state: DirectionState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DirectionState {
    Open,
    /// Something was written that TLS may hold back until a flush.
    Unflushed,
    /// The reading side has ended; the writing side must be shut down.
    Ending,
    Ended,
}

impl Direction {
    fn new(held: Bytes) -> Direction {
        let mut flow = Direction { held, moved: 0, state: DirectionState::Open };
        flow.release_buffer();
        flow
    }

    /// Releases the buffer that the held bytes were a part of, once none are left.
    fn release_buffer(&mut self) {
        if self.held.is_empty() {
            self.held = Bytes::new();
        }
    }

    /// Reads no more: what is held is still written, then the writing side is shut down.
    fn finish(&mut self) {
        if self.state != DirectionState::Ended {
            self.state = DirectionState::Ending;
        }
    }

    /// Moves what can be moved from `from` to `to`. Ready once `from` has ended and everything is written.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..PIECES_PER_POLL {
            while !self.held.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.held))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.held.advance(written);
                self.release_buffer();
                self.wrote(written);
            }
            match self.state {
                DirectionState::Ended => return Poll::Ready(Ok(())),
                DirectionState::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = DirectionState::Ended;
                    return Poll::Ready(Ok(()));
                }
                DirectionState::Open | DirectionState::Unflushed => {}
            }
            if self.piece(cx, from, to)?.is_pending() {
                if self.state == DirectionState::Unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.state = DirectionState::Open;
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads a piece, writes what `to` takes at once, and holds the rest.
    fn piece<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> io::Result<Poll<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            if Pin::new(&mut *from).poll_read(cx, &mut buffer)?.is_pending() {
                return Ok(Poll::Pending);
            }
            let read = buffer.filled();
            if read.is_empty() {
                self.state = DirectionState::Ending;
                return Ok(Poll::Ready(()));
            }
            let written = match Pin::new(&mut *to).poll_write(cx, read)? {
                Poll::Ready(written) => written,
                Poll::Pending => 0,
            };
            self.wrote(written);
            if let Some(rest) = read.get(written..).filter(|rest| !rest.is_empty()) {
                self.held = Bytes::copy_from_slice(rest);
            }
            Ok(Poll::Ready(()))
        })
    }

    fn wrote(&mut self, bytes: usize) {
        if bytes > 0 {
            self.moved += bytes as u64;
            self.state = DirectionState::Unflushed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[test]
    fn a_tunnel_has_its_time_from_the_last_byte_and_from_its_beginning() {
        let begun = Instant::now();
        let seconds = Duration::from_secs;
        let idle = TunnelTimeouts { idle: seconds(10), ending: seconds(3), lifetime: None };
        assert_eq!(idle.due(begun, begun + seconds(5)), begun + seconds(15));
        assert_eq!(idle.at_the_end().due(begun, begun + seconds(5)), begun + seconds(8));
        let both = TunnelTimeouts { lifetime: Some(seconds(12)), ..idle };
        assert_eq!(both.due(begun, begun + seconds(1)), begun + seconds(11));
        assert_eq!(both.due(begun, begun + seconds(5)), begun + seconds(12));
        let endless = TunnelTimeouts { idle: Duration::MAX, ending: Duration::MAX, lifetime: Some(Duration::MAX) };
        assert!(endless.due(begun, begun) > begun + seconds(86_400));
    }

    #[tokio::test]
    async fn once_all_is_written_nothing_is_held_of_the_buffers_that_it_was_read_into() {
        let buffer = Bytes::from(vec![0; 8192]);
        let mut nothing = buffer.clone();
        nothing.advance(8192);
        let _idle = Direction::new(nothing);
        assert!(buffer.is_unique(), "nothing came behind the head");
        let (mut silent, _other) = duplex(64);
        let mut flow = Direction::new(buffer.slice(8190..));
        let moved = poll_fn(|cx| Poll::Ready(flow.poll(cx, &mut silent, &mut tokio::io::sink()))).await;
        assert!(moved.is_pending() && flow.moved == 2);
        assert!(buffer.is_unique(), "what came behind the head has gone");
    }

    #[tokio::test]
    async fn all_bytes_come_in_order_to_a_reader_that_takes_few_at_a_time() {
        let (mut near, mut from) = duplex(64 * 1024);
        let (mut to, mut far) = duplex(7);
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let sending = sent.clone();
        let sender = tokio::spawn(async move {
            near.write_all(&sending).await.unwrap();
            near.shutdown().await.unwrap();
        });
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.unwrap();
            read
        });
        let mut flow = Direction::new(Bytes::from_static(b"first"));
        poll_fn(|cx| flow.poll(cx, &mut from, &mut to)).await.unwrap();
        sender.await.unwrap();
        assert_eq!(reader.await.unwrap(), [b"first", &sent[..]].concat());
        assert_eq!(flow.moved, 100_005);
    }
}
