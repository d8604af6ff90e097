//! Owns: the layer that speaks with Linchpin: it wants, takes and ends copies, and saves with each response.
//! Invariant: nothing of the application runs before the session's state is new enough.
//! Must not know: what the application keeps in a session.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::header::{ALLOW, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use time::OffsetDateTime;
use tower_layer::Layer;
use tower_service::Service;
use tower_sessions_core::session::Record;

use crate::Shared;
use crate::field::{self, DROP, SAVE, SESSION, SessionField, Version, WANT};
use crate::memory::{Outcome, Wanted};
use crate::store::REQUEST;

/// Where Linchpin gives this server a copy, or ends a session.
const PATH: &str = "/.well-known/linchpin/session";

/// The layer. See [`SessionCopies`](crate::SessionCopies).
#[derive(Clone, Debug)]
pub struct CopiesLayer(pub(crate) Arc<Shared>);

impl<S> Layer<S> for CopiesLayer {
    type Service = CopiesService<S>;

    fn layer(&self, inner: S) -> CopiesService<S> {
        CopiesService { inner, shared: Arc::clone(&self.0) }
    }
}

/// The service of [`CopiesLayer`].
#[derive(Clone, Debug)]
pub struct CopiesService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for CopiesService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    ReqBody: Body + Send + 'static,
    ReqBody::Data: Send,
    ReqBody::Error: Into<Box<dyn Error + Send + Sync>>,
    ResBody: Default + Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        if request.uri().path() == PATH {
            return Box::pin(async move { Ok(answer_linchpin(&shared, request).await) });
        }
        // The service that is ready answers; its clone is for the next request.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let Some(field) = SessionField::read(request.headers()) else {
            return Box::pin(inner.call(request));
        };
        Box::pin(async move {
            let begun = shared.memory().begin(field, OffsetDateTime::now_utc());
            let running = match begun {
                Ok(running) => Arc::new(Mutex::new(running)),
                Err(Wanted) => return Ok(respond(StatusCode::CONFLICT, Some((WANT, HeaderValue::from_static("?1"))))),
            };
            // `call` runs inside, too: a layer may use the session before its future is polled.
            let response = REQUEST.scope(Arc::clone(&running), async move { inner.call(request).await });
            let mut response = response.await?;
            let outcome = shared.memory().finish(&running.lock().unwrap_or_else(PoisonError::into_inner));
            add_outcome(&shared, outcome, response.headers_mut());
            Ok(response)
        })
    }
}

/// Adds the field that tells Linchpin the new state.
fn add_outcome(shared: &Shared, outcome: Outcome, headers: &mut HeaderMap) {
    let field = match outcome {
        Outcome::Nothing => None,
        Outcome::Drop(version) => drop_field(version),
        // No copy is better than an old one.
        Outcome::Save(version, record) => save_field(shared, version, &record).or_else(|| drop_field(version)),
    };
    headers.extend(field);
}

fn drop_field(version: Version) -> Option<(http::HeaderName, HeaderValue)> {
    field::drop(version).map(|value| (DROP, value))
}

fn save_field(shared: &Shared, version: Version, record: &Record) -> Option<(http::HeaderName, HeaderValue)> {
    let copy = shared.keys.seal(record)?;
    let (length, limit) = (copy.len(), shared.limits.copy_bytes);
    if length > limit {
        tracing::warn!(length, limit, "a session is too long for a copy: if this server dies, it is lost");
        return None;
    }
    let ttl = (record.expiry_date - OffsetDateTime::now_utc()).whole_seconds().max(1).unsigned_abs();
    field::save(&copy, version, ttl).map(|value| (SAVE, value))
}

/// Takes a copy, or ends a session.
async fn answer_linchpin<ReqBody, ResBody>(shared: &Shared, request: Request<ReqBody>) -> Response<ResBody>
where
    ReqBody: Body,
    ReqBody::Error: Into<Box<dyn Error + Send + Sync>>,
    ResBody: Default,
{
    let (head, body) = request.into_parts();
    if head.method != Method::PUT && head.method != Method::DELETE {
        return respond(StatusCode::METHOD_NOT_ALLOWED, Some((ALLOW, HeaderValue::from_static("PUT, DELETE"))));
    }
    let field = SessionField::read(&head.headers);
    let Some((version, session_ref)) = field.and_then(|field| Some((field.version()?, field.session_ref))) else {
        return respond(StatusCode::BAD_REQUEST, None);
    };
    let result = if head.method == Method::PUT {
        let copy = match Limited::new(body, shared.limits.copy_bytes).collect().await {
            Ok(copy) => copy.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return respond(StatusCode::PAYLOAD_TOO_LARGE, None),
            Err(_) => return respond(StatusCode::BAD_REQUEST, None),
        };
        let Some(record) = shared.keys.open(&copy) else {
            tracing::warn!(%session_ref, "refused a copy of a session: it was not sealed with one of the secrets");
            return respond(StatusCode::UNPROCESSABLE_ENTITY, None);
        };
        shared.memory().take(&session_ref, version, record, copy.len())
    } else {
        shared.memory().end(&session_ref, version)
    };
    match result {
        Ok(()) => respond(StatusCode::NO_CONTENT, None),
        Err(newer) => respond(StatusCode::CONFLICT, field::session(&session_ref, newer).map(|value| (SESSION, value))),
    }
}

fn respond<B: Default>(status: StatusCode, field: Option<(http::HeaderName, HeaderValue)>) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = status;
    response.headers_mut().extend(field);
    response
}
