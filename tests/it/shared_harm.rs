//! What one client, one page or one hanging connection can do to the others that share a backend's HTTP/2 connection.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use linchpin::pool::Health;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::sleep;

use super::support::frames::{DATA, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM};
use super::support::raw::raw;
use super::support::{Client, Proxy, proxy, soon};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

/// As many bytes as a backend may send before its client has taken any.
const WINDOW: usize = 24 * 1024;

/// A proxy whose first listener speaks HTTP/2, before a backend that does, too.
async fn before() -> (TcpListener, proxy::Builder) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let builder = Proxy::builder().top(HTTP2).table("upstream", "http2 = true");
    let builder = builder.table("persistence", "type = \"none\"").server("threads = 1");
    let builder = builder.backend_at("a", listener.local_addr().unwrap(), "");
    (listener, builder)
}

/// Connects a client of HTTP/2.
async fn http2(proxy: &Proxy) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Begins a request whose body the client never ends.
async fn begin(client: &mut SendRequest<Bytes>) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let mut ready = client.clone().ready().await.unwrap();
    ready.send_request(Request::post("http://test/app").body(()).unwrap(), false).unwrap()
}

/// Receives requests until there are `count`; returns their streams.
async fn requests(backend: &mut Frames, count: usize) -> Vec<u32> {
    let mut streams = Vec::new();
    while streams.len() < count {
        let (kind, stream, _) = backend.await_kind(&[HEADERS, GOAWAY]).await;
        assert_eq!(kind, HEADERS, "{streams:?}");
        streams.push(stream);
    }
    streams
}

/// Responds on a connection that its client can still use.
async fn is_served(backend: &mut Frames, stream: u32, client: &mut Client) {
    backend.fields(0, stream, &[(":status", "200"), ("content-length", "2")]).await;
    backend.send(DATA, END_STREAM, stream, b"ok").await;
    assert_eq!(client.response().await.text(), "ok");
}

#[tokio::test]
async fn a_page_that_arrives_byte_by_byte_ends_no_connection() {
    let (listener, builder) = before().await;
    let proxy = builder.start();
    let (mut reader, mut other) = (Client::connect(proxy.listener(1)).await, Client::connect(proxy.listener(1)).await);
    reader.send(b"GET /bytes HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut backend = soon("a connection", Frames::accept(&listener)).await;
    let page = requests(&mut backend, 1).await[0];
    other.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let stream = requests(&mut backend, 1).await[0];
    backend.fields(0, page, &[(":status", "200")]).await;
    backend.data_in_frames_of(1, page, &[b'x'; WINDOW]).await;
    backend.send(DATA, END_STREAM, page, b"").await;
    assert_eq!(soon("the page", reader.response()).await.body.len(), WINDOW);
    is_served(&mut backend, stream, &mut other).await;
}

#[tokio::test]
async fn clients_of_http_2_that_read_no_events_end_no_connection_to_the_backend() {
    let (listener, builder) = before().await;
    let proxy = builder.start();
    let stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
    let mut client = h2::client::Builder::new();
    client.initial_window_size(0);
    let (mut client, connection) = client.handshake::<_, Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let mut responses = Vec::new();
    for _ in 0..30 {
        client = client.ready().await.unwrap();
        responses.push(client.send_request(Request::get("http://test/events").body(()).unwrap(), true).unwrap().0);
    }
    let mut backend = soon("a connection", Frames::accept(&listener)).await;
    let events = soon("the requests", requests(&mut backend, 30)).await;
    let mut other = Client::connect(proxy.listener(1)).await;
    other.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let stream = requests(&mut backend, 1).await[0];
    let mut held = Vec::new();
    for (events, response) in events.into_iter().zip(responses) {
        backend.fields(0, events, &[(":status", "200"), ("content-type", "text/event-stream")]).await;
        held.push(soon("a head", response).await.unwrap());
        for _ in 0..8 {
            backend.data_in_frames_of(10, events, &[b'x'; WINDOW / 8]).await;
            sleep(Duration::from_millis(1)).await;
        }
    }
    is_served(&mut backend, stream, &mut other).await;
}

#[tokio::test]
async fn a_backend_that_allows_almost_any_number_of_streams_is_served() {
    let (listener, builder) = before().await;
    let proxy = builder.start();
    for most in [0xffff_fffe_u32, u32::MAX] {
        let mut client = Client::connect(proxy.listener(1)).await;
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let settings = [&[0, 3][..], &most.to_be_bytes()].concat();
        let mut backend = soon("a connection", Frames::accept_with(&listener, &settings)).await;
        let stream = soon("a request", requests(&mut backend, 1)).await[0];
        is_served(&mut backend, stream, &mut client).await;
    }
}

#[tokio::test]
async fn a_connection_that_hangs_while_it_is_made_holds_up_no_later_requests() {
    let (listener, builder) = before().await;
    let proxy = builder.table("timeouts", "connect = \"60s\"").start();
    let mut first = Client::connect(proxy.listener(1)).await;
    first.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (mut hanging, _) = soon("a connection", listener.accept()).await.unwrap();
    soon("its preface", hanging.read_exact(&mut [0; 24])).await.unwrap();
    // Longer than a new request waits for an attempt that has brought nothing so far.
    sleep(Duration::from_millis(1200)).await;
    let mut later = Client::connect(proxy.listener(1)).await;
    later.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut backend = soon("another connection", Frames::accept(&listener)).await;
    let stream = soon("a request", requests(&mut backend, 1)).await[0];
    is_served(&mut backend, stream, &mut later).await;
}

#[tokio::test]
async fn uploads_in_tiny_frames_that_no_backend_reads_end_no_connection_of_the_client() {
    const PING: u8 = 6;
    let address = raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let route = "[[routes]]\npath_prefix = \"/app\"\npool = \"app\"";
    let proxy = Proxy::builder().top(HTTP2).top(route).backend_at("a", address, "").start();
    let mut client = Frames::connect(proxy.listener(0)).await;
    let fields = |method, path| [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)];
    for stream in [1, 3, 5, 7, 9] {
        client.fields(0, stream, &fields("POST", "/app")).await;
    }
    for _ in 0..12 {
        for stream in [1, 3, 5, 7, 9] {
            client.data_in_frames_of(2, stream, &[b'x'; 2000]).await;
        }
        // It acknowledges what it has read, and other tasks have run meanwhile.
        client.send(PING, 0, 0, &[0; 8]).await;
        assert_eq!(client.await_kind(&[PING, GOAWAY]).await.0, PING);
    }
    client.fields(END_STREAM, 11, &fields("GET", "/")).await;
    let (kind, stream, _) = client.await_kind(&[HEADERS, RST_STREAM, GOAWAY]).await;
    assert_eq!((kind, stream), (HEADERS, 11));
}
