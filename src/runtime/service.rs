//! Owns: the handler as a hyper service, over either version of HTTP.
//! Invariant: a request keeps its connection busy from its head to the end of its response.
//! Must not know: sockets; how connections are driven.

use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONNECTION, HeaderValue};
use http::{Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::activity::{Activity, RequestGuard};
use super::conn_context::ConnContext;
use super::delivery::TrackedBody;
use super::ensure_response::EnsureResponse;
use crate::handler::{Handler, Reply, ResponseContent, Tunnel};
use crate::telemetry::Limit;

/// What hyper gets from the service.
type ServiceResult<H> = Result<Response<TrackedBody<<H as Handler>::Body>>, Infallible>;

/// Makes a hyper service of the handler, which keeps the connection's activity.
pub(super) fn service<H: Handler>(
    context: &ConnContext<H>,
    client: Rc<H::Client>,
    activity: Rc<Activity>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<TrackedBody<H::Body>>,
    Error = Infallible,
    Future = impl Future<Output = ServiceResult<H>> + 'static,
> {
    let (handler, draining) = (Rc::clone(&context.handler), Rc::clone(&context.draining));
    let is_grace_over = Rc::clone(&context.is_grace_over);
    let max_requests = context.limits.requests_per_connection.unwrap_or(u32::MAX);
    service_fn(move |mut request: Request<Incoming>| {
        let mut busy = RequestGuard::begin(&activity);
        let has_body = !request.body().is_end_stream();
        activity.lingers.set(has_body);
        let upgrade = connect_upgrade(&mut request);
        let stall = activity.opens_stream();
        let is_last = activity.requests.get() >= max_requests;
        if activity.requests.get() == max_requests {
            handler.count_limit(Limit::RequestsPerConnection);
        }
        let draining = Rc::clone(&draining);
        // With `map` and not in an `async` block, which would have the request's future in it twice.
        let interim = activity.interim_of(request.version());
        let (abandons, abandoned) = (Rc::clone(&handler), Rc::clone(&client));
        let abandon = move |why| abandons.abandoned(&abandoned, why);
        let handling = Rc::clone(&handler).handle(Rc::clone(&client), request, interim);
        EnsureResponse::new(handling, &activity, &is_grace_over, abandon).map(move |reply| {
            let Reply { mut response, tunnel, is_stream } = reply;
            busy.activity().ends_interim();
            // What is left of a request's body can't be told from the next head in what hyper reads then, and may
            // be more than anybody wants to read: the connection ends behind the answer.
            let is_unread = has_body && !response.body().has_read_request();
            // A connection of HTTP/2 is told by itself to go.
            if (is_last || is_unread || draining.get().is_some()) && stall.is_none() && tunnel.is_none() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                // The client may have sent the next one already.
                busy.activity().lingers.set(true);
            }
            busy.answered(is_stream);
            let Some(tunnel) = tunnel else {
                return Ok(response.map(|body| TrackedBody::new(body, Some(busy), stall)));
            };
            match upgrade {
                // A tunnel through a stream keeps its connection busy.
                Some(upgrade) => drop(tokio::task::spawn_local(tunnel_stream(upgrade, tunnel, busy))),
                None => busy.activity().hand_over(tunnel),
            }
            Ok(response.map(|body| TrackedBody::new(body, None, None)))
        })
    })
}

/// How a stream's bytes can be had once the answer to its CONNECT (RFC 8441) has gone out.
fn connect_upgrade(request: &mut Request<Incoming>) -> Option<OnUpgrade> {
    let connects = request.version() == Version::HTTP_2 && *request.method() == Method::CONNECT;
    connects.then(|| hyper::upgrade::on(request))
}

/// Goes on with a stream when HTTP is over on it.
async fn tunnel_stream(upgrade: OnUpgrade, tunnel: Box<dyn Tunnel>, busy: RequestGuard) {
    // An error means that the client took the stream back before it was answered.
    if let Ok(stream) = upgrade.await {
        tunnel.run(Box::new(TokioIo::new(stream)), Bytes::new()).await;
    }
    drop(busy);
}
