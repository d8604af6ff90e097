//! Owns: which state of which session this server remembers under each name that Linchpin has for one.
//! Invariant: a request never runs on a state older than its version, and a state that a client was told is saved.
//! Must not know: the clock (`now` is passed in), HTTP, or how copies are sealed.

mod entries;

use std::time::Instant;

use self::entries::{Entries, Memory};
use super::super::session::{Session, SessionId, SessionStore};
use super::field::{SessionField, SessionRef, Version};

pub(super) use self::entries::WaitingCopy;

/// What this server remembers, by Linchpin's names.
pub(in crate::demo) struct RefTable(Entries);

/// What a request knows of its session's version when it begins.
#[derive(Clone)]
pub(in crate::demo) struct Ticket {
    field: SessionField,
    taken: u64,
}

/// The request needs the copy before it may run.
#[derive(Debug, PartialEq)]
pub(super) struct Wanted;

/// How a request has changed its client's session, or would have if it had not been overtaken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::demo) enum SessionChange {
    /// It was logged in under this id.
    LoggedIn(SessionId),
    /// It was logged out.
    LoggedOut,
    /// It has other content.
    Content,
}

/// What a response tells Linchpin.
pub(super) enum Outcome {
    Nothing,
    Save { version: Version, id: SessionId, session: Session },
    Drop(Version),
}

impl RefTable {
    /// Creates a table of at most `capacity` names.
    pub(in crate::demo) fn new(capacity: usize) -> Self {
        Self(Entries::new(capacity))
    }

    /// Decides whether a request may run on what this server remembers. Forgets what is out of date.
    pub(super) fn begin(
        &mut self,
        field: &SessionField,
        sessions: &mut SessionStore,
        now: Instant,
    ) -> Result<Ticket, Wanted> {
        self.0.forget_evicted(&field.session_ref, sessions, now);
        let held = self.0.get(&field.session_ref).map(|entry| entry.version);
        match field.version() {
            Some(version) if field.dropped => {
                if held.is_none_or(|held| held < version) {
                    self.0.replace(&field.session_ref, version, Memory::Ended, sessions, now);
                }
            }
            Some(version) => {
                if held.is_none_or(|held| held < version) {
                    return Err(Wanted);
                }
            }
            // Linchpin holds no copy. Had this server's memory been left behind by one hand-over more than the one that
            // brings the client back here, another server would have gone on from it.
            None => {
                if held.is_some_and(|held| held.term.saturating_add(1) < field.term) {
                    self.0.remove(&field.session_ref, sessions);
                }
            }
        }
        let mut taken = 0;
        if let Some(entry) = self.0.get_mut(&field.session_ref) {
            entry.last_used = now;
            taken = entry.taken;
        }
        Ok(Ticket { field: field.clone(), taken })
    }

    /// Gives the client its session from the copy, if one waits and the client's cookie has its id.
    pub(super) fn adopt(&mut self, ticket: &Ticket, id: SessionId, sessions: &mut SessionStore, now: Instant) {
        let session_ref = &ticket.field.session_ref;
        let Some(waiting) = self.0.take_waiting(session_ref, id) else { return };
        let waited = now.saturating_duration_since(waiting.taken_at);
        if waited >= sessions.idle_timeout() {
            if let Some(entry) = self.0.get_mut(session_ref) {
                entry.memory = Memory::Ended;
            }
            return;
        }
        let mut session = waiting.session;
        if let Some(origin) = &mut session.origin {
            origin.age = origin.age.saturating_add(waited);
        }
        sessions.restore(id, session, session_ref.clone(), now);
    }

    /// Whether the session was handed over, or ended elsewhere, while the request ran: it must change nothing any more.
    pub(in crate::demo) fn is_overtaken(&self, ticket: &Ticket) -> bool {
        self.0.get(&ticket.field.session_ref).is_some_and(|entry| entry.taken != ticket.taken)
    }

    /// Decides what a response tells Linchpin. `before` is the client's session when the request began.
    pub(super) fn finish(
        &mut self,
        ticket: &Ticket,
        before: Option<(SessionId, &Session)>,
        change: Option<SessionChange>,
        sessions: &mut SessionStore,
        now: Instant,
    ) -> Outcome {
        let field = &ticket.field;
        let held = self.0.get(&field.session_ref);
        let seq = held.map_or(0, |held| held.version.seq).max(field.seq.unwrap_or(0)).saturating_add(1);
        let version = Version { term: field.term, seq };
        if self.is_overtaken(ticket) {
            // Linchpin refuses the old term, so that no client is told of a change that was left behind. What the request
            // only read may be told: it was true when the request began.
            let new = if let Some(SessionChange::LoggedIn(id)) = change {
                sessions.get(id).map(|new| (id, new))
            } else {
                None
            };
            return match (change, before.or(new)) {
                (Some(_), Some((id, session))) => Outcome::Save { version, id, session: session.clone() },
                (Some(_), None) => Outcome::Drop(version),
                (None, _) => Outcome::Nothing,
            };
        }
        let id = match (change, before) {
            (Some(SessionChange::LoggedIn(id)), _) | (Some(SessionChange::Content) | None, Some((id, _))) => id,
            (Some(SessionChange::LoggedOut), Some(_)) => {
                self.0.replace(&field.session_ref, version, Memory::Ended, sessions, now);
                return Outcome::Drop(version);
            }
            (_, None) => return Outcome::Nothing,
        };
        // Not only what this request changed: a client must not be told a state that Linchpin holds no copy of.
        let is_held = held.is_some_and(|held| Some(held.version) == field.version());
        let Some(session) = sessions.save(id, &field.session_ref, is_held) else { return Outcome::Nothing };
        let session = session.clone();
        let memory = Memory::Session(id);
        match self.0.get_mut(&field.session_ref) {
            Some(entry) if !matches!(entry.memory, Memory::Waiting(_)) => {
                (entry.version, entry.memory, entry.last_used) = (version, memory, now);
            }
            _ => self.0.replace(&field.session_ref, version, memory, sessions, now),
        }
        Outcome::Save { version, id, session }
    }

    /// Takes a copy, unless this server has a newer state, whose version is then the error.
    pub(super) fn take(
        &mut self,
        session_ref: &SessionRef,
        version: Version,
        waiting: WaitingCopy,
        sessions: &mut SessionStore,
        now: Instant,
    ) -> Result<(), Version> {
        if let Some(held) = self.0.get(session_ref) {
            // A session that has ended doesn't come back by a copy of the same version.
            let is_newer = held.version > version;
            if is_newer || (held.version == version && matches!(held.memory, Memory::Ended)) {
                return Err(held.version);
            }
        }
        self.0.put_waiting(session_ref, version, waiting, sessions, now);
        self.0.stamp(session_ref);
        Ok(())
    }

    /// Ends a session, unless this server has a newer state, whose version is then the error.
    pub(super) fn end(
        &mut self,
        session_ref: &SessionRef,
        version: Version,
        sessions: &mut SessionStore,
        now: Instant,
    ) -> Result<(), Version> {
        match self.0.get(session_ref) {
            Some(held) if held.version > version => Err(held.version),
            _ => {
                self.0.replace(session_ref, version, Memory::Ended, sessions, now);
                self.0.stamp(session_ref);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;
    use http::header::HeaderValue;

    use super::super::super::session::{CopyOrigin, SessionLimits};
    use super::super::field;
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    /// One server: its memory, and the ids of the sessions in it.
    struct Server {
        refs: RefTable,
        sessions: SessionStore,
        now: Instant,
    }

    /// A request that runs.
    struct Running {
        ticket: Ticket,
        before: Option<(SessionId, Session)>,
    }

    fn version(term: u64, seq: u64) -> Version {
        Version { term, seq }
    }

    fn session_field(text: &str) -> SessionField {
        let headers: HeaderMap = [(field::SESSION, HeaderValue::from_str(text).unwrap())].into_iter().collect();
        SessionField::read(&headers).unwrap()
    }

    impl Server {
        fn new() -> Server {
            let sessions = SessionStore::new(SessionLimits { idle: IDLE, capacity: 10 });
            Server { refs: RefTable::new(10), sessions, now: Instant::now() }
        }

        /// Begins a request of the client whose cookie has this id.
        fn begin(&mut self, field: &str, cookie: Option<SessionId>) -> Option<Running> {
            let ticket = self.refs.begin(&session_field(field), &mut self.sessions, self.now).ok()?;
            if let Some(id) = cookie {
                self.refs.adopt(&ticket, id, &mut self.sessions, self.now);
            }
            let before = cookie.and_then(|id| Some((id, self.sessions.touch(id, self.now)?.clone())));
            Some(Running { ticket, before })
        }

        fn finish(&mut self, running: &Running, change: Option<SessionChange>) -> Outcome {
            let before = running.before.as_ref().map(|(id, session)| (*id, session));
            self.refs.finish(&running.ticket, before, change, &mut self.sessions, self.now)
        }

        /// Runs a request that counts; returns the count and the version that is saved, if one is.
        fn count(&mut self, field: &str, id: SessionId) -> Option<(u64, Option<Version>)> {
            let running = self.begin(field, Some(id))?;
            let session = self.sessions.change(id, self.now).unwrap();
            session.count += 1;
            let count = session.count;
            Some((count, saved(&self.finish(&running, Some(SessionChange::Content)))))
        }

        /// Runs a request that only reads.
        fn read(&mut self, field: &str, id: SessionId) -> Option<(Option<u64>, Option<Version>)> {
            let running = self.begin(field, Some(id))?;
            let count = running.before.as_ref().map(|(_, session)| session.count);
            Some((count, saved(&self.finish(&running, None))))
        }

        /// Logs a user in with the first request of a session.
        fn log_in(&mut self, field: &str) -> SessionId {
            let running = self.begin(field, None).unwrap();
            let id = SessionId::random().unwrap();
            self.sessions.open(id, "ann".to_owned(), self.now);
            assert!(saved(&self.finish(&running, Some(SessionChange::LoggedIn(id)))).is_some());
            id
        }

        fn take(&mut self, session_ref: &str, version: Version, id: SessionId, count: u64) -> Result<(), Version> {
            let origin = CopyOrigin { server: "b".to_owned(), age: Duration::ZERO, in_advance: false };
            let mut sessions = SessionStore::new(SessionLimits { idle: IDLE, capacity: 1 });
            let mut session = sessions.open(id, "ann".to_owned(), self.now);
            (session.count, session.origin) = (count, Some(origin));
            let waiting = WaitingCopy { id, session, bytes: 1_000, taken_at: self.now };
            let name = session_field(&format!("ref=\"{session_ref}\";term=1")).session_ref;
            self.refs.take(&name, version, waiting, &mut self.sessions, self.now)
        }

        fn end(&mut self, version: Version) -> Result<(), Version> {
            let name = session_field("ref=\"r\";term=1").session_ref;
            self.refs.end(&name, version, &mut self.sessions, self.now)
        }
    }

    fn saved(outcome: &Outcome) -> Option<Version> {
        match outcome {
            Outcome::Save { version, .. } => Some(*version),
            Outcome::Nothing | Outcome::Drop(_) => None,
        }
    }

    #[test]
    fn saves_what_changed_and_nothing_else() {
        let mut server = Server::new();
        let id = server.log_in("ref=\"r\";term=1");
        assert_eq!(server.read("ref=\"r\";term=1;seq=1", id), Some((Some(0), None)));
        assert_eq!(server.count("ref=\"r\";term=1;seq=1", id), Some((1, Some(version(1, 2)))));
        assert_eq!(server.read("ref=\"r\";term=1;seq=2", id), Some((Some(1), None)));
        // Linchpin lost its copy: nothing changes, and yet it needs one.
        assert_eq!(server.read("ref=\"r\";term=1", id), Some((Some(1), Some(version(1, 3)))));
        assert_eq!(server.count("ref=\"r\";term=1;seq=9", id), None, "that state is another server's");
    }

    #[test]
    fn a_state_that_a_client_reads_is_saved_with_that_response_if_its_own_save_was_lost_or_is_late() {
        let mut server = Server::new();
        let id = server.log_in("ref=\"r\";term=1");
        // The save of version 2 never arrived.
        assert_eq!(server.count("ref=\"r\";term=1;seq=1", id), Some((1, Some(version(1, 2)))));
        assert_eq!(server.read("ref=\"r\";term=1;seq=1", id), Some((Some(1), Some(version(1, 3)))));
        // Two requests at once: the second responds first.
        let slow = server.begin("ref=\"r\";term=1;seq=3", Some(id)).unwrap();
        server.sessions.change(id, server.now).unwrap().count += 1;
        assert_eq!(server.read("ref=\"r\";term=1;seq=3", id), Some((Some(2), Some(version(1, 4)))));
        assert_eq!(saved(&server.finish(&slow, None)), Some(version(1, 5)));
    }

    #[test]
    fn a_copy_is_for_the_client_whose_cookie_has_its_id() {
        let mut server = Server::new();
        let [mine, other] = [SessionId::random().unwrap(), SessionId::random().unwrap()];
        assert_eq!(server.take("r", version(2, 7), mine, 5), Ok(()));
        assert_eq!(server.read("ref=\"r\";term=2;seq=7", other), Some((None, None)));
        assert_eq!(server.read("ref=\"s\";term=2", mine), Some((None, None)), "under another name it is not found");
        assert_eq!(server.read("ref=\"r\";term=2;seq=7", mine), Some((Some(5), None)));
        assert_eq!(server.count("ref=\"r\";term=2;seq=7", mine), Some((6, Some(version(2, 8)))));
    }

    #[test]
    fn a_server_that_comes_back_takes_the_newer_state_and_an_older_copy_is_refused() {
        let mut server = Server::new();
        let id = server.log_in("ref=\"r\";term=1");
        assert_eq!(server.read("ref=\"r\";term=2;seq=4", id), None, "wanted");
        assert_eq!(server.take("r", version(3, 4), id, 5), Ok(()));
        assert_eq!(server.read("ref=\"r\";term=3;seq=4", id), Some((Some(5), None)));
        assert_eq!(server.take("r", version(2, 9), id, 9), Err(version(3, 4)));
        assert_eq!(server.take("r", version(3, 4), id, 5), Ok(()));
    }

    #[test]
    fn a_request_that_was_overtaken_changes_nothing_and_is_refused_for_its_term() {
        let mut server = Server::new();
        let id = server.log_in("ref=\"r\";term=1");
        let hung = server.begin("ref=\"r\";term=1;seq=1", Some(id)).unwrap();
        assert!(!server.refs.is_overtaken(&hung.ticket));
        assert_eq!(server.take("r", version(3, 4), id, 5), Ok(()));
        assert_eq!(server.count("ref=\"r\";term=3;seq=4", id), Some((6, Some(version(3, 5)))));
        assert!(server.refs.is_overtaken(&hung.ticket));
        assert_eq!(saved(&server.finish(&hung, None)), None, "it has only read");
        assert_eq!(saved(&server.finish(&hung, Some(SessionChange::Content))).map(|version| version.term), Some(1));
        assert_eq!(server.read("ref=\"r\";term=3;seq=5", id), Some((Some(6), None)));
    }

    #[test]
    fn without_a_copy_a_memory_that_was_left_behind_is_forgotten() {
        for (term, remembered) in [(1, Some(0)), (2, Some(0)), (3, None)] {
            let mut server = Server::new();
            let id = server.log_in("ref=\"r\";term=1");
            let read = server.read(&format!("ref=\"r\";term={term}"), id);
            assert_eq!(read.map(|(count, _)| count), Some(remembered), "term {term}");
        }
    }

    #[test]
    fn a_logout_is_final_until_the_next_login() {
        let mut server = Server::new();
        let id = server.log_in("ref=\"r\";term=1");
        let slow = server.begin("ref=\"r\";term=1;seq=1", Some(id)).unwrap();
        let logout = server.begin("ref=\"r\";term=1;seq=1", Some(id)).unwrap();
        server.sessions.close(id);
        let outcome = server.finish(&logout, Some(SessionChange::LoggedOut));
        assert!(matches!(outcome, Outcome::Drop(dropped) if dropped == version(1, 2)));
        assert_eq!(saved(&server.finish(&slow, None)), None);
        assert_eq!(server.read("ref=\"r\";term=1;seq=2;dropped", id), Some((None, None)));
        assert_eq!(server.take("r", version(1, 2), id, 5), Err(version(1, 2)));
        let running = server.begin("ref=\"r\";term=1;seq=2;dropped", Some(id)).unwrap();
        let next = SessionId::random().unwrap();
        server.sessions.open(next, "ann".to_owned(), server.now);
        let outcome = server.finish(&running, Some(SessionChange::LoggedIn(next)));
        assert_eq!(saved(&outcome), Some(version(1, 3)));
    }

    #[test]
    fn a_session_that_ended_elsewhere_is_forgotten_here() {
        let mut server = Server::new();
        let id = server.log_in("ref=\"r\";term=1");
        assert_eq!(server.end(version(1, 0)), Err(version(1, 1)));
        assert_eq!(server.end(version(2, 5)), Ok(()));
        assert_eq!(server.sessions.is_expired(id, server.now), None);
        // By the request's own word, too.
        let id = server.log_in("ref=\"r\";term=3;seq=5;dropped");
        assert_eq!(server.read("ref=\"r\";term=3;seq=9;dropped", id), Some((None, None)));
    }

    #[test]
    fn an_evicted_session_is_wanted_and_an_expired_one_is_not() {
        let mut server = Server::new();
        let id = server.log_in("ref=\"r\";term=1");
        server.now += IDLE;
        assert_eq!(server.read("ref=\"r\";term=1;seq=1", id), Some((None, None)));
        let id = server.log_in("ref=\"s\";term=1");
        server.sessions.close(id);
        assert_eq!(server.read("ref=\"s\";term=1;seq=1", id), None);
    }

    #[test]
    fn a_client_that_lost_its_pin_is_saved_under_its_new_name() {
        let mut server = Server::new();
        let id = server.log_in("ref=\"r\";term=1");
        assert_eq!(server.read("ref=\"s\";term=1", id), Some((Some(0), Some(version(1, 1)))));
        assert_eq!(server.read("ref=\"s\";term=1;seq=1", id), Some((Some(0), None)));
        // The old name's end leaves the session alone.
        assert_eq!(server.end(version(1, 1)), Ok(()));
        assert_eq!(server.read("ref=\"s\";term=1;seq=1", id), Some((Some(0), None)));
    }

    #[test]
    fn copies_that_wait_are_bounded_in_number_and_bytes_and_expire() {
        let mut server = Server::new();
        for number in 0..20 {
            server.now += Duration::from_millis(1);
            server.take(&format!("r{number}"), version(1, 1), SessionId::random().unwrap(), 0).unwrap();
        }
        assert_eq!(server.refs.0.size(), (10, 10_000));
        let id = SessionId::random().unwrap();
        server.take("late", version(1, 1), id, 0).unwrap();
        server.now += IDLE;
        assert_eq!(server.read("ref=\"late\";term=1;seq=1", id), Some((None, None)));
        assert_eq!(server.refs.0.size().1, 9_000);
    }
}
