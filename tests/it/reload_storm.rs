//! Reload after reload under load: no request fails, nothing that is under way is cut off, and nothing piles up.
//!
//! `LINCHPIN_RELOADS=1000 cargo test --test it reload_storm -- --nocapture` takes minutes and prints what it measures;
//! with `LINCHPIN_BINARY`, of that binary.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{any, get, post};
use bytes::Bytes;
use futures_util::stream;
use h2::client::SendRequest;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::support::process::Linchpin;
use super::support::tool::Folder;
use super::support::{Client, soon, until};

/// Reloads in an ordinary run.
const RELOADS: u64 = 40;
/// The time between two pieces of a stream, an upload or a tunnel.
const BEAT: Duration = Duration::from_millis(20);

/// A backend that answers, streams, counts what is uploaded, and echoes what a tunnel sends. `ending` ends its streams.
async fn backend(name: &'static str, ending: CancellationToken) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let beats = |State(ending): State<CancellationToken>| async move {
        let beats = stream::unfold((0_u64, ending), |(number, ending)| async move {
            if ending.is_cancelled() {
                return None;
            }
            tokio::time::sleep(BEAT).await;
            Some((Ok::<_, std::io::Error>(Bytes::from(format!("{number}\n"))), (number + 1, ending)))
        });
        Response::new(Body::from_stream(beats))
    };
    let count = |body: Body| async move {
        let mut body = body;
        let mut count = 0;
        while let Some(frame) = body.frame().await {
            count += frame.unwrap().into_data().map_or(0, |data| data.len());
        }
        count.to_string()
    };
    let echo = |mut request: Request| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        response.body(Body::empty()).unwrap()
    };
    let router = Router::new()
        .route("/stream", get(beats))
        .route("/upload", post(count))
        .route("/echo", any(echo))
        .fallback(move || async move { name })
        .with_state(ending);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
}

/// The configuration of the nth reload: each differs from the one before in something else.
fn file(folder: &Folder, admin: &str, backends: [SocketAddr; 3], nth: u64) -> String {
    let kind = nth % 8;
    let when = |wanted: u64, text: &str| if kind == wanted { text.to_owned() } else { String::new() };
    let [a, b, c] = backends;
    let log = folder.file(if kind == 5 { "json.log" } else { "text.log" });
    format!(
        "[server]\nthreads = 2\n[server.limits]\nheader_count = {count}\n[log]\naccess = \"{log}\"\nformat = \"{format}\"\n\
         [admin]\naddress = \"{admin}\"\n\
         [[listeners]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nhttp2 = true\n{more}\
         [[routes]]\npath_prefix = \"/\"\npool = \"app\"\n{route}\
         [[pools]]\nname = \"app\"\n[pools.persistence]\nidle_timeout = \"{idle}h\"\n[pools.timeouts]\nidle = \"{idle}m\"\n\
         [pools.health]\npath = \"/\"\ninterval = \"{interval}ms\"\ntimeout = \"60s\"\n\
         [[pools.backends]]\nname = \"a\"\naddress = \"{a}\"\nweight = {weight}\n\
         [[pools.backends]]\nname = \"b\"\naddress = \"{b}\"\n{third}",
        count = if kind == 1 { 90 } else { 100 },
        format = if kind == 5 { "json" } else { "text" },
        more = when(2, "[[listeners]]\nname = \"more\"\naddress = \"127.0.0.1:0\"\n"),
        route = when(3, "[[routes]]\npath_prefix = \"/elsewhere\"\npool = \"app\"\n"),
        idle = if kind == 4 { 2 } else { 5 },
        interval = if kind == 6 { 300 } else { 200 },
        weight = if kind == 7 { 3 } else { 1 },
        // On every other round, so that a backend comes and goes, too.
        third =
            if nth % 16 > 8 { format!("[[pools.backends]]\nname = \"c\"\naddress = \"{c}\"\n") } else { String::new() },
    )
}

/// What all clients count: responses, and pieces of streams, uploads and tunnels.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    pieces: AtomicU64,
}

impl Counts {
    fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn piece(&self) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends requests on one connection, which must never close, until `ending`.
async fn keep_alive(address: SocketAddr, counts: Arc<Counts>, ending: CancellationToken) {
    let mut client = Client::connect(address).await;
    while !ending.is_cancelled() {
        let response = client.get("/").await;
        assert_eq!((response.status, response.field("connection")), (200, None), "{}", response.head);
        counts.request();
    }
}

async fn new_connections(address: SocketAddr, counts: Arc<Counts>, ending: CancellationToken) {
    while !ending.is_cancelled() {
        assert_eq!(Client::connect(address).await.get("/").await.status, 200);
        counts.request();
    }
}

async fn upload(address: SocketAddr, counts: Arc<Counts>, ending: CancellationToken) {
    let mut client = Client::connect(address).await;
    client.send(b"POST /upload HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut sent = 0;
    while !ending.is_cancelled() {
        client.send(b"5\r\n12345\r\n").await;
        (sent, _) = (sent + 5, counts.piece());
        tokio::time::sleep(BEAT).await;
    }
    client.send(b"0\r\n\r\n").await;
    let response = client.response_to("POST").await;
    assert_eq!((response.status, response.text()), (200, sent.to_string()));
}

/// Reads a stream to its end: all of its numbers, in order.
async fn event_stream(address: SocketAddr, counts: Arc<Counts>) {
    let mut client = Client::connect(address).await;
    client.send(b"GET /stream HTTP/1.0\r\nhost: test\r\n\r\n").await;
    let (mut stream, buffer) = client.into_parts();
    let mut text = String::from_utf8(buffer).unwrap();
    let mut bytes = [0; 1024];
    loop {
        let read = soon("a piece of the stream", stream.read(&mut bytes)).await.unwrap();
        if read == 0 {
            break;
        }
        text += std::str::from_utf8(&bytes[..read]).unwrap();
        counts.piece();
    }
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.0 200 "), "{head}");
    assert!(body.ends_with('\n') && body.lines().enumerate().all(|(at, line)| line == at.to_string()), "{body}");
    assert!(body.lines().count() > 10, "{body}");
}

async fn tunnel(address: SocketAddr, counts: Arc<Counts>, ending: CancellationToken) {
    let mut client = Client::connect(address).await;
    client.send(b"GET /echo HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await;
    let response = soon("the switch", client.try_any_response("GET")).await.unwrap();
    assert_eq!(response.status, 101, "{}", response.head);
    let (mut stream, _) = client.into_parts();
    let mut number = 0_u64;
    while !ending.is_cancelled() {
        number += 1;
        stream.write_all(&number.to_be_bytes()).await.unwrap();
        let mut echoed = [0; 8];
        soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
        assert_eq!(u64::from_be_bytes(echoed), number);
        counts.piece();
        tokio::time::sleep(BEAT).await;
    }
}

async fn ask(sender: &SendRequest<Bytes>, path: &str) -> http::Response<h2::RecvStream> {
    let request = http::Request::get(format!("http://test{path}")).body(()).unwrap();
    let mut ready = sender.clone().ready().await.unwrap();
    let (response, _) = ready.send_request(request, true).unwrap();
    let response = soon("a response over HTTP/2", response).await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

/// One connection of HTTP/2, with a stream that lasts from the first reload to the last, and requests beside it.
async fn http2(address: SocketAddr, counts: Arc<Counts>, ending: CancellationToken) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut long = ask(&sender, "/stream").await.into_body();
    let reading = tokio::spawn(async move {
        let mut text = String::new();
        while let Some(data) = soon("a piece over HTTP/2", long.data()).await {
            let data = data.unwrap();
            long.flow_control().release_capacity(data.len()).unwrap();
            text += std::str::from_utf8(&data).unwrap();
        }
        text
    });
    while !ending.is_cancelled() {
        ask(&sender, "/").await;
        counts.request();
    }
    let text = reading.await.unwrap();
    assert!(text.lines().enumerate().all(|(at, line)| line == at.to_string()), "{text}");
    assert!(!driving.is_finished());
}

/// What a process has open.
#[derive(Debug, Clone, Copy)]
struct Usage {
    /// Resident memory in KiB.
    memory: u64,
    /// Connections with clients, those of the first listener.
    clients: usize,
    /// Other connections over TCP: with backends.
    backends: usize,
    /// All other descriptors: files, listeners, queues of events. None of them depends on the load.
    others: usize,
}

fn usage(process: u32, listener: SocketAddr) -> Usage {
    const LISTEN: &str = "0A";
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}")).unwrap();
    let memory =
        read("status").lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    // For each connection, by its inode, whether it is one with a client.
    let connections: HashMap<String, bool> = (read("net/tcp").lines().skip(1))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[3] != LISTEN)
        .map(|fields| (format!("socket:[{}]", fields[9]), fields[1].ends_with(&format!(":{:04X}", listener.port()))))
        .collect();
    let mut usage = Usage { memory: memory.unwrap(), clients: 0, backends: 0, others: 0 };
    for descriptor in std::fs::read_dir(format!("/proc/{process}/fd")).unwrap() {
        // One that was closed meanwhile has no target any more.
        let Ok(target) = std::fs::read_link(descriptor.unwrap().path()) else { continue };
        match connections.get(&*target.to_string_lossy()) {
            Some(true) => usage.clients += 1,
            Some(false) => usage.backends += 1,
            None => usage.others += 1,
        }
    }
    usage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_and_nothing_is_cut_off_by_reload_after_reload() {
    let reloads = std::env::var("LINCHPIN_RELOADS").map_or(RELOADS, |count| count.parse().unwrap());
    let (ending, folder) = (CancellationToken::new(), Folder::new());
    let [(a, _a), (b, _b), (c, _c)] =
        [backend("a", ending.clone()).await, backend("b", ending.clone()).await, backend("c", ending.clone()).await];
    let socket = folder.file("admin.sock");
    let text = |nth| file(&folder, &format!("unix:{socket}"), [a, b, c], nth);
    let linchpin = Linchpin::start(&text(0), None).await;
    let (address, process) = (linchpin.address, linchpin.id());
    let reload = async || {
        let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
        let request = b"POST /api/v1/reload HTTP/1.0\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        soon("the reload", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.contains("\"result\":\"applied\""), "{answer}");
    };
    assert_eq!(Client::connect(address).await.get("/").await.status, 200);
    let usage = || usage(process, address);
    let before = usage();

    let (counts, mut clients) = (Arc::new(Counts::default()), JoinSet::new());
    for _ in 0..3 {
        clients.spawn(keep_alive(address, Arc::clone(&counts), ending.clone()));
        clients.spawn(new_connections(address, Arc::clone(&counts), ending.clone()));
    }
    clients.spawn(upload(address, Arc::clone(&counts), ending.clone()));
    clients.spawn(event_stream(address, Arc::clone(&counts)));
    clients.spawn(tunnel(address, Arc::clone(&counts), ending.clone()));
    clients.spawn(http2(address, Arc::clone(&counts), ending.clone()));
    until("all clients are under way", async || counts.pieces.load(Ordering::Relaxed) > 20).await;

    let begun = Instant::now();
    let (mut early, mut longest) = (None, Duration::ZERO);
    for nth in 1..=reloads {
        linchpin.write(&text(nth));
        let asked = Instant::now();
        reload().await;
        longest = longest.max(asked.elapsed());
        // All kinds of changes have been made twice by then.
        if nth == 16 {
            early = Some(usage());
        }
        if nth % 250 == 0 {
            println!("after {nth}: {:?}", usage());
        }
        if let Some(ended) = clients.try_join_next() {
            ended.unwrap();
            panic!("a client has ended before the reloads");
        }
    }
    let (late, took) = (usage(), begun.elapsed());
    ending.cancel();
    while let Some(ended) = soon("the end of a client", clients.join_next()).await {
        ended.unwrap();
    }
    let (requests, pieces) = (counts.requests.load(Ordering::Relaxed), counts.pieces.load(Ordering::Relaxed));
    let early = early.unwrap();
    println!(
        "{reloads} reloads in {took:?}, the longest {longest:?}; {requests} requests and {pieces} pieces, none lost; \
         before: {before:?}, after 16 reloads: {early:?}, at the end: {late:?}"
    );
    assert!(requests > reloads && pieces > reloads, "{requests} {pieces}");
    // A snapshot that stayed behind would take some 10 KiB.
    let growth = late.memory.saturating_sub(early.memory);
    assert!(growth < 6 * 1024 + reloads, "memory grew by {growth} KiB");
    // Idle connections to backends come and go with the load: 60 to 105 in a thousand reloads.
    assert!(late.backends < early.backends + 80, "{early:?}, then {late:?}");
    // A log or a listener that stayed behind would be one more.
    assert_eq!(reloads % 8, 0, "the last file has what the first one had");
    let mut last = late;
    until("all is open that was at first, and no more", async || {
        last = usage();
        last.clients == 0 && last.others == before.others
    })
    .await;
    let metrics = {
        let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let failed =
        metrics.lines().filter(|line| line.starts_with("linchpin_requests_total{") && line.contains("code=\"5"));
    assert_eq!(failed.collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(metrics.contains("linchpin_panics_total 0"), "{metrics}");
}
