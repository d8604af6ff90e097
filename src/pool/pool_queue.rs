//! Owns: the order of requests that wait because all backends of their pool are full.
//! Invariant: sessions come before new clients, then first in, first out; capacity goes to a request that can use it.
//! Must not know: threads, wake-ups; when a backend has capacity.

use std::collections::VecDeque;

/// The requests that wait for capacity on any backend of a pool: a pure state machine, which decides which one gets it.
/// `W` notifies a request.
#[derive(Debug)]
pub struct PoolQueue<W> {
    waiters: VecDeque<Waiter<W>>,
    next_id: u64,
}

#[derive(Debug)]
struct Waiter<W> {
    id: u64,
    claim: Claim,
    notifier: W,
}

/// What a waiting request has a claim to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The backend with this live id, which holds the request's session: it comes first there. Elsewhere it comes last,
    /// since it would leave its session behind.
    Own(usize),
    /// Any backend: the one that holds the request's session can't serve it.
    Moving,
    /// Any backend: the client is new.
    New,
}

impl Claim {
    const LAST_RANK: u8 = 3;

    /// Returns whether the request begins a session on the backend with this live id, or brings one along.
    pub fn adds_session(self, backend: usize) -> bool {
        self != Claim::Own(backend)
    }

    /// Returns the rank for capacity on the backend with this live id: lower ranks come first.
    fn rank(self, backend: usize) -> u8 {
        match self {
            Claim::Own(own) if own == backend => 0,
            Claim::Moving => 1,
            Claim::New => 2,
            Claim::Own(_) => Self::LAST_RANK,
        }
    }
}

impl<W> Default for PoolQueue<W> {
    fn default() -> Self {
        PoolQueue { waiters: VecDeque::new(), next_id: 0 }
    }
}

impl<W> PoolQueue<W> {
    /// Adds a request at the end. Returns its id.
    pub fn join(&mut self, claim: Claim, notifier: W) -> u64 {
        self.next_id += 1;
        self.waiters.push_back(Waiter { id: self.next_id, claim, notifier });
        self.next_id
    }

    /// Removes a request, if it still waits. Returns its claim.
    pub fn leave(&mut self, id: u64) -> Option<Claim> {
        let at = self.waiters.iter().position(|waiter| waiter.id == id)?;
        self.waiters.remove(at).map(|waiter| waiter.claim)
    }

    /// Removes and returns the request that gets capacity on the backend with this live id: the first one of the lowest
    /// rank. With `adds_sessions`, the backend accepts sessions that it doesn't have. `may_use` says whether a request
    /// may go there.
    pub fn next(&mut self, backend: usize, adds_sessions: bool, may_use: impl Fn(&W) -> bool) -> Option<(W, Claim)> {
        let fits = |waiter: &&Waiter<W>| adds_sessions || !waiter.claim.adds_session(backend);
        let first = |rank: u8| {
            let mut waiters = self.waiters.iter();
            waiters.position(|waiter| waiter.claim.rank(backend) == rank && fits(&waiter) && may_use(&waiter.notifier))
        };
        let at = (0..=Claim::LAST_RANK).find_map(first)?;
        self.waiters.remove(at).map(|waiter| (waiter.notifier, waiter.claim))
    }

    /// Counts the requests that wait.
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Returns whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn queue(claims: &[Claim]) -> PoolQueue<usize> {
        let mut queue = PoolQueue::default();
        for (number, claim) in claims.iter().enumerate() {
            queue.join(*claim, number);
        }
        queue
    }

    fn order(queue: &mut PoolQueue<usize>, backend: usize) -> Vec<usize> {
        std::iter::from_fn(|| queue.next(backend, true, |_| true)).map(|(number, _)| number).collect()
    }

    #[test]
    fn a_backends_own_sessions_come_first_then_homeless_ones_then_new_clients_then_those_of_other_backends() {
        let claims = [Claim::New, Claim::Own(2), Claim::New, Claim::Own(1), Claim::Moving, Claim::Own(1)];
        assert_eq!(order(&mut queue(&claims), 1), [3, 5, 4, 0, 2, 1]);
        assert_eq!(order(&mut queue(&claims), 2), [1, 4, 0, 2, 3, 5]);
    }

    #[test]
    fn a_backend_that_takes_no_sessions_serves_only_its_own_and_nobody_gets_what_it_cannot_use() {
        let mut queue = queue(&[Claim::New, Claim::Moving, Claim::Own(2), Claim::Own(1)]);
        assert_eq!(queue.next(1, false, |_| true), Some((3, Claim::Own(1))));
        assert_eq!(queue.next(1, false, |_| true), None);
        assert_eq!(queue.next(1, true, |number| *number == 0), Some((0, Claim::New)));
        assert_eq!((queue.leave(2), queue.leave(2), queue.len()), (Some(Claim::Moving), None, 2 - 1));
    }

    fn claim() -> impl Strategy<Value = Claim> {
        prop_oneof![(0usize..3).prop_map(Claim::Own), Just(Claim::Moving), Just(Claim::New)]
    }

    proptest! {
        #[test]
        fn no_order_of_events_overtakes_within_a_claim_serves_twice_or_forgets_a_request(
            events in proptest::collection::vec((0u8..4, claim(), 0usize..3), 1..200)
        ) {
            let mut queue = PoolQueue::default();
            // All that wait: the number, its id and its claim, in the order of arrival.
            let mut waiting: Vec<(usize, u64, Claim)> = Vec::new();
            for (number, (event, claim, backend)) in events.into_iter().enumerate() {
                match event {
                    0 | 1 => waiting.push((number, queue.join(claim, number), claim)),
                    2 if !waiting.is_empty() => {
                        let (_, id, claim) = waiting.remove(number % waiting.len());
                        prop_assert_eq!(queue.leave(id), Some(claim));
                    }
                    _ => match queue.next(backend, true, |_| true) {
                        None => prop_assert!(waiting.is_empty(), "capacity for nobody, though some wait"),
                        Some((served, claim)) => {
                            let at = waiting.iter().position(|(number, ..)| *number == served).unwrap();
                            prop_assert!(waiting[..at].iter().all(|(.., other)| *other != claim));
                            prop_assert!(waiting.iter().all(|(.., other)| claim.rank(backend) <= other.rank(backend)));
                            waiting.remove(at);
                        }
                    },
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (waiting.len(), waiting.is_empty()));
            }
        }
    }
}
