//! Owns: holding a request back: until the server of its session can serve it, until others say where that is.
//! Invariant: bounded in time and number; let on the moment it is its turn, not at the next look.
//! Must not know: what becomes of a request that has waited in vain.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::order::Wait;
use crate::affinity::SessionRecord;
use crate::clock::{self, Deadline};
use crate::health::passive;
use crate::pool::{Backend, Grant, Pool, Waiting};

/// A request's place among those who wait for their backend, if it waits for one: from the first time
/// that it does to the end of its last attempt there.
#[derive(Default)]
pub(super) struct QueuePosition {
    place: Option<Waiter>,
    /// How long it has waited so far, if it has.
    waited: Option<Duration>,
}

struct Waiter {
    waiting: Waiting,
    turn: Option<Grant>,
}

impl QueuePosition {
    /// Waits until it is the request's turn on `backend`, or until `wait.until`; says whether it is.
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

    /// How long it has waited, if it has.
    pub(super) fn waited(&self) -> Option<Duration> {
        self.waited
    }

    /// An attempt has begun and is counted on its backend, so that the place that was kept for it is taken.
    /// The request goes on waiting if the attempt is to find out whether the backend is back.
    pub(super) fn begun(&mut self, finds_out: bool) {
        match &mut self.place {
            Some(place) if finds_out => drop(place.turn.take_if(|turn| matches!(turn, Grant::Capacity(_)))),
            place => *place = None,
        }
    }

    /// The backend at `index` can be had: all who wait for that go on.
    pub(super) fn reached(&self, pool: &Pool, index: usize) {
        let Some(place) = &self.place else { return };
        if pool.backend(index).live().is_unreachable() {
            passive::reached(pool, index, clock::now());
        }
        if let Some(Grant::Trial(trial)) = &place.turn {
            trial.reached();
        }
    }

    /// The request waits no more.
    pub(super) fn end(&mut self) {
        self.place = None;
    }
}

impl Waiter {
    /// The request waits on, after an attempt that has `failed`.
    fn again(&mut self, failed: bool) {
        let still_tries = match &mut self.turn {
            Some(Grant::Trial(trial)) if failed => trial.failed(clock::now()),
            _ => false,
        };
        if !still_tries {
            // First, or its own turn would hold it up.
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

/// The longest that other Linchpins are waited for. The store's keeper gives up sooner; this is for
/// when it can't.
const ANSWER: Duration = Duration::from_millis(500);

/// Waits for what others know of a session.
pub(super) async fn for_answer(
    limit: &Deadline,
    answer: oneshot::Receiver<Option<SessionRecord>>,
) -> Option<SessionRecord> {
    limit.set_after(ANSWER);
    let found = tokio::select! {
        answer = answer => answer.ok().flatten(),
        () = poll_fn(|cx| limit.poll(cx)) => None,
    };
    limit.clear();
    found
}
