//! Owns: the queue of requests that wait for one backend, and the order of their grants.
//! Invariant: first in, first out; a grant goes to one request, and to the next if that one leaves.
//! Must not know: requests, pools; why a backend is unavailable or available.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time between two attempts of waiting requests on a backend that is unavailable.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The requests that wait for a backend: a pure state machine, which decides which one gets the next grant. `W`
/// notifies a request.
///
/// After an attempt of a waiting request has failed, the queue is held: only one request tries, every
/// [`RETRY_INTERVAL`], and the others wait for its result (the half-open state of a circuit breaker). A sign that the
/// backend is healthy opens the queue.
#[derive(Debug)]
pub struct Queue<W> {
    waiters: VecDeque<(u64, W)>,
    next_id: u64,
    held: Option<Held>,
    /// Capacity that is granted to requests which are not counted as in flight yet.
    reserved: u32,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    /// Distinguishes the trial of this hold from that of an earlier one.
    id: u64,
    due: Instant,
    is_tried: bool,
}

/// What a waiting request is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueGrant {
    /// Capacity on the backend, which counts as used from now on.
    Capacity,
    /// The trial: it is the one request that tries whether the backend is available.
    Trial(TrialSlot),
}

/// The right to try whether a backend is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrialSlot {
    id: u64,
    /// The time before which it may not try.
    pub due: Instant,
}

/// What the backend can accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Availability {
    /// How many more requests it accepts: 0 while it is unavailable or full.
    pub free: u32,
    /// Whether a request may try it although it is not known to be available.
    pub may_try: bool,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Queue { waiters: VecDeque::new(), next_id: 0, held: None, reserved: 0 }
    }
}

impl<W> Queue<W> {
    /// Adds a request at the end, or at the front if it has `waited` already. Returns its id.
    pub fn join(&mut self, waiter: W, waited: bool) -> u64 {
        self.next_id += 1;
        let entry = (self.next_id, waiter);
        if waited {
            self.waiters.push_front(entry)
        } else {
            self.waiters.push_back(entry)
        }
        self.next_id
    }

    /// Removes a request.
    pub fn leave(&mut self, id: u64) {
        self.waiters.retain(|(other, _)| *other != id);
        self.forget();
    }

    /// Holds the queue because the backend is unavailable. The next trial is due at `due`.
    pub fn hold(&mut self, due: Instant) {
        match &mut self.held {
            Some(held) if held.is_tried => {}
            Some(held) => held.due = held.due.max(due),
            None => {
                self.next_id += 1;
                self.held = Some(Held { id: self.next_id, due, is_tried: false });
            }
        }
    }

    /// Opens the queue because the backend has shown that it is healthy.
    pub fn open(&mut self) {
        self.held = None;
    }

    /// Records that the trial has failed at `now`. Returns the next trial, due later; `None` if the queue was opened
    /// meanwhile: then the request waits like all others.
    pub fn failed(&mut self, trial: TrialSlot, now: Instant) -> Option<TrialSlot> {
        let held = self.held.as_mut().filter(|held| held.id == trial.id)?;
        held.due = now + RETRY_INTERVAL;
        Some(TrialSlot { due: held.due, ..trial })
    }

    /// Gives the trial up, for another request to get it.
    pub fn give_up(&mut self, trial: TrialSlot) {
        if let Some(held) = self.held.as_mut().filter(|held| held.id == trial.id) {
            held.is_tried = false;
        }
        self.forget();
    }

    /// Ends a hold without a trial once no request waits.
    fn forget(&mut self) {
        if self.waiters.is_empty() {
            self.held.take_if(|held| !held.is_tried);
        }
    }

    /// Returns whether there is capacity that none of these requests can have, so that it may go to others.
    pub fn has_spare(&self, available: Availability) -> bool {
        self.held.is_none() && self.waiters.is_empty() && self.reserved < available.free
    }

    /// Grants capacity to a request of another queue.
    pub fn reserve(&mut self) {
        self.reserved += 1;
    }

    /// Ends a reservation: its request is counted as in flight, or has left.
    pub fn release(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// Returns the next request that gets a grant, and its grant. `available` doesn't count what is
    /// [`Queue::reserved`].
    pub fn next_grant(&mut self, available: Availability) -> Option<(W, QueueGrant)> {
        match &mut self.held {
            None if self.reserved < available.free => {
                let (_, waiter) = self.waiters.pop_front()?;
                self.reserved += 1;
                Some((waiter, QueueGrant::Capacity))
            }
            Some(held) if !held.is_tried && available.may_try => {
                let (_, waiter) = self.waiters.pop_front()?;
                held.is_tried = true;
                Some((waiter, QueueGrant::Trial(TrialSlot { id: held.id, due: held.due })))
            }
            _ => None,
        }
    }

    /// Returns the capacity that is granted and not counted as in flight yet.
    pub fn reserved(&self) -> u32 {
        self.reserved
    }

    /// Counts the waiting requests that a new request may not overtake.
    pub fn before_newcomers(&self) -> usize {
        if self.held.is_some() { 0 } else { self.waiters.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Availability = Availability { free: u32::MAX, may_try: true };

    fn free(free: u32) -> Availability {
        Availability { free, may_try: true }
    }

    fn queue(names: &[&'static str]) -> Queue<&'static str> {
        let mut queue = Queue::default();
        for name in names {
            queue.join(*name, false);
        }
        queue
    }

    #[test]
    fn capacity_is_granted_in_the_order_of_arrival_and_no_more_than_there_is() {
        let mut queue = queue(&["a", "b", "c"]);
        assert_eq!(queue.next_grant(free(0)), None);
        assert_eq!(queue.next_grant(free(1)), Some(("a", QueueGrant::Capacity)));
        assert_eq!(queue.next_grant(free(1)), None, "its place is not taken yet, and is no other's");
        // Taken: what is in flight counts in its stead.
        queue.release();
        assert_eq!((queue.next_grant(free(0)), queue.next_grant(free(1))), (None, Some(("b", QueueGrant::Capacity))));
        assert_eq!(queue.before_newcomers(), 1);
    }

    #[test]
    fn a_request_that_leaves_gets_no_grant() {
        let mut queue = queue(&["a"]);
        let b = queue.join("b", false);
        queue.join("c", false);
        queue.leave(b);
        let turns: Vec<_> = std::iter::from_fn(|| queue.next_grant(FREE)).map(|(name, _)| name).collect();
        assert_eq!(turns, ["a", "c"]);
    }

    #[test]
    fn while_the_queue_is_held_one_tries_for_all() {
        let now = Instant::now();
        let mut queue = queue(&["a", "b", "c"]);
        queue.hold(now + RETRY_INTERVAL);
        let Some(("a", QueueGrant::Trial(trial))) = queue.next_grant(FREE) else { panic!("the first one tries") };
        assert_eq!((trial.due, queue.next_grant(FREE)), (now + RETRY_INTERVAL, None));
        let again = queue.failed(trial, now + 2 * RETRY_INTERVAL).unwrap();
        assert_eq!((again.due, queue.next_grant(FREE)), (now + 3 * RETRY_INTERVAL, None));
        queue.give_up(again);
        let Some(("b", QueueGrant::Trial(trial))) = queue.next_grant(FREE) else { panic!("it was handed on") };
        assert_eq!(trial.due, now + 3 * RETRY_INTERVAL, "no sooner for that");
        queue.open();
        assert_eq!(queue.next_grant(FREE), Some(("c", QueueGrant::Capacity)));
        assert_eq!(queue.failed(trial, now), None, "what it found is old");
        queue.hold(now);
        queue.join("d", false);
        assert!(matches!(queue.next_grant(FREE), Some(("d", QueueGrant::Trial(_)))));
        queue.give_up(trial);
        queue.join("e", false);
        assert_eq!(queue.next_grant(FREE), None, "a trial of an earlier time gives up nothing of this one");
    }

    #[test]
    fn no_request_tries_what_must_not_be_tried() {
        let mut queue = queue(&["a"]);
        queue.hold(Instant::now());
        assert_eq!(queue.next_grant(Availability { free: 9, may_try: false }), None);
        assert_eq!(queue.before_newcomers(), 0, "a new request finds out for itself");
    }

    proptest::proptest! {
        #[test]
        fn no_order_of_events_grants_twice_overtakes_or_forgets_a_request(
            events in proptest::collection::vec((0u8..10, 0u32..3), 1..200)
        ) {
            let now = Instant::now();
            let (mut queue, mut trial, mut outside) = (Queue::default(), None, 0);
            let (mut joined, mut served) = (Vec::new(), Vec::new());
            for (event, number) in events {
                match event {
                    0..=2 => joined.push(queue.join(joined.len(), false)),
                    3 => queue.hold(now),
                    4 => queue.open(),
                    5 => if let Some(trial) = trial.take() { queue.give_up(trial) },
                    6 => if outside > 0 { outside -= 1; queue.release() },
                    7 if queue.has_spare(free(number)) => { queue.reserve(); outside += 1 },
                    _ => while let Some((waiter, turn)) = queue.next_grant(free(number)) {
                        served.push(waiter);
                        match turn {
                            QueueGrant::Capacity => outside += 1,
                            QueueGrant::Trial(each) => trial = Some(each),
                        }
                        proptest::prop_assert!(outside <= number || matches!(turn, QueueGrant::Trial(_)));
                    }
                }
                proptest::prop_assert_eq!(queue.reserved(), outside);
            }
            queue.open();
            while let Some((waiter, _)) = queue.next_grant(FREE) { served.push(waiter); }
            let all: Vec<_> = (0..joined.len()).collect();
            proptest::prop_assert_eq!(served, all);
        }
    }
}
