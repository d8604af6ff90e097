//! Clients that close their sending side and go on reading.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::Proxy;
use super::support::raw::raw;

/// A client that has closed its sending side may wait ten seconds for a response.
const EACH: Duration = Duration::from_secs(6);

#[tokio::test]
async fn each_pipelined_request_of_a_half_closed_client_has_its_own_ten_seconds() {
    let address = raw(|mut stream| async move {
        while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(EACH).await;
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    // The proxy checks every 300 ms whether the client is there.
    let builder = Proxy::builder().server("limits.idle_timeout = \"300ms\"");
    let proxy = builder.backend_at("a", address, "").start();
    let mut client = proxy.client().await;
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.send(request.repeat(2).as_bytes()).await;
    client.finish_sending().await;
    for number in 0..2 {
        let response = client.response().await;
        assert_eq!((response.status, response.text()), (200, "ok".into()), "{number}");
    }
    assert!(client.is_closed().await);
}
