//! Clocks that differ and stores that lose their data: sessions keep their true age, and are neither immortal nor lost.

use std::time::{Duration, Instant};

use super::support::process::{Linchpin, Redis};
use super::support::{Backend, Keys, Proxy, Reply, Response, until};

const TOP: &str = "[server]\nthreads = 1\n[log]\naccess = \"off\"\n";

fn text(top: &str, persistence: &str, backends: &[&Backend]) -> String {
    let entry = |backend: &&Backend| {
        format!("[[pools.backends]]\nname = \"{}\"\naddress = \"{}\"\n", backend.name(), backend.address())
    };
    let backends: String = backends.iter().map(entry).collect();
    format!(
        "{TOP}{top}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n\
         [pools.persistence]\nverdict_header = \"X-Verdict\"\n{persistence}\n{backends}"
    )
}

async fn get(linchpin: &Linchpin, pin: &Option<String>) -> Response {
    let mut client = linchpin.client().await;
    client.pin.clone_from(pin);
    client.get("/").await
}

#[tokio::test]
async fn a_pin_from_a_clock_that_is_far_ahead_is_unreadable_and_replaced_and_one_from_a_clock_that_is_near_holds() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let tables = keys.tables();
    let strict = text(&tables, "idle_timeout = \"30m\"", &[&a, &b, &c]);
    let lenient = text(&tables, "max_clock_skew = \"400d\"", &[&a, &b, &c]);
    let (right, lenient) = (Linchpin::start(&strict, None).await, Linchpin::start(&lenient, None).await);
    for (ahead, holds) in [("+30s", true), ("+10m", false), ("+365d", false)] {
        let wrong = Linchpin::start(&strict, Some(ahead)).await;
        let first = get(&wrong, &None).await;
        assert_eq!(get(&wrong, &first.pin()).await.field("x-verdict"), Some("hit"), "its own clock has no doubts");
        assert_eq!(get(&lenient, &first.pin()).await.field("x-verdict"), Some("hit"), "{ahead}, which is allowed");
        let next = get(&right, &first.pin()).await;
        let expected = if holds { "hit" } else { "new; cause=unreadable" };
        assert_eq!((next.status, next.field("x-verdict")), (200, Some(expected)), "{ahead}");
        let pin = next.pin().or(first.pin());
        assert_eq!(get(&right, &pin).await.field("x-verdict"), Some("hit"), "{ahead}");
    }
}

/// A backend that issues a session id to each request without one.
async fn application(name: &'static str) -> Backend {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Backend::start(name, move |seen| match seen.field("cookie") {
        Some(_) => Reply::ok(name),
        None => {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Reply::new(200, &format!("set-cookie: SID={name}{n}\r\n"), name)
        }
    })
    .await
}

fn learned(redis: &Redis, more: &str) -> String {
    format!("type = \"learned\"\nlearned = {{ cookie = \"SID\", store = {:?} }}\n{more}", redis.address())
}

async fn ask(linchpin: &Linchpin, cookie: &str) -> Response {
    linchpin.client().await.request("GET", "/", &format!("cookie: {cookie}\r\n"), b"").await
}

#[tokio::test]
async fn a_learned_session_is_as_old_at_a_clock_that_is_ahead_as_at_one_that_is_behind() {
    let redis = Redis::start().await;
    let (a, b) = (application("a").await, application("b").await);
    // Shorter than the clocks are apart.
    let text = text("", &learned(&redis, "absolute_timeout = \"50s\""), &[&a, &b]);
    let start = async |clock| Linchpin::start(&text, Some(clock)).await;
    let (early, late) = (start("-60s").await, start("+60s").await);
    for (one, other) in [(&early, &late), (&late, &early)] {
        let first = one.client().await.get("/").await;
        let cookie = first.field("set-cookie").unwrap().to_owned();
        until("the other one knows", async || {
            let response = ask(other, &cookie).await;
            assert_ne!(response.field("x-verdict"), Some("new; cause=absolute_expired"));
            response.field("x-verdict") == Some("hit")
        })
        .await;
        assert_eq!(ask(one, &cookie).await.field("x-verdict"), Some("hit"));
    }
    // A session that began a minute ago has ended, for both.
    let key = redis.keys().await.remove(0);
    let value = redis.ask(&["get", &key]).await;
    let [version, issued, rest] = value.trim().splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    let now: u64 = redis.ask(&["time"]).await.lines().next().unwrap().trim().parse().unwrap();
    let issued: u64 = issued.parse().unwrap();
    assert!(issued <= now && now - issued < 50, "the store's time: {issued} at {now}");
    let ids = ["a0", "a1", "b0", "b1"];
    for clock in ["-60s", "+60s"] {
        redis.ask(&["set", &key, &format!("{version} {} {rest}", now - 60), "ex", "600"]).await;
        // It doesn't know the session yet, and queries the store.
        let linchpin = start(clock).await;
        until("the session that was made older is over", async || {
            let mut over = 0;
            for id in ids {
                let verdict = ask(&linchpin, &format!("SID={id}")).await;
                over += usize::from(verdict.field("x-verdict") == Some("new; cause=absolute_expired"));
            }
            over == 1
        })
        .await;
    }
}

fn proxy(redis: &Redis, backends: &[&Backend]) -> Proxy {
    let persistence = format!("{}\nverdict_header = \"X-Verdict\"", learned(redis, "idle_timeout = \"10m\""));
    let builder = Proxy::builder().top("[admin]\naddress = \"127.0.0.1:0\"").table("persistence", &persistence);
    backends.iter().fold(builder, |builder, backend| builder.backend(backend, "")).start()
}

/// Returns how often Redis has carried out a command.
async fn calls(redis: &Redis, command: &str) -> u32 {
    let info = redis.ask(&["info", "commandstats"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_store_that_was_flushed_has_the_sessions_back_and_requests_cost_it_no_writes() {
    let redis = Redis::start().await;
    let (a, b) = (application("a").await, application("b").await);
    let one = proxy(&redis, &[&a, &b]);
    let mut cookies = Vec::new();
    for _ in 0..5 {
        let response = one.client().await.get("/").await;
        cookies.push((response.field("set-cookie").unwrap().to_owned(), response.text()));
    }
    until("all are stored", async || redis.keys().await.len() == 5).await;
    for _ in 0..2 {
        redis.ask(&["flushall"]).await;
        redis.ask(&["config", "resetstat"]).await;
        until("all are stored again", async || redis.keys().await.len() == 5).await;
        for _ in 0..20 {
            for (cookie, home) in &cookies {
                let response = one.client().await.request("GET", "/", &format!("cookie: {cookie}\r\n"), b"").await;
                assert_eq!((response.text(), response.field("x-verdict")), (home.clone(), Some("hit")));
            }
        }
        // Five sessions and the marker; a regular comparison writes no session that the store has.
        let writes = calls(&redis, "set").await + calls(&redis, "expire").await;
        assert!(writes <= 6, "{writes} writes for a hundred requests");
    }
    // Later requests find the sessions there.
    let other = proxy(&redis, &[&a, &b]);
    let (cookie, home) = &cookies[0];
    until("the other one knows", async || {
        let response = other.client().await.request("GET", "/", &format!("cookie: {cookie}\r\n"), b"").await;
        response.field("x-verdict") == Some("hit") && response.text() == *home
    })
    .await;
}

#[tokio::test]
async fn comparing_a_session_with_the_store_does_not_count_as_a_request() {
    let redis = Redis::start().await;
    let (a, b) = (application("a").await, application("b").await);
    let (one, other) = (proxy(&redis, &[&a, &b]), proxy(&redis, &[&a, &b]));
    let cookie = one.client().await.get("/").await.field("set-cookie").unwrap().to_owned();
    let last_seen = async |proxy: &Proxy| {
        let explained = proxy.ask("POST", "/api/v1/explain", &format!("{{\"token\":{cookie:?}}}")).await.text();
        let (_, rest) = explained.split_once("\"last_seen\":").unwrap_or_else(|| panic!("{explained}"));
        rest.split([',', '}']).next().unwrap().trim().to_owned()
    };
    until("the other one knows", async || {
        let response = other.client().await.request("GET", "/", &format!("cookie: {cookie}\r\n"), b"").await;
        response.field("x-verdict") == Some("hit")
    })
    .await;
    let begun = Instant::now();
    until("two seconds", async || begun.elapsed() >= Duration::from_secs(2)).await;
    // By now each has received the other's updates.
    let seen = [last_seen(&one).await, last_seen(&other).await];
    let key = redis.keys().await.remove(0);
    redis.ask(&["expire", &key, "30"]).await;
    redis.ask(&["client", "kill", "type", "normal"]).await;
    until("it was compared", async || redis.ask(&["ttl", &key]).await.trim().parse::<u32>().unwrap() > 500).await;
    redis.ask(&["flushall"]).await;
    until("it was written anew", async || redis.keys().await.len() == 1).await;
    assert_eq!([last_seen(&one).await, last_seen(&other).await], seen);
}
