//! Tunnels: WebSockets and other upgrades, their limits, and their end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::frames::{Frames, GOAWAY, HEADERS, RST_STREAM};
use super::support::proxy::Builder;
use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy, Reply, soon, until};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

const ASKED: &str = "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";

/// A backend that switches to another protocol, in which it echoes what it receives.
struct Echo {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Echo {
    async fn start() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&open);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let count = Arc::clone(&count);
                connections.spawn(async move {
                    echo(stream).await;
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Echo { address, open, task }
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

async fn echo(mut stream: TcpStream) -> Option<()> {
    let head = head_of(&mut stream).await?;
    assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"), "{head}");
    // The first bytes of the protocol may arrive with the response.
    stream.write_all(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello ").await.ok()?;
    let (mut read, mut write) = stream.into_split();
    tokio::io::copy(&mut read, &mut write).await.ok()?;
    write.write_all(b"goodbye").await.ok()
}

/// Reads the head of a request, in lower case.
async fn head_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).to_lowercase())
}

fn before(echo: &Echo) -> Builder {
    Proxy::builder().backend_at("echo", echo.address, "")
}

/// A client whose connection has become a tunnel, and that has received the backend's first bytes.
async fn tunnel(address: SocketAddr) -> TcpStream {
    let mut client = Client::connect(address).await;
    client.send(ASKED.as_bytes()).await;
    let answer = soon("a response", client.try_any_response("GET")).await.unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.field("upgrade"), Some("websocket"));
    assert!(answer.pin().is_some(), "the request that asks is pinned as any other");
    let (mut stream, mut read) = client.into_parts();
    while read.len() < 6 {
        soon("the first bytes", stream.read_buf(&mut read)).await.unwrap();
    }
    assert_eq!(read, b"hello ");
    stream
}

async fn says_back(stream: &mut TcpStream, what: &[u8]) {
    let mut back = vec![0; what.len()];
    soon("to be read", stream.write_all(what)).await.unwrap();
    soon("an echo", stream.read_exact(&mut back)).await.unwrap();
    assert!(back == what);
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut rest)).await;
    rest
}

#[tokio::test]
async fn bytes_pass_in_both_directions_and_each_side_closes_separately() {
    let echo = Echo::start().await;
    let proxy = before(&echo).start();
    let mut stream = tunnel(proxy.address()).await;
    says_back(&mut stream, b"x").await;
    let large = vec![7; 3_000_000];
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; large.len()];
    let both = async { tokio::join!(write.write_all(&large), read.read_exact(&mut back)) };
    soon("three megabytes and back", both).await.1.unwrap();
    assert!(back == large);
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"goodbye", "the backend may still speak when the client has ended");
    until("the backend is free", async || echo.open() == 0).await;
}

#[tokio::test]
async fn bytes_that_a_client_sends_right_after_its_request_are_not_lost() {
    let echo = Echo::start().await;
    let proxy = before(&echo).start();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(format!("{ASKED}early").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let all = String::from_utf8(rest(&mut stream).await).unwrap();
    assert!(all.ends_with("\r\n\r\nhello earlygoodbye"), "{all}");
}

#[tokio::test]
async fn a_tunnel_ends_when_it_is_silent_or_old_and_its_bytes_are_recorded() {
    let echo = Echo::start().await;
    for (limit, error) in
        [("stream_idle = \"300ms\"", "tunnel_timeout"), ("tunnel_lifetime = \"300ms\"", "tunnel_timeout")]
    {
        let folder = Folder::new();
        let path = folder.file("access.log");
        let log = format!("[log]\naccess = \"{path}\"\nformat = \"json\"");
        let proxy = before(&echo).top(&log).table("timeouts", limit).start();
        let mut stream = tunnel(proxy.address()).await;
        says_back(&mut stream, b"four").await;
        assert_eq!(rest(&mut stream).await, b"");
        until("the backend is free", async || echo.open() == 0).await;
        assert_eq!(proxy.live("echo").active(), 0);
        proxy.stop().await;
        let line = std::fs::read_to_string(path).unwrap();
        for part in ["\"status\":101", "\"bytes_in\":4", "\"bytes_out\":10", error, "\"verdict\":\"new\""] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}

#[tokio::test]
async fn a_tunnel_counts_as_a_request_under_way_until_it_ends() {
    let echo = Echo::start().await;
    let proxy = before(&echo).top("[admin]\naddress = \"127.0.0.1:0\"").start();
    let mut stream = tunnel(proxy.address()).await;
    assert_eq!(proxy.live("echo").active(), 1);
    let exposes = async |line: &str| {
        let metrics = proxy.ask("GET", "/metrics", "").await.text();
        metrics.lines().any(|each| each == line)
    };
    assert!(exposes("linchpin_tunnels{pool=\"app\",backend=\"echo\"} 1").await);
    says_back(&mut stream, b"x").await;
    drop(stream);
    until("it is over", async || proxy.live("echo").active() == 0).await;
    until("the metric to change", async || exposes("linchpin_tunnels{pool=\"app\",backend=\"echo\"} 0").await).await;
    assert!(exposes("linchpin_tunnels_begun_total{pool=\"app\",backend=\"echo\"} 1").await);
    let line = "linchpin_requests_total{pool=\"app\",backend=\"echo\",verdict=\"new\",code=\"101\"} 1";
    assert!(exposes(line).await);
}

#[tokio::test]
async fn a_tunnel_is_closed_at_the_end_of_a_drain_and_not_before() {
    let echo = Echo::start().await;
    let proxy = before(&echo).server("shutdown_grace = \"3s\"").start();
    let mut stream = tunnel(proxy.address()).await;
    let address = proxy.address();
    let begun = Instant::now();
    let stopping = tokio::spawn(proxy.stop());
    until("new connections to be refused", async || TcpStream::connect(address).await.is_err()).await;
    says_back(&mut stream, b"still here").await;
    assert_eq!(rest(&mut stream).await, b"");
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    soon("the end", stopping).await.unwrap();
}

#[tokio::test]
async fn the_death_of_a_backend_ends_its_tunnels() {
    let echo = Echo::start().await;
    let proxy = before(&echo).start();
    let mut stream = tunnel(proxy.address()).await;
    echo.task.abort();
    assert_eq!(rest(&mut stream).await, b"");
}

#[tokio::test]
async fn a_response_that_declines_an_upgrade_is_forwarded_and_the_connection_stays_open() {
    let a = Backend::start("a", |seen| Reply::ok(seen.field("upgrade").unwrap_or("none"))).await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    for (upgrade, passed) in [
        ("websocket", "websocket"),
        ("h2c", "none"),
        ("websocket, h2c", "websocket"),
        ("foo/1", "none"),
        ("TLS/1.2", "none"),
    ] {
        let fields = format!("connection: upgrade, http2-settings\r\nhttp2-settings: x\r\nupgrade: {upgrade}\r\n");
        let response = client.request("GET", "/", &fields, b"").await;
        assert_eq!((response.status, response.text()), (200, passed.into()), "{upgrade}");
    }
    let response = client.request("POST", "/", "connection: upgrade\r\nupgrade: websocket\r\n", b"body").await;
    assert_eq!(response.text(), "none", "where the body ends is indistinguishable from what follows");
    assert!(a.seen().iter().all(|seen| seen.field("http2-settings").is_none()));
}

#[tokio::test]
async fn a_backend_is_offered_the_protocols_that_its_route_names_and_no_others() {
    let a = Backend::start("a", |seen| Reply::ok(seen.field("upgrade").unwrap_or("none"))).await;
    let routes = "[[routes]]\npath_prefix = \"/exec\"\npool = \"app\"\nupgrades = [\"SPDY/3.1\", \"tcp\"]\n\
                  [[routes]]\npath_prefix = \"/none\"\npool = \"app\"\nupgrades = []\n[[routes]]\npool = \"app\"";
    let proxy = Proxy::builder().top(HTTP2).top(routes).backend(&a, "").start();
    let mut client = Client::connect(proxy.listener(1)).await;
    for (path, offered, passed) in [
        ("/", "websocket", "websocket"),
        ("/", "TLS/1.2", "none"),
        ("/", "HTTP/2.0, SHTTP/1.3, IRC/6.9", "none"),
        ("/", "h2c, WebSocket", "WebSocket"),
        ("/exec", "tcp", "tcp"),
        ("/exec", "spdy/3.1", "spdy/3.1"),
        ("/exec", "SPDY/3.0, websocket", "none"),
        ("/none", "websocket", "none"),
    ] {
        let response =
            client.request("GET", path, &format!("connection: upgrade\r\nupgrade: {offered}\r\n"), b"").await;
        assert_eq!((response.status, response.text()), (200, passed.into()), "{path} {offered}");
        let connection = a.seen().pop().unwrap().field("connection").map(str::to_owned);
        assert_eq!(connection.as_deref(), (passed != "none").then_some("upgrade"), "{path} {offered}");
    }
    // Over HTTP/2 a WebSocket can be refused, but the offer cannot be removed.
    let seen = a.count();
    let mut client = Frames::connect(proxy.listener(0)).await;
    let fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "a")];
    client.fields(0, 1, &[&fields[..], &[(":path", "/none"), ("sec-websocket-version", "13")]].concat()).await;
    let (kind, _, payload) = client.await_kind(&[HEADERS, RST_STREAM, GOAWAY]).await;
    // `501` in HPACK's Huffman code (RFC 7541, appendix B).
    const HPACK_501: [u8; 2] = [0x6c, 0x01];
    assert!(kind == HEADERS && payload.windows(2).any(|window| window == HPACK_501), "{payload:?}");
    assert_eq!(a.count(), seen);
}

#[tokio::test]
async fn a_101_with_a_protocol_that_the_client_did_not_offer_is_a_502() {
    let astray = "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
    let a = Backend::start("a", move |_| Reply::Bytes(astray.into())).await;
    let proxy = Proxy::before(&[&a]);
    for fields in ["", "connection: upgrade\r\nupgrade: websocket\r\n"] {
        let mut client = proxy.client().await;
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes()).await;
        assert_eq!(client.response().await.status, 502, "{fields}");
    }
}

#[tokio::test]
async fn events_flow_at_once_and_a_client_that_leaves_frees_its_backend() {
    // One event, and then silence, for longer than other responses may pause.
    let event = "HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (closed, is_closed) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head_of(&mut stream).await.unwrap();
        stream.write_all(event.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(800)).await;
        stream.write_all(b"data: 2\n\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        let _ = closed.send(());
    });
    let proxy = Proxy::builder().table("timeouts", "idle = \"300ms\"").backend_at("a", address, "").start();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut read = Vec::new();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        while !String::from_utf8_lossy(&read).contains(event) {
            assert!(soon(event, stream.read_buf(&mut read)).await.unwrap() > 0, "{:?}", String::from_utf8_lossy(&read));
        }
    }
    // A plain close, as a closed browser tab does it: no reset shows that the client has left.
    drop(stream);
    soon("the backend to have no request", is_closed).await.unwrap();
}

#[tokio::test]
async fn a_long_poll_whose_page_was_closed_frees_its_backend() {
    let a = Backend::start("a", |_| Reply::Hang).await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    a.has(1).await;
    drop(client);
    until("no request to wait", async || proxy.live("a").active() == 0).await;
}

#[tokio::test]
async fn a_tunnel_with_one_closed_and_one_silent_side_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Notices that its client has closed, and neither sends nor closes anything.
    let silent = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        head_of(&mut stream).await.unwrap();
        let answer = b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello ";
        stream.write_all(answer).await.unwrap();
        assert!(rest(&mut stream).await.is_empty());
        std::future::pending::<()>().await;
    });
    let builder = Proxy::builder().backend_at("silent", address, "").table("timeouts", "idle = \"300ms\"");
    let proxy = builder.start();
    let mut stream = tunnel(proxy.address()).await;
    // While both sides are open, the tunnel may be silent for longer than that.
    let begun = Instant::now();
    until("700 ms to pass", async || begun.elapsed() > Duration::from_millis(700)).await;
    assert_eq!(proxy.live("silent").active(), 1);
    stream.shutdown().await.unwrap();
    assert!(rest(&mut stream).await.is_empty());
    until("the end of the request", async || proxy.live("silent").active() == 0).await;
    silent.abort();
}

/// A backend that sends its last bytes and resets the connection, since it has not read everything from the client.
#[tokio::test]
async fn last_words_before_a_reset_reach_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                head_of(&mut stream).await.unwrap();
                let answer = b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello ";
                stream.write_all(answer).await.unwrap();
                // Waits for one byte of more than one, speaks, and closes.
                stream.read_u8().await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.write_all(b"goodbye").await.unwrap();
                drop(stream);
            });
        }
    });
    let proxy = Proxy::builder().backend_at("a", backend, "").start();
    let mut got = 0;
    for _ in 0..20 {
        let mut stream = tunnel(proxy.address()).await;
        stream.write_all(b"xyz").await.unwrap();
        got += usize::from(rest(&mut stream).await == b"goodbye");
    }
    assert_eq!(got, 20);
}
