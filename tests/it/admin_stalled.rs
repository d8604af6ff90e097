//! `/livez` and `/readyz` answer at once, whatever else holds the admin listener up.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::support::{Backend, Proxy, soon};

/// What a client sends that then neither sends nor reads anything.
const STALLED: [&[u8]; 7] = [
    b"",
    b"GET /api/v1/status HTTP/1.1\r\nhost: localh",
    b"POST /api/v1/pools/app/backends/a/weight HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
      content-length: 99\r\n\r\n{",
    b"GET /api/v1/events?last=100 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /api/v1/pools/app/backends/a/sessions?below=1&wait=10m HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /api/v1/openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n",
];

#[tokio::test]
async fn health_checks_are_answered_while_hundreds_of_admin_connections_stall() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().top("[admin]\naddress = \"127.0.0.1:0\"\n").backend(&a, "").start();
    assert_eq!(proxy.get(None).await.status, 200, "a session is left, for which some wait");
    let mut stalled = Vec::new();
    for _ in 0..60 {
        for bytes in STALLED {
            let mut stream = soon("a connection", TcpStream::connect(proxy.admin())).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stalled.push(stream);
        }
        for path in ["/livez", "/readyz"] {
            let asked = Instant::now();
            assert_eq!(soon(path, proxy.ask("GET", path, "")).await.status, 200);
            assert!(asked.elapsed() < Duration::from_secs(5), "{path} took {:?}", asked.elapsed());
        }
    }
    assert_eq!(stalled.len(), 420);
    // Others are told to come back, and are served once those that stall have lost their place.
    soon("the status", async {
        while proxy.ask("GET", "/api/v1/status", "").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
