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
    assert!(matches!(session.before_request(server(0), |_| true, true), BeforeRequest::Send(_)), "it stays there");
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
fn after_a_replica_that_was_never_reached_another_one_continues_with_what_it_has() {
    let placed = || {
        let mut session = saved();
        assert!(session.placed(version(1, 5), vec![server(1), server(2)]));
        let BeforeRequest::Send(claim) = session.before_request(server(1), |_| false, true) else { panic!("it waits") };
        session.ended(&claim);
        (session, claim)
    };
    let next = |session: &mut Session| match session.before_request(server(2), |_| false, true) {
        BeforeRequest::Send(claim) => (claim.term, claim.seq),
        other => panic!("{other:?}"),
    };
    let (mut session, claim) = placed();
    session.unsent(&claim);
    assert_eq!(next(&mut session), (2, None), "one term on: it saves what it has");
    let (mut session, _) = placed();
    assert_eq!(next(&mut session), (4, None), "the first may have changed the state: it forgets what it has");
}
