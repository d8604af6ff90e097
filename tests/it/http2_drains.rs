//! Streams of HTTP/2 at the deadline of a drain: those that would never end do, and nothing else of the connection.

use bytes::Bytes;
use h2::Reason;
use http::Response;
use tokio::sync::{mpsc, watch};

use super::support::raw::raw_http2;
use super::support::{Backend, Proxy, soon, until};

const TOP: &str = "[admin]\naddress = \"127.0.0.1:0\"";

/// Drains a backend at once.
async fn drain(proxy: &Proxy) {
    let path = "/api/v1/pools/app/backends/a/drain";
    assert_eq!(proxy.ask("POST", path, "{\"deadline\":\"0s\"}").await.status, 200);
}

#[tokio::test]
async fn at_the_deadline_an_http_2_backend_learns_that_its_stream_is_over_and_keeps_its_other_requests() {
    let (let_it, held) = watch::channel(false);
    let (report, mut resets) = mpsc::unbounded_channel();
    let a = raw_http2(move |request, mut respond| {
        let (mut held, report) = (held.clone(), report.clone());
        async move {
            let is_stream = request.uri().path() == "/events";
            if !is_stream {
                held.wait_for(|is_let| *is_let).await.unwrap();
            }
            let head = Response::builder().header("content-type", if is_stream { "text/event-stream" } else { "x/y" });
            let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
            body.send_data(Bytes::from_static(b"data: 1\n\n"), !is_stream).unwrap();
            if is_stream {
                report.send(std::future::poll_fn(|cx| body.poll_reset(cx)).await).unwrap();
            }
        }
    })
    .await;
    let b = Backend::named("b").await;
    let upstream = "http2 = true";
    let proxy =
        Proxy::builder().top(TOP).table("upstream", upstream).backend_at("a", a, "").backend(&b, "backup = true");
    let proxy = proxy.start();
    let open = async |path: &str| {
        let mut client = proxy.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await;
        client
    };
    let (mut events, mut held) = (open("/events").await, open("/held").await);
    until("both are in flight", async || proxy.live("a").active() == 2).await;
    soon("the beginning of the events", events.read_more()).await.unwrap();
    drain(&proxy).await;
    let response = soon("the end of the events", events.try_response("GET")).await.expect("a complete response");
    assert_eq!(response.text(), "data: 1\n\n");
    let reset = soon("a reset", resets.recv()).await.unwrap();
    assert_eq!(reset.unwrap(), Reason::CANCEL);
    let_it.send(true).unwrap();
    assert_eq!(soon("the response in flight", held.response()).await.status, 200);
}
