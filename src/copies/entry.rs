//! Owns: what a store holds of one session: its state by the rules, its copy, its lifetime, and who waits for it.
//! Invariant: a copy is there exactly while the rules say that it is held; each waiting request is woken at each change.
//! Must not know: how entries are found or evicted, how a copy is given.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::fields::NewState;
use super::holder::Holder;
use super::rules::{self, BeforeRequest, Claim, Given, Known, Saved, Session, Wait};
use super::shared_state::{Fetched, SharedState};
use super::totals::Totals;
use super::version::Version;
use super::view::View;

/// What a store holds of one session.
#[derive(Debug)]
pub struct Entry {
    state: Mutex<State>,
    /// When it was last used, in seconds since the Unix epoch.
    used: AtomicU64,
    /// When a shared store was last notified of a use.
    shared_at: AtomicU64,
    /// It is among the sessions with a state.
    is_listed: AtomicBool,
    totals: Arc<Totals>,
}

#[derive(Debug)]
struct State {
    session: Session,
    copy: Option<Bytes>,
    ttl: Option<u64>,
    /// When the copy was saved, and when it expires, in seconds since the Unix epoch.
    saved_at: u64,
    expires: u64,
    /// How many servers that the session has left are being told to forget it.
    leaving: u32,
    /// Notified of the next change, if somebody waits for it.
    changed: Option<Arc<Notify>>,
}

/// The memory that an entry takes without its copy, with its places in the index and the list.
pub const ENTRY_BYTES: usize = size_of::<Entry>() + 128;

/// What a request does next.
#[derive(Debug)]
pub enum Preparation {
    /// It is sent. The value counts it until its response has come.
    Send(InFlight),
    /// The copy is given to its server.
    Give(Offer),
    /// The shared store is asked for the newest state, perhaps with the next term.
    Fetch(Fetch),
    /// It waits for this, until the future resolves, and asks again.
    Wait(Wait, OwnedNotified),
}

/// A request that was sent and has no response yet.
#[derive(Debug)]
pub struct InFlight {
    /// `None` if nothing was known of the session.
    entry: Option<Arc<Entry>>,
    claim: Claim,
    never_sent: bool,
}

/// A copy that is being given to a server. If it is dropped, the hand-over has failed.
#[derive(Debug)]
pub struct Offer {
    entry: Arc<Entry>,
    hand_over: u32,
    version: Version,
    bytes: Bytes,
    /// The server that held the session before.
    left: Option<Holder>,
    outcome: Given,
}

/// A question to the shared store. If it is dropped, another request asks again.
#[derive(Debug)]
pub struct Fetch {
    entry: Arc<Entry>,
    number: u32,
    to: Holder,
    term: u32,
    is_hand_over: bool,
    /// The answer, once the question has ended; `None` in it if the store was not reachable.
    answer: Option<Option<Fetched>>,
}

/// A server that the session has left is being told to forget it, for as long as this exists.
#[derive(Debug)]
pub struct Leaving(Arc<Entry>);

impl Entry {
    pub(super) fn new(session: Session, now: u64, lifetime: u64, totals: &Arc<Totals>) -> Entry {
        totals.add_entry(ENTRY_BYTES);
        let expires = now.saturating_add(lifetime);
        let state = State { session, copy: None, ttl: None, saved_at: 0, expires, leaving: 0, changed: None };
        Entry {
            state: Mutex::new(state),
            used: AtomicU64::new(now),
            shared_at: AtomicU64::new(now),
            is_listed: AtomicBool::new(false),
            totals: Arc::clone(totals),
        }
    }

    /// Marks it as used at `now`. Returns when it was used before.
    pub(super) fn touch(&self, now: u64) -> u64 {
        let used = self.used();
        // Most requests find it as it is, and write nothing.
        if used != now {
            self.used.store(now, Ordering::Relaxed);
        }
        used
    }

    /// Returns whether a shared store is to be notified that the session is in use, since it last was more than
    /// `interval` seconds ago.
    pub fn is_touch_due(&self, now: u64, interval: u64) -> bool {
        let is_due = now.abs_diff(self.shared_at.load(Ordering::Relaxed)) > interval;
        if is_due {
            self.shared_at.store(now, Ordering::Relaxed);
        }
        is_due
    }

    /// Notes that it is among the sessions with a state, where it stays.
    pub(super) fn set_listed(&self) {
        self.is_listed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Relaxed)
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Notes what a request's pin says of the session.
    pub fn note_pin(&self, term: u32, holder: Option<Holder>) {
        let mut state = self.lock();
        if term > state.session.term() {
            state.session.note_pin(term, holder);
            self.settle(&mut state);
        }
    }

    /// Decides what a request for the server `to` does; see [`Session::before_request`]. The request extends the life
    /// of the session, to `lifetime` seconds at most. A hand-over asks the shared store, if there is one by now.
    pub fn prepare(
        self: &Arc<Self>,
        to: Holder,
        is_alive: impl FnOnce(Holder) -> bool,
        may_wait: bool,
        is_shared: bool,
        now: u64,
        lifetime: u64,
    ) -> Preparation {
        let mut state = self.lock();
        state.session.set_shared_store(is_shared);
        if state.expires <= now {
            state.session.forget();
            self.settle(&mut state);
        }
        state.expires = now.saturating_add(state.ttl.unwrap_or(lifetime).min(lifetime));
        let left = state.session.holder().filter(|holder| *holder != to);
        match state.session.before_request(to, is_alive, may_wait) {
            BeforeRequest::Send(claim) => {
                Preparation::Send(InFlight { entry: Some(Arc::clone(self)), claim, never_sent: false })
            }
            BeforeRequest::Give { hand_over, version } => {
                // It is there, since the rules say that it is held.
                let bytes = state.copy.clone().unwrap_or_default();
                let entry = Arc::clone(self);
                Preparation::Give(Offer { entry, hand_over, version, bytes, left, outcome: Given::Unreached })
            }
            next @ (BeforeRequest::Fetch(number) | BeforeRequest::Look(number)) => {
                let (term, is_hand_over) = (state.session.term(), matches!(next, BeforeRequest::Fetch(_)));
                Preparation::Fetch(Fetch { entry: Arc::clone(self), number, to, term, is_hand_over, answer: None })
            }
            BeforeRequest::Wait(wait) => {
                let changed = Arc::clone(state.changed.get_or_insert_default());
                // From here on it is woken, polled or not.
                Preparation::Wait(wait, changed.notified_owned())
            }
        }
    }

    /// Takes the state that the response to a request brings.
    pub fn take(&self, claim: &Claim, new: NewState, now: u64, lifetime: u64) -> Saved {
        let mut state = self.lock();
        let saved = match new {
            NewState::Unchanged => return Saved::Stored,
            NewState::Save { version, ttl, bytes } => {
                let saved = state.session.saved(claim, version, false);
                if saved == Saved::Stored {
                    self.set_copy(&mut state, Some(bytes));
                    (state.ttl, state.saved_at) = (ttl, now);
                    state.expires = now.saturating_add(ttl.unwrap_or(lifetime).min(lifetime));
                }
                saved
            }
            NewState::Drop(version) => {
                let saved = state.session.saved(claim, version, true);
                if saved == Saved::Stored {
                    // A tombstone lives as long as the pin.
                    (state.ttl, state.expires) = (None, now.saturating_add(lifetime));
                }
                saved
            }
            NewState::Unusable(version, _) => state.session.not_stored(claim, version),
        };
        self.settle(&mut state);
        saved
    }

    /// Notes that the shared store has refused a state of the term `of`: it knows this `term`, of another server.
    pub fn overtaken(&self, of: u32, term: u32) {
        let mut state = self.lock();
        state.session.overtaken(of, term);
        self.settle(&mut state);
    }

    /// Returns the newest state for a shared store, with its version, its server, and how long it is still kept, in
    /// seconds. There is none while the session is handed over, and none that this process does not know itself.
    pub fn to_share(&self, now: u64) -> Option<(Version, SharedState, Holder, u64)> {
        let state = self.lock();
        let (version, is_dropped) = state.session.newest();
        let holder = state.session.holder().filter(|holder| state.session.is_given_to(*holder) || is_dropped)?;
        let left = state.expires.checked_sub(now).filter(|left| *left > 0)?;
        let shared = match &state.copy {
            _ if is_dropped => SharedState::Dropped,
            Some(bytes) => SharedState::Held(bytes.clone(), state.ttl),
            None => return None,
        };
        (version.term == state.session.term()).then_some((version, shared, holder, left))
    }

    /// Notes that a server which the session has left is being told to forget it.
    pub fn leave(self: &Arc<Self>) -> Leaving {
        self.lock().leaving += 1;
        Leaving(Arc::clone(self))
    }

    /// Returns what resolves at the next change of the session, while servers that it has left are being told to forget
    /// it.
    pub fn until_left(&self) -> Option<OwnedNotified> {
        let mut state = self.lock();
        let changed = (state.leaving > 0).then(|| Arc::clone(state.changed.get_or_insert_default()));
        changed.map(Notify::notified_owned)
    }

    /// Notes that these servers have a copy of this version: none is kept here.
    pub fn placed(&self, version: Version, replicas: Vec<Holder>) {
        let mut state = self.lock();
        state.session.placed(version, replicas);
        self.settle(&mut state);
    }

    /// Forgets the servers with a copy that are not alive.
    pub fn keep_replicas(&self, is_alive: impl Fn(Holder) -> bool) {
        self.lock().session.keep_replicas(is_alive);
    }

    /// Returns the servers that have a copy beside the holder.
    pub fn replicas(&self) -> Vec<Holder> {
        self.lock().session.replicas().to_vec()
    }

    /// Notes that the server lacks the state, and has done nothing.
    pub fn wanted(&self, claim: &Claim) {
        self.lock().session.wanted(claim);
    }

    /// Ends the session: its id was replaced.
    pub fn end(&self) {
        let mut state = self.lock();
        state.session.end();
        self.settle(&mut state);
    }

    /// Drops the copy, if there is one. Returns whether there was.
    pub(super) fn forget_copy(&self) -> bool {
        let mut state = self.lock();
        let had_copy = state.copy.is_some();
        state.session.forget();
        self.settle(&mut state);
        had_copy
    }

    /// Returns whether a state of the session is known, or was.
    pub(super) fn has_state(&self) -> bool {
        self.lock().session.newest().0.seq > 0
    }

    pub(super) fn is_expired(&self, now: u64) -> bool {
        self.lock().expires <= now
    }

    /// Returns whether `server` is the session's holder and known to have its state.
    pub fn is_given_to(&self, server: Holder) -> bool {
        self.lock().session.is_given_to(server)
    }

    /// Returns what is held.
    pub fn view(&self) -> View {
        let state = self.lock();
        let (version, dropped) = state.session.newest();
        View {
            version,
            term: state.session.term(),
            dropped,
            is_held: state.copy.is_some(),
            bytes: state.copy.as_ref().map_or(0, Bytes::len),
            saved_at: state.saved_at,
            holder: state.session.holder(),
        }
    }

    /// Returns the copy, and how long the application keeps it, in seconds.
    pub fn copy(&self) -> (Option<Bytes>, Option<u64>) {
        let state = self.lock();
        (state.copy.clone(), state.ttl)
    }

    fn set_copy(&self, state: &mut State, copy: Option<Bytes>) {
        self.totals.replace_copy(state.copy.as_ref().map(Bytes::len), copy.as_ref().map(Bytes::len));
        state.copy = copy;
    }

    /// Drops a copy that the rules no longer hold, and wakes the requests that wait for a change.
    fn settle(&self, state: &mut State) {
        if state.copy.is_some() && !state.session.is_held() {
            self.set_copy(state, None);
        }
        if let Some(changed) = state.changed.take() {
            changed.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let copy = self.lock().copy.take();
        self.totals.replace_copy(copy.as_ref().map(Bytes::len), None);
        self.totals.remove_entry(ENTRY_BYTES);
    }
}

impl InFlight {
    /// Returns a request of a session of which nothing is known but its pin.
    pub fn unknown(claim: Claim) -> InFlight {
        InFlight { entry: None, claim, never_sent: false }
    }

    /// Ends it: no byte of it reached its server.
    pub fn unsent(mut self) {
        self.never_sent = true;
    }

    /// Returns what the request tells its server.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Returns whether the session has been handed over since: what the request tells is out of date.
    pub fn is_overtaken(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.lock().session.term() != self.claim.term)
    }

    /// Returns what was known of the session.
    pub fn entry(&self) -> Option<&Arc<Entry>> {
        self.entry.as_ref()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            let mut state = entry.lock();
            match self.never_sent {
                true => state.session.unsent(&self.claim),
                false => state.session.ended(&self.claim),
            }
            entry.settle(&mut state);
        }
    }
}

impl Fetch {
    /// Returns the term that is known here.
    pub fn term(&self) -> u32 {
        self.term
    }

    /// Returns whether the store raises the term. Otherwise it only says what it knows.
    pub fn is_hand_over(&self) -> bool {
        self.is_hand_over
    }

    /// Ends it with what the shared store knows; `None` if the store was not reachable.
    pub fn end(mut self, fetched: Option<Fetched>) {
        self.answer = Some(fetched);
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.leaving = state.leaving.saturating_sub(1);
        self.0.settle(&mut state);
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let mut state = self.entry.lock();
        let Some(fetched) = self.answer.take() else {
            // The request has ended: what the store knows is still not known here.
            state.session.fetch_abandoned(self.number);
            return self.entry.settle(&mut state);
        };
        let of = |(version, state): &(Version, SharedState)| match state {
            SharedState::Held(..) => rules::Fetched::Held(*version),
            SharedState::Dropped => rules::Fetched::Dropped(*version),
            SharedState::Lost => rules::Fetched::Lost(*version),
        };
        let known = fetched.as_ref().map(|fetched| {
            let newest = fetched.newest.as_ref().map(of);
            Known { term: fetched.term, is_holder: fetched.is_holder, newest }
        });
        let is_newest = match (self.is_hand_over, known) {
            (true, Some(known)) => state.session.fetched(self.number, self.to, Some(known.term), known.newest),
            (true, None) => state.session.fetched(self.number, self.to, None, None),
            (false, known) => state.session.looked(self.number, known),
        };
        if is_newest && let Some((_, SharedState::Held(bytes, ttl))) = fetched.and_then(|fetched| fetched.newest) {
            self.entry.set_copy(&mut state, Some(bytes));
            state.ttl = ttl;
        }
        self.entry.settle(&mut state);
    }
}

impl Offer {
    /// Returns the version of the state.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the server that the session leaves, if it is known.
    pub fn left(&self) -> Option<Holder> {
        self.left
    }

    /// Returns the copy.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Ends the hand-over.
    pub fn end(mut self, outcome: Given) {
        self.outcome = outcome;
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let mut state = self.entry.lock();
        state.session.gave(self.hand_over, self.outcome);
        self.entry.settle(&mut state);
    }
}
