//! Owns: `POST /kill`, which kills this server.
//! Invariant: it refuses requests from another site's page, and every request unless the settings allow a kill.
//! Must not know: what starts the server again.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Json, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::header::{HOST, ORIGIN, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::json;

use super::last_visit::LastVisit;
use super::negotiate::WantsJson;
use super::server::Server;
use super::session_state::{self, SessionState};

/// Time for the response to reach the client before the process ends.
const KILL_DELAY: Duration = Duration::from_millis(200);

/// Kills this process as `kill -9` does: nothing is saved and nobody is notified. The client that asked for it carries
/// a cookie about it to the next server.
pub(super) async fn kill(
    State(server): State<Arc<Server>>,
    Extension(state): Extension<SessionState>,
    WantsJson(wants_json): WantsJson,
    headers: HeaderMap,
) -> Response {
    if !server.settings.allow_kill {
        return (StatusCode::FORBIDDEN, "this server does not allow a kill\n").into_response();
    }
    if is_cross_site(&headers) {
        return (StatusCode::FORBIDDEN, "only this server's own page may kill it\n").into_response();
    }
    tokio::spawn(async {
        tokio::time::sleep(KILL_DELAY).await;
        if let Err(error) = kill_process(getpid(), Signal::KILL) {
            tracing::error!(%error, "could not kill this server");
        }
    });
    if wants_json {
        return Json(json!({ "server": server.settings.name, "killed": std::process::id() })).into_response();
    }
    let cookie = LastVisit::new(&server.incarnation, &state).with_kill_requested().issue(&headers);
    // The login was lost before this kill: without its cookie, the next server does not report it as lost again.
    let expired = if matches!(state, SessionState::Unknown) { session_state::expired_session_cookie() } else { None };
    let cookies: HeaderMap = cookie.into_iter().chain(expired).map(|cookie| (SET_COOKIE, cookie)).collect();
    (cookies, Redirect::to("/")).into_response()
}

/// Whether a browser reports that another site's page sent this. A client that sends neither field is no browser.
fn is_cross_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site != "same-origin";
    }
    // Browsers send `Sec-Fetch-Site` only to localhost and over TLS.
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.is_none() || authority != headers.get(HOST).and_then(|host| host.to_str().ok())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::HeaderName;

    use super::*;

    #[test]
    fn only_its_own_page_and_clients_other_than_browsers_may_kill_it() {
        let at = ("host", "192.0.2.1:8080");
        for (fields, foreign) in [
            (&[at][..], false),
            (&[at, ("sec-fetch-site", "same-origin")], false),
            (&[at, ("sec-fetch-site", "same-site")], true),
            (&[at, ("sec-fetch-site", "cross-site")], true),
            (&[at, ("origin", "http://192.0.2.1:8080")], false),
            (&[at, ("origin", "http://192.0.2.1:8081")], true),
            (&[at, ("origin", "http://evil.example")], true),
            (&[at, ("origin", "null")], true),
        ] {
            let header = |&(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            assert_eq!(is_cross_site(&fields.iter().map(header).collect()), foreign, "{fields:?}");
        }
    }
}
