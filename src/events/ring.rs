//! Owns: the newest events, in a ring of bounded size.
//! Invariant: events have consecutive numbers, from 1.
//! Must not know: who reads it, or when.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::event::Event;

/// The number of events that are kept.
pub(super) const CAPACITY: usize = 1024;

/// An event with its number and time.
#[derive(Debug, PartialEq)]
pub struct PublishedEvent {
    /// Its number in this process, from 1.
    pub number: u64,
    /// When it was published, since the Unix epoch.
    pub time: Duration,
    /// What happened.
    pub event: Event,
}

/// What a subscriber gets.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// The next event.
    Event(Arc<PublishedEvent>),
    /// So many events are lost to it; `None` if they are those of a former process, which nobody counts.
    Lost(Option<u64>),
}

/// What is at a position of the ring.
#[derive(Debug, PartialEq)]
pub(super) enum Read {
    Event(Arc<PublishedEvent>),
    /// So many events from this position on are no longer kept.
    Lost(u64),
    /// Nothing yet.
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Ring {
    newest: u64,
    events: VecDeque<Arc<PublishedEvent>>,
}

impl Ring {
    /// Adds an event, in the place of the oldest one if the ring is full. Returns its number.
    pub(super) fn push(&mut self, event: Event, time: Duration) -> u64 {
        self.newest += 1;
        if self.events.len() == CAPACITY {
            self.events.pop_front();
        }
        self.events.push_back(Arc::new(PublishedEvent { number: self.newest, time, event }));
        self.newest
    }

    /// The number of the newest event; 0 before the first.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// The number of the oldest event that is kept, or of the next one if there is none.
    pub(super) fn oldest(&self) -> u64 {
        self.newest + 1 - self.events.len() as u64
    }

    /// Returns the number of the first of the last `count` events.
    pub(super) fn position_of_last(&self, count: usize) -> u64 {
        (self.newest + 1).saturating_sub(count as u64).max(self.oldest())
    }

    /// Reads the event with this number.
    pub(super) fn read(&self, number: u64) -> Read {
        let oldest = self.oldest();
        if number < oldest {
            return Read::Lost(oldest - number);
        }
        let at = usize::try_from(number - oldest).unwrap_or(usize::MAX);
        self.events.get(at).map_or(Read::Nothing, |event| Read::Event(Arc::clone(event)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(count: u64) -> Ring {
        let mut ring = Ring::default();
        for sessions in 1..=count {
            ring.push(Event::Moves { pool: "app".into(), cause: "down", sessions }, Duration::ZERO);
        }
        ring
    }

    #[test]
    fn an_empty_ring_has_nothing_and_has_lost_nothing() {
        let empty = ring(0);
        assert_eq!((empty.newest(), empty.oldest(), empty.position_of_last(5)), (0, 1, 1));
        assert_eq!(empty.read(1), Read::Nothing);
    }

    proptest! {
        /// Wherever a reader begins, what it reads and what it has lost are all events from there on, in order.
        #[test]
        fn a_reader_gets_or_loses_each_event_once(count in 0u64..3000, last in 0usize..2000, start in 1u64..3000) {
            let ring = ring(count);
            for mut next in [ring.position_of_last(last), start.min(count + 1)] {
                let begin = next;
                let (mut read, mut lost) = (0, 0);
                loop {
                    match ring.read(next) {
                        Read::Event(event) => {
                            prop_assert_eq!(event.number, next);
                            (read, next) = (read + 1, next + 1);
                        }
                        Read::Lost(more) => (lost, next) = (lost + more, next + more),
                        Read::Nothing => break,
                    }
                }
                prop_assert_eq!(read + lost, count + 1 - begin);
                prop_assert!(read <= CAPACITY as u64);
            }
        }
    }
}
