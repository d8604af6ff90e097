//! Owns: a stream of HTTP/2 as a stream of bytes in both directions (RFC 8441).
//! Invariant: each side moves at the pace of its reader.
//! Must not know: which protocol the bytes speak.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::delivery::CountedChunk;
use crate::http2::StreamBody;

/// A stream that became a tunnel.
pub(super) struct StreamTunnel {
    receiver: StreamBody,
    /// What was received and not read yet.
    unread: Bytes,
    sender: SendStream<CountedChunk>,
}

impl StreamTunnel {
    pub(super) fn new(receiver: StreamBody, sender: SendStream<CountedChunk>) -> StreamTunnel {
        StreamTunnel { receiver, unread: Bytes::new(), sender }
    }
}

impl AsyncRead for StreamTunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.receiver).poll_frame(cx)) {
                Some(Ok(frame)) => self.unread = frame.into_data().unwrap_or_default(),
                Some(Err(error)) if error.reason() != Some(Reason::CANCEL) => {
                    return Poll::Ready(Err(io::Error::other(error)));
                }
                Some(Err(_)) | None => return Poll::Ready(Ok(())),
            }
        }
        let part = buffer.remaining().min(self.unread.len());
        buffer.put_slice(&self.unread[..part]);
        self.unread.advance(part);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamTunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sender = &mut self.sender;
        if sender.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        sender.reserve_capacity(bytes.len());
        while sender.capacity() == 0 {
            match ready!(sender.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let part = &bytes[..sender.capacity().min(bytes.len())];
        let sent = sender.send_data(Bytes::copy_from_slice(part).into(), false);
        Poll::Ready(sent.map(|()| part.len()).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.sender.send_data(CountedChunk::default(), true).map_err(io::Error::other))
    }
}
