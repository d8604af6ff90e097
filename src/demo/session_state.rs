//! Owns: the session of a request: none, a known one, or an id that this server does not know.
//! Invariant: an unknown session id is never treated as none: it is the mark of a lost login.
//! Must not know: what the shop sells.

use std::time::Instant;

use cookie::Cookie;
use http::HeaderMap;
use http::header::HeaderValue;

use super::cookies;
use super::session::{Session, SessionId, SessionStore};

/// The cookie that carries the demo backend's own session id. Linchpin leaves it alone.
pub(super) const SESSION_COOKIE: &str = "DEMOSESSION";

/// What this server knows of the client that sent a request.
#[derive(Clone)]
pub(super) enum SessionState {
    /// The client sent no session id.
    Absent,
    /// The client sent an id that this server doesn't know: expired, forged, or from another server's memory.
    Unknown,
    /// The client is logged in here.
    Known(SessionId, Session),
}

impl SessionState {
    /// The value of `session` in JSON.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Absent => "none",
            Self::Unknown => "unknown",
            Self::Known(..) => "known",
        }
    }

    pub(super) fn known(&self) -> Option<(SessionId, &Session)> {
        match self {
            Self::Known(id, session) => Some((*id, session)),
            Self::Absent | Self::Unknown => None,
        }
    }

    pub(super) fn session(&self) -> Option<&Session> {
        self.known().map(|(_, session)| session)
    }
}

/// Returns the `Set-Cookie` value that gives a client its session.
pub(super) fn session_cookie(id: SessionId) -> Option<HeaderValue> {
    cookies::set_cookie(Cookie::new(SESSION_COOKIE, id.to_string()))
}

/// Returns the `Set-Cookie` value that deletes the session cookie.
pub(super) fn expired_session_cookie() -> Option<HeaderValue> {
    let mut cookie = Cookie::new(SESSION_COOKIE, "");
    cookie.set_max_age(cookie::time::Duration::ZERO);
    cookies::set_cookie(cookie)
}

/// Returns the ids in the request's session cookies.
pub(super) fn ids(headers: &HeaderMap) -> impl Iterator<Item = SessionId> {
    cookies::values(headers, SESSION_COOKIE).filter_map(SessionId::parse)
}

/// Looks up the session and counts the request. Of several session cookies, the first with a known id counts.
pub(super) fn look_up(headers: &HeaderMap, sessions: &mut SessionStore, now: Instant) -> SessionState {
    let mut state = SessionState::Absent;
    for value in cookies::values(headers, SESSION_COOKIE) {
        state = SessionState::Unknown;
        if let Some(id) = SessionId::parse(value)
            && let Some(session) = sessions.touch(id, now)
        {
            return SessionState::Known(id, session.clone());
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::COOKIE;

    use super::super::session::SessionLimits;
    use super::*;

    fn state(cookies: &[&str], sessions: &mut SessionStore) -> &'static str {
        let headers = cookies.iter().map(|field| (COOKIE, HeaderValue::from_str(field).unwrap())).collect();
        look_up(&headers, sessions, Instant::now()).as_str()
    }

    #[test]
    fn finds_absent_known_and_unknown_sessions() {
        let mut sessions = SessionStore::new(SessionLimits { idle: Duration::from_secs(60), capacity: 10 });
        let id = SessionId::random().unwrap();
        sessions.open(id, "ann".to_owned(), Instant::now());
        let known = format!("{SESSION_COOKIE}={id}");
        let unknown = format!("{SESSION_COOKIE}={}", SessionId::random().unwrap());

        assert_eq!(state(&[], &mut sessions), "none");
        assert_eq!(state(&["theme=dark; XDEMOSESSION=1"], &mut sessions), "none");
        assert_eq!(state(&[&known], &mut sessions), "known");
        assert_eq!(state(&["theme=dark", &format!("a=b; {known}")], &mut sessions), "known");
        assert_eq!(state(&[&unknown], &mut sessions), "unknown");
        assert_eq!(state(&[&unknown, &known], &mut sessions), "known");
        assert_eq!(state(&["DEMOSESSION=nonsense"], &mut sessions), "unknown");
    }

    #[test]
    fn scripts_and_other_sites_cannot_use_the_cookie() {
        let cookie = session_cookie(SessionId::random().unwrap()).unwrap();
        let cookie = cookie.to_str().unwrap();
        for attribute in ["; HttpOnly", "; SameSite=Lax", "; Path=/"] {
            assert!(cookie.contains(attribute), "{cookie}");
        }
        assert!(expired_session_cookie().unwrap().to_str().unwrap().contains("Max-Age=0"));
    }
}
