//! Owns: one attempt of a request on one backend.
//! Invariant: an attempt ends with the head of a response, or with a failure that says whether a byte was sent.
//! Must not know: which candidate is next.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, UPGRADE};
use http::uri::Scheme;
use http::{Method, Response, Uri, Version, request};
use http_body::Body;

use super::body::{BodyRules, ReplayBody, RequestBody};
use super::error::ProxyError;
use super::exchange::Exchange;
use super::head;
use super::interim::InterimForwarder;
use super::open;
use super::order::CandidateOrder;
use super::retry::RetryFacts;
use super::route::RouteEntry;
use super::snapshot::Service;
use super::stale::{AttemptEnd, is_stale};
use super::streams;
use super::thread::ThreadState;
use super::trace_context::TRACEPARENT;
use super::upgrade::{NextProtocol, UpgradeOutcome, UpgradeRequest};
use crate::clock;
use crate::copies::InFlight;
use crate::copies::fields::{SESSION, is_wanted};
use crate::handler::IncomingBody;
use crate::pool::Backend;
use crate::upstream::http1::spare_fields;
use crate::upstream::{Fact, Failure, OutgoingRequest, PoolKey, PooledConnection, ReceivedBody, UpstreamBody};

/// From this body length on, a request copies its head into memory of its own. A client's connection reads a head, and
/// what arrives with it, into a buffer of this size, and the rest of a longer body into further buffers.
const LONG: u64 = 8 * 1024;

/// How often the attempt checks whether it still waits for the client.
const LOOK: Duration = Duration::from_millis(500);

/// A backend's response.
pub(super) type UpstreamResponse = Response<UpstreamBody<RequestBody>>;

/// A request as it is sent to backends, as often as necessary.
pub(super) struct UpstreamRequest {
    method: Method,
    uri: Uri,
    /// The fields, for all attempts.
    headers: RefCell<HeaderMap>,
    /// What the current attempt tells its backend about the session.
    session: RefCell<Option<HeaderValue>>,
    body: Option<Rc<ReplayBody>>,
    repeatable: bool,
    /// The client spoke HTTP/1.0 and sent no Host, which the HTTP/1.1 request to the backend needs.
    hostless: bool,
    /// The protocol that the client wants to switch to.
    upgrade_request: Option<UpgradeRequest>,
}

impl UpstreamRequest {
    pub(super) fn new(
        parts: &mut request::Parts,
        incoming: IncomingBody,
        expects: bool,
        upgrade_request: Option<UpgradeRequest>,
        service: &Service,
        route: &RouteEntry,
        thread: &ThreadState,
    ) -> Result<UpstreamRequest, ProxyError> {
        let repeatable = service.retry.retry_on.is_repeatable(parts);
        let hostless = parts.version == Version::HTTP_10 && !parts.headers.contains_key(HOST);
        let (method, uri) = (parts.method.clone(), std::mem::take(&mut parts.uri));
        let mut headers = std::mem::take(&mut parts.headers);
        let is_stream = route.is_stream || streams::is_stream(&headers);
        let upstream_request = |headers, body, upgrade_request| UpstreamRequest {
            method,
            uri,
            headers: RefCell::new(headers),
            session: RefCell::default(),
            body,
            repeatable,
            hostless,
            upgrade_request,
        };
        if incoming.is_end_stream() {
            headers.remove(EXPECT);
            if let Some(upgrade_request) = &upgrade_request {
                upgrade_request.ask(&mut headers);
            }
            return Ok(upstream_request(headers, None, upgrade_request));
        }
        let timeouts = route.timeouts(&service.timeouts);
        let rules = BodyRules {
            most: route.body,
            replay_limit: service.retry.replay_limit,
            idle: if is_stream { timeouts.stream_idle } else { timeouts.idle },
            paced: !is_stream,
        };
        if incoming.size_hint().lower() > rules.most {
            return Err(ProxyError::BodyTooLarge);
        }
        let body = ReplayBody::new(incoming, rules, expects, thread.deadlines.deadline(), &thread.replay_memory);
        let mut request = upstream_request(headers, Some(body), None);
        if request.outlives_head() {
            request.uri = head::target(std::mem::take(&mut request.uri));
            head::detach(request.headers.get_mut());
        }
        Ok(request)
    }

    /// Returns whether its body may be under way for long after its head.
    pub(super) fn outlives_head(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.length().is_none_or(|length| length > LONG))
    }

    /// Returns its body, if it has one.
    pub(super) fn body(&self) -> Option<&Rc<ReplayBody>> {
        self.body.as_ref()
    }

    /// Returns the protocol that the backend switches to, in the backend's spelling, if it does.
    ///
    /// # Errors
    /// [`ProxyError::NotSwitched`] if the response can't be passed to the client.
    pub(super) fn protocol(&self, response: &UpstreamResponse) -> Result<Option<HeaderValue>, ProxyError> {
        match self.upgrade_request.as_ref().map(|upgrade_request| upgrade_request.outcome(response)) {
            Some(UpgradeOutcome::Switched) => Ok(response.headers().get(UPGRADE).cloned()),
            Some(UpgradeOutcome::SuccessWithoutUpgrade) => Err(ProxyError::NotSwitched),
            _ => Ok(None),
        }
    }

    /// Confirms the switch to the client.
    pub(super) fn confirm(
        &self,
        mut response: UpstreamResponse,
        protocol: Option<HeaderValue>,
    ) -> (UpstreamResponse, NextProtocol) {
        match (&self.upgrade_request, protocol) {
            (Some(upgrade_request), Some(protocol)) => {
                upgrade_request.confirm(&mut response, protocol);
                (response, NextProtocol::Tunnel)
            }
            _ => (response, NextProtocol::Http),
        }
    }

    /// Returns the error that the body ended with, if any: the client caused it.
    pub(super) fn body_error(&self) -> Option<ProxyError> {
        self.body.as_ref().and_then(|body| body.error())
    }

    /// Returns since when an attempt that `begun` then has waited for its backend; `None` while it waits for the
    /// client.
    fn backend_since(&self, begun: Instant) -> Option<Instant> {
        self.body().map_or(Some(begun), |body| body.upload().backend_since().map(|since| since.max(begun)))
    }

    /// Returns whether the backend closed the connection because the client kept it waiting.
    fn kept_waiting(&self, failure: Failure) -> bool {
        let is_silent = |body: &Rc<ReplayBody>| body.upload().is_silent(clock::now());
        failure.fact == Fact::Closed && failure.sent && self.body().is_some_and(is_silent)
    }

    /// Returns what the retry rule needs to know.
    pub(super) fn facts(&self, sent: u32, deadline: Instant, backend_lost: bool) -> RetryFacts {
        RetryFacts {
            repeatable: self.repeatable,
            replayable: self.is_replayable(),
            sent,
            in_time: clock::now() < deadline,
            backend_lost,
        }
    }

    /// Returns the Host that it is sent with, unless each backend gets its own.
    pub(super) fn host(&self) -> Option<HeaderValue> {
        let headers = self.headers.borrow();
        headers.get(HOST).filter(|_| !self.hostless).cloned()
    }

    /// Sets what the next attempt tells its backend about the session.
    pub(super) fn set_session(&self, field: Option<HeaderValue>) {
        self.session.replace(field);
    }

    /// Sets the `traceparent` of the next attempt, in the place of the client's.
    pub(super) fn set_trace_parent(&self, value: HeaderValue) {
        self.headers.borrow_mut().insert(TRACEPARENT, value);
    }

    /// Returns whether all of it can be sent again.
    pub(super) fn is_replayable(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_replayable())
    }

    /// Makes the request that one attempt sends. Also a request that must not be repeated may need several: an attempt
    /// can fail without a byte sent.
    fn request(&self, backend: &Backend, scheme: Scheme) -> OutgoingRequest<'_, RequestBody> {
        if self.hostless {
            // The backend's address is right for each backend; nginx does the same. It is a valid value.
            let host = backend.address().tcp().and_then(|address| HeaderValue::try_from(address.to_string()).ok());
            self.headers.borrow_mut().insert(HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
        }
        OutgoingRequest {
            method: &self.method,
            target: &self.uri,
            fields: self.headers.borrow(),
            added: Ref::filter_map(self.session.borrow(), Option::as_ref).ok().map(|session| (&SESSION, session)),
            scheme,
            body: self.body.as_ref().map_or(RequestBody::Empty, ReplayBody::attempt),
        }
    }
}

impl Drop for UpstreamRequest {
    fn drop(&mut self) {
        spare_fields::put(self.headers.take());
    }
}

/// Sends the request to the backend at `index`, on an idle connection or a new one. A response whose status is in
/// `retry_on` is returned anyway, unless `may_discard` permits another attempt. `in_flight` is what the request tells of
/// its session, if the pool keeps copies.
#[expect(clippy::too_many_arguments, reason = "each is another part of the request or of its surroundings")]
pub(super) async fn attempt(
    thread: &ThreadState,
    exchange: &Exchange,
    service: &Service,
    order: &CandidateOrder<'_>,
    upstream_request: &UpstreamRequest,
    index: usize,
    in_flight: Option<&InFlight>,
    may_discard: &dyn Fn(Failure) -> bool,
) -> Result<UpstreamResponse, Failure> {
    let backend = service.pool.backend(index);
    let losses = backend.live().times_lost();
    let deadline = exchange.total_deadline();
    let limit = exchange.wait_deadline();
    let timeouts = exchange.timeouts(service);
    let key = PoolKey { client: exchange.identity().client(), http1: upstream_request.upgrade_request.is_some() };
    let mut may_reuse = true;
    loop {
        let idle = if may_reuse {
            thread.connections.checkout(backend, &service.upstream.settings, key, clock::now())
        } else {
            None
        };
        let mut connection: PooledConnection<RequestBody> = match idle {
            Some(connection) => {
                // Once it is written it can't be sent again, if the backend has just died: the event loop may have read
                // the request before it could report that.
                if !upstream_request.repeatable {
                    connection.notice_close();
                }
                connection
            }
            None => {
                let begun = clock::now();
                limit.set((begun + timeouts.connect).min(deadline));
                let is_lost = || backend.live().times_lost() != losses && order.has_next();
                // Boxed, or each request's future would have room for something that few requests do.
                let connection = Box::pin(open::open(thread, service, backend, key, limit, is_lost)).await?;
                // A stream on an HTTP/2 connection that is open takes no time.
                if let (false, Some(series)) = (connection.is_used(), service.series.get(index)) {
                    series.connected(thread.index, clock::now().saturating_duration_since(begun));
                }
                exchange.reached(service, index);
                // The server that the session has left meanwhile was told to forget it, and would respond as if the
                // session did not exist. Such a response has nothing to be refused by.
                if in_flight.is_some_and(InFlight::is_overtaken) {
                    return Err(Failure::new(Fact::SessionMoved, false));
                }
                connection
            }
        };
        exchange.connected();

        let is_used = connection.is_used();
        let begun = clock::now();
        // While the attempt waits for the client, the body keeps the client's own deadline.
        let due = || {
            upstream_request
                .backend_since(begun)
                .map(|since| (since + timeouts.response).min(exchange.total_deadline()))
        };
        limit.set(due().unwrap_or(begun + LOOK));
        let body = upstream_request.body().map(|body| (body, connection.sent()));
        let watch = |cx: &mut Context<'_>| {
            let lost = backend.live().times_lost() != losses;
            if lost && upstream_request.repeatable && upstream_request.is_replayable() && order.has_next() {
                return Poll::Ready(Fact::Lost);
            }
            if let Some((body, sent)) = &body {
                sent.iter().for_each(|sent| body.sent(sent.bytes()));
                body.hold(cx);
            }
            while limit.poll(cx).is_ready() {
                // Each byte of the body that moves restarts the backend's time.
                match due() {
                    Some(due) if due <= clock::now() => return Poll::Ready(Fact::ResponseTimeout),
                    Some(due) => limit.set(due),
                    None => limit.set(clock::now() + LOOK),
                }
            }
            Poll::Pending
        };
        let is_shared = connection.is_http2();
        let mut interim = InterimForwarder {
            gate: upstream_request.body().map(|body| body.gate()),
            client: exchange.interim(),
            edits: exchange.edits().map(|edits| &edits.response),
            forwarded: 0,
        };
        let request = || upstream_request.request(backend, service.upstream.scheme());
        let on_interim = |status, fields| interim.received(status, fields);
        let error = match connection.send_request(request, on_interim, watch).await {
            Ok(response) => {
                return check_response(thread, service, index, upstream_request, response, connection, may_discard);
            }
            // HTTP/2 reports a body that broke off like any other reset.
            Err(error) if upstream_request.body_error().is_some() => {
                return Err(Failure::new(Fact::RequestBody, error.failure.sent));
            }
            Err(error) if upstream_request.kept_waiting(error.failure) => {
                upstream_request.body().into_iter().for_each(|body| body.fail_client_too_slow());
                return Err(Failure::new(Fact::RequestBody, true));
            }
            Err(error) => error,
        };
        // Only a new connection can tell a stale connection from a dead backend.
        let failure = error.failure;
        let end = AttemptEnd {
            is_used,
            has_received: error.has_received,
            after: clock::now().saturating_duration_since(begun),
            connect_time: connection.connect_time(),
            is_repeatable: upstream_request.repeatable,
        };
        let mut is_stale = is_stale(failure, end);
        // Or the backend has not announced its stream limit yet, and there were more requests.
        is_stale |= is_shared && may_reuse && failure.fact == Fact::Closed && !failure.sent;
        if !(is_stale && upstream_request.is_replayable()) {
            return Err(failure);
        }
        // A backend that refuses a stream refuses it on each connection.
        may_reuse = !failure.sent && !is_shared;
    }
}

fn check_response(
    thread: &ThreadState,
    service: &Service,
    index: usize,
    upstream_request: &UpstreamRequest,
    response: Response<ReceivedBody>,
    connection: PooledConnection<RequestBody>,
    may_discard: &dyn Fn(Failure) -> bool,
) -> Result<UpstreamResponse, Failure> {
    let status = response.status();
    let outcome = match &upstream_request.upgrade_request {
        Some(upgrade_request) => upgrade_request.outcome(&response),
        None if status == http::StatusCode::SWITCHING_PROTOCOLS => UpgradeOutcome::UnexpectedProtocol,
        None => UpgradeOutcome::Answered,
    };
    if outcome == UpgradeOutcome::UnexpectedProtocol {
        return Err(Failure::new(Fact::Garbage, true));
    }
    // Over HTTP/1.1 the connection has counted them already, and refused more.
    if response.headers().len() > service.upstream.settings.header_count {
        return Err(Failure::new(Fact::HeadTooLarge, true));
    }
    // The backend has done nothing, and the body will be sent again.
    let is_wanted = service.copies.is_some() && is_wanted(status, response.headers());
    let unwanted = Failure::new(Fact::Status(status.as_u16()), true);
    if service.retry.retry_on.status.contains(&status.as_u16()) && !is_wanted && may_discard(unwanted) {
        return Err(unwanted);
    }
    if let Some(body) = upstream_request.body().filter(|_| !is_wanted) {
        body.response_started(status.is_client_error() || status.is_server_error());
    }
    if let Some(series) = service.series.get(index) {
        series.attempt(thread.index, 0);
    }
    let mut response = response.map(|body| UpstreamBody::new(body, connection));
    if response.status() == http::StatusCode::NO_CONTENT {
        // RFC 9110 §8.6: not with 204, whatever the backend sends.
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    Ok(response)
}
