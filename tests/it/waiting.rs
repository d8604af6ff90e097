//! The policy `wait`: a backend serves its waiting requests as soon as it returns, else they move; no wait is an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use linchpin::pool::Health;
use tokio::task::JoinHandle;

use super::support::keys::pin;
use super::support::proxy::Builder;
use super::support::{Backend, Client, Keys, Proxy, Reply, Response, soon, until};

/// Builds a proxy in front of `a` and `b` with these persistence settings, and the verdict in a response field.
fn before(keys: &Keys, persistence: &str, backends: &[&Backend]) -> Builder {
    let lines = format!("verdict_header = \"X-Verdict\"\n{persistence}");
    let top = format!("{}[admin]\naddress = \"127.0.0.1:0\"", keys.tables());
    let builder = Proxy::builder().server("threads = 2").top(&top).table("persistence", &lines);
    backends.iter().fold(builder, |builder, backend| builder.backend(backend, ""))
}

fn outcome(response: &Response) -> (u16, String, String) {
    (response.status, response.text(), response.field("x-verdict").unwrap_or_default().into())
}

fn expected(status: u16, text: &str, verdict: &str) -> (u16, String, String) {
    (status, text.into(), verdict.into())
}

/// Sends a request of a session that is pinned to `a`, in a task of its own.
fn send(proxy: &Proxy, keys: &Keys, method: &'static str, session: u64) -> JoinHandle<Response> {
    let (address, cookie) = (proxy.address(), keys.cookie(&pin(proxy, "a", session)));
    tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        client.pin = Some(cookie);
        client.request(method, "/", "", b"").await
    })
}

async fn waiting(proxy: &Proxy, requests: u32) {
    until("they wait", async || proxy.live("a").waiting() == requests).await;
}

/// Returns a counter: the sum of all metrics of this name with these labels.
async fn count(proxy: &Proxy, name: &str, labels: &[&str]) -> u64 {
    let metrics = proxy.ask("GET", "/metrics", "").await.text();
    let lines =
        metrics.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

const PROBES: &str = "path = \"/health\"\ninterval = \"50ms\"\ntimeout = \"10s\"";

#[tokio::test]
async fn requests_that_wait_for_a_restarting_backend_are_served_there_with_and_without_probes_for_every_cause() {
    // The fifth refused connection ejects the backend: later requests find it down, and those that wait since it
    // failed them continue to wait.
    for (policy, probes, requests) in [("down", "", 12), ("failed", "", 5), ("down", PROBES, 12)] {
        let ([a, b, _], keys) = (Backend::three().await, Keys::new(&[1]));
        let persistence = format!("on = {{ {policy} = \"wait\" }}\nwait = {{ time = \"60s\" }}");
        let mut builder = before(&keys, &persistence, &[&a, &b]);
        if !probes.is_empty() {
            builder = builder.table("health", probes);
        }
        let proxy = builder.start();
        let address = a.kill().await;
        let method = |number| if number % 2 == 0 { "GET" } else { "POST" };
        let held: Vec<_> = (0..requests).map(|n| send(&proxy, &keys, method(n), n)).collect();
        waiting(&proxy, requests as u32).await;
        if probes.is_empty() {
            proxy.health("a", Health::Ejected).await;
        }
        let _a = Backend::start_at("a", address, |_| Reply::ok("a")).await;
        for each in held {
            assert_eq!(
                outcome(&soon("a response", each).await.unwrap()),
                expected(200, "a", "hit"),
                "{policy} {probes}"
            );
        }
        proxy.health("a", Health::Up).await;
        assert!(b.seen().iter().all(|seen| seen.path() == "/health"), "nobody was moved");
        assert_eq!(count(&proxy, "linchpin_moves_total", &[]).await, 0);
        waiting(&proxy, 0).await;
    }
}

#[tokio::test]
async fn a_waiting_request_ends_the_ejection_of_its_backend_for_all() {
    let ([a, b, _], keys) = (Backend::three().await, Keys::new(&[1]));
    let persistence = "on = { down = \"wait\" }\nwait = { time = \"60s\" }";
    let proxy =
        before(&keys, persistence, &[&a, &b]).table("ejection", "base_time = \"1h\"\nmax_time = \"1h\"").start();
    let address = a.kill().await;
    let held: Vec<_> = (0..6).map(|session| send(&proxy, &keys, "GET", session)).collect();
    waiting(&proxy, 6).await;
    proxy.health("a", Health::Ejected).await;
    assert_eq!(proxy.get(None).await.text(), "b", "a new client has nothing to wait for");
    let late = send(&proxy, &keys, "GET", 99);
    waiting(&proxy, 7).await;
    let _a = Backend::start_at("a", address, |_| Reply::ok("a")).await;
    for each in held.into_iter().chain([late]) {
        assert_eq!(outcome(&soon("a response", each).await.unwrap()), expected(200, "a", "hit"));
    }
    assert_eq!(proxy.live("a").health(), Health::Up);
}

#[tokio::test]
async fn attempts_of_waiting_requests_are_spaced_and_shared_and_count_as_no_failure() {
    let ([a, b, _], keys) = (Backend::three().await, Keys::new(&[1]));
    let persistence = "on = { failed = \"wait\" }\nwait = { time = \"1s\" }";
    let builder = before(&keys, persistence, &[&a, &b]).table("ejection", "consecutive_failures = 5");
    // A budget of zero and a single attempt: waiting needs neither.
    let proxy = builder.table("retry", "budget = \"0%\"\nattempts = 1").start();
    a.kill().await;
    let begun = Instant::now();
    let held: Vec<_> = (0..4).map(|session| send(&proxy, &keys, "POST", session)).collect();
    for each in held {
        assert_eq!(outcome(&soon("a response", each).await.unwrap()), expected(200, "b", "moved; cause=failed"));
    }
    // At first one attempt for each request, then one every tenth of a second for all.
    let most = 4 + begun.elapsed().as_millis() as u64 / 100 + 1;
    let attempts = count(&proxy, "linchpin_attempts_total", &["outcome=\"connect\""]).await;
    assert!((5..=most).contains(&attempts), "{attempts} of {most}");
    assert_eq!(proxy.live("a").health(), Health::Up, "four requests were refused, and waiting adds no failure");
    assert_eq!(count(&proxy, "linchpin_moves_total", &["cause=\"failed\""]).await, 4);
}

#[tokio::test]
async fn a_wait_for_a_backend_that_resets_ends_as_a_move_would() {
    for (method, status, executions) in [("GET", 200, 2), ("POST", 502, 1)] {
        let (a, b, keys) = (Backend::start("a", |_| Reply::Close).await, Backend::named("b").await, Keys::new(&[1]));
        let persistence = "on = { failed = \"wait\" }\nwait = { time = \"30s\" }";
        let proxy = before(&keys, persistence, &[&a, &b]).start();
        for session in 0..3 {
            let before = a.count();
            let response = soon("a response", send(&proxy, &keys, method, session)).await.unwrap();
            assert_eq!(response.status, status, "{method} {session}");
            assert!(a.count() - before <= executions, "{method} {session}: {}", a.count() - before);
        }
        assert_eq!(b.count(), if status == 200 { 3 } else { 0 });
    }
}

#[tokio::test]
async fn a_backend_that_fails_every_response_is_ejected_and_gets_no_waiting_request() {
    let (a, b, keys) = (Backend::start("a", |_| Reply::Close).await, Backend::named("b").await, Keys::new(&[1]));
    let persistence = "on = { down = \"wait\", failed = \"move\" }\nwait = { time = \"300ms\" }";
    let proxy = before(&keys, persistence, &[&a, &b]).start();
    until("it is ejected", async || {
        let session = a.count() as u64;
        soon("a response", send(&proxy, &keys, "GET", session)).await.unwrap();
        proxy.live("a").health() == Health::Ejected
    })
    .await;
    let before = a.count();
    for method in ["GET", "POST"] {
        let response = soon("a response", send(&proxy, &keys, method, 99)).await.unwrap();
        assert_eq!(outcome(&response), expected(200, "b", "moved; cause=down"));
    }
    assert_eq!(a.count(), before);
}

#[tokio::test]
async fn a_backend_whose_probes_fail_is_probed_more_often_while_a_request_waits_for_it() {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let a = Backend::start("a", move |seen| match seen.path() {
        "/health" => Reply::new(if is_well.load(Ordering::SeqCst) { 200 } else { 500 }, "", ""),
        _ => Reply::ok("a"),
    });
    let (a, b, keys) = (a.await, Backend::named("b").await, Keys::new(&[1]));
    let persistence = "on = { down = \"wait\" }\nwait = { time = \"60s\" }";
    let probes = "path = \"/health\"\ninterval = \"1h\"\ntimeout = \"10s\"";
    let proxy = before(&keys, persistence, &[&a, &b]).table("health", probes).start();
    proxy.health("a", Health::Down).await;
    let held = send(&proxy, &keys, "GET", 1);
    waiting(&proxy, 1).await;
    a.has(3).await;
    assert!(!held.is_finished(), "no request goes to a backend whose probes fail");
    well.store(true, Ordering::SeqCst);
    assert_eq!(outcome(&soon("a response", held).await.unwrap()), expected(200, "a", "hit"));
}

#[tokio::test]
async fn a_request_that_tries_for_all_and_disconnects_hands_the_trial_on() {
    let ([a, b, _], keys) = (Backend::three().await, Keys::new(&[1]));
    let persistence = "on = { down = \"wait\" }\nwait = { time = \"60s\" }";
    let proxy = before(&keys, persistence, &[&a, &b]).start();
    let address = a.kill().await;
    let mut first = proxy.client().await;
    let cookie = keys.cookie(&pin(&proxy, "a", 1));
    first.send(format!("GET / HTTP/1.1\r\nhost: test\r\ncookie: {cookie}\r\n\r\n").as_bytes()).await;
    waiting(&proxy, 1).await;
    let second = send(&proxy, &keys, "GET", 2);
    waiting(&proxy, 2).await;
    first.reset();
    waiting(&proxy, 1).await;
    let _a = Backend::start_at("a", address, |_| Reply::ok("a")).await;
    assert_eq!(outcome(&soon("a response", second).await.unwrap()), expected(200, "a", "hit"));
    assert_eq!(b.count(), 0);
}

#[tokio::test]
async fn after_the_total_timeout_no_backend_is_tried() {
    let ([a, b, _], keys) = (Backend::three().await, Keys::new(&[1]));
    let persistence = "on = { maintenance = \"wait\" }\nwait = { time = \"60s\" }";
    let proxy = before(&keys, persistence, &[&a, &b]).table("timeouts", "total = \"200ms\"").start();
    proxy.live("a").set_state(linchpin::pool::AdminState::Maintenance);
    let response = soon("a response", send(&proxy, &keys, "GET", 1)).await.unwrap();
    assert_eq!((response.status, response.field("x-verdict")), (503, Some("refused; cause=maintenance")));
    assert_eq!(proxy.live("b").health(), Health::Up);
    assert_eq!((a.count(), b.count()), (0, 0));
}

#[tokio::test]
async fn a_session_counts_as_moved_only_if_another_backend_has_served_it() {
    let (a, b, keys) = (Backend::start("a", |_| Reply::Close).await, Backend::named("b").await, Keys::new(&[1]));
    let proxy = before(&keys, "", &[&a, &b]).start();
    let failed = soon("a response", send(&proxy, &keys, "POST", 1)).await.unwrap();
    assert_eq!((failed.status, failed.field("x-verdict")), (502, Some("refused; cause=failed")));
    assert_eq!(count(&proxy, "linchpin_moves_total", &[]).await, 0);
    let moved = soon("a response", send(&proxy, &keys, "GET", 2)).await.unwrap();
    assert_eq!(outcome(&moved), expected(200, "b", "moved; cause=failed"));
    assert_eq!(count(&proxy, "linchpin_moves_total", &["cause=\"failed\""]).await, 1);
    b.kill().await;
    let nobody = soon("a response", send(&proxy, &keys, "GET", 3)).await.unwrap();
    assert_eq!((nobody.status, nobody.field("x-verdict")), (502, Some("refused; cause=failed")));
    assert_eq!(count(&proxy, "linchpin_moves_total", &[]).await, 1);
}

#[tokio::test]
async fn after_a_502_a_session_avoids_its_backend_until_that_proves_healthy() {
    for policy in ["move", "borrow"] {
        for shown_by in ["a request", "a probe"] {
            let breaks = |seen: &super::support::backend::Seen| match seen.path() {
                "/break" => Reply::Close,
                _ => Reply::ok("a"),
            };
            let (a, b, keys) = (Backend::start("a", breaks).await, Backend::named("b").await, Keys::new(&[1]));
            let mut builder = before(&keys, &format!("on = {{ failed = \"{policy}\" }}"), &[&a, &b]);
            if shown_by == "a probe" {
                builder = builder.table("health", PROBES);
            }
            let proxy = builder.start();
            let cookie = keys.cookie(&pin(&proxy, "a", 1));
            let mut client = proxy.client_with(&cookie).await;
            assert_eq!(client.request("POST", "/break", "", b"x").await.status, 502);
            let well = proxy.live("a").healthy_signals();
            if shown_by == "a request" {
                assert_eq!(proxy.client_with(&keys.cookie(&pin(&proxy, "a", 2))).await.get("/").await.text(), "a");
                let others = proxy.client_with(&cookie).await.get("/").await;
                assert_eq!((others.text(), others.pin()), ("a".into(), None), "{policy}");
            } else {
                until("a probe", async || proxy.live("a").healthy_signals() != well).await;
                assert_eq!(client.get("/").await.text(), "a", "{policy}");
            }
        }
    }
}

#[tokio::test]
async fn a_pool_without_reachable_backends_responds_503_after_a_bounded_number_of_attempts() {
    let mut builder = Proxy::builder().top("[admin]\naddress = \"127.0.0.1:0\"");
    let free: Vec<_> = (0..300).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    for (number, listener) in free.into_iter().enumerate() {
        builder = builder.backend_at(&format!("b{number}"), listener.local_addr().unwrap(), "");
    }
    let proxy = builder.table("retry", "connect_attempts = 7").start();
    let begun = Instant::now();
    let response = proxy.get(None).await;
    assert_eq!((response.status, response.field("retry-after")), (503, Some("5")));
    assert_eq!(count(&proxy, "linchpin_attempts_total", &["outcome=\"connect\""]).await, 7);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
