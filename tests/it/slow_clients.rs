//! Clients and backends that send or read slowly: each has its own limits, and neither is blamed for the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use linchpin::pool::Health;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::support::keys::pin;
use super::support::proxy::Builder;
use super::support::raw::{raw, raw_http2};
use super::support::{Backend, Client, Keys, Proxy, soon};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

/// One failed response to each of three clients ejects a backend.
const STRICT: &str = "consecutive_failures = 1\nmax_ejected = \"100%\"";

/// A backend of HTTP/2 that responds to each request once it has all of it.
async fn http2_backend() -> SocketAddr {
    raw_http2(|request, mut respond| async move {
        let mut body = request.into_body();
        while let Some(data) = body.data().await {
            let Ok(data) = data else { return };
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await
}

/// Uploads piece by piece, over HTTP/1.1 or HTTP/2. Returns the status of the response.
async fn upload(proxy: &Proxy, http2: bool, cookie: &str, kind: &str, pieces: &[(&str, Duration)], ends: bool) -> u16 {
    if !http2 {
        let mut client = Client::connect(proxy.listener(0)).await;
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncookie: {cookie}\r\ncontent-type: {kind}\r\n");
        client.send(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await;
        for (piece, pause) in pieces {
            client.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await;
            sleep(*pause).await;
        }
        if ends {
            client.send(b"0\r\n\r\n").await;
        }
        return client.response().await.status;
    }
    let stream = TcpStream::connect(proxy.listener(1)).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://a/").header("cookie", cookie).header("content-type", kind).body(()).unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    for (piece, pause) in pieces {
        body.send_data(Bytes::copy_from_slice(piece.as_bytes()), false).unwrap();
        sleep(*pause).await;
    }
    if ends {
        body.send_data(Bytes::new(), true).unwrap();
    }
    soon("a response", response).await.unwrap().status().as_u16()
}

/// Starts a pool of one backend; returns it with cookies of ten sessions on that backend.
fn pool(builder: Builder, timeouts: &str) -> (Proxy, Vec<String>) {
    let keys = Keys::new(&[1]);
    let top = format!("{}[[listeners]]\naddress = \"127.0.0.1:0\"\n{HTTP2}", keys.tables());
    let builder = builder.top(&top).table("timeouts", timeouts).table("ejection", STRICT);
    let proxy = builder.table("retry", "retry_on = []").start();
    let cookies = (0..10).map(|session| keys.cookie(&pin(&proxy, "a", session))).collect();
    (proxy, cookies)
}

/// Returns whether no failure counts against the backend.
fn is_blameless(proxy: &Proxy) -> bool {
    proxy.live("a").health() == Health::Up && !proxy.live("a").awaits_success()
}

#[tokio::test]
async fn a_client_that_stalls_its_upload_gets_408_and_its_backend_no_blame() {
    let a = Backend::named("a").await;
    let http2 = Proxy::builder().table("upstream", "http2 = true").backend_at("a", http2_backend().await, "");
    for builder in [Proxy::builder().backend(&a, ""), http2] {
        let (proxy, cookies) = pool(builder, "idle = \"1s\"\nresponse = \"300ms\"\ntotal = \"500ms\"");
        for http2 in [false, true] {
            let stalls = cookies
                .iter()
                .map(|cookie| upload(&proxy, http2, cookie, "text/plain", &[("some", Duration::ZERO)], false));
            let statuses = futures_util::future::join_all(stalls).await;
            assert_eq!(statuses, [408; 10], "HTTP/2: {http2}");
            assert!(is_blameless(&proxy));
        }
    }
}

#[tokio::test]
async fn an_upload_that_progresses_may_exceed_response_and_total() {
    let a = Backend::named("a").await;
    let http2 = Proxy::builder().table("upstream", "http2 = true").backend_at("a", http2_backend().await, "");
    for builder in [Proxy::builder().backend(&a, ""), http2] {
        let (proxy, cookies) = pool(builder, "idle = \"10s\"\nresponse = \"500ms\"\ntotal = \"500ms\"");
        for http2 in [false, true] {
            // The upload takes longer than both timeouts, and so does one of its pauses.
            let mut pieces = vec![("piece", Duration::from_millis(50)); 15];
            pieces.push(("piece", Duration::from_millis(800)));
            let status = upload(&proxy, http2, &cookies[0], "text/plain", &pieces, true).await;
            assert_eq!(status, 200, "HTTP/2: {http2}");
        }
    }
}

#[tokio::test]
async fn a_stream_to_the_backend_may_be_silent_for_stream_idle() {
    let address = http2_backend().await;
    let builder = Proxy::builder().table("upstream", "http2 = true").backend_at("a", address, "");
    let (proxy, cookies) =
        pool(builder, "idle = \"200ms\"\nresponse = \"200ms\"\ntotal = \"200ms\"\nstream_idle = \"20s\"");
    let message = [("message", Duration::from_secs(1))];
    for http2 in [false, true] {
        for kind in ["application/grpc", "application/x-ndjson"] {
            assert_eq!(upload(&proxy, http2, &cookies[0], kind, &message, true).await, 200, "{kind} HTTP/2: {http2}");
        }
        assert_eq!(upload(&proxy, http2, &cookies[0], "text/plain", &message, false).await, 408);
    }
}

#[tokio::test]
async fn a_backend_that_times_out_a_silent_client_gets_no_blame() {
    let address = raw(|mut stream| async move {
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        sleep(Duration::from_millis(1500)).await;
    })
    .await;
    let (proxy, cookies) = pool(Proxy::builder().backend_at("a", address, ""), "idle = \"20s\"\nresponse = \"1s\"");
    let stalls =
        cookies.iter().map(|cookie| upload(&proxy, false, cookie, "text/plain", &[("some", Duration::ZERO)], false));
    assert_eq!(futures_util::future::join_all(stalls).await, [408; 10]);
    assert!(is_blameless(&proxy));
}

#[tokio::test]
async fn a_backend_that_reads_an_upload_slowly_has_time_and_one_that_reads_nothing_is_blamed() {
    const PIECE: usize = 128 * 1024;
    const PIECES: usize = 256;
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let address = raw(move |mut stream| {
        let read = Arc::clone(&counted);
        async move {
            let mut piece = vec![0; PIECE];
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            if head.starts_with(b"POST /never") {
                return std::future::pending().await;
            }
            while read.load(Ordering::Relaxed) < PIECES * PIECE {
                match stream.read(&mut piece).await.unwrap() {
                    0 => return,
                    bytes => read.fetch_add(bytes, Ordering::Relaxed),
                };
                sleep(Duration::from_millis(20)).await;
            }
            stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let (proxy, _) =
        pool(Proxy::builder().backend_at("a", address, ""), "idle = \"20s\"\nresponse = \"3s\"\ntotal = \"3s\"");
    let send = async |path: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", PIECES * PIECE);
        let stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let sending = tokio::spawn(async move {
            to.write_all(head.as_bytes()).await.unwrap();
            let piece = vec![b'x'; PIECE];
            for _ in 0..PIECES {
                if to.write_all(&piece).await.is_err() {
                    break;
                }
            }
            to
        });
        let mut status = [0; 12];
        soon("a status", from.read_exact(&mut status)).await.unwrap();
        drop(sending);
        String::from_utf8(status.to_vec()).unwrap()
    };
    let begun = Instant::now();
    assert_eq!(send("/slowly").await, "HTTP/1.1 200");
    assert!(begun.elapsed() > Duration::from_secs(3), "it takes longer than `response` and `total`");
    assert_eq!(send("/never").await, "HTTP/1.1 504");
    assert!(proxy.live("a").awaits_success(), "the backend is to blame");
}

/// A backend that sends the head of a response and a little of its body, and then nothing.
async fn quiet(kind: &'static str) -> SocketAddr {
    raw(move |mut stream| async move {
        if stream.read(&mut [0; 4096]).await.unwrap() > 0 {
            let head = format!("HTTP/1.1 200 X\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
            stream.write_all(format!("{head}6\r\nbegun\n\r\n").as_bytes()).await.unwrap();
            let _ = stream.read(&mut [0; 1]).await;
        }
    })
    .await
}

/// Reads the beginning of a response; the client then waits for the rest.
async fn watch(proxy: &Proxy, path: &str, cookie: &str) -> Client {
    let mut client = Client::connect(proxy.listener(0)).await;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\ncookie: {cookie}\r\n\r\n").as_bytes()).await;
    soon("its beginning", async {
        while !client.rest().ends_with(b"begun\n\r\n") {
            client.read_more().await.expect("more");
        }
    })
    .await;
    client
}

#[tokio::test]
async fn a_response_that_pauses_for_too_long_is_no_failure_of_its_backend() {
    let builder = Proxy::builder().backend_at("a", quiet("text/plain").await, "");
    let (proxy, cookies) = pool(builder, "idle = \"300ms\"");
    for cookie in &cookies {
        let mut client = watch(&proxy, "/", cookie).await;
        assert!(soon("the end", client.read_more()).await.is_none());
    }
    assert!(is_blameless(&proxy));
}

#[tokio::test]
async fn a_stream_by_its_type_or_its_route_may_pause_for_stream_idle() {
    for (kind, path) in [("application/x-ndjson", "/"), ("text/event-stream", "/"), ("text/plain", "/log")] {
        let top = "[[routes]]\npool = \"app\"\n[[routes]]\npath_prefix = \"/log\"\npool = \"app\"\nstream = true\n";
        let builder = Proxy::builder().top(top).backend_at("a", quiet(kind).await, "");
        let (proxy, cookies) = pool(builder, "idle = \"100ms\"\nstream_idle = \"1500ms\"");
        let mut client = watch(&proxy, path, &cookies[0]).await;
        let begun = Instant::now();
        assert!(soon("the end", client.read_more()).await.is_none());
        assert!(begun.elapsed() > Duration::from_secs(1), "{kind} {path}");
        assert!(is_blameless(&proxy));
    }
}

#[tokio::test]
async fn a_response_may_pause_while_its_upload_progresses() {
    let address = raw(|mut stream| async move {
        let mut request = Vec::new();
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            stream.read_buf(&mut request).await.unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n6\r\nbegun\n\r\n").await.unwrap();
        while !request.ends_with(b"\r\n0\r\n\r\n") {
            stream.read_buf(&mut request).await.unwrap();
        }
        stream.write_all(b"5\r\nended\r\n0\r\n\r\n").await.unwrap();
    })
    .await;
    let (proxy, _) = pool(Proxy::builder().backend_at("a", address, ""), "idle = \"1s\"");
    let mut client = Client::connect(proxy.listener(0)).await;
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for _ in 0..20 {
        client.send(b"5\r\npiece\r\n").await;
        sleep(Duration::from_millis(100)).await;
    }
    client.send(b"0\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "begun\nended");
}

#[tokio::test]
async fn an_upload_may_pause_while_its_response_progresses() {
    let address = raw(|mut stream| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"5\r\npiece\r\n") {
            stream.read_buf(&mut request).await.unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..25 {
            stream.write_all(b"1\r\nx\r\n").await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
        while !request.ends_with(b"\r\n0\r\n\r\n") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        stream.write_all(b"5\r\nended\r\n0\r\n\r\n").await.unwrap();
    })
    .await;
    let (proxy, _) = pool(Proxy::builder().backend_at("a", address, ""), "idle = \"1s\"");
    let mut client = Client::connect(proxy.listener(0)).await;
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\npiece\r\n").await;
    soon("most of the response", async {
        while client.rest().iter().filter(|byte| **byte == b'x').count() < 25 {
            client.read_more().await.expect("more");
        }
    })
    .await;
    client.send(b"0\r\n\r\n").await;
    assert_eq!(client.response().await.text(), format!("{}ended", "x".repeat(25)));
}
