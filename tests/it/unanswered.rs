//! Requests that reached a backend but get no response of it, though it has not failed: Linchpin responds itself. A
//! client that gets no byte on a reused connection would send its request again.

use bytes::Bytes;
use http::Request;
use tokio::net::TcpStream;

use super::support::{Backend, Client, Proxy, Reply, soon};

const LISTENERS: &str =
    "[[listeners]]\naddress = \"127.0.0.1:0\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

#[tokio::test]
async fn a_post_in_flight_when_the_process_ends_gets_a_response() {
    let a = Backend::start("a", |_| Reply::Hang).await;
    let proxy = Proxy::builder().server("shutdown_grace = \"300ms\"").top(LISTENERS).backend(&a, "").start();
    let mut client = Client::connect(proxy.listener(0)).await;
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\npay").await;
    let stream = TcpStream::connect(proxy.listener(1)).await.unwrap();
    let (mut http2, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let (response, mut body) = http2.send_request(Request::post("http://a/").body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(b"pay"), true).unwrap();
    a.has(2).await;
    let answers = async {
        assert_eq!(client.response().await.status, 502);
        assert!(client.is_closed().await);
        assert_eq!(soon("a response", response).await.unwrap().status(), 502);
    };
    tokio::join!(soon("the end", proxy.stop()), answers);
    assert_eq!(a.count(), 2);
}

#[tokio::test]
async fn a_half_closed_client_that_waits_too_long_gets_a_response() {
    let a = Backend::start("a", |_| Reply::Hang).await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\npay").await;
    client.finish_sending().await;
    assert_eq!(client.response().await.status, 502);
    assert!(client.is_closed().await);
    assert_eq!((a.count(), proxy.live("a").active()), (1, 0));
}
