//! Many Linchpins with one key ring: they share nothing else, and still agree about every client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use linchpin::affinity::decide::decide;
use linchpin::affinity::{
    Cause, Decision, KeyRing, Lifetimes, Pin, PinLookup, Policies, Sealer, SessionPolicy, Verdict,
};
use linchpin::affinity::{failover, seal};
use linchpin::balance::TriedBackends;
use linchpin::pool::history::ProbeResult;
use linchpin::pool::observe::Observation;
use linchpin::pool::reconcile::Reconciler;
use linchpin::pool::{self, Pool, backend};
use linchpin::reason::Reason;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::support::process::Linchpin;
use super::support::repository::{between, read};
use super::support::{Backend, Client, Keys, until};

/// What a client behind a balancer that knows nothing of sessions meets: any Linchpin, at each request.
struct Visitor {
    pin: Option<String>,
    home: Option<String>,
}

impl Visitor {
    /// Sends a request to a Linchpin at random, and to another one if that is not there. Returns how many were not.
    async fn request(&mut self, addresses: &[std::net::SocketAddr], random: &mut StdRng) -> usize {
        let mut order = addresses.to_vec();
        order.shuffle(random);
        for (missed, address) in order.into_iter().enumerate() {
            let Some(response) = Client::try_get(address, self.pin.as_deref()).await else { continue };
            assert_eq!(response.status, 200, "{response:?}");
            let verdict = response.field("x-verdict").unwrap().to_owned();
            match &self.home {
                Some(home) => assert_eq!((response.text().as_str(), verdict.as_str()), (home.as_str(), "hit")),
                None => self.home = Some(response.text()),
            }
            self.pin = response.pin().or(self.pin.take());
            return missed;
        }
        panic!("no Linchpin is left");
    }
}

#[tokio::test]
async fn five_linchpins_before_twenty_backends_keep_every_session_while_two_of_them_are_killed() {
    let mut backends = Vec::new();
    for index in 0..20 {
        backends.push(Backend::named(&format!("b{index}")).await);
    }
    let keys = Keys::new(&[1]);
    let mut linchpins = Vec::new();
    for index in 0..5 {
        // The order of the backends means nothing.
        backends.rotate_left(index);
        let entry = |backend: &Backend| {
            format!("[[pools.backends]]\nname = \"{}\"\naddress = \"{}\"\n", backend.name(), backend.address())
        };
        let text = format!(
            "[server]\nthreads = 1\n[log]\naccess = \"off\"\n{}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\n\
             name = \"app\"\n[pools.persistence]\nverdict_header = \"X-Verdict\"\n{}",
            keys.tables(),
            backends.iter().map(entry).collect::<String>()
        );
        linchpins.push(Linchpin::start(&text, None).await);
    }
    let addresses: Vec<_> = linchpins.iter().map(|linchpin| linchpin.address).collect();
    let (ends, served, missed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let visitor = |seed: u64| {
        let (addresses, ends, served, missed) =
            (addresses.clone(), Arc::clone(&ends), Arc::clone(&served), Arc::clone(&missed));
        tokio::spawn(async move {
            let (mut visitor, mut random) = (Visitor { pin: None, home: None }, StdRng::seed_from_u64(seed));
            while !ends.load(Ordering::Relaxed) {
                missed.fetch_add(visitor.request(&addresses, &mut random).await, Ordering::Relaxed);
                served.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            visitor.home.unwrap()
        })
    };
    let visitors: Vec<_> = (0..40).map(visitor).collect();
    let more = async |requests: usize| {
        let before = served.load(Ordering::Relaxed);
        let enough = || served.load(Ordering::Relaxed) >= before + requests;
        until("more requests", async || enough() || visitors.iter().any(|visitor| visitor.is_finished())).await;
        assert!(enough(), "a visitor has failed");
    };
    more(400).await;
    for _ in 0..2 {
        linchpins.remove(1).kill().await;
        more(400).await;
    }
    ends.store(true, Ordering::Relaxed);
    let mut homes = Vec::new();
    for visitor in visitors {
        homes.push(visitor.await.unwrap());
    }
    assert!(missed.load(Ordering::Relaxed) > 0, "visitors met the two that are gone");
    homes.sort();
    homes.dedup();
    assert!(homes.len() >= 8, "the sessions are on many backends: {homes:?}");
}

const BACKENDS: usize = 1000;
const LINCHPINS: usize = 100;
const NOW: u64 = 1_800_000_000;

/// A Linchpin without sockets: its pool, its keys and its clock.
struct Node {
    pool: Arc<Pool>,
    sealer: Sealer,
    now: u64,
}

impl Node {
    /// Makes one whose configuration has the backends in an order of its own, and whose clock is up to half a minute off.
    fn new(random: &mut StdRng) -> Node {
        let mut backends: Vec<_> = (0..BACKENDS)
            .map(|index| {
                let [high, low] = u16::try_from(index).unwrap().to_be_bytes();
                backend::Settings::new(&format!("b{index}"), ([10, 0, high, low], 80).into())
            })
            .collect();
        backends.shuffle(random);
        let settings = pool::Settings { name: "app".into(), backends, ..pool::Settings::default() };
        let pool = Reconciler::new(random.random_range(1..8)).pools(&[settings]).remove(0);
        let key = seal::SealingKey::new("k1", &[7; 32]).unwrap();
        let sealer = Sealer::new(&Arc::new(KeyRing::new(key, Vec::new())), "app", "linchpin");
        Node { pool, sealer, now: NOW - 30 + random.random_range(0..60) }
    }

    /// Observes that a backend is dead.
    fn loses(&self, backend: &str) {
        let probe = ProbeResult { result: Err(Reason::CLOSED), took: Duration::ZERO };
        self.pool.observe(self.pool.position(backend).unwrap(), Observation::Probe(probe), Instant::now());
    }

    fn name(&self, index: Option<usize>) -> Option<String> {
        index.map(|index| self.pool.backend(index).name().to_string())
    }

    /// Judges a token.
    fn judge(&self, token: &str) -> Decision {
        let lookup = match self.sealer.open(token.as_bytes()) {
            Some(pin) => PinLookup::Pinned(Arc::new(pin)),
            None => PinLookup::Unreadable,
        };
        decide(lookup, &self.pool, &session_policy(), self.now, 1)
    }

    /// Begins a session on a backend; returns its token.
    fn begin(&self, session: u64, backend: &str) -> String {
        let incarnation = self.pool.backend(self.pool.position(backend).unwrap()).incarnation();
        let (issued, last_seen, term, replica) = (self.now, self.now, 0, None);
        let pin = Pin { session, backend: backend.into(), incarnation, issued, last_seen, term, replica };
        let mut token = String::new();
        self.sealer.seal(&pin, &mut token).unwrap();
        token
    }

    /// Where a session goes that its backend can't serve: first choice, and the next one if that fails, too.
    fn failover(&self, decision: &Decision) -> [Option<String>; 2] {
        let mut tried = TriedBackends::new();
        decision.pinned.into_iter().for_each(|index| tried.insert(index));
        let first = failover::next(&self.pool, decision.session, decision.pinned, &tried);
        first.into_iter().for_each(|index| tried.insert(index));
        let second = failover::next(&self.pool, decision.session, decision.pinned, &tried);
        [self.name(first), self.name(second)]
    }
}

fn session_policy() -> SessionPolicy {
    let lifetimes = Lifetimes { idle: Some(3600), absolute: Some(86_400) };
    SessionPolicy { lifetimes, policies: Policies::default(), max_clock_skew: Some(60) }
}

#[test]
fn a_hundred_linchpins_before_a_thousand_backends_agree_on_every_verdict_and_every_failover() {
    let mut random = StdRng::seed_from_u64(2026);
    let nodes: Vec<_> = (0..LINCHPINS).map(|_| Node::new(&mut random)).collect();
    let dead: Vec<_> = (0..10).map(|index| format!("b{}", index * 97)).collect();
    let token =
        |random: &mut StdRng, backend: &str| nodes[random.random_range(0..LINCHPINS)].begin(random.random(), backend);
    let on_dead: Vec<_> =
        dead.iter().flat_map(|backend| (0..3).map(|_| token(&mut random, backend)).collect::<Vec<_>>()).collect();
    let alive = (0..30).map(|index| format!("b{}", index * 31 + 1)).filter(|backend| !dead.contains(backend));
    let elsewhere: Vec<_> = alive.map(|backend| token(&mut random, &backend)).collect();
    // Half of them have noticed by now.
    let (aware, unaware) = nodes.split_at(LINCHPINS / 2);
    aware.iter().for_each(|node| dead.iter().for_each(|backend| node.loses(backend)));

    for token in &elsewhere {
        let first = nodes[0].judge(token);
        let home = nodes[0].name(first.target());
        for node in &nodes {
            let decision = node.judge(token);
            assert_eq!((decision.verdict, decision.cause, decision.session), (Verdict::Hit, None, first.session));
            assert_eq!(node.name(decision.target()), home);
        }
    }
    for token in &on_dead {
        let first = aware[0].judge(token);
        let expected = aware[0].failover(&first);
        assert!(expected.iter().flatten().all(|name| !dead.contains(name)));
        for node in aware {
            let decision = node.judge(token);
            assert_eq!((decision.verdict, decision.cause), (Verdict::Moved, Some(Cause::Down)));
            assert_eq!(node.failover(&decision)[0], expected[0]);
        }
        for node in unaware {
            // The attempt fails, and the session goes where the others send it, unless that one is dead, too: then the
            // attempts go on until they meet.
            let mut decision = node.judge(token);
            assert_eq!(decision.verdict, Verdict::Hit);
            decision.lose_target(decision.target().unwrap(), Cause::Failed, &node.pool, &Policies::default());
            let mut tried = TriedBackends::new();
            decision.pinned.into_iter().for_each(|index| tried.insert(index));
            let alive = std::iter::from_fn(|| {
                let next = failover::next(&node.pool, decision.session, decision.pinned, &tried)?;
                tried.insert(next);
                node.name(Some(next))
            });
            assert_eq!(
                (decision.verdict, alive.take(20).find(|name| !dead.contains(name))),
                (Verdict::Moved, expected[0].clone())
            );
        }
    }
}

#[test]
fn the_sessions_of_a_dead_backend_spread_evenly_over_a_thousand_others() {
    let mut random = StdRng::seed_from_u64(7);
    let node = Node::new(&mut random);
    node.loses("b500");
    let sessions = 4_000;
    let mut counts = vec![0_u32; BACKENDS];
    let mut tried = TriedBackends::new();
    let from = node.pool.position("b500");
    from.into_iter().for_each(|index| tried.insert(index));
    for _ in 0..sessions {
        counts[failover::next(&node.pool, random.random(), from, &tried).unwrap()] += 1;
    }
    // Each of 999 gets four: the sum of squares is that of chance, and none gets five times as many.
    let expected = f64::from(sessions) / (BACKENDS - 1) as f64;
    let others =
        counts.iter().enumerate().filter(|(index, _)| Some(*index) != from).map(|(_, count)| f64::from(*count));
    let chi_squared: f64 = others.map(|count| (count - expected).powi(2) / expected).sum();
    let freedom = (BACKENDS - 2) as f64;
    assert!((chi_squared - freedom).abs() < 6.0 * (2.0 * freedom).sqrt(), "{chi_squared}");
    assert!(f64::from(*counts.iter().max().unwrap()) < 5.0 * expected, "{}", counts.iter().max().unwrap());
}

#[test]
fn the_machines_of_the_document_follow_from_its_formula() {
    let whole = |number: &str| number.split(' ').next().unwrap().replace(',', "").parse::<u64>().unwrap();
    let document = read("docs/scale.md");
    let rows: Vec<Vec<_>> = between(&document, "machines")
        .lines()
        .map(|line| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .filter(|cells: &Vec<_>| cells.len() == 5 && cells[0] != "---")
        .collect();
    assert_eq!(rows.len(), 4);
    for row in &rows[1..] {
        for (requests, machines) in rows[0][1..].iter().zip(&row[1..]) {
            // In microseconds: 14 a request, of 8 cores that are busy for six tenths.
            let by_requests = (whole(requests) * 14).div_ceil(8 * 600_000);
            let by_connections = (whole(row[0]) / 10).div_ceil(400_000);
            assert_eq!(whole(machines), by_requests.max(by_connections) + 1, "{} sessions, {requests}", row[0]);
        }
    }
}
