//! The property of Linchpin's HTTP/1.1 client: of any response it reads what hyper's client reads, or refuses it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, Request, Response, Version};
use http_body::{Body, Frame};
use hyper_util::rt::TokioIo;
use linchpin::upstream::RequestHead;
use linchpin::upstream::http1::connection::{Connection, FieldRules};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The largest header section that Linchpin accepts, and the most fields.
const MAX_HEAD: usize = 256 * 1024;
const MAX_FIELDS: usize = 100;

/// What a client read of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    /// The status codes of interim responses.
    interim: Vec<u16>,
    head: Option<Head>,
    body: Vec<u8>,
    trailers: Option<Fields>,
    end: End,
}

/// The header section of the final response.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    version: Version,
    status: u16,
    reason: Option<Vec<u8>>,
    fields: Fields,
}

type Fields = Vec<(String, Vec<u8>)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The response is complete, and the connection can be used again, or cannot.
    Complete { is_reusable: bool },
    /// The connection switches to another protocol.
    Upgraded,
    /// The response is malformed or incomplete.
    Failed,
    /// The client waits for more.
    Waiting,
}

/// What comes after the bytes of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Close,
    Reset,
    Silence,
}

/// A stream on which a response arrives in pieces once a request was written.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    after: After,
    is_requested: bool,
    /// Whether the next piece has arrived. Otherwise, or before each piece, the stream has nothing for once.
    has_arrived: bool,
    is_paused: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.is_requested {
            return Poll::Pending;
        }
        if self.is_paused && !std::mem::replace(&mut self.has_arrived, true) {
            return Poll::Pending;
        }
        self.has_arrived = false;
        match (self.pieces.pop_front(), self.after) {
            (Some(mut piece), _) => {
                let rest = piece.split_off(piece.len().min(into.remaining()));
                into.put_slice(&piece);
                if !rest.is_empty() {
                    self.pieces.push_front(rest);
                }
                Poll::Ready(Ok(()))
            }
            (None, After::Close) => Poll::Ready(Ok(())),
            (None, After::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            (None, After::Silence) => Poll::Pending,
        }
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_requested = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_requested = true;
        Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
    }
}

/// The body of the request: none.
#[derive(Debug)]
struct Empty;

impl Body for Empty {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

fn request(method: &Method) -> Request<Empty> {
    Request::builder().method(method).uri("/").header("host", "a").body(Empty).expect("a request")
}

fn pairs(fields: &HeaderMap) -> Fields {
    fields.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

impl Outcome {
    fn new() -> Outcome {
        Outcome { interim: Vec::new(), head: None, body: Vec::new(), trailers: None, end: End::Waiting }
    }

    fn head<B>(&mut self, response: &Response<B>) {
        let reason = response.extensions().get::<hyper::ext::ReasonPhrase>();
        let mut headers = response.headers().clone();
        // Linchpin removes a Content-Length that does not count (RFC 9112 §6.3). To remove a field can move another one,
        // which changes nothing (RFC 9110 §5.3): so it is removed in the same way.
        if headers.contains_key("transfer-encoding") {
            headers.remove("content-length");
        }
        let fields = pairs(&headers);
        let status = response.status().as_u16();
        let reason = reason.map(|reason| reason.as_bytes().to_vec());
        self.head = Some(Head { version: response.version(), status, reason, fields });
        if status == 101 {
            self.end = End::Upgraded;
        }
    }

    /// Notes what a poll for a frame has returned. Returns whether there may be more.
    fn frame<E>(&mut self, frame: Option<Result<Frame<Bytes>, E>>) -> bool {
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.body.extend_from_slice(&data),
                Err(frame) => self.trailers = frame.into_trailers().ok().map(|trailers| pairs(&trailers)),
            },
            Some(Err(_)) => {
                self.end = End::Failed;
                return false;
            }
            None => {
                self.end = End::Complete { is_reusable: false };
                return false;
            }
        }
        true
    }
}

/// The number of polls after which every piece has arrived, and its end.
fn polls(stream: &Pieces) -> usize {
    2 * stream.pieces.len() + 10
}

/// Reads a response with Linchpin's client.
fn ours(method: &Method, stream: Pieces) -> Outcome {
    let cx = &mut Context::from_waker(Waker::noop());
    let (polls, mut outcome) = (polls(&stream), Outcome::new());
    let mut connection = Connection::new(stream, FieldRules { max: MAX_FIELDS, kept_apart: None });
    connection.check_ready(cx).expect("a new connection");
    let (head, body) = request(method).into_parts();
    let (method, target, fields) = (&head.method, &head.uri, &head.headers);
    connection.begin(&RequestHead { method, target, fields, added: None }, body);
    let mut is_more = true;
    for _ in 0..polls {
        if outcome.head.is_none() {
            let mut on_interim = |status: http::StatusCode, _| outcome.interim.push(status.as_u16());
            match connection.poll_response(cx, &mut on_interim) {
                Poll::Ready(Ok(response)) => outcome.head(&response),
                Poll::Ready(Err(_)) => {
                    outcome.end = End::Failed;
                    return outcome;
                }
                Poll::Pending => continue,
            }
        }
        while is_more && outcome.end == End::Waiting {
            let was_end = connection.is_end();
            let Poll::Ready(frame) = connection.poll_frame(cx) else { break };
            assert!(!was_end || frame.is_none(), "something after the end");
            is_more = outcome.frame(frame);
        }
    }
    if let End::Complete { is_reusable } = &mut outcome.end {
        // Whatever follows the response may arrive later.
        *is_reusable = (0..polls).all(|_| connection.check_ready(cx).is_ok());
    }
    outcome
}

/// Reads a response with hyper's client.
fn hypers(method: &Method, stream: Pieces) -> Outcome {
    let cx = &mut Context::from_waker(Waker::noop());
    let (polls, mut outcome) = (polls(&stream), Outcome::new());
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_header_size(MAX_HEAD).allow_spaces_after_header_name_in_responses(true);
    let Poll::Ready(Ok((mut sender, connection))) = pin!(builder.handshake(TokioIo::new(stream))).poll(cx) else {
        panic!("a handshake of HTTP/1.1 waits for nothing")
    };
    let mut connection = pin!(connection);
    let mut request = request(method);
    let interim = Arc::<Mutex<Vec<u16>>>::default();
    let seen = Arc::clone(&interim);
    hyper::ext::on_informational(&mut request, move |response| {
        seen.lock().expect("one thread").push(response.status().as_u16());
    });
    let mut response = pin!(sender.send_request(request));
    let mut received = None;
    let (mut is_more, mut has_ended) = (true, false);
    for _ in 0..polls {
        has_ended = has_ended || connection.as_mut().poll(cx).is_ready();
        outcome.interim.clone_from(&interim.lock().expect("one thread"));
        if received.is_none() {
            match response.as_mut().poll(cx) {
                Poll::Ready(Ok(response)) => {
                    outcome.head(&response);
                    received = Some(response.into_body());
                }
                Poll::Ready(Err(_)) => {
                    outcome.end = End::Failed;
                    return outcome;
                }
                Poll::Pending => {}
            }
        }
        let Some(body) = &mut received else { continue };
        while is_more && outcome.end == End::Waiting {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(frame) => is_more = outcome.frame(frame),
                Poll::Pending if !has_ended && connection.as_mut().poll(cx).is_ready() => has_ended = true,
                Poll::Pending => match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(frame) => is_more = outcome.frame(frame),
                    Poll::Pending => break,
                },
            }
        }
    }
    if let End::Complete { is_reusable } = &mut outcome.end {
        has_ended = has_ended || (0..polls).any(|_| connection.as_mut().poll(cx).is_ready());
        *is_reusable = !has_ended && sender.is_ready();
    }
    outcome
}

/// Splits a response: not at all, into bytes, or in places that follow from its bytes.
fn pieces(response: &[u8], split: usize) -> VecDeque<Vec<u8>> {
    let mut rest = response;
    let mut pieces = VecDeque::new();
    let mut seed =
        response.iter().fold(split as u64, |seed, byte| (seed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    while !rest.is_empty() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let length = match split {
            0 => rest.len(),
            1 => 1,
            _ => 1 + (seed >> 33) as usize % 40,
        };
        let (piece, others) = rest.split_at(length.min(rest.len()));
        pieces.push_back(piece.to_vec());
        rest = others;
    }
    pieces
}

/// Whether one client waits for more of what the other has already found to be malformed.
fn differ_in_time_only(one: End, other: End) -> bool {
    matches!((one, other), (End::Waiting, End::Failed) | (End::Failed, End::Waiting))
}

fn check(ours: &Outcome, hypers: &Outcome, after: After, shown: &str) {
    assert!(ours.interim.starts_with(&hypers.interim) || hypers.interim.starts_with(&ours.interim), "{shown}");
    assert!(ours.head == hypers.head || ours.head.is_none(), "{shown}");
    if ours.end == End::Failed {
        assert!(hypers.body.starts_with(&ours.body) && ours.trailers.is_none(), "{shown}");
        return;
    }
    if after == After::Silence && differ_in_time_only(ours.end, hypers.end) {
        return;
    }
    assert!(ours.body == hypers.body && ours.trailers == hypers.trailers, "{shown}");
    match (ours.end, hypers.end) {
        (End::Complete { is_reusable }, End::Complete { is_reusable: is_reusable_by_hyper }) => {
            assert!(is_reusable_by_hyper || !is_reusable, "{shown}");
        }
        (ours, hypers) => assert_eq!(ours, hypers, "{shown}"),
    }
}

pub fn holds(data: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        for after in [After::Close, After::Reset, After::Silence] {
            let mut whole: Option<Outcome> = None;
            for split in 0..4 {
                for is_paused in [false, true] {
                    let stream = || Pieces {
                        pieces: pieces(data, split),
                        after,
                        is_requested: false,
                        has_arrived: false,
                        is_paused,
                    };
                    let (ours, hypers) = (ours(&method, stream()), hypers(&method, stream()));
                    let shown = format!(
                        "{method} {after:?}, split {split} {is_paused}: {:?}\nours {ours:?}\nhyper {hypers:?}",
                        data.escape_ascii().to_string()
                    );
                    check(&ours, &hypers, after, &shown);
                    // What is read never depends on how it arrives, but for how soon a violation shows.
                    let whole = whole.get_or_insert_with(|| ours.clone());
                    assert!(*whole == ours || differ_in_time_only(whole.end, ours.end), "{shown}\nwhole {whole:?}");
                }
            }
        }
    }
}
