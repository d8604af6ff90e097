//! Owns: one HTTP/1.1 connection to a backend over any stream, and the request and response on it.
//! Invariant: polling it does all of its work: no other task, no wake-up between tasks; a connection that waits for its
//! backend holds no buffer.
//! Must not know: other connections; when to give up.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::Decoder;
pub use super::head::FieldRules;
use super::head::{HeadReader, ResponseHead};
use super::read;
use super::spare_fields;
use super::write::{RequestWriter, WriteError};
use crate::reason::Reason;
use crate::upstream::failure::Fact;
use crate::upstream::outgoing::RequestHead;

/// A connection over the stream `S`, for requests with bodies of type `B`.
pub struct Connection<S, B> {
    stream: S,
    rules: FieldRules,
    /// Bytes that were read and not used yet.
    unread: Bytes,
    /// The number of bytes that were read.
    received: u64,
    /// The request that is being sent.
    writer: Option<RequestWriter<B>>,
    /// Why the request could not be sent whole.
    write_error: Option<ConnectionError>,
    state: State,
    /// The value of the response's field that is kept apart.
    kept_apart: Option<Bytes>,
    /// Whether it can carry another request after this one.
    is_persistent: bool,
    is_response_to_head: bool,
}

enum State {
    /// It carries no request.
    Idle,
    /// It waits for a response.
    Head(HeadReader),
    /// It reads the body of the response.
    Body(Decoder),
    /// It has switched to another protocol.
    Upgraded,
    /// Nothing more can be read.
    Failed,
}

/// Why a response is missing or incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionError {
    /// What happened.
    pub fact: Fact,
    /// The same in words.
    pub reason: Reason,
}

impl std::fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::error::Error for ConnectionError {}

impl From<Fact> for ConnectionError {
    fn from(fact: Fact) -> ConnectionError {
        let reason = match fact {
            Fact::HeadTooLarge => Reason::TOO_LARGE,
            Fact::Garbage => Reason::MALFORMED,
            Fact::RequestBody => Reason::REQUEST_BODY,
            _ => Reason::CLOSED,
        };
        ConnectionError { fact, reason }
    }
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> ConnectionError {
        ConnectionError { fact: Fact::Closed, reason: Reason::of(&error) }
    }
}

impl<S, B> Connection<S, B>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
{
    /// Makes a connection that reads the fields of responses by these rules.
    pub fn new(stream: S, rules: FieldRules) -> Connection<S, B> {
        Connection {
            stream,
            rules,
            unread: Bytes::new(),
            received: 0,
            writer: None,
            write_error: None,
            state: State::Idle,
            kept_apart: None,
            is_persistent: true,
            is_response_to_head: false,
        }
    }

    /// Returns the stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Returns the number of bytes that were read so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Checks that the connection can carry a request: it carries none, and its backend has sent nothing since the
    /// last response, nor closed it.
    ///
    /// # Errors
    /// Why it can't. Nothing was sent.
    pub fn check_ready(&mut self, cx: &mut Context<'_>) -> Result<(), ConnectionError> {
        self.finish_exchange(cx);
        if !matches!(self.state, State::Idle) || !self.unread.is_empty() {
            return Err(Fact::Closed.into());
        }
        match self.poll_read(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(read) => {
                self.state = State::Failed;
                Err(read.err().unwrap_or(Fact::Closed.into()))
            }
        }
    }

    /// Ends an exchange whose request and response are both complete.
    fn finish_exchange(&mut self, cx: &mut Context<'_>) {
        let State::Body(decoder) = &self.state else { return };
        if !decoder.is_complete() {
            return;
        }
        self.poll_write(cx);
        self.kept_apart = None;
        let is_sent = self.writer.is_none() && self.write_error.is_none();
        self.state = if is_sent && self.is_persistent { State::Idle } else { State::Failed };
    }

    /// Begins a request, which [`poll_response`](Self::poll_response) sends. Call it only if
    /// [`check_ready`](Self::check_ready) succeeds.
    pub fn begin(&mut self, head: &RequestHead<'_>, body: B) {
        self.is_response_to_head = head.method == Method::HEAD;
        self.writer = Some(RequestWriter::new(head, body));
        self.state = State::Head(HeadReader::default());
    }

    /// Sends the request and waits for the header section of the final response. Each interim response goes to
    /// `on_interim` (RFC 9110 §15.2), which may let the body of the request continue.
    ///
    /// # Errors
    /// Why there is no response. The connection can't be used again.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        on_interim: &mut dyn FnMut(StatusCode, HeaderMap),
    ) -> Poll<Result<Response<()>, ConnectionError>> {
        loop {
            self.poll_write(cx);
            let read = match self.read_head() {
                Ok(Some(head)) if head.is_interim() => {
                    let (head, ()) = head.response.into_parts();
                    on_interim(head.status, head.headers);
                    continue;
                }
                Ok(Some(head)) => return Poll::Ready(Ok(head.response)),
                Ok(None) => self.poll_read_more(cx),
                Err(fact) => Poll::Ready(Err(fact.into())),
            };
            match read {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.state = State::Failed;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => return self.write_error.map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
            }
        }
    }

    /// Reads a header section out of the bytes that have arrived.
    fn read_head(&mut self) -> Result<Option<ResponseHead>, Fact> {
        let State::Head(reader) = &mut self.state else { return Err(Fact::Closed) };
        if self.unread.is_empty() {
            return Ok(None);
        }
        let Some(mut head) = reader.read(&mut self.unread, self.rules, spare_fields::take)? else {
            return Ok(None);
        };
        if !head.is_interim() {
            let framing = head.settle_framing(self.is_response_to_head)?;
            self.is_persistent &= head.is_persistent;
            self.kept_apart = head.kept_apart.take();
            self.state = match head.response.status() {
                StatusCode::SWITCHING_PROTOCOLS => State::Upgraded,
                _ => State::Body(Decoder::new(framing)),
            };
        }
        Ok(Some(head))
    }

    /// Polls for the next frame of the response's body, and sends what is left of the request.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ConnectionError>>> {
        self.poll_write(cx);
        loop {
            let State::Body(decoder) = &mut self.state else {
                let is_upgraded = matches!(self.state, State::Upgraded);
                return Poll::Ready((!is_upgraded).then_some(Err(Fact::Closed.into())));
            };
            let read = match decoder.decode(&mut self.unread) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if decoder.is_complete() => return Poll::Ready(None),
                Ok(None) => self.poll_read_more(cx),
                Err(_) => Poll::Ready(Err(Fact::Garbage.into())),
            };
            match read {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.state = State::Failed;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => return self.write_error.map_or(Poll::Pending, |error| Poll::Ready(Some(Err(error)))),
            }
        }
    }

    /// Returns the value of the response's field that is kept apart, once.
    pub fn take_kept_apart(&mut self) -> Option<Bytes> {
        self.kept_apart.take()
    }

    /// Whether the body of the response has been read to its end.
    pub fn is_end(&self) -> bool {
        match &self.state {
            State::Body(decoder) => decoder.is_complete(),
            State::Upgraded => true,
            State::Idle | State::Head(_) | State::Failed => false,
        }
    }

    /// Returns how much of the response's body is left.
    pub fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Body(decoder) => decoder.size_hint(),
            State::Upgraded => SizeHint::with_exact(0),
            State::Idle | State::Head(_) | State::Failed => SizeHint::default(),
        }
    }

    /// Returns the stream, and the bytes that were read behind the response, after a response that switches protocols.
    pub fn into_upgraded(self) -> Option<(S, Bytes)> {
        (matches!(self.state, State::Upgraded) && self.writer.is_none()).then_some((self.stream, self.unread))
    }

    /// Writes as much of the request as possible.
    fn poll_write(&mut self, cx: &mut Context<'_>) {
        let Some(writer) = &mut self.writer else { return };
        if let Poll::Ready(written) = writer.poll(&mut self.stream, cx) {
            self.writer = None;
            self.write_error = written.err().map(|error| match error {
                WriteError::Body => Fact::RequestBody.into(),
                WriteError::Io(error) => error.into(),
            });
        }
    }

    /// Reads more of the response; all that was read before is used.
    ///
    /// # Errors
    /// The connection has failed, or ended too early.
    fn poll_read_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let Poll::Ready(read) = self.poll_read(cx) else { return Poll::Pending };
        self.unread = read?;
        if !self.unread.is_empty() {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(match &mut self.state {
            State::Body(decoder) => decoder.end_of_input().map_err(|_| Fact::Closed.into()),
            _ => Err(Fact::Closed.into()),
        })
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, ConnectionError>> {
        let poll = read::poll_read(&mut self.stream, cx);
        if let Poll::Ready(Ok(read)) = &poll {
            self.received += read.len() as u64;
        }
        poll.map_err(ConnectionError::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::combinators::UnsyncBoxBody;
    use http_body_util::{BodyExt, Empty, StreamBody};
    use std::task::Waker;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    type TestBody = UnsyncBoxBody<Bytes, io::Error>;

    /// Sends a request with this body, and has the backend respond with these bytes.
    async fn exchange(
        body: TestBody,
        response: &[u8],
    ) -> (Connection<DuplexStream, TestBody>, DuplexStream, Poll<Result<Response<()>, ConnectionError>>) {
        let (stream, mut backend) = duplex(4096);
        let mut connection = Connection::new(stream, FieldRules { max: 100, kept_apart: None });
        let mut cx = Context::from_waker(Waker::noop());
        assert!(connection.check_ready(&mut cx).is_ok());
        let fields = HeaderMap::from_iter([(http::header::HOST, http::HeaderValue::from_static("a"))]);
        let target = http::Uri::from_static("/");
        let head = RequestHead { method: &Method::POST, target: &target, fields: &fields, added: None };
        connection.begin(&head, body);
        backend.write_all(response).await.unwrap();
        let polled = connection.poll_response(&mut cx, &mut |_, _| {});
        (connection, backend, polled)
    }

    fn empty() -> TestBody {
        Empty::new().map_err(|never| match never {}).boxed_unsync()
    }

    fn endless() -> TestBody {
        StreamBody::new(stream::pending()).boxed_unsync()
    }

    #[tokio::test]
    async fn a_connection_is_used_again_only_if_nothing_follows_its_response() {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut connection, mut backend, polled) = exchange(empty(), b"HTTP/1.1 204 X\r\n\r\n").await;
        assert!(matches!(polled, Poll::Ready(Ok(_))) && connection.check_ready(&mut cx).is_ok());
        backend.write_all(b"H").await.unwrap();
        assert_eq!(connection.check_ready(&mut cx), Err(Fact::Closed.into()), "of no request");

        let (mut connection, backend, _) = exchange(empty(), b"HTTP/1.1 204 X\r\n\r\n").await;
        drop(backend);
        assert_eq!(connection.check_ready(&mut cx), Err(Fact::Closed.into()), "the backend has closed it");

        let (mut connection, _backend, polled) = exchange(empty(), b"HTTP/1.1 204 X\r\n\r\nHTTP/1.1 200 X\r\n").await;
        assert!(matches!(polled, Poll::Ready(Ok(_))));
        assert!(connection.check_ready(&mut cx).is_err(), "the next client must not get this response");
    }

    #[tokio::test]
    async fn a_connection_whose_request_is_not_sent_whole_carries_no_other_and_switches_to_no_protocol() {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut connection, _backend, polled) = exchange(endless(), b"HTTP/1.1 204 X\r\n\r\n").await;
        assert!(matches!(polled, Poll::Ready(Ok(_))) && connection.is_end());
        assert!(connection.check_ready(&mut cx).is_err());
        let switch = b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
        let (connection, _backend, polled) = exchange(endless(), switch).await;
        assert!(matches!(polled, Poll::Ready(Ok(_))) && connection.into_upgraded().is_none());
        let (connection, _backend, _) = exchange(empty(), switch).await;
        assert!(connection.into_upgraded().is_some());
    }

    #[tokio::test]
    async fn a_body_that_fails_ends_the_request_unless_a_response_is_there() {
        let fails = || StreamBody::new(stream::iter([Err(io::ErrorKind::Other.into())])).boxed_unsync();
        let (_, _backend, polled) = exchange(fails(), b"").await;
        assert!(matches!(polled, Poll::Ready(Err(error)) if error.fact == Fact::RequestBody));
        let (_, _backend, polled) = exchange(fails(), b"HTTP/1.1 413 X\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(polled, Poll::Ready(Ok(response)) if response.status() == 413));
    }
}
