//! Owns: the session that a request belongs to, for as long as the request is in flight: what counts it on its backend.
//! Invariant: each begin has its end, on the same backend, whatever becomes of the request.
//! Must not know: how sessions are counted, or why one moves.

use super::snapshot::Service;
use crate::affinity::decide::has_other;
use crate::affinity::{Decision, SessionEffect, Verdict};
use crate::clock;
use crate::pool::sessions::SessionOfPin;

/// The session of a request on a backend of its pool.
#[derive(Debug, Default)]
pub(super) struct SessionUse {
    /// The position of the backend, and the session.
    current: Option<(usize, u64)>,
}

impl SessionUse {
    /// Begins with the session of the pin that the request follows, if it follows one. If the backend releases the session,
    /// the request goes elsewhere.
    pub(super) fn begin(&mut self, service: &Service, decision: &mut Decision, thread: usize) {
        let (Verdict::Hit, Some(index)) = (decision.verdict, decision.target()) else { return };
        let live = service.pool.backend(index).live();
        let Some(rule) = live.draining().rule() else {
            self.begin_on(service, index, decision.session, decision.issued, thread);
            return;
        };
        let (now, lifetime) = (clock::unix_millis(), service.affinity.session_lifetime());
        let session = SessionOfPin { id: decision.session, issued: decision.issued, seen: decision.pin_seen() };
        let leaves = |activity| rule.releases(session.id, activity, now) && has_other(&service.pool, index);
        if live.sessions().begin_unless_released(thread, session, now, lifetime, leaves) {
            decision.release(&service.affinity.session_policy().policies);
        } else {
            self.current = Some((index, session.id));
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
