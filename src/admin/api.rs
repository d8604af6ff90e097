//! Owns: the paths of the admin API and their answers.
//! Invariant: every answer passes the guard first, and is kept out of caches and other sites' pages.
//! Must not know: sockets.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, StatusCode};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::guard::{self, Guard};
use super::view::{Asked, Explained, Status};
use super::{Facts, Phase, Settings, dashboard, gauges};
use crate::affinity::explain;
use crate::clock;

/// A command is a few words.
const MAX_BODY_BYTES: usize = 64 * 1024;

pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every answer says to browsers and caches.
pub(super) const MANNERS: [(HeaderName, HeaderValue); 4] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

struct Api {
    facts: Facts,
    registry: Registry,
    policy: Option<HeaderValue>,
}

/// The whole admin API behind its guard.
pub(super) fn router(settings: &Settings, facts: Facts) -> Router {
    let registry = gauges::registry(&facts);
    let policy = HeaderValue::try_from(dashboard::policy()).ok();
    Router::new()
        .route("/", get(page))
        .route("/livez", get("ok"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/explain", post(explain))
        .fallback((
            StatusCode::NOT_FOUND,
            "There is /, /api/v1/status, /api/v1/explain, /metrics, /livez and /readyz.\n",
        ))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::new(Guard::new(settings)), guard::screen))
        .layer(middleware::map_response(mannered))
        .with_state(Arc::new(Api { facts, registry, policy }))
}

async fn mannered(mut response: Response) -> Response {
    response.headers_mut().extend(MANNERS);
    response
}

async fn page(State(api): State<Arc<Api>>) -> Response {
    // Without its policy the page would be one that trusts its data: it is not sent then.
    let Some(policy) = api.policy.clone() else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    (HeaderMap::from_iter([(CONTENT_SECURITY_POLICY, policy)]), Html(dashboard::PAGE)).into_response()
}

/// Whether this process takes requests. Not whether a backend could answer them: with none up, taking
/// this Linchpin out as well, and all others, which see the same backends, would help nobody.
async fn readyz(State(api): State<Arc<Api>>) -> (StatusCode, &'static str) {
    match *api.facts.phase.borrow() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Phase::Ready => (StatusCode::OK, "ready"),
        Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        Phase::Broken => (StatusCode::SERVICE_UNAVAILABLE, "broken: a worker thread has ended"),
    }
}

async fn status(State(api): State<Arc<Api>>) -> Response {
    let entries = api.facts.pools.load_full();
    Json(Status::now(&api.facts, &entries)).into_response()
}

/// What a token or session id holds, and what would become of a request that brought it now. Asks every
/// pool; a token opens in one of them at most.
async fn explain(State(api): State<Arc<Api>>, Json(asked): Json<Asked>) -> Response {
    let now = clock::unix().as_secs();
    let entries = api.facts.pools.load();
    let pools = entries.iter().map(|entry| (&*entry.pool, &*entry.affinity));
    let explained = explain::explain_as_sent(pools, &asked.token, now);
    match explained {
        Some(explanation) => Json(Explained::from(&explanation)).into_response(),
        None => (StatusCode::NOT_FOUND, "No pool here can read this: a client that sends it gets a new session.\n")
            .into_response(),
    }
}

async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, &api.registry) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
