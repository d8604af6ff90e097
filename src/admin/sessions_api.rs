//! Owns: the path that counts a backend's sessions, and waits until few are left.
//! Invariant: few requests wait at once, and each one's wait has a limit, after which it is answered as it is.
//! Must not know: how sessions are counted.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::RETRY_AFTER;
use http::{StatusCode, Uri};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::sleep_until;

use super::change::{Refusal, Target};
use super::sources::StatusSources;
use super::view::SessionsView;
use crate::clock;

/// The longest wait.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(3600);

/// How many requests wait at once; one more is refused.
const MAX_WAITING: usize = 8;

/// The time from one count to the next, while a request waits.
const INTERVAL: Duration = Duration::from_millis(200);

struct Waiting {
    facts: StatusSources,
    permits: Semaphore,
}

/// Makes the path.
pub(super) fn routes(facts: StatusSources) -> Router {
    Router::new()
        .route("/api/v1/pools/{pool}/backends/{backend}/sessions", get(sessions))
        .with_state(Arc::new(Waiting { facts, permits: Semaphore::new(MAX_WAITING) }))
}

/// The query: wait until there are fewer sessions than `below`, but not longer than `wait`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionsQuery {
    below: Option<u64>,
    wait: Option<String>,
}

async fn sessions(
    State(waiting): State<Arc<Waiting>>,
    Path((pool, backend)): Path<(String, String)>,
    Query(query): Query<SessionsQuery>,
) -> Response {
    let wait = match query.wait.as_deref().map(read_wait).transpose() {
        Ok(wait) => wait.unwrap_or_default(),
        Err(refusal) => return refusal.into_response(),
    };
    let permit = waiting.permits.try_acquire();
    if permit.is_err() && !wait.is_zero() {
        let why = format!("{MAX_WAITING} requests wait for sessions to end. Try again in a second.\n");
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], why).into_response();
    }
    let deadline = clock::now() + wait;
    loop {
        // Anew each time: a reload may have removed the backend.
        let entries = waiting.facts.pools.load_full();
        let view = match Target::find(&entries, &pool, &backend) {
            Ok(target) => SessionsView::now(target.entry, target.index, query.below),
            Err(refusal) => return refusal.into_response(),
        };
        let now = clock::now();
        if query.below.is_none() || view.is_below() || now >= deadline {
            return Json(view).into_response();
        }
        drop(entries);
        sleep_until(deadline.min(now + INTERVAL).into()).await;
    }
}

/// Returns whether the response to a request may take as long as [`MAX_WAIT`].
pub(super) fn may_wait(target: &Uri) -> bool {
    let names_wait = |query: &str| query.split('&').any(|pair| pair.starts_with("wait="));
    target.path().ends_with("/sessions") && target.query().is_some_and(names_wait)
}

fn read_wait(text: &str) -> Result<Duration, Refusal> {
    let wait = humantime::parse_duration(text).ok().filter(|wait| *wait <= MAX_WAIT);
    let invalid = || Refusal::Invalid(format!("`wait` must be a duration up to 1h, such as 10m, not {text:?}."));
    wait.ok_or_else(invalid)
}
