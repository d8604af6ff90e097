//! Owns: the addresses of the hosts that SRV records name, for as long as each answer holds.
//! Invariant: queries are limited at once and per second; a host whose answer still holds is not queried.
//! Must not know: how a query is sent, or what becomes of the addresses.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use tokio::time::{MissedTickBehavior, interval};

use crate::clock;

/// The number of queries at once.
const MAX_CONCURRENT: usize = 8;
/// The time from one query to the next: 500 a second at most, which floods no server, and lets the largest answer be
/// looked into within the time limit of a look.
const PACE: Duration = Duration::from_millis(2);
/// An answer that ends within this time is queried now, with the others, and not by itself a moment later.
const SOON: Duration = Duration::from_secs(1);

/// Addresses, and their time to live in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) ips: Vec<IpAddr>,
    pub(super) ttl: u32,
}

/// The hosts that the last answer named, and their addresses.
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
    /// Queries those of `hosts` whose addresses are unknown or no longer hold, and forgets all other hosts.
    ///
    /// # Errors
    /// The first error of `query`. Answers until then are kept, and not queried again next time.
    pub(super) async fn resolve<E, F: Future<Output = Result<Addresses, E>>>(
        &mut self,
        hosts: &[String],
        query: impl Fn(String) -> F,
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
        let queries = stream::iter(due).zip(ticks).map(|(host, ())| {
            let answer = query(host.clone());
            async move { (host, answer.await) }
        });
        let mut answers = std::pin::pin!(queries.buffer_unordered(MAX_CONCURRENT));
        while let Some((host, answer)) = answers.next().await {
            let Addresses { ips, ttl } = answer?;
            let until = clock::now() + Duration::from_secs(ttl.into());
            self.known.insert(host, Known { ips, until });
        }
        Ok(())
    }

    /// Returns the addresses of a host, of which there may be none, and their remaining time to live.
    pub(super) fn get(&self, host: &str) -> Addresses {
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

    /// A slow DNS server that counts queries.
    #[derive(Default)]
    struct Server {
        queries: RefCell<Vec<String>>,
        running: Cell<usize>,
        most: Cell<usize>,
    }

    impl Server {
        async fn answer(&self, host: String, takes: Duration, ttl: u32) -> Result<Addresses, String> {
            self.queries.borrow_mut().push(host);
            self.running.set(self.running.get() + 1);
            self.most.set(self.most.get().max(self.running.get()));
            sleep(takes).await;
            self.running.set(self.running.get() - 1);
            Ok(Addresses { ips: vec![[10, 0, 0, 1].into()], ttl })
        }

        fn count(&self) -> usize {
            self.queries.borrow_mut().drain(..).count()
        }
    }

    fn hosts(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("h{n}.")).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_hosts_are_queried_a_few_at_once_and_500_a_second() {
        let (server, mut targets) = (Server::default(), Targets::default());
        let slow = Duration::from_millis(100);
        let begun = clock::now();
        targets.resolve(&hosts(1000), |host| server.answer(host, slow, 60)).await.unwrap();
        assert_eq!((server.count(), server.most.get()), (1000, MAX_CONCURRENT));
        assert!(clock::now() - begun >= slow * 1000 / MAX_CONCURRENT as u32);
        let (server, mut targets, begun) = (Server::default(), Targets::default(), clock::now());
        targets.resolve(&hosts(1000), |host| server.answer(host, Duration::ZERO, 60)).await.unwrap();
        let took = clock::now() - begun;
        assert!(took >= PACE * 999 && took < PACE * 2000, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_host_is_queried_while_its_answer_holds_and_each_once_however_often_it_is_named() {
        let (server, mut targets) = (Server::default(), Targets::default());
        let named = [hosts(10), hosts(10)].concat();
        let mut resolve = async |hosts: &[String], ttl| {
            targets.resolve(hosts, |host| server.answer(host, Duration::ZERO, ttl)).await.unwrap();
            (server.count(), targets.get("h0.").ttl)
        };
        assert_eq!(resolve(&named, 60).await, (10, 59));
        sleep(Duration::from_secs(30)).await;
        assert_eq!(resolve(&named, 60).await, (0, 29));
        assert_eq!(resolve(&hosts(11), 5).await.0, 1, "a new host");
        sleep(Duration::from_secs(4)).await;
        assert_eq!(resolve(&hosts(11), 60).await.0, 1, "a host whose answer ends soon");
        assert_eq!(resolve(&[], 60).await, (0, 0));
        assert_eq!(resolve(&hosts(10), 60).await.0, 10, "hosts that were forgotten meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_answered_before_a_failure_is_not_queried_again() {
        let (server, mut targets) = (Server::default(), Targets::default());
        let fails = async |host: String| match &*host {
            "h5." => Err("no answer".to_owned()),
            _ => server.answer(host, Duration::ZERO, 60).await,
        };
        assert_eq!(targets.resolve(&hosts(10), fails).await, Err("no answer".to_owned()));
        let known = targets.known.len();
        assert!((5..9).contains(&known) && known == server.count());
        targets.resolve(&hosts(10), |host| server.answer(host, Duration::ZERO, 60)).await.unwrap();
        assert_eq!(server.count(), 10 - known);
    }
}
