//! Owns: the shop's handlers: the page, `whoami`, login, logout and cart.
//! Invariant: a browser's POST always ends in a redirect to the page, so that a reload never repeats it.
//! Must not know: the page's HTML, nor how sessions are stored.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::extract::{Json, Query, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use http::header::{CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cart::CartError;
use super::copies::ref_table::SessionChange;
use super::copies::{CopyTicket, overtaken};
use super::last_visit::{LastVisit, ServerChange};
use super::login;
use super::negotiate::{Fields, WantsJson};
use super::notice::Notice;
use super::page::Page;
use super::server::Server;
use super::session::{CopyOrigin, SessionId};
use super::session_state::{self, SessionState};

/// The page loads nothing from elsewhere, and runs no script.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The scheme of the client's request, as a proxy in front of this server reports it.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

#[derive(Deserialize)]
pub(super) struct IndexQuery {
    notice: Option<String>,
}

/// Returns the page, or to clients that ask for JSON what `whoami` returns.
pub(super) async fn index(
    State(server): State<Arc<Server>>,
    Extension(state): Extension<SessionState>,
    Extension(CopyTicket(ticket)): Extension<CopyTicket>,
    WantsJson(wants_json): WantsJson,
    Query(query): Query<IndexQuery>,
    headers: HeaderMap,
) -> Response {
    if wants_json {
        return Json(WhoAmI::of(&server, &state)).into_response();
    }
    let now = Instant::now();
    let (previous, current) = (LastVisit::read(&headers), LastVisit::new(&server.incarnation, &state));
    let change = previous.as_ref().and_then(|previous| previous.change(&server.incarnation, &state));
    // A client that keeps its old cookie reads the same message again: about a loss until it logs in, about a kill
    // until the server dies.
    let keeps_cookie = match &change {
        Some(ServerChange::KillPending) => true,
        Some(ServerChange::Moved(_)) => matches!(state, SessionState::Unknown),
        None => previous.as_ref() == Some(&current),
    };
    let cookie = if keeps_cookie { None } else { current.issue(&headers) };
    let page = Page {
        server: &server.settings.name,
        pid: std::process::id(),
        uptime: now.saturating_duration_since(server.started),
        served: server.served(),
        sessions: server.memory().sessions.count(now),
        session_timeout: server.settings.session_timeout,
        allow_kill: server.settings.allow_kill,
        is_copied: ticket.is_some(),
        origin: &origin(&headers),
        change,
        notice: query.notice.as_deref().and_then(Notice::from_query),
        state: &state,
        now,
    };
    let policy = [(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY))];
    (policy, cookies(cookie), Html(page.to_string())).into_response()
}

/// Names the server and what it knows of the client: for curl and scripts.
pub(super) async fn whoami(State(server): State<Arc<Server>>, Extension(state): Extension<SessionState>) -> Response {
    Json(WhoAmI::of(&server, &state)).into_response()
}

#[derive(Deserialize)]
pub(super) struct Login {
    user: String,
    password: String,
}

/// Opens a session under a new id, and ends the one that the client already had.
pub(super) async fn login(
    State(server): State<Arc<Server>>,
    Extension(state): Extension<SessionState>,
    Extension(CopyTicket(ticket)): Extension<CopyTicket>,
    WantsJson(wants_json): WantsJson,
    Fields(login): Fields<Login>,
) -> Response {
    let Some(user) = login::verify(&login.user, &login.password) else {
        return error_response(wants_json, StatusCode::UNAUTHORIZED, Notice::WrongLogin);
    };
    let Ok(id) = SessionId::random() else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "no random numbers for a session id\n").into_response();
    };
    let session = {
        let Some(mut memory) = server.memory_to_change(ticket.as_ref()) else { return overtaken() };
        if let SessionState::Known(old, _) = state {
            memory.sessions.close(old);
        }
        memory.sessions.open(id, user.to_owned(), Instant::now())
    };
    let state = SessionState::Known(id, session);
    let response = success(&server, wants_json, &state, session_state::session_cookie(id));
    (Extension(SessionChange::LoggedIn(id)), response).into_response()
}

/// Ends the session, if there is one, and deletes the cookie in any case.
pub(super) async fn logout(
    State(server): State<Arc<Server>>,
    Extension(state): Extension<SessionState>,
    Extension(CopyTicket(ticket)): Extension<CopyTicket>,
    WantsJson(wants_json): WantsJson,
) -> Response {
    let Some(mut memory) = server.memory_to_change(ticket.as_ref()) else { return overtaken() };
    if let SessionState::Known(id, _) = state {
        memory.sessions.close(id);
    }
    drop(memory);
    let response = success(&server, wants_json, &SessionState::Absent, session_state::expired_session_cookie());
    (Extension(SessionChange::LoggedOut), response).into_response()
}

#[derive(Deserialize)]
pub(super) struct CartChange {
    item: String,
    #[serde(default)]
    action: CartAction,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CartAction {
    #[default]
    Add,
    Remove,
}

/// Adds an item to the cart, or removes one with `action=remove`.
pub(super) async fn cart(
    State(server): State<Arc<Server>>,
    Extension(state): Extension<SessionState>,
    Extension(CopyTicket(ticket)): Extension<CopyTicket>,
    WantsJson(wants_json): WantsJson,
    Fields(change): Fields<CartChange>,
) -> Response {
    let SessionState::Known(id, _) = state else {
        return error_response(wants_json, StatusCode::UNAUTHORIZED, Notice::NotLoggedIn);
    };
    let session = {
        let Some(mut memory) = server.memory_to_change(ticket.as_ref()) else { return overtaken() };
        let Some(session) = memory.sessions.change(id, Instant::now()) else {
            // Another request has ended the session since this one was looked up.
            return error_response(wants_json, StatusCode::UNAUTHORIZED, Notice::NotLoggedIn);
        };
        let changed = match change.action {
            CartAction::Add => session.cart.add(&change.item),
            CartAction::Remove => {
                session.cart.remove(&change.item);
                Ok(())
            }
        };
        if let Err(error) = changed {
            return error_response(wants_json, status_of(error), Notice::Cart(error));
        }
        session.clone()
    };
    let response = success(&server, wants_json, &SessionState::Known(id, session), None);
    (Extension(SessionChange::Content), response).into_response()
}

/// The JSON of `GET /whoami`.
#[derive(Serialize)]
struct WhoAmI<'a> {
    server: &'a str,
    pid: u32,
    user: Option<&'a str>,
    cart: &'a [String],
    count: u64,
    /// Requests of this session that this server has served, this one included.
    requests: u64,
    session: &'static str,
    /// The copy that this server has the session from; null if the user logged in here.
    copy: Option<CopyOf<'a>>,
}

/// Where a session came from.
#[derive(Serialize)]
struct CopyOf<'a> {
    /// The server that saved it.
    server: &'a str,
    age_ms: u64,
}

impl<'a> From<&'a CopyOrigin> for CopyOf<'a> {
    fn from(origin: &'a CopyOrigin) -> Self {
        Self { server: &origin.server, age_ms: u64::try_from(origin.age.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl<'a> WhoAmI<'a> {
    fn of(server: &'a Server, state: &'a SessionState) -> Self {
        let session = state.session();
        Self {
            server: &server.settings.name,
            pid: std::process::id(),
            user: session.map(|session| session.user.as_str()),
            cart: session.map_or(&[], |session| session.cart.items()),
            count: session.map_or(0, |session| session.count),
            requests: session.map_or(0, |session| session.requests),
            session: state.as_str(),
            copy: session.and_then(|session| session.origin.as_ref()).map(CopyOf::from),
        }
    }
}

fn success(server: &Server, wants_json: bool, state: &SessionState, cookie: Option<HeaderValue>) -> Response {
    let cookies = cookies(cookie);
    if wants_json {
        (cookies, Json(WhoAmI::of(server, state))).into_response()
    } else {
        (cookies, Redirect::to("/")).into_response()
    }
}

/// Returns the origin that the client requested. Without a `Host` field a placeholder stands for it.
fn origin(headers: &HeaderMap) -> String {
    let field = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = if field(FORWARDED_PROTO) == Some("https") { "https" } else { "http" };
    format!("{scheme}://{}", field(HOST).unwrap_or("ADDRESS"))
}

fn cookies(cookie: Option<HeaderValue>) -> HeaderMap {
    cookie.into_iter().map(|cookie| (SET_COOKIE, cookie)).collect()
}

fn status_of(error: CartError) -> StatusCode {
    match error {
        CartError::Full => StatusCode::CONFLICT,
        CartError::NotAnItem => StatusCode::BAD_REQUEST,
    }
}

fn error_response(wants_json: bool, status: StatusCode, notice: Notice) -> Response {
    if wants_json {
        (status, Json(json!({ "error": notice.to_string() }))).into_response()
    } else {
        Redirect::to(&format!("/?notice={}", notice.to_query())).into_response()
    }
}
