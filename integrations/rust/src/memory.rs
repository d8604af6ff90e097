//! Owns: this server's sessions, and which state of which session it has under each name that Linchpin has for one.
//! Invariant: a request never runs on a state older than its version; a state that a client was told is saved.
//! Must not know: HTTP, sealing, or the clock (`now` is passed in).

use std::collections::HashMap;
use std::sync::Arc;

use time::OffsetDateTime;
use tower_sessions_core::session::{Id, Record};

use crate::field::{SessionField, SessionRef, Version};

/// How much a server remembers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Most sessions. At this limit those that were not used for the longest time are dropped. 100,000 by default.
    pub sessions: usize,
    /// Most bytes of copies that no client has come for yet. 64 MiB by default.
    pub waiting_bytes: usize,
    /// Longest copy, in bytes; `max` of the pool's `[pools.copies]`. A session with a longer one has no copy. 32 KiB by
    /// default.
    pub copy_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sessions: 100_000, waiting_bytes: 64 << 20, copy_bytes: 32 << 10 }
    }
}

/// A server's memory.
#[derive(Debug)]
pub(crate) struct Memory {
    limits: Limits,
    sessions: HashMap<Id, Session>,
    by_ref: HashMap<SessionRef, Entry>,
    waiting_bytes: usize,
    /// Numbers each use, to find what was not used for the longest time.
    uses: u64,
    /// Numbers the PUTs and DELETEs that were taken.
    takes: u64,
}

#[derive(Debug)]
struct Session {
    record: Arc<Record>,
    /// It has changed since it was saved.
    is_unsaved: bool,
    /// Linchpin's name of it when it was saved last.
    saved_under: Option<SessionRef>,
    last_use: u64,
}

#[derive(Debug)]
struct Entry {
    version: Version,
    state: State,
    /// The number of the PUT or DELETE that was taken last, 0 if none was.
    taken: u64,
    last_use: u64,
}

/// What a version stands for.
#[derive(Debug)]
enum State {
    Session(Id),
    /// A copy whose client has not come yet: only a request whose cookie has its id gets it.
    Waiting {
        record: Arc<Record>,
        bytes: usize,
    },
    /// The session has ended.
    Ended,
}

/// A request that runs: what it began with, and what the application has done with its session since.
#[derive(Debug)]
pub(crate) struct RunningRequest {
    field: SessionField,
    taken: u64,
    /// The client's session, if the application has loaded or made one.
    session: Option<Id>,
    /// The session as this request wrote it, or tried to.
    written: Option<Arc<Record>>,
    /// It has ended a session, or tried to.
    has_ended_session: bool,
}

/// The request needs the copy before it may run.
#[derive(Debug, PartialEq)]
pub(crate) struct Wanted;

/// Another server has gone on with the session while this request ran: the request must change nothing.
#[derive(Debug, PartialEq)]
pub(crate) struct Overtaken;

/// What a response tells Linchpin.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Nothing,
    Save(Version, Arc<Record>),
    Drop(Version),
}

impl Memory {
    pub(crate) fn new(limits: Limits) -> Self {
        let (sessions, by_ref) = (HashMap::new(), HashMap::new());
        Self { limits, sessions, by_ref, waiting_bytes: 0, uses: 0, takes: 0 }
    }

    // === Linchpin's messages ===

    /// Decides whether a request may run, and forgets what is out of date.
    pub(crate) fn begin(&mut self, field: SessionField, now: OffsetDateTime) -> Result<RunningRequest, Wanted> {
        self.forget_missing(&field.session_ref, now);
        let held = self.by_ref.get(&field.session_ref).map(|entry| entry.version);
        match field.version() {
            Some(version) if held.is_some_and(|held| held >= version) => {}
            Some(version) if field.dropped => self.replace(&field.session_ref, version, State::Ended),
            Some(_) => return Err(Wanted),
            // Nobody holds a copy. If more than one hand-over has passed since this server's state, another server has
            // gone on from it.
            None if held.is_some_and(|held| held.term.saturating_add(1) < field.term) => {
                self.forget(&field.session_ref, None);
            }
            None => {}
        }
        let last_use = self.next_use();
        let entry = self.by_ref.get_mut(&field.session_ref);
        let taken = entry.map_or(0, |entry| {
            entry.last_use = last_use;
            entry.taken
        });
        Ok(RunningRequest { field, taken, session: None, written: None, has_ended_session: false })
    }

    /// Takes a copy of `bytes` bytes. The error is the version of the newer state that this server has.
    pub(crate) fn take(
        &mut self,
        session_ref: &SessionRef,
        version: Version,
        record: Record,
        bytes: usize,
    ) -> Result<(), Version> {
        if let Some(held) = self.by_ref.get(session_ref) {
            let has_ended = matches!(held.state, State::Ended);
            if held.version > version || (held.version == version && has_ended) {
                return Err(held.version);
            }
        }
        self.replace(session_ref, version, State::Waiting { record: Arc::new(record), bytes });
        self.waiting_bytes = self.waiting_bytes.saturating_add(bytes);
        self.stamp(session_ref);
        while self.waiting_bytes > self.limits.waiting_bytes {
            let waiting = self.by_ref.iter().filter(|(_, entry)| matches!(entry.state, State::Waiting { .. }));
            let oldest = waiting.min_by_key(|(_, entry)| entry.last_use).map(|(oldest, _)| oldest.clone());
            let Some(oldest) = oldest else { break };
            self.forget(&oldest, None);
        }
        Ok(())
    }

    /// Ends a session. The error is the version of the newer state that this server has.
    pub(crate) fn end(&mut self, session_ref: &SessionRef, version: Version) -> Result<(), Version> {
        if let Some(held) = self.by_ref.get(session_ref)
            && held.version > version
        {
            return Err(held.version);
        }
        self.replace(session_ref, version, State::Ended);
        self.stamp(session_ref);
        Ok(())
    }

    /// Decides what the response to a request tells Linchpin.
    pub(crate) fn finish(&mut self, request: &RunningRequest) -> Outcome {
        let field = &request.field;
        let held = self.by_ref.get(&field.session_ref);
        let seq = held.map_or(0, |held| held.version.seq).max(field.seq.unwrap_or(0)).saturating_add(1);
        let version = Version { term: field.term, seq };
        if self.is_overtaken(request) {
            // Linchpin refuses the old term, so that no client is told of a change that was left behind.
            return match &request.written {
                Some(record) => Outcome::Save(version, Arc::clone(record)),
                None if request.has_ended_session => Outcome::Drop(version),
                None => Outcome::Nothing,
            };
        }
        let is_held = held.is_some_and(|held| Some(held.version) == field.version());
        let id = match (request.session, held.map(|held| &held.state)) {
            (Some(id), _) => id,
            (None, _) if request.has_ended_session => {
                self.replace(&field.session_ref, version, State::Ended);
                return Outcome::Drop(version);
            }
            // The application did not ask for the session. Linchpin needs a copy all the same, if it holds none.
            (None, Some(State::Session(id))) => *id,
            (None, Some(State::Waiting { record, .. })) if !is_held => {
                let record = Arc::clone(record);
                if let Some(entry) = self.by_ref.get_mut(&field.session_ref) {
                    entry.version = version;
                }
                return Outcome::Save(version, record);
            }
            (None, _) => return Outcome::Nothing,
        };
        let Some(session) = self.sessions.get_mut(&id) else { return Outcome::Nothing };
        // Not only what this request changed: a client must not be told a state that Linchpin holds no copy of.
        if is_held && !session.is_unsaved && session.saved_under.as_ref() == Some(&field.session_ref) {
            return Outcome::Nothing;
        }
        session.is_unsaved = false;
        session.saved_under = Some(field.session_ref.clone());
        let record = Arc::clone(&session.record);
        self.replace(&field.session_ref, version, State::Session(id));
        Outcome::Save(version, record)
    }

    // === the application's sessions ===

    /// Finds a session, or opens the copy that waits for a client with this id.
    pub(crate) fn load(
        &mut self,
        request: Option<&mut RunningRequest>,
        id: Id,
        now: OffsetDateTime,
    ) -> Option<Arc<Record>> {
        let last_use = self.next_use();
        if let Some(request) = &request {
            self.adopt(&request.field.session_ref, id);
        }
        let session = self.sessions.get_mut(&id).filter(|session| session.record.expiry_date > now)?;
        session.last_use = last_use;
        if let Some(request) = request {
            request.session = Some(id);
        }
        Some(Arc::clone(&session.record))
    }

    /// Adds a new session, under another id if its own is taken.
    pub(crate) fn create(
        &mut self,
        request: Option<&mut RunningRequest>,
        record: &mut Record,
        now: OffsetDateTime,
    ) -> Result<(), Overtaken> {
        while self.sessions.contains_key(&record.id) {
            record.id = Id::default();
        }
        let record = Arc::new(record.clone());
        self.write(request, &record)?;
        self.make_room(now);
        let session =
            Session { record: Arc::clone(&record), is_unsaved: true, saved_under: None, last_use: self.next_use() };
        self.sessions.insert(record.id, session);
        Ok(())
    }

    /// Changes a session. One that has ended meanwhile stays ended.
    pub(crate) fn save(&mut self, request: Option<&mut RunningRequest>, record: &Record) -> Result<(), Overtaken> {
        let record = Arc::new(record.clone());
        self.write(request, &record)?;
        if let Some(session) = self.sessions.get_mut(&record.id) {
            session.record = record;
            session.is_unsaved = true;
        }
        Ok(())
    }

    /// Ends a session.
    pub(crate) fn delete(&mut self, request: Option<&mut RunningRequest>, id: Id) -> Result<(), Overtaken> {
        if let Some(request) = request {
            if self.is_overtaken(request) {
                request.has_ended_session = true;
                return Err(Overtaken);
            }
            request.session = request.session.filter(|session| *session != id);
            request.has_ended_session |= self.sessions.contains_key(&id);
        }
        self.sessions.remove(&id);
        Ok(())
    }

    /// Notes that a request writes its session, unless it must not.
    fn write(&self, request: Option<&mut RunningRequest>, record: &Arc<Record>) -> Result<(), Overtaken> {
        let Some(request) = request else { return Ok(()) };
        request.written = Some(Arc::clone(record));
        if self.is_overtaken(request) {
            return Err(Overtaken);
        }
        request.session = Some(record.id);
        Ok(())
    }

    /// Gives a client its session from the copy that waits for it. Its expiry is the application's: it is in the copy.
    fn adopt(&mut self, session_ref: &SessionRef, id: Id) {
        let last_use = self.next_use();
        let Some(entry) = self.by_ref.get_mut(session_ref) else { return };
        let State::Waiting { record, bytes } = &entry.state else { return };
        if record.id != id {
            return;
        }
        let session =
            Session { record: Arc::clone(record), is_unsaved: false, saved_under: Some(session_ref.clone()), last_use };
        self.waiting_bytes = self.waiting_bytes.saturating_sub(*bytes);
        entry.state = State::Session(id);
        self.sessions.insert(id, session);
    }

    fn is_overtaken(&self, request: &RunningRequest) -> bool {
        self.by_ref.get(&request.field.session_ref).is_some_and(|entry| entry.taken != request.taken)
    }

    // === bounds ===

    /// Sets what a name stands for, and forgets what it stood for before.
    fn replace(&mut self, session_ref: &SessionRef, version: Version, state: State) {
        let keeps = if let State::Session(id) = &state { Some(*id) } else { None };
        let taken = self.by_ref.get(session_ref).map_or(0, |entry| entry.taken);
        self.forget(session_ref, keeps);
        // A client that lost its pin has a second name for the same session.
        if self.by_ref.len() >= self.limits.sessions.saturating_mul(2) {
            let mut uses: Vec<_> = self.by_ref.values().map(|entry| entry.last_use).collect();
            let oldest = cut(&mut uses);
            let waiting_bytes = &mut self.waiting_bytes;
            self.by_ref.retain(|_, entry| {
                let is_kept = entry.last_use > oldest;
                if let (false, State::Waiting { bytes, .. }) = (is_kept, &entry.state) {
                    *waiting_bytes = waiting_bytes.saturating_sub(*bytes);
                }
                is_kept
            });
        }
        let last_use = self.next_use();
        self.by_ref.insert(session_ref.clone(), Entry { version, state, taken, last_use });
    }

    /// Forgets a name, and its session if that was saved under it last and is not the one to keep.
    fn forget(&mut self, session_ref: &SessionRef, keeps: Option<Id>) {
        match self.by_ref.remove(session_ref).map(|entry| entry.state) {
            Some(State::Session(id)) if keeps != Some(id) => {
                if self.sessions.get(&id).is_some_and(|session| session.saved_under.as_ref() == Some(session_ref)) {
                    self.sessions.remove(&id);
                }
            }
            Some(State::Waiting { bytes, .. }) => self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes),
            Some(State::Session(_) | State::Ended) | None => {}
        }
    }

    /// Forgets a name whose session was dropped to make room: its copy is needed. An expired session has ended.
    fn forget_missing(&mut self, session_ref: &SessionRef, now: OffsetDateTime) {
        let Some(entry) = self.by_ref.get_mut(session_ref) else { return };
        let State::Session(id) = entry.state else { return };
        match self.sessions.get(&id) {
            Some(session) if session.record.expiry_date > now => {}
            Some(_) => entry.state = State::Ended,
            None => drop(self.by_ref.remove(session_ref)),
        }
    }

    /// Drops expired sessions if the memory is full, else a hundredth of it: those not used for the longest time.
    fn make_room(&mut self, now: OffsetDateTime) {
        if self.sessions.len() < self.limits.sessions {
            return;
        }
        self.sessions.retain(|_, session| session.record.expiry_date > now);
        if self.sessions.len() >= self.limits.sessions {
            let mut uses: Vec<_> = self.sessions.values().map(|session| session.last_use).collect();
            let oldest = cut(&mut uses);
            self.sessions.retain(|_, session| session.last_use > oldest);
        }
    }

    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    /// Notes that a PUT or DELETE was taken: requests that run now are overtaken.
    fn stamp(&mut self, session_ref: &SessionRef) {
        self.takes += 1;
        if let Some(entry) = self.by_ref.get_mut(session_ref) {
            entry.taken = self.takes;
        }
    }
}

/// Returns the last use among the oldest hundredth.
fn cut(uses: &mut [u64]) -> u64 {
    let at = uses.len() / 100;
    if uses.is_empty() { 0 } else { *uses.select_nth_unstable(at).1 }
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderValue};
    use time::Duration;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn field(text: &str) -> SessionField {
        let headers: HeaderMap = [(crate::field::SESSION, HeaderValue::from_str(text).unwrap())].into_iter().collect();
        SessionField::read(&headers).unwrap()
    }

    fn record(lives: Duration) -> Record {
        Record { id: Id::default(), data: HashMap::new(), expiry_date: NOW + lives }
    }

    fn memory(sessions: usize) -> Memory {
        Memory::new(Limits { sessions, waiting_bytes: 1_000, ..Limits::default() })
    }

    fn log_in(memory: &mut Memory, name: &str, lives: Duration) -> Id {
        let mut request = memory.begin(field(&format!("ref=\"{name}\";term=1")), NOW).unwrap();
        let mut record = record(lives);
        memory.create(Some(&mut request), &mut record, NOW).unwrap();
        assert!(matches!(memory.finish(&request), Outcome::Save(Version { term: 1, seq: 1 }, _)));
        record.id
    }

    #[test]
    fn the_sessions_that_were_not_used_for_the_longest_time_make_room_and_are_wanted() {
        let mut memory = memory(10);
        for number in 0..11 {
            log_in(&mut memory, &format!("r{number}"), Duration::MINUTE);
        }
        assert_eq!(memory.sessions.len(), 10);
        assert!(memory.begin(field("ref=\"r0\";term=1;seq=1"), NOW).is_err());
        assert!(memory.begin(field("ref=\"r10\";term=1;seq=1"), NOW).is_ok());
    }

    #[test]
    fn an_expired_session_is_over_and_is_not_wanted() {
        let mut memory = memory(10);
        let id = log_in(&mut memory, "r", Duration::SECOND);
        let later = NOW + Duration::MINUTE;
        let mut request = memory.begin(field("ref=\"r\";term=1;seq=1"), later).unwrap();
        assert_eq!(memory.load(Some(&mut request), id, later), None);
        // A copy brings an expired session back just as little.
        memory.take(&request.field.session_ref, Version { term: 2, seq: 1 }, record(Duration::SECOND), 10).unwrap();
        let mut request = memory.begin(field("ref=\"r\";term=2;seq=1"), later).unwrap();
        assert_eq!(memory.load(Some(&mut request), id, later), None);
    }

    #[test]
    fn copies_that_wait_are_bounded_in_bytes_and_in_number() {
        let mut memory = memory(100);
        for number in 0..10 {
            let name = field(&format!("ref=\"r{number}\";term=1")).session_ref;
            memory.take(&name, Version { term: 1, seq: 1 }, record(Duration::MINUTE), 300).unwrap();
        }
        assert_eq!((memory.by_ref.len(), memory.waiting_bytes), (3, 900));
        let mut memory = Memory::new(Limits { sessions: 5, ..Limits::default() });
        for number in 0..100 {
            let name = field(&format!("ref=\"r{number}\";term=1")).session_ref;
            memory.take(&name, Version { term: 1, seq: 1 }, record(Duration::MINUTE), 300).unwrap();
        }
        assert_eq!((memory.by_ref.len(), memory.waiting_bytes), (10, 3_000));
    }

    #[test]
    fn a_state_whose_save_was_lost_is_saved_with_the_next_response() {
        let mut memory = memory(10);
        let id = log_in(&mut memory, "r", Duration::MINUTE);
        let mut lost = memory.begin(field("ref=\"r\";term=1;seq=1"), NOW).unwrap();
        let record = memory.load(Some(&mut lost), id, NOW).unwrap();
        memory.save(Some(&mut lost), &record).unwrap();
        assert!(matches!(memory.finish(&lost), Outcome::Save(Version { seq: 2, .. }, _)));
        let mut read = memory.begin(field("ref=\"r\";term=1;seq=1"), NOW).unwrap();
        memory.load(Some(&mut read), id, NOW).unwrap();
        assert!(matches!(memory.finish(&read), Outcome::Save(Version { seq: 3, .. }, _)));
        let mut read = memory.begin(field("ref=\"r\";term=1;seq=3"), NOW).unwrap();
        memory.load(Some(&mut read), id, NOW).unwrap();
        assert_eq!(memory.finish(&read), Outcome::Nothing);
    }

    #[test]
    fn a_request_that_was_overtaken_writes_nothing_and_is_refused_for_its_term() {
        let mut memory = memory(10);
        let id = log_in(&mut memory, "r", Duration::MINUTE);
        let mut slow = memory.begin(field("ref=\"r\";term=1;seq=1"), NOW).unwrap();
        let before = memory.load(Some(&mut slow), id, NOW).unwrap();
        let newer = Record { data: [("count".to_owned(), 5.into())].into(), ..Record::clone(&before) };
        memory.take(&slow.field.session_ref, Version { term: 3, seq: 9 }, newer.clone(), 10).unwrap();
        let mut next = memory.begin(field("ref=\"r\";term=3;seq=9"), NOW).unwrap();
        assert_eq!(memory.load(Some(&mut next), id, NOW).as_deref(), Some(&newer));
        assert_eq!(memory.finish(&slow), Outcome::Nothing, "it has only read");
        assert_eq!(memory.delete(Some(&mut slow), id), Err(Overtaken));
        assert!(matches!(memory.finish(&slow), Outcome::Drop(Version { term: 1, .. })));
        assert_eq!(memory.save(Some(&mut slow), &before), Err(Overtaken));
        assert!(matches!(memory.finish(&slow), Outcome::Save(Version { term: 1, .. }, _)));
        assert_eq!(memory.load(Some(&mut next), id, NOW).as_deref(), Some(&newer));
        assert_eq!(memory.finish(&next), Outcome::Nothing);
    }
}
