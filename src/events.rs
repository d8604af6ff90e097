//! Owns: the events of the process: the newest ones, in their order, and what each subscriber has not seen yet.
//! Invariant: publishing never waits; a subscriber that is too slow loses the oldest events, and learns how many.
//! Must not know: who publishes or subscribes; what follows from an event.

mod event;
mod ring;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub use self::event::{DrainPhase, Event, ProcessPhase, UpgradePhase};
pub use self::ring::{Delivery, PublishedEvent};
use self::ring::{Read, Ring};
use crate::clock;

/// The events of one process. Clones share them.
///
/// Subscribers read the same ring, each at its own position: a slow one costs no memory and delays nobody.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Differs for each process: a subscriber that reconnects may name an event of a former one.
    process: u64,
    ring: Mutex<Ring>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared { process: rand::random(), ring: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

/// Where a subscriber begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// With the last so many events.
    Last(usize),
    /// After the event with this id, as [`Events::id`] returned it. If a former process has published it, with the
    /// oldest event that is kept.
    After(String),
}

/// A subscriber's position in the events.
#[derive(Debug)]
pub struct Subscription {
    events: Events,
    newest: watch::Receiver<u64>,
    /// The number of the next event.
    next: u64,
    /// Events of a former process may be lost; nobody can know how many.
    has_lost_former: bool,
}

impl Events {
    /// Publishes an event to all subscribers.
    pub fn publish(&self, event: Event) {
        let number = self.ring().push(event, clock::unix());
        self.0.newest.send_replace(number);
    }

    /// Returns the id of an event, by which a subscriber can go on later.
    pub fn id(&self, event: &PublishedEvent) -> String {
        format!("{:016x}-{}", self.0.process, event.number)
    }

    /// Makes a subscription.
    pub fn subscribe(&self, start: &Start) -> Subscription {
        let newest = self.0.newest.subscribe();
        let ring = self.ring();
        let (next, has_lost_former) = match start {
            Start::Last(count) => (ring.position_of_last(*count), false),
            Start::After(id) => match self.number(id).filter(|number| *number <= ring.newest()) {
                Some(number) => (number + 1, false),
                None => (ring.oldest(), true),
            },
        };
        drop(ring);
        Subscription { events: self.clone(), newest, next, has_lost_former }
    }

    /// Returns the number of the event with this id, if this process has published it.
    fn number(&self, id: &str) -> Option<u64> {
        let (process, number) = id.split_once('-')?;
        let is_own = u64::from_str_radix(process, 16) == Ok(self.0.process);
        if is_own { number.parse().ok() } else { None }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A panic under the lock leaves a ring that lacks one event at worst.
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// Waits for what the subscriber has to see next.
    pub async fn next(&mut self) -> Delivery {
        if std::mem::take(&mut self.has_lost_former) {
            return Delivery::Lost(None);
        }
        loop {
            self.newest.mark_unchanged();
            let read = self.events.ring().read(self.next);
            match read {
                Read::Event(event) => {
                    self.next = event.number + 1;
                    return Delivery::Event(event);
                }
                Read::Lost(count) => {
                    self.next += count;
                    return Delivery::Lost(Some(count));
                }
                // The sender lives as long as this subscription.
                Read::Nothing => drop(self.newest.changed().await),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn publish(events: &Events, pool: &str) {
        events.publish(Event::Moves { pool: pool.into(), cause: "down", sessions: 1 });
    }

    fn pool(delivery: Option<Delivery>) -> String {
        match delivery {
            Some(Delivery::Event(published)) => match &published.event {
                Event::Moves { pool, .. } => pool.clone(),
                other => panic!("{other:?}"),
            },
            Some(Delivery::Lost(count)) => format!("lost {count:?}"),
            None => "nothing".into(),
        }
    }

    #[tokio::test]
    async fn each_subscriber_gets_all_events_from_its_start_on() {
        let events = Events::default();
        publish(&events, "a");
        publish(&events, "b");
        let mut now = events.subscribe(&Start::Last(0));
        let mut one_before = events.subscribe(&Start::Last(1));
        assert_eq!(pool(now.next().now_or_never()), "nothing");
        assert_eq!(pool(Some(one_before.next().await)), "b");
        let waiting = tokio::spawn(async move { pool(Some(now.next().await)) });
        tokio::task::yield_now().await;
        publish(&events, "c");
        assert_eq!(waiting.await.unwrap(), "c");
        assert_eq!(pool(Some(one_before.next().await)), "c");
    }

    #[tokio::test]
    async fn a_subscriber_that_returns_goes_on_after_what_it_has_seen() {
        let (events, other) = (Events::default(), Events::default());
        for name in ["a", "b", "c"] {
            publish(&events, name);
        }
        let Delivery::Event(first) = events.subscribe(&Start::Last(9)).next().await else { panic!("lost") };
        let mut again = events.subscribe(&Start::After(events.id(&first)));
        assert_eq!(pool(Some(again.next().await)), "b");
        // A process that was restarted since, or an id that is none.
        for id in [other.id(&first), String::new(), "zz-1".into(), format!("{}9", events.id(&first))] {
            let mut lost = events.subscribe(&Start::After(id.clone()));
            assert_eq!(pool(Some(lost.next().await)), "lost None", "{id}");
            assert_eq!(pool(Some(lost.next().await)), "a", "{id}");
        }
    }

    #[tokio::test]
    async fn a_subscriber_that_is_too_slow_learns_how_many_events_it_has_lost() {
        let events = Events::default();
        let mut slow = events.subscribe(&Start::Last(0));
        for number in 1..=ring::CAPACITY + 3 {
            publish(&events, &number.to_string());
        }
        assert_eq!(pool(Some(slow.next().await)), "lost Some(3)");
        assert_eq!(pool(Some(slow.next().await)), "4");
    }
}
