//! Resident memory per client: silent ones, ones that read nothing, and ones whose backend reads nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::support::authority::Authority;
use super::support::process::Linchpin;
use super::support::soon;
use super::support::tool::Folder;

/// The most KiB per client that reads nothing, or whose backend reads nothing, or whose tunnel moves nothing, and per
/// stream of HTTP/2. Between 20 and 56 measured.
const STALLED: f64 = 64.0;

/// Returns what `measure` says, up to three times until it says no more than [`STALLED`]. Each time it starts a process. On
/// a busy machine many streams of a connection begin at once, and what they take for a moment stays resident.
async fn least(measure: impl AsyncFn() -> f64) -> f64 {
    let mut least = f64::MAX;
    for _ in 0..3 {
        least = least.min(measure().await);
        if least <= STALLED {
            break;
        }
    }
    least
}

/// The number of measured clients: enough to make the error of 2 MiB small.
const COUNT: usize = 300;

/// Connections that are opened before the first measurement.
const FIRST: usize = 30;

/// Awaits all futures, as many at once as there are connections before the first measurement: what so many take for a
/// moment is resident by then.
async fn in_turns<T>(all: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let (mut all, mut done) = (all.into_iter().peekable(), Vec::new());
    while all.peek().is_some() {
        done.extend(futures_util::future::join_all(all.by_ref().take(FIRST)).await);
    }
    done
}

/// Returns the resident anonymous memory of a process, in KiB. Pages of the binary don't count: they come and go.
fn resident(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Returns the same once it has stopped growing.
pub(super) async fn settled(process: u32) -> f64 {
    let (mut last, mut steady) = (resident(process), 0);
    while steady < 3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let now = resident(process);
        steady = if (now - last).abs() < 64.0 { steady + 1 } else { 0 };
        last = now;
    }
    last
}

/// A backend of HTTP/1.1 that sends `/large` without end and reads nothing of a body. Its socket buffers are small.
async fn plain() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1024).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                        return;
                    }
                    head.push(byte[0]);
                }
                if head.starts_with(b"GET /tunnel") {
                    let switched = b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                    let _ = stream.write_all(switched).await;
                    while stream.write_all(&[b'x'; 0x4000]).await.is_ok() {}
                } else if head.starts_with(b"GET /large") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                    let chunk = [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat();
                    while stream.write_all(&chunk).await.is_ok() {}
                } else if head.starts_with(b"GET") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na").await;
                }
                std::future::pending::<()>().await;
            });
        }
    });
    address
}

/// The same of HTTP/2.
async fn http2() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder.initial_connection_window_size(1 << 24);
                let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                let mut held = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if request.uri().path() == "/large" {
                        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                        stream.send_data(Bytes::from_static(&[b'x'; 1 << 24]), true).unwrap();
                    }
                    held.push((request, respond));
                }
            });
        }
    });
    address
}

async fn start(backend: SocketAddr, upstream: &str) -> Linchpin {
    start_with("http2 = true", backend, upstream).await
}

async fn start_with(listener: &str, backend: SocketAddr, upstream: &str) -> Linchpin {
    let text = format!(
        "[server]\nthreads = 1\n[log]\naccess = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{listener}\n\
         [[pools]]\nname = \"app\"\nupstream = {{ {upstream} }}\npersistence = {{ type = \"none\" }}\n\
         [[pools.backends]]\nname = \"a\"\naddress = \"{backend}\"\n"
    );
    Linchpin::start(&text, None).await
}

/// Opens a connection with small socket buffers.
async fn small(address: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    soon("a connection", socket.connect(address)).await.unwrap()
}

/// Sends `head` on a new connection, and then `more` until the proxy accepts no more.
async fn stall(address: SocketAddr, head: &str, more: &[u8]) -> TcpStream {
    let stream = stall_on(small(address).await, head, more).await;
    if more.is_empty() {
        soon("the beginning of the response", stream.readable()).await.unwrap();
    }
    stream
}

async fn stall_on<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, head: &str, more: &[u8]) -> S {
    stream.write_all(head.as_bytes()).await.unwrap();
    while !more.is_empty() {
        match tokio::time::timeout(Duration::from_millis(500), stream.write(more)).await {
            Ok(written) => drop(written.unwrap()),
            Err(_) => break,
        }
    }
    stream
}

/// Returns the KiB that each of `count` stalled connections costs.
async fn each_of(linchpin: &Linchpin, count: usize, head: &str, more: &[u8]) -> f64 {
    let stalled = |count| in_turns((0..count).map(|_| stall(linchpin.address, head, more)));
    // The first connections also pay for what is allocated once.
    let mut held = stalled(FIRST).await;
    let before = settled(linchpin.id()).await;
    held.extend(stalled(count).await);
    (settled(linchpin.id()).await - before) / count as f64
}

const LARGE: &str = "GET /large HTTP/1.1\r\nhost: a\r\n\r\n";
const UPLOAD: &str = "POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n";

#[tokio::test]
async fn a_client_that_reads_nothing_costs_little() {
    let each = least(async || each_of(&start(plain().await, "").await, COUNT, LARGE, b"").await).await;
    let from_http2 = async || each_of(&start(http2().await, "http2 = true").await, COUNT, LARGE, b"").await;
    let from_http2 = least(from_http2).await;
    assert!(each <= STALLED && from_http2 <= STALLED, "{each:.1} KiB, {from_http2:.1} KiB");
}

#[tokio::test]
async fn a_client_whose_backend_reads_nothing_costs_little() {
    let each = least(async || each_of(&start(plain().await, "").await, COUNT, UPLOAD, &[b'x'; 65536]).await).await;
    let to_http2 = async || each_of(&start(http2().await, "http2 = true").await, COUNT, UPLOAD, &[b'x'; 65536]).await;
    let to_http2 = least(to_http2).await;
    assert!(each <= STALLED && to_http2 <= STALLED, "{each:.1} KiB, {to_http2:.1} KiB");
}

const TUNNEL: &str = "GET /tunnel HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

#[tokio::test]
async fn a_tunnel_whose_sides_read_nothing_costs_little() {
    let each = least(async || each_of(&start(plain().await, "").await, COUNT, TUNNEL, &[b'x'; 65536]).await).await;
    assert!(each <= STALLED, "{each:.1} KiB");
}

/// Returns the KiB that each of `count` stalled connections in TLS costs.
async fn each_in_tls(count: usize, head: &str, more: &[u8]) -> f64 {
    let (authority, folder) = (Authority::new("root"), Folder::new());
    let (cert, key) = authority.issue(&["localhost"]).write(Path::new(&folder.file("")), "app");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let connector = TlsConnector::from(Arc::new(
        ClientConfig::builder().with_root_certificates(Arc::new(roots)).with_no_client_auth(),
    ));
    let linchpin = start_with(&format!("[listeners.tls]\ncert = {cert:?}\nkey = {key:?}"), plain().await, "").await;
    // One after the other, since all handshakes at once could exceed their time limit.
    let connected = async |count: usize| {
        let mut all = Vec::new();
        for _ in 0..count {
            let name = ServerName::try_from("localhost").unwrap();
            all.push(connector.connect(name, small(linchpin.address).await).await.unwrap());
        }
        all
    };
    let stalled = |all: Vec<_>| in_turns(all.into_iter().map(|stream| stall_on(stream, head, more)));
    let _first = stalled(connected(FIRST).await).await;
    let before = settled(linchpin.id()).await;
    let _held = stalled(connected(count).await).await;
    (settled(linchpin.id()).await - before) / count as f64
}

#[tokio::test]
async fn a_stalled_client_in_tls_costs_little() {
    let down = least(async || each_in_tls(COUNT, LARGE, b"").await).await;
    let up = least(async || each_in_tls(COUNT, UPLOAD, &[b'x'; 65536]).await).await;
    assert!(down <= STALLED && up <= STALLED, "{down:.1} KiB, {up:.1} KiB");
}

/// Returns the KiB that each of `count` stalled streams of HTTP/2 costs.
async fn each_stream(linchpin: &Linchpin, count: usize, window: u32, request: http::Request<()>, body: Bytes) -> f64 {
    let mut held = Vec::new();
    let mut before = 0.0;
    for connection in 0..=count / 50 {
        if connection == 1 {
            before = settled(linchpin.id()).await;
        }
        let stream = TcpStream::connect(linchpin.address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(1 << 26);
        let (mut sender, driver) = builder.handshake(stream).await.unwrap();
        tokio::spawn(driver);
        for _ in 0..50 {
            sender = sender.ready().await.unwrap();
            let (response, mut upload) = sender.send_request(request.clone(), body.is_empty()).unwrap();
            if !body.is_empty() {
                upload.send_data(body.clone(), true).unwrap();
            }
            held.push((sender.clone(), response, upload));
        }
    }
    (settled(linchpin.id()).await - before) / (count / 50 * 50) as f64
}

#[tokio::test]
async fn an_http_2_stream_that_its_client_does_not_read_costs_little() {
    let request = || http::Request::get("http://test/large").body(()).unwrap();
    for window in [65_535, 1 << 20] {
        let of = async |linchpin| each_stream(&linchpin, COUNT, window, request(), Bytes::new()).await;
        let each = least(async || of(start(plain().await, "").await).await).await;
        let from_http2 = least(async || of(start(http2().await, "http2 = true").await).await).await;
        assert!(each <= STALLED && from_http2 <= STALLED, "{each:.1} KiB, {from_http2:.1} KiB");
    }
}

#[tokio::test]
async fn an_http_2_upload_that_its_backend_does_not_read_costs_little() {
    let request = || http::Request::post("http://test/upload").header("content-length", 1 << 23).body(()).unwrap();
    let body = || Bytes::from_static(&[b'x'; 1 << 23]);
    let of = async |linchpin| each_stream(&linchpin, COUNT, 65_535, request(), body()).await;
    let to_http1 = least(async || of(start(plain().await, "").await).await).await;
    let to_http2 = least(async || of(start(http2().await, "http2 = true").await).await).await;
    assert!(to_http1 <= STALLED && to_http2 <= STALLED, "{to_http1:.1} KiB, {to_http2:.1} KiB");
}

/// The most KiB per connection that has sent nothing or one byte: 4, and the error of measuring.
const SILENT: f64 = 5.5;

#[tokio::test]
async fn a_connection_that_has_sent_at_most_one_byte_costs_little_on_every_kind_of_listener() {
    let (authority, folder) = (Authority::new("root"), Folder::new());
    let (cert, key) = authority.issue(&["localhost"]).write(Path::new(&folder.file("")), "app");
    let tls = format!("[listeners.tls]\ncert = {cert:?}\nkey = {key:?}");
    let proxied = "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\"]";
    let kinds = [("http2 = false", b"G"), ("http2 = true", b"P"), (&tls, b"\x16"), (proxied, b"P")];
    let each = kinds.into_iter().flat_map(|(kind, first)| [silent(kind, b""), silent(kind, first)]);
    let all = futures_util::future::join_all(each).await;
    assert!(all.iter().all(|each| *each <= SILENT), "{all:.1?} KiB");
}

/// Returns the KiB that a connection to such a listener costs after it has sent these bytes.
async fn silent(kind: &str, sent: &[u8]) -> f64 {
    const COUNT: usize = 1500;
    let text = format!(
        "[server]\nthreads = 1\n[log]\naccess = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{kind}\n\
         [[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\naddress = \"127.0.0.1:9\"\n"
    );
    let linchpin = Linchpin::start(&text, None).await;
    let _first = connect(&linchpin, 10, sent).await;
    let before = settled(linchpin.id()).await;
    let _held = connect(&linchpin, COUNT, sent).await;
    // The kernel hands over a silent connection after a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    (settled(linchpin.id()).await - before) / COUNT as f64
}

async fn connect(linchpin: &Linchpin, count: usize, sent: &[u8]) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut stream = soon("a connection", TcpStream::connect(linchpin.address)).await.unwrap();
        stream.write_all(sent).await.unwrap();
        all.push(stream);
    }
    all
}
