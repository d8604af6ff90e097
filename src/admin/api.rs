//! Owns: the paths of the admin API and their responses.
//! Invariant: every request passes the guard first; no cache stores a response, and no other site's page embeds one.
//! Must not know: sockets.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Extension, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, StatusCode};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::actor::Actor;
use super::dashboard::FILES_PATH;
use super::event_stream::EventsQuery;
use super::explain_report::ExplainReport;
use super::exposition::TextFormat;
use super::guard::{self, AccessRules};
use super::reload::ReloadResult;
use super::sources::{Phase, StatusSources};
use super::trends::TrendsQuery;
use super::view::{ExplainRequest, Status};
use super::{
    backend_api, certificates_view, copies_view, dashboard, event_stream, gauges, renewals_view, sessions_api,
};
use crate::affinity::explain;
use crate::clock;

/// A request body is one short JSON object.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The headers of every response, for browsers and caches.
pub(super) const SECURITY_HEADERS: [(HeaderName, HeaderValue); 4] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

pub(super) const RELOAD_PATH: &str = "/api/v1/reload";
pub(super) const EVENTS_PATH: &str = "/api/v1/events";

struct Api {
    facts: StatusSources,
    rules: AccessRules,
    registry: Registry,
}

/// Builds the whole admin API, behind its guard.
pub(super) fn router(rules: &AccessRules, facts: StatusSources) -> Router {
    let registry = gauges::registry(&facts);
    let backends = backend_api::routes(facts.clone()).merge(sessions_api::routes(facts.clone()));
    Router::new()
        .route("/", get(dashboard::page))
        .route(FILES_PATH, get(dashboard::file))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/openapi.json", get(openapi))
        .route("/api/v1/status", get(status))
        .route("/api/v1/trends", get(trends))
        .route("/api/v1/certificates", get(certificates))
        .route("/api/v1/renewals", get(renewals))
        .route("/api/v1/access", get(access))
        .route("/api/v1/explain", post(explain))
        .route(RELOAD_PATH, post(reload).get(last_reload))
        .route(EVENTS_PATH, get(events))
        .with_state(Arc::new(Api { facts, rules: rules.clone(), registry }))
        .merge(backends)
        .fallback((
            StatusCode::NOT_FOUND,
            "Not found. The paths are /, /api/v1/status, /api/v1/pools/POOL/backends/BACKEND, …/state, …/weight, …/drain and \
             …/sessions, /api/v1/explain, /api/v1/reload, /api/v1/events, /api/v1/trends, /api/v1/certificates, \
             /api/v1/renewals, /api/v1/access, /api/v1/openapi.json, /metrics, /livez and /readyz.\n",
        ))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(rules.clone(), guard::authorize))
        .layer(middleware::map_response(add_security_headers))
}

async fn add_security_headers(mut response: Response) -> Response {
    response.headers_mut().extend(SECURITY_HEADERS);
    response
}

/// Says whether this process works as it should, or only a restart mends it: the same that systemd's watchdog looks at.
/// One that starts or stops works, however long that takes.
async fn livez(State(api): State<Arc<Api>>) -> (StatusCode, &'static str) {
    match *api.facts.phase.borrow() {
        Phase::Starting | Phase::Ready | Phase::Stopping | Phase::Closing | Phase::Leaving => (StatusCode::OK, "ok"),
        Phase::Stalled => (StatusCode::SERVICE_UNAVAILABLE, STALLED),
        Phase::Broken => (StatusCode::SERVICE_UNAVAILABLE, BROKEN),
    }
}

/// Says whether this process takes requests, not whether a backend could serve them: all Linchpins see the same
/// backends, and to take all of them out of service as well would help no client.
async fn readyz(State(api): State<Arc<Api>>) -> (StatusCode, &'static str) {
    match *api.facts.phase.borrow() {
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Phase::Ready => (StatusCode::OK, "ready"),
        Phase::Stopping | Phase::Closing | Phase::Leaving => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        Phase::Stalled => (StatusCode::SERVICE_UNAVAILABLE, STALLED),
        Phase::Broken => (StatusCode::SERVICE_UNAVAILABLE, BROKEN),
    }
}

const STALLED: &str = "stalled: a worker thread does not respond";
const BROKEN: &str = "broken: a worker thread has failed";

/// The document that describes this API.
async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

async fn status(State(api): State<Arc<Api>>) -> Response {
    let entries = api.facts.pools.load_full();
    Json(Status::now(&api.facts, &entries)).into_response()
}

/// The last ten minutes.
async fn trends(State(api): State<Arc<Api>>, Query(query): Query<TrendsQuery>) -> Response {
    Json(api.facts.trends.view(query.after)).into_response()
}

async fn certificates(State(api): State<Arc<Api>>) -> Response {
    Json(certificates_view::list(&api.facts.certificates)).into_response()
}

async fn renewals(State(api): State<Arc<Api>>) -> Response {
    Json(renewals_view::list(&api.facts.renewals)).into_response()
}

/// What the client may do with what it has shown.
#[derive(Debug, serde::Serialize)]
struct Access {
    may_change: bool,
}

async fn access(Extension(actor): Extension<Actor>) -> Response {
    Json(Access { may_change: !matches!(actor, Actor::Client { who: guard::READ_TOKEN, .. }) }).into_response()
}

/// Says what a token or session id holds, and where a request with it would go now. Tries every pool; at most one of
/// them can open a token.
async fn explain(State(api): State<Arc<Api>>, Json(request): Json<ExplainRequest>) -> Response {
    let now = clock::unix().as_secs();
    let entries = api.facts.pools.load();
    let pools = entries.iter().map(|entry| (&*entry.pool, &*entry.affinity));
    let Some(explanation) = explain::explain_as_sent(pools, &request.token, now) else {
        let message = "No pool here can read this: a client that sends it gets a new session.\n";
        return (StatusCode::NOT_FOUND, message).into_response();
    };
    let entry = entries.iter().find(|entry| **entry.pool.name() == *explanation.pool);
    let copy = entry.and_then(|entry| copies_view::copy_report(&explanation, entry));
    Json(ExplainReport::new(explanation, copy)).into_response()
}

/// The query of `POST /api/v1/reload`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadQuery {
    #[serde(default)]
    dry_run: bool,
}

/// Reads the configuration file again. The status is 422 if the file is refused, so that `curl -f` fails.
async fn reload(
    State(api): State<Arc<Api>>,
    Query(query): Query<ReloadQuery>,
    Extension(actor): Extension<Actor>,
) -> Response {
    let report = api.facts.reloader.reload(actor, query.dry_run).await;
    let status = match report.result {
        ReloadResult::Applied | ReloadResult::Unchanged => StatusCode::OK,
        ReloadResult::Refused => StatusCode::UNPROCESSABLE_ENTITY,
    };
    (status, Json(report)).into_response()
}

/// Shows the last reload.
async fn last_reload(State(api): State<Arc<Api>>) -> Response {
    Json(api.facts.reloads.view()).into_response()
}

/// Streams events, until the client leaves, the rules of the listener change or it closes.
async fn events(State(api): State<Arc<Api>>, Query(query): Query<EventsQuery>, headers: HeaderMap) -> Response {
    event_stream::respond(&api.facts.events, &api.rules, &query, &headers).into_response()
}

async fn metrics(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let mut body = String::new();
    let format = TextFormat::wanted(&headers);
    match text::encode(&mut body, &api.registry) {
        Ok(()) => ([(CONTENT_TYPE, format.content_type())], format.translate(body)).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode the metrics: please report this");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
