//! Owns: this shop's part of session copies: it saves its sessions through Linchpin, and takes over those of others.
//! Invariant: a request runs only on the newest state of its session, and a response tells no state that is not saved.
//! Must not know: what the shop does with a session; it is the middleware that any application would put in front.

pub(super) mod field;
pub(super) mod ref_table;
pub(super) mod seal;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, put};
use http::header::HeaderValue;
use http::{HeaderMap, StatusCode};

use self::field::{DROP, ROLE, SAVE, SESSION, SessionField, Version, WANT};
use self::ref_table::{Outcome, SessionChange, Ticket, WaitingCopy, Wanted};
use self::seal::{Copy, CopySettings};
use super::server::{Memory, Server};
use super::session::{CopyOrigin, Session, SessionId};
use super::session_state::{self, SessionState};

/// Where Linchpin gives this server a copy, or has it end a session.
pub(super) const PATH: &str = "/.well-known/linchpin/session";

/// Longest copy. A full cart of the longest items needs a fifth of it.
pub(super) const MAX_COPY_BYTES: usize = 64 * 1024;

/// The request's part in session copies; `None` without a Linchpin that keeps them.
#[derive(Clone)]
pub(super) struct CopyTicket(pub(super) Option<Ticket>);

/// Returns the handlers of [`PATH`].
pub(super) fn endpoint() -> MethodRouter<Arc<Server>> {
    put(take_copy).delete(end_session)
}

/// Finds the request's session, runs the request, and saves the session with the response if it has to.
pub(super) async fn run(State(server): State<Arc<Server>>, mut request: Request, next: Next) -> Response {
    server.count_request();
    let settings = server.settings.copies.as_ref();
    let field = settings.and_then(|settings| Some((settings, SessionField::read(request.headers())?)));
    let begun = begin(&server, field.as_ref().map(|(_, field)| field), request.headers(), Instant::now());
    let Ok((state, ticket)) = begun else {
        return (StatusCode::CONFLICT, [(WANT, HeaderValue::from_static("?1"))]).into_response();
    };
    let before = state.known().map(|(id, session)| (id, session.clone()));
    request.extensions_mut().insert(state);
    request.extensions_mut().insert(CopyTicket(ticket.clone()));
    let mut response = next.run(request).await;
    let change = response.extensions_mut().remove::<SessionChange>();
    if let (Some((settings, _)), Some(ticket)) = (field, ticket) {
        let outcome = {
            let Memory { sessions, refs } = &mut *server.memory();
            let before = before.as_ref().map(|(id, session)| (*id, session));
            refs.finish(&ticket, before, change, sessions, Instant::now())
        };
        add_outcome(&server, settings, outcome, response.headers_mut());
    }
    response
}

/// Looks up the session, and with Linchpin's field decides whether the request may run.
fn begin(
    server: &Server,
    field: Option<&SessionField>,
    headers: &HeaderMap,
    now: Instant,
) -> Result<(SessionState, Option<Ticket>), Wanted> {
    let Memory { sessions, refs } = &mut *server.memory();
    let ticket = field.map(|field| refs.begin(field, sessions, now)).transpose()?;
    if let Some(ticket) = &ticket {
        session_state::ids(headers).for_each(|id| refs.adopt(ticket, id, sessions, now));
    }
    Ok((session_state::look_up(headers, sessions, now), ticket))
}

/// Adds the field that tells Linchpin the new state.
fn add_outcome(server: &Server, settings: &CopySettings, outcome: Outcome, headers: &mut HeaderMap) {
    let field = match outcome {
        Outcome::Nothing => None,
        Outcome::Drop(version) => field::drop(version).map(|value| (DROP, value)),
        // Without a random number for the seal there is no copy, and none is better than an old one.
        Outcome::Save { version, id, session } => save(server, settings, version, id, &session)
            .map(|value| (SAVE, value))
            .or_else(|| field::drop(version).map(|value| (DROP, value))),
    };
    headers.extend(field);
}

fn save(
    server: &Server,
    settings: &CopySettings,
    version: Version,
    id: SessionId,
    session: &Session,
) -> Option<HeaderValue> {
    let saved_ms = unix_ms();
    let session = session.to_saved(Instant::now(), saved_ms);
    let copy = Copy { id, session, server: server.settings.name.clone(), saved_ms };
    field::save(&settings.seal(&copy)?, version, server.settings.session_timeout.as_secs())
}

/// The response to a request that changed nothing, since another server has gone on with its session.
pub(super) fn overtaken() -> Response {
    let message = "another server has served this session meanwhile; send the request again\n";
    (StatusCode::SERVICE_UNAVAILABLE, Extension(SessionChange::Content), message).into_response()
}

/// Takes a copy that Linchpin gives this server.
async fn take_copy(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(settings) = &server.settings.copies else { return StatusCode::NOT_FOUND.into_response() };
    let Some((field, version)) = read_version(&headers) else { return bad_request() };
    let Some(copy) = settings.open(&body) else { return StatusCode::UNPROCESSABLE_ENTITY.into_response() };
    let (now, now_ms) = (Instant::now(), unix_ms());
    let age = Duration::from_millis(now_ms.saturating_sub(copy.saved_ms));
    let in_advance = headers.get(ROLE).is_some_and(|role| role == "secondary");
    let origin = CopyOrigin { server: copy.server, age, in_advance };
    let session = Session::from_saved(&copy.session, origin, now, now_ms);
    let waiting = WaitingCopy { id: copy.id, session, bytes: body.len(), taken_at: now };
    let Memory { sessions, refs } = &mut *server.memory();
    confirmation(&field, refs.take(&field.session_ref, version, waiting, sessions, now))
}

/// Ends a session that was ended elsewhere.
async fn end_session(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    if server.settings.copies.is_none() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let Some((field, version)) = read_version(&headers) else { return bad_request() };
    let Memory { sessions, refs } = &mut *server.memory();
    confirmation(&field, refs.end(&field.session_ref, version, sessions, Instant::now()))
}

fn read_version(headers: &HeaderMap) -> Option<(SessionField, Version)> {
    let field = SessionField::read(headers)?;
    let version = field.version()?;
    Some((field, version))
}

fn bad_request() -> Response {
    (StatusCode::BAD_REQUEST, "needs one Linchpin-Session field with ref, term and seq\n").into_response()
}

/// Confirms the version, or names the newer one that this server has.
fn confirmation(field: &SessionField, result: Result<(), Version>) -> Response {
    let Err(Version { term, seq }) = result else { return StatusCode::NO_CONTENT.into_response() };
    let newer = SessionField { term, seq: Some(seq), dropped: false, ..field.clone() };
    (StatusCode::CONFLICT, [(SESSION, newer.to_string())]).into_response()
}

/// The servers of a shop agree on the time of the day, if on any.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
