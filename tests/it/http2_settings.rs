//! What an HTTP/2 backend allows is known before it gets a request.

use tokio::net::TcpListener;

use super::support::frames::{END_STREAM, Frames, GOAWAY, HEADERS, SETTINGS, WINDOW_UPDATE};
use super::support::{Proxy, soon, until};

#[tokio::test]
async fn no_request_goes_to_an_http_2_backend_before_its_settings() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Proxy::builder().table("upstream", "http2 = true").backend_at("a", address, "").start();
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let mut backend = Frames::accept_silently(&listener).await;
    until("the request wants a stream", async || proxy.live("a").active() == 1).await;
    // The proxy raises the window of the connection right after its own SETTINGS. A request that did not wait follows.
    backend.await_kind(&[WINDOW_UPDATE]).await;
    backend.send(SETTINGS, 0, 0, b"").await;
    let (first, ..) = backend.await_kind(&[SETTINGS, HEADERS, GOAWAY]).await;
    assert_eq!(first, SETTINGS, "the request came before the acknowledgement");
    let (kind, stream, _) = backend.await_kind(&[HEADERS, GOAWAY]).await;
    assert_eq!(kind, HEADERS);
    backend.fields(END_STREAM, stream, &[(":status", "204")]).await;
    assert_eq!(soon("a response", client.response()).await.status, 204);
}
