//! What a connection begins with, and what is left over of the request before: each is taken for what it is.

use std::time::Duration;

use tokio::time::sleep;

use super::support::{Backend, Client, Proxy, Reply};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

#[tokio::test]
async fn a_client_that_connects_beforehand_has_the_idle_time_and_not_that_of_a_head() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().server("limits.header_read_timeout = \"100ms\"").backend(&a, "").start();
    let mut client = proxy.client().await;
    // The kernel keeps a silent connection to itself for a second; then the time of many heads goes by.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.rest(), b"");
}

#[tokio::test]
async fn a_slow_head_is_a_408_where_a_listener_looks_for_http2_first_too() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().server("limits.header_read_timeout = \"100ms\"").top(HTTP2).backend(&a, "").start();
    let mut client = Client::connect(proxy.listener(0)).await;
    client.send(b"GET / HTTP/1.1\r\nho").await;
    assert_eq!(client.response().await.status, 408);
}

#[tokio::test]
async fn what_is_left_of_a_body_that_nobody_read_is_never_taken_for_the_next_request() {
    let gone = Backend::named("a").await.kill().await;
    let proxy = Proxy::builder().backend_at("a", gone, "").start();
    // A body that begins like a request whose target has a fragment.
    for body in ["GET /#fff ", "{\"color\": \"#fff\"}"] {
        let mut client = proxy.client().await;
        let length = body.len();
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n").as_bytes()).await;
        let response = client.response().await;
        assert_eq!((response.status, response.field("connection")), (503, Some("close")), "{}", response.head);
        client.send(body.as_bytes()).await;
        assert!(client.is_closed().await);
        assert_eq!(client.rest(), b"", "one request has one answer");
    }
}

#[tokio::test]
async fn a_connection_to_a_backend_is_kept_behind_an_answer_with_trailers() {
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
