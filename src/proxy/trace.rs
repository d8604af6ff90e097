//! Owns: the trace of one request under way: its place, its attempts, and what its backends are told of it.
//! Invariant: a request to a backend carries one `traceparent`, which names the span of its attempt.
//! Must not know: how spans are exported; how an attempt works.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};

use super::client::{Client, ClientIdentity};
use super::snapshot::{Service, ThreadSnapshot};
use super::trace_context::{TraceFlags, TraceParent};
use super::trace_start::{new_span, start};
use crate::clock;
use crate::reason::Reason;
use crate::telemetry::{AttemptSpan, Record, RequestSpans, SpanError, SpanFacts, SpanPlace, TraceId};
use crate::upstream::{Fact, Failure};

/// A request's trace.
pub(super) struct Trace {
    /// The snapshot whose exporter gets the spans.
    view: Rc<ThreadSnapshot>,
    begun: Instant,
    place: SpanPlace,
    flags: TraceFlags,
    identity: ClientIdentity,
    /// Empty unless the request is sampled.
    attempts: Vec<AttemptSpan>,
}

impl Trace {
    /// Continues the caller's trace, or begins one, if requests are traced. Leaves a valid `tracestate` in `headers`, or
    /// none.
    pub(super) fn begin(
        view: &Rc<ThreadSnapshot>,
        client: &Client,
        identity: ClientIdentity,
        headers: &mut HeaderMap,
        random: impl FnMut() -> u64,
    ) -> Option<Box<Trace>> {
        let per_million = view.snapshot().tracer.as_ref()?.per_million;
        let (place, flags) = start(headers, per_million, client.is_trusted(), random);
        Some(Box::new(Trace {
            view: Rc::clone(view),
            begun: clock::now(),
            place,
            flags,
            identity,
            attempts: Vec::new(),
        }))
    }

    /// Begins an attempt on the backend at `index`. Returns the value of its `traceparent`.
    pub(super) fn begin_attempt(&mut self, service: &Service, index: usize, random: u64) -> HeaderValue {
        let id = new_span(random);
        if self.flags.is_sampled {
            let backend = service.pool.backend(index);
            self.attempts.push(AttemptSpan {
                id,
                backend: (**backend.name()).into(),
                address: backend.address().to_string().into(),
                is_secure: service.upstream.tls.is_some(),
                begun: self.lasted(),
                ended: None,
                status: None,
                protocol: None,
                error: None,
            });
        }
        TraceParent { trace: self.place.trace, span: id, flags: self.flags }.value()
    }

    /// Notes that the current attempt failed.
    pub(super) fn attempt_failed(&mut self, failure: Failure, reason: Option<Reason>) {
        let now = self.lasted();
        let Some(attempt) = self.attempts.last_mut() else { return };
        attempt.ended = Some(now);
        if let Fact::Status(status) = failure.fact {
            // A response that gave way to another attempt says why by its status.
            attempt.status = Some(status);
            return;
        }
        let kind = Fact::OUTCOMES.get(failure.fact.outcome()).copied().unwrap_or("backend");
        let reason = reason.map(|reason| reason.to_string().into()).unwrap_or_default();
        attempt.error = Some(SpanError { kind, reason });
    }

    /// Notes that the backend of the current attempt responded.
    pub(super) fn attempt_responded(&mut self, status: StatusCode, protocol: Option<&'static str>) {
        if let Some(attempt) = self.attempts.last_mut() {
            (attempt.status, attempt.protocol) = (Some(status.as_u16()), protocol);
        }
    }

    /// Returns the id of the trace.
    pub(super) fn id(&self) -> TraceId {
        self.place.trace
    }

    /// Returns the time since the request began.
    fn lasted(&self) -> Duration {
        clock::now().saturating_duration_since(self.begun)
    }

    /// Ends the request: queues its spans for the exporter, if it is sampled. `error` is the kind of the record's error;
    /// if it has none, it is that of the last attempt.
    pub(super) fn end(self, record: &Record<'_>, has_response: bool, error: Option<&'static str>) {
        let Some(tracer) = self.view.snapshot().tracer.as_ref().filter(|_| self.flags.is_sampled) else { return };
        let of_attempt = || self.attempts.last()?.error.as_ref().map(|error| error.kind);
        let facts = SpanFacts {
            error: error.or_else(of_attempt).unwrap_or("backend"),
            place: self.place,
            attempts: self.attempts,
            is_secure: self.identity.is_secure,
            is_client_known: self.identity.client().is_some(),
            has_response,
        };
        tracer.queue.send(RequestSpans::of(facts, record));
    }
}
