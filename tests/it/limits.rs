//! Limits that are reached, late bytes, missing fields and stopped backends: each affects only its own request.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::support::keys::pin;
use super::support::raw::raw;
use super::support::tool::{DemoBackend, Folder};
use super::support::{Backend, Client, Keys, Proxy, soon, until};

/// Reads the next head from a connection; `buffer` keeps the bytes after it.
async fn head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            return Some(String::from_utf8_lossy(&buffer.drain(..at + 4).collect::<Vec<_>>()).into_owned());
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn at_max_connections_clients_of_every_listener_are_accepted_when_another_leaves() {
    let a = Backend::named("a").await;
    let other = "[[listeners]]\nname = \"other\"\naddress = \"127.0.0.1:0\"";
    let proxy = Proxy::builder().server("max_connections = 1").top(other).backend(&a, "").start();
    // The listener that waited for a permit last is the one most likely to get it, so the listeners alternate.
    for _ in 0..3 {
        for listener in [0, 1, 1, 0] {
            let mut client = Client::connect(proxy.listener(listener)).await;
            assert_eq!(client.get("/").await.status, 200);
        }
    }
    // The kernel accepts these connections, though the limit is reached.
    let mut inside = Client::connect(proxy.listener(0)).await;
    assert_eq!(inside.get("/").await.status, 200);
    let mut waiting = [Client::connect(proxy.listener(0)).await, Client::connect(proxy.listener(1)).await];
    for client in &mut waiting {
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    }
    drop(inside);
    for client in &mut waiting {
        assert_eq!(client.response().await.status, 200);
    }
}

#[tokio::test]
async fn an_http_1_0_request_without_a_host_is_forwarded_with_one() {
    let a = Backend::named("a").await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    client.send(b"GET /old HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "a");
    let seen = a.seen().remove(0);
    assert_eq!(seen.line(), "GET /old HTTP/1.1");
    // RFC 9112 §3.2: a server rejects a request of HTTP/1.1 without Host.
    assert_eq!(seen.fields("host"), [a.address().to_string()]);
    for claimed in ["x-forwarded-host", "forwarded"] {
        assert!(!seen.field(claimed).unwrap_or_default().contains("host="), "{claimed}");
    }
}

#[tokio::test]
async fn bytes_that_a_backend_sends_on_an_idle_connection_reach_no_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (send, sent) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (may_send, has_sent) = (Arc::clone(&send), Arc::clone(&sent));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (may_send, has_sent) = (Arc::clone(&may_send), Arc::clone(&has_sent));
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                while head(&mut stream, &mut buffer).await.is_some() {
                    stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 1\r\n\r\na").await.unwrap();
                    may_send.notified().await;
                    stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 6\r\n\r\nstolen").await.unwrap();
                    has_sent.notify_one();
                }
            });
        }
    });
    let proxy = Proxy::builder().backend_at("raw", address, "").start();
    for method in ["GET", "POST", "GET", "POST"] {
        let mut client = proxy.client().await;
        let response = client.request(method, "/", "", b"x").await;
        assert_eq!((response.status, response.text()), (200, "a".into()), "{method}");
        assert_eq!(client.rest(), b"");
        send.notify_one();
        soon("the surplus to be sent", sent.notified()).await;
    }
}

#[tokio::test]
async fn a_final_response_instead_of_100_continue_desynchronizes_no_connection() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let address = raw(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let mut buffer = Vec::new();
            while let Some(head) = head(&mut stream, &mut buffer).await {
                let status = if head.starts_with("POST") { 401 } else { 200 };
                seen.lock().unwrap().push(head);
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 1\r\n\r\na");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let proxy = Proxy::builder().backend_at("raw", address, "").start();
    for _ in 0..3 {
        let mut client = proxy.client().await;
        client.send(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 31\r\n\r\n").await;
        let first = soon("a response", client.try_any_response("POST")).await.expect("a response");
        assert_eq!(first.status, 401, "the client gets no 100, since its body is not wanted");
        // The client sends the body anyway, and the body looks like a request.
        client.send(b"GET /smuggled HTTP/1.1\r\nhost:\r\n\r\n").await;
        assert_eq!(proxy.get(None).await.status, 200);
    }
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), 6, "{heads:?}");
    assert!(heads.iter().all(|head| head.starts_with("POST / HTTP/1.1\r\n") || head.starts_with("GET / HTTP/1.1\r\n")));
}

#[tokio::test]
async fn large_cookies_are_forwarded_unchanged_and_forged_pins_of_any_size_are_ignored() {
    let a = Backend::named("a").await;
    let proxy = Proxy::before(&[&a]);
    let large = format!("session={}", "x\"y ".repeat(1500));
    let large = large.trim_end();
    let response = proxy.client().await.request("GET", "/", &format!("cookie: {large}\r\n"), b"").await;
    assert_eq!(response.status, 200);
    assert_eq!(a.seen()[0].fields("cookie"), [large]);
    for size in [1, 100, 4096, 20_000] {
        let forged = format!("cookie: linchpin-app={}; kept=1\r\n", "A".repeat(size));
        let response = proxy.client().await.request("GET", "/", &forged, b"").await;
        assert!(response.status == 200 && response.pin().is_some(), "{size}: {}", response.head);
        assert_eq!(a.seen().pop().unwrap().fields("cookie"), ["kept=1"], "{size}");
    }
    let bomb = format!("cookie: linchpin-app={}\r\n", "A".repeat(40_000));
    assert_eq!(proxy.client().await.request("GET", "/", &bomb, b"").await.status, 431);
}

#[tokio::test]
async fn a_request_to_a_stopped_backend_moves_to_another_and_its_session_stays_there() {
    let (a, b) = (DemoBackend::start("a").await, DemoBackend::start("b").await);
    let keys = Keys::new(&[1]);
    let health = "path = \"/healthz\"\ninterval = \"100ms\"\ntimeout = \"1s\"\nfall = 2\nrise = 2";
    let builder = Proxy::builder().top(&keys.tables()).table("health", health);
    let proxy = builder.backend_at("a", a.address, "").backend_at("b", b.address, "").start();
    let mut client = proxy.client_with(&keys.cookie(&pin(&proxy, "a", 7))).await;
    assert_eq!(client.get("/whoami").await.field("x-served-by"), Some("a"));

    a.signal("STOP").await;
    let begun = Instant::now();
    let response = client.get("/whoami").await;
    assert_eq!((response.status, response.field("x-served-by")), (200, Some("b")));
    assert!(response.pin().is_some() && begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());

    a.signal("CONT").await;
    proxy.health("a", linchpin::pool::Health::Up).await;
    let response = client.get("/whoami").await;
    assert_eq!((response.field("x-served-by"), response.pin()), (Some("b"), None));
}

#[tokio::test]
async fn an_access_log_file_is_json_and_survives_rotation() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let (file, old) = (folder.file("access.log"), folder.file("access.log.1"));
    let log = format!("[log]\nformat = \"json\"\naccess = {file:?}");
    let proxy = Proxy::builder().top(&log).backend(&a, "").start();
    let mut client = proxy.client().await;
    client.get("/quote\"back\\slash?secret=1").await;
    let lines = |file: &str| std::fs::read_to_string(file).unwrap_or_default().lines().count();
    until("the first line", async || lines(&file) == 1).await;
    let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(
        (line["path"].as_str(), line["status"].as_u64()),
        (Some(r"/quote\x22back\x5cslash"), Some(200)),
        "{line}"
    );
    assert_eq!((line["verdict"].as_str(), line["backend"].as_str()), (Some("new"), Some("a")), "{line}");

    std::fs::rename(&file, &old).unwrap();
    until("a line in the new file", async || {
        client.get("/").await;
        lines(&file) > 0
    })
    .await;
    let sent = a.count();
    proxy.stop().await;
    assert_eq!(lines(&file) + lines(&old), sent, "no line is lost");
}
