//! Clients of HTTP/2 that read slowly: as long as one reads a little, it has not stalled.

use std::time::{Duration, Instant};

use super::support::frames::{DATA, END_STREAM, Frames, RST_STREAM, SETTINGS, WINDOW_UPDATE};
use super::support::{Backend, Proxy, Reply};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

/// Bytes of the response; hyper holds 16 KiB of it at a time.
const SIZE: usize = 40_000;

/// Bytes that the client reads each tenth of a second.
const STEP: u16 = 500;

#[tokio::test]
async fn a_client_that_reads_its_response_in_small_steps_gets_all_of_it() {
    let a = Backend::start("a", |_| Reply::ok(&"x".repeat(SIZE))).await;
    let idle = Duration::from_secs(2);
    let proxy = Proxy::builder().server("limits.idle_timeout = \"2s\"").top(HTTP2).backend(&a, "").start();
    let mut client = Frames::connect(proxy.listener(0)).await;
    // SETTINGS_INITIAL_WINDOW_SIZE.
    client.send(SETTINGS, 0, 0, &[&[0, 4, 0, 0][..], &STEP.to_be_bytes()].concat()).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    client.fields(END_STREAM, 1, &fields).await;
    let (begun, mut received) = (Instant::now(), 0);
    while received < SIZE {
        let (kind, _, payload) = client.await_kind(&[DATA, RST_STREAM]).await;
        assert_eq!(kind, DATA, "it ends after {received} bytes and {:?}: {payload:?}", begun.elapsed());
        received += payload.len();
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send(WINDOW_UPDATE, 0, 1, &u32::from(STEP).to_be_bytes()).await;
    }
    assert!(begun.elapsed() > 2 * idle, "{:?}", begun.elapsed());
}
