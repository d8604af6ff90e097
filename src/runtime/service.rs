//! Owns: the handler as a hyper service, for both versions of HTTP.
//! Invariant: a request keeps its connection busy from its head to the end of its response.
//! Must not know: sockets; who polls a connection.

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

/// The service's result, as hyper expects it.
type ServiceResult<H> = Result<Response<TrackedBody<<H as Handler>::Body>>, Infallible>;

/// Makes a hyper service of the handler. The service records each request in the connection's `activity`.
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
    let (handler, shutdown) = (Rc::clone(&context.handler), Rc::clone(&context.shutdown));
    let max_requests = context.limits.requests_per_connection.unwrap_or(u32::MAX);
    service_fn(move |mut request: Request<Incoming>| {
        let has_body = !request.body().is_end_stream();
        let mut guard = RequestGuard::begin(&activity, has_body);
        let upgrade = connect_upgrade(&mut request);
        let stream = activity.open_stream();
        let is_last = activity.requests() >= max_requests;
        if activity.requests() == max_requests {
            handler.count_limit(Limit::RequestsPerConnection);
        }
        let state = Rc::clone(&shutdown);
        // `map` and not an `async` block, which would hold the request's future twice.
        let interim = activity.interim_of(request.version());
        let (abandons, abandoned) = (Rc::clone(&handler), Rc::clone(&client));
        let abandon = move |why| abandons.abandoned(&abandoned, why);
        let handling = Rc::clone(&handler).handle(Rc::clone(&client), request, interim);
        EnsureResponse::new(handling, &activity, &shutdown, abandon).map(move |reply| {
            let Reply { mut response, tunnel, is_stream } = reply;
            // hyper would have to read the rest of the request's body to find the next head, and that can be any
            // length: the connection closes after this response.
            let is_unread = has_body && !response.body().has_read_request();
            // HTTP/2 has no `Connection` field: `http2` sends GOAWAY.
            if (is_last || is_unread || state.is_announced()) && stream.is_none() && tunnel.is_none() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                // The client may have sent its next request already.
                guard.closes_connection();
            }
            guard.responded(is_stream);
            let Some(tunnel) = tunnel else {
                return Ok(response.map(|body| TrackedBody::new(body, Some(guard), stream)));
            };
            match upgrade {
                // A tunnel over a stream keeps its connection busy.
                Some(upgrade) => drop(tokio::task::spawn_local(tunnel_stream(upgrade, tunnel, guard))),
                None => guard.activity().hand_over(tunnel),
            }
            Ok(response.map(|body| TrackedBody::new(body, None, None)))
        })
    })
}

/// Returns the upgrade of a stream for extended CONNECT (RFC 8441), which completes once its response was sent.
fn connect_upgrade(request: &mut Request<Incoming>) -> Option<OnUpgrade> {
    let connects = request.version() == Version::HTTP_2 && *request.method() == Method::CONNECT;
    connects.then(|| hyper::upgrade::on(request))
}

/// Runs a tunnel over a stream after its upgrade.
async fn tunnel_stream(upgrade: OnUpgrade, tunnel: Box<dyn Tunnel>, guard: RequestGuard) {
    // An error means that the client reset the stream before the response was sent.
    if let Ok(stream) = upgrade.await {
        tunnel.run(Box::new(TokioIo::new(stream)), Bytes::new()).await;
    }
    drop(guard);
}
