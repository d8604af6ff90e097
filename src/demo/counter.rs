//! Owns: a number in each session that its client counts up, to test with: a lost or repeated request shows.
//! Invariant: each POST that is answered with a number has added one to it, and no two are answered with the same one.
//! Must not know: the rest of the session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;

use super::copies::ref_table::SessionChange;
use super::copies::{CopyTicket, overtaken};
use super::server::Server;
use super::session_state::SessionState;

/// Longest time that a request waits before it counts.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Returns the session's number, 0 without a session.
pub(super) async fn read(Extension(state): Extension<SessionState>) -> Response {
    number(state.session().map_or(0, |session| session.count))
}

#[derive(Deserialize)]
pub(super) struct CountQuery {
    /// Milliseconds from when the session was looked up until it changes.
    #[serde(default)]
    ms: u64,
}

/// Adds one to the session's number, and returns it.
pub(super) async fn add(
    State(server): State<Arc<Server>>,
    Extension(state): Extension<SessionState>,
    Extension(CopyTicket(ticket)): Extension<CopyTicket>,
    Query(query): Query<CountQuery>,
) -> Response {
    if query.ms > 0 {
        tokio::time::sleep(Duration::from_millis(query.ms).min(MAX_WAIT)).await;
    }
    let Some((id, _)) = state.known() else { return not_logged_in() };
    let Some(mut memory) = server.memory_to_change(ticket.as_ref()) else { return overtaken() };
    let Some(session) = memory.sessions.change(id, Instant::now()) else { return not_logged_in() };
    session.count = session.count.saturating_add(1);
    (Extension(SessionChange::Content), number(session.count)).into_response()
}

fn number(count: u64) -> Response {
    format!("{count}\n").into_response()
}

fn not_logged_in() -> Response {
    (StatusCode::UNAUTHORIZED, "log in first: the number is in your session\n").into_response()
}
