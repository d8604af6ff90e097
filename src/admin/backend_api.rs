//! Owns: the paths of the admin API below one backend: what is sent there, and what is answered.
//! Invariant: a change is answered with the backend's status afterwards; a refusal says what is wrong and what to do.
//! Must not know: how a change takes effect.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::actor::Actor;
use super::change::{self, Change, Refusal, Target};
use super::sources::StatusSources;
use super::view;

/// The names of a pool and of one of its backends, from the path.
type Names = Path<(String, String)>;

/// Who sends the request, from the guard.
type By = Extension<Actor>;

/// Makes the paths of the backends.
pub(super) fn routes(facts: StatusSources) -> Router {
    const BACKEND: &str = "/api/v1/pools/{pool}/backends/{backend}";
    Router::new()
        .route(&format!("{BACKEND}/state"), post(set_state))
        .route(&format!("{BACKEND}/weight"), post(set_weight))
        .with_state(Arc::new(facts))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Refusal::Unknown(_) => StatusCode::NOT_FOUND,
            Refusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        (status, format!("{self}\n")).into_response()
    }
}

/// The body of `POST …/state`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateBody {
    state: String,
}

/// The body of `POST …/weight`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightBody {
    weight: u64,
}

async fn set_state(
    State(facts): State<Arc<StatusSources>>,
    Path(names): Names,
    Extension(actor): By,
    body: Bytes,
) -> Response {
    respond(&facts, &names, &actor, || Change::to_state(&read::<StateBody>(&body, r#"{"state":"drain"}"#)?.state))
}

async fn set_weight(
    State(facts): State<Arc<StatusSources>>,
    Path(names): Names,
    Extension(actor): By,
    body: Bytes,
) -> Response {
    respond(&facts, &names, &actor, || Change::to_weight(read::<WeightBody>(&body, r#"{"weight":3}"#)?.weight))
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
    match change() {
        Ok(change) => {
            change::apply(target, change, actor);
            Json(view::Backend::now(target.entry, target.index)).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// Reads a body, whatever its type is said to be; `example` shows what it can be.
fn read<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Refusal> {
    let invalid =
        |error| Refusal::Invalid(format!("The body is not what it must be: {error}. Send for example {example}."));
    serde_json::from_slice(body).map_err(invalid)
}
