//! Responses that a backend breaks off: the client gets all that was received, and no end of the message (RFC 9112 §8).
//! A client that gets no byte on a reused connection would retry its request.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::support::authority::Authority;
use super::support::tool::Folder;
use super::support::{Backend, Proxy, Reply, soon};

/// The ways in which a backend frames its response.
const FRAMINGS: [&str; 2] = ["content-length", "chunked"];

/// The head of a response whose body is longer than `size`, and the first `size` bytes of the body.
pub fn beginning(framing: &str, size: usize) -> Vec<u8> {
    let body = "x".repeat(size);
    let mut response = "HTTP/1.1 200 X\r\n".to_owned();
    match (framing, size) {
        ("content-length", _) => write!(response, "content-length: {}\r\n\r\n{body}", size + 1),
        (_, 0) => write!(response, "transfer-encoding: chunked\r\n\r\n"),
        _ => write!(response, "transfer-encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n"),
    }
    .unwrap();
    response.into()
}

/// A proxy that serves HTTP/1.1 and HTTP/2, with and without TLS, and a backend that breaks its responses off.
struct Broken {
    proxy: Proxy,
    backend: Backend,
    roots: Arc<RootCertStore>,
    _folder: Folder,
}

impl Broken {
    async fn start(response: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Broken {
        let (folder, authority) = (Folder::new(), Authority::new("root"));
        authority.issue(&["app.example"]).write(Path::new(&folder.file("")), "app");
        let (cert, key) = (folder.file("app.pem"), folder.file("app.key"));
        let listener = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true\n";
        let top = format!("{listener}{listener}[listeners.tls]\ncert = {cert:?}\nkey = {key:?}\n");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let backend = Backend::start("a", move |seen| Reply::Last(response(seen.path()))).await;
        let proxy = Proxy::builder().top(&top).backend(&backend, "").start();
        Broken { proxy, backend, roots: roots.into(), _folder: folder }
    }

    async fn plain(&self) -> TcpStream {
        TcpStream::connect(self.proxy.listener(0)).await.unwrap()
    }

    async fn tls(&self, protocol: &str) -> impl AsyncRead + AsyncWrite + Unpin + Send + 'static {
        let mut config = ClientConfig::builder().with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth();
        config.alpn_protocols = vec![protocol.into()];
        let stream = TcpStream::connect(self.proxy.listener(1)).await.unwrap();
        let name = ServerName::try_from("app.example").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

/// Sends a POST over HTTP/1.1 and reads until the connection ends. Returns the status, the bytes of the body, and
/// whether the connection ended without an error.
async fn over_http1(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> (Option<u16>, usize, bool) {
    let request = format!("POST {path} HTTP/1.1\r\nhost: app.example\r\ncontent-length: 4\r\n\r\nbody");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let end = soon("the end", stream.read_to_end(&mut received)).await;
    let text = String::from_utf8_lossy(&received);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    assert!(!text.ends_with("0\r\n\r\n"), "the response claims to be complete");
    (status, body.matches('x').count(), end.is_ok())
}

/// Sends a POST over HTTP/2. Returns the status, the bytes of the body, and the reason why the stream was reset.
async fn over_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
) -> (StatusCode, usize, Option<h2::Reason>) {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(16 * 1024).initial_connection_window_size(32 * 1024);
    let (mut client, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("http://app.example{path}");
    let (response, mut body) = client.send_request(Request::post(uri).body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(b"body"), true).unwrap();
    let response = soon("a head", response).await.unwrap();
    let (status, mut body, mut received) = (response.status(), response.into_body(), 0);
    loop {
        match soon("more", body.data()).await {
            Some(Ok(data)) => {
                received += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            Some(Err(error)) => return (status, received, error.reason()),
            None => return (status, received, None),
        }
    }
}

#[tokio::test]
async fn the_received_part_of_a_response_reaches_the_client_before_it_breaks_off() {
    let broken = Broken::start(|path| {
        let (framing, size) = path[1..].split_once('/').unwrap();
        beginning(framing, size.parse().unwrap())
    })
    .await;
    let mut requests = 0;
    for (framing, size, times) in FRAMINGS.into_iter().flat_map(|framing| {
        [(framing, 0, 5), (framing, 4, 40), (framing, 50, 5), (framing, 20_000, 5), (framing, 1 << 20, 3)]
    }) {
        let path = &format!("/{framing}/{size}");
        for _ in 0..times {
            let (status, received, _) = over_http1(broken.plain().await, path).await;
            assert_eq!((status, received), (Some(200), size), "HTTP/1.1 {path}");
            let response = over_http1(broken.tls("http/1.1").await, path).await;
            assert_eq!(response, (Some(200), size, false), "HTTP/1.1 in TLS {path}");
            let response = over_http2(broken.plain().await, path).await;
            assert_eq!(response, (StatusCode::OK, size, Some(h2::Reason::INTERNAL_ERROR)), "HTTP/2 {path}");
            let response = over_http2(broken.tls("h2").await, path).await;
            assert_eq!(response, (StatusCode::OK, size, Some(h2::Reason::INTERNAL_ERROR)), "HTTP/2 in TLS {path}");
            requests += 4;
        }
    }
    assert_eq!(broken.backend.count(), requests, "the backend receives each request once");
}
