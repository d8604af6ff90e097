//! Owns: what a response says about its session, and what becomes of that in the embedded store.
//! Invariant: a response whose state is of a former term is not passed on.
//! Must not know: attempts, how a state is stored elsewhere.

use std::sync::Arc;

use http::header::HeaderMap;

use super::super::error::ProxyError;
use super::super::replicate::NewCopy;
use super::super::thread::ThreadState;
use super::RequestCopies;
use crate::clock;
use crate::copies::{Claim, CopyEvent, InFlight, NewState, Refusal, Saved, SessionRef, SharedState, Version, fields};

impl RequestCopies<'_> {
    /// Takes what the response of the backend at `index` says about the session. Returns what the shared store has to
    /// know of it before the response goes on. `kept_apart` is the field with the state, if it is not among `headers`.
    ///
    /// # Errors
    /// The response must not reach the client.
    pub(super) fn take(
        &mut self,
        thread: &ThreadState,
        index: usize,
        in_flight: &InFlight,
        headers: &HeaderMap,
        kept_apart: Option<&[u8]>,
    ) -> Result<Option<(Version, SharedState)>, ProxyError> {
        let new = fields::new_state(headers, kept_apart, self.copies.settings().max);
        // A state belongs to the session that the client has after this response: an application may issue another id,
        // which makes the former one worthless.
        let affinity = &self.service.affinity;
        let issued = match affinity.uses_ids_of_the_application() {
            true => affinity.issued_key(headers, &self.service.pool, clock::unix().as_secs()),
            false => None,
        };
        if let Some(issued) = issued.map(|key| SessionRef::from_words(key.words())).filter(|new| *new != self.session) {
            if let (Some(entry), false) = (&self.entry, self.is_provisional) {
                let known = entry.view();
                if known.term > in_flight.claim().term && !known.dropped {
                    // A late response ends no session that another server has meanwhile.
                    self.refused(thread, index, Refusal::StaleTerm, None);
                    return Err(ProxyError::Fenced);
                }
                entry.end();
                self.ended = Some(Arc::clone(entry));
                if let Some(shared) = self.shared() {
                    // The save of the new session follows on the same connection, and is waited for.
                    let server = self.service.pool.backend(index).name();
                    drop(shared.save(self.session, entry.view().version, server, SharedState::Dropped));
                }
            }
            (self.session, self.is_provisional) = (issued, false);
            self.entry = self.copies.store().find(issued, clock::unix().as_secs());
            if self.entry.as_ref().is_some_and(|entry| entry.view().term > in_flight.claim().term) {
                // The id is in use already, by requests that know more than this one.
                self.refused(thread, index, Refusal::StaleSeq, None);
                return Ok(None);
            }
        }
        self.store(index, in_flight.claim(), new, thread)
    }

    fn store(
        &mut self,
        index: usize,
        claim: &Claim,
        new: NewState,
        thread: &ThreadState,
    ) -> Result<Option<(Version, SharedState)>, ProxyError> {
        let (event, defect) = match &new {
            NewState::Unchanged => return Ok(None),
            NewState::Save { .. } => (CopyEvent::Save, None),
            NewState::Drop(_) => (CopyEvent::Drop, None),
            NewState::Unusable(_, defect) => (CopyEvent::Save, Some(*defect)),
        };
        // Only here: most responses bring nothing, and need no clock.
        let now = clock::unix().as_secs();
        // What can't be stored needs no place, unless it voids something.
        let place = match (&self.entry, defect) {
            (Some(entry), _) => Some(Arc::clone(entry)),
            (None, Some(_)) => None,
            (None, None) => {
                let new = || self.new_session(Some(claim.to));
                Some(self.copies.store().find_or_insert(self.session, now, new))
            }
        };
        let shared = self.shared().map(|_| SharedState::of(&new, claim.term));
        let (copy, known) = match &place {
            Some(entry) if self.is_replicated() && defect.is_none() => (NewCopy::of(&new), entry.replicas()),
            _ => (None, Vec::new()),
        };
        let saved =
            place.as_ref().map_or(Saved::Stored, |entry| entry.take(claim, new, now, self.copies.store().lifetime()));
        self.to_place = copy.filter(|_| saved == Saved::Stored).map(|copy| NewCopy { known, ..copy });
        self.entry = place.or(self.entry.take());
        self.copies.store().stored(self.session, self.entry.as_deref());
        match (saved, defect) {
            (Saved::Stored, None) => {
                self.copies.count(thread.index, event);
                if event == CopyEvent::Drop {
                    self.ended = self.entry.clone();
                }
                Ok(shared)
            }
            (Saved::Stored, Some(defect)) => {
                self.refused(thread, index, defect.into(), None);
                if !self.copies.settings().required {
                    return Ok(shared);
                }
                if let (Some(link), Some((version, state))) = (self.shared(), shared) {
                    drop(link.save(self.session, version, self.service.pool.backend(index).name(), state));
                }
                Err(ProxyError::NotCopied)
            }
            (Saved::Stale, _) => {
                self.refused(thread, index, Refusal::StaleSeq, None);
                Ok(None)
            }
            (Saved::Fenced, _) => {
                self.refused(thread, index, Refusal::StaleTerm, None);
                Err(ProxyError::Fenced)
            }
        }
    }
}
