//! Owns: the tests of the rules: each rule by an example, and all of them in random orders of events.
//! Invariant: no test uses a socket, a clock or a thread.
//! Must not know: how a copy is given or stored.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

mod elsewhere;

fn server(backend: usize) -> Holder {
    Holder { backend, incarnation: 1, losses: 0 }
}

fn version(term: u32, seq: u64) -> Version {
    Version { term, seq }
}

fn sent(session: &mut Session, to: usize) -> Claim {
    match session.before_request(server(to), |_| true, true) {
        BeforeRequest::Send(claim) => claim,
        other => panic!("{other:?}"),
    }
}

/// A session whose state (1, 5) the server 0 has saved.
fn saved() -> Session {
    let mut session = Session::new(0, Some(server(0)));
    let claim = sent(&mut session, 0);
    assert_eq!((claim.term, claim.seq), (1, None));
    assert_eq!(session.saved(&claim, version(1, 5), false), Saved::Stored);
    session.ended(&claim);
    session
}

fn give(session: &mut Session, to: usize) -> (u32, Version) {
    match session.before_request(server(to), |_| false, true) {
        BeforeRequest::Give { hand_over, version } => (hand_over, version),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_holder_gets_the_version_and_another_server_is_given_the_copy_first() {
    let mut session = saved();
    let claim = sent(&mut session, 0);
    assert_eq!((claim.term, claim.seq), (1, Some(5)));
    session.ended(&claim);
    let (hand_over, given) = give(&mut session, 1);
    assert_eq!(given, version(2, 5));
    assert_eq!(session.before_request(server(1), |_| false, true), BeforeRequest::Wait(Wait::HandOver));
    assert_eq!(session.before_request(server(2), |_| false, true), BeforeRequest::Wait(Wait::HandOver));
    assert!(session.gave(hand_over, Given::Taken));
    let claim = sent(&mut session, 1);
    assert_eq!((claim.term, claim.seq), (2, Some(5)));
}

#[test]
fn a_server_that_was_down_meanwhile_is_given_the_copy_again() {
    let mut session = saved();
    let restarted = Holder { losses: 1, ..server(0) };
    assert!(matches!(session.before_request(restarted, |_| false, true), BeforeRequest::Give { .. }));
}

#[test]
fn a_hand_over_from_a_living_server_waits_for_its_requests_and_from_a_dead_one_for_nothing() {
    let mut session = saved();
    let running = sent(&mut session, 0);
    assert_eq!(session.before_request(server(1), |_| true, true), BeforeRequest::Wait(Wait::Requests));
    let mut dead = session.clone();
    assert!(matches!(dead.before_request(server(1), |_| false, true), BeforeRequest::Give { .. }));
    let mut impatient = session.clone();
    assert!(matches!(impatient.before_request(server(1), |_| true, false), BeforeRequest::Give { .. }));
    assert_eq!(impatient.saved(&running, version(1, 6), false), Saved::Fenced);
    assert_eq!(session.saved(&running, version(1, 6), false), Saved::Stored);
    session.ended(&running);
    assert_eq!(give(&mut session, 1).1, version(2, 6));
}

#[test]
fn of_two_states_the_higher_stays_in_whichever_order_they_come() {
    let mut session = saved();
    let (one, other) = (sent(&mut session, 0), sent(&mut session, 0));
    assert_eq!(session.saved(&other, version(1, 7), false), Saved::Stored);
    assert_eq!(session.saved(&one, version(1, 6), false), Saved::Stale);
    assert_eq!(session.newest(), (version(1, 7), false));
}

#[test]
fn a_state_that_ended_stays_ended_and_the_next_one_counts_on() {
    let mut session = saved();
    let (slow, logout) = (sent(&mut session, 0), sent(&mut session, 0));
    assert_eq!(session.saved(&logout, version(1, 7), true), Saved::Stored);
    session.ended(&logout);
    assert_eq!(session.saved(&slow, version(1, 6), false), Saved::Stale);
    session.ended(&slow);
    let claim = sent(&mut session, 1);
    assert_eq!((claim.term, claim.seq, claim.dropped), (2, Some(7), true));
    assert_eq!(session.saved(&claim, version(2, 8), false), Saved::Stored);
    let claim = sent(&mut session, 1);
    assert_eq!((claim.seq, claim.dropped), (Some(8), false));
}

#[test]
fn a_state_that_could_not_be_stored_voids_the_older_ones() {
    let mut session = saved();
    let (one, other) = (sent(&mut session, 0), sent(&mut session, 0));
    assert_eq!(session.not_stored(&other, Some(version(1, 7))), Saved::Stored);
    assert_eq!(session.saved(&one, version(1, 6), false), Saved::Stale);
    assert_eq!(sent(&mut session, 0).seq, None);

    let mut session = saved();
    let (one, other) = (sent(&mut session, 0), sent(&mut session, 0));
    assert_eq!(session.not_stored(&other, None), Saved::Stored);
    assert_eq!(session.saved(&one, version(1, 6), false), Saved::Stale, "nobody knows which of the two is newer");
    let next = sent(&mut session, 0);
    assert_eq!((next.seq, session.saved(&next, version(1, 8), false)), (None, Saved::Stored));
}

#[test]
fn a_server_that_lacks_the_state_is_given_it_once_for_all_that_want_it() {
    let mut session = saved();
    let (one, other) = (sent(&mut session, 0), sent(&mut session, 0));
    session.ended(&one);
    session.wanted(&one);
    // The other one could reach the server after the copy, and would run on it in the former term.
    assert_eq!(session.before_request(server(0), |_| true, true), BeforeRequest::Wait(Wait::Requests));
    assert!(!session.is_given_to(server(0)));
    session.ended(&other);
    session.wanted(&other);
    let (hand_over, given) = give(&mut session, 0);
    assert_eq!(given, version(2, 5));
    assert_eq!(session.before_request(server(0), |_| true, true), BeforeRequest::Wait(Wait::HandOver));
    session.gave(hand_over, Given::Taken);
    for _ in 0..2 {
        let claim = sent(&mut session, 0);
        assert_eq!((claim.term, claim.seq), (2, Some(5)));
    }
}

#[test]
fn a_server_that_lacks_the_state_waits_no_longer_than_any_and_is_given_what_its_other_request_has_saved() {
    let mut session = saved();
    let (one, slow) = (sent(&mut session, 0), sent(&mut session, 0));
    session.ended(&one);
    session.wanted(&one);
    let mut impatient = session.clone();
    assert!(matches!(impatient.before_request(server(0), |_| true, false), BeforeRequest::Give { .. }));
    assert_eq!(impatient.saved(&slow, version(1, 6), false), Saved::Fenced);
    let mut dead = session.clone();
    assert!(matches!(dead.before_request(server(0), |_| false, true), BeforeRequest::Give { .. }));
    // It ran before the server forgot.
    assert_eq!(session.saved(&slow, version(1, 6), false), Saved::Stored);
    session.ended(&slow);
    assert_eq!(give(&mut session, 0).1, version(2, 6));
}

#[test]
fn what_could_not_be_given_is_not_claimed() {
    for (outcome, is_held) in [(Given::Refused, false), (Given::Failed, true), (Given::Newer(version(7, 9)), false)] {
        let mut session = saved();
        let (hand_over, _) = give(&mut session, 1);
        assert!(session.gave(hand_over, outcome));
        let claim = sent(&mut session, 1);
        assert_eq!((claim.seq, session.is_held()), (None, is_held), "{outcome:?}");
        assert_eq!(claim.term, if outcome == Given::Newer(version(7, 9)) { 7 } else { 2 });
        assert_eq!(sent(&mut session, 1).term, claim.term, "no request fences another one on the same server");
        let seq = if claim.term == 7 { 10 } else { 1 };
        assert_eq!(session.saved(&claim, version(claim.term, seq), false), Saved::Stored, "{outcome:?}");
    }
    let mut session = saved();
    for to in 1..3 {
        let (hand_over, _) = give(&mut session, to);
        assert!(session.gave(hand_over, Given::Broken));
    }
    assert!(!session.is_held(), "the copy may be what kills the servers");
    let mut session = saved();
    let (hand_over, _) = give(&mut session, 1);
    assert!(session.gave(hand_over, Given::Unreached));
    assert_eq!(give(&mut session, 2).1, version(3, 5));
}

#[test]
fn what_could_not_be_given_is_given_with_a_later_request_unless_the_server_has_saved_since() {
    let failed = || {
        let mut session = saved();
        let (hand_over, _) = give(&mut session, 1);
        assert!(session.gave(hand_over, Given::Failed));
        let claim = sent(&mut session, 1);
        (session, claim)
    };
    let (mut session, claim) = failed();
    session.ended(&claim);
    assert_eq!(give(&mut session, 1).1, version(3, 5));
    let (mut session, claim) = failed();
    assert_eq!(session.saved(&claim, version(2, 1), false), Saved::Stored);
    session.ended(&claim);
    assert_eq!(sent(&mut session, 1).seq, Some(1));
}

#[test]
fn nobody_waits_longer_for_a_hand_over_that_hangs_and_its_late_end_changes_nothing() {
    let mut session = saved();
    let (hand_over, _) = give(&mut session, 1);
    let BeforeRequest::Send(claim) = session.before_request(server(1), |_| false, false) else { panic!("it waits") };
    assert_eq!((claim.term, claim.seq), (3, None));
    assert!(!session.gave(hand_over, Given::Taken));
    assert_eq!(session.saved(&claim, version(3, 1), false), Saved::Stored);
}

#[test]
fn a_pin_of_a_later_term_voids_the_copy() {
    let mut session = saved();
    let late = sent(&mut session, 0);
    session.note_pin(4, Some(server(1)));
    assert_eq!(session.saved(&late, version(1, 6), false), Saved::Fenced);
    let claim = sent(&mut session, 1);
    assert_eq!((claim.term, claim.seq), (4, None));
}

#[test]
fn an_id_that_was_replaced_is_worth_nothing() {
    let mut session = saved();
    let slow = sent(&mut session, 0);
    session.end();
    assert_eq!(session.saved(&slow, version(1, 9), false), Saved::Fenced);
    let claim = sent(&mut session, 0);
    assert_eq!((claim.term, claim.seq, claim.dropped), (2, Some(5), true));
}

#[test]
fn a_replica_continues_with_what_it_has_and_any_other_server_must_forget_it() {
    let mut session = Session::replicated(0, Some(server(0)), None);
    let first = sent(&mut session, 0);
    assert_eq!(session.saved(&first, version(1, 1), false), Saved::Stored);
    assert!(session.placed(version(1, 1), vec![server(1)]) && !session.is_held());
    session.ended(&first);
    assert_eq!(sent(&mut session, 0).seq, Some(1));
    let mut other = session.clone();
    let BeforeRequest::Send(claim) = session.before_request(server(1), |_| false, true) else { panic!("it waits") };
    assert_eq!((claim.term, claim.seq), (2, None));
    let BeforeRequest::Send(claim) = other.before_request(server(2), |_| false, true) else { panic!("it waits") };
    assert_eq!((claim.term, claim.seq), (3, None), "what it has of term 1 is two terms behind");
}

#[test]
fn a_state_of_which_a_newer_one_is_known_is_not_placed() {
    let mut session = saved();
    assert!(!session.placed(version(1, 4), vec![server(1)]) && session.is_held());
}

#[test]
fn a_session_without_a_living_replica_is_saved_again() {
    let mut session = saved();
    session.placed(version(1, 5), vec![server(1), server(2)]);
    session.keep_replicas(|replica| replica == server(2));
    assert_eq!(session.replicas(), [server(2)]);
    assert_eq!(sent(&mut session, 0).seq, Some(5));
    session.keep_replicas(|_| false);
    assert_eq!(sent(&mut session, 0).seq, None);
}

#[test]
fn a_state_that_no_server_took_voids_the_older_ones_of_the_replicas() {
    let mut session = Session::replicated(0, Some(server(0)), Some(server(1)));
    let first = sent(&mut session, 0);
    assert_eq!(session.not_stored(&first, Some(version(1, 2))), Saved::Stored);
    let BeforeRequest::Send(claim) = session.before_request(server(1), |_| false, true) else { panic!("it waits") };
    assert_eq!((claim.term, claim.seq), (3, None));
}

#[derive(Debug, Clone)]
enum Event {
    Request { to: usize, lives: bool, may_wait: bool, restarts: bool },
    Gave { at: prop::sample::Index, outcome: usize },
    Saves { at: prop::sample::Index, seq: u64, dropped: bool, wrong_term: bool },
    Unreadable(prop::sample::Index),
    Ends(prop::sample::Index),
    Wants(prop::sample::Index),
    Forget,
    Pin(u32),
}

fn event() -> impl Strategy<Value = Event> {
    use prop::sample::Index;
    prop_oneof![
        6 => (0..3_usize, any::<bool>(), any::<bool>(), 0..8_u8).prop_map(|(to, lives, may_wait, restarts)| {
            Event::Request { to, lives, may_wait, restarts: restarts == 0 }
        }),
        3 => (any::<Index>(), 0..7_usize).prop_map(|(at, outcome)| Event::Gave { at, outcome }),
        4 => (any::<Index>(), 0..4_u64, any::<bool>(), 0..8_u8).prop_map(|(at, seq, dropped, wrong_term)| {
            Event::Saves { at, seq, dropped, wrong_term: wrong_term == 0 }
        }),
        1 => any::<Index>().prop_map(Event::Unreadable),
        3 => any::<Index>().prop_map(Event::Ends),
        1 => any::<Index>().prop_map(Event::Wants),
        1 => Just(Event::Forget),
        1 => (0..3_u32).prop_map(Event::Pin),
    ]
}

proptest! {
    /// Random orders of requests, moves, saves, drops, wants and late responses.
    #[test]
    fn versions_only_rise_and_every_wait_ends(events in prop::collection::vec(event(), 1..120)) {
        let mut session = Session::new(0, Some(server(0)));
        let mut losses = [0; 3];
        let (mut in_flight, mut hand_overs): (Vec<Claim>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut of_term: HashMap<u32, Holder> = HashMap::new();
        let (mut claimed, mut stored, mut ended) = (Version::default(), Version::default(), None);
        for event in events {
            let term_before = session.term();
            match event {
                Event::Request { to, lives, may_wait, restarts } => {
                    losses[to] += u32::from(restarts);
                    let to = Holder { losses: losses[to], ..server(to) };
                    let was_giving = session.hand_over.is_some();
                    match session.before_request(to, |_| lives, may_wait) {
                        BeforeRequest::Send(claim) => {
                            prop_assert_eq!(claim.term, session.term());
                            prop_assert!(!was_giving || !may_wait);
                            prop_assert_eq!(*of_term.entry(claim.term).or_insert(to), to, "one server has a term");
                            if let Some(seq) = claim.seq {
                                let version = Version { term: claim.term, seq };
                                prop_assert!(version >= claimed, "{:?} was claimed before {:?}", claimed, version);
                                claimed = version;
                                prop_assert!(seq == stored.seq && claim.dropped == (ended == Some(stored)));
                            }
                            in_flight.push(claim);
                        }
                        BeforeRequest::Give { hand_over, version } => {
                            prop_assert!(!was_giving, "two hand-overs at a time");
                            prop_assert_eq!(*of_term.entry(version.term).or_insert(to), to);
                            prop_assert!(version.seq == stored.seq && ended != Some(stored), "an older state is given");
                            prop_assert!(version.term > term_before);
                            hand_overs.push(hand_over);
                        }
                        BeforeRequest::Fetch(_) | BeforeRequest::Look(_) => prop_assert!(false, "there is no shared store"),
                        BeforeRequest::Wait(wait) => {
                            prop_assert!(may_wait);
                            match wait {
                                Wait::HandOver => prop_assert!(was_giving),
                                Wait::Requests => {
                                    prop_assert!(lives);
                                    prop_assert!(in_flight.iter().any(|claim| claim.term == session.term()));
                                }
                            }
                        }
                    }
                }
                Event::Gave { at, outcome } if !hand_overs.is_empty() => {
                    let hand_over = hand_overs.remove(at.index(hand_overs.len()));
                    let newer = Version { term: session.term(), seq: stored.seq + 1 };
                    let outcome = [
                        Given::Taken,
                        Given::Newer(newer),
                        Given::Refused,
                        Given::Failed,
                        Given::Unreached,
                        Given::Broken,
                        Given::Newer(Version::default()),
                    ][outcome];
                    if session.gave(hand_over, outcome) && outcome == Given::Newer(newer) {
                        stored = stored.max(newer);
                    }
                    prop_assert!(session.hand_over.is_none_or(|running| running.number != hand_over));
                }
                Event::Saves { at, seq, dropped, wrong_term } if !in_flight.is_empty() => {
                    let claim = in_flight[at.index(in_flight.len())];
                    let version = Version { term: claim.term + u32::from(wrong_term), seq: stored.seq + seq };
                    let saved = session.saved(&claim, version, dropped);
                    if claim.term != term_before || wrong_term {
                        prop_assert_eq!(saved, Saved::Fenced);
                    }
                    if saved == Saved::Stored {
                        prop_assert!(version > stored);
                        stored = version;
                        ended = dropped.then_some(version);
                    }
                }
                Event::Unreadable(at) if !in_flight.is_empty() => {
                    let claim = in_flight[at.index(in_flight.len())];
                    if session.not_stored(&claim, None) == Saved::Stored {
                        prop_assert!(!session.is_held());
                    }
                }
                Event::Ends(at) if !in_flight.is_empty() => {
                    let claim = in_flight.remove(at.index(in_flight.len()));
                    session.ended(&claim);
                }
                Event::Wants(at) if !in_flight.is_empty() => {
                    let claim = in_flight.remove(at.index(in_flight.len()));
                    session.ended(&claim);
                    session.wanted(&claim);
                }
                Event::Forget => session.forget(),
                Event::Pin(more) => {
                    let holder = server(0);
                    session.note_pin(session.term() + more, Some(Holder { losses: losses[0], ..holder }));
                    if more > 0 {
                        ended = None;
                        of_term.insert(session.term(), Holder { losses: losses[0], ..holder });
                    }
                }
                _ => {}
            }
            prop_assert!(session.term() >= term_before);
            // A hand-over changes the term of the state that it gives, and nothing else.
            if session.newest().0.seq == stored.seq && session.newest().0 > stored {
                if ended == Some(stored) {
                    ended = Some(session.newest().0);
                }
                stored = session.newest().0;
            }
            prop_assert!(session.newest().0 >= stored || session.newest().0.seq == stored.seq);
        }
        // Whatever still runs ends, and then nobody waits.
        in_flight.iter().for_each(|claim| session.ended(claim));
        for hand_over in hand_overs {
            session.gave(hand_over, Given::Unreached);
        }
        prop_assert!(!session.is_busy());
        for (to, losses) in losses.into_iter().enumerate() {
            let to = Holder { losses, ..server(to) };
            prop_assert!(!matches!(session.clone().before_request(to, |_| true, true), BeforeRequest::Wait(_)));
        }
    }
}

#[test]
fn the_end_of_a_request_of_a_former_term_ends_no_wait_for_those_of_this_term() {
    let mut session = saved();
    let former = sent(&mut session, 0);
    let (hand_over, _) = give(&mut session, 1);
    assert!(session.gave(hand_over, Given::Taken));
    let running = sent(&mut session, 1);
    session.ended(&former);
    assert_eq!(session.before_request(server(2), |_| true, true), BeforeRequest::Wait(Wait::Requests));
    session.ended(&running);
    assert!(matches!(session.before_request(server(2), |_| true, true), BeforeRequest::Give { .. }));
}
