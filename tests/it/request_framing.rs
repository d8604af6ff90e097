//! Where a request begins and ends: a malformed request is refused, and no part of it becomes another request.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::frames::{DATA, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM};
use super::support::raw::raw;
use super::support::{Backend, Proxy, soon};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

#[tokio::test]
async fn a_malformed_head_is_a_400_and_reaches_no_backend() {
    let a = Backend::named("a").await;
    let proxy = Proxy::before(&[&a]);
    for request in [
        // Request lines.
        "GET /\r\n\r\n",
        "GET / \r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nhost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / http/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/01.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\rhost: a\r\n\r\n",
        "G[]T / HTTP/1.1\r\nhost: a\r\n\r\n",
        // Fields.
        "GET / HTTP/1.1\r\n host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx y: z\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx\t: z\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: y\rz\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: y\0z\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx\0: y\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n\tfolded\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: \x01\r\n\r\n",
        // Lengths.
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 1\r\n\r\nx",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\nx",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x1\r\n\r\nx",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1 0\r\n\r\nx",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length:\r\n\r\nx",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\nx",
    ] {
        let mut client = proxy.client().await;
        client.send(request.as_bytes()).await;
        assert_eq!(client.response().await.status, 400, "{request:?}");
        assert!(client.is_closed().await, "{request:?}: {:?}", client.rest());
    }
    assert_eq!(a.count(), 0, "{:?}", a.seen());
}

#[tokio::test]
async fn a_body_in_a_coding_other_than_chunked_is_a_400() {
    let a = Backend::named("a").await;
    let proxy = Proxy::before(&[&a]);
    for codings in [
        &["gzip, chunked"][..],
        &["gzip", "chunked"],
        &["chunked, chunked"],
        &["chunked", "chunked"],
        &["identity, chunked"],
        &["identity"],
        &["chunked, identity"],
        &["chunked,"],
        &[", chunked"],
        &["xchunked"],
        &["chunked;a=b"],
        &["\"chunked\""],
        &[""],
    ] {
        let fields: String = codings.iter().map(|coding| format!("transfer-encoding: {coding}\r\n")).collect();
        let mut client = proxy.client().await;
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n1\r\nx\r\n0\r\n\r\n").as_bytes()).await;
        assert_eq!(client.response().await.status, 400, "{codings:?}");
        assert!(client.is_closed().await, "{codings:?}: {:?}", client.rest());
    }
    assert_eq!(a.count(), 0, "{:?}", a.seen());
}

#[tokio::test]
async fn a_malformed_chunk_is_a_400_and_no_backend_gets_a_complete_request() {
    let a = Backend::named("a").await;
    let proxy = Proxy::before(&[&a]);
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for chunks in [
        "x\r\na\r\n0\r\n\r\n",
        "+1\r\na\r\n0\r\n\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        "1_0\r\na\r\n0\r\n\r\n",
        "\r\n\r\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "1\ra\r\n0\r\n\r\n",
        "1;x\ny\r\na\r\n0\r\n\r\n",
        "10000000000000000\r\na\r\n0\r\n\r\n",
        "0\r\nx y: z\r\n\r\n",
        "0\r\nx: y\r\n folded\r\n\r\n",
        "0\r\nx: y\0z\r\n\r\n",
    ] {
        let mut client = proxy.client().await;
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        client.send(format!("{head}{chunks}{smuggled}").as_bytes()).await;
        assert_eq!(client.response().await.status, 400, "{chunks:?}");
        assert!(client.is_closed().await, "{chunks:?}: {:?}", client.rest());
    }
    assert_eq!(a.count(), 0, "{:?}", a.seen());
}

#[tokio::test]
async fn chunks_are_reframed_without_their_extensions() {
    let a = Backend::named("a").await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    let chunks = "01;a=b;c=\"d\"\r\nx\r\n0002 ; e\r\nyz\r\n000;f\r\n\r\n";
    for _ in 0..2 {
        client
            .send(format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}").as_bytes())
            .await;
        assert_eq!(client.response().await.status, 200);
        let seen = a.seen().pop().unwrap();
        assert_eq!((&*seen.body, seen.fields("transfer-encoding")), (&b"xyz"[..], vec!["chunked"]));
    }
}

#[tokio::test]
async fn a_body_that_the_backend_does_not_read_never_becomes_a_request() {
    // Responds as soon as it has the header section, and takes everything after that for another request.
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let address = raw(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                seen.lock().unwrap().push(String::from_utf8_lossy(&buffer[..read]).into_owned());
                if stream.write_all(b"HTTP/1.1 401 X\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let proxy = Proxy::builder().backend_at("raw", address, "").start();
    let body = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for framing in [format!("content-length: {}\r\n\r\n", 2 * body.len()), "transfer-encoding: chunked\r\n\r\n".into()]
    {
        let mut client = proxy.client().await;
        client.send(format!("POST /one HTTP/1.1\r\nhost: a\r\n{framing}").as_bytes()).await;
        assert_eq!(client.response().await.status, 401);
        // The connection may have ended by now, or end during this write.
        let (mut stream, _) = client.into_parts();
        let _ = stream.write_all(body.repeat(2).as_bytes()).await;
        let mut rest = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut rest)).await;
        assert!(!String::from_utf8_lossy(&rest).contains(" 200 "), "{:?}", String::from_utf8_lossy(&rest));
        assert_eq!(proxy.get(None).await.status, 401);
    }
    let heads = heads.lock().unwrap();
    assert!(heads.iter().all(|head| !head.starts_with("GET /smuggled")), "{heads:?}");
}

#[tokio::test]
async fn a_content_length_of_http_2_that_differs_from_the_body_reaches_no_backend() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().top(HTTP2).backend(&a, "").start();
    for (length, body) in
        [("+5", "hello"), ("5, 5", "hello"), ("", "hello"), ("0x5", "hello"), ("4", "hello"), ("6", "hello")]
    {
        let mut client = Frames::connect(proxy.listener(0)).await;
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", "/"),
            ("content-length", length),
        ];
        client.fields(0, 1, &fields).await;
        client.send(DATA, END_STREAM, 1, body.as_bytes()).await;
        let (kind, _, payload) = client.await_kind(&[HEADERS, RST_STREAM, GOAWAY]).await;
        assert!(kind != HEADERS || payload[0] == 0x8c, "{length:?}: {payload:?}");
    }
    assert_eq!(a.count(), 0, "{:?}", a.seen());
}
