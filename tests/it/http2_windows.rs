//! How much an HTTP/2 backend may send ahead of its client.

use bytes::Bytes;
use http::Response;
use tokio::sync::mpsc;

use super::support::raw::raw_http2;
use super::support::{Proxy, soon};

#[tokio::test]
async fn the_window_grows_for_a_long_response_that_is_read_and_for_no_other() {
    let (report, mut windows) = mpsc::unbounded_channel();
    let address = raw_http2(move |request, mut respond| {
        let report = report.clone();
        async move {
            let length: usize = request.uri().path()[1..].parse().unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let mut left = length;
            while left > 0 {
                stream.reserve_capacity(1 << 20);
                // All that was sent has been taken once the window is open again.
                let most = if length - left > 6 << 20 { 32 * 1024 } else { 24 * 1024 };
                while stream.capacity() < most {
                    std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                }
                let part = left.min(stream.capacity());
                report.send((length, part)).unwrap();
                left -= part;
                stream.send_data(Bytes::from(vec![b'x'; part]), left == 0).unwrap();
            }
        }
    })
    .await;
    let proxy = Proxy::builder().table("upstream", "http2 = true").backend_at("a", address, "").start();
    for length in [100_000, 8 << 20, 100_000] {
        let response = soon("the response", proxy.client().await.get(&format!("/{length}"))).await;
        assert_eq!(response.body.len(), length);
        let largest = std::iter::from_fn(|| windows.try_recv().ok()).map(|(_, part)| part).max();
        assert_eq!(largest, Some(if length > 1 << 20 { 32 * 1024 } else { 24 * 1024 }), "{length}");
    }
}
