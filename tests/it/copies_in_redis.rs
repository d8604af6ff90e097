//! What the scripts in Redis decide between two Linchpins: who gets a term, and whose state is the newest.

use std::sync::Arc;

use bytes::Bytes;
use linchpin::copies::{
    CopyStores, Fetched, PoolCopies, SessionRef, Settings, SharedSaved, SharedState, StoreAddress, Version,
};
use linchpin::events::Events;
use linchpin::session_sync;

use super::support::process::Redis;
use super::support::{soon, until};

const LIFETIME: u64 = 1000;

/// The copies of the pool `app` in one Linchpin.
struct Linchpin(PoolCopies);

impl Linchpin {
    async fn start(redis: &Redis) -> Linchpin {
        let mut stores = CopyStores::default();
        let settings = Settings { store: Some(StoreAddress(redis.address())), ..Settings::default() };
        let linchpin = Linchpin(stores.open(&"app".into(), &settings, LIFETIME, 1));
        let run = |sync| session_sync::run_copies(sync, Events::default());
        stores.take_shared().into_iter().for_each(|sync| drop(tokio::spawn(run(sync))));
        let other = SessionRef::new("app", b"another session");
        until("it uses Redis", async || linchpin.try_hand_over(other, 1, "a").await.is_some()).await;
        linchpin
    }

    async fn try_hand_over(&self, session: SessionRef, term: u32, server: &str) -> Option<Fetched> {
        let answer = self.0.shared().unwrap().hand_over(session, term, &Arc::from(server))?;
        soon("an answer", answer).await.ok().flatten()
    }

    async fn hand_over(&self, session: SessionRef, term: u32, server: &str) -> Fetched {
        self.try_hand_over(session, term, server).await.unwrap()
    }

    async fn save(
        &self,
        session: SessionRef,
        (term, seq): (u32, u64),
        server: &str,
        state: SharedState,
    ) -> SharedSaved {
        let answer = self.0.shared().unwrap().save(session, Version { term, seq }, &Arc::from(server), state).unwrap();
        soon("an answer", answer).await.unwrap().unwrap()
    }
}

fn session() -> SessionRef {
    SessionRef::new("app", b"1")
}

fn copy(text: &'static str) -> SharedState {
    SharedState::Held(Bytes::from_static(text.as_bytes()), Some(60))
}

fn newest(fetched: Fetched) -> Option<((u32, u64), SharedState)> {
    fetched.newest.map(|(version, state)| ((version.term, version.seq), state))
}

#[tokio::test]
async fn a_term_has_one_server_whichever_linchpin_gives_it_out() {
    let redis = Redis::start().await;
    let (one, two) = (Linchpin::start(&redis).await, Linchpin::start(&redis).await);
    let s = session();
    assert_eq!(one.hand_over(s, 1, "a").await, Fetched { term: 2, is_holder: true, newest: None });
    assert_eq!(two.hand_over(s, 1, "a").await.term, 2, "the same server has the same term from both");
    assert_eq!(two.hand_over(s, 1, "b").await.term, 3);
    assert_eq!(one.hand_over(s, 1, "a").await.term, 4, "a term that the other has given out is not given out again");
    assert_eq!(one.hand_over(s, 4, "a").await.term, 5, "its memory was lost since");
    assert_eq!(two.hand_over(s, 9, "a").await.term, 10, "a pin knew more than Redis");
}

#[tokio::test]
async fn a_state_is_stored_only_by_the_server_of_its_term_and_only_if_it_is_the_newest() {
    let redis = Redis::start().await;
    let (one, two) = (Linchpin::start(&redis).await, Linchpin::start(&redis).await);
    let s = session();
    assert_eq!(one.save(s, (1, 1), "a", copy("first")).await, SharedSaved::Stored);
    assert_eq!(two.save(s, (1, 3), "a", copy("third")).await, SharedSaved::Stored);
    assert_eq!(one.save(s, (1, 2), "a", copy("second")).await, SharedSaved::Stale, "it comes late");
    assert_eq!(one.save(s, (1, 3), "a", copy("another third")).await, SharedSaved::Stale);
    assert_eq!(one.save(s, (1, 4), "b", copy("b's")).await, SharedSaved::Fenced(1), "another server has this term");
    let moved = one.hand_over(s, 1, "b").await;
    assert_eq!((moved.term, newest(moved)), (2, Some(((1, 3), copy("third")))));
    assert_eq!(
        two.save(s, (1, 9), "a", copy("late")).await,
        SharedSaved::Fenced(2),
        "the session has left that server"
    );
    assert_eq!(two.save(s, (2, 4), "b", copy("fourth")).await, SharedSaved::Stored);
    assert_eq!(newest(one.hand_over(s, 2, "a").await), Some(((2, 4), copy("fourth"))));
}

#[tokio::test]
async fn an_end_or_a_state_that_could_not_be_read_leaves_no_copy_behind() {
    let redis = Redis::start().await;
    let one = Linchpin::start(&redis).await;
    let s = session();
    for (seq, state) in [(0, SharedState::Lost), (2, SharedState::Dropped)] {
        assert_eq!(one.save(s, (1, 1), "a", copy("first")).await, SharedSaved::Stored);
        assert_eq!(one.save(s, (1, seq), "a", state.clone()).await, SharedSaved::Stored);
        assert_eq!(redis.ask(&["hget", &format!("linchpin:app:copy:{s}"), "bytes"]).await.trim(), "", "{state:?}");
        let known = newest(one.hand_over(s, 1, "b").await);
        assert_eq!(known, Some(((1, seq.max(1)), state)));
        redis.ask(&["del", &format!("linchpin:app:copy:{s}")]).await;
    }
}

#[tokio::test]
async fn a_session_expires_in_redis_by_the_shorter_time_and_each_touch_begins_it_anew() {
    let redis = Redis::start().await;
    let one = Linchpin::start(&redis).await;
    let s = session();
    let key = format!("linchpin:app:copy:{s}");
    let ttl = async || redis.ask(&["ttl", &key]).await.trim().parse::<i64>().unwrap();
    one.hand_over(s, 1, "a").await;
    assert!((LIFETIME as i64 - 60..=LIFETIME as i64).contains(&ttl().await), "a term is kept as long as the pin");
    one.save(s, (2, 1), "a", copy("first")).await;
    assert!((1..=60).contains(&ttl().await), "the application's time is shorter");
    redis.ask(&["expire", &key, "5000"]).await;
    one.0.shared().unwrap().touch(s);
    until("it is touched", async || (1..=60).contains(&ttl().await)).await;
    let forever = SharedState::Held(Bytes::from_static(b"second"), None);
    one.save(s, (2, 2), "a", forever).await;
    assert!((61..=LIFETIME as i64).contains(&ttl().await), "as long as the pin");
}
