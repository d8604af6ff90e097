//! Where a backend's response ends: the client gets one unambiguous framing, or an error.

use bytes::Bytes;
use http::{Method, Request, Response};
use tokio::net::TcpStream;

use super::support::raw::raw_http2;
use super::support::{Backend, Proxy, Reply, soon};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

/// Sends a request over HTTP/2. Returns the response's head and whole body, or `None` if the stream is reset.
async fn over_http2(proxy: &Proxy, method: Method) -> Option<(Response<()>, Bytes)> {
    let stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri("http://test/").body(()).unwrap();
    let (head, mut body) = soon("a response", client.send_request(request, true).unwrap().0).await.ok()?.into_parts();
    let mut whole = Vec::new();
    while let Some(data) = soon("more", body.data()).await {
        whole.extend_from_slice(&data.ok()?);
    }
    Some((Response::from_parts(head, ()), whole.into()))
}

#[tokio::test]
async fn a_content_length_with_transfer_encoding_is_removed_and_truncates_nothing() {
    for fields in [
        "content-length: 3\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 3\r\n",
        "Transfer-Encoding: CHUNKED\r\nContent-Length: 300\r\n",
    ] {
        let a = Backend::start("a", move |seen| {
            let body = if seen.line().starts_with("HEAD") { "" } else { "8\r\nabcdefgh\r\n0\r\n\r\n" };
            Reply::Bytes(format!("HTTP/1.1 200 X\r\n{fields}\r\n{body}").into())
        })
        .await;
        let proxy = Proxy::builder().top(HTTP2).backend(&a, "").start();
        let mut client = super::support::Client::connect(proxy.listener(1)).await;
        for method in ["GET", "HEAD", "GET"] {
            let response = client.request(method, "/", "", b"").await;
            let expected = if method == "HEAD" { "" } else { "abcdefgh" };
            assert_eq!((response.status, response.text()), (200, expected.into()), "{method} {fields}");
            assert_eq!((response.field("content-length"), client.rest()), (None, &b""[..]), "{}", response.head);
        }
        // The framing was ambiguous, so the connection is not reused.
        assert_eq!(a.connections(), 3);
        for method in [Method::GET, Method::HEAD] {
            let expected = if method == Method::HEAD { "" } else { "abcdefgh" };
            let (response, body) = over_http2(&proxy, method).await.expect("a whole response");
            assert_eq!((response.headers().get("content-length"), &*body), (None, expected.as_bytes()), "{fields}");
        }
    }
}

#[tokio::test]
async fn a_response_in_a_coding_other_than_chunked_is_a_502() {
    const CHUNKS: &str = "3\r\nxyz\r\n0\r\n\r\n";
    for head in [
        "HTTP/1.1 200 X\r\ntransfer-encoding: gzip, chunked\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding: chunked, chunked\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding: chunked, gzip\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding: chunked, identity\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding: identity\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding: gzip\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding: \"chunked\"\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding: chunked;a=b\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding: xchunked\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding:\r\n",
        "HTTP/1.1 200 X\r\ntransfer-encoding: gzip\r\ncontent-length: 13\r\n",
        "HTTP/1.0 200 X\r\ntransfer-encoding: chunked\r\n",
        "HTTP/1.0 200 X\r\ntransfer-encoding: chunked\r\ncontent-length: 13\r\n",
    ] {
        let a = Backend::start("a", move |_| Reply::Last(format!("{head}\r\n{CHUNKS}").into())).await;
        let proxy = Proxy::builder().top(HTTP2).backend(&a, "").start();
        let response = super::support::Client::connect(proxy.listener(1)).await.get("/").await;
        assert_eq!((response.status, response.text().contains("xyz")), (502, false), "{head}{}", response.head);
        let (response, _) = over_http2(&proxy, Method::GET).await.expect("a page");
        assert_eq!(response.status(), 502, "{head}");
    }
}

#[tokio::test]
async fn a_response_without_exactly_one_valid_content_length_is_a_502() {
    for lengths in [
        "content-length: 1\r\ncontent-length: 2\r\n",
        "content-length: 1\r\ncontent-length: 1\r\n",
        "content-length: 1, 1\r\n",
        "content-length: 1, 2\r\n",
        "content-length: +1\r\n",
        "content-length: -1\r\n",
        "content-length: 0x1\r\n",
        "content-length: 1 0\r\n",
        "content-length: one\r\n",
        "content-length:\r\n",
        "content-length: 99999999999999999999\r\n",
    ] {
        let a = Backend::start("a", move |_| Reply::Last(format!("HTTP/1.1 200 X\r\n{lengths}\r\na").into())).await;
        let proxy = Proxy::before(&[&a]);
        for method in ["GET", "HEAD"] {
            let response = proxy.client().await.request(method, "/", "", b"").await;
            assert_eq!(response.status, 502, "{method} {lengths}{}", response.head);
        }
    }
}

#[tokio::test]
async fn a_204_and_a_304_have_no_body_whatever_their_fields_say() {
    let a = Backend::start("a", |seen| {
        let status = if seen.path() == "/204" { 204 } else { 304 };
        Reply::Bytes(format!("HTTP/1.1 {status} X\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n").into())
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    for path in ["/204", "/304", "/204"] {
        let response = client.get(path).await;
        assert_eq!(format!("/{}", response.status), path);
        assert_eq!((response.field("content-length"), response.field("transfer-encoding")), (None, None), "{path}");
        assert_eq!(client.rest(), b"", "{path}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_response_of_http_1_are_a_502() {
    for reply in [
        // HTTP/0.9, or text that looks like it.
        "hello\r\n",
        "<html>hello</html>",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 200",
        // A bare carriage return and a null within a field, an empty field name, and status codes that don't have three
        // digits.
        "HTTP/1.1 200 X\r\nx: a\rb\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.1 200 X\r\nx: a\0b\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.1 200 X\r\nx\0: b\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.1 200 X\r\n: b\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.1 2000 X\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.1 99 X\r\ncontent-length: 1\r\n\r\na",
    ] {
        let a = Backend::start("a", move |_| Reply::Last(reply.into())).await;
        let proxy = Proxy::before(&[&a]);
        let response = proxy.client().await.request("POST", "/", "", b"x").await;
        assert_eq!(response.status, 502, "{reply:?} {}", response.head);
    }
}

#[tokio::test]
async fn a_malformed_chunk_never_completes_a_response() {
    for chunks in ["x\r\na\r\n0\r\n\r\n", "1\r\nab\r\n0\r\n\r\n", "1;a\nb\r\na\r\n0\r\n\r\n", "-1\r\na\r\n0\r\n\r\n"] {
        let a = Backend::start("a", move |_| {
            Reply::Last(format!("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n{chunks}").into())
        })
        .await;
        let proxy = Proxy::before(&[&a]);
        let mut client = proxy.client().await;
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let response = soon("the end", client.try_response("GET")).await;
        assert!(response.as_ref().is_none_or(|response| response.status == 502), "{chunks:?} {response:?}");
    }
}

#[tokio::test]
async fn chunk_extensions_do_not_reach_the_client() {
    let a = Backend::start("a", |_| {
        let body = "1;a=b;c=\"d\"\r\nx\r\n0;e\r\n\r\n";
        Reply::Bytes(format!("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n{body}").into())
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.text(), "x");
    }
    assert_eq!(a.connections(), 1);
}

#[tokio::test]
async fn whitespace_before_the_colon_of_a_response_field_is_removed() {
    let a = Backend::start("a", |_| {
        Reply::Bytes("HTTP/1.1 200 X\r\nx-blank : 1\r\nx-tab\t: 2\r\ncontent-length : 1\r\n\r\na".into())
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    for _ in 0..2 {
        let response = client.get("/").await;
        assert_eq!((response.status, response.text()), (200, "a".into()), "{}", response.head);
        assert_eq!((response.field("x-blank"), response.field("x-tab")), (Some("1"), Some("2")), "{}", response.head);
        assert_eq!(response.field("content-length"), Some("1"), "{}", response.head);
    }
    assert_eq!(a.connections(), 1);
}

#[tokio::test]
async fn a_response_with_line_folding_is_a_502() {
    let a = Backend::start("a", |_| {
        Reply::Last("HTTP/1.1 200 X\r\nx: 1\r\n folded: 2\r\ncontent-length: 1\r\n\r\na".into())
    })
    .await;
    let proxy = Proxy::before(&[&a]);
    let response = proxy.client().await.get("/").await;
    assert_eq!((response.status, response.field("x")), (502, None), "{}", response.head);
}

/// Starts a backend of HTTP/2 whose responses have this many fields.
async fn backend_of_http2(fields: usize) -> std::net::SocketAddr {
    raw_http2(move |_, mut respond| async move {
        let mut head = Response::new(());
        for _ in 0..fields {
            head.headers_mut().append("x", http::HeaderValue::from_static("1"));
        }
        let mut body = respond.send_response(head, false).unwrap();
        body.send_data(Bytes::from_static(b"a"), true).unwrap();
    })
    .await
}

#[tokio::test]
async fn the_limit_of_response_fields_applies_over_both_versions_of_http() {
    for (lines, most) in [("", 100), ("header_count = 20", 20), ("header_count = 300", 300)] {
        for (fields, status) in [(most, 200), (most + 1, 502)] {
            // Content-Length is one of the fields.
            let many = "x: 1\r\n".repeat(fields - 1);
            let a = Backend::start("a", move |_| Reply::new(200, &many, "a")).await;
            let proxy = Proxy::builder().table("upstream", lines).backend(&a, "").start();
            let response = proxy.get(None).await;
            assert_eq!(response.status, status, "{lines} {fields}");
            assert!(status == 502 || response.fields("x").len() == fields - 1);
            let b = backend_of_http2(fields).await;
            let lines = format!("http2 = true\n{lines}");
            let proxy = Proxy::builder().table("upstream", &lines).backend_at("b", b, "").start();
            assert_eq!(proxy.get(None).await.status, status, "{lines} {fields}");
        }
    }
}
