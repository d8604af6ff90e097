//! Owns: what becomes of a backend's response before it is passed on.
//! Invariant: it is passed on once its state is where it has to be, and not at all if its session has moved.
//! Must not know: what its state is, where states are stored.

use super::super::attempt::{UpstreamRequest, UpstreamResponse};
use super::super::error::ProxyError;
use super::super::exchange::Exchange;
use super::super::give;
use super::super::thread::ThreadState;
use super::{AttemptError, BeforeResponse, RequestCopies, UnfinishedResponse};
use crate::copies::{CopyEvent, InFlight, Refusal, fields};
use crate::upstream::{Fact, Failure, PoolKey};

impl RequestCopies<'_> {
    /// Takes what a response of the backend at `index` says. Returns what comes before it is passed on, if anything does.
    ///
    /// # Errors
    /// The response must not reach the client.
    pub(super) fn received(
        &mut self,
        thread: &ThreadState,
        index: usize,
        in_flight: &InFlight,
        response: &mut UpstreamResponse,
        may_discard: &dyn Fn(Failure) -> bool,
    ) -> Result<Option<BeforeResponse>, AttemptError> {
        if fields::is_wanted(response.status(), response.headers()) {
            return Ok(Some(BeforeResponse::SendAgain));
        }
        let kept_apart = response.body_mut().take_kept_apart();
        let taken = self.take(thread, index, in_flight, response.headers(), kept_apart.as_deref());
        let shared = taken.map_err(|error| refused_response(error, may_discard))?;
        let has_more = shared.is_some() || self.ended.is_some() || self.to_place.is_some();
        Ok(has_more.then_some(BeforeResponse::Keep(shared)))
    }

    /// Does what has to be done before a response is passed on, and returns it. Returns `None` if the request is sent again.
    ///
    /// # Errors
    /// The response must not reach the client, or the request can't be sent again.
    pub(super) async fn finish(
        &mut self,
        thread: &ThreadState,
        exchange: &Exchange,
        request: &UpstreamRequest,
        index: usize,
        unfinished: UnfinishedResponse,
        may_discard: &dyn Fn(Failure) -> bool,
    ) -> Result<Option<UpstreamResponse>, AttemptError> {
        let UnfinishedResponse { response, in_flight, next } = unfinished;
        // Boxed: a save that is placed on another backend, which is most of them, needs none of the three.
        let shared = match next {
            BeforeResponse::SendAgain => {
                Box::pin(self.wanted(thread, exchange, request, index, in_flight, response)).await?;
                return Ok(None);
            }
            BeforeResponse::Keep(shared) => shared,
        };
        if self.ended.is_some() {
            Box::pin(self.wait_until_left(exchange)).await;
        }
        if let Some(shared) = shared {
            let stored = Box::pin(self.share(thread, exchange, index, shared)).await;
            stored.map_err(|error| refused_response(error, may_discard))?;
        }
        if let Some(copy) = self.to_place.take() {
            self.place(thread, exchange, request, index, copy).await.map_err(AttemptError::Ended)?;
        }
        Ok(Some(response))
    }

    /// Notes that the backend lacks the state and has done nothing, and keeps the connection. The request is sent again.
    ///
    /// # Errors
    /// The request can't be sent again.
    async fn wanted(
        &mut self,
        thread: &ThreadState,
        exchange: &Exchange,
        request: &UpstreamRequest,
        index: usize,
        in_flight: InFlight,
        response: UpstreamResponse,
    ) -> Result<(), AttemptError> {
        self.copies.count(thread.index, CopyEvent::Want);
        let claim = *in_flight.claim();
        drop(in_flight);
        if let Some(entry) = &self.entry {
            entry.wanted(&claim);
        }
        if std::mem::replace(&mut self.has_wanted, true) {
            self.refused(thread, index, Refusal::WantedTwice, None);
            return Err(AttemptError::Ended(ProxyError::WantedTwice));
        }
        if !request.is_replayable() {
            self.refused(thread, index, Refusal::BodyNotKept, None);
            return Err(AttemptError::Ended(ProxyError::BodyNotKept));
        }
        let backend = self.service.pool.backend(index);
        let key = PoolKey { client: exchange.identity().client(), http1: false };
        give::release(thread, self.service, backend, key, response.into_body()).await;
        if self.entry.as_ref().is_some_and(|entry| !entry.replicas().is_empty()) {
            // Another backend has the state, and Linchpin does not: the request goes there.
            return Err(AttemptError::Failed(Failure::new(Fact::Lost, false)));
        }
        Ok(())
    }
}

/// Returns what follows if a response must not reach the client: a late one of a session that has moved is like one that
/// died with its server, since nothing of it has reached the client.
fn refused_response(error: ProxyError, may_discard: &dyn Fn(Failure) -> bool) -> AttemptError {
    let moved = Failure::new(Fact::SessionMoved, true);
    match error {
        ProxyError::Fenced if may_discard(moved) => AttemptError::Failed(moved),
        error => AttemptError::Ended(error),
    }
}
