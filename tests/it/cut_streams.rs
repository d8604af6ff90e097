//! Streams of HTTP/2 that end in an unusual way: what came before is not passed on as all there is.

use bytes::Bytes;
use h2::Reason;
use http::{Method, Request};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::support::frames::{DATA, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM};
use super::support::raw::raw;
use super::support::{Backend, Client, Proxy, soon};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

/// NO_ERROR, as RST_STREAM has it.
const NO_ERROR: [u8; 4] = [0; 4];

#[tokio::test]
async fn a_response_that_is_reset_before_its_end_is_incomplete_even_without_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut backend = Frames::accept(&listener).await;
        for is_complete in [false, true, false, true] {
            let (kind, stream, _) = backend.await_kind(&[HEADERS, GOAWAY]).await;
            assert_eq!(kind, HEADERS);
            backend.fields(0, stream, &[(":status", "200")]).await;
            backend.send(DATA, if is_complete { END_STREAM } else { 0 }, stream, b"half").await;
            backend.send(RST_STREAM, 0, stream, &NO_ERROR).await;
        }
        std::future::pending::<()>().await;
    });
    let proxy = Proxy::builder().top(HTTP2).table("upstream", "http2 = true").backend_at("a", address, "").start();
    for is_complete in [false, true] {
        let mut client = Client::connect(proxy.listener(1)).await;
        client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
        let response = soon("the end of the response", client.try_response("GET")).await;
        assert_eq!(response.is_some(), is_complete, "{response:?}");
    }
    let stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for is_complete in [false, true] {
        let request = Request::get("http://test/").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let mut body = soon("a head", response).await.unwrap().into_body();
        let end = loop {
            match soon("more", body.data()).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            }
        };
        assert_eq!(end.is_ok(), is_complete, "{end:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_reset_before_its_end_is_incomplete_even_without_an_error() {
    let (ended, mut requests) = mpsc::unbounded_channel();
    let address = raw(move |mut stream| {
        let ended = ended.clone();
        async move {
            let mut received = Vec::new();
            let _ = stream.read_to_end(&mut received).await;
            let _ = ended.send(String::from_utf8(received).unwrap());
        }
    })
    .await;
    let proxy = Proxy::builder().top(HTTP2).backend_at("a", address, "").start();
    let mut client = Frames::connect(proxy.listener(0)).await;
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", "/")];
    client.fields(0, 1, &fields).await;
    client.send(DATA, 0, 1, b"half").await;
    client.send(RST_STREAM, 0, 1, &NO_ERROR).await;
    let request = soon("the end of the request", requests.recv()).await.unwrap();
    assert!(!request.contains("\r\n0\r\n"), "{request}");
}

#[tokio::test]
async fn a_head_request_of_http_2_gets_no_body() {
    let a = Backend::named("a").await;
    let proxy =
        Proxy::builder().top(HTTP2).top("[[routes]]\npath_prefix = \"/app\"\npool = \"app\"").backend(&a, "").start();
    let stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for (path, status) in [("/app", 200), ("/", 404)] {
        let request = Request::builder().method(Method::HEAD).uri(format!("http://test{path}")).body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let response = soon("a head", response).await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        let mut body = response.into_body();
        while let Some(data) = soon("the end", body.data()).await {
            assert_eq!(data.map_err(|error| error.reason()), Ok::<_, Option<Reason>>(Bytes::new()));
        }
    }
}
