//! A simulation of 10,000 clients whose pool changes: what each balance makes of it, with rebalancing and without.
//!
//! It has no sockets, and its time is a number. What decides is the proxy's own code: balancers, decisions about pins,
//! failover, session counts, and the plan of the rebalance. `docs/even-load.md` shows its plot.

mod plot;

use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin::affinity::{Cause, Decision, Pin, PinLookup, SessionPolicy, Verdict, decide, failover};
use linchpin::balance::{Balancer, BalancerKind, Candidates, TriedBackends};
use linchpin::pool::hash::mix;
use linchpin::pool::rebalance::{self, Budget, Load};
use linchpin::pool::reconcile::Reconciler;
use linchpin::pool::sessions::SessionLifetime;
use linchpin::pool::{AdminState, Pool, Settings, backend};

use super::support::repository::path;

const CLIENTS: usize = 10_000;
const MINUTE: u32 = 60;
/// When what happens, in seconds.
const GROWS: u32 = 8 * MINUTE;
const SHRINKS: u32 = 30 * MINUTE;
const FAILS: u32 = 42 * MINUTE;
const RETURNS: u32 = 45 * MINUTE;
/// When each of the three servers is restarted; each restart takes a minute.
const RESTARTS: [u32; 3] = [58 * MINUTE, 63 * MINUTE, 68 * MINUTE];
const END: u32 = 80 * MINUTE;
/// The time between two samples of the load, and between two counts of the sessions.
const SAMPLE: u32 = 10;
/// A session ends when its client has been silent for so long; clients of a session are silent for less.
const LIFETIME: SessionLifetime = SessionLifetime { idle: 300, absolute: None };
const REBALANCE: rebalance::Settings =
    rebalance::Settings { sessions_per_minute: 600, factor: 110, idle: Duration::from_secs(30) };
/// The wall-clock time at second 0.
const EPOCH: u64 = 1_700_000_000;

struct Client {
    pin: Option<Arc<Pin>>,
    last_request: u32,
    /// When its session ends and another client takes its place.
    until: u32,
}

/// What became of one run.
struct Run {
    kind: BalancerKind,
    is_rebalanced: bool,
    /// The least and the most sessions of a serving backend, as a part of the mean, sample by sample.
    loads: Vec<(f64, f64)>,
    /// Sessions that moved because their backend could not serve them.
    moved: usize,
    /// Sessions that the rebalance moved, and the most of them in any minute.
    rebalanced: usize,
    most_in_a_minute: u64,
}

struct Simulation {
    reconciler: Reconciler,
    pool: Arc<Pool>,
    balancer: std::rc::Rc<dyn Balancer>,
    policy: SessionPolicy,
    clients: Vec<Client>,
    /// The clients with a request in a second.
    due: Vec<Vec<usize>>,
    random: u64,
    begun: Instant,
    budget: Budget,
    /// How many sessions of one backend may still go to another one, by positions.
    transfers: Vec<rebalance::Transfer>,
    moves: Vec<(u32, u64)>,
    run: Run,
}

fn pool(reconciler: &mut Reconciler, names: &[&str]) -> Arc<Pool> {
    let backends = names.iter().map(|name| {
        let port = 9000 + u16::from(name.as_bytes()[0]);
        backend::Settings::new(name, ([127, 0, 0, 1], port).into())
    });
    let settings = Settings { name: "app".into(), backends: backends.collect(), ..Settings::default() };
    reconciler.pools(&[settings]).remove(0)
}

impl Simulation {
    fn new(kind: BalancerKind, is_rebalanced: bool) -> Simulation {
        let mut reconciler = Reconciler::new(1);
        let pool = pool(&mut reconciler, &["a", "b", "c"]);
        let balancer = kind.build(&pool, 1);
        let run = Run { kind, is_rebalanced, loads: Vec::new(), moved: 0, rebalanced: 0, most_in_a_minute: 0 };
        let mut simulation = Simulation {
            reconciler,
            pool,
            balancer,
            policy: SessionPolicy::default(),
            clients: Vec::new(),
            due: vec![Vec::new(); END as usize],
            random: 7,
            begun: Instant::now(),
            budget: Budget::default(),
            transfers: Vec::new(),
            moves: Vec::new(),
            run,
        };
        for client in 0..CLIENTS {
            // They come within two minutes.
            let first = simulation.between(0, 2 * MINUTE);
            let until = first + simulation.between(5 * MINUTE, 35 * MINUTE);
            simulation.clients.push(Client { pin: None, last_request: 0, until });
            simulation.due[first as usize].push(client);
        }
        simulation
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.random)
    }

    fn between(&mut self, low: u32, high: u32) -> u32 {
        low + u32::try_from(self.random() % u64::from(high - low)).unwrap()
    }

    fn run(mut self) -> Run {
        for second in 0..END {
            self.change_pool(second);
            if second % SAMPLE == 0 {
                self.sample(second);
            }
            if self.run.is_rebalanced {
                self.plan(second);
            }
            for client in std::mem::take(&mut self.due[second as usize]) {
                self.request(client, second);
            }
        }
        for (at, _) in &self.moves {
            let of_minute = self.moves.iter().filter(|(other, _)| (*at..at + MINUTE).contains(other));
            self.run.most_in_a_minute = self.run.most_in_a_minute.max(of_minute.map(|(_, moved)| moved).sum());
        }
        self.run
    }

    fn change_pool(&mut self, second: u32) {
        let names: &[&str] = match second {
            GROWS => &["a", "b", "c", "d"],
            SHRINKS => &["a", "b", "c"],
            _ => &[],
        };
        if !names.is_empty() {
            let next = pool(&mut self.reconciler, names);
            if let Some(balancer) = self.balancer.carry_over(&self.pool, &next) {
                self.balancer = balancer;
            }
            self.pool = next;
            self.transfers.clear();
        }
        let set = |name: &str, state| {
            let index = self.pool.position(name).unwrap();
            self.pool.backend(index).live().set_state(state);
        };
        match second {
            FAILS => set("b", AdminState::Maintenance),
            RETURNS => set("b", AdminState::Ready),
            _ => {}
        }
        for (name, restart) in ["a", "b", "c"].into_iter().zip(RESTARTS) {
            match second.checked_sub(restart) {
                Some(0) => set(name, AdminState::Maintenance),
                Some(MINUTE) => set(name, AdminState::Ready),
                _ => {}
            }
        }
    }

    /// Notes how even the load is. The truth, not what a backend counts.
    fn sample(&mut self, second: u32) {
        let mut sessions = vec![0_u32; self.pool.backends().len()];
        for pin in self.clients.iter().filter_map(|client| client.pin.as_ref()) {
            if let Some(index) = self.pool.position(&pin.backend) {
                sessions[index] += 1;
            }
        }
        let serving = self.pool.backends().iter().map(|backend| backend.live().is_serving());
        let serving: Vec<_> = sessions.into_iter().zip(serving).filter(|(_, is_serving)| *is_serving).collect();
        let total: u32 = serving.iter().map(|(sessions, _)| sessions).sum();
        let mean = (f64::from(total) / serving.len() as f64).max(1.0);
        let of = |sessions: Option<u32>| f64::from(sessions.unwrap_or_default()) / mean;
        let sessions = || serving.iter().map(|(sessions, _)| *sessions);
        self.run.loads.push((of(sessions().min()), of(sessions().max())));
        for backend in self.pool.backends() {
            backend.live().sessions().count(millis(second), LIFETIME);
        }
    }

    /// Plans the moves of this second, as the control thread does.
    fn plan(&mut self, second: u32) {
        let now = self.begun + Duration::from_secs(second.into());
        let load = |backend: &linchpin::pool::Backend| Load {
            sessions: backend.live().expected_sessions(),
            weight: if backend.live().accepts_new().is_ok() { u64::from(backend.live().effective_weight()) } else { 0 },
            room: u64::MAX,
        };
        let loads: Vec<_> = self.pool.backends().iter().map(load).collect();
        let allowance = self.budget.allowance(now, REBALANCE.sessions_per_minute);
        self.transfers = rebalance::plan(&loads, REBALANCE.factor, allowance);
    }

    fn request(&mut self, client: usize, second: u32) {
        if second >= self.clients[client].until {
            let until = second + self.between(5 * MINUTE, 35 * MINUTE);
            if let Some(pin) = self.clients[client].pin.take() {
                self.leave(&pin.backend, pin.session, second);
            }
            self.clients[client].until = until;
        }
        let pin = self.clients[client].pin.clone();
        let lookup = pin.clone().map_or(PinLookup::Absent, PinLookup::Pinned);
        let fresh = self.random();
        let mut decision = decide::decide(lookup, &self.pool, &self.policy, unix(second), fresh);
        let idle = second - self.clients[client].last_request;
        self.rebalance(&mut decision, idle, second);
        let tried = TriedBackends::new();
        let draw = self.random();
        let index = match decision.verdict {
            Verdict::New => self.balancer.best(&Candidates::new(&self.pool, &tried), draw),
            _ => decision.target().or_else(|| failover::next(&self.pool, decision.session, decision.pinned, &tried)),
        };
        let index = index.expect("a backend that serves");
        decision.mark_served_by(index);
        self.serve(client, &decision, index, second);
        let next = second + self.between(45, 255);
        if let Some(due) = self.due.get_mut(next as usize) {
            due.push(client);
        }
    }

    /// Moves an idle session, where the plan wants one to leave its backend.
    fn rebalance(&mut self, decision: &mut Decision, idle: u32, second: u32) {
        let (Verdict::Hit, Some(from)) = (decision.verdict, decision.target()) else { return };
        if u64::from(idle) < REBALANCE.idle.as_secs() {
            return;
        }
        let transfer = self.transfers.iter_mut().find(|transfer| transfer.from == from && transfer.sessions > 0);
        if let Some(transfer) = transfer {
            transfer.sessions -= 1;
            decision.rebalance_to(transfer.to);
            self.budget.spend(self.begun + Duration::from_secs(second.into()), 1);
            self.moves.push((second, 1));
        }
    }

    fn serve(&mut self, client: usize, decision: &Decision, index: usize, second: u32) {
        let sessions = self.pool.backend(index).live().sessions();
        sessions.begin(0, decision.session, decision.issued, millis(second), LIFETIME);
        sessions.end(0, decision.session, millis(second));
        if decision.verdict != Verdict::Hit {
            sessions.count_new(0);
        }
        if decision.verdict == Verdict::Moved {
            let is_rebalanced = decision.cause == Some(Cause::Rebalanced);
            *if is_rebalanced { &mut self.run.rebalanced } else { &mut self.run.moved } += 1;
            if let Some(pin) = &self.clients[client].pin {
                self.leave(&pin.backend, pin.session, second);
            }
        }
        if let Some(pin) = decision.pin(&self.pool, index, unix(second)) {
            self.clients[client].pin = Some(Arc::new(pin));
        }
        self.clients[client].last_request = second;
    }

    fn leave(&self, backend: &str, session: u64, second: u32) {
        if let Some(index) = self.pool.position(backend) {
            self.pool.backend(index).live().sessions().leave(0, session, millis(second), LIFETIME);
        }
    }
}

fn unix(second: u32) -> u64 {
    EPOCH + u64::from(second)
}

fn millis(second: u32) -> u64 {
    unix(second) * 1000
}

impl Run {
    /// Returns how many seconds after `event` each backend had between 0.7 and 1.3 times the mean for good, until the
    /// next event.
    fn evens_out(&self, event: u32, next: u32) -> Option<u32> {
        let samples = &self.loads[(event / SAMPLE) as usize + 1..(next / SAMPLE) as usize];
        let last = samples.iter().rposition(|(least, most)| *least < 0.7 || *most > 1.3);
        match last {
            Some(last) if last + 1 == samples.len() => None,
            last => Some(last.map_or(0, |last| (last as u32 + 2) * SAMPLE)),
        }
    }
}

fn runs() -> Vec<Run> {
    let all = BalancerKind::ALL.into_iter().flat_map(|kind| [(kind, false), (kind, true)]);
    std::thread::scope(|scope| {
        let halves: Vec<_> = [0, 1]
            .map(|half| {
                let all: Vec<_> = all.clone().skip(half).step_by(2).collect();
                scope.spawn(move || {
                    all.into_iter().map(|(kind, is)| Simulation::new(kind, is).run()).collect::<Vec<_>>()
                })
            })
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        let mut halves = halves.into_iter();
        let (without, with) = (halves.next().unwrap(), halves.next().unwrap());
        without.into_iter().zip(with).flat_map(|(without, with)| [without, with]).collect()
    })
}

/// Returns the plot, which the repository has as `docs/img/even-load.svg`.
const PLOT: &str = "docs/img/even-load.svg";

#[test]
fn load_evens_out_after_each_change_and_nobody_moves_without_need() {
    let runs = runs();
    for run in &runs {
        let name = format!("{:?}, rebalanced: {}", run.kind, run.is_rebalanced);
        // Only the sessions of a backend that is removed, fails or restarts have to move: each of these five times a
        // third or a quarter of all, and each session once.
        let (most, quarter) = (CLIENTS / 4 + 4 * CLIENTS / 3, CLIENTS / 4);
        assert!((quarter / 2..=most + most / 10).contains(&run.moved), "{name}: {} moved", run.moved);
        assert!(run.most_in_a_minute <= u64::from(REBALANCE.sessions_per_minute), "{name}: {}", run.most_in_a_minute);
        assert_eq!(run.is_rebalanced, run.rebalanced > 0, "{name}");
    }
    let minutes = |run: &Run, event: u32, next: u32| run.evens_out(event, next).map(|seconds| seconds / MINUTE);
    for run in runs.iter().filter(|run| run.is_rebalanced) {
        // 2,500 sessions at 600 a minute, and a client is silent for up to 255 s.
        for (event, next) in [(GROWS, SHRINKS), (SHRINKS, FAILS), (RETURNS, RESTARTS[0])] {
            let even = minutes(run, event, next);
            assert!(even.is_some_and(|even| even <= 8), "{:?} after {event} s: {even:?}", run.kind);
        }
        assert!(minutes(run, RESTARTS[2] + MINUTE, END).is_some_and(|even| even <= 8), "{:?}", run.kind);
    }
    let without = |kind: BalancerKind| runs.iter().find(|run| run.kind == kind && !run.is_rebalanced).unwrap();
    // All new clients go to the new server, and nobody moves: half as many come in these minutes as there are.
    let least_sessions = minutes(without(BalancerKind::LeastSessions), GROWS, SHRINKS);
    assert!(least_sessions.is_some_and(|even| even <= 8), "{least_sessions:?}");
    for kind in [BalancerKind::RoundRobin, BalancerKind::RandomTwo, BalancerKind::HASH] {
        let other = minutes(without(kind), GROWS, SHRINKS).unwrap_or(u32::MAX);
        assert!(other > 2 * least_sessions.unwrap_or_default(), "{kind:?}: {other}");
    }
    let svg = plot::svg(&runs);
    if std::env::var_os("WRITE_PLOT").is_some() {
        std::fs::write(path(PLOT), &svg).unwrap();
    }
    let is_current = std::fs::read_to_string(path(PLOT)).is_ok_and(|known| known == svg);
    assert!(is_current, "{PLOT} is not what the simulation says; run: WRITE_PLOT=1 cargo test --test it even_load");
}
