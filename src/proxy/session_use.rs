//! Owns: the session that a request belongs to, for as long as the request is in flight: what counts it on its backend.
//! Invariant: each begin has its end, on the same backend, whatever becomes of the request.
//! Must not know: how sessions are counted, or why one moves.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::snapshot::Service;
use crate::affinity::decide::has_other;
use crate::affinity::{Decision, SessionEffect, Verdict};
use crate::clock;
use crate::pool::rebalancing::Rebalancing;
use crate::pool::release::SessionActivity;
use crate::pool::sessions::SessionOfPin;
use crate::pool::{Live, Pool};

/// The session of a request on a backend of its pool.
#[derive(Debug, Default)]
pub(super) struct SessionUse {
    /// The position of the backend, and the session.
    current: Option<(usize, u64)>,
}

impl SessionUse {
    /// Begins with the session of the pin that the request follows, if it follows one. If the backend releases the session,
    /// or gives it up to one with fewer sessions, the request goes elsewhere.
    pub(super) fn begin(&mut self, service: &Service, decision: &mut Decision, thread: usize) {
        let (Verdict::Hit, Some(index)) = (decision.verdict, decision.target()) else { return };
        let live = service.pool.backend(index).live();
        let (rule, rebalancing) = (live.draining().rule(), live.rebalancing());
        if rule.is_none() && !rebalancing.is_active() {
            self.begin_on(service, index, decision.session, decision.issued, thread);
            return;
        }
        let (now, lifetime) = (clock::unix_millis(), service.affinity.session_lifetime());
        let session = SessionOfPin { id: decision.session, issued: decision.issued, seen: decision.pin_seen() };
        let mut goes_to = None;
        let leaves = |activity| {
            let is_released = rule.is_some_and(|rule| rule.releases(session.id, activity, now));
            let is_released = is_released && has_other(&service.pool, index);
            if !is_released {
                goes_to = rebalanced(&service.pool, rebalancing, session.id, activity);
            }
            is_released || goes_to.is_some()
        };
        if !live.sessions().begin_unless_released(thread, session, now, lifetime, leaves) {
            self.current = Some((index, session.id));
        } else if let Some(to) = goes_to {
            decision.rebalance_to(to);
        } else {
            decision.release(&service.pool, &service.affinity.session_policy().policies);
        }
    }

    /// Notes whether the application says, in the response of the backend at position `index`, that the session may be
    /// moved now.
    pub(super) fn offered(service: &Service, decision: &Decision, headers: &HeaderMap, index: usize) {
        let rebalancing = service.pool.backend(index).live().rebalancing();
        if rebalancing.is_active() && decision.counts_as_session() && headers.get(RELEASE).is_some_and(is_true) {
            rebalancing.offer(decision.session);
        }
    }

    /// Goes on with what the response of the backend at position `index` means for the session.
    pub(super) fn served(
        &mut self,
        service: &Service,
        decision: &Decision,
        effect: SessionEffect,
        index: usize,
        thread: usize,
    ) {
        let lifetime = service.affinity.session_lifetime();
        let leave = |index: usize, session: u64| {
            service.pool.backend(index).live().sessions().leave(thread, session, clock::unix_millis(), lifetime);
        };
        if let Some(session) = effect.held
            && self.current != Some((index, session))
        {
            self.end(service, thread);
            self.begin_on(service, index, session, decision.issued, thread);
            if decision.verdict != Verdict::Hit || effect.ended.is_some() {
                service.pool.backend(index).live().sessions().count_new(thread);
            }
        }
        // It may be in flight there on other connections.
        if let (Verdict::Moved, Some(former)) = (decision.verdict, decision.pinned)
            && former != index
            && effect.held.is_some()
        {
            leave(former, decision.session);
        }
        if let Some(session) = effect.ended {
            leave(decision.pinned.filter(|_| decision.verdict == Verdict::Borrowed).unwrap_or(index), session);
        }
    }

    /// Ends it, where there is one.
    pub(super) fn end(&mut self, service: &Service, thread: usize) {
        if let Some((index, session)) = self.current.take() {
            service.pool.backend(index).live().sessions().end(thread, session, clock::unix_millis());
        }
    }

    fn begin_on(&mut self, service: &Service, index: usize, session: u64, issued: u64, thread: usize) {
        let (sessions, lifetime) = (service.pool.backend(index).live().sessions(), service.affinity.session_lifetime());
        sessions.begin(thread, session, issued, clock::unix_millis(), lifetime);
        self.current = Some((index, session));
    }
}

/// `Linchpin-Release: ?1`.
const RELEASE: HeaderName = HeaderName::from_static("linchpin-release");

/// Returns whether the value of a field is the boolean true (RFC 9651 §3.3.6), whatever its parameters.
fn is_true(value: &HeaderValue) -> bool {
    let item = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    item.trim_ascii() == b"?1"
}

/// Returns the position of the backend to which a session moves so that the load evens out, if it moves.
fn rebalanced(pool: &Pool, rebalancing: &Rebalancing, session: u64, activity: SessionActivity) -> Option<usize> {
    let to = match activity {
        // Another of its requests was faster.
        SessionActivity { has_left: true, .. } => rebalancing.left_for(session),
        SessionActivity { is_in_flight: true, .. } => None,
        SessionActivity { idle, .. } => rebalancing.leaves(session, idle),
    }?;
    let accepts = |live: &Live| live.id() == to && live.accepts_new().is_ok();
    pool.backends().iter().position(|backend| accepts(backend.live()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_boolean_true_offers_a_session() {
        for (value, expected) in
            [("?1", true), (" ?1 ", true), ("?1; a=1", true), ("?0", false), ("1", false), ("", false)]
        {
            assert_eq!(is_true(&HeaderValue::from_static(value)), expected, "{value}");
        }
    }
}
