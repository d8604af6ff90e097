//! Forwarding of messages: bodies, trailers, unusual responses, and slow clients and backends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Backend, Client, Proxy, Reply, soon, until};

/// Starts a backend that treats its first connection as `work` does, and the proxy in front of it.
async fn raw<F: Future<Output = ()> + Send + 'static>(work: impl FnOnce(TcpStream) -> F + Send + 'static) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        work(stream).await;
    });
    Proxy::builder().backend_at("raw", address, "").start()
}

#[tokio::test]
async fn trailers_and_chunks_pass_both_ways() {
    let answer = "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n";
    let a = Backend::start("a", move |_| Reply::Bytes(answer.into())).await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntransfer-encoding: chunked\r\ntrailer: x-check\r\n\r\n";
    client.send(format!("{head}4\r\nwxyz\r\n0\r\nx-check: 4\r\n\r\n").as_bytes()).await;
    let response = client.response().await;
    assert_eq!((response.text(), response.field("x-sum")), ("abcde".into(), Some("5")));
    let seen = a.seen().remove(0);
    assert_eq!((&*seen.body, seen.field("x-check"), seen.field("te")), (&b"wxyz"[..], Some("4"), Some("trailers")));
}

#[tokio::test]
async fn responses_without_a_body_keep_the_connection_in_step() {
    let a = Backend::start("a", |seen| match seen.path() {
        "/204" => Reply::Bytes("HTTP/1.1 204 X\r\n\r\n".into()),
        "/304" => Reply::Bytes("HTTP/1.1 304 X\r\ncontent-length: 7\r\netag: \"x\"\r\n\r\n".into()),
        "/head" => Reply::Bytes("HTTP/1.1 200 X\r\ncontent-length: 7\r\n\r\n".into()),
        "/103" => Reply::Bytes(
            "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok".into(),
        ),
        _ => Reply::ok("a"),
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    for (method, path, status, length) in [
        ("GET", "/204", 204, None),
        // RFC 9110 §8.6 lets a 304 have the length that a 200 would have, and advises against it.
        ("GET", "/304", 304, None),
        ("HEAD", "/head", 200, Some("7")),
        ("GET", "/103", 200, Some("2")),
        ("GET", "/", 200, Some("1")),
    ] {
        let response = client.request(method, path, "", b"").await;
        assert_eq!((response.status, response.field("content-length")), (status, length), "{method} {path}");
        assert_eq!(client.rest(), b"");
    }
    assert_eq!(a.connections(), 1);
}

#[tokio::test]
async fn surplus_bytes_of_a_backend_reach_no_client() {
    let smuggled = "HTTP/1.1 200 X\r\ncontent-length: 6\r\n\r\nstolen";
    let a = Backend::start("a", move |_| {
        Reply::Bytes(format!("HTTP/1.1 200 X\r\ncontent-length: 1\r\n\r\na{smuggled}").into())
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    for _ in 0..5 {
        let mut client = proxy.client().await;
        for _ in 0..2 {
            assert_eq!(client.get("/").await.text(), "a");
        }
        assert_eq!(client.rest(), b"");
    }
}

#[tokio::test]
async fn a_truncated_response_is_not_forwarded_as_a_complete_one() {
    for reply in ["content-length: 10\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let a = Backend::start("a", move |_| Reply::Last(format!("HTTP/1.1 200 X\r\n{reply}").into())).await;
        let proxy = Proxy::before(&[&a]);
        let mut client = proxy.client().await;
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(soon("the end", client.try_response("GET")).await.is_none(), "{reply}");
    }
}

#[tokio::test]
async fn a_response_that_does_not_fit_its_request_is_a_502() {
    for reply in [
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 X\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 X\r\ncontent-length: +1\r\n\r\na",
        "HTTP/1.1 200 X\r\nbad name: 1\r\n\r\n",
    ] {
        let a = Backend::start("a", move |_| Reply::Last(reply.into())).await;
        let proxy = Proxy::before(&[&a]);
        let response = proxy.client().await.request("POST", "/", "accept: application/json\r\n", b"x").await;
        let page: serde_json::Value = serde_json::from_str(&response.text()).unwrap();
        assert_eq!((response.status, page["status"].as_u64()), (502, Some(502)), "{reply:?}");
        assert_eq!(page["request"].as_str().map(str::len), Some(16));
        assert_eq!(response.pin(), None);
    }
}

#[tokio::test]
async fn an_upload_is_read_at_the_backends_pace_and_a_download_at_the_clients() {
    const CHUNK: usize = 64 * 1024;
    /// Sends for as long as the other side accepts it, and counts the bytes.
    async fn pour(stream: &mut TcpStream, sent: &AtomicUsize) {
        let bytes = vec![b'x'; CHUNK];
        while sent.load(Ordering::SeqCst) < 4096 * CHUNK && stream.write_all(&bytes).await.is_ok() {
            sent.fetch_add(CHUNK, Ordering::SeqCst);
        }
    }
    /// Waits until no more bytes are accepted; returns how many were.
    async fn stalled(sent: &AtomicUsize) -> usize {
        let mut last = (usize::MAX, 0);
        until("it stalls", async || {
            let now = sent.load(Ordering::SeqCst);
            last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
            last.1 > 40
        })
        .await;
        last.0
    }
    // The kernel's buffers of four sockets take some MiB; the proxy's own must be small beside them.
    const MOST: usize = 48 * 1024 * 1024;

    let proxy = raw(|stream| async move {
        let _unread = stream;
        std::future::pending().await
    })
    .await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let address = proxy.address();
    tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n10000000\r\n")
            .await
            .unwrap();
        pour(&mut stream, &counted).await;
    });
    until("bytes to flow again", async || sent.load(Ordering::SeqCst) > 0).await;
    assert!(stalled(&sent).await < MOST);

    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let proxy = raw(|mut stream| async move {
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 X\r\n\r\n").await.unwrap();
        pour(&mut stream, &counted).await;
    })
    .await;
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("bytes to flow again", async || sent.load(Ordering::SeqCst) > 0).await;
    assert!(stalled(&sent).await < MOST);
}

#[tokio::test]
async fn an_early_response_reaches_a_client_that_is_still_sending() {
    let proxy = raw(|mut stream| async move {
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 413 X\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig").await.unwrap();
    })
    .await;
    let mut client = proxy.client().await;
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\nbeginning").await;
    let response = client.response().await;
    assert_eq!((response.status, response.text()), (413, "big".into()));
}

#[tokio::test]
async fn slow_request_heads_and_bodies_are_408_and_slow_responses_504() {
    let a = Backend::start("a", |seen| if seen.path() == "/hang" { Reply::Hang } else { Reply::ok("a") }).await;
    let server = "limits = { header_read_timeout = \"100ms\", idle_timeout = \"10s\" }";
    let timeouts = "idle = \"100ms\"\nresponse = \"200ms\"";
    let builder = Proxy::builder().server(server).table("timeouts", timeouts).table("retry", "retry_on = []");
    let proxy = builder.backend(&a, "").start();
    for (sent, status) in [
        ("GET / HTTP/1.1\r\nhost: a\r\nx: ", 408),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx", 408),
        ("GET /hang HTTP/1.1\r\nhost: a\r\n\r\n", 504),
    ] {
        let mut client = proxy.client().await;
        client.send(sent.as_bytes()).await;
        assert_eq!(client.response().await.status, status, "{sent:?}");
    }
    assert_eq!(proxy.get(None).await.status, 200, "nobody else notices");
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_connection() {
    let body = "x".repeat(1 << 20);
    let a = Backend::start("a", move |_| Reply::ok(&body)).await;
    let proxy = Proxy::builder().server("limits = { idle_timeout = \"500ms\" }").backend(&a, "").start();
    let mut client = proxy.client().await;
    for _ in 0..32 {
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    }
    until("its request to end", async || proxy.live("a").active() == 0 && a.count() > 0).await;
    tokio::time::timeout(Duration::from_secs(20), async { while client.try_response("GET").await.is_some() {} })
        .await
        .expect("an end");
}

#[tokio::test]
async fn connections_beyond_max_connections_wait_until_another_closes() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().server("max_connections = 1").backend(&a, "").start();
    let mut first = proxy.client().await;
    assert_eq!(first.get("/").await.status, 200);
    let mut second = Client::connect(proxy.address()).await;
    second.send(b"GET /second HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(first.get("/").await.status, 200);
    assert!(a.seen().iter().all(|seen| seen.path() != "/second"));
    drop(first);
    assert_eq!(second.response().await.status, 200);
}

#[tokio::test]
async fn an_http_1_0_client_gets_a_response_it_can_read_and_its_connection_closes() {
    let a = Backend::start("a", |_| {
        Reply::Bytes("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".into())
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.0\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.text(), response.field("transfer-encoding")), ("abc".into(), None));
}

#[tokio::test]
async fn hop_by_hop_fields_are_removed_in_both_directions_and_absolute_form_overrides_host() {
    let fields = "connection: x-private, close\r\nx-private: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\nx-public: 2\r\n";
    let a = Backend::start("a", move |_| Reply::new(200, fields, "a")).await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    client
        .send(
            b"GET http://b.example:81/p?q HTTP/1.1\r\nhost: a\r\nconnection: x-mine\r\nx-mine: 1\r\nx-kept: 2\r\n\r\n",
        )
        .await;
    let response = client.response().await;
    for name in ["x-private", "keep-alive", "proxy-connection"] {
        assert_eq!(response.field(name), None, "{name}");
    }
    assert_eq!(response.field("x-public"), Some("2"));
    let seen = a.seen().remove(0);
    assert_eq!((seen.path(), seen.field("host")), ("/p?q", Some("b.example:81")));
    assert_eq!((seen.field("x-mine"), seen.field("x-kept")), (None, Some("2")));
}

#[tokio::test]
async fn a_backend_that_lists_set_cookie_in_connection_removes_no_pin() {
    let a = Backend::start("a", |_| Reply::new(200, "connection: set-cookie\r\nset-cookie: x=1\r\n", "a")).await;
    let proxy = Proxy::before(&[&a]);
    assert!(proxy.get(None).await.pin().is_some());
}
