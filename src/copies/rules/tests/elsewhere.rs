//! Owns: the tests of the rules for states that are elsewhere: in a shared store, or on other servers of the pool.
//! Invariant: no test uses a socket, a clock or a thread.
//! Must not know: how a copy is given or stored.

use super::*;

#[test]
fn a_hand_over_takes_term_and_state_of_a_shared_store_and_goes_on_without_one() {
    let v = |term, seq| Version { term, seq };
    let shared = || {
        let mut session = Session::new(3, Some(server(0)));
        session.set_shared_store(true);
        session
    };
    let fetch = |session: &mut Session| match session.before_request(server(1), |_| false, true) {
        BeforeRequest::Fetch(number) => number,
        other => panic!("{other:?}"),
    };

    let mut session = shared();
    let number = fetch(&mut session);
    let waits = BeforeRequest::Wait(Wait::HandOver);
    assert_eq!(session.before_request(server(1), |_| false, true), waits, "one question for all");
    assert!(session.fetched(number, server(1), Some(7), Some(Fetched::Held(v(5, 9)))));
    match session.before_request(server(1), |_| false, true) {
        BeforeRequest::Give { version, .. } => assert_eq!(version, v(7, 9)),
        other => panic!("{other:?}"),
    }

    // What the store knows of an end, or of a lost copy, is true as well.
    for (fetched, seq, dropped) in [(Fetched::Dropped(v(5, 9)), Some(9), true), (Fetched::Lost(v(5, 9)), None, false)] {
        let mut session = shared();
        let number = fetch(&mut session);
        assert!(session.fetched(number, server(1), Some(7), Some(fetched)));
        match session.before_request(server(1), |_| false, true) {
            BeforeRequest::Send(claim) => assert_eq!((claim.term, claim.seq, claim.dropped), (7, seq, dropped)),
            other => panic!("{other:?}"),
        }
    }

    // Without the store, what is known here counts. A term for one server is none for another.
    let mut session = shared();
    let number = fetch(&mut session);
    assert!(!session.fetched(number, server(1), None, None));
    assert!(matches!(session.before_request(server(2), |_| false, true), BeforeRequest::Fetch(_)));
    let mut session = shared();
    let number = fetch(&mut session);
    assert!(!session.fetched(number, server(1), None, None));
    match session.before_request(server(1), |_| false, true) {
        BeforeRequest::Send(claim) => assert_eq!((claim.term, claim.seq), (4, None)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_older_state_of_a_shared_store_replaces_nothing() {
    let mut session = saved();
    session.set_shared_store(true);
    let BeforeRequest::Fetch(number) = session.before_request(server(1), |_| false, true) else {
        panic!("no question")
    };
    assert!(!session.fetched(number, server(1), Some(3), Some(Fetched::Held(version(1, 4)))));
    assert_eq!(give(&mut session, 1).1, version(3, 5));
}

#[test]
fn a_new_state_is_on_no_replica_until_it_is_placed_again() {
    let mut session = saved();
    assert!(session.placed(version(1, 5), vec![server(1)]));
    let claim = sent(&mut session, 0);
    assert_eq!(session.saved(&claim, version(1, 6), false), Saved::Stored);
    assert!(session.replicas().is_empty() && session.is_held());
}

#[test]
fn a_session_of_which_only_its_pin_is_known_asks_a_shared_store_once_where_its_server_is() {
    let looks = || {
        let mut session = Session::new(3, Some(server(0)));
        session.set_shared_store(true);
        let BeforeRequest::Look(number) = session.before_request(server(0), |_| true, true) else {
            panic!("no question")
        };
        let waits = BeforeRequest::Wait(Wait::HandOver);
        assert_eq!(session.before_request(server(0), |_| true, true), waits, "one question for all");
        (session, number)
    };
    let known = |term, is_holder, newest| Some(Known { term, is_holder, newest });
    let (held, dropped) = (Some(Fetched::Held(version(2, 9))), Some(Fetched::Dropped(version(3, 9))));
    for (answer, is_newest, seq, is_dropped) in [
        (known(3, true, held), true, Some(9), false),
        (known(3, true, dropped), true, Some(9), true),
        (known(3, true, Some(Fetched::Lost(version(3, 9)))), false, None, false),
        (known(3, true, None), false, None, false),
        (known(2, true, held), false, None, false),
        (known(0, false, None), false, None, false),
        (None, false, None, false),
    ] {
        let (mut session, number) = looks();
        assert_eq!(session.looked(number, answer), is_newest, "{answer:?}");
        let claim = sent(&mut session, 0);
        assert_eq!((claim.term, claim.seq, claim.dropped), (3, seq, is_dropped), "{answer:?}");
        assert_eq!(sent(&mut session, 0).seq, seq, "it asks once");
    }
    // Another Linchpin has handed the session over: the pin is old.
    for answer in [known(4, false, held), known(4, true, held), known(3, false, held)] {
        let (mut session, number) = looks();
        assert!(!session.looked(number, answer));
        assert!(matches!(session.before_request(server(0), |_| true, true), BeforeRequest::Fetch(_)), "{answer:?}");
    }
    // What was evicted here is asked for again, and what is out of date is not.
    let (mut session, number) = looks();
    assert!(session.looked(number, known(3, true, held)));
    let claim = sent(&mut session, 0);
    session.ended(&claim);
    session.forget();
    let BeforeRequest::Look(number) = session.before_request(server(0), |_| true, true) else { panic!("no question") };
    assert!(session.looked(number, known(3, true, held)));
    let claim = sent(&mut session, 0);
    assert_eq!(session.not_stored(&claim, Some(version(3, 10))), Saved::Stored);
    session.ended(&claim);
    assert_eq!(sent(&mut session, 0).seq, None);
}

#[test]
fn a_term_that_another_linchpin_has_given_out_meanwhile_is_left() {
    let shared = || {
        let mut session = saved();
        session.set_shared_store(true);
        session
    };
    for term in [1, 4] {
        let mut session = shared();
        session.overtaken(1, term);
        assert!(!session.is_held());
        assert!(matches!(session.before_request(server(0), |_| true, true), BeforeRequest::Fetch(_)), "{term}");
    }
    // The refused state was of a term that is over here as well, or is about to be.
    let mut session = shared();
    let BeforeRequest::Fetch(number) = session.before_request(server(1), |_| false, true) else {
        panic!("no question")
    };
    session.overtaken(1, 2);
    assert!(session.is_held());
    assert!(!session.fetched(number, server(1), Some(2), None));
    assert_eq!(give(&mut session, 1).1, version(2, 5));
    session.overtaken(1, 2);
    assert!(session.is_held());
}

#[test]
fn after_a_replica_that_was_never_reached_another_one_continues_with_what_it_has() {
    let placed = || {
        let mut session = saved();
        assert!(session.placed(version(1, 5), vec![server(1), server(2)]));
        let BeforeRequest::Send(claim) = session.before_request(server(1), |_| false, true) else { panic!("it waits") };
        (session, claim)
    };
    let next = |session: &mut Session| match session.before_request(server(2), |_| false, true) {
        BeforeRequest::Send(claim) => (claim.term, claim.seq),
        other => panic!("{other:?}"),
    };
    let (mut session, claim) = placed();
    session.unsent(&claim);
    assert_eq!(next(&mut session), (2, None), "one term on: it saves what it has");
    let (mut session, claim) = placed();
    session.ended(&claim);
    assert_eq!(next(&mut session), (4, None), "the first may have changed the state: it forgets what it has");
    let (mut session, claim) = placed();
    session.ended(&claim);
    let BeforeRequest::Send(other) = session.before_request(server(1), |_| false, true) else { panic!("it waits") };
    session.unsent(&other);
    assert_eq!(next(&mut session), (4, None), "the first server has the term, whatever became of a later request");
}

#[derive(Debug, Clone)]
enum Step {
    Request { to: usize, lives: bool, may_wait: bool },
    NeverSent(prop::sample::Index),
    Ends { at: prop::sample::Index, saves: bool, replicas: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    use prop::sample::Index;
    prop_oneof![
        4 => (0..4_usize, any::<bool>(), any::<bool>())
            .prop_map(|(to, lives, may_wait)| Step::Request { to, lives, may_wait }),
        2 => any::<Index>().prop_map(Step::NeverSent),
        3 => (any::<Index>(), any::<bool>(), 0..16_u8)
            .prop_map(|(at, saves, replicas)| Step::Ends { at, saves, replicas }),
    ]
}

proptest! {
    /// Random orders of requests that reach their servers and of requests that don't, where others keep the copies.
    #[test]
    fn no_two_servers_ever_get_the_same_term(steps in prop::collection::vec(step(), 1..60)) {
        let mut session = Session::replicated(0, Some(server(0)), Some(server(1)));
        let mut in_flight: Vec<Claim> = Vec::new();
        let mut of_term: HashMap<u32, Holder> = HashMap::new();
        let mut seq = 0;
        for step in steps {
            match step {
                Step::Request { to, lives, may_wait } => {
                    match session.before_request(server(to), |_| lives, may_wait) {
                        BeforeRequest::Send(claim) => in_flight.push(claim),
                        BeforeRequest::Give { hand_over, .. } => drop(session.gave(hand_over, Given::Refused)),
                        BeforeRequest::Wait(_) => prop_assert!(may_wait),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::NeverSent(at) if !in_flight.is_empty() => {
                    let claim = in_flight.swap_remove(at.index(in_flight.len()));
                    session.unsent(&claim);
                }
                Step::Ends { at, saves, replicas } if !in_flight.is_empty() => {
                    let claim = in_flight.swap_remove(at.index(in_flight.len()));
                    prop_assert_eq!(*of_term.entry(claim.term).or_insert(claim.to), claim.to);
                    seq += 1;
                    let version = Version { term: claim.term, seq };
                    if saves && session.saved(&claim, version, false) == Saved::Stored {
                        let replicas = (0..4).filter(|at| replicas >> at & 1 > 0 && server(*at) != claim.to);
                        session.placed(version, replicas.map(server).collect());
                    }
                    session.ended(&claim);
                }
                _ => {}
            }
        }
    }
}
