//! Owns: the tests of every verdict, cause and policy.
//! Invariant: a new cause or policy without its expected result does not compile, or fails.
//! Must not know: how a request gets here.

use super::*;
use crate::affinity::{Lifetimes, SessionKey};
use crate::pool::observe::Observation;
use crate::pool::{InFlight, backend, reconcile};

const NOW: u64 = 1_000_000;
const LIFETIMES: Lifetimes = Lifetimes { idle: Some(400), absolute: Some(10_000) };

fn session_policy() -> SessionPolicy {
    SessionPolicy { lifetimes: LIFETIMES, policies: Policies::default(), max_clock_skew: Some(60) }
}

fn pool() -> Arc<Pool> {
    let backends = ["a", "b", "c"].into_iter().enumerate().map(|(index, name)| backend::Settings {
        max_requests: Some(1),
        ..backend::Settings::new(name, ([127, 0, 0, 1], 9000 + index as u16).into())
    });
    reconcile::pool_of("app", backends)
}

fn pin(pool: &Pool, backend: &str) -> Pin {
    let incarnation = pool.position(backend).map_or(0, |index| pool.backend(index).incarnation());
    let (term, replica) = (0, None);
    Pin { session: 5, backend: backend.into(), incarnation, issued: NOW - 1000, last_seen: NOW - 10, term, replica }
}

fn judge(pool: &Pool, pin: Pin) -> Decision {
    decide(PinLookup::Pinned(Arc::new(pin)), pool, &session_policy(), NOW, 99)
}

/// Makes `cause` apply to a pin to backend `a`. Returns the pool, the decision, and the guard that keeps the backend
/// busy.
fn with_cause(cause: Cause, policies: &Policies) -> (Arc<Pool>, Decision, Option<InFlight>) {
    let pool = pool();
    let live = pool.backend(0).live();
    let (base, mut busy) = (pin(&pool, "a"), None);
    let mut lookup = PinLookup::Pinned(Arc::new(base.clone()));
    match cause {
        Cause::Down => drop(pool.observe(0, Observation::probe(false), std::time::Instant::now())),
        Cause::Draining => live.set_state(AdminState::Drain),
        Cause::Maintenance => live.set_state(AdminState::Maintenance),
        Cause::Full => busy = Some(InFlight::on(live, 0)),
        Cause::Failed | Cause::Rebalanced => {}
        Cause::Unknown => lookup = PinLookup::Pinned(Arc::new(Pin { backend: "z".into(), ..base })),
        Cause::Replaced => lookup = PinLookup::Pinned(Arc::new(Pin { incarnation: 1, ..base })),
        Cause::IdleExpired => lookup = PinLookup::Pinned(Arc::new(Pin { last_seen: NOW - 400, ..base })),
        Cause::AbsoluteExpired => lookup = PinLookup::Pinned(Arc::new(Pin { issued: NOW - 10_000, ..base })),
        Cause::Unreadable => lookup = PinLookup::Unreadable,
    }
    let session_policy = SessionPolicy { lifetimes: LIFETIMES, policies: policies.clone(), max_clock_skew: Some(60) };
    let mut decision = decide(lookup, &pool, &session_policy, NOW, 99);
    if cause == Cause::Failed {
        assert_eq!(decision.target(), Some(0));
        decision.lose_target(0, Cause::Failed, &pool, policies);
    }
    if cause == Cause::Rebalanced {
        decision.rebalance_to(1);
    }
    (pool, decision, busy)
}

#[test]
fn every_policy_of_every_cause_has_its_verdict_its_pin_and_its_next_step() {
    let (refusal, wait) = (RefusePolicy { status: 421, retry_after: 9 }, WaitPolicy::default());
    let policies = [Policy::Move, Policy::Borrow, Policy::Refuse(refusal), Policy::Wait(wait)];
    for (cause, policy) in Cause::ALL.into_iter().flat_map(|cause| policies.map(|policy| (cause, policy))) {
        if !policy.suits(cause) {
            continue;
        }
        let mut all = Policies::default();
        all.set(cause, policy);
        let (pool, decision, _busy) = with_cause(cause, &all);
        let what = format!("{cause:?} {policy:?}");
        let (verdict, next, pins_to) = match policy {
            Policy::Move => (Verdict::Moved, NextStep::Serve, Some("b")),
            Policy::Borrow => (Verdict::Borrowed, NextStep::Serve, None),
            Policy::Refuse(refusal) => (Verdict::Refused, NextStep::Refuse(refusal), None),
            Policy::Wait(wait) => (Verdict::Moved, NextStep::Wait(wait), Some("b")),
        };
        assert_eq!((decision.verdict, decision.next, decision.cause), (verdict, next, Some(cause)), "{what}");
        assert_eq!((decision.session, decision.issued, decision.target()), (5, NOW - 1000, None), "{what}");
        let pinned = decision.pin(&pool, 1, NOW).map(|pin| pin.backend.to_string());
        assert_eq!(pinned.as_deref(), pins_to, "{what}");
    }
}

#[test]
fn without_a_policy_every_cause_moves_the_session_except_its_end_and_a_drain() {
    for cause in Cause::ALL {
        let (_, decision, _busy) = with_cause(cause, &Policies::default());
        let (verdict, expected) = match cause {
            Cause::Draining => (Verdict::Hit, None),
            Cause::IdleExpired | Cause::AbsoluteExpired | Cause::Unreadable => (Verdict::New, Some(cause)),
            _ => (Verdict::Moved, Some(cause)),
        };
        assert_eq!(
            (decision.verdict, decision.cause, decision.next),
            (verdict, expected, NextStep::Serve),
            "{cause:?}"
        );
        assert_eq!(decision.session, if verdict == Verdict::New { 99 } else { 5 }, "{cause:?}");
    }
}

#[test]
fn a_rebalanced_session_is_pinned_to_its_new_backend_and_stays_where_it_is_if_that_fails_it() {
    let (pool, mut decision, _) = with_cause(Cause::Rebalanced, &Policies::default());
    assert_eq!((decision.target(), decision.pinned), (Some(1), Some(0)));
    let pin = decision.pin(&pool, 1, NOW).unwrap();
    assert_eq!((&*pin.backend, pin.session, pin.issued), ("b", 5, NOW - 1000));
    decision.lose_target(1, Cause::Failed, &pool, &Policies::default());
    assert_eq!((decision.verdict, decision.cause, decision.target()), (Verdict::Hit, None, Some(0)));
    let mut forced = Decision::forced(0, 7);
    forced.rebalance_to(1);
    assert_eq!(forced.target(), Some(0));
}

#[test]
fn a_pin_that_holds_is_a_hit_and_renewed_when_it_is_due() {
    let pool = pool();
    let base = || pin(&pool, "a");
    for (name, pin, is_due) in [
        ("fresh", base(), false),
        ("due", Pin { last_seen: NOW - 100, ..base() }, true),
        ("from the future", Pin { issued: NOW + 60, last_seen: NOW + 60, ..base() }, false),
    ] {
        let decision = judge(&pool, pin);
        assert_eq!((decision.verdict, decision.cause, decision.target()), (Verdict::Hit, None, Some(0)), "{name}");
        assert_eq!(decision.pin(&pool, 0, NOW).is_some(), is_due, "{name}");
    }
    pool.backend(0).live().set_weight(0);
    assert_eq!(judge(&pool, base()).verdict, Verdict::Hit, "weight 0 keeps its sessions");
}

#[test]
fn a_request_without_a_pin_is_new_and_an_unpinned_one_has_no_verdict() {
    let pool = pool();
    let new = decide(PinLookup::Absent, &pool, &session_policy(), NOW, 99);
    assert_eq!((new.verdict, new.cause, new.session, new.target()), (Verdict::New, None, 99, None));
    assert_eq!(new.pin(&pool, 1, NOW).unwrap().issued, NOW);
    let none = Decision::unpinned(1);
    assert_eq!((none.verdict, none.pin(&pool, 0, NOW)), (Verdict::None, None));
    let mut forced = Decision::forced(2, 1);
    forced.lose_target(2, Cause::Failed, &pool, &Policies::default());
    assert_eq!((forced.verdict, forced.target(), forced.is_exclusive()), (Verdict::None, Some(2), true));
}

#[test]
fn a_moved_session_keeps_its_id_and_age_and_names_its_new_backend() {
    let (pool, policies) = (pool(), Policies::default());
    let mut decision = judge(&pool, pin(&pool, "a"));
    decision.lose_target(1, Cause::Failed, &pool, &policies);
    assert_eq!(decision.verdict, Verdict::Hit, "another backend's failure changes nothing");
    decision.lose_target(0, Cause::Failed, &pool, &policies);
    assert_eq!((decision.verdict, decision.cause, decision.target()), (Verdict::Moved, Some(Cause::Failed), None));
    let moved = decision.pin(&pool, 2, NOW).unwrap();
    assert_eq!((moved.session, moved.issued, &*moved.backend), (5, NOW - 1000, "c"));
    assert_eq!(moved.last_seen, NOW);
}

#[test]
fn a_borrowed_session_keeps_its_pin_alive() {
    let pool = pool();
    let mut policies = Policies::default();
    policies.set(Cause::Unknown, Policy::Borrow);
    let session_policy = SessionPolicy { lifetimes: LIFETIMES, policies, max_clock_skew: None };
    let presented = Pin { last_seen: NOW - 200, ..pin(&pool, "z") };
    let decision = decide(PinLookup::Pinned(Arc::new(presented.clone())), &pool, &session_policy, NOW, 99);
    assert_eq!(decision.pin(&pool, 1, NOW), Some(Pin { last_seen: NOW, ..presented }));
    assert!(!decision.counts_as_session());
}

#[test]
fn a_request_that_has_waited_is_a_hit_if_its_backend_returns_and_moves_if_not() {
    let mut policies = Policies::default();
    policies.set(Cause::Down, Policy::Wait(WaitPolicy::default()));
    let (pool, decision, _) = with_cause(Cause::Down, &policies);
    let (mut hit, mut moved) = (decision.clone(), decision);
    hit.resume_on_pinned();
    assert_eq!((hit.verdict, hit.cause, hit.target(), hit.next), (Verdict::Hit, None, Some(0), NextStep::Serve));
    moved.stop_waiting();
    assert_eq!((moved.verdict, moved.cause, moved.target()), (Verdict::Moved, Some(Cause::Down), None));
    assert_eq!(moved.next, NextStep::Serve);
    hit.lose_target(0, Cause::Failed, &pool, &policies);
    assert_eq!(hit.next, NextStep::Wait(WaitPolicy::default()), "the policy for `down` applies to `failed`");
}

#[test]
fn a_session_served_by_its_own_backend_was_not_moved_and_a_namesake_is_another_backend() {
    let policies = Policies::default();
    let (pool, mut down, _) = with_cause(Cause::Down, &policies);
    down.mark_served_by(0);
    assert_eq!((down.verdict, down.cause, down.pin(&pool, 0, NOW)), (Verdict::Hit, None, None));
    let (_, mut down, _) = with_cause(Cause::Down, &policies);
    down.mark_served_by(1);
    assert_eq!((down.verdict, down.cause), (Verdict::Moved, Some(Cause::Down)));
    down.mark_unserved(false);
    assert_eq!(down.verdict, Verdict::Refused, "an error page of ours moves no session");
    let (pool, mut replaced, _) = with_cause(Cause::Replaced, &policies);
    replaced.mark_served_by(0);
    assert_eq!((replaced.verdict, replaced.cause), (Verdict::Moved, Some(Cause::Replaced)));
    assert!(replaced.pin(&pool, 0, NOW).is_some());
}

#[test]
fn an_id_that_names_its_backend_goes_there_or_to_one_that_has_a_copy() {
    let pool = pool();
    let mut strict = Policies::default();
    strict.set(Cause::Maintenance, Policy::Refuse(RefusePolicy::default()));
    let session_policy = SessionPolicy { lifetimes: Lifetimes::default(), policies: strict, max_clock_skew: None };
    let judge_routed =
        |backends| decide(PinLookup::Routed(RoutedId { session: 5, backends }), &pool, &session_policy, NOW, 99);
    let outcome = |decision: Decision| (decision.verdict, decision.cause, decision.target());
    assert_eq!(outcome(judge_routed([Some(0), Some(1), None])), (Verdict::Hit, None, Some(0)));
    assert_eq!(outcome(judge_routed([None; 3])), (Verdict::Moved, Some(Cause::Unknown), None));
    pool.backend(0).live().set_state(AdminState::Maintenance);
    assert_eq!(outcome(judge_routed([Some(0), Some(1), None])), (Verdict::Moved, Some(Cause::Maintenance), Some(1)));
    pool.backend(1).live().set_state(AdminState::Maintenance);
    assert_eq!(outcome(judge_routed([Some(0), Some(1), Some(2)])), (Verdict::Moved, Some(Cause::Maintenance), Some(2)));
    assert_eq!(judge_routed([Some(0), Some(1), None]).next, NextStep::Refuse(RefusePolicy::default()));
    assert_eq!(judge_routed([Some(0), None, None]).session, 5);
}

#[test]
fn a_session_whose_pin_names_a_replica_moves_there_first_whatever_the_policy() {
    let policies = [Policy::Move, Policy::Borrow, Policy::Refuse(RefusePolicy::default())];
    for policy in policies {
        let pool = pool();
        let mut all = Policies::default();
        all.set(Cause::Maintenance, policy);
        let session_policy = SessionPolicy { lifetimes: LIFETIMES, policies: all.clone(), max_clock_skew: None };
        let judge = |replica: &str| {
            let pin = Pin { replica: Some(replica.into()), term: 4, ..pin(&pool, "a") };
            decide(PinLookup::Pinned(Arc::new(pin)), &pool, &session_policy, NOW, 99)
        };
        let mut failed = judge("c");
        assert_eq!((failed.verdict, failed.target()), (Verdict::Hit, Some(0)));
        failed.lose_target(0, Cause::Failed, &pool, &all);
        assert_eq!((failed.verdict, failed.target()), (Verdict::Moved, Some(2)), "{policy:?}");

        pool.backend(0).live().set_state(AdminState::Maintenance);
        let moved = judge("c");
        assert_eq!((moved.verdict, moved.next, moved.target()), (Verdict::Moved, NextStep::Serve, Some(2)));
        let pin = moved.pin(&pool, 2, NOW).unwrap();
        assert_eq!((&*pin.backend, pin.term, pin.replica), ("c", 4, None), "nobody said which replica it has now");
        for other in ["a", "gone"] {
            let decision = judge(other);
            assert_eq!(decision.target(), None, "{other}");
            assert_eq!(decision.cause, Some(Cause::Maintenance));
        }
        pool.backend(2).live().set_state(AdminState::Maintenance);
        assert_eq!(judge("c").target(), None, "a replica that can't serve either");
    }
}

#[test]
fn a_pin_is_due_once_its_term_or_its_replica_has_changed() {
    let pool = pool();
    let presented = || Pin { replica: Some("b".into()), term: 4, ..pin(&pool, "a") };
    let issued = |change: &dyn Fn(&mut Decision)| {
        let mut decision = judge(&pool, presented());
        change(&mut decision);
        let pin = decision.pin(&pool, 0, NOW);
        assert_eq!(decision.changed_pin(&pool, 0, NOW), pin);
        pin.map(|pin| (pin.term, pin.replica.as_deref().map(str::to_owned)))
    };
    assert_eq!(issued(&|_| {}), None);
    assert_eq!(issued(&|decision| decision.set_term(4)), None);
    assert_eq!(issued(&|decision| decision.set_replica(Some(1))), None);
    assert_eq!(issued(&|decision| decision.set_term(5)), Some((5, Some("b".into()))));
    assert_eq!(issued(&|decision| decision.set_replica(Some(2))), Some((4, Some("c".into()))));
    assert_eq!(issued(&|decision| decision.set_replica(None)), Some((4, None)));
    assert_eq!(issued(&|decision| decision.set_replica(Some(0))), Some((4, None)), "the backend that holds it");

    // A renewed pin keeps both.
    let due = judge(&pool, Pin { last_seen: NOW - 100, ..presented() });
    assert_eq!(due.pin(&pool, 0, NOW), Some(Pin { last_seen: NOW, ..presented() }));
    assert_eq!(due.changed_pin(&pool, 0, NOW), None);
}

#[test]
fn a_borrowed_sessions_pin_is_due_once_its_term_has_changed_and_stays_on_its_backend() {
    let pool = pool();
    let mut policies = Policies::default();
    policies.set(Cause::Unknown, Policy::Borrow);
    let session_policy = SessionPolicy { lifetimes: LIFETIMES, policies, max_clock_skew: None };
    let presented = pin(&pool, "z");
    let mut decision = decide(PinLookup::Pinned(Arc::new(presented.clone())), &pool, &session_policy, NOW, 99);
    assert_eq!(decision.pin(&pool, 1, NOW), None);
    decision.set_term(1);
    assert_eq!(decision.pin(&pool, 1, NOW), Some(Pin { last_seen: NOW, term: 1, ..presented }));
}

#[test]
fn a_new_session_begins_with_term_0_and_without_a_replica() {
    let pool = pool();
    let old = Pin { last_seen: NOW - 400, term: 4, replica: Some("b".into()), ..pin(&pool, "a") };
    let pin = judge(&pool, old).pin(&pool, 0, NOW).unwrap();
    assert_eq!((pin.session, pin.term, pin.replica), (99, 0, None));
}

#[test]
fn an_unlearned_id_goes_where_every_linchpin_would_send_it() {
    let pool = pool();
    let decision = decide(PinLookup::Unlearned(SessionKey([7, 8])), &pool, &session_policy(), NOW, 99);
    assert_eq!((decision.verdict, decision.cause), (Verdict::Moved, Some(Cause::Unknown)));
    assert_eq!((decision.session, decision.has_presented_pin()), (7, false));
}

#[test]
fn a_pin_that_is_dated_further_ahead_than_the_clock_skew_is_no_pin() {
    let pool = pool();
    for (issued, last_seen, holds) in [
        (NOW + 60, NOW + 60, true),
        (NOW - 10, NOW + 61, false),
        (NOW + 61, NOW - 10, false),
        (u64::MAX, u64::MAX, false),
    ] {
        let decision = judge(&pool, Pin { issued, last_seen, ..pin(&pool, "a") });
        let actual = (decision.verdict, decision.cause, decision.session);
        let expected = if holds { (Verdict::Hit, None, 5) } else { (Verdict::New, Some(Cause::Unreadable), 99) };
        assert_eq!(actual, expected, "{issued} {last_seen}");
        assert!(
            holds || decision.issued == NOW && decision.pin(&pool, 1, NOW).is_some(),
            "a new pin with today's date follows"
        );
    }
    let far = Pin { issued: NOW + 1_000_000, ..pin(&pool, "a") };
    let decision = decide(PinLookup::Pinned(Arc::new(far)), &pool, &SessionPolicy::default(), NOW, 99);
    assert_eq!(decision.verdict, Verdict::Hit, "a table's times come from this clock, so no skew applies");
}

#[test]
fn without_limits_a_pin_never_expires_and_is_never_renewed() {
    let pool = pool();
    let pin = Pin { issued: 0, last_seen: 0, ..pin(&pool, "a") };
    let decision = decide(PinLookup::Pinned(Arc::new(pin)), &pool, &SessionPolicy::default(), NOW, 1);
    assert_eq!(decision.verdict, Verdict::Hit);
    assert_eq!(decision.pin(&pool, 0, NOW), None);
}
