//! Owns: the step that keeps a session's state with its requests: what each attempt tells, gives, waits for and takes.
//! Invariant: a state is stored before its response goes on, and given before a request that needs it is sent.
//! Must not know: the rules of versions, how a copy is stored or sent.

mod elsewhere;
mod finish;
mod take;
mod wait_bound;

use std::future::poll_fn;
use std::sync::Arc;

use http::header::HeaderValue;
use http::{StatusCode, request};

use super::attempt::{self, UpstreamRequest, UpstreamResponse};
use super::bind::BindFacts;
use super::client::Client;
use super::copy_request::{CopyRequest, Role};
use super::error::ProxyError;
use super::exchange::Exchange;
use super::give::{self, GiveEnd, GiveRules};
use super::leave::{self, Departure};
use super::order::CandidateOrder;
use super::replicate::{NewCopy, is_alive};
use super::snapshot::Service;
use super::thread::ThreadState;
use crate::affinity::{Cause, Decision, SessionKey, Verdict};
use crate::clock;
use crate::copies::{
    Claim, CopyEvent, CopyOutcome, Entry, Given, Hold, Holder, InFlight, Offer, PoolCopies, Preparation, Refusal,
    Session, SessionRef, SharedLink, SharedState, Version, Wait,
};
use crate::upstream::{Fact, Failure};
use wait_bound::WaitBound;

/// The session copies of one request.
pub(super) struct RequestCopies<'a> {
    copies: &'a PoolCopies,
    service: &'a Service,
    client: &'a Client,
    session: SessionRef,
    /// The request had a pin, or an id of the application.
    is_known: bool,
    /// The request has no id of the application yet, and its response may bring one.
    is_provisional: bool,
    /// The position of the pin's backend, and the server that it means.
    pinned: Option<(usize, Option<Holder>)>,
    /// The position of the backend that the pin names as the session's replica.
    pinned_replica: Option<usize>,
    entry: Option<Arc<Entry>>,
    /// The session's server is to be waited for. No longer, if the request has failed on it.
    may_be_alive: bool,
    wait_bound: WaitBound,
    has_wanted: bool,
    /// The session has moved before the request was sent.
    has_moved: bool,
    /// The session's number in the failover order.
    number: u64,
    /// What the response brings, where other backends keep the copies.
    to_place: Option<NewCopy>,
    /// The session that ends with the response.
    ended: Option<Arc<Entry>>,
    /// The replica for the pin, if it has changed.
    replica: Option<Option<usize>>,
    outcome: CopyOutcome,
    /// The term of the last attempt.
    term: u32,
}

/// Why an attempt has no response for the client.
pub(super) enum AttemptError {
    /// It has failed; perhaps another one follows.
    Failed(Failure),
    /// The request ends.
    Ended(ProxyError),
}

/// Makes an attempt on the backend at `index`, with what belongs to the session's copy before and after it.
///
/// # Errors
/// Why it has no response for the client.
#[expect(clippy::too_many_arguments, reason = "as those of the attempt itself")]
pub(super) async fn attempt(
    copies: &mut Option<RequestCopies<'_>>,
    thread: &ThreadState,
    exchange: &Exchange,
    service: &Service,
    order: &CandidateOrder<'_>,
    request: &UpstreamRequest,
    index: usize,
    may_discard: &dyn Fn(Failure) -> bool,
) -> Result<UpstreamResponse, AttemptError> {
    loop {
        let mut in_flight = None;
        if let Some(copies) = copies {
            let prepared = match copies.begin(index) {
                Preparation::Send(in_flight) => in_flight,
                // Boxed, or each request's future would have room for what few requests do.
                next => Box::pin(copies.prepare(thread, exchange, request, index, next))
                    .await
                    .map_err(AttemptError::Failed)?,
            };
            request.set_session(copies.sends(&prepared));
            in_flight = Some(prepared);
        }
        // Ends before the next await, so that the request's future has no room for a response.
        let unfinished =
            match attempt::attempt(thread, exchange, service, order, request, index, in_flight.as_ref(), may_discard)
                .await
            {
                Ok(mut response) => {
                    // By reference: most responses are passed on at once, and to move them costs more than to look at them.
                    let next = match copies.as_mut().zip(in_flight.as_ref()) {
                        Some((copies, in_flight)) => {
                            copies.received(thread, index, in_flight, &mut response, may_discard)?
                        }
                        None => {
                            // Nobody reads it, and it is a part of the buffer that the head was read into.
                            drop(response.body_mut().take_kept_apart());
                            None
                        }
                    };
                    let Some((next, in_flight)) = next.zip(in_flight) else { return Ok(response) };
                    UnfinishedResponse { response, in_flight, next }
                }
                Err(failure) => {
                    let copies = copies.as_mut().zip(in_flight);
                    if copies.is_some_and(|(copies, in_flight)| copies.may_follow(failure, in_flight)) {
                        continue;
                    }
                    return Err(AttemptError::Failed(failure));
                }
            };
        // Boxed like the hand-over.
        if let Some(copies) = copies
            && let Some(response) =
                Box::pin(copies.finish(thread, exchange, request, index, unfinished, may_discard)).await?
        {
            return Ok(response);
        }
    }
}

/// What comes before a response is passed on.
enum BeforeResponse {
    /// The request is sent again: the backend lacks the state, and has done nothing.
    SendAgain,
    /// The response's state is put where it has to be, and the shared store is told this.
    Keep(Option<(Version, SharedState)>),
}

/// A response that is not passed on yet.
struct UnfinishedResponse {
    response: UpstreamResponse,
    /// The request counts until its state is where it has to be.
    in_flight: InFlight,
    next: BeforeResponse,
}

impl<'a> RequestCopies<'a> {
    /// Finds the session of a request, if the pool keeps copies and the request has a pin or will get one.
    pub(super) fn find(
        service: &'a Service,
        decision: &Decision,
        request: &BindFacts,
        client: &'a Client,
    ) -> Option<RequestCopies<'a>> {
        let copies = service.copies.as_ref()?;
        let key = request.key();
        let is_known = decision.has_presented_pin() || key.is_some();
        if decision.verdict == Verdict::None || (request.is_sessionless() && !is_known) {
            return None;
        }
        let session = match key {
            Some(key) => SessionRef::from_words(key.words()),
            None => client.session_cache.borrow_mut().session(service.pool.name(), decision.session),
        };
        let holder = |index: usize| {
            let is_same = decision.cause != Some(Cause::Replaced);
            (index, is_same.then(|| Holder::of(service.pool.backend(index))))
        };
        let now = clock::unix().as_secs();
        let entry = copies.store().find(session, now);
        entry.iter().for_each(|entry| copies.touch_shared(session, entry, now));
        let mut this = RequestCopies {
            copies,
            service,
            client,
            session,
            is_known,
            is_provisional: key.is_none() && service.affinity.uses_ids_of_the_application(),
            pinned: decision.pinned.map(holder),
            // What is known here is newer.
            pinned_replica: if entry.is_none() { decision.presented_replica(&service.pool) } else { None },
            entry,
            may_be_alive: !matches!(decision.cause, Some(Cause::Down | Cause::Failed)),
            wait_bound: WaitBound::default(),
            has_wanted: false,
            has_moved: false,
            number: decision.session,
            to_place: None,
            ended: None,
            replica: None,
            outcome: CopyOutcome::None,
            term: 0,
        };
        this.note_pin(decision.term());
        Some(this)
    }

    fn note_pin(&mut self, term: u32) {
        self.term = term;
        if let Some(entry) = &self.entry {
            entry.note_pin(term, self.pinned.and_then(|(_, holder)| holder));
        }
    }

    /// Returns the term of the session, for its pin.
    pub(super) fn term(&self) -> u32 {
        self.term
    }

    /// Returns the position of the session's replica for its pin, or `None` for no replica, if that has changed.
    pub(super) fn replica(&self) -> Option<Option<usize>> {
        self.replica
    }

    /// Returns what became of the copy.
    pub(super) fn outcome(&self) -> CopyOutcome {
        self.outcome
    }

    /// Notes that an attempt has failed: nobody waits for its backend's other requests of the session. If the session has
    /// moved meanwhile, its server is another one.
    pub(super) fn failed(&mut self, failure: Failure) {
        self.may_be_alive &= failure.fact == Fact::SessionMoved;
    }

    /// Begins to prepare an attempt on the backend at `index`: most have nothing to give or to wait for.
    pub(super) fn begin(&mut self, index: usize) -> Preparation {
        let to = Holder::of(self.service.pool.backend(index));
        if self.entry.is_none() {
            let stays = self.pinned.is_some_and(|(pinned, holder)| pinned == index && holder.is_some());
            // The store may have a state that the server has lost without being noticed.
            let may_be_shared = stays && self.shared().is_some_and(SharedLink::is_responsive);
            if !self.is_known || (stays && !may_be_shared) {
                return Preparation::Send(InFlight::unknown(Claim::nothing(self.term, to)));
            }
            let new = || self.new_session(self.pinned.and_then(|(_, holder)| holder));
            self.entry = Some(self.copies.store().find_or_insert(self.session, clock::unix().as_secs(), new));
        }
        if let (Some(entry), true) = (&self.entry, self.is_replicated()) {
            entry.keep_replicas(|replica| is_alive(&self.service.pool, replica));
        }
        self.ask(to, true)
    }

    /// Returns whether other backends keep the copies.
    fn is_replicated(&self) -> bool {
        self.copies.settings().hold != Hold::Balancer
    }

    /// Returns the store that several Linchpins share, if they keep the copies there.
    fn shared(&self) -> Option<&'a SharedLink> {
        self.copies.shared()
    }

    /// Makes the state of a session of which nothing is known but its pin.
    fn new_session(&self, holder: Option<Holder>) -> Session {
        if self.is_replicated() {
            let replica = self.pinned_replica.map(|index| Holder::of(self.service.pool.backend(index)));
            return Session::replicated(self.term, holder, replica);
        }
        Session::new(self.term, holder)
    }

    fn ask(&self, to: Holder, may_wait: bool) -> Preparation {
        let is_alive = |holder: Holder| self.may_be_alive && is_alive(&self.service.pool, holder);
        match &self.entry {
            Some(entry) => {
                let lifetime = self.copies.store().lifetime();
                let is_shared = self.shared().is_some();
                entry.prepare(to, is_alive, may_wait, is_shared, clock::unix().as_secs(), lifetime)
            }
            None => Preparation::Send(InFlight::unknown(Claim::nothing(self.term, to))),
        }
    }

    /// Notes that an attempt begins, and returns the field that tells its backend about the session.
    pub(super) fn sends(&mut self, in_flight: &InFlight) -> Option<HeaderValue> {
        let claim = in_flight.claim();
        self.term = claim.term;
        if self.outcome == CopyOutcome::None && claim.seq.is_some() {
            self.outcome = CopyOutcome::Held;
        }
        self.client.session_cache.borrow_mut().field(self.session, claim)
    }

    /// Returns the field that says of a copy whose it is, and which one.
    fn field_of_copy(&self, version: Version) -> Option<HeaderValue> {
        self.client.session_cache.borrow_mut().field_of_copy(self.session, version)
    }

    /// Prepares an attempt on the backend at `index` that has more to do than to be sent: waits for the session's
    /// requests elsewhere and for running hand-overs, and gives the copy.
    ///
    /// # Errors
    /// The backend could not be reached to give it the copy.
    pub(super) async fn prepare(
        &mut self,
        thread: &ThreadState,
        exchange: &Exchange,
        request: &UpstreamRequest,
        index: usize,
        mut next: Preparation,
    ) -> Result<InFlight, Failure> {
        let to = Holder::of(self.service.pool.backend(index));
        let begun = clock::now();
        let until = self.wait_bound.until(begun, self.copies.settings().handover, exchange.total_deadline());
        loop {
            match next {
                Preparation::Send(in_flight) => {
                    let now = clock::now();
                    self.copies.handed_over(thread.index, now.saturating_duration_since(begun));
                    if now >= until && in_flight.claim().seq.is_none() && self.outcome == CopyOutcome::None {
                        self.refused(thread, index, Refusal::HandOver, None);
                    }
                    return Ok(in_flight);
                }
                Preparation::Give(offer) => self.give(thread, exchange, request, index, offer).await?,
                Preparation::Fetch(fetch) => {
                    let fetched = self.fetch(exchange, index, &fetch).await;
                    if fetched.is_none() {
                        self.refused(thread, index, Refusal::SharedStore, None);
                    }
                    fetch.end(fetched);
                }
                Preparation::Wait(wait, changed) => {
                    exchange.wait_deadline().set(until);
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = poll_fn(|cx| exchange.wait_deadline().poll(cx)) => {}
                    }
                    if wait == Wait::HandOver && self.entry.as_ref().is_some_and(|entry| entry.is_given_to(to)) {
                        self.outcome = CopyOutcome::Given;
                    }
                }
            }
            next = self.ask(to, clock::now() < until);
        }
    }

    async fn give(
        &mut self,
        thread: &ThreadState,
        exchange: &Exchange,
        request: &UpstreamRequest,
        index: usize,
        offer: Offer,
    ) -> Result<(), Failure> {
        let (version, bytes, left) = (offer.version(), offer.bytes().clone(), offer.left());
        let (field, host) = (self.field_of_copy(version), request.host());
        let copy = CopyRequest { field: field.as_ref(), role: Role::Primary, bytes: Some(&bytes), host: host.as_ref() };
        let rules = GiveRules::of(exchange, self.service, self.copies.settings().handover, exchange.total_deadline());
        let end = give::give(thread, self.service, index, &copy, rules, exchange.wait_deadline()).await;
        if !matches!(end, GiveEnd::Failed(_)) {
            exchange.reached(self.service, index);
        }
        let (given, refusal) = give::judge(end);
        let left = left.filter(|_| given == Given::Taken);
        let departure = left.zip(self.entry.as_ref()).map(|(left, entry)| Departure {
            session: self.session,
            version,
            left,
            leaving: entry.leave(),
        });
        // First: nobody waits for the server that the session has left, which may hang.
        offer.end(given);
        if let (Given::Taken, Some(shared)) = (given, self.shared()) {
            // The store may know less than this process: it was flushed, or not reachable when the state was saved.
            shared.compare(self.session);
        }
        if let Some(departure) = departure {
            leave::end_at(exchange, self.service, self.copies, host.as_ref(), departure).await;
        }
        match refusal {
            None => {
                self.outcome = CopyOutcome::Given;
                self.copies.count(thread.index, CopyEvent::Give);
            }
            Some((why, status)) => self.refused(thread, index, why, status),
        }
        match end {
            GiveEnd::Failed(failure) | GiveEnd::Broken(failure) => Err(failure),
            _ => Ok(()),
        }
    }

    /// Notes that an attempt has failed before its response. Returns whether it is prepared anew, since its session was
    /// handed over while it waited for the connection: once.
    fn may_follow(&mut self, failure: Failure, in_flight: InFlight) -> bool {
        if !failure.sent {
            in_flight.unsent();
        }
        failure == Failure::new(Fact::SessionMoved, false) && !std::mem::replace(&mut self.has_moved, true)
    }

    fn refused(&mut self, thread: &ThreadState, index: usize, why: Refusal, status: Option<StatusCode>) {
        self.outcome = CopyOutcome::Refused;
        let backend = self.service.pool.backend(index);
        let status = status.map(|status| status.as_u16());
        self.copies.refused(thread.index, why, self.session, backend.name(), status);
    }
}

/// Returns the key of the application's session id in a request, if copies are kept by it and its pin has no key.
pub(super) fn key(service: &Service, head: &request::Parts) -> Option<SessionKey> {
    service.copies.as_ref()?;
    service.affinity.routed_key(&head.headers, head.uri.path(), &service.pool)
}
