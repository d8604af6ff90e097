//! Owns: one request under way, from its head to the end of its response, and what is counted when it ends.
//! Invariant: each request writes one record and counts once, however it ends; each backend failure is reported once.
//! Must not know: why anything was decided.

use std::borrow::Borrow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, HeaderMap, HeaderValue, STRICT_TRANSPORT_SECURITY};
use http::{StatusCode, request};

use super::body::{ReplayBody, RequestBody};
use super::client::{Client, ClientIdentity};
use super::edits::Edits;
use super::error::{FailureDetail, ProxyError, Unserved};
use super::order::{QueueWait, Wait};
use super::record::{Ended, RequestRecord};
use super::request_id::RequestId;
use super::response_end::ResponseEnd;
use super::route::{RouteAction, RouteEntry};
use super::session_use::SessionUse;
use super::snapshot::{KeptBackend, Service, ThreadSnapshot};
use super::thread::ThreadState;
use super::timeouts::Timeouts;
use super::wait::QueuePosition;
use super::{host, respond, streams};
use crate::affinity::rules::RuleEffect;
use crate::affinity::{Decision, Verdict};
use crate::clock::{self, Deadline};
use crate::copies::CopyOutcome;
use crate::handler::Interim;
use crate::health::passive;

use crate::pool::failure_evidence;
use crate::pool::health_state::FailedRequest;
use crate::pool::{InFlight, Live};
use crate::reason::Reason;
use crate::upstream::{Blame, Failure, Http1Connection, PoolKey};

/// The state of one request: what serves it, and its record. Dropping it ends the request and writes the record.
pub struct Exchange {
    thread: Rc<ThreadState>,
    client: Rc<Client>,
    /// Where interim responses go, if the client can be sent any.
    interim: Option<Interim>,
    identity: ClientIdentity,
    view: Rc<ThreadSnapshot>,
    /// Read only for a response that Linchpin makes itself.
    accept: Option<HeaderValue>,
    /// Of whatever the request waits for now.
    wait_deadline: Deadline,
    /// The position of its route entry.
    route: Option<usize>,
    backend: Option<usize>,
    in_flight: Option<InFlight<KeptBackend>>,
    /// The session that it counts for.
    pub(super) session: SessionUse,
    queue_position: QueuePosition,
    /// The client, for evidence of failures.
    client_key: failure_evidence::ClientKey,
    body: Option<Rc<ReplayBody>>,
    /// The response is a stream; one of events, which may end at any time.
    is_stream: bool,
    is_event_stream: bool,
    /// What is known of it for the access log.
    pub(super) record: RequestRecord,
}

impl Exchange {
    pub(super) fn begin(
        thread: &Rc<ThreadState>,
        client: &Rc<Client>,
        head: &request::Parts,
        interim: Option<Interim>,
    ) -> Box<Exchange> {
        let identity = client.identify(&head.headers);
        let id = client.request_id(&head.headers).unwrap_or_else(|| thread.new_id());
        Box::new(Exchange {
            thread: Rc::clone(thread),
            client: Rc::clone(client),
            interim,
            identity,
            view: Rc::clone(&thread.view.borrow()),
            accept: head.headers.get(ACCEPT).cloned(),
            wait_deadline: thread.deadlines.deadline(),
            route: None,
            backend: None,
            in_flight: None,
            session: SessionUse::default(),
            queue_position: QueuePosition::default(),
            client_key: failure_evidence::ClientKey::new(identity.address, None),
            body: None,
            is_stream: false,
            is_event_stream: false,
            record: RequestRecord::new(head, id, thread.log.captures()),
        })
    }

    pub(super) fn id(&self) -> &RequestId {
        &self.record.id
    }

    pub(super) fn accepts_json(&self) -> bool {
        respond::accepts_json(self.accept.as_ref())
    }

    pub(super) fn client(&self) -> Rc<Client> {
        Rc::clone(&self.client)
    }

    /// Returns who sent the request.
    pub(super) fn identity(&self) -> ClientIdentity {
        self.identity
    }

    pub(super) fn thread(&self) -> Rc<ThreadState> {
        Rc::clone(&self.thread)
    }

    pub(super) fn view(&self) -> Rc<ThreadSnapshot> {
        Rc::clone(&self.view)
    }

    /// Finds the route entry.
    pub(super) fn find_route<'v>(
        &mut self,
        view: &'v ThreadSnapshot,
        host: Option<&HeaderValue>,
        head: &request::Parts,
    ) -> Option<&'v RouteEntry> {
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        let routes = &view.snapshot().routes;
        let found =
            routes.find(self.client.listener_id(), self.identity.is_secure, host::host_name(host), head.uri.path())?;
        self.route = Some(found);
        routes.entry(found)
    }

    /// Takes a token from the client's bucket, if requests per client are limited.
    pub(super) fn admit(&self, view: &ThreadSnapshot) -> Result<(), ProxyError> {
        let Some(limiter) = &view.snapshot().limiter else { return Ok(()) };
        limiter.take(self.identity.address, clock::now()).map_err(|wait| ProxyError::TooMany { wait })
    }

    /// Returns the route's changes to header fields, if it has any.
    pub(super) fn edits(&self) -> Option<&Rc<Edits>> {
        self.view.edits(self.route?)
    }

    /// Returns the queue for interim responses, if the client can receive them.
    pub(super) fn interim(&self) -> Option<&Interim> {
        self.interim.as_ref()
    }

    /// Returns the pool's position; 0 until the route is known.
    pub(super) fn pool(&self) -> usize {
        self.pool_of_route().unwrap_or(0)
    }

    pub(super) fn route(&self) -> Option<&RouteEntry> {
        self.view.snapshot().routes.entry(self.route?)
    }

    fn pool_of_route(&self) -> Option<usize> {
        match self.route()?.action {
            RouteAction::Pool(pool) => Some(pool),
            RouteAction::Redirect(_) => None,
        }
    }

    pub(super) fn service(&self) -> Option<&Service> {
        self.view.service(self.pool_of_route()?)
    }

    /// Returns the request's timeouts in the pool of `service`.
    pub(super) fn timeouts<'t>(&'t self, service: &'t Service) -> &'t Timeouts {
        self.route().map_or(&service.timeouts, |route| route.timeouts(&service.timeouts))
    }

    /// Returns when the time for all attempts is over. It does not run while the client uploads.
    pub(super) fn total_deadline(&self) -> Instant {
        let paused = self.body.as_ref().map_or(Duration::ZERO, |body| body.upload().paused(clock::now()));
        self.record.begun + self.service().map_or(Duration::ZERO, |service| self.timeouts(service).total) + paused
    }

    /// Returns the deadline of whatever the request waits for now.
    pub(super) fn wait_deadline(&self) -> &Deadline {
        &self.wait_deadline
    }

    /// Keeps a reference to the request's body, for its progress.
    pub(super) fn keep_body(&mut self, body: Option<&Rc<ReplayBody>>) {
        self.body = body.cloned();
        if let (Some(body), Some(edits)) = (&self.body, self.edits()) {
            body.set_edits(edits);
        }
    }

    /// Waits until the backend can take the request. Returns false if the wait ended first.
    pub(super) async fn wait(&mut self, service: &Service, wait: Wait) -> bool {
        self.queue_position.wait(&self.wait_deadline, service.pool.backend(wait.index), wait).await
    }

    /// Waits until a backend of the pool has capacity. Returns its position, or why the wait ended before that.
    pub(super) async fn queue(&mut self, service: &Service, wait: &QueueWait) -> Result<usize, Unserved> {
        self.queue_position.queue(&self.wait_deadline, &service.pool, wait).await
    }

    /// Begins an attempt on the backend at `index`. `has_waited` means that the attempt finds out whether the backend
    /// is available again; with `adds_session`, its response may add a session to the backend.
    pub(super) fn attempt(&mut self, index: usize, has_waited: bool, adds_session: bool) {
        self.record.attempts += 1;
        self.backend = Some(index);
        let thread = self.thread.index;
        self.in_flight = self.pool_of_route().and_then(|pool| self.view.keep_backend(pool, index)).map(|backend| {
            self.wait_deadline.set_subject(Borrow::<Arc<Live>>::borrow(&backend).id());
            let mut in_flight = InFlight::begin(backend, thread);
            if adds_session {
                in_flight.expect_session();
            }
            in_flight
        });
        // Only now, since the queue has kept the capacity for the request until here.
        self.queue_position.begun(has_waited);
    }

    /// Notes that a session that the response has added is counted by now.
    pub(super) fn session_known(&mut self) {
        self.in_flight.iter_mut().for_each(InFlight::session_known);
    }

    /// Notes that the backend at `index` accepts connections, so that waiting requests continue.
    pub(super) fn reached(&self, service: &Service, index: usize) {
        self.queue_position.reached(&service.pool, index);
    }

    pub(super) fn connected(&self) {
        self.record.connected.set(Some(clock::now()));
    }

    /// Reports that the attempt on the backend at `index` failed after `took`. With `has_waited`, the backend was known
    /// to be unavailable, so the failure is no new evidence.
    pub(super) fn failed(&mut self, index: usize, failure: Failure, took: Duration, has_waited: bool) {
        self.in_flight = None;
        let Some(service) = self.service() else { return };
        let reason = failure.reason(self.timeouts(service).share_of(failure.fact, took));
        if let Some(series) = service.series.get(index) {
            series.attempt(self.thread.index, failure.fact.outcome());
        }
        match failure.blame {
            _ if has_waited => {}
            Blame::Backend => passive::failed(&service.pool, index, FailedRequest::Connect, reason, clock::now()),
            Blame::Response => self.met_failure(service, index, reason),
            Blame::Client | Blame::Nobody => {}
        }
        tracing::debug!(
            pool = &**service.pool.name(),
            backend = &**service.pool.backend(index).name(),
            %reason,
            sent = failure.sent,
            "attempt failed"
        );
        self.record.reason = Some(reason);
    }

    pub(super) fn decided(&mut self, decision: &Decision) {
        self.record.verdict = decision.verdict;
        self.record.cause = decision.cause;
        self.record.pinned = match decision.verdict {
            Verdict::Moved | Verdict::Borrowed | Verdict::Refused => {
                self.service().and_then(|service| decision.pinned_to(&service.pool)).map(Box::from)
            }
            Verdict::New | Verdict::Hit | Verdict::None => None,
        };
        self.record.session = (decision.verdict != Verdict::None).then_some(decision.session);
    }

    /// Notes that the request is for `service`, with the session of the pin that it carried.
    pub(super) fn begin_for(&mut self, service: &Service, session: Option<u64>) {
        self.client_key = failure_evidence::ClientKey::new(self.identity.address, session);
        service.pool.health_tracker().clients().note(self.thread.index, self.client_key, self.record.time.as_secs());
    }

    /// Notes what became of the session's copy.
    pub(super) fn copied(&mut self, outcome: CopyOutcome) {
        self.record.copy = Some(outcome);
    }

    /// Notes that a persistence rule matched.
    pub(super) fn rule_matched(&mut self, effect: RuleEffect) {
        self.record.rule = Some(effect.as_str());
    }

    /// Adds the verdict header, if configured, and Strict-Transport-Security.
    pub(super) fn explain(&self, headers: &mut HeaderMap) {
        if let Some(hsts) = self.client.hsts(self.identity) {
            headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        let name = self.service().and_then(|service| service.affinity.verdict_header());
        if let Some(name) = name {
            let cause = self.record.cause.map_or(String::new(), |cause| format!("; cause={}", cause.as_str()));
            // Verdicts and causes are valid field values.
            if let Ok(value) = HeaderValue::try_from(format!("{}{cause}", self.record.verdict.as_str())) {
                headers.insert(name, value);
            }
        }
    }

    pub(super) fn response_started(&mut self, status: StatusCode) {
        self.record.status = Some(status);
        self.record.responded_at = Some(clock::now());
        self.queue_position.end();
        let (Some(service), Some(cause)) = (self.service(), self.record.cause) else { return };
        if let (Verdict::Moved, Some(series)) =
            (self.record.verdict, self.backend.and_then(|index| service.series.get(index)))
        {
            series.moved(self.thread.index, cause as usize);
        }
    }

    pub(super) fn refused(&mut self, error: ProxyError) {
        self.record.status = Some(respond::status(error));
        let RequestRecord { reason, cause, pinned, .. } = &self.record;
        let pool = self.service().map(|service| &*service.pool);
        self.record.error = Some(FailureDetail::of(error, *reason, *cause, pinned.as_deref(), pool));
        self.record.verdict = self.record.verdict.unserved();
        self.queue_position.end();
        if let Some(limit) = error.limit() {
            self.thread.limited(limit);
        }
        if let ProxyError::Denied(denial) = error {
            self.view.snapshot().denied.count(self.thread.index, denial);
        }
        if let (0, Some(why), Some(service)) = (self.record.attempts, error.unserved(), self.service()) {
            service.unserved.refused(self.thread.index, why as usize);
        }
    }

    pub(super) fn body_sent(&mut self, bytes: usize) {
        self.record.bytes_out += bytes as u64;
        if let Some(body) = &self.body {
            body.response_moved();
        }
    }

    /// Returns whether the request had a body and all of it has been read.
    pub(super) fn has_read_request(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.is_read())
    }

    /// Subtracts bytes of the response that were never sent.
    pub(super) fn never_sent(&mut self, bytes: u64) {
        self.record.bytes_out = self.record.bytes_out.saturating_sub(bytes);
    }

    /// Returns when a response that has sent nothing since `since` has paused for too long, if the request's body has
    /// not moved either. `None` means no limit.
    pub(super) fn quiet_until(&self, since: Instant) -> Option<Instant> {
        let of = |timeouts: &Timeouts| if self.is_stream { timeouts.stream_idle } else { timeouts.idle };
        let idle = self.service().map_or(Duration::ZERO, |service| of(self.timeouts(service)));
        let moved = self.body.as_ref().map_or(since, |body| body.upload().moved());
        since.max(moved).checked_add(idle)
    }

    /// Sets the deadline for a response that has sent nothing since `since`.
    pub(super) fn set_quiet_deadline(&self, since: Instant) {
        match self.quiet_until(since) {
            Some(due) => self.wait_deadline.set(due),
            None => self.wait_deadline.clear(),
        }
    }

    /// Returns whether this is a stream or tunnel that ends now, since its backend has been drained.
    pub(super) fn ends_stream(&self) -> bool {
        let live = || Some(self.service()?.pool.backend(self.backend?).live());
        let begun = || u64::try_from(self.record.time.as_millis()).unwrap_or(u64::MAX);
        (self.is_stream || self.record.is_tunnel) && live().is_some_and(|live| live.draining().ends_stream(begun()))
    }

    /// Notes that the response or tunnel has ended since its backend has been drained. Returns whether the response is
    /// complete all the same.
    pub(super) fn drained(&mut self) -> bool {
        self.record.error = Some(FailureDetail::Kind("drained"));
        self.is_event_stream
    }

    /// Notes and returns whether the response is a stream.
    pub(super) fn note_stream(&mut self, headers: &HeaderMap) -> bool {
        self.is_stream = self.route().is_some_and(|route| route.is_stream) || streams::is_stream(headers);
        self.is_event_stream = streams::is_event_stream(headers);
        self.is_stream
    }

    /// Returns the request's timeouts, if its route leads to a pool.
    pub(super) fn own_timeouts(&self) -> Option<&Timeouts> {
        self.service().map(|service| self.timeouts(service))
    }

    /// Copies what the exchange needs of the head out of the buffer that the head was read into, which a long body
    /// would otherwise keep alive.
    pub(super) fn detach_from_head(&mut self) {
        self.record.detach_from_head();
        self.accept = self.accept.take().map(|value| HeaderValue::from_bytes(value.as_bytes()).unwrap_or(value));
    }

    /// Begins a tunnel.
    pub(super) fn begin_tunnel(&mut self) {
        self.record.detach_from_head();
        self.accept = None;
        self.record.is_tunnel = true;
        self.in_flight.iter_mut().for_each(InFlight::becomes_tunnel);
        let series = self.service().zip(self.backend).and_then(|(service, index)| service.series.get(index));
        if let Some(series) = series {
            series.tunnel_began(self.thread.index);
        }
    }

    /// Ends a tunnel that moved `up` bytes from the client and `down` bytes to it.
    pub(super) fn tunnel_ended_with(&mut self, up: u64, down: u64, error: Option<std::io::ErrorKind>) {
        (self.record.bytes_in, self.record.bytes_out) = (up, down);
        // Which side ended it makes no difference: many clients end every tunnel by closing the connection.
        self.record.error = error.map(|kind| {
            FailureDetail::Kind(if kind == std::io::ErrorKind::TimedOut { "tunnel_timeout" } else { "tunnel_cut" })
        });
    }

    /// Notes that the response ended early.
    pub(super) fn broke_off(&mut self, end: ResponseEnd) {
        if let Some(error) = self.body.as_ref().and_then(|body| body.error()) {
            self.record.error = Some(FailureDetail::Kind(error.as_str()));
            return;
        }
        self.record.error = Some(FailureDetail::Kind(match end {
            ResponseEnd::Quiet => "quiet_for_too_long",
            ResponseEnd::Backend | ResponseEnd::Connection | ResponseEnd::KeptWaiting => "broken_off",
        }));
        if let (ResponseEnd::Backend, Some(service), Some(index)) = (end, self.service(), self.backend) {
            self.met_failure(service, index, Reason::TRUNCATED);
        }
    }

    /// Reports a failed response of the backend at `index`.
    fn met_failure(&self, service: &Service, index: usize, reason: Reason) {
        let failed = passive::evidence(&service.pool, self.client_key, self.record.path(), self.record.time.as_secs());
        passive::failed(&service.pool, index, failed, reason, clock::now());
    }

    /// Notes that the response is complete, and keeps the connection for another request. Only a complete response
    /// counts as a success, or a backend that breaks off every response would never fail twice in a row.
    pub(super) fn completed(&mut self, connection: Option<Box<Http1Connection<RequestBody>>>) {
        let (Some(service), Some(index)) = (self.service(), self.backend) else { return };
        let backend = service.pool.backend(index);
        if backend.live().awaits_success() {
            passive::succeeded(&service.pool, index, clock::now());
        }
        if let Some(connection) = connection {
            let key = PoolKey { client: self.identity.client(), http1: false };
            self.thread.connections.release(backend, connection, &service.upstream.settings, key, clock::now());
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(body) = &self.body {
            body.close();
        }
        let (now, thread) = (clock::now(), &self.thread);
        let mut session = std::mem::take(&mut self.session);
        self.service().into_iter().for_each(|service| session.end(service, thread.index));
        let is_abandoned = self.client.is_abandoned.get() || std::thread::panicking();
        let service = self.service();
        let unserved = || service.map_or(&self.view.snapshot().unrouted, |service| &service.unserved);
        let series = service.zip(self.backend).and_then(|(service, index)| service.series.get(index));
        let body_read = self.body.as_ref().map_or(0, |body| body.read());
        let counted = self.record.counted(is_abandoned, body_read, now);
        series.unwrap_or_else(unserved).request(thread.index, &counted);
        if let (true, Some(series)) = (self.record.is_tunnel, series) {
            series.tunnel_ended(thread.index);
        }
        self.record.write(
            &thread.log,
            &Ended {
                listener: self.client.listener_name(),
                client: &self.client.address_text_of(self.identity),
                tls_version: self.client.tls_version(),
                pool: service.map(|service| &**service.pool.name()),
                backend: service.zip(self.backend).map(|(service, index)| &**service.pool.backend(index).name()),
                is_abandoned,
                body_read,
                waited: self.queue_position.waited(),
                now,
            },
        );
    }
}
