//! Owns: request bodies on their way to a backend: counted, limited, and sent again by another attempt.
//! Invariant: what is kept is kept in [`Replay`] alone; a body is read at the backend's pace.
//! Must not know: status codes, candidates.

use std::cell::{Cell, OnceCell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::edits::Edits;
use super::error::ProxyError;
use super::replay::{self, Memory, Replay};
use super::trailers;
use super::upload::Upload;
use crate::clock::{self, Deadline};

/// How long a client that waits for `100 Continue` is made to wait for the backend to say so
/// (RFC 9110 §10.1.1: no indefinite period).
const CONTINUE: Duration = Duration::from_secs(1);

/// What of a body is kept, and what it may take.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Bytes that it may have.
    pub most: u64,
    /// Bytes that are kept for another attempt.
    pub replay_limit: usize,
    /// Silence of the client that ends it.
    pub idle: Duration,
    /// Whether the client has to keep up a rate; not in a stream.
    pub paced: bool,
}

/// The body of a request, which each attempt reads from its beginning.
pub struct ReplayBody {
    incoming: RefCell<Incoming>,
    rules: Rules,
    /// What its Content-Length says.
    length: Option<u64>,
    kept: RefCell<Replay>,
    /// How far the last attempt has read, in [`replay::places`].
    reached: Cell<usize>,
    read: Cell<u64>,
    /// Whom it waits for.
    upload: Cell<Upload>,
    /// Bytes that the connection to the backend had sent when that was last asked.
    sent: Cell<u64>,
    is_answered: Cell<bool>,
    state: Cell<State>,
    /// Who waits for a body that is not sent any more.
    shut_out: Cell<Option<Waker>>,
    /// The last attempt. One before it may be held by a connection of HTTP/2 for a moment longer.
    attempt: Cell<u32>,
    limit: Deadline,
    /// Open once the backend, or time, has said to send the body.
    gate: Arc<AtomicBool>,
    /// What its route does to fields, if anything.
    edits: OnceCell<Rc<Edits>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More may come, and all that came is kept.
    Kept,
    /// More may come, and not all that came is kept.
    Streamed,
    /// All has come, and is kept.
    EndedKept,
    /// All has come, and not all is kept.
    Ended,
    /// It will not be sent any more.
    Shut,
    /// It ended with an error.
    Failed(ProxyError),
}

impl ReplayBody {
    /// A body that is still to be read. `expects` if the client waits to be told to send it. What is kept of
    /// it is kept in `memory`.
    pub fn new(
        incoming: Incoming,
        rules: Rules,
        expects: bool,
        limit: Deadline,
        memory: &Rc<Memory>,
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
            reached: Cell::new(0),
            read: Cell::new(0),
            upload: Cell::new(Upload::new(clock::now())),
            sent: Cell::new(0),
            is_answered: Cell::new(false),
            state: Cell::new(State::Kept),
            shut_out: Cell::default(),
            attempt: Cell::new(0),
            limit,
            gate: Arc::new(AtomicBool::new(!expects)),
            edits: OnceCell::new(),
        })
    }

    /// Its trailers are not to say what the route says in the head.
    pub(super) fn edited(&self, edits: &Rc<Edits>) {
        self.edits.get_or_init(|| Rc::clone(edits));
    }

    /// A reading from the beginning, for one attempt.
    pub fn attempt(self: &Rc<ReplayBody>) -> RequestBody {
        if self.upload.get().backend_since().is_none() {
            self.limit.clear();
        }
        self.note(Upload::begin);
        self.attempt.set(self.attempt.get() + 1);
        self.reached.set(0);
        RequestBody::Of { source: Rc::clone(self), attempt: self.attempt.get(), next: 0 }
    }

    /// What its Content-Length says.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Bytes that were read.
    pub fn read(&self) -> u64 {
        self.read.get()
    }

    /// Whom it waits for.
    pub fn upload(&self) -> Upload {
        self.upload.get()
    }

    /// The connection to the backend has sent so many bytes, ever. What it has sent the backend, or its
    /// kernel, has taken.
    pub fn sent(&self, bytes: u64) {
        if self.sent.replace(bytes) != bytes {
            self.note(Upload::taken);
        }
    }

    /// The backend has closed the connection because the client is so slow.
    pub fn give_up(&self) {
        self.state.set(State::Failed(ProxyError::BodyTimeout));
    }

    /// Whether an attempt that begins now would send the whole body.
    pub fn is_replayable(&self) -> bool {
        matches!(self.state.get(), State::Kept | State::EndedKept)
    }

    /// Whether all of it has been read.
    pub fn is_ended(&self) -> bool {
        matches!(self.state.get(), State::EndedKept | State::Ended)
    }

    /// Whether nothing of it is left to be read.
    pub fn is_read(&self) -> bool {
        self.is_ended() || self.length == Some(self.read.get())
    }

    /// What it ended with, if with an error.
    pub fn error(&self) -> Option<ProxyError> {
        match self.state.get() {
            State::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// The switch that a backend's `100 Continue` turns on.
    pub fn gate(&self) -> &Arc<AtomicBool> {
        &self.gate
    }

    /// A final response has come. If it came before the backend asked for the body, a refusal
    /// means that the body is not wanted: it is not sent any more, and the client is not told to
    /// send it. Any other response may need the body to go on, so nobody waits to be asked for it.
    /// There will be no other attempt: nothing is kept any more, however long the response goes on.
    pub fn answered(&self, refused: bool) {
        self.is_answered.set(true);
        if !self.kept.borrow().has(self.reached.get()) {
            self.kept.borrow_mut().forget();
            self.state.set(match self.state.get() {
                State::Kept => State::Streamed,
                State::EndedKept => State::Ended,
                other => other,
            });
        }
        if refused && !self.gate.load(Ordering::Relaxed) {
            self.state.set(State::Shut);
        }
        self.gate.store(true, Ordering::Relaxed);
    }

    /// Some of the answer has come. One that goes on may be all that the client waits for.
    pub fn answers(&self) {
        if !self.is_ended() {
            self.note(Upload::answers);
        }
    }

    /// The exchange is over. A stream of HTTP/2 that waits for a body which is not sent any more would
    /// wait as long as its connection lives.
    pub fn leave(&self) {
        if self.state.get() == State::Shut {
            self.state.set(State::Failed(ProxyError::BodyAborted));
            self.shut_out.take().into_iter().for_each(Waker::wake);
        }
    }

    fn fail(&self, error: ProxyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.state.set(State::Failed(error));
        Poll::Ready(Some(Err(BodyError)))
    }

    /// The next frame that no attempt has read yet.
    fn poll_fresh(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.state.get() {
            State::Kept | State::Streamed => {}
            State::EndedKept | State::Ended => return Poll::Ready(None),
            State::Shut => {
                self.shut_out.set(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            State::Failed(error) => return self.fail(error),
        }
        if !self.gate.load(Ordering::Relaxed) {
            if self.limit.poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.gate.store(true, Ordering::Relaxed);
        }
        let read = Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx);
        match read {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    trailers::sanitize(trailers, self.edits.get().map(|edits| &edits.request));
                    if trailers.is_empty() {
                        return self.poll_fresh(cx);
                    }
                }
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.came(bytes);
                self.read.set(self.read.get() + bytes as u64);
                if self.read.get() > self.rules.most {
                    return self.fail(ProxyError::BodyTooLarge);
                }
                self.keep(&frame);
                if frame.is_trailers() {
                    // Whoever has been given trailers asks for no more.
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => self.fail(ProxyError::BodyAborted),
            Poll::Ready(None) => {
                self.came(0);
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                // Only from here on is it the client that is waited for: before, the backend may have
                // been the slow one.
                if self.upload.get().backend_since().is_some() {
                    self.note(Upload::wait);
                    self.limit_client();
                }
                while self.limit.poll(cx).is_ready() {
                    if self.client_due().is_some_and(|due| due <= clock::now()) {
                        return self.fail(ProxyError::BodyTimeout);
                    }
                    // An answer that goes on has given it time.
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

    fn note(&self, event: impl FnOnce(&mut Upload, Instant)) {
        let mut upload = self.upload.get();
        event(&mut upload, clock::now());
        self.upload.set(upload);
    }

    fn came(&self, bytes: usize) {
        self.note(|upload, now| upload.came(now, bytes));
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

/// One attempt's reading of a body.
pub enum RequestBody {
    /// There is none.
    Empty,
    /// From the beginning, first what was kept by an earlier attempt.
    Of {
        /// The body.
        source: Rc<ReplayBody>,
        /// Whose reading this is.
        attempt: u32,
        /// How far it has come, in [`replay::places`].
        next: usize,
    },
}

/// The body can't be sent on; [`ReplayBody::error`] says why.
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
        let RequestBody::Of { source, attempt, next } = &mut *self else { return Poll::Ready(None) };
        if *attempt != source.attempt.get() {
            return Poll::Ready(Some(Err(BodyError)));
        }
        let kept = source.kept.borrow().frame(*next);
        let poll = kept.map_or_else(|| source.poll_fresh(cx), |frame| Poll::Ready(Some(Ok(frame))));
        if let Poll::Ready(Some(Ok(frame))) = &poll {
            *next += replay::places(frame);
            source.reached.set(*next);
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Of { source, next, .. } => source.is_ended() && !source.kept.borrow().has(*next),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Of { source, .. } => source.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
