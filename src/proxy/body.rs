//! Owns: request bodies, which are counted, limited, and can be sent again by another attempt.
//! Invariant: only [`Replay`] keeps bytes of a body; a body is read at the backend's pace.
//! Must not know: status codes, candidates.

use std::cell::{Cell, OnceCell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::edits::Edits;
use super::error::ProxyError;
use super::replay::{self, Replay, ReplayMemory};
use super::trailers;
use super::upload::Upload;
use crate::clock::{self, Deadline};
use crate::handler::IncomingBody;
use crate::http2::PacedBody;

/// How long a client that expects `100 Continue` waits for the backend to send it (RFC 9110 §10.1.1: not indefinitely).
const CONTINUE: Duration = Duration::from_secs(1);

/// The limits of a body.
#[derive(Debug, Clone, Copy)]
pub struct BodyRules {
    /// Maximum size in bytes.
    pub most: u64,
    /// Bytes kept for another attempt.
    pub replay_limit: usize,
    /// How long the client may pause.
    pub idle: Duration,
    /// Whether the client has to keep up a rate; false for streams.
    pub paced: bool,
}

/// The body of a request. Each attempt reads it from its beginning.
pub struct ReplayBody {
    incoming: RefCell<IncomingBody>,
    rules: BodyRules,
    /// Its Content-Length.
    length: Option<u64>,
    kept: RefCell<Replay>,
    /// How far the last attempt has read, in [`replay::places`].
    furthest: Cell<usize>,
    read: Cell<u64>,
    /// Which side it waits for.
    upload: Cell<Upload>,
    /// Bytes that the connection to the backend had sent at the last look.
    sent: Cell<u64>,
    is_answered: Cell<bool>,
    state: Cell<State>,
    /// The task that waits for a body that is no longer sent.
    discard_waker: Cell<Option<Waker>>,
    /// The number of the current attempt. An HTTP/2 connection may hold an earlier one for a moment longer.
    attempt: Cell<u32>,
    limit: Deadline,
    /// Set once the backend wants the body, or has had its time to say so.
    gate: Cell<bool>,
    /// The route's changes to header fields.
    edits: OnceCell<Rc<Edits>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More may arrive, and everything so far is kept.
    Kept,
    /// More may arrive, and not everything is kept.
    Streamed,
    /// It is complete, and all of it is kept.
    EndedKept,
    /// It is complete, and not all of it is kept.
    Ended,
    /// It is no longer sent.
    Shut,
    /// It ended with an error.
    Failed(ProxyError),
}

impl ReplayBody {
    /// Makes a body that has not been read yet. With `expects`, the client waits for 100 Continue. Kept bytes count
    /// against `memory`.
    pub fn new(
        incoming: IncomingBody,
        rules: BodyRules,
        expects: bool,
        limit: Deadline,
        memory: &Rc<ReplayMemory>,
    ) -> Rc<ReplayBody> {
        let length = incoming.size_hint().exact();
        if expects {
            limit.set_after(CONTINUE);
        }
        Rc::new(ReplayBody {
            incoming: RefCell::new(incoming),
            rules,
            length,
            kept: RefCell::new(Replay::new(length, rules.replay_limit, memory)),
            furthest: Cell::new(0),
            read: Cell::new(0),
            upload: Cell::new(Upload::new(clock::now())),
            sent: Cell::new(0),
            is_answered: Cell::new(false),
            state: Cell::new(State::Kept),
            discard_waker: Cell::default(),
            attempt: Cell::new(0),
            limit,
            gate: Cell::new(!expects),
            edits: OnceCell::new(),
        })
    }

    /// Sets the route's changes: trailers must not carry the fields that the route changes in the header section.
    pub(super) fn set_edits(&self, edits: &Rc<Edits>) {
        self.edits.get_or_init(|| Rc::clone(edits));
    }

    /// Returns a reader of the whole body for one attempt.
    pub fn attempt(self: &Rc<ReplayBody>) -> RequestBody {
        if self.upload.get().backend_since().is_none() {
            self.limit.clear();
        }
        self.update(Upload::begin);
        self.attempt.set(self.attempt.get() + 1);
        self.furthest.set(0);
        RequestBody::Of { source: Rc::clone(self), attempt: self.attempt.get(), next: 0 }
    }

    /// Returns its Content-Length.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Returns how many bytes have been read.
    pub fn read(&self) -> u64 {
        self.read.get()
    }

    /// Returns its progress.
    pub fn upload(&self) -> Upload {
        self.upload.get()
    }

    /// Notes how many bytes the connection to the backend has sent in total: the backend or its kernel has taken them.
    pub fn sent(&self, bytes: u64) {
        if self.sent.replace(bytes) != bytes {
            self.update(Upload::taken);
        }
    }

    /// Is polled while nobody reads the body: what has arrived on a stream of HTTP/2 would hold the buffers that it was read
    /// into.
    pub fn hold(&self, cx: &mut Context<'_>) {
        self.incoming.borrow_mut().hold(cx);
    }

    /// Fails the body because the backend closed the connection on a client that was too slow.
    pub fn fail_client_too_slow(&self) {
        self.state.set(State::Failed(ProxyError::BodyTimeout));
    }

    /// Returns whether an attempt that begins now could send the whole body.
    pub fn is_replayable(&self) -> bool {
        matches!(self.state.get(), State::Kept | State::EndedKept)
    }

    /// Returns whether all of it has been read.
    pub fn is_ended(&self) -> bool {
        matches!(self.state.get(), State::EndedKept | State::Ended)
    }

    /// Returns whether nothing is left to read.
    pub fn is_read(&self) -> bool {
        self.is_ended() || self.length == Some(self.read.get())
    }

    /// Returns the error that it ended with, if any.
    pub fn error(&self) -> Option<ProxyError> {
        match self.state.get() {
            State::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the flag that a backend's `100 Continue` sets.
    pub fn gate(&self) -> &Cell<bool> {
        &self.gate
    }

    /// Notes that a final response has arrived. If it is a refusal and the backend has not asked for the body, the body
    /// is no longer sent, and the client gets no 100 Continue. Any other response may need the body to continue, so it
    /// is sent without waiting for 100 Continue. There will be no other attempt, so nothing is kept any more.
    pub fn response_started(&self, refused: bool) {
        self.is_answered.set(true);
        if !self.kept.borrow().has(self.furthest.get()) {
            self.kept.borrow_mut().forget();
            self.state.set(match self.state.get() {
                State::Kept => State::Streamed,
                State::EndedKept => State::Ended,
                other => other,
            });
        }
        if refused && !self.gate.get() {
            self.state.set(State::Shut);
        }
        self.gate.set(true);
    }

    /// Notes that some of the response has arrived. The client may be waiting for the rest of it before it sends more.
    pub fn response_moved(&self) {
        if !self.is_ended() {
            self.update(Upload::response_moved);
        }
    }

    /// Notes that the exchange is over. Wakes an HTTP/2 stream that waits for a body that is no longer sent; it would
    /// otherwise wait as long as its connection lives.
    pub fn close(&self) {
        if self.state.get() == State::Shut {
            self.state.set(State::Failed(ProxyError::BodyAborted));
            self.discard_waker.take().into_iter().for_each(Waker::wake);
        }
    }

    fn fail(&self, error: ProxyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.state.set(State::Failed(error));
        Poll::Ready(Some(Err(BodyError)))
    }

    /// Polls for the next frame that no attempt has read yet.
    fn poll_unread(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.state.get() {
            State::Kept | State::Streamed => {}
            State::EndedKept | State::Ended => return Poll::Ready(None),
            State::Shut => {
                self.hold(cx);
                self.discard_waker.set(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            State::Failed(error) => return self.fail(error),
        }
        if !self.gate.get() {
            if self.limit.poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.gate.set(true);
        }
        let read = Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx);
        match read {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    trailers::sanitize(trailers, self.edits.get().map(|edits| &edits.request));
                    if trailers.is_empty() {
                        return self.poll_unread(cx);
                    }
                }
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.received(bytes);
                self.read.set(self.read.get() + bytes as u64);
                if self.read.get() > self.rules.most {
                    return self.fail(ProxyError::BodyTooLarge);
                }
                self.keep(&frame);
                if frame.is_trailers() {
                    // hyper does not poll again after trailers.
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => self.fail(ProxyError::BodyAborted),
            Poll::Ready(None) => {
                self.received(0);
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                // Only from here on does the body wait for the client: before, the backend may have been the slow
                // side.
                if self.upload.get().backend_since().is_some() {
                    self.update(Upload::wait);
                    self.limit_client();
                }
                while self.limit.poll(cx).is_ready() {
                    if self.client_due().is_some_and(|due| due <= clock::now()) {
                        return self.fail(ProxyError::BodyTimeout);
                    }
                    // A response that continues has given the client more time.
                    self.limit_client();
                }
                Poll::Pending
            }
        }
    }

    fn end(&self) {
        let kept = self.state.get() == State::Kept;
        self.state.set(if kept { State::EndedKept } else { State::Ended });
    }

    fn update(&self, event: impl FnOnce(&mut Upload, Instant)) {
        let mut upload = self.upload.get();
        event(&mut upload, clock::now());
        self.upload.set(upload);
    }

    fn received(&self, bytes: usize) {
        self.update(|upload, now| upload.received(now, bytes));
        self.limit.clear();
    }

    fn client_due(&self) -> Option<Instant> {
        let paced = self.rules.paced && !self.is_answered.get();
        self.upload.get().client_due(self.rules.idle, paced)
    }

    fn limit_client(&self) {
        match self.client_due() {
            Some(due) => self.limit.set(due),
            None => self.limit.clear(),
        }
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        if self.state.get() == State::Kept && !self.kept.borrow_mut().keep(frame) {
            self.state.set(State::Streamed);
        }
    }
}

/// One attempt's reader of a body.
pub enum RequestBody {
    /// The request has no body.
    Empty,
    /// Bytes in memory: the copy of a session.
    Bytes(Option<Bytes>),
    /// Reads from the beginning: first what an earlier attempt has kept.
    Of {
        /// The body.
        source: Rc<ReplayBody>,
        /// The attempt that reads.
        attempt: u32,
        /// How far it has read, in [`replay::places`].
        next: usize,
    },
}

impl PacedBody for RequestBody {
    fn hold(&mut self, cx: &mut Context<'_>) {
        match self {
            RequestBody::Of { source, attempt, .. } if *attempt == source.attempt.get() => source.hold(cx),
            _ => {}
        }
    }
}

/// The body can't be forwarded; [`ReplayBody::error`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyError;

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the request's body ended with an error")
    }
}

impl std::error::Error for BodyError {}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (source, attempt, next) = match &mut *self {
            RequestBody::Empty => return Poll::Ready(None),
            RequestBody::Bytes(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            RequestBody::Of { source, attempt, next } => (source, attempt, next),
        };
        if *attempt != source.attempt.get() {
            return Poll::Ready(Some(Err(BodyError)));
        }
        let kept = source.kept.borrow().frame(*next);
        let poll = kept.map_or_else(|| source.poll_unread(cx), |frame| Poll::Ready(Some(Ok(frame))));
        if let Poll::Ready(Some(Ok(frame))) = &poll {
            *next += replay::places(frame);
            source.furthest.set(*next);
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty | RequestBody::Bytes(None) => true,
            RequestBody::Bytes(Some(_)) => false,
            RequestBody::Of { source, next, .. } => source.is_ended() && !source.kept.borrow().has(*next),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Bytes(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            RequestBody::Of { source, .. } => source.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
