//! Streams of HTTP/2 at the deadline of a drain: those that would never end do, and nothing else of the connection.

use std::net::SocketAddr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::support::raw::{raw, raw_http2};
use super::support::{Backend, Proxy, soon, until};

const TOP: &str = "[admin]\naddress = \"127.0.0.1:0\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

/// Drains a backend at once.
async fn drain(proxy: &Proxy) {
    let path = "/api/v1/pools/app/backends/a/drain";
    assert_eq!(proxy.ask("POST", path, "{\"deadline\":\"0s\"}").await.status, 200);
}

async fn client(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    soon("a client", sender.ready()).await.unwrap()
}

fn get(client: &mut SendRequest<Bytes>, path: &str) -> ResponseFuture {
    client.send_request(Request::get(format!("http://test{path}")).body(()).unwrap(), true).unwrap().0
}

/// Reads a body to its end, or to the reason of its reset.
async fn read(mut body: RecvStream) -> (Vec<u8>, Option<Reason>) {
    let mut all = Vec::new();
    let end = soon("the end of a body", async {
        while let Some(data) = body.data().await {
            match data {
                Ok(data) => {
                    let _ = body.flow_control().release_capacity(data.len());
                    all.extend_from_slice(&data);
                }
                Err(error) => return error.reason(),
            }
        }
        None
    });
    let end = end.await;
    (all, end)
}

/// Returns what a server responds to the key of a WebSocket (RFC 6455 §4.2.2).
fn accept(head: &str) -> Option<String> {
    let key = head
        .lines()
        .find_map(|line| line.to_lowercase().starts_with("sec-websocket-key:").then(|| line[18..].trim()))?;
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    Some(STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes())))
}

/// A backend that becomes a tunnel at `/ws`, streams events at `/events` and lines at `/lines`, none of which end, and
/// responds to `/held` once it is let.
async fn backend(held: watch::Receiver<bool>) -> SocketAddr {
    raw(move |mut stream| {
        let mut held = held.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.ok()?);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let switch = format!(
                "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {}\r\n\r\nhello",
                accept(&head).unwrap_or_default()
            );
            let start = match head.split(' ').nth(1)? {
                "/ws" => &switch,
                "/events" => "HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n",
                "/lines" => "HTTP/1.1 200 X\r\ncontent-type: application/x-ndjson\r\n\r\n1\n",
                _ => {
                    held.wait_for(|is_let| *is_let).await.ok()?;
                    stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 4\r\n\r\nheld").await.ok()?;
                    ""
                }
            };
            stream.write_all(start.as_bytes()).await.ok()?;
            stream.read_to_end(&mut Vec::new()).await.ok()
        }
    })
    .await
}

#[tokio::test]
async fn streams_and_tunnels_of_a_client_of_http_2_end_at_the_deadline_and_its_requests_go_on() {
    let (let_it, held) = watch::channel(false);
    let (a, b) = (backend(held).await, Backend::named("b").await);
    let proxy = Proxy::builder().top(TOP).backend_at("a", a, "").backend(&b, "backup = true").start();
    let mut client = client(proxy.address()).await;
    let (events, lines, held) = (get(&mut client, "/events"), get(&mut client, "/lines"), get(&mut client, "/held"));
    // The proxy's SETTINGS allow it.
    until("extended CONNECT", async || client.is_extended_connect_protocol_enabled()).await;
    let mut connect = Request::builder().method(Method::CONNECT).uri("http://test/ws").body(()).unwrap();
    connect.extensions_mut().insert(Protocol::from_static("websocket"));
    let (tunnel, mut up): (_, SendStream<Bytes>) = client.send_request(connect, false).unwrap();
    let responses = [
        soon("events", events).await.unwrap(),
        soon("lines", lines).await.unwrap(),
        soon("a tunnel", tunnel).await.unwrap(),
    ];
    assert_eq!(responses.each_ref().map(|response| response.status().as_u16()), [200; 3]);
    let [events, lines, tunnel] = responses.map(Response::into_body);
    until("all are in flight", async || (proxy.live("a").tunnels(), proxy.live("a").active()) == (1, 4)).await;

    drain(&proxy).await;
    assert_eq!(read(events).await, (b"data: 1\n\n".to_vec(), None), "a client of events connects again");
    let (read_lines, end) = read(lines).await;
    assert_eq!(read_lines, b"1\n");
    assert!(end.is_some(), "a list that breaks off is not taken for a whole one");
    assert_eq!(read(tunnel).await, (b"hello".to_vec(), None), "an orderly end");
    drop(up.send_data(Bytes::new(), true));
    until("one request is left", async || (proxy.live("a").tunnels(), proxy.live("a").active()) == (0, 1)).await;
    let next = soon("another server", get(&mut client, "/")).await.unwrap().into_body();
    assert_eq!(read(next).await, (b"b".to_vec(), None), "on the same connection");
    let_it.send(true).unwrap();
    let held = soon("the response in flight", held).await.unwrap().into_body();
    assert_eq!(read(held).await, (b"held".to_vec(), None));
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
