//! Owns: the session table: each user's login and cart, until the session expires.
//! Invariant: it never holds more sessions than its capacity, and never returns one that was idle for too long.
//! Must not know: the clock (`now` is passed in), cookies or HTTP.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::cart::Cart;
use super::copies::field::SessionRef;

/// A session id: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SessionId(u128);

impl SessionId {
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits)?;
        Ok(Self(u128::from_be_bytes(bits)))
    }

    /// Parses what `Display` writes, and nothing else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// An id is a secret: only a sealed copy holds its text.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(_)")
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("a session id is 32 hexadecimal digits"))
    }
}

/// One user's session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) user: String,
    pub(super) cart: Cart,
    /// A number that the client counts up.
    pub(super) count: u64,
    pub(super) since: Instant,
    /// Requests of this session that this server has served.
    pub(super) requests: u64,
    /// The copy that this server has the session from; `None` if the user logged in here.
    pub(super) origin: Option<CopyOrigin>,
    last_seen: Instant,
    /// It has changed since it was saved.
    is_unsaved: bool,
    /// Linchpin's name of the session when it was saved last.
    saved_under: Option<SessionRef>,
}

/// Where a copy of a session came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CopyOrigin {
    /// The server that saved it.
    pub(super) server: String,
    /// The time from when it was saved until the client came to this server.
    pub(super) age: Duration,
    /// This server held it before the client moved here.
    pub(super) in_advance: bool,
}

/// What a copy of a session holds.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(super) struct SavedSession {
    pub(super) user: String,
    pub(super) cart: Vec<String>,
    pub(super) count: u64,
    /// When the user logged in, in milliseconds of Unix time.
    pub(super) since_ms: u64,
}

/// How many sessions are kept, and how long each may be idle.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionLimits {
    pub(super) idle: Duration,
    pub(super) capacity: usize,
}

pub(super) struct SessionStore {
    limits: SessionLimits,
    by_id: HashMap<SessionId, Session>,
}

impl SessionStore {
    pub(super) fn new(limits: SessionLimits) -> Self {
        Self { limits, by_id: HashMap::new() }
    }

    /// Opens a session. A full table first drops expired sessions, else the one that was idle longest.
    pub(super) fn open(&mut self, id: SessionId, user: String, now: Instant) -> Session {
        let session = Session {
            user,
            cart: Cart::default(),
            count: 0,
            since: now,
            requests: 1,
            origin: None,
            last_seen: now,
            is_unsaved: true,
            saved_under: None,
        };
        self.insert(id, session.clone(), now);
        session
    }

    /// Opens a session from its copy, which is saved under this name.
    pub(super) fn restore(&mut self, id: SessionId, session: Session, saved_under: SessionRef, now: Instant) {
        let session = Session { last_seen: now, is_unsaved: false, saved_under: Some(saved_under), ..session };
        self.insert(id, session, now);
    }

    fn insert(&mut self, id: SessionId, session: Session, now: Instant) {
        // This scans the whole table, but only when it is full: simpler than keeping an order on every request.
        if self.by_id.len() >= self.limits.capacity {
            let idle = self.limits.idle;
            self.by_id.retain(|_, session| !session.expired(idle, now));
        }
        if self.by_id.len() >= self.limits.capacity {
            let oldest = self.by_id.iter().min_by_key(|(_, session)| session.last_seen).map(|(&id, _)| id);
            oldest.map(|id| self.by_id.remove(&id));
        }
        self.by_id.insert(id, session);
    }

    /// Counts a request of the session and restarts its idle time. `None` if the session is unknown or expired.
    pub(super) fn touch(&mut self, id: SessionId, now: Instant) -> Option<&Session> {
        let session = self.unexpired(id, now)?;
        session.requests += 1;
        session.last_seen = now;
        Some(session)
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id)
    }

    /// Returns the session for a change; this does not restart the idle time.
    pub(super) fn change(&mut self, id: SessionId, now: Instant) -> Option<&mut Session> {
        let session = self.unexpired(id, now)?;
        session.is_unsaved = true;
        Some(session)
    }

    pub(super) fn close(&mut self, id: SessionId) {
        self.by_id.remove(&id);
    }

    /// Closes the session if it was saved under this name last.
    pub(super) fn close_saved_under(&mut self, id: SessionId, name: &SessionRef) {
        if self.by_id.get(&id).is_some_and(|session| session.saved_under.as_ref() == Some(name)) {
            self.by_id.remove(&id);
        }
    }

    /// Returns the session if it is to be saved under this name, and marks it as saved: if it has changed, if it was
    /// saved under another name, or if nobody holds this state of it.
    pub(super) fn save(&mut self, id: SessionId, name: &SessionRef, is_held: bool) -> Option<&Session> {
        let session = self.by_id.get_mut(&id)?;
        if is_held && !session.is_unsaved && session.saved_under.as_ref() == Some(name) {
            return None;
        }
        session.is_unsaved = false;
        session.saved_under = Some(name.clone());
        Some(session)
    }

    /// Whether the session has expired; `None` if it is unknown.
    pub(super) fn is_expired(&self, id: SessionId, now: Instant) -> Option<bool> {
        self.by_id.get(&id).map(|session| session.expired(self.limits.idle, now))
    }

    /// How long a session lives without a request.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.limits.idle
    }

    /// Counts the sessions that have not expired.
    pub(super) fn count(&self, now: Instant) -> usize {
        self.by_id.values().filter(|session| !session.expired(self.limits.idle, now)).count()
    }

    fn unexpired(&mut self, id: SessionId, now: Instant) -> Option<&mut Session> {
        if self.by_id.get(&id)?.expired(self.limits.idle, now) {
            self.by_id.remove(&id);
        }
        self.by_id.get_mut(&id)
    }
}

impl Session {
    /// Returns what a copy of the session holds, at a time that is `now` and `now_ms` milliseconds of Unix time.
    pub(super) fn to_saved(&self, now: Instant, now_ms: u64) -> SavedSession {
        let age = u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        SavedSession {
            user: self.user.clone(),
            cart: self.cart.items().to_vec(),
            count: self.count,
            since_ms: now_ms.saturating_sub(age),
        }
    }

    /// Builds the session from what a copy holds. This server has served none of its requests.
    pub(super) fn from_saved(saved: &SavedSession, origin: CopyOrigin, now: Instant, now_ms: u64) -> Self {
        let age = Duration::from_millis(now_ms.saturating_sub(saved.since_ms));
        let mut cart = Cart::default();
        // A sealed cart was within its bounds; what another version of this program allowed beyond them is left out.
        for item in &saved.cart {
            let _ = cart.add(item);
        }
        Self {
            user: saved.user.clone(),
            cart,
            count: saved.count,
            since: now.checked_sub(age).unwrap_or(now),
            requests: 0,
            origin: Some(origin),
            last_seen: now,
            is_unsaved: false,
            saved_under: None,
        }
    }

    fn expired(&self, idle: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.last_seen) >= idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn table(capacity: usize) -> SessionStore {
        SessionStore::new(SessionLimits { idle: IDLE, capacity })
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn remembers_user_cart_and_requests() {
        let (mut sessions, start, id) = (table(10), Instant::now(), SessionId(1));
        sessions.open(id, "ann".to_owned(), start);
        sessions.change(id, start).unwrap().cart.add("apple").unwrap();
        let session = sessions.touch(id, after(start, 1)).unwrap();
        assert_eq!((session.user.as_str(), session.requests), ("ann", 2));
        assert_eq!(session.cart.items(), ["apple"]);
        assert_eq!(session.since, start);
    }

    #[test]
    fn expires_when_idle_and_only_then() {
        let (mut sessions, start, id) = (table(10), Instant::now(), SessionId(1));
        sessions.open(id, "ann".to_owned(), start);
        assert!(sessions.touch(id, after(start, 59)).is_some());
        assert!(sessions.touch(id, after(start, 118)).is_some(), "a request restarts the idle time");
        assert_eq!(sessions.count(after(start, 178)), 0);
        assert!(sessions.touch(id, after(start, 178)).is_none());
        assert!(sessions.change(id, after(start, 178)).is_none());
    }

    #[test]
    fn a_closed_session_is_unknown() {
        let (mut sessions, start, id) = (table(10), Instant::now(), SessionId(1));
        sessions.open(id, "ann".to_owned(), start);
        sessions.close(id);
        assert!(sessions.touch(id, start).is_none());
    }

    #[test]
    fn a_full_table_drops_the_session_that_was_idle_longest() {
        let (mut sessions, start) = (table(2), Instant::now());
        sessions.open(SessionId(1), "ann".to_owned(), start);
        sessions.open(SessionId(2), "bob".to_owned(), after(start, 1));
        sessions.touch(SessionId(1), after(start, 2));
        sessions.open(SessionId(3), "cyd".to_owned(), after(start, 3));
        assert_eq!(sessions.count(after(start, 3)), 2);
        assert!(sessions.touch(SessionId(2), after(start, 3)).is_none());
        assert!(sessions.touch(SessionId(1), after(start, 3)).is_some());
    }

    #[test]
    fn a_full_table_drops_expired_sessions_first() {
        let (mut sessions, start) = (table(3), Instant::now());
        sessions.open(SessionId(1), "ann".to_owned(), start);
        sessions.open(SessionId(2), "bob".to_owned(), start);
        sessions.open(SessionId(3), "cyd".to_owned(), after(start, 30));
        sessions.open(SessionId(4), "dan".to_owned(), after(start, 70));
        assert_eq!(sessions.by_id.len(), 2);
        assert!(sessions.touch(SessionId(3), after(start, 70)).is_some());
    }

    #[test]
    fn ids_round_trip_and_nothing_else_parses() {
        let id = SessionId(0xfeed);
        assert!(SessionId::parse(&id.to_string()) == Some(id));
        let upper = id.to_string().to_uppercase();
        for text in ["", "feed", "+000000000000000000000000000feed", upper.as_str(), &"0".repeat(33)] {
            assert!(SessionId::parse(text).is_none(), "{text:?}");
        }
        assert!(SessionId::random().unwrap() != SessionId::random().unwrap());
    }
}
