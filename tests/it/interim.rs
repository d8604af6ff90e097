//! Interim responses: which ones reach the client, in which order, and with which fields.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::support::raw::raw_http2;
use super::support::{Backend, Client, Proxy, Reply, soon};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
const FINAL: &str = "HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok";

/// Reads responses up to the final one. Returns their statuses.
async fn statuses(client: &mut Client) -> Vec<u16> {
    let mut statuses = Vec::new();
    while statuses.last().is_none_or(|status| *status < 200) {
        let response = soon("a response", client.try_any_response("GET")).await.expect("a response");
        assert!(response.status < 200 || response.text() == "ok", "{response:?}");
        statuses.push(response.status);
    }
    statuses
}

#[tokio::test]
async fn early_hints_reach_the_client_before_the_final_response() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::builder().backend_at("raw", listener.local_addr().unwrap(), "").start();
    let go = Arc::new(Notify::new());
    let release = Arc::clone(&go);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        loop {
            if stream.read(&mut [0; 1024]).await.unwrap_or(0) == 0 {
                return;
            }
            stream.write_all(HINTS.as_bytes()).await.unwrap();
            release.notified().await;
            stream.write_all(FINAL.as_bytes()).await.unwrap();
        }
    });
    let mut client = proxy.client().await;
    for _ in 0..3 {
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let hints = soon("the hints", client.try_any_response("GET")).await.expect("hints");
        assert_eq!((hints.status, hints.field("link")), (103, Some("</a.css>; rel=preload")));
        assert_eq!(hints.head.lines().count(), 2, "{}", hints.head);
        go.notify_one();
        assert_eq!(statuses(&mut client).await, [200]);
    }
}

#[tokio::test]
async fn interim_responses_are_forwarded_in_order_without_an_unexpected_100() {
    let a = Backend::start("a", |seen| {
        let [other, processing] = ["104 Draft", "102 Processing"].map(|line| format!("HTTP/1.1 {line}\r\n\r\n"));
        let unexpected = "HTTP/1.1 100 Continue\r\n\r\n";
        match seen.path() {
            "/none" => Reply::Bytes(FINAL.into()),
            _ => Reply::Bytes(format!("{processing}{unexpected}{HINTS}{HINTS}{other}{FINAL}").into()),
        }
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    for (path, expected) in
        [("/", &[102, 103, 103, 104, 200][..]), ("/none", &[200]), ("/", &[102, 103, 103, 104, 200])]
    {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await;
        assert_eq!(statuses(&mut client).await, expected);
    }
    // Two pipelined requests: each has its interim responses before its own final response.
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.send(&[&request[..], request].concat()).await;
    for _ in 0..2 {
        let statuses = statuses(&mut client).await;
        assert!([&[102, 103, 103, 104, 200][..], &[200]].contains(&&*statuses), "{statuses:?}");
    }
    // A client that expects 100 gets it once: from the proxy, as soon as the backend wants the body.
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n").await;
    let first = soon("100", client.try_any_response("POST")).await.unwrap();
    assert_eq!(first.status, 100);
    client.send(b"x").await;
    assert_eq!(statuses(&mut client).await, [102, 103, 103, 104, 200]);
    assert_eq!(client.rest(), b"");
    assert_eq!(a.connections(), 1);
}

#[tokio::test]
async fn an_interim_response_has_no_hop_by_hop_field_no_length_and_no_field_that_the_route_removes() {
    let fields =
        "connection: x-hop\r\nx-hop: 1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\nserver: x\r\nx: 1\r\n";
    let a = Backend::start("a", move |_| Reply::Bytes(format!("HTTP/1.1 103 X\r\n{fields}\r\n{FINAL}").into())).await;
    let route = "[[routes]]\npool = \"app\"\nresponse_headers = { remove = [\"Server\"] }";
    let proxy = Proxy::builder().top(route).backend(&a, "").start();
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let hints = soon("the hints", client.try_any_response("GET")).await.unwrap();
    assert_eq!(hints.head, "HTTP/1.1 103 Early Hints\r\nx: 1");
    assert_eq!(statuses(&mut client).await, [200]);
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_interim_response() {
    let a = Backend::start("a", |_| Reply::Bytes(format!("{HINTS}{FINAL}").into())).await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(statuses(&mut client).await, [200]);
}

#[tokio::test]
async fn interim_responses_beyond_the_bounds_are_dropped_and_the_final_response_arrives() {
    for (hints, most) in [
        ("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(2000), 64),
        (format!("HTTP/1.1 103 Early Hints\r\nx: {}\r\n\r\n", "x".repeat(5000)).repeat(100), 64),
        (format!("HTTP/1.1 103 Early Hints\r\nx: {}\r\n\r\n", "x".repeat(100_000)), 0),
    ] {
        let a = Backend::start("a", move |_| Reply::Bytes(format!("{hints}{FINAL}").into())).await;
        let proxy = Proxy::before(&[&a]);
        let mut client = proxy.client().await;
        for _ in 0..2 {
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let statuses = statuses(&mut client).await;
            assert!(statuses.len() <= most + 1, "{}", statuses.len());
            assert_eq!(statuses.last(), Some(&200));
        }
    }
}

#[tokio::test]
async fn a_backend_that_fails_after_an_interim_response_is_replaced_by_another() {
    let a = Backend::start("a", |_| Reply::Last(HINTS.into())).await;
    let b = Backend::start("b", |_| Reply::Bytes(FINAL.into())).await;
    let proxy = Proxy::builder().backend(&a, "").backend(&b, "backup = true").start();
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(statuses(&mut client).await, [103, 200]);
}

#[tokio::test]
async fn an_interim_response_never_interrupts_the_response_before_it() {
    const LARGE: usize = 8 * 1024 * 1024;
    let a = Backend::start("a", |seen| match seen.path() {
        "/large" => Reply::ok(&"x".repeat(LARGE)),
        _ => Reply::Bytes(format!("{HINTS}{FINAL}").into()),
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    // The client does not read the first response until the second one could have arrived.
    let requests = ["/large", "/", "/large", "/"].map(|path| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"));
    client.send(requests.concat().as_bytes()).await;
    a.has(1).await;
    for _ in 0..2 {
        let large = soon("the large response", client.try_any_response("GET")).await.unwrap();
        assert_eq!((large.status, large.body.len()), (200, LARGE));
        let statuses = statuses(&mut client).await;
        assert!(statuses == [103, 200] || statuses == [200], "{statuses:?}");
    }
    assert_eq!(client.rest(), b"");
}

/// Starts a backend of HTTP/2 that sends Early Hints and then a final response.
async fn backend_of_http2() -> std::net::SocketAddr {
    raw_http2(|_, mut respond| async move {
        let hints = Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
        respond.send_informational(hints).unwrap();
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"ok"), true).unwrap();
    })
    .await
}

#[tokio::test]
async fn a_client_of_http_2_gets_interim_responses_before_the_final_one() {
    let a = Backend::start("a", |_| Reply::Bytes(format!("{HINTS}{FINAL}").into())).await;
    let proxy = Proxy::builder().top(HTTP2).backend(&a, "").start();
    let stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://test/").body(()).unwrap();
    let mut response = client.send_request(request, true).unwrap().0;
    let first = soon("a response", std::future::poll_fn(|cx| response.poll_informational(cx))).await;
    let first = first.expect("an interim response").unwrap();
    assert_eq!((first.status().as_u16(), first.headers().get("link").is_some()), (103, true), "{first:?}");
    assert_eq!(soon("a response", response).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn an_interim_response_of_an_http_2_backend_reaches_a_client_of_http_1() {
    let address = backend_of_http2().await;
    let proxy = Proxy::builder().table("upstream", "http2 = true").backend_at("a", address, "").start();
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(statuses(&mut client).await, [103, 200]);
}
