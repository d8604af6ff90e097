//! Owns: the body of a message that arrives on a stream of HTTP/2.
//! Invariant: the peer may send more only for what the reader has taken; what waits for the reader takes about as much
//! memory as it has bytes.
//! Must not know: connections, which side sends, who reads.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};

/// The least memory for bytes that wait, so that a body which arrives byte by byte takes no allocation for each.
const MIN_BLOCK: usize = 1024;

/// The body of a message.
pub struct StreamBody {
    stream: RecvStream,
    /// What is left of the length that the header section announced.
    left: Option<u64>,
    /// Bytes that the reader was given last. It takes more only once it is done with them: then the peer may send as
    /// many.
    given: usize,
    /// Bytes that wait for the reader, as copies: a frame is a part of the buffer of a whole connection.
    waiting: VecDeque<Vec<u8>>,
    /// Why there is no more data: the stream has ended, perhaps with an error.
    end: Option<Result<(), h2::Error>>,
}

impl StreamBody {
    /// Makes the body of a message whose header section announced this length.
    pub fn new(stream: RecvStream, length: Option<u64>) -> StreamBody {
        let left = length.or(stream.is_end_stream().then_some(0));
        StreamBody { stream, left, given: 0, waiting: VecDeque::new(), end: None }
    }

    /// Makes copies of the data that has arrived, for a reader that takes none now.
    pub fn hold(&mut self, cx: &mut Context<'_>) {
        while self.end.is_none() {
            let Poll::Ready(Some(data)) = self.poll_data(cx) else { return };
            let mut rest = &data[..];
            while !rest.is_empty() {
                let room = self.waiting.back().map_or(0, |last| last.capacity() - last.len());
                match self.waiting.back_mut().filter(|_| room > 0) {
                    Some(last) => {
                        let (fits, more) = rest.split_at(room.min(rest.len()));
                        last.extend_from_slice(fits);
                        rest = more;
                    }
                    None => self.waiting.push_back(Vec::with_capacity(rest.len().max(MIN_BLOCK))),
                }
            }
        }
    }

    /// Polls for the next data. Ready without any at the end.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => return Poll::Ready(Some(data)),
            Some(Err(error)) => self.end = Some(Err(error)),
            None => self.end = Some(Ok(())),
        }
        Poll::Ready(None)
    }

    /// Lets the peer send as many bytes as the reader was given last.
    fn release(&mut self) {
        let given = std::mem::take(&mut self.given);
        // It fails only beyond what has arrived.
        let _ = self.stream.flow_control().release_capacity(given);
    }
}

/// It fails if the peer resets the stream before the end of the message, or the connection ends. A reset without an error
/// (NO_ERROR), too: with it a server stops an upload, but only after a complete response (RFC 9113 §8.1).
impl Body for StreamBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        self.release();
        let data = match (self.waiting.pop_front(), &self.end) {
            (Some(data), _) => Some(data.into()),
            (None, Some(_)) => None,
            (None, None) => ready!(self.poll_data(cx)),
        };
        if let Some(data) = data {
            self.given = data.len();
            self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match self.end.take() {
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            _ => {
                self.end = Some(Ok(()));
                match ready!(self.stream.poll_trailers(cx)) {
                    Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
                    Err(error) => Poll::Ready(Some(Err(error))),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_empty() && self.end.as_ref().is_none_or(Result::is_ok) && self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::future::Future;
    use std::task::Waker;
    use tokio::io::duplex;

    const WINDOW: usize = 32 * 1024;

    /// Sends a body in pieces of this size, and calls `read` with what the client receives.
    async fn receive<R>(piece: usize, count: usize, read: impl AsyncFnOnce(StreamBody) -> R) -> R {
        let (near, far) = duplex(1 << 20);
        let backend = async {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut body = respond.send_response(http::Response::new(()), false).unwrap();
            for _ in 0..count {
                body.send_data(Bytes::from(vec![b'x'; piece]), false).unwrap();
                // So that each piece has its own frame.
                let _ = futures_util::poll!(std::pin::pin!(connection.accept()));
                tokio::task::yield_now().await;
            }
            body.send_trailers(http::HeaderMap::new()).unwrap();
            connection.accept().await.transpose().unwrap();
            std::future::pending::<()>().await;
        };
        let client = async {
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(WINDOW as u32);
            let (mut sender, mut connection) = builder.handshake::<_, Bytes>(near).await.unwrap();
            let response = sender.send_request(http::Request::get("http://a/").body(()).unwrap(), true).unwrap().0;
            let read = async {
                let stream = response.await.unwrap().into_body();
                read(StreamBody::new(stream, None)).await
            };
            tokio::select! {
                read = read => read,
                _ = std::future::poll_fn(|cx| Pin::new(&mut connection).poll(cx)) => panic!("the connection ended"),
            }
        };
        tokio::select! {
            read = client => read,
            () = backend => panic!("the backend ended"),
        }
    }

    /// Holds what arrives until nothing more does.
    async fn hold_all(body: &mut StreamBody) -> (usize, usize) {
        for _ in 0..3000 {
            body.hold(&mut Context::from_waker(Waker::noop()));
            tokio::task::yield_now().await;
        }
        (body.waiting.iter().map(Vec::len).sum(), body.waiting.iter().map(Vec::capacity).sum())
    }

    #[tokio::test]
    async fn a_backend_sends_no_more_than_the_window_for_a_reader_that_takes_nothing_and_all_for_one_that_does() {
        let (held, read) = receive(100_000, 3, async |mut body| {
            let (held, capacity) = hold_all(&mut body).await;
            assert!(capacity <= held + 2 * MIN_BLOCK, "{capacity} for {held}");
            assert!(!body.is_end_stream());
            let mut read = 0;
            while let Some(frame) = body.frame().await {
                read += frame.unwrap().data_ref().map_or(0, Bytes::len);
            }
            assert!(body.is_end_stream());
            (held, read)
        })
        .await;
        assert_eq!((held, read), (WINDOW, 300_000));
    }

    #[tokio::test]
    async fn a_body_that_arrives_in_small_pieces_holds_no_buffer_for_each() {
        let (held, capacity) = receive(10, 1000, async |mut body| hold_all(&mut body).await).await;
        assert!(held == 10_000 && capacity <= held + MIN_BLOCK, "{capacity} for {held}");
    }
}
