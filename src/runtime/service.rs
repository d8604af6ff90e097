//! Owns: handing the requests of one connection to the handler, for both versions of HTTP.
//! Invariant: a request keeps its connection busy from its head to the end of its response.
//! Must not know: sockets; who polls a connection.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;

use futures_util::FutureExt;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};

use super::activity::{Activity, RequestGuard};
use super::conn_context::ConnContext;
use super::delivery::TrackedBody;
use super::ensure_response::EnsureResponse;
use super::shutdown::Shutdown;
use crate::handler::{Handler, IncomingBody, Interim, Reply, ResponseContent};
use crate::telemetry::Limit;

/// Hands the requests of one connection to the handler, and records them in the connection's `activity`.
pub(super) struct Requests<H: Handler> {
    handler: Rc<H>,
    client: Rc<H::Client>,
    activity: Rc<Activity>,
    shutdown: Rc<Shutdown>,
    most: u32,
}

impl<H: Handler> Requests<H> {
    pub(super) fn new(context: &ConnContext<H>, client: Rc<H::Client>, activity: Rc<Activity>) -> Requests<H> {
        let (handler, shutdown) = (Rc::clone(&context.handler), Rc::clone(&context.shutdown));
        let most = context.limits.requests_per_connection.unwrap_or(u32::MAX);
        Requests { handler, client, activity, shutdown, most }
    }

    /// Hands over a request, and the reply to `finish` with the guard that keeps the connection busy.
    pub(super) fn handle<T, F>(
        &self,
        request: Request<IncomingBody>,
        interim: Option<Interim>,
        finish: F,
    ) -> impl Future<Output = T> + use<H, T, F> + 'static
    where
        T: 'static,
        F: FnOnce(Reply<H::Body>, RequestGuard) -> T + 'static,
    {
        let guard = RequestGuard::begin(&self.activity, !request.body().is_end_stream());
        if self.activity.requests() == self.most {
            self.handler.count_limit(Limit::RequestsPerConnection);
        }
        let (abandons, abandoned) = (Rc::clone(&self.handler), Rc::clone(&self.client));
        let abandon = move |why| abandons.abandoned(&abandoned, why);
        let handling = Rc::clone(&self.handler).handle(Rc::clone(&self.client), request, interim);
        // `map` and not an `async` block, which would hold the request's future twice.
        EnsureResponse::new(handling, &self.activity, &self.shutdown, abandon).map(move |reply| finish(reply, guard))
    }

    /// Whether the connection has had as many requests as it may have.
    pub(super) fn is_last(&self) -> bool {
        self.activity.requests() >= self.most
    }
}

/// The service's result, as hyper expects it.
type ServiceResult<H> = Result<Response<TrackedBody<<H as Handler>::Body>>, Infallible>;

/// Makes the service of a connection of HTTP/1.
pub(super) fn service<H: Handler>(
    requests: Requests<H>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<TrackedBody<H::Body>>,
    Error = Infallible,
    Future = impl Future<Output = ServiceResult<H>> + 'static,
> {
    service_fn(move |request: Request<Incoming>| {
        let has_body = !request.body().is_end_stream();
        let interim = requests.activity.interim_of(request.version()).map(Interim::Http1);
        let (most, shutdown) = (requests.most, Rc::clone(&requests.shutdown));
        requests.handle(request.map(IncomingBody::Http1), interim, move |reply, mut guard| {
            let is_last = guard.activity().requests() >= most;
            let Reply { mut response, tunnel, is_stream } = reply;
            // hyper would have to read the rest of the request's body to find the next head, and that can be any
            // length: the connection closes after this response.
            let is_unread = has_body && !response.body().has_read_request();
            if (is_last || is_unread || shutdown.is_announced()) && tunnel.is_none() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                // The client may have sent its next request already.
                guard.closes_connection();
            }
            guard.responded(is_stream);
            let Some(tunnel) = tunnel else {
                return Ok(response.map(|body| TrackedBody::new(body, Some(guard), None)));
            };
            guard.activity().hand_over(tunnel);
            Ok(response.map(|body| TrackedBody::new(body, None, None)))
        })
    })
}
