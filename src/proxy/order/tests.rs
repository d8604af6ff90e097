//! Owns: a model of the whole failover decision: random pools, health, pins, policies, retries, failures; no sockets.
//! Invariant: what is asserted here holds for every request, whatever its backends do.
//! Must not know: how an attempt is made, or how a request waits.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::affinity::policy::{RefusePolicy, WaitPolicy};
use crate::affinity::{Lifetimes, Pin, PinLookup, SessionPolicy, decide};
use crate::balance::BalancerKind;
use crate::pool::health_state::FailedRequest;
use crate::pool::observe::Observation;
use crate::pool::{AdminState, InFlight, backend, capacity_queue, health_state, reconcile::Reconciler};
use crate::reason::Reason;

const SESSION: u64 = 0x5e55_1011;
const TOTAL: Duration = Duration::from_secs(120);
/// More steps than any request takes.
const MANY: usize = 4000;

/// What a backend does with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Serves,
    Refuses,
    ConnectsSlowly,
    Resets,
    SpeaksGarbage,
    IsSilent,
    Says503,
    IsDeclaredDown,
    LosesTheSession,
    LacksDescriptors,
}

impl Does {
    fn failure(self) -> Option<Failure> {
        let (fact, sent) = match self {
            Does::Serves => return None,
            Does::Refuses => (Fact::Connect(Reason::Io(ErrorKind::ConnectionRefused)), false),
            Does::ConnectsSlowly => (Fact::ConnectTimeout, false),
            Does::Resets => (Fact::Closed, true),
            Does::SpeaksGarbage => (Fact::Garbage, true),
            Does::IsSilent => (Fact::ResponseTimeout, true),
            Does::Says503 => (Fact::Status(503), true),
            Does::IsDeclaredDown => (Fact::Lost, true),
            Does::LosesTheSession => (Fact::SessionMoved, true),
            Does::LacksDescriptors => (Fact::Shortage, false),
        };
        Some(Failure::new(fact, sent))
    }
}

/// The state of a backend when the request arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Down,
    Drain,
    Maintenance,
    Full,
    NoWeight,
}

#[derive(Debug, Clone)]
struct Server {
    state: State,
    is_backup: bool,
    /// What it does, attempt by attempt; the last one for ever.
    does: Vec<Does>,
}

#[derive(Debug, Clone)]
struct Case {
    servers: Vec<Server>,
    kind: usize,
    /// The server that the pin names; one beyond the last is none of the pool's.
    pinned: Option<usize>,
    policies: Vec<(Cause, Policy)>,
    retry: retry::Settings,
    repeatable: bool,
    replayable: bool,
    /// Whether a wait ends with its backend, wait by wait; the last one for ever.
    is_back: Vec<bool>,
    /// How long an attempt takes, in milliseconds.
    takes: u64,
    /// Whether the pool has a queue for requests without capacity.
    has_queue: bool,
    seed: u64,
}

/// What became of a request.
#[derive(Debug)]
struct RunOutcome {
    served: Option<usize>,
    error: Option<ProxyError>,
    decision: Decision,
    /// How often it was executed, by position.
    executions: HashMap<usize, u32>,
    waits: usize,
}

fn pool(servers: &[Server], has_queue: bool) -> (Arc<Pool>, Vec<InFlight>) {
    let backends = servers.iter().enumerate().map(|(index, server)| backend::Settings {
        weight: u32::from(server.state != State::NoWeight),
        backup: server.is_backup,
        max_requests: (server.state == State::Full).then_some(1),
        ..backend::Settings::new(&format!("b{index}"), ([127, 0, 0, 1], 9000 + index as u16).into())
    });
    // One refused request ejects, where the pool can spare it.
    let health_state = health_state::Settings { consecutive_failures: 1, ..health_state::Settings::default() };
    let settings = crate::pool::Settings {
        name: "p".into(),
        backends: backends.collect(),
        health_state,
        queue: has_queue.then(capacity_queue::Settings::default),
        ..crate::pool::Settings::default()
    };
    let pool = Reconciler::new(1).pools(&[settings]).remove(0);
    let mut busy = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let live = pool.backend(index).live();
        match server.state {
            State::Up | State::NoWeight => {}
            State::Down => drop(pool.observe(index, Observation::probe(false), Instant::now())),
            State::Drain => live.set_state(AdminState::Drain),
            State::Maintenance => live.set_state(AdminState::Maintenance),
            State::Full => busy.push(InFlight::on(live, 0)),
        }
    }
    (pool, busy)
}

fn policies(reported: &[(Cause, Policy)]) -> Policies {
    let mut policies = Policies::default();
    reported
        .iter()
        .filter(|(cause, policy)| policy.suits(*cause))
        .for_each(|(cause, policy)| policies.set(*cause, *policy));
    policies
}

/// Takes the next of a script, whose last word holds for ever.
fn next<T: Copy>(script: &[T], at: &mut usize) -> T {
    *at += 1;
    script[(*at - 1).min(script.len() - 1)]
}

/// Runs one request through the decision, and asserts all that holds at each step.
fn run(case: &Case) -> RunOutcome {
    let (pool, _busy) = pool(&case.servers, case.has_queue);
    let session_policy = SessionPolicy {
        policies: policies(&case.policies),
        lifetimes: Lifetimes::default(),
        ..SessionPolicy::default()
    };
    let lookup = case.pinned.map_or(PinLookup::Absent, |pinned| {
        let backend = pool.backends().get(pinned);
        let (name, incarnation) = backend.map_or(("gone".into(), 0), |b| ((&**b.name()).into(), b.incarnation()));
        let (session, term, replica) = (SESSION, 0, None);
        let pin = Pin { session, backend: name, incarnation, issued: 50, last_seen: 50, term, replica };
        PinLookup::Pinned(Arc::new(pin))
    });
    let decision = decide::decide(lookup, &pool, &session_policy, 100, case.seed);
    let (started, budget, balancer) =
        (decision.clone(), RetryBudget::new(20), BalancerKind::ALL[case.kind].build(&pool, 1));
    let rules = OrderRules {
        pool: &pool,
        policies: &session_policy.policies,
        retry: &case.retry,
        budget: &budget,
        balancer: &*balancer,
        converge: None,
    };
    budget.deposit();
    let mut order = CandidateOrder::new(rules, decision);
    let begun = Instant::now();
    let (mut now, deadline) = (begun, begun + TOTAL);
    let (mut draws, mut waits, mut unreached) = (case.seed, 0, 0);
    let (mut at, mut back_at) = (vec![0; case.servers.len()], 0);
    let (mut tried, mut executions) = (Vec::new(), HashMap::<usize, u32>::new());
    let (mut until, mut queued) = (None, None);
    for _ in 0..MANY {
        let draw = || {
            draws = crate::pool::hash::mix(draws);
            draws
        };
        match order.next(now, deadline, draw) {
            Step::Wait(wait) => {
                assert_eq!(Some(wait.index), started.pinned, "only its own server is waited for");
                assert!(now < wait.until && wait.until <= deadline);
                // As long as the reason stays, so does the end.
                until = until.max(Some(wait.until));
                waits += 1;
                let is_back = next(&case.is_back, &mut back_at);
                now = if is_back { wait.until.min(now + Duration::from_millis(100)) } else { wait.until };
                let is_back = is_back && now < wait.until;
                if is_back {
                    tried.retain(|index| *index != wait.index);
                }
                order.waited(is_back);
            }
            Step::Queue(wait) => {
                assert!(case.has_queue && executions.is_empty(), "a backend may have executed it");
                assert!(now < wait.until && wait.until <= deadline.min(begun + TOTAL));
                assert!(queued.is_none_or(|queued| wait.until <= queued), "it waits longer than it may");
                queued = Some(wait.until);
                let is_full = |index: &usize| case.servers[*index].state == State::Full && !tried.contains(index);
                let full: Vec<_> = (0..case.servers.len()).filter(is_full).collect();
                assert!(!full.is_empty(), "it waits for nothing");
                let own = match wait.claim {
                    PoolClaim::Own(own) => Some(own),
                    PoolClaim::Moving | PoolClaim::New => None,
                };
                assert!(own.is_none_or(|own| started.pinned == Some(own) && full.contains(&own)));
                match next(&case.is_back, &mut back_at) {
                    true => order.queued(Ok(own.unwrap_or(full[0]))),
                    false => {
                        now = wait.until;
                        order.queued(Err(Unserved::QueueTimeout));
                    }
                }
            }
            Step::Try(index) => {
                assert!(now < deadline, "the time for all attempts is over");
                assert!(!tried.contains(&index), "{index} is asked again without having been waited for");
                if tried.is_empty() && waits == 0 && started.verdict == Verdict::Hit {
                    assert_eq!(Some(index), started.pinned, "who can stay is sent to its own server");
                }
                tried.push(index);
                now += Duration::from_millis(case.takes);
                let failure = next(&case.servers[index].does, &mut at[index]).failure();
                let facts = RetryFacts {
                    repeatable: case.repeatable,
                    replayable: case.replayable,
                    sent: 0,
                    in_time: now < deadline,
                    backend_lost: false,
                };
                if failure.is_none_or(|failure| failure.sent) {
                    *executions.entry(index).or_default() += 1;
                }
                // A failure that must not be retried reaches the client unchanged.
                let is_passed_on = |failure: Failure| {
                    let may_be_tried =
                        matches!(failure.fact, Fact::Status(code) if case.retry.retry_on.status.contains(&code));
                    matches!(failure.fact, Fact::Status(_))
                        && !(may_be_tried && order.may_discard_response(failure, facts))
                };
                let Some(failure) = failure.filter(|failure| !is_passed_on(*failure)) else {
                    order.served(index);
                    let decision = order.decision().clone();
                    return RunOutcome { served: Some(index), error: None, decision, executions, waits };
                };
                if !order.has_waited() {
                    unreached += u32::from(!failure.sent);
                    if failure.blame == Blame::Backend {
                        pool.observe(index, Observation::failure(FailedRequest::Connect), now);
                    }
                }
                let avoids = order.failed(index, failure, facts);
                assert!(!avoids || (started.pinned == Some(index) && !failure.is_unusable_response()));
            }
            Step::End(error) => {
                assert!(unreached <= case.retry.connect_attempts, "{unreached} attempts that reached nobody");
                assert!(until.is_none_or(|until| until <= deadline));
                let decision = order.decision().clone();
                return RunOutcome { served: None, error: Some(error), decision, executions, waits };
            }
        }
    }
    panic!("it never ends");
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        3 => Just(Does::Serves),
        3 => Just(Does::Refuses),
        1 => Just(Does::ConnectsSlowly),
        3 => Just(Does::Resets),
        1 => Just(Does::SpeaksGarbage),
        1 => Just(Does::IsSilent),
        1 => Just(Does::Says503),
        1 => Just(Does::IsDeclaredDown),
        1 => Just(Does::LosesTheSession),
        1 => Just(Does::LacksDescriptors),
    ]
}

fn server() -> impl Strategy<Value = Server> {
    let state = prop_oneof![
        6 => Just(State::Up),
        1 => Just(State::Down),
        1 => Just(State::Drain),
        1 => Just(State::Maintenance),
        1 => Just(State::Full),
        1 => Just(State::NoWeight),
    ];
    (state, prop::bool::weighted(0.2), prop::collection::vec(does(), 1..4))
        .prop_map(|(state, is_backup, does)| Server { state, is_backup, does })
}

fn policy() -> impl Strategy<Value = Policy> {
    let wait = (1u64..200, 1u32..3).prop_map(|(seconds, most)| {
        Policy::Wait(WaitPolicy { max_time: Duration::from_millis(seconds * 100), max_waiting: most })
    });
    prop_oneof![
        2 => Just(Policy::Move),
        1 => Just(Policy::Borrow),
        1 => Just(Policy::Refuse(RefusePolicy::default())),
        3 => wait,
    ]
}

fn retry_settings() -> impl Strategy<Value = retry::Settings> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (1u32..5, 1u32..6, flags).prop_map(|(attempts, connect_attempts, (reset, timeout, status))| {
        let status = if status { vec![503] } else { Vec::new() };
        let retry_on = retry::RetryOn { reset, timeout, status, ..retry::Settings::default().retry_on };
        retry::Settings { attempts, connect_attempts, retry_on, ..retry::Settings::default() }
    })
}

fn case() -> impl Strategy<Value = Case> {
    let causes = [Cause::Down, Cause::Failed, Cause::Full, Cause::Maintenance, Cause::Draining, Cause::Unknown];
    let reported = prop::collection::vec((prop::sample::select(causes.to_vec()), policy()), 0..5);
    let script = prop::collection::vec(any::<bool>(), 1..4);
    let request = (any::<bool>(), prop::bool::weighted(0.8), script, 1u64..3000, any::<bool>());
    (
        prop::collection::vec(server(), 1..6),
        0..BalancerKind::ALL.len(),
        any::<u64>(),
        reported,
        retry_settings(),
        request,
    )
        .prop_flat_map(
            |(servers, kind, seed, policies, retry, (repeatable, replayable, is_back, takes, has_queue))| {
                prop::option::weighted(0.8, 0..=servers.len()).prop_map(move |pinned| Case {
                    servers: servers.clone(),
                    kind,
                    pinned,
                    policies: policies.clone(),
                    retry: retry.clone(),
                    repeatable,
                    replayable,
                    is_back: is_back.clone(),
                    takes,
                    has_queue,
                    seed,
                })
            },
        )
}

#[test]
fn nobody_waits_in_the_queue_of_the_pool_for_a_full_backend_that_drains_but_its_own_sessions() {
    let server = |state| Server { state, is_backup: false, does: vec![Does::Serves] };
    let session_policy = SessionPolicy::default();
    let claim = |state: AdminState, pinned: Option<usize>| {
        let (pool, _busy) = pool(&[server(State::Full), server(State::Maintenance)], true);
        pool.backend(0).live().set_state(state);
        let lookup = pinned.map_or(PinLookup::Absent, |index| {
            let backend = pool.backend(index);
            let (backend, incarnation) = ((&**backend.name()).into(), backend.incarnation());
            let (session, term, replica) = (SESSION, 0, None);
            PinLookup::Pinned(Arc::new(Pin { session, backend, incarnation, issued: 50, last_seen: 50, term, replica }))
        });
        let decision = decide::decide(lookup, &pool, &session_policy, 100, 1);
        let (budget, retry) = (RetryBudget::new(20), retry::Settings::default());
        let balancer = BalancerKind::RoundRobin.build(&pool, 1);
        let rules = OrderRules {
            pool: &pool,
            policies: &session_policy.policies,
            retry: &retry,
            budget: &budget,
            balancer: &*balancer,
            converge: None,
        };
        let now = Instant::now();
        match CandidateOrder::new(rules, decision).next(now, now + TOTAL, || 1) {
            Step::Queue(wait) => Some(wait.claim),
            Step::End(ProxyError::NoBackend(_)) => None,
            step => panic!("{step:?}"),
        }
    };
    assert_eq!(claim(AdminState::Ready, None), Some(PoolClaim::New));
    assert_eq!(claim(AdminState::Ready, Some(1)), Some(PoolClaim::Moving));
    assert_eq!(claim(AdminState::Ready, Some(0)), Some(PoolClaim::Own(0)));
    assert_eq!(claim(AdminState::Drain, None), None);
    assert_eq!(claim(AdminState::Drain, Some(1)), None);
    assert_eq!(claim(AdminState::Drain, Some(0)), Some(PoolClaim::Own(0)));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(1000),
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_runs_twice_that_must_not(case in case()) {
        let RunOutcome { executions, waits, decision, .. } = run(&case);
        let all: u32 = executions.values().sum();
        if !case.repeatable {
            prop_assert!(all <= 1, "{executions:?}");
        }
        // A backend that the request waited for may get one more attempt than `attempts`.
        prop_assert!(all <= case.retry.attempts + u32::from(waits > 0), "{executions:?}");
        for (index, times) in executions {
            let most = if decision.pinned == Some(index) && waits > 0 { 2 } else { 1 };
            prop_assert!(times <= most, "{index}: {times}");
        }
    }

    #[test]
    fn the_verdict_says_who_has_served_and_nobody_is_moved_without_a_cause(case in case()) {
        let RunOutcome { served, error, decision, .. } = run(&case);
        match served {
            Some(index) if decision.pinned == Some(index) => {
                prop_assert_eq!((decision.verdict, decision.cause), (Verdict::Hit, None));
            }
            Some(_) if case.pinned.is_some() => {
                prop_assert!(matches!(decision.verdict, Verdict::Moved | Verdict::Borrowed), "{:?}", decision.verdict);
                prop_assert!(decision.cause.is_some());
            }
            Some(_) => prop_assert_eq!(decision.verdict, Verdict::New),
            None => {
                prop_assert!(!matches!(decision.verdict, Verdict::Moved | Verdict::Borrowed), "{:?}", decision.verdict);
                let is_unusable = matches!(error, Some(ProxyError::Backend(failure)) if failure.is_unusable_response());
                prop_assert!(decision.verdict == Verdict::Refused || is_unusable, "{error:?} {:?}", decision.verdict);
            }
        }
    }

    #[test]
    fn a_session_whose_server_serves_is_served_there_whatever_the_others_do(mut case in case(), pinned: prop::sample::Index) {
        let index = pinned.index(case.servers.len());
        if case.servers[index].state != State::NoWeight {
            case.servers[index].state = State::Up;
        }
        case.pinned = Some(index);
        case.servers[index].does = vec![Does::Serves];
        let RunOutcome { served, waits, decision, .. } = run(&case);
        prop_assert_eq!((served, waits, decision.verdict), (Some(index), 0, Verdict::Hit));
    }

    #[test]
    fn a_response_that_cannot_be_passed_on_breaks_no_pin_and_is_requested_once(mut case in case(), pinned: prop::sample::Index) {
        let index = pinned.index(case.servers.len());
        case.servers[index].state = State::Up;
        case.pinned = Some(index);
        case.servers[index].does = vec![Does::SpeaksGarbage];
        let RunOutcome { served, decision, executions, .. } = run(&case);
        prop_assert_eq!((served, decision.verdict, decision.cause), (None, Verdict::Hit, None));
        prop_assert_eq!(executions, HashMap::from([(index, 1)]));
    }

    #[test]
    fn a_shortage_of_our_own_breaks_no_pin_and_sends_nobody_elsewhere(mut case in case(), pinned: prop::sample::Index) {
        let index = pinned.index(case.servers.len());
        case.servers[index].state = State::Up;
        case.pinned = Some(index);
        case.servers[index].does = vec![Does::LacksDescriptors];
        let RunOutcome { served, decision, executions, .. } = run(&case);
        prop_assert_eq!((served, decision.cause, executions.len()), (None, None, 0));
    }

    #[test]
    fn waiting_turns_nothing_into_an_error_that_moving_would_have_served(mut case in case()) {
        // Servers that always behave the same way: else a request that waits would meet another behaviour.
        for (index, server) in case.servers.iter_mut().enumerate() {
            server.does.truncate(1);
            if case.pinned == Some(index) {
                server.state = State::Up;
            }
        }
        case.takes = 1;
        let waits = |policy: Policy| matches!(policy, Policy::Wait(_));
        case.policies.retain(|(cause, policy)| waits(*policy) && matches!(cause, Cause::Down | Cause::Failed));
        let waiting = run(&case);
        let moving = run(&Case { policies: Vec::new(), ..case });
        if moving.served.is_some() {
            prop_assert!(waiting.served.is_some(), "{:?} instead of {:?}", waiting, moving);
        }
    }
}
