//! Idle connections that their backend closes: before it receives another request on them, or because of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::raw::raw;
use super::support::{Backend, Proxy};

/// A backend that responds to the first request on a connection, and treats the second as `end` says: after so
/// long it sends so much of a response, and closes. The number counts requests.
async fn closing(after: Duration, answer: &'static [u8]) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    let address = raw(move |mut stream| {
        let count = Arc::clone(&counted);
        async move {
            for request in 0..2 {
                if stream.read(&mut [0; 4096]).await.unwrap_or_default() == 0 {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                if request == 0 {
                    stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                }
            }
            tokio::time::sleep(after).await;
            stream.write_all(answer).await.unwrap();
        }
    });
    (address.await, count)
}

const AT_ONCE: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_request_that_a_backend_worked_on_until_it_died_is_repeated_only_as_retry_on_says() {
    for method in ["GET", "PUT", "DELETE"] {
        let (address, count) = closing(LATER, b"").await;
        let proxy = Proxy::builder().table("retry", "retry_on = []").backend_at("a", address, "").start();
        let mut client = proxy.client().await;
        assert_eq!(client.request(method, "/", "", b"").await.status, 200);
        assert_eq!(client.request(method, "/", "", b"").await.status, 502, "{method}");
        assert_eq!(count.load(Ordering::SeqCst), 2, "{method}: each was executed once");
        assert!(proxy.live("a").awaits_success(), "it is a failure");
    }
    // By default another backend gets it.
    let ((address, count), b) = (closing(LATER, b"").await, Backend::named("b").await);
    let proxy = Proxy::builder().backend_at("a", address, "").backend(&b, "").start();
    let pin = loop {
        let response = proxy.get(None).await;
        if response.text().is_empty() {
            break response.pin().unwrap();
        }
    };
    let before = count.load(Ordering::SeqCst);
    assert_eq!(proxy.get(Some(&pin)).await.text(), "b");
    assert_eq!(count.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn a_response_that_has_begun_is_no_stale_connection() {
    let (address, count) = closing(AT_ONCE, b"HTTP/1.1 2").await;
    let proxy = Proxy::builder().table("retry", "retry_on = []").backend_at("a", address, "").start();
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.get("/").await.status, 502);
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_request_that_crosses_the_close_of_its_connection_is_sent_on_another_and_counts_as_no_failure() {
    let (address, count) = closing(AT_ONCE, b"").await;
    let proxy = Proxy::builder().table("retry", "retry_on = []").backend_at("a", address, "").start();
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.get("/").await.status, 200);
    assert!(count.load(Ordering::SeqCst) >= 2 && !proxy.live("a").awaits_success());
    // Except for a POST, which the backend may have executed.
    assert_eq!(client.request("POST", "/", "", b"").await.status, 502);
}
