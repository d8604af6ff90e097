//! Owns: the requests that wait for one backend, and the order in which they are let on.
//! Invariant: first come, first served; each turn is given to one request, and handed on if that one leaves.
//! Must not know: requests, pools; how a backend comes to be away or back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a backend is left alone after an attempt of those who wait for it has failed.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Who waits for a backend: a pure machine, which says whose turn it is. `W` is how a request is told.
///
/// While one of those who wait has just found that the backend can't be had, the queue is held: only one
/// of them tries, spaced by [`RETRY_INTERVAL`], and all others wait for what it finds (the half-open state of a
/// circuit breaker). Whatever shows that the backend is well opens the queue again.
#[derive(Debug)]
pub struct Queue<W> {
    waiters: VecDeque<(u64, W)>,
    next_id: u64,
    held: Option<Held>,
    /// Places that were given to requests which have not taken them yet.
    reserved: u32,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    /// Tells a trial of this time from one of an earlier.
    id: u64,
    due: Instant,
    is_tried: bool,
}

/// A request's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueGrant {
    /// It has a place on the backend, which counts as taken from now on.
    Capacity,
    /// It is the one that tries whether the backend is back.
    Trial(TrialSlot),
}

/// The right to try whether a backend is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrialSlot {
    id: u64,
    /// Not before.
    pub due: Instant,
}

/// What the backend can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Availability {
    /// How many more requests it takes: 0 while it is away, or full.
    pub free: u32,
    /// Whether it may be tried though nobody knows that it is back.
    pub may_try: bool,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Queue { waiters: VecDeque::new(), next_id: 0, held: None, reserved: 0 }
    }
}

impl<W> Queue<W> {
    /// A request waits, behind all others; or before them, if it has `waited` already. Its number.
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

    /// A request waits no more.
    pub fn leave(&mut self, id: u64) {
        self.waiters.retain(|(other, _)| *other != id);
        self.forget();
    }

    /// The backend can't be had, as a request has found at `now`, or as is known of it.
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

    /// Something shows that the backend is well.
    pub fn open(&mut self) {
        self.held = None;
    }

    /// The trial found at `now` that it is not. The next one is due later; `None` if something has shown
    /// meanwhile that it is: then whoever tried waits like all others.
    pub fn failed(&mut self, trial: TrialSlot, now: Instant) -> Option<TrialSlot> {
        let held = self.held.as_mut().filter(|held| held.id == trial.id)?;
        held.due = now + RETRY_INTERVAL;
        Some(TrialSlot { due: held.due, ..trial })
    }

    /// The trial is given up: it is another one's turn.
    pub fn give_up(&mut self, trial: TrialSlot) {
        if let Some(held) = self.held.as_mut().filter(|held| held.id == trial.id) {
            held.is_tried = false;
        }
        self.forget();
    }

    /// What somebody found is of no use once nobody waits any more.
    fn forget(&mut self) {
        if self.waiters.is_empty() {
            self.held.take_if(|held| !held.is_tried);
        }
    }

    /// A place is taken, or given back.
    pub fn release(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// The next request whose turn it is, and what it gets. `available` leaves the places that are
    /// [`Queue::reserved`] out of account.
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

    /// Places that were given and not taken yet.
    pub fn reserved(&self) -> u32 {
        self.reserved
    }

    /// Requests that wait for a place, which nobody who comes now may have before them.
    pub fn before_newcomers(&self) -> usize {
        if self.held.is_some() { 0 } else { self.waiters.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Availability = Availability { free: u32::MAX, may_try: true };

    fn places(free: u32) -> Availability {
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
    fn places_go_to_those_who_came_first_and_no_more_than_there_are() {
        let mut queue = queue(&["a", "b", "c"]);
        assert_eq!(queue.next_grant(places(0)), None);
        assert_eq!(queue.next_grant(places(1)), Some(("a", QueueGrant::Capacity)));
        assert_eq!(queue.next_grant(places(1)), None, "its place is not taken yet, and is no other's");
        // Taken: what is in flight counts in its stead.
        queue.release();
        assert_eq!(
            (queue.next_grant(places(0)), queue.next_grant(places(1))),
            (None, Some(("b", QueueGrant::Capacity)))
        );
        assert_eq!(queue.before_newcomers(), 1);
    }

    #[test]
    fn one_that_leaves_is_passed_over() {
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
    fn nobody_tries_what_must_not_be_tried() {
        let mut queue = queue(&["a"]);
        queue.hold(Instant::now());
        assert_eq!(queue.next_grant(Availability { free: 9, may_try: false }), None);
        assert_eq!(queue.before_newcomers(), 0, "who comes now finds out for itself");
    }

    proptest::proptest! {
        #[test]
        fn whatever_happens_nobody_is_let_on_twice_overtaken_or_forgotten(
            events in proptest::collection::vec((0u8..8, 0u32..3), 1..200)
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
                    _ => while let Some((waiter, turn)) = queue.next_grant(places(number)) {
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
