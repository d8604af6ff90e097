//! HTTP/2 that no library sends: hand-written frames, and backends that refuse streams, stall and die.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};

use super::support::frames::{DATA, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM, SETTINGS};
use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy, Reply, soon, until};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

/// Starts a backend of HTTP/2. `configure` sets up each connection, and `handle` gets each request.
async fn backend<F>(configure: impl Fn(&mut h2::server::Builder) + Send + 'static, handle: F) -> SocketAddr
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Arc::new(handle);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut builder = h2::server::Builder::new();
            configure(&mut builder);
            let handle = Arc::clone(&handle);
            tokio::spawn(async move {
                // A client may disconnect before it sends anything.
                let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    handle(request, respond);
                }
            });
        }
    });
    address
}

fn ok(mut respond: SendResponse<Bytes>, body: &'static str) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
}

fn before(backends: &[(&str, SocketAddr)]) -> super::support::proxy::Builder {
    let builder = Proxy::builder().top(HTTP2).table("upstream", "http2 = true");
    backends.iter().fold(builder, |builder, (name, address)| builder.backend_at(name, *address, ""))
}

#[tokio::test]
async fn a_request_of_http_2_with_two_lengths_reaches_no_backend() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().top(HTTP2).backend(&a, "").start();
    for (method, lengths, body) in [
        ("GET", ["0", "30"], ""),
        ("POST", ["0", "30"], ""),
        ("GET", ["5", "30"], "hello"),
        ("POST", ["5", "5"], "hello"),
    ] {
        let mut client = Frames::connect(proxy.listener(0)).await;
        let fields = [
            (":method", method),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", "/two"),
            ("content-length", lengths[0]),
            ("content-length", lengths[1]),
        ];
        client.fields(if body.is_empty() { END_STREAM } else { 0 }, 1, &fields).await;
        if !body.is_empty() {
            client.send(DATA, END_STREAM, 1, body.as_bytes()).await;
        }
        let (kind, _, payload) = client.await_kind(&[HEADERS, RST_STREAM, GOAWAY]).await;
        // 0x8c is `:status: 400` in HPACK's static table.
        assert!(kind != HEADERS || payload[0] == 0x8c, "{method} {lengths:?}: {payload:?} {:?}", a.seen());
    }
    assert!(a.seen().is_empty(), "{:?}", a.seen());
}

#[tokio::test]
async fn a_response_of_http_2_with_two_lengths_is_a_502() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = before(&[("a", listener.local_addr().unwrap())]).start();
    tokio::spawn(async move {
        let mut backend = Frames::accept(&listener).await;
        loop {
            let (kind, stream, _) = backend.await_kind(&[HEADERS, GOAWAY]).await;
            if kind == GOAWAY {
                return;
            }
            backend.fields(0, stream, &[(":status", "200"), ("content-length", "5"), ("content-length", "30")]).await;
            backend.send(DATA, END_STREAM, stream, b"hello").await;
        }
    });
    let mut client = Client::connect(proxy.listener(1)).await;
    assert_eq!(client.get("/").await.status, 502);
}

#[tokio::test]
async fn the_body_of_a_get_is_forwarded_although_its_length_is_unknown() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().top(HTTP2).backend(&a, "").start();
    let mut client = Frames::connect(proxy.listener(0)).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/two")];
    client.fields(0, 1, &fields).await;
    client.send(DATA, END_STREAM, 1, b"query").await;
    let (kind, ..) = client.await_kind(&[HEADERS, RST_STREAM, GOAWAY]).await;
    assert_eq!((kind, a.seen().pop().map(|seen| seen.body)), (HEADERS, Some(b"query".to_vec())));
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nquery\r\n0\r\n\r\n").await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(a.seen().pop().unwrap().body, b"query");
}

#[tokio::test]
async fn reserved_fields_are_removed_from_trailers() {
    let a = Backend::named("a").await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    let forged =
        ["x-forwarded-for", "forwarded", "x-real-ip", "linchpin-client-subject", "x-forwarded-user", "upgrade"];
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: {}, x-sum\r\n\r\n",
        forged.join(", ")
    );
    let trailers: String = forged.iter().map(|name| format!("{name}: 6.6.6.6\r\n")).collect();
    client.send(format!("{head}4\r\nwxyz\r\n0\r\n{trailers}x-sum: 4\r\n\r\n").as_bytes()).await;
    assert_eq!(client.response().await.status, 200);
    let seen = a.seen().pop().unwrap();
    assert_eq!(seen.field("x-sum"), Some("4"));
    assert!(!seen.head.contains("6.6.6.6"), "{}", seen.head);
}

#[tokio::test]
async fn a_backend_that_refuses_every_stream_gets_a_bounded_number_of_attempts() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let refusing = backend(
        |_| {},
        move |request, mut respond| {
            if request.uri().path() == "/refused" {
                count.fetch_add(1, Ordering::SeqCst);
                respond.send_reset(Reason::REFUSED_STREAM);
            } else {
                ok(respond, "a");
            }
        },
    )
    .await;
    let proxy = before(&[("a", refusing)]).start();
    let address = proxy.listener(1);
    // Many clients at once: no connection to the backend exists yet, so each of them opens one.
    let crowd = std::array::from_fn::<_, 20, _>(|_| async {
        assert_eq!(Client::connect(address).await.get("/").await.status, 200);
    });
    futures_util::future::join_all(crowd).await;
    let mut client = Client::connect(address).await;
    for method in ["GET", "POST"] {
        // One attempt on the old connection, and one on a new one in case the old one was about to end.
        let before = requests.load(Ordering::SeqCst);
        let status = client.request(method, "/refused", "", b"").await.status;
        let times = requests.load(Ordering::SeqCst) - before;
        assert!(status >= 500 && times <= 2, "{method}: {status} after {times}");
    }
}

#[tokio::test]
async fn a_backend_with_one_stream_at_a_time_keeps_its_sessions() {
    let start = |name: &'static str| {
        backend(
            |builder| {
                builder.max_concurrent_streams(1);
            },
            move |_, respond| {
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    ok(respond, name);
                });
            },
        )
    };
    // Each client needs a connection of its own, and they are made one after the other: on a busy machine in more than 2 s.
    let proxy =
        before(&[("a", start("a").await), ("b", start("b").await)]).table("timeouts", "connect = \"20s\"").start();
    let mut first = Client::connect(proxy.listener(1)).await;
    let served = first.get("/").await.text();
    let pin = first.pin.clone();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (pin, address) = (pin.clone(), proxy.listener(1));
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            client.pin = pin;
            client.get("/").await
        });
    }
    for response in clients.join_all().await {
        assert_eq!((response.status, response.text(), response.pin()), (200, served.clone(), None));
    }
}

#[tokio::test]
async fn a_refusal_in_place_of_100_continue_leaves_no_stream_behind() {
    // Refuses the request and ends only its own side of the stream, as RFC 9113 §8.1 allows.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = before(&[("a", listener.local_addr().unwrap())]).start();
    let (ended, mut streams) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut backend = Frames::accept(&listener).await;
        loop {
            let (kind, stream, _) = backend.await_kind(&[HEADERS, DATA, RST_STREAM, GOAWAY]).await;
            match kind {
                HEADERS => backend.fields(END_STREAM, stream, &[(":status", "417"), ("content-length", "0")]).await,
                GOAWAY => return,
                _ => drop(ended.send(stream)),
            }
        }
    });
    let mut client = Client::connect(proxy.listener(1)).await;
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
    assert_eq!(client.response().await.status, 417);
    assert_eq!(soon("the end of the stream", streams.recv()).await, Some(1));
}

#[tokio::test]
async fn an_upload_is_retried_completely_when_its_backend_of_http_2_goes_down() {
    let stuck = backend(
        |_| {},
        |request, mut respond| {
            if request.uri().path().starts_with("/fail") {
                return respond.send_reset(Reason::INTERNAL_ERROR);
            }
            tokio::spawn(async move {
                let (_request, _respond) = (request, respond);
                std::future::pending::<()>().await;
            });
        },
    )
    .await;
    let b = backend(
        |_| {},
        |request, respond| {
            tokio::spawn(async move {
                let (mut body, mut length) = (request.into_body(), 0);
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    length += data.len();
                }
                ok(respond, if length == 3000 { "whole" } else { "in part" });
            });
        },
    )
    .await;
    let builder = Proxy::builder().top(HTTP2).table("upstream", "http2 = true");
    let builder = builder.table("ejection", "consecutive_failures = 1").backend_at("a", stuck, "");
    let proxy = builder.backend_at("b", b, "backup = true").start();
    let mut client = Client::connect(proxy.listener(1)).await;
    client.send(b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 3000\r\n\r\n").await;
    client.send(&[b'x'; 1000]).await;
    until("the backend to have the request", async || proxy.live("a").active() == 1).await;
    for path in ["/fail/1", "/fail/2", "/fail/3"] {
        Client::connect(proxy.listener(1)).await.get(path).await;
    }
    client.send(&[b'x'; 1000]).await;
    until("the request to be retried", async || proxy.live("b").active() == 1).await;
    client.send(&[b'x'; 1000]).await;
    assert_eq!(client.response().await.text(), "whole");
}

#[tokio::test]
async fn a_101_has_no_content_length() {
    let a = Backend::start("a", |_| {
        Reply::Bytes(
            b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 5\r\n\r\nhello".to_vec(),
        )
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    client.send(b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    let response = client.try_any_response("GET").await.unwrap();
    assert_eq!((response.status, response.field("content-length")), (101, None), "{}", response.head);
}

#[tokio::test]
async fn an_upload_that_the_client_aborts_does_not_count_against_a_backend_of_http_2() {
    let a = backend(
        |_| {},
        |request, respond| {
            if request.uri().path() == "/" {
                return ok(respond, "a");
            }
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                }
                drop(respond);
            });
        },
    )
    .await;
    let builder = before(&[("a", a)]).table("ejection", "consecutive_failures = 1");
    let proxy = builder.server("limits.body_bytes = \"2000B\"").start();
    for _ in 0..2 {
        let mut client = Client::connect(proxy.listener(1)).await;
        client.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        let under_way = async || proxy.live("a").active() == 1;
        until("the upload to be under way", under_way).await;
        client.reset();
        until("the upload to be over", async || !under_way().await).await;
        let mut client = Client::connect(proxy.listener(1)).await;
        client.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nbb9\r\n").await;
        client.send(&[b'x'; 3001]).await;
        assert_eq!(client.response().await.status, 413);
    }
    assert!(!proxy.live("a").awaits_success(), "no failure counts against the backend");
}

/// A backend that can be ended together with its connections, as by a kill.
struct Mortal {
    address: SocketAddr,
    life: tokio::task::JoinHandle<()>,
    requests: Arc<AtomicUsize>,
}

impl Mortal {
    /// Responds to requests for `/` only.
    async fn start() -> Mortal {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&requests);
        let life = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                connections.spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    let mut held = Vec::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        count.fetch_add(1, Ordering::SeqCst);
                        if request.uri().path() == "/" { ok(respond, "mortal") } else { held.push((request, respond)) }
                    }
                });
            }
        });
        Mortal { address, life, requests }
    }
}

#[tokio::test]
async fn when_a_backend_of_http_2_dies_safe_requests_are_retried_and_others_fail() {
    let mortal = Mortal::start().await;
    let served = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&served);
    let other = backend(
        |_| {},
        move |_, respond| {
            count.fetch_add(1, Ordering::SeqCst);
            ok(respond, "other");
        },
    )
    .await;
    let builder = Proxy::builder().top(HTTP2).table("upstream", "http2 = true").backend_at("a", mortal.address, "");
    let proxy = builder.backend_at("b", other, "backup = true").start();
    let address = proxy.listener(1);
    assert_eq!(Client::connect(address).await.get("/").await.text(), "mortal");
    let ask = |method: &'static str| {
        tokio::spawn(async move {
            let body = if method == "POST" { &b"x"[..] } else { b"" };
            Client::connect(address).await.request(method, "/held", "", body).await
        })
    };
    let safe: Vec<_> = (0..50).map(|_| ask("GET")).collect();
    let unsafe_: Vec<_> = (0..10).map(|_| ask("POST")).collect();
    until("all to wait", async || mortal.requests.load(Ordering::SeqCst) == 61).await;
    mortal.life.abort();
    for request in safe {
        let response = soon("a response", request).await.unwrap();
        assert_eq!((response.status, response.text()), (200, "other".into()));
    }
    for request in unsafe_ {
        assert_eq!(soon("a response", request).await.unwrap().status, 502);
    }
    assert_eq!(served.load(Ordering::SeqCst), 50);
}

#[tokio::test]
async fn a_shutdown_lets_open_streams_end_and_closes_idle_connections() {
    let (release, released) = tokio::sync::watch::channel(false);
    let a = Backend::named("a").await;
    let held = backend(
        |_| {},
        move |_, respond| {
            let mut released = released.clone();
            tokio::spawn(async move {
                released.wait_for(|released| *released).await.unwrap();
                ok(respond, "held");
            });
        },
    )
    .await;
    let route = "[[routes]]\npool = \"held\"\n[[pools]]\nname = \"held\"\nupstream = { http2 = true }\n[[pools.backends]]\nname = \"h\"\n";
    let top = format!("{HTTP2}\n{route}address = \"{held}\"");
    let proxy = Proxy::builder().top(&top).backend(&a, "").start();
    let mut idle = Frames::connect(proxy.listener(0)).await;
    idle.await_kind(&[SETTINGS]).await;
    let _mute = TcpStream::connect(proxy.listener(0)).await.unwrap();
    let mut busy = Frames::connect(proxy.listener(0)).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/")];
    busy.fields(END_STREAM, 1, &fields).await;
    until("a request under way", async || {
        let pools = proxy.pools();
        pools.iter().any(|pool| pool.backend(0).live().active() == 1)
    })
    .await;
    let stopping = tokio::spawn(proxy.stop());
    idle.await_kind(&[GOAWAY]).await;
    busy.await_kind(&[GOAWAY]).await;
    assert!(!stopping.is_finished());
    release.send(true).unwrap();
    let (kind, stream, _) = busy.await_kind(&[HEADERS, RST_STREAM]).await;
    assert_eq!((kind, stream), (HEADERS, 1));
    let begun = std::time::Instant::now();
    soon("the end", stopping).await.unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_access_record_of_a_request_of_http_2_has_its_host_without_a_password() {
    let (folder, a) = (Folder::new(), Backend::named("a").await);
    let log = folder.file("access.log");
    let top = format!("[log]\naccess = {log:?}\n{HTTP2}");
    let proxy = Proxy::builder().top(&top).backend(&a, "").start();
    for (host, status) in [("shop.example", 0x88), ("me:secret@shop.example", 0x8c)] {
        let mut client = Frames::connect(proxy.listener(0)).await;
        let fields = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", "/")];
        client.fields(END_STREAM, 1, &fields).await;
        assert_eq!(client.await_kind(&[HEADERS]).await.2[0], status);
    }
    proxy.stop().await;
    let records = std::fs::read_to_string(log).unwrap();
    assert_eq!(records.matches(" host=shop.example ").count(), 2, "{records}");
    assert!(!records.contains("secret"), "{records}");
}
