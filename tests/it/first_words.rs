//! The first bytes of a connection, and bytes that are left of a previous request.

use std::time::Duration;

use tokio::time::sleep;

use super::support::{Backend, Client, Proxy, Reply};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

#[tokio::test]
async fn a_connection_without_a_request_gets_the_idle_timeout_and_not_that_of_the_header() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().server("limits.header_read_timeout = \"100ms\"").backend(&a, "").start();
    let mut client = proxy.client().await;
    // The kernel defers accepting a silent connection for a second. After that, many header timeouts pass.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.rest(), b"");
}

#[tokio::test]
async fn a_slow_header_is_a_408_on_a_listener_that_detects_http_2_too() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().server("limits.header_read_timeout = \"100ms\"").top(HTTP2).backend(&a, "").start();
    let mut client = Client::connect(proxy.listener(0)).await;
    client.send(b"GET / HTTP/1.1\r\nho").await;
    assert_eq!(client.response().await.status, 408);
}

#[tokio::test]
async fn the_rest_of_an_unread_body_is_never_taken_for_the_next_request() {
    let address = Backend::named("a").await.kill().await;
    let proxy = Proxy::builder().backend_at("a", address, "").start();
    // A body that starts like a request whose target has a fragment.
    for body in ["GET /#fff ", "{\"color\": \"#fff\"}"] {
        let mut client = proxy.client().await;
        let length = body.len();
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n").as_bytes()).await;
        let response = client.response().await;
        assert_eq!((response.status, response.field("connection")), (503, Some("close")), "{}", response.head);
        client.send(body.as_bytes()).await;
        assert!(client.is_closed().await);
        assert_eq!(client.rest(), b"", "one request gets one response");
    }
}

#[tokio::test]
async fn a_backend_connection_is_reused_after_a_response_with_trailers() {
    let a = Backend::start("a", |_| {
        let body = "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n";
        Reply::Bytes(format!("HTTP/1.1 200 X\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n{body}").into())
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    for _ in 0..3 {
        assert_eq!(client.request("GET", "/", "te: trailers\r\n", b"").await.status, 200);
    }
    assert_eq!((a.count(), a.connections()), (3, 1));
}
