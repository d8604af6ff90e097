//! Request targets: which are forwarded, in which form, and which are refused.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;

use super::support::frames::{END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM};
use super::support::proxy::Builder;
use super::support::raw::raw_http2;
use super::support::{Backend, Client, Proxy, soon};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

fn builder() -> Builder {
    Proxy::builder().top(HTTP2)
}

/// Starts a backend of HTTP/2. Returns its address and the targets of its requests.
async fn backend_of_http2() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let targets = Arc::clone(&seen);
    let address = raw_http2(move |request, mut respond| {
        targets.lock().unwrap().push(request.uri().path_and_query().unwrap().to_string());
        async move {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"a"), true).unwrap();
        }
    });
    (address.await, seen)
}

/// Sends a request line over HTTP/1.1. Returns true for a 200 and false for a 400; panics otherwise.
async fn is_served(address: SocketAddr, line: &[u8]) -> bool {
    let mut client = Client::connect(address).await;
    client.send(&[line, b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"].concat()).await;
    let status = client.response().await.status;
    assert!(status == 200 || status == 400, "{status} for {:?}", String::from_utf8_lossy(line));
    status == 200
}

/// Sends a request over HTTP/2. Returns the first byte of the response's HEADERS frame, or `None` if the stream is
/// reset.
async fn over_http2(address: SocketAddr, method: &str, path: &str) -> Option<u8> {
    let mut client = Frames::connect(address).await;
    let fields = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)];
    client.fields(END_STREAM, 1, &fields).await;
    let (kind, _, payload) = client.await_kind(&[HEADERS, RST_STREAM, GOAWAY]).await;
    (kind == HEADERS).then(|| payload[0])
}

/// `:status: 200` and `:status: 400` of HPACK's static table.
const OK: Option<u8> = Some(0x88);
const BAD_REQUEST: Option<u8> = Some(0x8c);

#[tokio::test]
async fn a_forwarded_target_starts_with_a_slash_or_is_the_asterisk_of_options() {
    let a = Backend::named("a").await;
    let proxy = builder().backend(&a, "").start();
    let address = proxy.listener(1);
    for (line, expected) in [
        ("GET http://a", Some("/")),
        ("GET http://a/x", Some("/x")),
        ("GET http://a?x=1", Some("/?x=1")),
        ("GET http://a/?", Some("/?")),
        ("OPTIONS http://a", Some("*")),
        ("OPTIONS http://a/", Some("/")),
        ("OPTIONS http://a?x", Some("/?x")),
        ("OPTIONS *", Some("*")),
        ("GET //x", Some("//x")),
        ("GET *", None),
        ("GET *x", None),
        ("GET x", None),
        ("GET ?x", None),
        ("GET a:80", None),
        ("GET ftp://a/", None),
        ("GET http:///x", None),
        ("GET http:/x", None),
        ("OPTIONS **", None),
    ] {
        let before = a.count();
        assert_eq!(is_served(address, line.as_bytes()).await, expected.is_some(), "{line}");
        let seen = a.seen().split_off(before);
        assert_eq!(seen.first().map(|seen| seen.path()), expected, "{line}");
    }
    for (method, path, status, expected) in [
        ("GET", "/x", OK, Some("/x")),
        ("OPTIONS", "*", OK, Some("*")),
        ("OPTIONS", "/", OK, Some("/")),
        ("GET", "*", BAD_REQUEST, None),
        ("GET", "?x", BAD_REQUEST, None),
        ("GET", "#x", BAD_REQUEST, None),
        ("GET", "x", None, None),
        ("GET", "", None, None),
    ] {
        let before = a.count();
        assert_eq!(over_http2(proxy.listener(0), method, path).await, status, "{method} {path}");
        let seen = a.seen().split_off(before);
        assert_eq!(seen.first().map(|seen| seen.path()), expected, "{method} {path}");
    }
}

#[tokio::test]
async fn an_asterisk_reaches_a_backend_of_http_2() {
    let (address, targets) = backend_of_http2().await;
    let proxy = builder().table("upstream", "http2 = true").backend_at("a", address, "").start();
    for line in ["OPTIONS *", "OPTIONS http://a", "OPTIONS /", "GET http://a?x"] {
        assert!(is_served(proxy.listener(1), line.as_bytes()).await, "{line}");
    }
    assert_eq!(*targets.lock().unwrap(), ["*", "*", "/", "/?x"]);
}

/// Each byte within a path and within a query. The bytes that are refused here are refused by the crate `http`, whose
/// target type hyper and h2 use; docs/http.md lists them. If this fails because `http` accepts more bytes, update both.
#[tokio::test]
async fn targets_reach_a_backend_byte_for_byte_unless_the_library_refuses_them() {
    const NOT_IN_A_PATH: &[u8] = b"<>`";
    const NOT_IN_A_QUERY: &[u8] = b"\"<>";
    let a = Backend::named("a").await;
    let (b, targets) = backend_of_http2().await;
    let before_http1 = builder().backend(&a, "").start();
    let before_http2 = builder().table("upstream", "http2 = true").backend_at("b", b, "").start();
    let bytes = (0x21..=0x7e_u8).filter(|byte| *byte != b'#').map(|byte| char::from(byte).to_string());
    for text in bytes.chain(["é".into(), "日本".into(), "%00%zz%".into()]) {
        for (target, refused) in [(format!("/a{text}b"), NOT_IN_A_PATH), (format!("/?a{text}b"), NOT_IN_A_QUERY)] {
            let passes = !refused.contains(&text.as_bytes()[0]);
            for proxy in [&before_http1, &before_http2] {
                let line = format!("GET {target}");
                assert_eq!(is_served(proxy.listener(1), line.as_bytes()).await, passes, "{target}");
                let is_ok = over_http2(proxy.listener(0), "GET", &target).await == OK;
                assert_eq!(is_ok, passes, "{target} over HTTP/2");
            }
            let at_http1: Vec<_> = a.seen().iter().rev().take(2).map(|seen| seen.path().to_owned()).collect();
            let at_http2: Vec<_> = targets.lock().unwrap().iter().rev().take(2).cloned().collect();
            let expected = [target.clone(), target];
            assert_eq!((at_http1 == expected, at_http2 == expected), (passes, passes), "{at_http1:?} {at_http2:?}");
        }
    }
    // Bytes that are not UTF-8, and characters that are not visible, are no valid target.
    for line in [&b"GET /\xe9"[..], b"GET /?\xff", b"GET /\x7f", b"GET /a\tb", b"GET /\x01"] {
        assert!(!is_served(before_http1.listener(1), line).await, "{:?}", String::from_utf8_lossy(line));
    }
}

#[tokio::test]
async fn a_fragment_is_a_400() {
    let a = Backend::named("a").await;
    let proxy = builder().backend(&a, "").start();
    for line in ["GET /#x", "GET /a#", "GET /?a#b", "GET http://a#x", "GET http://a/b#c", "OPTIONS *#", "GET #x"] {
        // A listener that detects HTTP/2 first, and one that does not.
        for listener in [0, 1] {
            assert!(!is_served(proxy.listener(listener), line.as_bytes()).await, "{line}");
        }
    }
    assert_eq!(a.count(), 0);
    // Also on a connection that has already served requests.
    let mut client = proxy.client().await;
    for _ in 0..2 {
        assert_eq!(client.request("POST", "/", "", b"# is no target").await.status, 200);
        assert_eq!(client.request("GET", "/", "referer: http://a/#b\r\n", b"").await.status, 200);
    }
    client.send(b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.response().await.status, 400);
    assert!(client.is_closed().await, "{:?}", client.rest());
    assert_eq!(a.count(), 4);
    // A method may contain `#` (RFC 9110 §5.6.2).
    assert!(is_served(proxy.address(), b"A#B /").await);
}

/// Known deviations: over HTTP/2, and in a pipelined request, the library cuts the fragment off before Linchpin can see
/// it. The forwarded target is valid nevertheless. If this fails because the fragment has become visible, refuse it.
#[tokio::test]
async fn a_fragment_that_the_library_hides_is_not_forwarded() {
    let a = Backend::named("a").await;
    let proxy = builder().backend(&a, "").start();
    assert_eq!(over_http2(proxy.listener(0), "GET", "/a#b").await, OK);
    let mut client = Client::connect(proxy.listener(1)).await;
    client.send(b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2#b HTTP/1.1\r\nhost: a\r\n\r\n").await;
    for _ in 0..2 {
        assert_eq!(soon("a response", client.response()).await.status, 200);
    }
    let seen: Vec<_> = a.seen().iter().map(|seen| seen.path().to_owned()).collect();
    assert_eq!(seen, ["/a", "/1", "/2"]);
}

/// A known deviation from RFC 9110 §2.5, by which a server treats a later minor version as the highest that it
/// supports: httparse accepts 1.0 and 1.1 only. If this fails, update docs/http.md.
#[tokio::test]
async fn a_version_of_http_1_that_the_library_does_not_know_is_a_400() {
    let a = Backend::named("a").await;
    let proxy = Proxy::before(&[&a]);
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.2\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.response().await.status, 400);
    assert_eq!(a.count(), 0);
}

#[tokio::test]
async fn a_host_with_a_final_dot_matches_the_same_route() {
    let (a, shop) = (Backend::named("a").await, Backend::named("shop").await);
    let shop_at =
        format!("[[pools]]\nname = \"shop\"\n[[pools.backends]]\nname = \"s\"\naddress = \"{}\"", shop.address());
    let routes = "[[routes]]\npool = \"app\"\n[[routes]]\nhosts = [\"shop.test\", \"*.shop.test\"]\npool = \"shop\"";
    let proxy = Proxy::builder().top(routes).top(&shop_at).backend(&a, "").start();
    for (host, served) in [
        ("shop.test", "shop"),
        ("shop.test.", "shop"),
        ("Shop.Test.:80", "shop"),
        ("a.shop.test.", "shop"),
        ("shop.test..", "a"),
        (".", "a"),
    ] {
        let mut client = proxy.client().await;
        client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await;
        assert_eq!(client.response().await.text(), served, "{host}");
        // The backend receives Host as the client sent it.
        let seen = if served == "shop" { shop.seen() } else { a.seen() };
        assert_eq!(seen.last().unwrap().field("host"), Some(host));
    }
}
