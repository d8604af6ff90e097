//! Owns: giving a session's copy to a backend, with a request of its own.
//! Invariant: it ends within its time limit; a connection that breaks says so, and the session's request has not run.
//! Must not know: why the copy is given, or what follows from the outcome.

use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::StatusCode;

use super::body::RequestBody;
use super::copy_request::CopyRequest;
use super::exchange::Exchange;
use super::open;
use super::snapshot::Service;
use super::stale::{AttemptEnd, is_stale};
use super::thread::ThreadState;
use crate::clock::{self, Deadline};
use crate::copies::{Given, Refusal, Version, fields};
use crate::pool::Backend;
use crate::upstream::http1::spare_fields;
use crate::upstream::{Fact, Failure, PoolKey, PooledConnection, UpstreamBody};

/// How giving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GiveEnd {
    /// The backend responded; the version is its own, if it says so.
    Response(StatusCode, Option<Version>),
    /// The backend sent something that is no response.
    NoResponse,
    /// The time is over.
    Late,
    /// The backend could not be reached, or the connection broke. As a failure of the session's request, which was not
    /// sent.
    Failed(Failure),
    /// The connection broke after the backend had got some of the copy.
    Broken(Failure),
}

/// What giving needs of the request that it is done for.
#[derive(Debug, Clone, Copy)]
pub(super) struct GiveRules {
    /// The client that the connection belongs to, where backends learn it from the connection.
    client: Option<IpAddr>,
    connect: Duration,
    /// How long the backend may take to respond once it is connected.
    response: Duration,
    /// The end of all of it.
    until: Instant,
}

impl GiveRules {
    /// Returns the rules for copies of the request of `exchange`, which end at `until`.
    pub(super) fn of(exchange: &Exchange, service: &Service, response: Duration, until: Instant) -> GiveRules {
        let (client, connect) = (exchange.identity().client(), exchange.timeouts(service).connect);
        GiveRules { client, connect, response, until: until.min(exchange.total_deadline()) }
    }

    fn key(&self) -> PoolKey {
        PoolKey { client: self.client, http1: false }
    }
}

/// Gives a copy to the backend at `index`.
pub(super) async fn give(
    thread: &ThreadState,
    service: &Service,
    index: usize,
    copy: &CopyRequest<'_>,
    rules: GiveRules,
    deadline: &Deadline,
) -> GiveEnd {
    let backend = service.pool.backend(index);
    let losses = backend.live().times_lost();
    let is_lost = || backend.live().times_lost() != losses;
    let mut may_reuse = true;
    loop {
        let idle = if may_reuse {
            thread.connections.checkout(backend, &service.upstream.settings, rules.key(), clock::now())
        } else {
            None
        };
        let mut connection: PooledConnection<RequestBody> = match idle {
            Some(connection) => connection,
            None => {
                deadline.set((clock::now() + rules.connect).min(rules.until));
                // Boxed, or the future of each save would have room for something that few do.
                match Box::pin(open::open(thread, service, backend, rules.key(), deadline, is_lost)).await {
                    Ok(connection) => connection,
                    Err(failure) => return GiveEnd::Failed(failure),
                }
            }
        };
        let (is_used, begun) = (connection.is_used(), clock::now());
        deadline.set((begun + rules.response).min(rules.until));
        let watch = |cx: &mut Context<'_>| {
            if is_lost() {
                return Poll::Ready(Fact::Lost);
            }
            deadline.poll(cx).map(|()| Fact::ResponseTimeout)
        };
        let request = || copy.request(&thread.copy_fields, backend, service.upstream.scheme());
        let error = match connection.send_request(request, |_, _| {}, watch).await {
            Ok(response) => {
                let version = match response.status() {
                    StatusCode::CONFLICT => fields::version_of_response(response.headers()),
                    _ => None,
                };
                let end = GiveEnd::Response(response.status(), version);
                let (head, body) = response.into_parts();
                spare_fields::put(head.headers);
                release(thread, service, backend, rules.key(), UpstreamBody::new(body, connection)).await;
                return end;
            }
            Err(error) => error,
        };
        let end = AttemptEnd {
            is_used,
            has_received: error.has_received,
            after: clock::now().saturating_duration_since(begun),
            connect_time: connection.connect_time(),
            is_repeatable: true,
        };
        if is_stale(error.failure, end) && may_reuse {
            may_reuse = false;
            continue;
        }
        // The session's own request was not sent, whatever became of the copy.
        let unsent = |fact| Failure::new(fact, false);
        return match error.failure.fact {
            Fact::ResponseTimeout => GiveEnd::Late,
            Fact::Garbage | Fact::HeadTooLarge if error.failure.sent => GiveEnd::NoResponse,
            fact @ Fact::Closed if error.failure.sent => GiveEnd::Broken(unsent(fact)),
            fact => GiveEnd::Failed(unsent(fact)),
        };
    }
}

/// Keeps the connection of a response that is not passed on for another request, if nothing follows on it.
pub(super) async fn release(
    thread: &ThreadState,
    service: &Service,
    backend: &Backend,
    key: PoolKey,
    body: UpstreamBody<RequestBody>,
) {
    if !body.is_end() {
        return;
    }
    let mut body = Some(body);
    let connection = std::future::poll_fn(|cx| Poll::Ready(body.take().and_then(|body| body.into_reusable(cx)))).await;
    if let Some(connection) = connection {
        thread.connections.release(backend, connection, &service.upstream.settings, key, clock::now());
    }
}

/// Returns what the outcome of giving means to the session, and what was refused.
pub(super) fn judge(end: GiveEnd) -> (Given, Option<(Refusal, Option<StatusCode>)>) {
    match end {
        GiveEnd::Response(StatusCode::NO_CONTENT, _) => (Given::Taken, None),
        GiveEnd::Response(StatusCode::CONFLICT, Some(version)) => {
            (Given::Newer(version), Some((Refusal::Newer, Some(StatusCode::CONFLICT))))
        }
        GiveEnd::Response(status @ StatusCode::UNPROCESSABLE_ENTITY, _) => {
            (Given::Refused, Some((Refusal::NotAuthentic, Some(status))))
        }
        GiveEnd::Response(
            status @ (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED),
            _,
        ) => (Given::Refused, Some((Refusal::NoMiddleware, Some(status)))),
        GiveEnd::Response(status, _) => (Given::Failed, Some((Refusal::Status, Some(status)))),
        GiveEnd::NoResponse => (Given::Failed, Some((Refusal::Status, None))),
        GiveEnd::Late => (Given::Failed, Some((Refusal::Late, None))),
        GiveEnd::Broken(_) => (Given::Broken, Some((Refusal::Broken, None))),
        // Counted as a failed attempt.
        GiveEnd::Failed(_) => (Given::Unreached, None),
    }
}
