//! How servers are found down, and up again: by probes, and by the outcome of requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use linchpin::pool::Health;

use super::support::keys::pin;
use super::support::proxy::Builder;
use super::support::{Backend, Keys, Proxy, Reply, soon, until};

/// Probes without a pause, with a timeout that suits a slow machine.
const PROBES: &str = "interval = \"10ms\"\ntimeout = \"10s\"";

fn health(proxy: &Proxy, backend: &str) -> Health {
    let index = proxy.pool().position(backend).unwrap();
    proxy.pool().backend(index).live().health()
}

/// A server that responds to each of its first requests with one of `statuses`, and then hangs.
async fn scripted(statuses: &'static [u16]) -> Backend {
    let next = AtomicUsize::new(0);
    Backend::start("a", move |_| match statuses.get(next.fetch_add(1, Ordering::Relaxed)) {
        Some(status) => Reply::new(*status, "", ""),
        None => Reply::Hang,
    })
    .await
}

/// A server that responds with its name, and closes the connection without a response while it is `ill`.
async fn moody(name: &str) -> (Backend, Arc<AtomicBool>) {
    let (ill, body) = (Arc::new(AtomicBool::new(true)), name.to_owned());
    let is_ill = Arc::clone(&ill);
    let program = move |_: &_| if is_ill.load(Ordering::Relaxed) { Reply::Close } else { Reply::ok(&body) };
    (Backend::start(name, program).await, ill)
}

/// A pool of an ill `a` and a healthy `b`, and routing cookies of three sessions for `a`.
async fn ward(ejection: &str) -> (Proxy, [String; 3], Backend, Arc<AtomicBool>, Backend) {
    let ((a, ill), b, keys) = (moody("a").await, Backend::named("b").await, Keys::new(&[1]));
    let builder = Proxy::builder().top(&keys.tables()).table("ejection", ejection);
    let proxy = builder.table("retry", "budget = \"1000%\"").backend(&a, "").backend(&b, "").start();
    let cookies = [7, 8, 9].map(|session| keys.cookie(&pin(&proxy, "a", session)));
    (proxy, cookies, a, ill, b)
}

#[tokio::test]
async fn the_first_probe_decides_alone_and_later_ones_by_rise_and_fall() {
    for (statuses, expected) in [
        (&[200][..], Health::Up),
        (&[500], Health::Down),
        (&[200, 500, 500], Health::Up),
        (&[200, 500, 500, 200, 500, 500], Health::Up),
        (&[200, 500, 500, 500], Health::Down),
        (&[500, 200], Health::Down),
        (&[500, 200, 500, 200], Health::Down),
        (&[500, 200, 200], Health::Up),
        (&[200, 500, 500, 500, 200, 200, 500], Health::Up),
    ] {
        let a = scripted(statuses).await;
        let proxy = Proxy::builder().backend(&a, "").table("health", PROBES).start();
        // One probe at a time: when the next one arrives, the proxy has judged the last one.
        a.has(statuses.len() + 1).await;
        assert_eq!(health(&proxy, "a"), expected, "{statuses:?}");
    }
}

#[tokio::test]
async fn the_statuses_that_pass_are_those_expected() {
    for (expect, status, expected) in [
        ("", 204, Health::Up),
        ("", 302, Health::Up),
        ("", 401, Health::Down),
        ("expect = [401, \"5xx\"]", 401, Health::Up),
        ("expect = [401, \"5xx\"]", 503, Health::Up),
        ("expect = [401, \"5xx\"]", 200, Health::Down),
    ] {
        let a = Backend::start("a", move |_| Reply::new(status, "", "")).await;
        let proxy = Proxy::builder().backend(&a, "").table("health", &format!("{PROBES}\n{expect}")).start();
        a.has(2).await;
        assert_eq!(health(&proxy, "a"), expected, "{expect} {status}");
    }
}

#[tokio::test]
async fn a_probe_is_a_get_of_the_path_with_the_host_on_a_connection_of_its_own() {
    let a = Backend::named("a").await;
    let of = |more: &str| Proxy::builder().backend(&a, "").table("health", &format!("{PROBES}\n{more}")).start();
    for (more, line, host) in [
        ("", "GET / HTTP/1.1", a.address().to_string()),
        ("path = \"/up?x=1\"\nhost = \"app.test\"", "GET /up?x=1 HTTP/1.1", "app.test".into()),
    ] {
        let _proxy = of(more);
        until("a probe", async || a.seen().iter().any(|seen| seen.line() == line)).await;
        let probe = a.seen().into_iter().rfind(|seen| seen.line() == line).unwrap();
        assert_eq!(probe.field("host"), Some(&*host));
        assert_eq!(probe.field("user-agent"), Some("linchpin-health"));
    }
    assert!(a.connections() >= a.count());
}

#[tokio::test]
async fn a_server_that_responds_too_late_to_its_probes_is_down() {
    let [a, b] = [Backend::start("a", |_| Reply::Hang).await, Backend::named("b").await];
    let probes = "interval = \"10ms\"\ntimeout = \"2s\"";
    let proxy = Proxy::builder().backend(&a, "").backend(&b, "").table("health", probes).start();
    proxy.health("a", Health::Down).await;
    for _ in 0..4 {
        assert_eq!(proxy.get(None).await.text(), "b");
    }
    assert!(a.seen().iter().all(|seen| seen.field("user-agent") == Some("linchpin-health")));
}

#[tokio::test]
async fn a_tcp_probe_only_opens_a_connection() {
    let a = Backend::start("a", |_| Reply::Hang).await;
    let probes = format!("type = \"tcp\"\n{PROBES}");
    let proxy = Proxy::builder().backend(&a, "").table("health", &probes).start();
    until("probes", async || a.connections() > 3).await;
    assert_eq!((health(&proxy, "a"), a.count()), (Health::Up, 0));
    let address = a.kill().await;
    proxy.health("a", Health::Down).await;
    let _a = Backend::start_at("a", address, |_| Reply::Hang).await;
    proxy.health("a", Health::Up).await;
}

#[tokio::test]
async fn a_server_whose_probes_failed_gets_no_request_and_its_sessions_move_once() {
    let a = Backend::start("a", |seen| Reply::new(if seen.path() == "/health" { 500 } else { 200 }, "", "a")).await;
    let (b, keys) = (Backend::named("b").await, Keys::new(&[1]));
    let builder = Proxy::builder().top(&keys.tables()).backend(&a, "").backend(&b, "");
    let proxy = builder.table("health", &format!("{PROBES}\npath = \"/health\"")).start();
    proxy.health("a", Health::Down).await;
    let mut client = proxy.client_with(&keys.cookie(&pin(&proxy, "a", 7))).await;
    let moved = client.request("POST", "/", "", b"x").await;
    assert_eq!((moved.text(), keys.issued(&moved).unwrap().session), ("b".into(), 7));
    assert_eq!(client.get("/").await.pin(), None);
    assert!(a.seen().iter().all(|seen| seen.path() == "/health"));
}

#[tokio::test]
async fn a_server_in_maintenance_gets_no_probes() {
    let [a, b, _] = Backend::three().await;
    let builder = Proxy::builder().backend(&a, "state = \"maintenance\"").backend(&b, "");
    let _proxy = builder.table("health", PROBES).start();
    b.has(5).await;
    assert_eq!(a.count(), 0);
}

#[tokio::test]
async fn without_probes_a_server_counts_as_up() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().backend(&a, "").table("health", &format!("type = \"none\"\n{PROBES}")).start();
    let address = a.kill().await;
    assert_eq!(proxy.get(None).await.status, 503);
    let _a = Backend::start_at("a", address, |_| Reply::ok("a")).await;
    assert_eq!((health(&proxy, "a"), proxy.get(None).await.status), (Health::Up, 200));
}

#[tokio::test]
async fn consecutive_failures_eject_a_server_for_a_time_and_its_clients_get_no_error() {
    let (proxy, cookies, a, ill, _b) = ward("consecutive_failures = 3\nbase_time = \"300ms\"").await;
    for cookie in &cookies {
        assert_eq!(health(&proxy, "a"), Health::Up, "after {}", a.count());
        assert_eq!(proxy.get(Some(cookie)).await.text(), "b");
    }
    assert_eq!(a.count(), 3);
    ill.store(false, Ordering::Relaxed);
    proxy.health("a", Health::Up).await;
    let back = proxy.get(Some(&cookies[0])).await;
    assert_eq!((back.text(), back.pin()), ("a".into(), None));
}

#[tokio::test]
async fn an_ejected_server_gets_no_request() {
    let (proxy, cookies, a, _ill, _b) = ward("consecutive_failures = 1").await;
    for cookie in &cookies {
        assert_eq!(proxy.get(Some(cookie)).await.text(), "b");
    }
    for cookie in &cookies {
        assert_eq!((proxy.get(Some(cookie)).await.text(), proxy.get(None).await.text()), ("b".into(), "b".into()));
    }
    assert_eq!((health(&proxy, "a"), a.count()), (Health::Ejected, 3));
}

#[tokio::test]
async fn a_success_between_failures_starts_the_count_anew() {
    let (proxy, cookies, _a, ill, _b) = ward("consecutive_failures = 3").await;
    for _ in 0..4 {
        for cookie in &cookies[..2] {
            ill.store(true, Ordering::Relaxed);
            assert_eq!(proxy.get(Some(cookie)).await.text(), "b");
        }
        ill.store(false, Ordering::Relaxed);
        assert_eq!(proxy.get(Some(&cookies[2])).await.text(), "a");
    }
    assert_eq!(health(&proxy, "a"), Health::Up);
}

#[tokio::test]
async fn each_ejection_lasts_a_base_time_longer_up_to_the_cap() {
    let ejection = "consecutive_failures = 1\nbase_time = \"200ms\"\nmax_time = \"300ms\"";
    let (proxy, cookies, _a, _ill, _b) = ward(ejection).await;
    for least in [200, 300, 300] {
        let mut begun = Instant::now();
        for cookie in &cookies {
            begun = Instant::now();
            assert_eq!(proxy.get(Some(cookie)).await.text(), "b");
        }
        assert_eq!(health(&proxy, "a"), Health::Ejected);
        proxy.health("a", Health::Up).await;
        assert!(begun.elapsed() >= Duration::from_millis(least), "{least}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn the_whole_pool_is_never_ejected() {
    let ((a, _), (b, _), (c, _)) = (moody("a").await, moody("b").await, moody("c").await);
    let ejection = "consecutive_failures = 1\nmax_ejected = \"100%\"";
    let maintained = "state = \"maintenance\"";
    let start = |with_c: &str| {
        let builder: Builder = Proxy::builder().table("ejection", ejection).table("retry", "budget = \"1000%\"");
        builder.backend(&a, "").backend(&b, "").backend(&c, with_c).start()
    };
    for (lines, most) in [("", 2), (maintained, 1), ("weight = 0", 1), ("state = \"drain\"", 2)] {
        let proxy = start(lines);
        for path in 0..8 {
            let response = proxy.client().await.get(&format!("/{path}")).await;
            assert_eq!(response.status, 502, "{lines}: the server still gets the request");
        }
        let out = ["a", "b", "c"].iter().filter(|name| health(&proxy, name) == Health::Ejected).count();
        assert_eq!(out, most, "{lines}");
    }
}

#[tokio::test]
async fn at_most_max_ejected_are_ejected_at_once() {
    for (share, most) in [("0%", 0), ("50%", 2), ("75%", 3)] {
        let mut backends = Vec::new();
        for name in ["a", "b", "c", "d"] {
            backends.push(moody(name).await.0);
        }
        let builder = backends.iter().fold(Proxy::builder(), |builder, backend| builder.backend(backend, ""));
        let builder = builder.table("retry", "budget = \"1000%\"");
        let proxy = builder.table("ejection", &format!("consecutive_failures = 1\nmax_ejected = \"{share}\"")).start();
        for path in 0..12 {
            assert_eq!(proxy.client().await.get(&format!("/{path}")).await.status, 502);
        }
        let out = backends.iter().filter(|backend| health(&proxy, backend.name()) == Health::Ejected).count();
        assert_eq!(out, most, "{share}");
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_reaches_the_client_broken_and_counts_as_a_failure() {
    let chunked: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let sized: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf";
    for broken in [chunked, sized] {
        let a = Backend::start("a", move |_| Reply::Last(broken.into())).await;
        let (b, keys) = (Backend::named("b").await, Keys::new(&[1]));
        let builder = Proxy::builder().top(&keys.tables()).backend(&a, "").backend(&b, "");
        let proxy = builder.table("ejection", "consecutive_failures = 2").start();
        for session in 7..=9 {
            let mut client = proxy.client_with(&keys.cookie(&pin(&proxy, "a", session))).await;
            let request = format!("GET / HTTP/1.1\r\nhost: x\r\ncookie: {}\r\n\r\n", client.pin.take().unwrap());
            client.send(request.as_bytes()).await;
            let response = soon("the end", client.try_response("GET")).await;
            assert!(response.is_none(), "a broken response looks whole");
        }
        proxy.health("a", Health::Ejected).await;
        assert_eq!(b.count(), 0, "what the client has seen the beginning of is not tried again");
    }
}

#[tokio::test]
async fn an_only_server_that_fails_its_probes_is_down_and_back_when_they_pass() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().backend(&a, "").table("health", PROBES).start();
    let pin = proxy.get(None).await.pin();
    let address = a.kill().await;
    proxy.health("a", Health::Down).await;
    assert_eq!(proxy.get(pin.as_deref()).await.status, 503);
    let _a = Backend::start_at("a", address, |_| Reply::ok("a")).await;
    proxy.health("a", Health::Up).await;
    let back = proxy.get(pin.as_deref()).await;
    assert_eq!((back.text(), back.pin()), ("a".into(), None));
}
