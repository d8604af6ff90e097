//! Owns: the paths of the admin API below one backend: what is sent there, and what is answered.
//! Invariant: a change is answered with the backend's status afterwards; a refusal says what is wrong and what to do.
//! Must not know: how a change takes effect.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::actor::Actor;
use super::change::{self, Change, Refusal, Target};
use super::drain_view::{DrainBody, DrainView};
use super::sources::StatusSources;
use super::{precondition, view};

/// The names of a pool and of one of its backends, from the path.
type Names = Path<(String, String)>;

/// Who sends the request, from the guard.
type By = Extension<Actor>;

/// Makes the paths of the backends.
pub(super) fn routes(facts: StatusSources) -> Router {
    const BACKEND: &str = "/api/v1/pools/{pool}/backends/{backend}";
    let facts = Arc::new(facts);
    Router::new()
        .route(BACKEND, get(show))
        .route(&format!("{BACKEND}/state"), post(set_state))
        .route(&format!("{BACKEND}/weight"), post(set_weight))
        .route(&format!("{BACKEND}/drain"), post(drain).delete(cancel_drain).get(show_drain))
        .layer(middleware::from_fn_with_state(Arc::clone(&facts), precondition::check))
        .with_state(facts)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Refusal::Unknown(_) => StatusCode::NOT_FOUND,
            Refusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
        };
        (status, format!("{self}\n")).into_response()
    }
}

/// The body of `POST …/state`. With the state `drain` it can say what `POST …/drain` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateBody {
    state: String,
    #[serde(default)]
    deadline: Option<String>,
    #[serde(default)]
    then: Option<String>,
    #[serde(default)]
    idle: Option<String>,
}

/// The body of `POST …/weight`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightBody {
    weight: u64,
}

/// Shows one backend.
async fn show(State(facts): State<Arc<StatusSources>>, Path((pool, backend)): Names) -> Response {
    let entries = facts.pools.load_full();
    match Target::find(&entries, &pool, &backend) {
        Ok(target) => Json(view::Backend::now(target.entry, target.index)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn set_state(
    State(facts): State<Arc<StatusSources>>,
    Path(names): Names,
    Extension(actor): By,
    body: Bytes,
) -> Response {
    respond(&facts, &names, &actor, || {
        let StateBody { state, deadline, then, idle } = read(&body, r#"{"state":"drain"}"#)?;
        let drain = DrainBody { deadline, then, idle };
        let order = if drain.is_empty() { None } else { Some(drain.order()?) };
        Change::to_state(&state)?.with_drain(order)
    })
}

async fn set_weight(
    State(facts): State<Arc<StatusSources>>,
    Path(names): Names,
    Extension(actor): By,
    body: Bytes,
) -> Response {
    respond(&facts, &names, &actor, || Change::to_weight(read::<WeightBody>(&body, r#"{"weight":3}"#)?.weight))
}

async fn drain(
    State(facts): State<Arc<StatusSources>>,
    Path(names): Names,
    Extension(actor): By,
    body: Bytes,
) -> Response {
    respond(&facts, &names, &actor, || {
        let is_empty = body.trim_ascii().is_empty();
        let example = r#"{"deadline":"10m","then":"maintenance","idle":"30s"}"#;
        let drain = if is_empty { DrainBody::default() } else { read(&body, example)? };
        Ok(Change::Drain(drain.order()?))
    })
}

async fn cancel_drain(State(facts): State<Arc<StatusSources>>, Path(names): Names, Extension(actor): By) -> Response {
    respond(&facts, &names, &actor, || Ok(Change::CancelDrain))
}

/// Shows the drain that runs, or the last one that has ended.
async fn show_drain(State(facts): State<Arc<StatusSources>>, Path((pool, backend)): Names) -> Response {
    let entries = facts.pools.load_full();
    let view = Target::find(&entries, &pool, &backend).and_then(|target| {
        let none = || Refusal::Unknown(format!("Backend {backend:?} of pool {pool:?} has not been drained."));
        DrainView::now(target.entry, target.index).ok_or_else(none)
    });
    view.map_or_else(IntoResponse::into_response, |view| Json(view).into_response())
}

/// Makes the change that a request asks for, and responds with the backend's status.
fn respond(
    facts: &StatusSources,
    (pool, backend): &(String, String),
    actor: &Actor,
    change: impl FnOnce() -> Result<Change, Refusal>,
) -> Response {
    let entries = facts.pools.load_full();
    let target = match Target::find(&entries, pool, backend) {
        Ok(target) => target,
        Err(refusal) => return refusal.into_response(),
    };
    match change().and_then(|change| change::apply(target, change, actor)) {
        Ok(()) => Json(view::Backend::now(target.entry, target.index)).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// Reads a body, whatever its type is said to be; `example` shows what it can be.
fn read<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Refusal> {
    let invalid =
        |error| Refusal::Invalid(format!("The body is not what it must be: {error}. Send for example {example}."));
    serde_json::from_slice(body).map_err(invalid)
}
