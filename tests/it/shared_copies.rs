//! Session copies in a Redis that two Linchpins share: one of them dies, then Redis does.

use super::support::browser::{Browser, server};
use super::support::process::Redis;
use super::support::proxy::Builder;
use super::support::reloads::Reloadable;
use super::support::session_app::SessionApp;
use super::support::{Keys, Proxy, until};

fn builder(keys: &Keys, apps: &[SessionApp], copies: &str) -> Builder {
    let builder = Proxy::builder()
        .top(&keys.tables())
        .top("[admin]\naddress = \"127.0.0.1:0\"")
        .table("copies", copies)
        .table("health", "type = \"none\"");
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, ""))
}

fn proxy(keys: &Keys, apps: &[SessionApp], copies: &str) -> Proxy {
    builder(keys, apps, copies).start()
}

async fn linchpins(redis: &Redis) -> usize {
    let clients = redis.ask(&["client", "list"]).await;
    let names = clients.lines().filter(|line| line.contains("cmd=ping")).count();
    clients.matches("lib-name=redis-rs").count().max(names)
}

/// Waits until these Linchpins use Redis: what it knows of its clients is not what they know of it.
async fn connected(redis: &Redis, linchpins: &[&Proxy]) {
    let before = redis.keys().await;
    for linchpin in linchpins {
        let known = redis.keys().await.len();
        until("it uses Redis", async || {
            Browser::default().add(linchpin).await;
            redis.keys().await.len() > known
        })
        .await;
    }
    for key in redis.keys().await.iter().filter(|key| !before.contains(key)) {
        redis.ask(&["del", key]).await;
    }
}

#[tokio::test]
async fn a_session_survives_the_death_of_a_linchpin_and_of_each_server() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let copies = format!("store = {:?}", redis.address());
    let (one, two) = (proxy(&keys, &apps, &copies), proxy(&keys, &apps, &copies));
    connected(&redis, &[&one, &two]).await;
    let mut browser = Browser::default();
    let first = browser.send(&one, "POST", "/add").await;
    assert_eq!(first.text(), "1");
    // Saved by the other Linchpin: this one has an older copy.
    assert_eq!(browser.add(&two).await, "2");
    let at = server(&apps, &first);
    apps.remove(at).backend.kill().await;
    let moved = browser.send(&one, "POST", "/add").await;
    assert_eq!(moved.text(), "3", "the newest state comes from Redis");
    one.stop().await;
    let at = server(&apps, &moved);
    apps.remove(at).backend.kill().await;
    assert_eq!(browser.add(&two).await, "4", "of a session that the dead Linchpin had handed over");
}

#[tokio::test]
async fn a_logout_through_one_linchpin_is_one_for_the_other() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let copies = format!("store = {:?}", redis.address());
    let (one, two) = (proxy(&keys, &apps, &copies), proxy(&keys, &apps, &copies));
    connected(&redis, &[&one, &two]).await;
    let mut browser = Browser::default();
    let first = browser.send(&one, "POST", "/add").await;
    let old = browser.sid.clone();
    browser.send(&two, "POST", "/logout").await;
    let at = server(&apps, &first);
    apps.remove(at).backend.kill().await;
    browser.sid = old;
    assert_eq!(browser.send(&one, "GET", "/").await.text(), "none");
}

#[tokio::test]
async fn without_redis_each_linchpin_uses_its_own_copies_and_reconnects() {
    let mut redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let copies = format!("store = {:?}", redis.address());
    let one = proxy(&keys, &apps, &copies);
    connected(&redis, &[&one]).await;
    let mut browser = Browser::default();
    assert_eq!(browser.add(&one).await, "1");
    let key = redis.keys().await.remove(0);
    redis.kill().await;
    let second = browser.send(&one, "POST", "/add").await;
    assert_eq!((second.status, second.text().as_str()), (200, "2"));
    let at = server(&apps, &second);
    apps.remove(at).backend.kill().await;
    assert_eq!(browser.add(&one).await, "3", "from the embedded store");
    redis.restart().await;
    until("a save is in Redis again", async || {
        browser.add(&one).await;
        redis.keys().await.contains(&key)
    })
    .await;
    let two = proxy(&keys, &apps, &copies);
    connected(&redis, &[&one, &two]).await;
    let last = browser.send(&one, "POST", "/add").await;
    let at = server(&apps, &last);
    apps.remove(at).backend.kill().await;
    let next: u64 = last.text().parse::<u64>().unwrap() + 1;
    assert_eq!(browser.add(&two).await, next.to_string());
}

#[tokio::test]
async fn a_required_copy_that_redis_cannot_take_is_a_503_and_no_request_waits_long_for_a_redis_that_hangs() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let one = proxy(&keys, &apps, &format!("store = {:?}\nrequired = true", redis.address()));
    connected(&redis, &[&one]).await;
    let mut browser = Browser::default();
    assert_eq!(browser.add(&one).await, "1");
    redis.signal("STOP").await;
    let begun = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(browser.send(&one, "POST", "/add").await.status, 503);
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    redis.signal("CONT").await;
    until("Redis takes copies again", async || browser.send(&one, "POST", "/add").await.status == 200).await;
}

#[tokio::test]
async fn a_key_that_is_no_state_costs_no_other_session_its_store() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let one = proxy(&keys, &apps, &format!("store = {:?}\nrequired = true", redis.address()));
    connected(&redis, &[&one]).await;
    let (mut broken, mut other) = (Browser::default(), Browser::default());
    assert_eq!(broken.add(&one).await, "1");
    let key = redis.keys().await.remove(0);
    assert_eq!(other.add(&one).await, "1");
    redis.ask(&["set", &key, "x"]).await;
    for count in 2..10 {
        assert_eq!(broken.send(&one, "POST", "/add").await.status, 503);
        let response = other.send(&one, "POST", "/add").await;
        assert_eq!((response.status, response.text()), (200, count.to_string()));
    }
    // Nor does a state of a type that no Linchpin writes.
    redis.ask(&["del", &key]).await;
    redis.ask(&["hset", &key, "term", "1e300"]).await;
    for count in 10..15 {
        assert!(matches!(broken.send(&one, "POST", "/add").await.status, 502 | 503));
        assert_eq!(other.add(&one).await, count.to_string());
    }
}

#[tokio::test]
async fn redis_holds_refs_versions_and_the_sealed_bytes_as_they_came() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let one = proxy(&keys, &apps, &format!("store = {:?}", redis.address()));
    connected(&redis, &[&one]).await;
    let mut browser = Browser::default();
    assert_eq!(browser.add(&one).await, "1");
    let all = redis.keys().await;
    let [key] = &all[..] else { panic!("{all:?}") };
    let session = key.strip_prefix("linchpin:app:copy:").unwrap();
    assert!(session.len() == 32 && session.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
    let dump = redis.ask(&["hgetall", key]).await;
    let sid = browser.sid.clone().unwrap();
    let token = browser.pin.clone().unwrap().split_once('=').unwrap().1.to_owned();
    assert!(!dump.contains(&token) && !key.contains(&sid), "{dump}");
    let ttl: i64 = redis.ask(&["ttl", key]).await.trim().parse().unwrap();
    assert!(ttl > 0, "it expires");
}

#[tokio::test]
async fn a_request_that_changes_nothing_keeps_its_session_alive_in_redis() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let copies = format!("store = {:?}", redis.address());
    let one = builder(&keys, &apps, &copies).table("persistence", "idle_timeout = \"4s\"").start();
    connected(&redis, &[&one]).await;
    let mut browser = Browser::default();
    assert_eq!(browser.add(&one).await, "1");
    let all = redis.keys().await;
    let [key] = &all[..] else { panic!("{all:?}") };
    redis.ask(&["expire", key, "100"]).await;
    until("a request has begun its time anew", async || {
        assert_eq!(browser.send(&one, "GET", "/").await.text(), "1");
        redis.ask(&["ttl", key]).await.trim().parse::<i64>().unwrap() <= 4
    })
    .await;
}

#[tokio::test]
async fn a_late_save_that_another_linchpin_has_overtaken_does_not_reach_the_client() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let copies = format!("store = {:?}", redis.address());
    let (one, two) = (proxy(&keys, &apps, &copies), proxy(&keys, &apps, &copies));
    connected(&redis, &[&one, &two]).await;
    let mut browser = Browser::default();
    let first = &apps[server(&apps, &browser.send(&one, "POST", "/add").await)];
    let (release, held) = tokio::sync::watch::channel(false);
    first.change(|memory| memory.held = Some(held));
    let requests = first.backend.count();
    let mut late = one.client().await;
    let cookies = format!("{}; SID={}", browser.pin.clone().unwrap(), browser.sid.clone().unwrap());
    late.send(format!("POST /add HTTP/1.1\r\nhost: test\r\ncookie: {cookies}\r\n\r\n").as_bytes()).await;
    first.backend.has(requests + 1).await;
    // Only the other Linchpin takes the session away from it.
    two.live(first.backend.name()).set_state(linchpin::pool::AdminState::Maintenance);
    assert_eq!(browser.add(&two).await, "2");
    release.send(true).unwrap();
    let response = late.response().await;
    assert_eq!((response.status, response.field("set-cookie")), (502, None));
    // What that server has is void here as well, whatever pin a request has.
    let mut old = one.client_with(&cookies).await;
    assert_eq!((old.get("/").await.text().as_str(), first.given().len()), ("2", 1));
    assert_eq!(browser.add(&one).await, "3", "it goes on from the other's state");
}

#[tokio::test]
async fn an_id_that_was_renewed_through_one_linchpin_is_worth_nothing_through_the_other() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let copies = format!("store = {:?}", redis.address());
    let start = || {
        let learned = "type = \"learned\"\nlearned = { cookie = \"SID\" }";
        builder(&keys, &apps, &copies).table("persistence", learned).start()
    };
    let (one, two) = (start(), start());
    connected(&redis, &[&one, &two]).await;
    let mut browser = Browser::default();
    assert_eq!(browser.add(&one).await, "1");
    assert_eq!(browser.add(&one).await, "2");
    let mut thief = Browser { pin: None, sid: browser.sid.clone() };
    let renewed = browser.send(&one, "POST", "/renew").await;
    assert_eq!(renewed.text(), "2");
    assert_ne!(thief.sid, browser.sid);
    let at = server(&apps, &renewed);
    apps.remove(at).backend.kill().await;
    for linchpin in [&two, &one] {
        assert_eq!(thief.send(linchpin, "GET", "/").await.text(), "none");
        assert_eq!(browser.send(linchpin, "GET", "/").await.text(), "2");
    }
}

#[tokio::test]
async fn a_reload_gives_a_pool_a_store_exchanges_it_and_takes_it_away_and_no_session_is_lost() {
    let (one, two) = (Redis::start().await, Redis::start().await);
    let keys = Keys::new(&[1]);
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let addresses: Vec<String> = [&one, &two].map(|redis| format!("store = {:?}", redis.address())).into();
    let text = |copies: &str, apps: &[SessionApp]| builder(&keys, apps, copies).text();
    let linchpin = Reloadable::start(&text("", &apps));
    let (mut browser, mut other) = (Browser::default(), Browser::default());
    assert_eq!(browser.add(&linchpin.proxy).await, "1");
    assert_eq!(other.add(&linchpin.proxy).await, "1");

    let report = linchpin.reload(&text(&addresses[0], &apps)).await;
    assert!(report.errors.is_empty(), "{report:?}");
    connected(&one, &[&linchpin.proxy]).await;
    // Another Linchpin stores a newer state of a session that began before there was a store.
    let beside = proxy(&keys, &apps, &addresses[0]);
    connected(&one, &[&linchpin.proxy, &beside]).await;
    let second = browser.send(&beside, "POST", "/add").await;
    assert_eq!(second.text(), "2");
    let at = server(&apps, &second);
    apps.remove(at).backend.kill().await;
    let third = browser.send(&linchpin.proxy, "POST", "/add").await;
    assert_eq!(third.text(), "3", "this Linchpin asks the store that it has by now");
    assert_eq!(other.add(&linchpin.proxy).await, "2", "the copies from before the reload are there");
    beside.stop().await;

    linchpin.reload(&text(&addresses[1], &apps)).await;
    connected(&two, &[&linchpin.proxy]).await;
    until("the former store is left", async || linchpins(&one).await == 0).await;
    assert_eq!(browser.add(&linchpin.proxy).await, "4");
    assert!(!two.keys().await.is_empty());

    linchpin.reload(&text("", &apps)).await;
    until("no store is used", async || linchpins(&two).await == 0).await;
    let fifth = browser.send(&linchpin.proxy, "POST", "/add").await;
    assert_eq!(fifth.text(), "5");
    let at = server(&apps, &fifth);
    apps.remove(at).backend.kill().await;
    assert_eq!(browser.count(&linchpin.proxy).await, "5", "from the copy of this process");
}
