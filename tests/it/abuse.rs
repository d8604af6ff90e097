//! Abusive HTTP/2 clients: they lose their own connection, and no other client is affected.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{Backend, Client, Proxy, Reply, soon, until};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// GET / of http://a: indexed fields, and a literal :authority (RFC 7541).
const GET: &[u8] = b"\x82\x84\x86\x41\x01a";

/// A client that writes any frames.
struct Raw(TcpStream);

impl Raw {
    async fn connect(address: SocketAddr) -> Raw {
        let mut raw = Raw(TcpStream::connect(address).await.unwrap());
        raw.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        raw.send(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
        raw
    }

    async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Returns the next frame: kind, flags, stream, payload.
    async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// Sends `bytes` again and again, reading nothing, until the connection ends or accepts no more.
    async fn flood(&mut self, bytes: &[u8], most: usize) -> bool {
        for _ in 0..most {
            match tokio::time::timeout(Duration::from_millis(300), self.send(bytes)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return true,
            }
        }
        false
    }

    async fn ends(&mut self) {
        soon("the end of the connection", async { while self.frame().await.is_some() {} }).await;
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

async fn before(server: &str, program: impl Fn() -> Reply + Send + Sync + 'static) -> (Proxy, Backend) {
    let a = Backend::start("a", move |seen| if seen.path() == "/well" { Reply::ok("well") } else { program() }).await;
    let proxy = Proxy::builder().server(server).top(HTTP2).backend(&a, "").start();
    (proxy, a)
}

/// Checks that another client is served meanwhile.
async fn is_well(proxy: &Proxy) {
    let mut other = Client::connect(proxy.listener(0)).await;
    assert_eq!(other.get("/well").await.text(), "well");
}

#[tokio::test]
async fn a_client_that_resets_its_streams_rapidly_loses_its_connection() {
    let (proxy, a) = before("", || Reply::Hang).await;
    let mut raw = Raw::connect(proxy.listener(0)).await;
    let mut sent = 0;
    for stream in (1..40_000).step_by(2) {
        let both = [frame(HEADERS, 5, stream, GET), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat();
        if raw.send(&both).await.is_err() {
            break;
        }
        sent += 1;
    }
    raw.ends().await;
    assert!(a.count() < 2_000, "{} of {sent} requests cost the backend something", a.count());
    until("the backend to have no request", async || proxy.live("a").active() == 0).await;
    is_well(&proxy).await;
}

#[tokio::test]
async fn slow_rapid_resets_are_counted_too() {
    let (proxy, a) = before("", || Reply::Hang).await;
    let mut raw = Raw::connect(proxy.listener(0)).await;
    let mut stream = 1;
    // One after the other, so that each is served before the client resets it.
    let ended = loop {
        let before = a.count();
        if raw.send(&frame(HEADERS, 5, stream, GET)).await.is_err() || stream > 4_000 {
            break stream <= 4_000;
        }
        let reached = soon("a request or the end", async {
            loop {
                if a.count() > before {
                    break true;
                }
                let mut byte = [0; 4096];
                let read = tokio::time::timeout(Duration::from_millis(1), raw.0.read(&mut byte)).await;
                if let Ok(Ok(0) | Err(_)) = read {
                    break false;
                }
            }
        })
        .await;
        if !reached || raw.send(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())).await.is_err() {
            break true;
        }
        stream += 2;
    };
    assert!(ended, "{} requests were taken back", a.count());
    is_well(&proxy).await;
}

#[tokio::test]
async fn floods_of_frames_end_their_connection() {
    let (proxy, a) = before("limits.idle_timeout = \"1s\"", || Reply::ok("a")).await;
    let settings = frame(SETTINGS, 0, 0, b"\0\x03\0\0\0\x64").repeat(100);
    let ping = frame(PING, 0, 0, b"12345678").repeat(100);
    let empty = frame(DATA, 0, 1, b"").repeat(100);
    for (name, first, flood) in [
        ("SETTINGS", Vec::new(), settings),
        ("PING", Vec::new(), ping),
        ("CONTINUATION", frame(HEADERS, 1, 1, GET), frame(CONTINUATION, 0, 1, &[0x0f; 16_000])),
        ("empty CONTINUATION", frame(HEADERS, 1, 1, GET), frame(CONTINUATION, 0, 1, b"").repeat(100)),
        ("fields", frame(HEADERS, 1, 1, GET), frame(CONTINUATION, 0, 1, &b"\x40\x01a\x7f\x01".repeat(10)).repeat(100)),
    ] {
        let mut raw = Raw::connect(proxy.listener(0)).await;
        raw.send(&first).await.unwrap();
        assert!(raw.flood(&flood, 200_000).await, "{name}");
        raw.ends().await;
        is_well(&proxy).await;
    }
    // Empty DATA frames do no harm: they cost the client as much as the proxy. The body's time limit ends the stream.
    let mut raw = Raw::connect(proxy.listener(0)).await;
    raw.send(&frame(HEADERS, 4, 1, b"\x83\x84\x86\x41\x01a")).await.unwrap();
    raw.flood(&empty, 1_000).await;
    is_well(&proxy).await;
    drop(raw);
    until("the backend to have no request", async || a.open() <= 2).await;
}

/// GET / with a field of 4,000 bytes that enters HPACK's table, and is then referenced so many times by a byte each.
fn bomb(times: usize) -> Vec<u8> {
    [GET, b"\x40\x01x\x7f\xa1\x1e", &[b'y'; 4_000], &vec![0xbe; times]].concat()
}

#[tokio::test]
async fn a_header_bomb_ends_its_connection() {
    let (proxy, a) = before("", || Reply::ok("a")).await;
    let mut raw = Raw::connect(proxy.listener(0)).await;
    raw.send(&frame(HEADERS, 5, 1, &bomb(10_000))).await.unwrap();
    raw.ends().await;
    is_well(&proxy).await;
    assert_eq!(a.count(), 1);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_431_and_its_connection_goes_on() {
    let (proxy, a) = before("", || Reply::ok("a")).await;
    let mut raw = Raw::connect(proxy.listener(0)).await;
    raw.send(&frame(HEADERS, 5, 1, &bomb(9))).await.unwrap();
    raw.send(&frame(HEADERS, 5, 3, GET)).await.unwrap();
    let mut answers = Vec::new();
    soon("two responses", async {
        while answers.len() < 2 {
            match raw.frame().await {
                Some((HEADERS, _, stream, block)) => answers.push((stream, block)),
                Some((GOAWAY, ..)) | None => panic!("the connection ended"),
                Some(_) => {}
            }
        }
    })
    .await;
    answers.sort();
    // 0x88 is `:status: 200`; other statuses are literals.
    assert_ne!(answers[0].1[0], 0x88);
    assert_eq!(answers[1].1[0], 0x88);
    assert_eq!(a.count(), 1);
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_little_memory_for_a_limited_time() {
    let body = "x".repeat(64 * 1024 * 1024);
    let (proxy, a) = before("limits.idle_timeout = \"1s\"", move || Reply::ok(&body)).await;
    let mut raw = Raw::connect(proxy.listener(0)).await;
    let before = resident();
    for stream in (1..40).step_by(2) {
        raw.send(&frame(HEADERS, 5, stream, GET)).await.unwrap();
    }
    until("the requests to arrive", async || a.count() >= 5).await;
    // The client reads the frames, and sends no WINDOW_UPDATE.
    let mut reset = 0;
    soon("the streams to end", async {
        while reset < 20 {
            match raw.frame().await {
                Some((RST_STREAM, ..)) => reset += 1,
                Some((SETTINGS, 0, ..)) => raw.send(&frame(SETTINGS, 1, 0, b"")).await.unwrap(),
                Some(_) => {}
                None => break,
            }
        }
    })
    .await;
    until("the backend to have no request", async || a.open() == 0).await;
    is_well(&proxy).await;
    // The backend's copies of the body are in this process, too: 20 times 64 MiB, and not 20 times twice that.
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * 20 * 1024 + 200 * 1024, "{grown} KiB");
}

#[tokio::test]
async fn resetting_a_stream_frees_its_backend_and_ends_no_other_stream() {
    let (proxy, a) = before("", || Reply::Hang).await;
    let mut raw = Raw::connect(proxy.listener(0)).await;
    for stream in [1, 3] {
        raw.send(&frame(HEADERS, 5, stream, GET)).await.unwrap();
    }
    a.has(2).await;
    raw.send(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).await.unwrap();
    until("one stream to end", async || proxy.live("a").active() == 1).await;
    is_well(&proxy).await;
    assert_eq!(proxy.live("a").active(), 1);
}

#[tokio::test]
async fn an_idle_connection_gets_goaway_and_closes() {
    let (proxy, _a) = before("limits.idle_timeout = \"300ms\"", || Reply::ok("a")).await;
    let mut raw = Raw::connect(proxy.listener(0)).await;
    let goaway = soon("the GOAWAY", async {
        loop {
            match raw.frame().await {
                Some((GOAWAY, _, _, payload)) => break payload,
                Some(_) => {}
                None => panic!("closed without a GOAWAY"),
            }
        }
    })
    .await;
    assert_eq!(goaway[4..8], [0; 4], "NO_ERROR");
    raw.ends().await;
}

/// Returns the resident memory of this process, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
