//! Owns: sending the body of a message on a stream of HTTP/2.
//! Invariant: one piece of the body is held at most, and no byte is sent that the peer's windows have no room for.
//! Must not know: connections, which side sends.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use http_body::Body;

/// A piece of a body, of which any part can be sent.
pub trait Piece: Buf + Default + Unpin {
    /// Takes the first `length` bytes, which it has.
    #[must_use]
    fn split_to(&mut self, length: usize) -> Self;
}

impl Piece for Bytes {
    fn split_to(&mut self, length: usize) -> Bytes {
        Bytes::split_to(self, length)
    }
}

/// A body that may arrive on a stream of HTTP/2.
pub trait PacedBody: Body {
    /// Is polled instead of the body while the reader takes nothing, so that the body holds as little as it can.
    fn hold(&mut self, _cx: &mut Context<'_>) {}
}

/// Sends a body to its end. Dropping it before resets the stream.
pub struct BodySender<B: PacedBody<Data: Piece>> {
    body: B,
    stream: SendStream<B::Data>,
    /// A piece of the body that waits for the peer.
    piece: B::Data,
    is_last: bool,
    /// What the peer is told if the body fails.
    failure: Reason,
}

impl<B: PacedBody<Data: Piece> + Unpin> BodySender<B> {
    /// Makes a sender that resets the stream with `failure` if the body fails.
    pub fn new(body: B, stream: SendStream<B::Data>, failure: Reason) -> BodySender<B> {
        BodySender { body, stream, piece: B::Data::default(), is_last: false, failure }
    }

    /// Sends what there is. Ready once nothing more will be sent; an error that matters ends the response, too.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if self.stream.poll_reset(cx)?.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if self.piece.has_remaining() {
                if self.poll_send_piece(cx)?.is_pending() {
                    self.body.hold(cx);
                    return Poll::Pending;
                }
                continue;
            }
            if self.is_last {
                return Poll::Ready(Ok(()));
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                return Poll::Ready(self.stream.send_data(B::Data::default(), true));
            };
            let Ok(frame) = frame else {
                self.stream.send_reset(self.failure);
                return Poll::Ready(Ok(()));
            };
            match frame.into_data() {
                Ok(piece) => {
                    (self.piece, self.is_last) = (piece, self.body.is_end_stream());
                    if !self.piece.has_remaining() && self.is_last {
                        return Poll::Ready(self.stream.send_data(B::Data::default(), true));
                    }
                }
                Err(frame) => {
                    return Poll::Ready(frame.into_trailers().map_or(Ok(()), |all| self.stream.send_trailers(all)));
                }
            }
        }
    }

    /// Sends as much of the piece as the windows have room for.
    fn poll_send_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.stream.reserve_capacity(self.piece.remaining());
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(room) => drop(room?),
                // The stream was closed meanwhile.
                None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
            }
        }
        let part = self.piece.split_to(self.stream.capacity().min(self.piece.remaining()));
        Poll::Ready(self.stream.send_data(part, !self.piece.has_remaining() && self.is_last))
    }
}

impl<B: PacedBody<Data: Piece> + Unpin> Future for BodySender<B> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().poll_send(cx).map(|end| {
            if let Err(error) = end {
                tracing::debug!(%error, "cannot send the rest of a body");
            }
        })
    }
}
