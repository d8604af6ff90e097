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
async fn a_page_with_any_number_of_empty_frames_ends_no_connection() {
    let (listener, builder) = before().await;
    let proxy = builder.start();
    let (mut reader, mut other) = (Client::connect(proxy.listener(1)).await, Client::connect(proxy.listener(1)).await);
    reader.send(b"GET /flushes HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut backend = soon("a connection", Frames::accept(&listener)).await;
    let page = requests(&mut backend, 1).await[0];
    other.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let stream = requests(&mut backend, 1).await[0];
    backend.fields(0, page, &[(":status", "200")]).await;
    for byte in [b"x"; 300] {
        backend.send(DATA, 0, page, b"").await;
        backend.send(DATA, 0, page, byte).await;
    }
    backend.send(DATA, END_STREAM, page, b"").await;
    assert_eq!(soon("the page", reader.response()).await.body.len(), 300);
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
async fn uploads_that_never_end_take_no_stream_from_others_once_they_are_responded_to() {
    let (listener, builder) = before().await;
    let proxy = builder.start();
    let mut client = http2(&proxy).await;
    let mut uploads = vec![begin(&mut client).await];
    // The backend allows two streams.
    let mut backend = soon("a connection", Frames::accept_with(&listener, &[0, 3, 0, 0, 0, 2])).await;
    uploads.push(begin(&mut client).await);
    for stream in requests(&mut backend, 2).await {
        backend.fields(END_STREAM, stream, &[(":status", "404")]).await;
    }
    for (response, _) in &mut uploads {
        assert_eq!(soon("a response", response).await.unwrap().status(), 404);
    }
    let mut other = Client::connect(proxy.listener(1)).await;
    other.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let stream = requests(&mut backend, 1).await[0];
    is_served(&mut backend, stream, &mut other).await;
}

#[tokio::test]
async fn a_client_that_cancels_many_responses_ends_no_connection_to_the_backend() {
    let (listener, builder) = before().await;
    let proxy = builder.start();
    let mut client = http2(&proxy).await;
    let mut cancelled = vec![begin(&mut client).await];
    let mut backend = soon("a connection", Frames::accept(&listener)).await;
    while cancelled.len() < 90 {
        cancelled.push(begin(&mut client).await);
    }
    let streams = soon("the requests", requests(&mut backend, 90)).await;
    let mut other = Client::connect(proxy.listener(1)).await;
    other.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let stream = requests(&mut backend, 1).await[0];
    drop(cancelled);
    for _ in &streams {
        assert_eq!(backend.await_kind(&[RST_STREAM, GOAWAY]).await.0, RST_STREAM);
    }
    // What was under way when the backend had not heard of that.
    for cancelled in streams {
        backend.fields(0, cancelled, &[(":status", "200")]).await;
        backend.data_in_frames_of(100, cancelled, &[b'x'; 3000]).await;
    }
    is_served(&mut backend, stream, &mut other).await;
}

#[tokio::test]
async fn a_response_that_is_no_http_is_a_502_and_its_request_is_not_sent_again() {
    let (listener, builder) = before().await;
    let proxy = builder.start();
    let (mut client, mut other) = (Client::connect(proxy.listener(1)).await, Client::connect(proxy.listener(1)).await);
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut backend = soon("a connection", Frames::accept(&listener)).await;
    let stream = requests(&mut backend, 1).await[0];
    is_served(&mut backend, stream, &mut client).await;
    other.send(b"GET /other HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let others = requests(&mut backend, 1).await[0];
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let stream = requests(&mut backend, 1).await[0];
    backend.fields(0, stream, &[(":status", "200"), ("connection", "close")]).await;
    assert_eq!(client.response().await.status, 502);
    let (kind, stream, _) = backend.await_kind(&[HEADERS, RST_STREAM, GOAWAY]).await;
    assert_eq!(kind, RST_STREAM, "{stream}");
    is_served(&mut backend, others, &mut other).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_502_for_its_request_alone() {
    const CONTINUATION: u8 = 9;
    let (listener, builder) = before().await;
    let proxy = builder.start();
    let (mut client, mut other) = (Client::connect(proxy.listener(1)).await, Client::connect(proxy.listener(1)).await);
    client.send(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut backend = soon("a connection", Frames::accept(&listener)).await;
    let large = requests(&mut backend, 1).await[0];
    other.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let stream = requests(&mut backend, 1).await[0];
    // `:status: 200` out of the static table, and 600 KiB of fields.
    backend.send(HEADERS, 0, large, &[0x88]).await;
    let field = [&[0, 1, b'x', 120][..], &[b'y'; 120]].concat();
    for last in (0..50).rev() {
        let end_headers = if last == 0 { 4 } else { 0 };
        backend.send(CONTINUATION, end_headers, large, &field.repeat(100)).await;
    }
    assert_eq!(client.response().await.status, 502);
    is_served(&mut backend, stream, &mut other).await;
}

#[tokio::test]
async fn a_request_that_goaway_leaves_out_is_sent_again_whatever_the_reason() {
    let (listener, builder) = before().await;
    let proxy = builder.start();
    let mut client = Client::connect(proxy.listener(1)).await;
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await;
    let mut backend = soon("a connection", Frames::accept(&listener)).await;
    assert_eq!(requests(&mut backend, 1).await, [1]);
    // ENHANCE_YOUR_CALM, and no stream was processed.
    backend.send(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]).await;
    let mut backend = soon("another connection", Frames::accept(&listener)).await;
    let stream = requests(&mut backend, 1).await[0];
    is_served(&mut backend, stream, &mut client).await;
}

/// Connects a client with this address.
async fn client_from(address: &str, proxy: &Proxy) -> Frames {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    Frames::begin(socket.connect(proxy.listener(0)).await.unwrap()).await
}

#[tokio::test]
async fn the_end_of_a_connection_counts_once_however_many_clients_share_it() {
    for has_begun in [false, true] {
        let (listener, builder) = before().await;
        let proxy = builder.table("ejection", "consecutive_failures = 3").start();
        let mut clients = Vec::new();
        let mut connection = None;
        for last in 1..=6 {
            let mut client = client_from(&format!("127.0.0.{last}"), &proxy).await;
            let fields = [(":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", "/")];
            client.fields(END_STREAM, 1, &fields).await;
            clients.push(client);
            if connection.is_none() {
                connection = Some(soon("a connection", Frames::accept(&listener)).await);
            }
        }
        let mut backend = connection.unwrap();
        for stream in requests(&mut backend, 6).await {
            if has_begun {
                backend.fields(0, stream, &[(":status", "200")]).await;
            }
        }
        if has_begun {
            for client in &mut clients {
                assert_eq!(client.await_kind(&[HEADERS, GOAWAY]).await.0, HEADERS);
            }
        }
        // A frame of a stream that does not exist: the end of the connection.
        backend.send(DATA, 0, 201, b"x").await;
        for client in &mut clients {
            let (kind, ..) = client.await_kind(&[if has_begun { RST_STREAM } else { HEADERS }, GOAWAY]).await;
            assert_ne!(kind, GOAWAY);
        }
        assert_eq!(proxy.live("a").health(), Health::Up, "has_begun: {has_begun}");
    }
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
