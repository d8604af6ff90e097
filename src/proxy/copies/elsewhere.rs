//! Owns: the copies of a request's session that are not in this Linchpin: in a shared store, or on other backends.
//! Invariant: a state is there before the response that brings it goes on, or the response says so by its outcome.
//! Must not know: the rules of versions, what the session's own backend gets.

use std::future::poll_fn;

use super::super::attempt::UpstreamRequest;
use super::super::error::ProxyError;
use super::super::exchange::Exchange;
use super::super::replicate::{self, NewCopy, Placed, Placement};
use super::super::thread::ThreadState;
use super::super::wait;
use super::RequestCopies;
use crate::clock;
use crate::copies::{Fetch, Fetched, Refusal, SharedSaved, SharedState, Version};

impl RequestCopies<'_> {
    /// Asks the shared store for the newest state, perhaps with the term of a hand-over to the backend at `index`.
    pub(super) async fn fetch(&self, exchange: &Exchange, index: usize, fetch: &Fetch) -> Option<Fetched> {
        let server = self.service.pool.backend(index).name();
        let shared = self.shared()?;
        let answer = match fetch.is_hand_over() {
            true => shared.hand_over(self.session, fetch.term(), server)?,
            false => shared.look(self.session, server)?,
        };
        wait::for_answer(exchange.wait_deadline(), answer).await
    }

    /// Waits until the servers that the session has left have forgotten it, for as long as a hand-over may take: the client
    /// learns that its session has ended when that is true everywhere.
    pub(super) async fn wait_until_left(&mut self, exchange: &Exchange) {
        let Some(entry) = self.ended.take() else { return };
        let until = clock::now() + self.copies.settings().handover;
        exchange.wait_deadline().set(until.min(exchange.total_deadline()));
        while let Some(changed) = entry.until_left() {
            tokio::select! {
                biased;
                () = changed => {}
                () = poll_fn(|cx| exchange.wait_deadline().poll(cx)) => break,
            }
        }
        exchange.wait_deadline().clear();
    }

    /// Stores a state in the shared store, before the response goes on.
    ///
    /// # Errors
    /// The response must not reach the client.
    pub(super) async fn share(
        &mut self,
        thread: &ThreadState,
        exchange: &Exchange,
        index: usize,
        (version, state): (Version, SharedState),
    ) -> Result<(), ProxyError> {
        let server = self.service.pool.backend(index).name();
        let answer = self.shared().and_then(|shared| shared.save(self.session, version, server, state));
        let saved = match answer {
            Some(answer) => wait::for_answer(exchange.wait_deadline(), answer).await,
            None => None,
        };
        match saved {
            Some(SharedSaved::Stored) => Ok(()),
            Some(SharedSaved::Stale) => {
                self.refused(thread, index, Refusal::StaleSeq, None);
                Ok(())
            }
            Some(SharedSaved::Fenced(term)) => {
                // Another Linchpin has handed the session over.
                self.entry.iter().for_each(|entry| entry.overtaken(version.term, term));
                self.refused(thread, index, Refusal::StaleTerm, None);
                Err(ProxyError::Fenced)
            }
            None => {
                self.refused(thread, index, Refusal::SharedStore, None);
                if self.copies.settings().required { Err(ProxyError::NotCopied) } else { Ok(()) }
            }
        }
    }

    /// Places a new state on other backends, before the response that brings it is passed on.
    ///
    /// # Errors
    /// No backend took it, and the pool requires that one does.
    pub(super) async fn place(
        &mut self,
        thread: &ThreadState,
        exchange: &Exchange,
        request: &UpstreamRequest,
        index: usize,
        copy: NewCopy,
    ) -> Result<(), ProxyError> {
        let NewCopy { version, bytes, known } = copy;
        let (field, host) = (self.field_of_copy(version), request.host());
        let placement = Placement {
            copies: self.copies,
            session: self.session,
            number: self.number,
            holder: index,
            field: field.as_ref(),
            bytes: bytes.as_ref(),
            known: &known,
            host: host.as_ref(),
        };
        let Placed { first, replicas } = replicate::place(thread, exchange, self.service, &placement).await;
        self.replica = Some(first);
        if bytes.is_none() {
            return Ok(());
        }
        if first.is_none() {
            self.refused(thread, index, Refusal::NotPlaced, None);
            return if self.copies.settings().required { Err(ProxyError::NotCopied) } else { Ok(()) };
        }
        if let Some(entry) = &self.entry {
            entry.placed(version, replicas);
        }
        Ok(())
    }
}
