//! Owns: the addresses of the hosts that services name: when each is asked for, and how long it holds.
//! Invariant: never more than so many questions at once nor a second, and none for a host whose answer still holds.
//! Must not know: how the DNS is asked; what is made of the addresses.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use tokio::time::{MissedTickBehavior, interval};

use crate::clock;

/// Hosts that are asked for at once.
const AT_ONCE: usize = 8;
/// The shortest time from one host to the next: 500 a second at most, so that the longest answer that is taken
/// is looked into within the time for a look, and no server is flooded.
const PACE: Duration = Duration::from_millis(2);
/// What ends within this time is asked for with the rest, and not a moment later by itself.
const SOON: Duration = Duration::from_secs(1);

/// Addresses, and for how many seconds they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) ips: Vec<IpAddr>,
    pub(super) ttl: u32,
}

/// The hosts that the last answer named.
#[derive(Debug, Default)]
pub(super) struct Targets {
    known: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    ips: Vec<IpAddr>,
    until: Instant,
}

impl Targets {
    /// Asks for those of `hosts` whose addresses are unknown or hold no longer, and forgets all others.
    ///
    /// # Errors
    /// The first that `ask` gives. What was answered until then is known, and not asked for again next time.
    pub(super) async fn learn<E, F: Future<Output = Result<Addresses, E>>>(
        &mut self,
        hosts: &[String],
        ask: impl Fn(String) -> F,
    ) -> Result<(), E> {
        let named: HashSet<&str> = hosts.iter().map(String::as_str).collect();
        self.known.retain(|host, _| named.contains(host.as_str()));
        let soon = clock::now() + SOON;
        let is_due = |host: &&str| self.known.get(*host).is_none_or(|known| known.until <= soon);
        let mut due: Vec<String> = named.into_iter().filter(is_due).map(str::to_owned).collect();
        due.sort_unstable();

        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ticks = stream::unfold(pace, async |mut pace| {
            pace.tick().await;
            Some(((), pace))
        });
        let questions = stream::iter(due).zip(ticks).map(|(host, ())| {
            let answer = ask(host.clone());
            async move { (host, answer.await) }
        });
        let mut answers = std::pin::pin!(questions.buffer_unordered(AT_ONCE));
        while let Some((host, answer)) = answers.next().await {
            let Addresses { ips, ttl } = answer?;
            let until = clock::now() + Duration::from_secs(ttl.into());
            self.known.insert(host, Known { ips, until });
        }
        Ok(())
    }

    /// The addresses of a host, none if it has none, and for how many seconds they hold yet.
    pub(super) fn of(&self, host: &str) -> Addresses {
        let Some(known) = self.known.get(host) else { return Addresses { ips: Vec::new(), ttl: 0 } };
        let left = known.until.saturating_duration_since(clock::now());
        Addresses { ips: known.ips.clone(), ttl: u32::try_from(left.as_secs()).unwrap_or(u32::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::time::sleep;

    use super::*;

    /// A server that takes its time, and counts.
    #[derive(Default)]
    struct Server {
        asked: RefCell<Vec<String>>,
        under_way: Cell<usize>,
        most: Cell<usize>,
    }

    impl Server {
        async fn answer(&self, host: String, takes: Duration, ttl: u32) -> Result<Addresses, String> {
            self.asked.borrow_mut().push(host);
            self.under_way.set(self.under_way.get() + 1);
            self.most.set(self.most.get().max(self.under_way.get()));
            sleep(takes).await;
            self.under_way.set(self.under_way.get() - 1);
            Ok(Addresses { ips: vec![[10, 0, 0, 1].into()], ttl })
        }

        fn count(&self) -> usize {
            self.asked.borrow_mut().drain(..).count()
        }
    }

    fn hosts(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("h{n}.")).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_hosts_are_asked_for_a_few_at_once_and_so_many_a_second() {
        let (server, mut targets) = (Server::default(), Targets::default());
        let slow = Duration::from_millis(100);
        let begun = clock::now();
        targets.learn(&hosts(1000), |host| server.answer(host, slow, 60)).await.unwrap();
        assert_eq!((server.count(), server.most.get()), (1000, AT_ONCE));
        assert!(clock::now() - begun >= slow * 1000 / AT_ONCE as u32);
        let (server, mut targets, begun) = (Server::default(), Targets::default(), clock::now());
        targets.learn(&hosts(1000), |host| server.answer(host, Duration::ZERO, 60)).await.unwrap();
        let took = clock::now() - begun;
        assert!(took >= PACE * 999 && took < PACE * 2000, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_host_is_asked_for_while_its_answer_holds_and_each_once_however_often_it_is_named() {
        let (server, mut targets) = (Server::default(), Targets::default());
        let named = [hosts(10), hosts(10)].concat();
        let mut learn = async |hosts: &[String], ttl| {
            targets.learn(hosts, |host| server.answer(host, Duration::ZERO, ttl)).await.unwrap();
            (server.count(), targets.of("h0.").ttl)
        };
        assert_eq!(learn(&named, 60).await, (10, 59));
        sleep(Duration::from_secs(30)).await;
        assert_eq!(learn(&named, 60).await, (0, 29));
        assert_eq!(learn(&hosts(11), 5).await.0, 1, "who is new");
        sleep(Duration::from_secs(4)).await;
        assert_eq!(learn(&hosts(11), 60).await.0, 1, "whose answer ends soon");
        assert_eq!(learn(&[], 60).await, (0, 0));
        assert_eq!(learn(&hosts(10), 60).await.0, 10, "who was forgotten meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_answered_before_a_failure_is_not_asked_for_again() {
        let (server, mut targets) = (Server::default(), Targets::default());
        let fails = async |host: String| match &*host {
            "h5." => Err("no answer".to_owned()),
            _ => server.answer(host, Duration::ZERO, 60).await,
        };
        assert_eq!(targets.learn(&hosts(10), fails).await, Err("no answer".to_owned()));
        let known = targets.known.len();
        assert!((5..9).contains(&known) && known == server.count());
        targets.learn(&hosts(10), |host| server.answer(host, Duration::ZERO, 60)).await.unwrap();
        assert_eq!(server.count(), 10 - known);
    }
}
