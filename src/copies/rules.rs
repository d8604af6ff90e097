//! Owns: what is known of one session's state: its version, who holds it, and what must happen before a request.
//! Invariant: pure; versions only rise, one server has the current term, and an ended session stays ended.
//! Must not know: bytes, time, sockets, threads, how a copy is given.

mod decision;

use super::holder::Holder;
use super::version::{MAX_SEQ, Version};
pub use decision::{BeforeRequest, Claim, Fetched, Given, Known, Saved, Wait};

/// A copy on which this many servers have broken the connection is given to no other: it may be what kills them.
const MAX_BROKEN: u8 = 2;

/// What is known of one session's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    term: u32,
    newest: Newest,
    holder: Option<Holder>,
    /// The servers beside the holder that have `newest`.
    replicas: Vec<Holder>,
    /// What was known before the session went to a replica, until that has a request.
    before: Option<Box<Session>>,
    /// Servers may have copies that this state does not know of.
    is_replicated: bool,
    /// The holder is known to have `newest`.
    is_confirmed: bool,
    /// The holder has said that it lacks `newest`. Its other requests may still be answered.
    has_forgotten: bool,
    /// The holder has just failed to take `newest`: the next request goes there without it, and does not try again.
    is_skipped: bool,
    /// How many servers have broken the connection since one has taken the copy.
    broken: u8,
    hand_over: Option<HandOver>,
    /// The number of the last hand-over.
    hand_overs: u32,
    /// The requests that were sent in the current term and have no response yet.
    in_flight: u32,
    /// How many requests were sent.
    sent: u32,
    /// States of requests up to this number are older than one that could not be read.
    void_until: u32,
    /// Several Linchpins share a store, which gives out the terms.
    is_shared: bool,
    /// The server for which the shared store has just given a term.
    fetched_for: Option<Holder>,
    /// The shared store was asked for a state, or has been told one, since the one here was lost.
    has_looked: bool,
}

/// A hand-over under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HandOver {
    number: u32,
    /// The version that the state gets if the server takes it. Until then it keeps its own: a server that has not taken
    /// the state begins to count at 1.
    version: Version,
}

/// The newest state that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newest {
    /// No copy is held. States up to this version are out of date.
    Lost(Version),
    /// A copy of this version is held.
    Held(Version),
    /// The replicas have a copy of this version, and no other is held.
    Placed(Version),
    /// The session ended at this version.
    Dropped(Version),
}

impl Newest {
    fn version(self) -> Version {
        match self {
            Newest::Lost(version) | Newest::Held(version) | Newest::Placed(version) | Newest::Dropped(version) => {
                version
            }
        }
    }
}

impl Session {
    /// Makes the state of a session of which nothing is known but what its pin says: its `term`, and the server that
    /// holds it, if that is known.
    pub fn new(term: u32, holder: Option<Holder>) -> Session {
        Session {
            term: term.max(1),
            newest: Newest::Lost(Version::default()),
            holder,
            replicas: Vec::new(),
            before: None,
            is_replicated: false,
            is_confirmed: false,
            has_forgotten: false,
            is_skipped: false,
            broken: 0,
            hand_over: None,
            hand_overs: 0,
            in_flight: 0,
            sent: 0,
            void_until: 0,
            is_shared: false,
            fetched_for: None,
            has_looked: false,
        }
    }

    /// Has each hand-over from now on ask the store that several Linchpins share, if `is_shared`.
    pub fn set_shared_store(&mut self, is_shared: bool) {
        self.is_shared = is_shared;
    }

    /// Makes the same of a session whose copies are on other servers, of which `replica` is one.
    pub fn replicated(term: u32, holder: Option<Holder>, replica: Option<Holder>) -> Session {
        let replicas = replica.into_iter().collect();
        Session { replicas, is_replicated: true, ..Session::new(term, holder) }
    }

    /// Notes the term and the server of the session's pin. If another Linchpin has handed the session over since, the
    /// copy here is out of date.
    pub fn note_pin(&mut self, term: u32, holder: Option<Holder>) {
        if term > self.term {
            self.lose(term, holder);
        }
    }

    /// Notes that the shared store has refused a state of the term `of`: it knows this `term`, which another server has.
    pub fn overtaken(&mut self, of: u32, term: u32) {
        // A hand-over under way has raised the term itself, or will.
        if self.term == of && term >= of && self.hand_over.is_none() {
            self.lose(term, None);
        }
    }

    fn lose(&mut self, term: u32, holder: Option<Holder>) {
        self.newest = Newest::Lost(self.newest.version());
        (self.holder, self.is_confirmed, self.has_forgotten) = (holder, false, false);
        (self.hand_over, self.has_looked) = (None, false);
        self.replicas.clear();
        (self.term, self.in_flight, self.before) = (term, 0, None);
    }

    /// Decides what happens to a request for the server `to`. `is_alive` says whether the session's holder, if that is
    /// another server, may still work on the session. A request that has waited long enough `may_wait` no longer.
    pub fn before_request(
        &mut self,
        to: Holder,
        is_alive: impl FnOnce(Holder) -> bool,
        may_wait: bool,
    ) -> BeforeRequest {
        if self.hand_over.is_some() {
            if may_wait {
                return BeforeRequest::Wait(Wait::HandOver);
            }
            // The server may still take the copy. In a new term that does no harm.
            self.hand_over = None;
            self.hand_to(to, 1);
            return BeforeRequest::Send(self.send(to));
        }
        let has_copy = self.replicas.contains(&to);
        let is_there = self.holder == Some(to) && !self.has_forgotten;
        match self.newest {
            // The server may have lost its memory without being noticed, and the state is in the store.
            Newest::Lost(_) if is_there && self.is_shared && !self.has_looked && self.in_flight == 0 => {
                return BeforeRequest::Look(self.begin_query());
            }
            // What the server was sent without a copy must not be fenced by another attempt to give it one.
            _ if is_there && (self.is_confirmed || self.is_skipped || self.in_flight > 0) => {
                return BeforeRequest::Send(self.send(to));
            }
            Newest::Lost(_) | Newest::Placed(_) | Newest::Dropped(_) if is_there => {
                return BeforeRequest::Send(self.send(to));
            }
            _ => {}
        }
        if !is_there && self.in_flight > 0 && may_wait && self.holder.is_some_and(is_alive) {
            return BeforeRequest::Wait(Wait::Requests);
        }
        if self.is_shared && self.fetched_for.take() != Some(to) {
            return BeforeRequest::Fetch(self.begin_query());
        }
        match self.newest {
            // A replica continues with what it has, and says so: it saves with its response. Any other server must
            // forget what it has, which is older; it does if its term is two behind.
            Newest::Placed(version) => {
                let before = has_copy.then(|| Box::new(self.clone()));
                self.newest = Newest::Lost(version);
                self.hand_to(to, if has_copy { 1 } else { 2 });
                self.before = before;
            }
            Newest::Lost(_) => self.hand_to(to, if self.is_replicated && !has_copy { 2 } else { 1 }),
            Newest::Dropped(version) => {
                self.hand_to(to, 1);
                self.newest = Newest::Dropped(Version { term: self.term, seq: version.seq });
            }
            Newest::Held(version) => {
                self.hand_to(to, 1);
                let version = Version { term: self.term, seq: version.seq };
                self.hand_overs = self.hand_overs.wrapping_add(1);
                self.hand_over = Some(HandOver { number: self.hand_overs, version });
                return BeforeRequest::Give { hand_over: self.hand_overs, version };
            }
        }
        BeforeRequest::Send(self.send(to))
    }

    /// Notes what the shared store knows of the session, after it has raised its term to `term` for a hand-over to `to`.
    /// Returns whether that is newer than what is known here. Without a `term` the store is not reachable, and what is
    /// known here has to do.
    pub fn fetched(&mut self, number: u32, to: Holder, term: Option<u32>, newest: Option<Fetched>) -> bool {
        if self.hand_over.take_if(|running| running.number == number).is_none() {
            return false;
        }
        self.fetched_for = Some(to);
        self.has_looked |= term.is_some();
        // The hand-over that follows raises it by one.
        self.term = self.term.max(term.map_or(0, |term| term.saturating_sub(1)));
        let Some(fetched) = newest else { return false };
        let (Fetched::Held(version) | Fetched::Dropped(version) | Fetched::Lost(version)) = fetched;
        // Of equal versions a copy is no newer than the copy here.
        let is_newer = version > self.newest.version()
            || (version == self.newest.version() && !(matches!(fetched, Fetched::Held(_)) && self.is_held()));
        if is_newer {
            self.newest = match fetched {
                Fetched::Held(version) => Newest::Held(version),
                Fetched::Dropped(version) => Newest::Dropped(version),
                Fetched::Lost(version) => Newest::Lost(version),
            };
            (self.holder, self.is_confirmed) = (None, false);
        }
        is_newer
    }

    /// Notes what the shared store knows of a session whose server is known; `None` if it is not reachable. Returns
    /// whether its state is the newest here from now on.
    pub fn looked(&mut self, number: u32, known: Option<Known>) -> bool {
        if self.hand_over.take_if(|running| running.number == number).is_none() {
            return false;
        }
        // The request goes on either way, and what its response brings is told to the store.
        self.has_looked = true;
        let Some(Known { term, is_holder, newest }) = known else { return false };
        if term > self.term || (term == self.term && !is_holder) {
            self.lose(term, None);
            return false;
        }
        let (Some(fetched), true) = (newest, term == self.term) else { return false };
        // Whatever its server has is of this term.
        let of_term = |version: Version| Version { term, seq: version.seq };
        let newest = match fetched {
            Fetched::Held(version) => Newest::Held(of_term(version)),
            Fetched::Dropped(version) => Newest::Dropped(of_term(version)),
            Fetched::Lost(_) => return false,
        };
        let is_newest = newest.version() >= self.newest.version();
        if is_newest {
            // A server that lacks it will want it.
            (self.newest, self.is_confirmed) = (newest, true);
        }
        is_newest
    }

    /// Notes that a question to the shared store was abandoned: the next request asks again.
    pub fn fetch_abandoned(&mut self, number: u32) {
        self.hand_over.take_if(|running| running.number == number);
    }

    /// Notes the outcome of the hand-over with this number. Returns false if it was abandoned meanwhile.
    pub fn gave(&mut self, hand_over: u32, outcome: Given) -> bool {
        let Some(HandOver { version: given, .. }) = self.hand_over.take_if(|running| running.number == hand_over)
        else {
            return false;
        };
        match outcome {
            // Unless the copy was evicted meanwhile.
            Given::Taken if self.is_held() => {
                (self.newest, self.is_confirmed, self.broken) = (Newest::Held(given), true, 0);
            }
            Given::Taken => self.newest = Newest::Lost(given),
            Given::Newer(version) => {
                self.term = self.term.max(version.term);
                self.newest = Newest::Lost(self.newest.version().max(version));
            }
            Given::Refused => self.newest = Newest::Lost(self.newest.version()),
            Given::Failed => self.is_skipped = true,
            Given::Broken => {
                self.holder = None;
                self.broken += 1;
                if self.broken >= MAX_BROKEN {
                    self.newest = Newest::Lost(self.newest.version());
                }
            }
            Given::Unreached => self.holder = None,
        }
        true
    }

    /// Notes that a request has its response, or gets none.
    pub fn ended(&mut self, claim: &Claim) {
        self.no_longer_in_flight(claim);
        if claim.term == self.term {
            // The server may have got it, and has the term from then on.
            self.before = None;
        }
    }

    /// Notes that a request never reached its server, instead of its end. If none of this term did, another replica may
    /// continue.
    pub fn unsent(&mut self, claim: &Claim) {
        self.no_longer_in_flight(claim);
        if claim.term == self.term
            && self.in_flight == 0
            && let Some(before) = self.before.take()
        {
            let sent = self.sent;
            *self = Session { sent, in_flight: 0, ..*before };
        }
    }

    fn no_longer_in_flight(&mut self, claim: &Claim) {
        if claim.number > 0 && claim.term == self.term {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    /// Notes that the response to a request brings a state of this version. If it is stored, the session is `dropped`,
    /// or its copy is held from now on.
    pub fn saved(&mut self, claim: &Claim, version: Version, dropped: bool) -> Saved {
        let saved = self.compare(claim, Some(version));
        if saved == Saved::Stored {
            self.newest = if dropped { Newest::Dropped(version) } else { Newest::Held(version) };
            (self.is_confirmed, self.has_looked) = (true, true);
            self.replicas.clear();
            self.before = None;
        }
        saved
    }

    /// Notes that these servers have a copy of this version, beside the holder. Returns false if a newer one is known.
    pub fn placed(&mut self, version: Version, replicas: Vec<Holder>) -> bool {
        let is_newest = self.newest == Newest::Held(version);
        if is_newest {
            (self.newest, self.replicas, self.is_replicated) = (Newest::Placed(version), replicas, true);
        }
        is_newest
    }

    /// Forgets the replicas that are not alive. Without any, the holder has to save again.
    pub fn keep_replicas(&mut self, is_alive: impl Fn(Holder) -> bool) {
        self.replicas.retain(|replica| is_alive(*replica));
        if let (Newest::Placed(version), true) = (self.newest, self.replicas.is_empty()) {
            self.newest = Newest::Lost(version);
        }
    }

    /// Returns the servers that have a copy beside the holder.
    pub fn replicas(&self) -> &[Holder] {
        &self.replicas
    }

    /// Notes that the response to a request brings a state that can't be stored, and its version, if that can be read:
    /// the copy here is out of date.
    pub fn not_stored(&mut self, claim: &Claim, version: Option<Version>) -> Saved {
        let saved = self.compare(claim, version);
        if saved == Saved::Stored {
            self.replicas.clear();
            self.has_looked = true;
            match (version, self.newest) {
                (Some(version), _) => self.newest = Newest::Lost(version),
                // Nobody can say whether the unreadable state is from before the end of the session or after it.
                (None, Newest::Dropped(_)) => self.void_until = self.sent,
                (None, newest) => (self.newest, self.void_until) = (Newest::Lost(newest.version()), self.sent),
            }
        }
        saved
    }

    /// Notes that the server lacks the state that the request claims, and has done nothing. The next call of
    /// [`Session::before_request`] says what to do.
    pub fn wanted(&mut self, claim: &Claim) {
        // The server is given the copy when its other requests have ended. One that reached it after the copy would run
        // in the former term, so its state would be refused, and would replace what the server was given.
        self.has_forgotten |= claim.term == self.term && self.is_held();
    }

    /// Notes that the copy is gone: evicted or expired.
    pub fn forget(&mut self) {
        if matches!(self.newest, Newest::Held(_)) {
            (self.newest, self.has_looked) = (Newest::Lost(self.newest.version()), false);
        }
    }

    /// Ends the session: its id is worth nothing any more, whatever is still under way.
    pub fn end(&mut self) {
        self.hand_over = None;
        self.raise(1);
        self.newest = Newest::Dropped(Version { term: self.term, seq: self.newest.version().seq });
    }

    /// Returns the current term.
    pub fn term(&self) -> u32 {
        self.term
    }

    /// Returns the version of the newest known state, and whether the session has ended with it.
    pub fn newest(&self) -> (Version, bool) {
        (self.newest.version(), matches!(self.newest, Newest::Dropped(_)))
    }

    /// Returns whether a copy is held.
    pub fn is_held(&self) -> bool {
        matches!(self.newest, Newest::Held(_))
    }

    /// Returns the server that holds the session, if it is known.
    pub fn holder(&self) -> Option<Holder> {
        self.holder
    }

    /// Returns whether `server` is known to have the newest state.
    pub fn is_given_to(&self, server: Holder) -> bool {
        self.holder == Some(server) && self.is_confirmed && !self.has_forgotten && self.hand_over.is_none()
    }

    /// Returns whether something is under way that refers to this state.
    pub fn is_busy(&self) -> bool {
        self.in_flight > 0 || self.hand_over.is_some()
    }

    fn begin_query(&mut self) -> u32 {
        self.hand_overs = self.hand_overs.wrapping_add(1);
        self.hand_over = Some(HandOver { number: self.hand_overs, version: self.newest.version() });
        self.hand_overs
    }

    fn hand_to(&mut self, to: Holder, terms: u32) {
        self.raise(terms);
        (self.holder, self.is_confirmed, self.has_forgotten, self.is_skipped) = (Some(to), false, false, false);
        self.replicas.clear();
    }

    fn raise(&mut self, terms: u32) {
        (self.term, self.in_flight, self.before) = (self.term.saturating_add(terms), 0, None);
    }

    fn send(&mut self, to: Holder) -> Claim {
        self.is_skipped = false;
        self.in_flight = self.in_flight.saturating_add(1);
        self.sent = self.sent.saturating_add(1);
        let (seq, dropped) = match self.newest {
            Newest::Held(version) | Newest::Placed(version) if self.is_confirmed => (Some(version.seq), false),
            Newest::Dropped(version) => (Some(version.seq), true),
            Newest::Held(_) | Newest::Placed(_) | Newest::Lost(_) => (None, false),
        };
        Claim { term: self.term, seq, dropped, to, number: self.sent }
    }

    fn compare(&mut self, claim: &Claim, version: Option<Version>) -> Saved {
        // A request of a session that was not known here then.
        if claim.term > self.term {
            self.note_pin(claim.term, Some(claim.to));
        }
        if claim.term != self.term || version.is_some_and(|version| version.term != self.term) {
            return Saved::Fenced;
        }
        let is_void = self.void_until > 0 && claim.number <= self.void_until;
        if is_void || version.is_some_and(|version| version <= self.newest.version() || version.seq > MAX_SEQ) {
            return Saved::Stale;
        }
        self.holder = Some(claim.to);
        Saved::Stored
    }
}

#[cfg(test)]
mod tests;
