//! Which failures count against a server: neither one client nor one page takes a server from the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use linchpin::pool::Health;

use super::support::keys::pin;
use super::support::proxy::Builder;
use super::support::{Backend, Keys, Proxy, Reply, until};

fn health(proxy: &Proxy, backend: &str) -> Health {
    proxy.live(backend).health()
}

/// The pages whose responses cannot be forwarded to any client.
const UNUSABLE: [(&str, &str); 3] = [
    ("/malformed", "HTTP/1.1 200 OK\r\nbad field\u{1}: x\r\n\r\n"),
    ("/framing", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
    ("/no-http", "SSH-2.0-OpenSSH_9.6\r\n"),
];

/// Three servers that respond with their names, except to pages for which each of them sends garbage, a head
/// that is too large, or not at all.
async fn three() -> Vec<Backend> {
    let mut backends = Vec::new();
    for name in ["a", "b", "c"] {
        let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(300 * 1024));
        let program = move |seen: &super::support::backend::Seen| {
            let garbage = UNUSABLE.iter().find(|(path, _)| *path == seen.path());
            match (garbage, seen.path()) {
                (Some((_, answer)), _) => Reply::Last(answer.as_bytes().into()),
                (None, "/large") => Reply::Last(large.clone().into()),
                (None, path) if path.starts_with("/closed") => Reply::Close,
                _ => Reply::ok(name),
            }
        };
        backends.push(Backend::start(name, program).await);
    }
    backends
}

fn before(backends: &[Backend], keys: &Keys) -> Builder {
    let builder = Proxy::builder().top(&keys.tables());
    backends.iter().fold(builder, |builder, backend| builder.backend(backend, ""))
}

fn count(backends: &[Backend]) -> usize {
    backends.iter().map(Backend::count).sum()
}

#[tokio::test]
async fn a_page_that_cannot_be_forwarded_fails_for_every_client_and_moves_no_session() {
    for path in UNUSABLE.iter().map(|(path, _)| *path).chain(["/large"]) {
        let (backends, keys) = (three().await, Keys::new(&[1]));
        let proxy = before(&backends, &keys).start();
        let mut others = Vec::new();
        for _ in 0..12 {
            let mut client = proxy.client().await;
            let home = client.get("/").await.text();
            others.push((client, home));
        }
        let mut user = proxy.client_with(&keys.cookie(&pin(&proxy, "a", 7))).await;
        for round in 0..8 {
            let earlier = count(&backends);
            let response = user.get(path).await;
            assert_eq!((response.status, response.pin()), (502, None), "{path} {round}");
            assert_eq!(count(&backends) - earlier, 1, "{path} {round}: no other server can serve it either");
            let next = user.get("/").await;
            assert_eq!((next.text().as_str(), next.pin()), ("a", None), "{path} {round}: it has its server still");
        }
        for _ in 0..8 {
            user.get(path).await;
        }
        assert_eq!(health(&proxy, "a"), Health::Up, "{path}");
        for (client, home) in &mut others {
            assert_eq!(&client.get("/").await.text(), home, "{path}");
        }
    }
}

#[tokio::test]
async fn one_client_ejects_no_server_however_its_requests_end() {
    for method in ["GET", "POST"] {
        let (backends, keys) = (three().await, Keys::new(&[1]));
        let proxy = before(&backends, &keys).table("retry", "budget = \"1000%\"").start();
        // There is another client, so this client's failures alone prove nothing.
        assert_eq!(proxy.get(Some(&keys.cookie(&pin(&proxy, "b", 1)))).await.status, 200);
        let cookie = keys.cookie(&pin(&proxy, "a", 7));
        for with_pin in [true, false] {
            for query in 0..20 {
                let mut client = proxy.client().await;
                client.pin = with_pin.then(|| cookie.clone());
                let response = client.request(method, &format!("/closed?{query}"), "", b"").await;
                assert_eq!(response.status, 502);
            }
        }
        assert_eq!(["a", "b", "c"].map(|name| health(&proxy, name)), [Health::Up; 3], "{method}");
    }
}

#[tokio::test]
async fn failed_responses_to_three_sessions_eject_their_server() {
    let (backends, keys) = (three().await, Keys::new(&[1]));
    let proxy = before(&backends, &keys).table("retry", "budget = \"1000%\"").start();
    for (request, session) in [7, 7, 7, 8, 8, 9].into_iter().enumerate() {
        assert_eq!(health(&proxy, "a"), Health::Up, "after {request}");
        let mut client = proxy.client_with(&keys.cookie(&pin(&proxy, "a", session))).await;
        assert_eq!(client.get("/closed").await.status, 502);
    }
    assert_eq!(health(&proxy, "a"), Health::Ejected);
}

#[tokio::test]
async fn the_only_client_of_a_pool_ejects_a_server_that_fails_three_of_its_pages() {
    let a = Backend::start("a", |_| Reply::Close).await;
    let (b, keys) = (Backend::named("b").await, Keys::new(&[1]));
    let proxy = Proxy::builder().top(&keys.tables()).backend(&a, "").backend(&b, "").start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    for (request, path) in ["/1", "/1", "/1", "/1", "/1", "/2", "/3"].into_iter().enumerate() {
        assert_eq!(health(&proxy, "a"), Health::Up, "after {request}");
        // Each time with its pin, whatever the response is.
        assert_eq!(proxy.client_with(&cookie).await.get(path).await.text(), "b");
    }
    assert_eq!(health(&proxy, "a"), Health::Ejected);
}

#[tokio::test]
async fn refused_connections_eject_a_server_whichever_client_sent_the_requests() {
    let (backends, keys) = (three().await, Keys::new(&[1]));
    let proxy = before(&backends, &keys).start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    backends.into_iter().next().unwrap().kill().await;
    for _ in 0..5 {
        assert_eq!(health(&proxy, "a"), Health::Up);
        proxy.get(Some(&cookie)).await;
    }
    assert_eq!(health(&proxy, "a"), Health::Ejected);
}

#[tokio::test]
async fn a_server_restarted_between_two_probes_gets_new_clients_after_rise_passed_probes() {
    let a = Backend::named("a").await;
    let (b, keys) = (Backend::named("b").await, Keys::new(&[1]));
    let up = Arc::new(AtomicBool::new(false));
    // Probes never fail: the server is down for less than the time between two of them.
    let probes = "path = \"/health\"\ninterval = \"50ms\"\ntimeout = \"10s\"\nrise = 2\nfall = 100";
    let builder = Proxy::builder().top(&keys.tables()).backend(&a, "").backend(&b, "").table("health", probes);
    let proxy = builder.table("ejection", "base_time = \"1h\"\nmax_time = \"1h\"").start();
    a.has(3).await;
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    let address = a.kill().await;
    until("it is ejected", async || {
        proxy.get(Some(&cookie)).await;
        health(&proxy, "a") == Health::Ejected
    })
    .await;
    let is_up = Arc::clone(&up);
    let program = move |seen: &super::support::backend::Seen| match seen.path() {
        "/health" if !is_up.load(Ordering::SeqCst) => Reply::Close,
        _ => Reply::ok("a"),
    };
    let a = Backend::start_at("a", address, program).await;
    assert_eq!(health(&proxy, "a"), Health::Ejected);
    up.store(true, Ordering::SeqCst);
    proxy.health("a", Health::Up).await;
    let probes = a.seen().iter().filter(|seen| seen.path() == "/health").count();
    assert!(probes >= 2, "{probes}");
    until("a new client", async || proxy.get(None).await.text() == "a").await;
}
