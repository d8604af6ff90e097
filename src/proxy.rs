//! Owns: the pipeline of a request; the function `serve` is its table of contents.
//! Invariant: a request is never executed twice unless that is safe, and every wait has a limit.
//! Must not know: TLS, listeners, configuration files.

pub mod access;
mod attempt;
mod authorize;
pub mod basic_auth;
mod bind;
pub mod body;
pub mod client;
mod copies;
mod copy_request;
mod edits;
pub mod error;
pub mod exchange;
pub mod fields;
pub mod forwarded;
mod give;
mod head;
pub mod headers;
pub mod host;
mod interim;
pub mod key;
mod leave;
mod open;
mod order;
pub mod pages;
pub mod password_checks;
mod path_readings;
pub mod rate;
mod record;
pub mod redirect;
pub mod relay;
pub mod replay;
mod replicate;
mod request_id;
mod reserved_path;
pub mod respond;
mod response_end;
pub mod retry;
mod rewrite;
pub mod route;
mod route_index;
mod session_use;
pub mod snapshot;
mod stale;
mod streams;
mod target;
mod thread;
mod timeouts;
mod trace;
mod trace_context;
mod trace_start;
mod trailers;
pub mod tunnel;
mod unread;
mod upgrade;
mod upload;
pub mod users;
pub mod via;
mod wait;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Request, Response, Version};
use http_body::Body;

use crate::affinity::rules::RuleEffect;
use crate::affinity::{Decision, ExtractedPin, ReadPin, RejectedPin, avoid_list::AvoidList, decide};
use crate::clock::{self, Deadlines};
use crate::handler::{Abandoned, Handler, HeadFault, IncomingBody, Interim, Peer, Reply};
use crate::telemetry::{AccessLogHandle, Limit, ThreadLog};
use attempt::{UpstreamRequest, UpstreamResponse};
use client::{Client, ListenerInfo};
use copies::{AttemptError, RequestCopies};
use error::ProxyError;
use exchange::Exchange;
use order::{CandidateOrder, OrderRules, Step};
use redirect::Redirect;
use relay::ResponseBody;
use route::RouteAction;
use snapshot::Snapshot;
use thread::ThreadState;
pub use timeouts::Timeouts;
use trace::Trace;
use upgrade::NextProtocol;

/// The outcome of the pipeline.
enum PipelineOutcome {
    /// A backend's response, and the protocol that follows it.
    UpstreamResponse(UpstreamResponse, NextProtocol),
    /// A redirect; no backend was involved.
    Redirect(Response<()>),
    /// What an ACME server asks for.
    Challenge(Bytes),
}

/// One thread's proxy.
pub struct Proxy {
    thread: Rc<ThreadState>,
}

impl Proxy {
    /// Makes the proxy of the data-path thread number `thread`, whose time limits run in `deadlines`, and whose
    /// requests keep their bodies for another attempt in `replay_memory`.
    pub fn new(
        thread: usize,
        snapshot: Arc<Snapshot>,
        deadlines: Deadlines,
        log: ThreadLog,
        avoid_list: Arc<AvoidList>,
        replay_memory: Rc<replay::ReplayMemory>,
    ) -> Proxy {
        let thread = ThreadState::new(thread, snapshot, deadlines, log, avoid_list, replay_memory);
        Proxy { thread: Rc::new(thread) }
    }

    /// Does the work that belongs to no request: flushes log lines, and closes idle connections that have expired. Call
    /// it about once a second.
    pub fn sweep(&self, now: Instant) {
        self.thread.log.flush();
        self.thread.connections.sweep(now);
    }

    /// Replaces the snapshot for the requests that follow. Requests under way keep theirs.
    pub fn install(&self, snapshot: Arc<Snapshot>) {
        self.thread.install(snapshot);
    }

    /// Writes the access records that follow to another log.
    pub fn switch_log(&self, log: &AccessLogHandle) {
        self.thread.log.switch(log);
    }

    /// Changes the memory that request bodies may take for another attempt, in bytes.
    pub fn resize_replay_memory(&self, bytes: usize) {
        self.thread.replay_memory.resize(bytes);
    }
}

impl Handler for Proxy {
    type Body = ResponseBody;
    type Client = Client;
    type Listener = ListenerInfo;

    fn begin_connection(&self, listener: &Arc<ListenerInfo>, peer: Peer) -> Client {
        Client::new(listener, peer)
    }

    fn park_connection(&self, client: &Client) {
        client.park();
    }

    /// Takes a request from its head to the head of its response. The body of the response carries on from there,
    /// and the access record is written when it ends.
    ///
    /// Each request under way keeps this future in memory for as long as its backend works. rustc gives each
    /// by-value argument of a nested async function its own place in it, so arguments are passed by reference.
    /// The future has kilobytes, so it is boxed at once: hyper and what is around it here would copy it six times.
    fn handle(
        self: Rc<Self>,
        client: Rc<Client>,
        request: Request<IncomingBody>,
        interim: Option<Interim>,
    ) -> impl Future<Output = Reply<ResponseBody>> + 'static {
        let (mut head, body) = request.into_parts();
        let mut exchange = Exchange::begin(&self.thread, &client, &head, interim);
        let thread = Rc::clone(&self.thread);
        let (view, identity) = (thread.view.borrow(), exchange.identity());
        exchange.record.begin_trace(Trace::begin(&view, &client, identity, &mut head.headers, || thread.random()));
        drop(view);
        Box::pin(async move {
            match serve(&thread, &mut exchange, &mut head, body).await {
                Ok(PipelineOutcome::UpstreamResponse(response, NextProtocol::Http)) => {
                    relay::relay(exchange, response).await
                }
                Ok(PipelineOutcome::UpstreamResponse(response, NextProtocol::Tunnel)) => {
                    relay::switch(exchange, response)
                }
                Ok(PipelineOutcome::Redirect(response)) => relay::redirect(exchange, response),
                Ok(PipelineOutcome::Challenge(response)) => relay::challenge(exchange, response),
                Err(error) => relay::refuse(exchange, error),
            }
        })
    }

    /// Makes the response to an abandoned request. Where the process ends, everything that is still to come on the
    /// connection is recorded as our doing; a client that closed its side is recorded as one that left, and a panic
    /// has its record by then.
    fn abandoned(self: &Rc<Self>, client: &Rc<Client>, why: Abandoned) -> Response<ResponseBody> {
        if why == Abandoned::Stopping {
            client.is_abandoned.set(true);
        }
        respond::respond(ProxyError::Abandoned, self.thread.new_id().as_str(), false).map(ResponseBody::page)
    }

    fn reject_head(self: &Rc<Self>, client: &Rc<Client>, fault: HeadFault) -> Bytes {
        let error = match fault {
            HeadFault::HeadTimeout => ProxyError::HeadTimeout,
            HeadFault::Malformed => ProxyError::Malformed("The request is not valid HTTP."),
            HeadFault::TooLarge => ProxyError::TooManyFields,
            HeadFault::Fragment => ProxyError::Malformed("The request target has a fragment."),
        };
        unread::refuse(&self.thread, client, error)
    }

    fn count_limit(&self, limit: Limit) {
        self.thread.limited(limit);
    }
}

async fn serve(
    thread: &ThreadState,
    exchange: &mut Exchange,
    head: &mut http::request::Parts,
    body: IncomingBody,
) -> Result<PipelineOutcome, ProxyError> {
    let view = exchange.view();
    exchange.admit(&view)?;
    let has_body = !body.is_end_stream();
    let upgrade_request = upgrade::requested(head, has_body, || thread.random());
    let host = headers::normalize(head, &view.snapshot().limits)?;
    if has_body {
        headers::check_transfer_coding(&head.headers)?;
    }
    let challenges = view.snapshot().challenges.as_ref();
    if let Some(response) = challenges.and_then(|challenges| challenges.response(head.uri.path())) {
        return Ok(PipelineOutcome::Challenge(response));
    }
    let client = exchange.client();
    if let Some(redirect) = client.redirect_to_tls(exchange.identity()) {
        return send_away(exchange, redirect, "/", host.as_ref(), head).map(PipelineOutcome::Redirect);
    }
    reserved_path::check(head.uri.path())?;
    let route = exchange.find_route(&view, host.as_ref(), head).ok_or(ProxyError::NoRoute)?;
    authorize::authorize(exchange, &view, route, host.as_ref(), head).await?;
    let service = match &route.action {
        RouteAction::Pool(pool) => view.service(*pool).ok_or(ProxyError::NoRoute)?,
        RouteAction::Redirect(redirect) => {
            return send_away(exchange, redirect, &route.prefix, host.as_ref(), head).map(PipelineOutcome::Redirect);
        }
    };
    let upgrade_request = upgrade::permitted(upgrade_request, &route.upgrades)?;

    let (identity, now, via) = (exchange.identity(), clock::unix(), view.via(exchange.pool()));
    if let Some(via) = via.filter(|via| via.is_loop(&head.headers)) {
        via.warn_of_loop(service.pool.name(), client.listener_name(), exchange.id().as_str(), clock::now());
        return Err(ProxyError::Loop);
    }
    let effect = service.affinity.apply_rules(head, identity.client(), &service.pool).or(route.effect);
    let mut extracted =
        service.affinity.extract(&mut head.headers, head.uri.path(), &service.pool, &mut client.pin_cache.borrow_mut());
    view.snapshot().pin_names.strip(&mut head.headers);
    if effect.is_none() {
        query_store(exchange, service, &mut extracted, now.as_secs()).await;
    }
    let key = extracted.key().or_else(|| copies::key(service, head));
    let request = bind::BindFacts::of(head, identity, key);
    let draw = service.hash.as_ref().and_then(|settings| settings.hash(head, identity.address));
    let expects = headers::to_backend(&mut head.headers, host.as_ref(), &client, identity, exchange.id());
    exchange.record.user.iter().for_each(|user| user.name_to_backend(&mut head.headers));
    if let Some(via) = via {
        via.add(&mut head.headers, head.version);
    }
    // It is a part of the buffer that the head was read into.
    drop(host);
    edits::edit_request(route, exchange.edits().map(|edits| &**edits), head)?;
    reserved_path::check(head.uri.path())?;

    let mut decision = decide(thread, exchange, service, effect, extracted, now.as_secs());
    exchange.begin_for(service, decision.issued_session());
    if !request.is_sessionless() {
        exchange.session.begin(service, &mut decision, thread.index);
    }
    let (balancer, budget) = (view.balancer(exchange.pool()), view.budget(exchange.pool()));
    budget.deposit();
    let mut order = CandidateOrder::new(OrderRules::of(service, balancer, budget), decision);
    order.avoid(&thread.avoid_list, now.as_secs());
    if service.affinity.converge().is_some() && !request.is_sessionless() {
        order.join_first_request(
            key::client_hash(head, identity.address),
            now,
            draw.unwrap_or_else(|| thread.random()),
        );
    }

    let mut upstream_request = UpstreamRequest::new(head, body, expects, upgrade_request, service, route, thread)?;
    exchange.keep_body(upstream_request.body());
    if upstream_request.outlives_head() {
        exchange.detach_from_head();
    }
    let mut copies = RequestCopies::find(service, order.decision(), &request, &client);
    let served = attempts(thread, exchange, service, &mut order, &mut copies, &mut upstream_request, draw).await;
    if let Some(copies) = &copies {
        order.decision_mut().set_term(copies.term());
        copies.replica().into_iter().for_each(|replica| order.decision_mut().set_replica(replica));
        exchange.copied(copies.outcome());
    }
    exchange.decided(order.decision());
    let (mut response, index) = served?;

    let protocol = upstream_request.protocol(&response)?;
    let version = std::mem::replace(response.version_mut(), Version::HTTP_11);
    service.affinity.read_replica(response.headers(), order.decision_mut(), &service.pool, index);
    session_use::SessionUse::offered(service, order.decision(), response.headers(), index);
    // First, or a backend could remove the routing cookie by naming it in Connection.
    headers::to_client(response.headers_mut());
    if let Some(via) = via {
        via.add(response.headers_mut(), version);
    }
    if let Some(conflict) = view.snapshot().pin_names.rename_conflicting(response.headers_mut()) {
        service.affinity.warn_of_conflict(conflict, &service.pool, index);
    }
    if let Some(edits) = exchange.edits() {
        edits.response.apply(response.headers_mut());
    }
    let effect = bind::bind(service, &request, order.decision(), index, response.status(), response.headers_mut());
    exchange.session.served(service, order.decision(), effect, index, thread.index);
    exchange.session_known();
    let (response, next_protocol) = upstream_request.confirm(response, protocol);
    Ok(PipelineOutcome::UpstreamResponse(response, next_protocol))
}

/// Makes the response of a listener, or of a route with this prefix, that sends its clients elsewhere.
fn send_away(
    exchange: &Exchange,
    redirect: &Redirect,
    prefix: &str,
    host: Option<&HeaderValue>,
    head: &http::request::Parts,
) -> Result<Response<()>, ProxyError> {
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let response = redirect.response(host, exchange.identity().is_secure, &head.uri, prefix);
    response.ok_or(ProxyError::Malformed("The request has no Host field."))
}

/// Decides about the request's pin.
fn decide(
    thread: &ThreadState,
    exchange: &mut Exchange,
    service: &snapshot::Service,
    effect: Option<RuleEffect>,
    extracted: ExtractedPin,
    now: u64,
) -> Decision {
    let fresh = thread.random();
    if let Some(effect) = effect {
        exchange.rule_matched(effect);
    }
    match effect {
        Some(RuleEffect::Force(index)) => Decision::forced(index, fresh),
        Some(RuleEffect::Exempt) => Decision::unpinned(fresh),
        None if !service.affinity.is_on() => Decision::unpinned(fresh),
        None => {
            let read = ReadPin::from(&extracted.lookup);
            let policy = service.affinity.session_policy();
            let decision = decide::decide(extracted.lookup, &service.pool, policy, now, fresh);
            if let Some(rejected) = RejectedPin::of(read, decision.cause) {
                service.unserved.pin_rejected(thread.index, rejected as usize);
            }
            if extracted.is_of_former_key { decision.renewed() } else { decision }
        }
    }
}

/// Asks the other Linchpins for a session that this one doesn't know, where they share a store.
async fn query_store(exchange: &Exchange, service: &snapshot::Service, extracted: &mut ExtractedPin, now: u64) {
    if let Some(answer) = service.affinity.query_store(extracted, now)
        && let Some(found) = wait::for_answer(exchange.wait_deadline(), answer).await
    {
        service.affinity.adopt(extracted, &found);
    }
}

/// Does what the candidate order says, step by step, until a backend responds.
async fn attempts(
    thread: &ThreadState,
    exchange: &mut Exchange,
    service: &snapshot::Service,
    order: &mut CandidateOrder<'_>,
    copies: &mut Option<RequestCopies<'_>>,
    upstream_request: &mut UpstreamRequest,
    draw: Option<u64>,
) -> Result<(UpstreamResponse, usize), ProxyError> {
    loop {
        let step = order.next(clock::now(), exchange.total_deadline(), || draw.unwrap_or_else(|| thread.random()));
        let index = match step {
            Step::Try(index) => index,
            Step::Wait(wait) => {
                let is_back = exchange.wait(service, wait).await;
                order.waited(is_back);
                continue;
            }
            Step::Queue(wait) => {
                let granted = exchange.queue(service, &wait).await;
                order.queued(granted);
                continue;
            }
            Step::End(error) => return Err(error),
        };
        exchange.attempt(index, order.has_waited(), order.decision().adds_session_to(index));
        if let Some(trace) = exchange.record.trace() {
            upstream_request.set_trace_parent(trace.begin_attempt(service, index, thread.random()));
        }
        let (begun, is_first) = (clock::now(), order.is_first());
        let facts = |lost: bool| upstream_request.facts(0, exchange.total_deadline(), lost);
        let may_discard = |failure| order.may_discard_response(failure, facts(is_lost(service, index)));
        let (failure, took) = match copies::attempt(
            copies,
            thread,
            exchange,
            service,
            order,
            upstream_request,
            index,
            &may_discard,
        )
        .await
        {
            Ok(response) => {
                if let Some(trace) = exchange.record.trace() {
                    trace.attempt_responded(response.status(), record::version_name(response.version()));
                }
                exchange.reached(service, index);
                order.served(index);
                return Ok((response, index));
            }
            Err(AttemptError::Ended(error)) => return Err(error),
            Err(AttemptError::Failed(failure)) => {
                copies.iter_mut().for_each(|copies| copies.failed(failure));
                let took = clock::now().saturating_duration_since(begun);
                (exchange.timeouts(service).judge(failure, took, is_first), took)
            }
        };
        exchange.failed(index, failure, took, order.has_waited());
        let reason = exchange.record.reason;
        exchange.record.trace().into_iter().for_each(|trace| trace.attempt_failed(failure, reason));
        if let Some(error) = upstream_request.body_error() {
            return Err(error);
        }
        let facts = upstream_request.facts(0, exchange.total_deadline(), is_lost(service, index));
        if order.failed(index, failure, facts) {
            let live = service.pool.backend(index).live();
            thread.avoid_list.add(order.decision().session, live, clock::unix().as_secs());
        }
    }
}

/// Returns whether the backend at `index` is out, or nearly so.
fn is_lost(service: &snapshot::Service, index: usize) -> bool {
    let live = service.pool.backend(index).live();
    live.health() != crate::pool::Health::Up || live.is_suspect()
}
