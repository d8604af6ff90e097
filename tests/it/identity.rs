//! The client's identity: the PROXY protocol, chains of proxies, Unix sockets, IPv6.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};

use super::support::raw::raw;
use super::support::tool::{Folder, run};
use super::support::{Backend, Client, Proxy, soon, until};

fn listener(lines: &str) -> String {
    format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{lines}")
}

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";

#[tokio::test]
async fn a_proxy_header_from_a_trusted_peer_names_the_client() {
    let a = Backend::named("a").await;
    let top = listener(&format!("proxy_protocol = true\n{TRUSTED}"));
    let proxy = Proxy::builder().top(&top).backend(&a, "").start();
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x0a\x01\x02\x03\x7f\x00\x00\x01\x12\x34\x00\x50";
    let v1 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4660 80\r\n";
    for (header, client) in [(&v2[..], "10.1.2.3"), (v1, "2001:db8::7"), (b"PROXY UNKNOWN\r\n", "127.0.0.1")] {
        let mut connection = Client::connect(proxy.listener(0)).await;
        connection.send(header).await;
        for _ in 0..2 {
            assert_eq!(connection.get("/").await.status, 200);
            assert_eq!(a.seen().pop().unwrap().field("x-forwarded-for"), Some(client));
        }
    }
}

#[tokio::test]
async fn a_trusted_peer_must_send_a_proxy_header_and_an_untrusted_one_must_not() {
    let a = Backend::named("a").await;
    let top = listener(&format!("proxy_protocol = true\n{TRUSTED}"))
        + "\n"
        + &listener("proxy_protocol = true\ntrusted_proxies = [\"192.0.2.1\"]");
    let proxy = Proxy::builder().top(&top).backend(&a, "").start();
    let mut trusted = Client::connect(proxy.listener(0)).await;
    trusted.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(trusted.is_closed().await);
    let mut stranger = Client::connect(proxy.listener(1)).await;
    stranger.send(b"PROXY TCP4 6.6.6.6 127.0.0.1 1 2\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(stranger.response().await.status, 400);
    assert_eq!(a.count(), 0);
    // Without a PROXY header, an untrusted client is served.
    assert_eq!(Client::connect(proxy.listener(1)).await.get("/").await.status, 200);
}

#[tokio::test]
async fn a_proxy_header_that_does_not_arrive_in_time_closes_the_connection() {
    let a = Backend::named("a").await;
    let top = listener(&format!("proxy_protocol = true\n{TRUSTED}"));
    let proxy = Proxy::builder().server("limits.header_read_timeout = \"200ms\"").top(&top).backend(&a, "").start();
    let mut slow = Client::connect(proxy.listener(0)).await;
    slow.send(b"PROXY TCP4 ").await;
    assert!(slow.is_closed().await);
}

#[tokio::test]
async fn forwarding_headers_of_trusted_proxies_are_appended_to_and_others_replaced() {
    let a = Backend::named("a").await;
    let top = listener(TRUSTED) + "\n" + &listener("");
    let folder = Folder::new();
    let log = folder.file("access.log");
    let top = format!("[log]\naccess = \"{log}\"\nformat = \"json\"\n{top}");
    let proxy = Proxy::builder().top(&top).backend(&a, "").start();
    let fields = "x-forwarded-for: 6.6.6.6, 203.0.113.9, 10.0.0.7\r\nx-forwarded-proto: https\r\nx-forwarded-host: shop.example\r\n";
    Client::connect(proxy.listener(0)).await.request("GET", "/trusted", fields, b"").await;
    Client::connect(proxy.listener(1)).await.request("GET", "/stranger", fields, b"").await;
    let [trusted, stranger] = a.seen().try_into().unwrap();
    assert_eq!(trusted.fields("x-forwarded-for"), ["6.6.6.6, 203.0.113.9, 10.0.0.7", "127.0.0.1"]);
    assert_eq!(trusted.fields("x-forwarded-proto"), ["https"]);
    assert_eq!(trusted.fields("x-forwarded-host"), ["shop.example"]);
    assert_eq!(stranger.fields("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(stranger.fields("x-forwarded-proto"), ["http"]);
    assert_eq!(stranger.fields("x-forwarded-host"), ["test"]);
    proxy.stop().await;
    let lines = std::fs::read_to_string(log).unwrap();
    let line = |path: &str| lines.lines().find(|line| line.contains(path)).unwrap().to_owned();
    assert!(line("/trusted").contains("\"client\":\"203.0.113.9\""), "{lines}");
    assert!(line("/stranger").contains("\"client\":\"127.0.0.1\""), "{lines}");
}

#[tokio::test]
async fn clients_and_backends_on_unix_sockets_are_served() {
    let folder = Folder::new();
    let (front, back) = (folder.file("front.sock"), folder.file("back.sock"));
    let listener = UnixListener::bind(&back).unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                    if head.ends_with(b"\r\n\r\n") {
                        seen.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                        head.clear();
                        stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                    }
                }
            });
        }
    });
    let proxy = Proxy::builder()
        .top(&format!("[[listeners]]\naddress = \"unix:{front}\""))
        .table("health", "path = \"/health\"\ninterval = \"50ms\"")
        .backend_on("unix", &format!("unix:{back}"))
        .start();
    let fetched = run("curl", &["-sS", "--unix-socket", &front, "http://shop.example/path"]).await;
    assert_eq!(fetched.out, "ok");
    let heads_now = || heads.lock().unwrap().clone();
    let request = heads_now().into_iter().find(|head| head.starts_with("GET /path ")).unwrap();
    assert!(
        request.contains("host: shop.example\r\n") && request.contains("x-forwarded-for: 127.0.0.1\r\n"),
        "{request}"
    );
    until("a probe", async || heads_now().iter().any(|head| head.starts_with("GET /health "))).await;
    proxy.stop().await;
    assert!(UnixStream::connect(&front).await.is_err(), "the listener removes the file of its socket");
}

#[tokio::test]
async fn ipv6_clients_are_served_like_ipv4_clients() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().top("[[listeners]]\naddress = \"[::1]:0\"").backend(&a, "").start();
    assert_eq!(Client::connect(proxy.listener(0)).await.get("/").await.status, 200);
    let seen = a.seen().pop().unwrap();
    assert_eq!(seen.field("x-forwarded-for"), Some("::1"));
    assert_eq!(seen.field("forwarded"), Some("for=\"[::1]\";host=\"test\";proto=http"));
}

#[tokio::test]
async fn a_backend_gets_a_proxy_header_and_a_connection_for_each_client() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&lines);
    let address = raw(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.push(stream.read_u8().await.ok()?);
            }
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            let mut head = Vec::new();
            while stream.read_buf(&mut head).await.ok()? > 0 {
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    seen.lock().unwrap().push(line.clone());
                    stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok").await.ok()?;
                }
            }
            Some(())
        }
    })
    .await;
    let proxy = Proxy::builder()
        .top(&self::listener(TRUSTED))
        .table("upstream", "proxy_protocol = \"v1\"")
        .backend_at("a", address, "")
        .start();
    for client in ["1.1.1.1", "2.2.2.2", "1.1.1.1", "2001:db8::1"] {
        let mut connection = Client::connect(proxy.listener(0)).await;
        let fields = format!("x-forwarded-for: {client}\r\n");
        assert_eq!(connection.request("GET", "/", &fields, b"").await.status, 200);
    }
    let expected =
        ["1.1.1.1", "2.2.2.2", "1.1.1.1"].map(|client| format!("PROXY TCP4 {client} 127.0.0.1 0 {}", address.port()));
    let lines = lines.lock().unwrap().clone();
    assert_eq!(lines[..3], expected);
    assert_eq!(lines[3], format!("PROXY TCP6 2001:db8::1 ::ffff:127.0.0.1 0 {}", address.port()));
}

#[tokio::test]
async fn a_connection_that_ends_within_its_first_bytes_is_closed() {
    let a = Backend::named("a").await;
    let top = listener(&format!("proxy_protocol = true\nhttp2 = true\n{TRUSTED}"));
    let proxy = Proxy::builder().top(&top).backend(&a, "").start();
    for bytes in [&b""[..], b"P", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nPRI * HT"]
    {
        let mut stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"), "{bytes:?}: {rest:?}");
    }
}
