//! Owns: waiting of a request: for its session's backend, for capacity on any, or for the store's answer.
//! Invariant: waiting is bounded in time and number; a request continues when it gets its grant, not at the next poll.
//! Must not know: what a request does after waiting in vain.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::error::Unserved;
use super::order::{QueueWait, Wait};
use crate::clock::{self, Deadline};
use crate::health::passive;
use crate::pool::{Backend, CapacityPermit, Grant, Pool, Waiting};

/// A request's position in the queue of its backend, from its first wait to the end of its last attempt there.
#[derive(Default)]
pub(super) struct QueuePosition {
    place: Option<Waiter>,
    /// Capacity that it was granted in the queue of its pool.
    permit: Option<CapacityPermit>,
    /// How long it has waited so far, if it has waited.
    waited: Option<Duration>,
}

struct Waiter {
    waiting: Waiting,
    turn: Option<Grant>,
}

impl QueuePosition {
    /// Waits until `backend` can take the request, or until `wait.until`. Returns whether it can.
    pub(super) async fn wait(&mut self, limit: &Deadline, backend: &Backend, wait: Wait) -> bool {
        let since = clock::now();
        match &mut self.place {
            Some(place) => place.again(wait.failed),
            None => {
                let waiting = backend.live().wait(wait.most, wait.failed, since);
                self.place = waiting.map(|waiting| Waiter { waiting, turn: None });
            }
        }
        let is_back = match &mut self.place {
            Some(place) => place.turn(limit, wait.until).await,
            None => false,
        };
        if !is_back {
            self.end();
        }
        self.waited = Some(self.waited.unwrap_or_default() + clock::now().saturating_duration_since(since));
        is_back
    }

    /// Waits until a backend of `pool` has capacity for the request, or until `wait.until`. Returns its position.
    ///
    /// # Errors
    /// Why the wait ended before that.
    pub(super) async fn queue(&mut self, limit: &Deadline, pool: &Pool, wait: &QueueWait) -> Result<usize, Unserved> {
        self.end();
        let since = clock::now();
        let mut waiting = pool.wait_for_capacity(wait.claim, &wait.tried, since).ok_or(Unserved::QueueFull)?;
        limit.set(wait.until);
        let permit = tokio::select! {
            biased;
            () = poll_fn(|cx| limit.poll(cx)) => None,
            permit = waiting.granted() => Some(permit),
        };
        let now = clock::now();
        self.waited = Some(self.waited.unwrap_or_default() + now.saturating_duration_since(since));
        let permit = permit.filter(|_| now < wait.until);
        let index = permit.as_ref().and_then(|permit| pool.position_of(permit.live())).ok_or(Unserved::QueueTimeout);
        self.permit = permit;
        index
    }

    /// Returns how long the request has waited, if it has waited.
    pub(super) fn waited(&self) -> Option<Duration> {
        self.waited
    }

    /// Notes that an attempt has begun and counts as in flight, so the queue need not reserve capacity any more. With
    /// `finds_out`, the request keeps its position: the attempt finds out whether the backend is available.
    pub(super) fn begun(&mut self, finds_out: bool) {
        self.permit = None;
        match &mut self.place {
            Some(place) if finds_out => drop(place.turn.take_if(|turn| matches!(turn, Grant::Capacity(_)))),
            place => *place = None,
        }
    }

    /// Notes that the backend at `index` accepts connections: all requests that wait for it continue.
    pub(super) fn reached(&self, pool: &Pool, index: usize) {
        let Some(place) = &self.place else { return };
        if pool.backend(index).live().is_unreachable() {
            passive::reached(pool, index, clock::now());
        }
        if let Some(Grant::Trial(trial)) = &place.turn {
            trial.reached();
        }
    }

    /// Ends the wait.
    pub(super) fn end(&mut self) {
        self.place = None;
        self.permit = None;
    }
}

impl Waiter {
    /// Queues the request again; `failed` says whether its attempt failed.
    fn again(&mut self, failed: bool) {
        let still_tries = match &mut self.turn {
            Some(Grant::Trial(trial)) if failed => trial.failed(clock::now()),
            _ => false,
        };
        if !still_tries {
            // First, or its own grant would delay it.
            self.turn = None;
            self.waiting.again(failed, clock::now());
        }
    }

    async fn turn(&mut self, limit: &Deadline, end: Instant) -> bool {
        loop {
            let due = match &self.turn {
                Some(Grant::Capacity(_)) => return clock::now() < end,
                Some(Grant::Trial(trial)) => trial.due(),
                None => {
                    limit.set(end);
                    tokio::select! {
                        biased;
                        () = poll_fn(|cx| limit.poll(cx)) => return false,
                        turn = self.waiting.granted() => self.turn = Some(turn),
                    }
                    continue;
                }
            };
            if due > clock::now() {
                limit.set(due.min(end));
                poll_fn(|cx| limit.poll(cx)).await;
            }
            match &self.turn {
                _ if clock::now() >= end => return false,
                Some(Grant::Trial(trial)) if !trial.may_try() => self.again(false),
                _ => return true,
            }
        }
    }
}

/// The longest wait for the store's answer. The task that asks the store times out sooner; this is the fallback.
const ANSWER: Duration = Duration::from_millis(500);

/// Waits for the answer of a store about a session.
pub(super) async fn for_answer<T>(limit: &Deadline, answer: oneshot::Receiver<Option<T>>) -> Option<T> {
    limit.set_after(ANSWER);
    let found = tokio::select! {
        answer = answer => answer.ok().flatten(),
        () = poll_fn(|cx| limit.poll(cx)) => None,
    };
    limit.clear();
    found
}
