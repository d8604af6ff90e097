//! A Redis of session copies that is flushed, killed, hung, full or read-only: what the store has again, and what
//! requests notice of it.

use std::time::{Duration, Instant};

use super::support::browser::{Browser, server};
use super::support::process::Redis;
use super::support::proxy::Builder;
use super::support::session_app::SessionApp;
use super::support::{Keys, Proxy, until};

fn builder(keys: &Keys, apps: &[SessionApp], redis: &Redis, copies: &str) -> Builder {
    let builder = Proxy::builder()
        .top(&keys.tables())
        .top("[admin]\naddress = \"127.0.0.1:0\"")
        .table("copies", &format!("store = {:?}\n{copies}", redis.address()))
        .table("health", "type = \"none\"");
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, ""))
}

/// Starts a Linchpin and waits until it uses the Redis.
async fn linchpin(keys: &Keys, apps: &[SessionApp], redis: &Redis, copies: &str) -> Proxy {
    let proxy = builder(keys, apps, redis, copies).start();
    let known = redis.keys().await.len();
    until("it uses Redis", async || {
        Browser::default().add(&proxy).await;
        redis.keys().await.len() > known
    })
    .await;
    proxy
}

/// Begins this many sessions, and waits until Redis has them.
async fn sessions(count: usize, proxy: &Proxy, redis: &Redis) -> Vec<Browser> {
    let known = redis.keys().await.len();
    let mut browsers = Vec::new();
    for _ in 0..count {
        let mut browser = Browser::default();
        assert_eq!(browser.add(proxy).await, "1");
        assert_eq!(browser.add(proxy).await, "2");
        browsers.push(browser);
    }
    assert_eq!(redis.keys().await.len(), known + count);
    browsers
}

/// How many saves Redis has been sent.
async fn writes(redis: &Redis) -> u64 {
    let info = redis.ask(&["info", "commandstats"]).await;
    let of = |command: &str| {
        let line =
            info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls="))).unwrap_or("0,");
        line.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    of("hset")
}

#[tokio::test]
async fn a_redis_that_was_flushed_has_the_sessions_in_use_again_without_a_request() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let one = linchpin(&keys, &apps, &redis, "").await;
    let mut browsers = sessions(20, &one, &redis).await;
    // An end is a state as well.
    assert_eq!(browsers[0].send(&one, "POST", "/logout").await.text(), "none");
    let all = redis.keys().await.len();
    redis.ask(&["flushall"]).await;
    until("all sessions are there again", async || redis.keys().await.len() == all).await;
    let dump = redis
        .ask(&[
            "eval",
            "local out = {} for _, k in ipairs(redis.call('keys', '*:copy:*')) do \
        if redis.call('type', k).ok == 'hash' then out[#out + 1] = redis.call('hget', k, 'state') end end return out",
            "0",
        ])
        .await;
    assert_eq!(dump.lines().filter(|line| line.contains("dropped")).count(), 1, "{dump}");
    for key in redis.keys().await {
        assert!(redis.ask(&["ttl", &key]).await.trim().parse::<i64>().unwrap() > 0, "it expires");
    }
    // A Linchpin that knows nothing itself finds them after the death of a server.
    let two = linchpin(&keys, &apps, &redis, "").await;
    apps.remove(0).backend.kill().await;
    for (n, browser) in browsers.iter_mut().enumerate() {
        assert_eq!(browser.count(&two).await, if n == 0 { "none" } else { "2" });
    }
}

#[tokio::test]
async fn a_redis_that_was_killed_and_comes_back_empty_has_what_was_saved_meanwhile_as_well() {
    let mut redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let one = linchpin(&keys, &apps, &redis, "").await;
    let mut browsers = sessions(10, &one, &redis).await;
    let all = redis.keys().await.len();
    redis.kill().await;
    for browser in &mut browsers[..5] {
        assert_eq!(browser.add(&one).await, "3");
    }
    let mut new = Browser::default();
    assert_eq!(new.add(&one).await, "1");
    redis.restart().await;
    until("all sessions are there again", async || redis.keys().await.len() == all + 1).await;
    let two = linchpin(&keys, &apps, &redis, "").await;
    apps.remove(0).backend.kill().await;
    for (n, browser) in browsers.iter_mut().enumerate() {
        assert_eq!(browser.count(&two).await, if n < 5 { "3" } else { "2" });
    }
    assert_eq!(new.count(&two).await, "1");
}

#[tokio::test]
async fn a_session_that_one_linchpin_has_saved_is_newer_than_what_another_one_stores_again() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let one = linchpin(&keys, &apps, &redis, "").await;
    let two = linchpin(&keys, &apps, &redis, "").await;
    let mut browsers = sessions(10, &one, &redis).await;
    let mut servers = Vec::new();
    for browser in &mut browsers {
        let response = browser.send(&two, "POST", "/add").await;
        assert_eq!(response.text(), "3");
        servers.push(server(&apps, &response));
    }
    let all = redis.keys().await.len();
    redis.ask(&["flushall"]).await;
    until("all sessions are there again", async || redis.keys().await.len() == all).await;
    let version = async || {
        redis
            .ask(&[
                "eval",
                "local n = 0 for _, k in ipairs(redis.call('keys', '*:copy:*')) do \
        if redis.call('type', k).ok == 'hash' then n = n + redis.call('hget', k, 'vseq') end end return n",
                "0",
            ])
            .await
    };
    // One of them may have stored its older state first.
    let newest = 10 * 3 + (all as u64 - 10);
    until("the newest states are there", async || version().await.trim() == newest.to_string()).await;
    apps.remove(0).backend.kill().await;
    for (browser, server) in browsers.iter_mut().zip(servers) {
        let text = browser.count(&one).await;
        assert!(text == "3", "{text}, from server {server}");
    }
}

#[tokio::test]
async fn requests_that_change_nothing_write_nothing_to_redis_although_it_is_compared() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let one = linchpin(&keys, &apps, &redis, "").await;
    let mut browsers = sessions(5, &one, &redis).await;
    // A new connection compares all sessions, and finds each as it is.
    redis.ask(&["client", "kill", "type", "normal"]).await;
    let (begun, before) = (Instant::now(), writes(&redis).await);
    until("some comparisons", async || {
        for browser in &mut browsers {
            assert_eq!(browser.count(&one).await, "2");
        }
        begun.elapsed() > Duration::from_secs(2)
    })
    .await;
    assert_eq!(writes(&redis).await, before);
}

#[tokio::test]
async fn a_session_that_redis_has_survives_a_server_that_restarts_unnoticed_and_a_linchpin_that_is_new() {
    let redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let one = linchpin(&keys, &apps, &redis, "").await;
    let two = linchpin(&keys, &apps, &redis, "").await;
    let mut browser = Browser::default();
    let first = browser.send(&one, "POST", "/add").await;
    assert_eq!(browser.add(&one).await, "2");
    one.stop().await;
    apps[server(&apps, &first)].forget();
    let next = browser.send(&two, "POST", "/add").await;
    assert_eq!((next.text().as_str(), next.field("x-server")), ("3", first.field("x-server")));
    // Once: from then on the other Linchpin knows the session itself.
    let reads =
        |info: &str| info.lines().filter(|line| line.starts_with("cmdstat_hmget:")).collect::<Vec<_>>().concat();
    let before = reads(&redis.ask(&["info", "commandstats"]).await);
    for _ in 0..5 {
        assert_eq!(browser.count(&two).await, "3");
    }
    assert_eq!(reads(&redis.ask(&["info", "commandstats"]).await), before);
    // A pin from before a move does not lead back to the old state.
    let old = browser.clone();
    let at = server(&apps, &next);
    apps.remove(at).backend.kill().await;
    assert_eq!(browser.add(&two).await, "4");
    let three = linchpin(&keys, &apps, &redis, "").await;
    assert_eq!(old.clone().count(&three).await, "4");
}

#[tokio::test]
async fn after_an_outage_in_which_both_moved_a_session_it_goes_on_for_both() {
    let mut redis = Redis::start().await;
    let keys = Keys::new(&[1]);
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let one = linchpin(&keys, &apps, &redis, "").await;
    let two = linchpin(&keys, &apps, &redis, "").await;
    let mut browser = Browser::default();
    let first = browser.send(&one, "POST", "/add").await;
    assert_eq!(browser.add(&two).await, "2");
    let mut other = browser.clone();
    redis.kill().await;
    // Each for itself moves the session elsewhere: to two servers that get the same term.
    let at = server(&apps, &first);
    let name = apps[at].backend.name().to_owned();
    let next = browser.send(&one, "GET", "/").await;
    assert_eq!(next.text(), "2");
    let [b, c] = [1, 2].map(|step| apps[(at + step) % 3].backend.name().to_owned());
    for (linchpin, down) in [(&one, [&name, &b]), (&two, [&name, &c])] {
        down.iter().for_each(|name| linchpin.live(name).set_state(linchpin::pool::AdminState::Maintenance));
    }
    let (through_one, through_two) = (browser.send(&one, "POST", "/add").await, other.send(&two, "POST", "/add").await);
    assert_eq!((through_one.status, through_two.status), (200, 200));
    redis.restart().await;
    until("the session is in Redis", async || !redis.keys().await.is_empty()).await;
    // One of them loses, once.
    for (linchpin, browser) in [(&one, &mut browser), (&two, &mut other)] {
        until("the session goes on", async || {
            let response = browser.send(linchpin, "POST", "/add").await;
            assert!(matches!(response.status, 200 | 502), "{}", response.head);
            response.status == 200
        })
        .await;
    }
}

#[tokio::test]
async fn a_redis_that_is_full_read_only_or_hangs_costs_a_request_no_more_than_a_moment_and_is_counted() {
    for fault in ["full", "read-only", "hung"] {
        let redis = Redis::start().await;
        let keys = Keys::new(&[1]);
        let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
        let one = linchpin(&keys, &apps, &redis, "").await;
        let mut browsers = sessions(3, &one, &redis).await;
        match fault {
            "full" => drop(redis.ask(&["config", "set", "maxmemory", "1"]).await),
            // Of a master that is not there: it keeps what it has.
            "read-only" => drop(redis.ask(&["replicaof", "127.0.0.1", "1"]).await),
            _ => redis.signal("STOP").await,
        }
        let begun = Instant::now();
        for count in 3..8 {
            for browser in &mut browsers {
                let response = browser.send(&one, "POST", "/add").await;
                assert_eq!((response.status, response.text()), (200, count.to_string()), "{fault}");
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{fault}: {:?}", begun.elapsed());
        let metrics = one.ask("GET", "/metrics", "").await.text();
        let counted = metrics
            .lines()
            .find(|line| line.starts_with("linchpin_copies_refused_total") && line.contains("reason=\"shared_store\""));
        assert!(counted.is_some_and(|line| !line.ends_with(" 0")), "{fault}: {counted:?}");
        apps.remove(0).backend.kill().await;
        for browser in &mut browsers {
            assert_eq!(browser.count(&one).await, "7", "{fault}: from the embedded store");
        }
        match fault {
            "full" => drop(redis.ask(&["config", "set", "maxmemory", "0"]).await),
            "read-only" => drop(redis.ask(&["replicaof", "no", "one"]).await),
            _ => redis.signal("CONT").await,
        }
        // Another Linchpin finds what was saved meanwhile, after the death of one more server.
        let two = linchpin(&keys, &apps, &redis, "").await;
        for browser in &mut browsers {
            until("Redis has what was saved meanwhile", async || browser.clone().count(&two).await == "7").await;
        }
    }
}
