//! HTTP/2 connections that requests share: opened once, kept while they work, and not blocked by one slow reader.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

use super::support::authority::Authority;
use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy, proxy, soon, until};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

/// A backend of HTTP/2 that counts its connections.
struct Http2 {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Http2 {
    async fn start<F>(streams: u32, answer: F) -> Http2
    where
        F: Fn(Request<RecvStream>, SendResponse<Bytes>) + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, connections) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let (count, answer) = (Arc::clone(&connections), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    // Unread data of one stream must not use up the connection's window on this side.
                    builder.max_concurrent_streams(streams).initial_connection_window_size(1 << 24);
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        answer(request, respond);
                    }
                });
            }
        });
        Http2 { address, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn proxy(&self) -> proxy::Builder {
        let builder = Proxy::builder().top(HTTP2).table("upstream", "http2 = true");
        builder.backend_at("a", self.address, "")
    }
}

/// Responds to `/`, and to no other path.
fn answer(request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    if request.uri().path() == "/" {
        return ok(respond, "a");
    }
    tokio::spawn(async move {
        let _held = (request, respond);
        std::future::pending::<()>().await;
    });
}

fn ok(mut respond: SendResponse<Bytes>, body: &'static str) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
}

async fn all_ok(clients: tokio::task::JoinSet<u16>) {
    assert!(soon("all responses", clients.join_all()).await.iter().all(|status| *status == 200));
}

/// Starts clients with one request each, all at once.
fn crowd(address: SocketAddr, count: usize) -> tokio::task::JoinSet<u16> {
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..count {
        clients.spawn(async move { Client::connect(address).await.get("/").await.status });
    }
    clients
}

/// A TLS proxy in front of a backend, with or without HTTP/2, and the table `upstream` that trusts its certificate.
struct Secure {
    inner: Proxy,
    upstream: String,
    _folder: Folder,
}

impl Secure {
    fn before(plain: SocketAddr, http2: bool) -> Secure {
        let (authority, folder) = (Authority::new("root"), Folder::new());
        let (cert, key) = authority.issue(&["localhost"]).write(Path::new(&folder.file("")), "app");
        let ca = folder.write("ca.pem", authority.pem().as_bytes());
        let tls = format!("[listeners.tls]\ncert = {cert:?}\nkey = {key:?}\nhttp2 = {http2}");
        let inner = Proxy::builder().top(&format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{tls}"));
        let inner = inner.table("persistence", "type = \"none\"").backend_at("plain", plain, "").start();
        let upstream = format!("http2 = true\ntls = {{ ca = {ca:?}, server_name = \"localhost\" }}");
        Secure { inner, upstream, _folder: folder }
    }
}

#[tokio::test]
async fn a_crowd_of_first_requests_makes_one_connection() {
    let plain = Backend::named("a").await;
    let secure = Secure::before(plain.address(), true);
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, inner) = (relay.local_addr().unwrap(), secure.inner.listener(0));
    let connections = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = relay.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                // A slow handshake.
                tokio::time::sleep(Duration::from_millis(300)).await;
                let mut far = TcpStream::connect(inner).await.unwrap();
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    let proxy = Proxy::builder().table("upstream", &secure.upstream).backend_at("inner", address, "").start();
    all_ok(crowd(proxy.address(), 60)).await;
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_crowd_too_large_for_one_connection_makes_as_many_as_it_needs() {
    let backend = Http2::start(100, |request, respond| {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            answer(request, respond);
        });
    })
    .await;
    let proxy = backend.proxy().start();
    all_ok(crowd(proxy.listener(1), 230)).await;
    assert!((2..=4).contains(&backend.connections()), "{}", backend.connections());
}

#[tokio::test]
async fn requests_that_waited_for_a_connection_which_is_full_use_free_streams_of_another_one() {
    let backend = Http2::start(2, answer).await;
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, behind) = (relay.local_addr().unwrap(), backend.address);
    let (open, is_open) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        // The first connection takes its time.
        let mut gates = std::iter::once(Some(is_open)).chain(std::iter::repeat(None));
        while let Ok((mut near, _)) = relay.accept().await {
            let gate = gates.next().flatten();
            tokio::spawn(async move {
                if let Some(mut is_open) = gate {
                    is_open.wait_for(|is_open| *is_open).await.unwrap();
                }
                let mut far = TcpStream::connect(behind).await.unwrap();
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    let proxy = Proxy::builder().top(HTTP2).table("upstream", "http2 = true").backend_at("a", address, "").start();
    let waiting = crowd(proxy.listener(1), 3);
    until("all wait", async || proxy.live("a").active() == 3).await;
    // From then on, nobody joins the attempt.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    all_ok(crowd(proxy.listener(1), 1)).await;
    open.send_replace(true);
    all_ok(waiting).await;
    assert_eq!(backend.connections(), 2, "two on the first one, and the third on the other one");
}

#[tokio::test]
async fn a_crowd_of_requests_to_a_dead_backend_fails_at_once_and_the_next_one_is_served() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::builder().top(HTTP2).table("upstream", "http2 = true").backend_at("a", nobody, "").start();
    let statuses = soon("all responses", crowd(proxy.listener(1), 20).join_all()).await;
    assert!(statuses.iter().all(|status| matches!(status, 502 | 503)), "{statuses:?}");
}

#[tokio::test]
async fn a_request_that_fails_leaves_its_connection_to_the_others() {
    let backend = Http2::start(200, |request, mut respond| {
        if request.uri().path() == "/reset" {
            return respond.send_reset(Reason::INTERNAL_ERROR);
        }
        answer(request, respond);
    })
    .await;
    let builder = backend.proxy().table("timeouts", "response = \"200ms\"");
    let proxy = builder.table("ejection", "consecutive_failures = 100").start();
    let address = proxy.listener(1);
    let served = async || Client::connect(address).await.get("/").await.status;
    assert_eq!(served().await, 200);
    // The client aborts its upload, disconnects before the response, or waits too long; the server resets the
    // stream.
    let upload = "POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
    for request in [upload, "GET /hang HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut client = Client::connect(address).await;
        client.send(request.as_bytes()).await;
        until("a request under way", async || proxy.live("a").active() == 1).await;
        client.reset();
        until("its end", async || proxy.live("a").active() == 0).await;
        assert_eq!(served().await, 200);
    }
    assert_eq!(Client::connect(address).await.request("POST", "/hang", "", b"x").await.status, 504);
    assert_eq!(served().await, 200);
    assert_eq!(Client::connect(address).await.request("POST", "/reset", "", b"x").await.status, 502);
    assert_eq!(served().await, 200);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_has_ended_gets_no_new_requests() {
    let backend = Http2::start(200, |_, respond| ok(respond, "a")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let inner = backend.address;
    let (end, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(inner).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = ended.recv() => {}
            }
        }
    });
    let builder = Proxy::builder().top(HTTP2).table("upstream", "http2 = true").backend_at("a", address, "");
    let proxy = builder.start();
    for _ in 0..3 {
        assert_eq!(Client::connect(proxy.listener(1)).await.get("/").await.status, 200);
        end.send(()).await.unwrap();
    }
    assert!(backend.connections() >= 3);
}

#[tokio::test]
async fn clients_that_read_nothing_stall_no_other_stream_of_their_connection() {
    let large = Bytes::from(vec![b'x'; 8 * 1024 * 1024]);
    let backend = Http2::start(200, move |request, mut respond| {
        if request.uri().path() == "/" {
            return ok(respond, "a");
        }
        let large = large.clone();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        // The library holds it until the windows allow it to be sent.
        stream.send_data(large, true).unwrap();
    })
    .await;
    let proxy = backend.proxy().table("timeouts", "response = \"5s\"").start();
    let mut stalled = Vec::new();
    for _ in 0..60 {
        let mut client = Client::connect(proxy.listener(1)).await;
        client.send(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let (mut stream, _) = client.into_parts();
        // The response has begun, and continues until the windows are used up.
        soon("the head", stream.read_exact(&mut [0; 12])).await.unwrap();
        stalled.push(stream);
    }
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let answer = Client::connect(proxy.listener(1)).await.get("/").await;
        assert_eq!((answer.status, answer.text()), (200, "a".into()));
    }
    assert_eq!(backend.connections(), 1);
    assert_eq!(proxy.live("a").active(), 60, "the others still read nothing");
}

#[tokio::test]
async fn uploads_that_their_backend_does_not_read_stall_no_other_upload_of_their_connection() {
    let backend = Http2::start(200, |request, respond| {
        if request.uri().path() != "/" {
            return answer(request, respond);
        }
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
            }
            ok(respond, "read");
        });
    })
    .await;
    let proxy = backend.proxy().start();
    let stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let post = |path: &str| Request::post(format!("http://test{path}")).body(()).unwrap();
    let mut stalled = Vec::new();
    for _ in 0..60 {
        sender = sender.ready().await.unwrap();
        let (response, mut upload) = sender.send_request(post("/hang"), false).unwrap();
        upload.send_data(Bytes::from(vec![b'x'; 512 * 1024]), true).unwrap();
        stalled.push((response, upload));
    }
    until("all to be under way", async || proxy.live("a").active() == 60).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        sender = sender.ready().await.unwrap();
        let (response, mut upload) = sender.send_request(post("/"), false).unwrap();
        upload.send_data(Bytes::from(vec![b'x'; 512 * 1024]), true).unwrap();
        assert_eq!(soon("a response", response).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_crowd_at_a_backend_that_is_offered_http_2_and_speaks_none_is_served_all_at_once() {
    // Responds only once all connections have arrived.
    let (all, here) = (Arc::new(Barrier::new(30)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let plain = here.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = here.accept().await {
            let all = Arc::clone(&all);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                all.wait().await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            });
        }
    });
    let secure = Secure::before(plain, false);
    let builder = Proxy::builder().table("upstream", &secure.upstream);
    let proxy = builder.backend_at("inner", secure.inner.listener(0), "").start();
    all_ok(crowd(proxy.address(), 30)).await;
}
