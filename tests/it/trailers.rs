//! Trailers: which fields are forwarded, over each version of HTTP and in both directions.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;

use super::support::raw::raw_http2;
use super::support::{Backend, Client, Proxy, Reply, soon};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

/// A route that sets a field of requests and removes one of responses.
const ROUTE: &str = "[[routes]]\npool = \"app\"\n[routes.request_headers]\nset = { \"X-Tenant\" = \"7\" }\n\
                     [routes.response_headers]\nremove = [\"X-Internal\"]";

const FORWARDED: [&str; 3] = ["grpc-status", "x-sum", "etag"];
const REMOVED: [&str; 17] = [
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "set-cookie",
    "cookie",
    "host",
    "authorization",
    "cache-control",
    "if-match",
    "max-forwards",
    "trailer",
    "x-forwarded-for",
    "forwarded",
    "linchpin-client-subject",
    "x-tenant",
    "x-internal",
];

fn names() -> impl Iterator<Item = &'static str> {
    FORWARDED.into_iter().chain(REMOVED)
}

fn all() -> HeaderMap {
    // h2 refuses connection-specific fields in trailers, and checks no other field.
    names().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("66"))).collect()
}

fn sorted_names(trailers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

/// Starts a backend of HTTP/2 that responds with a body and these trailers. Returns the trailers that it receives, too.
async fn backend_of_http2(trailers: HeaderMap) -> (SocketAddr, Arc<Mutex<Vec<HeaderMap>>>) {
    let seen = Arc::<Mutex<Vec<HeaderMap>>>::default();
    let got = Arc::clone(&seen);
    let address = raw_http2(move |request, mut respond| {
        let (got, trailers) = (Arc::clone(&got), trailers.clone());
        async move {
            let mut body = request.into_body();
            while let Some(Ok(_)) = body.data().await {}
            let read = body.trailers().await.unwrap();
            got.lock().unwrap().extend(read);
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"a"), false).unwrap();
            stream.send_trailers(trailers).unwrap();
        }
    });
    (address.await, seen)
}

/// Sends a body with these trailers over HTTP/2. Returns the trailers of the response, if it has any.
async fn over_http2(proxy: &Proxy, trailers: HeaderMap) -> Option<HeaderMap> {
    let stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://test/").body(()).unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"b"), false).unwrap();
    body.send_trailers(trailers).unwrap();
    let mut body = soon("a response", response).await.unwrap().into_body();
    while let Some(data) = soon("the body", body.data()).await {
        data.unwrap();
    }
    soon("the end", body.trailers()).await.unwrap()
}

#[tokio::test]
async fn trailers_of_http_2_carry_no_field_of_the_header_section() {
    let (address, seen) = backend_of_http2(all()).await;
    let proxy = Proxy::builder().top(HTTP2).top(ROUTE).table("upstream", "http2 = true").backend_at("a", address, "");
    let received = over_http2(&proxy.start(), all()).await.expect("trailers");
    // The edits to requests do not apply to responses, nor those to responses to requests.
    assert_eq!(sorted_names(&received), ["etag", "grpc-status", "x-sum", "x-tenant"]);
    assert_eq!(sorted_names(&seen.lock().unwrap()[0]), ["etag", "grpc-status", "x-internal", "x-sum"]);
}

#[tokio::test]
async fn trailers_of_http_1_carry_no_field_of_the_header_section() {
    let trailers: String = names().map(|name| format!("{name}: 66\r\n")).collect();
    let announced = names().collect::<Vec<_>>().join(", ");
    let chunked = format!("transfer-encoding: chunked\r\ntrailer: {announced}\r\n\r\n1\r\na\r\n0\r\n{trailers}\r\n");
    let response = format!("HTTP/1.1 200 X\r\n{chunked}");
    let a = Backend::start("a", move |_| Reply::Bytes(response.clone().into())).await;
    let proxy = Proxy::builder().top(HTTP2).top(ROUTE).backend(&a, "").start();
    let mut client = Client::connect(proxy.listener(1)).await;
    for _ in 0..2 {
        client.send(format!("POST / HTTP/1.1\r\nhost: test\r\nte: trailers\r\n{chunked}").as_bytes()).await;
        let response = client.response().await;
        let seen = a.seen().pop().unwrap();
        for (head, kept) in [(&response.head, "x-tenant"), (&seen.head, "x-internal")] {
            let passed: Vec<_> = names().filter(|name| head.contains(&format!("\r\n{name}: 66"))).collect();
            assert_eq!(passed, ["grpc-status", "x-sum", "etag", kept], "{head}");
        }
    }
    // The same response over HTTP/2. A request over HTTP/2 announces no trailers, so the backend of HTTP/1.1 gets none.
    assert_eq!(sorted_names(&over_http2(&proxy, all()).await.unwrap()), ["etag", "grpc-status", "x-sum", "x-tenant"]);
    let head = a.seen().pop().unwrap().head;
    assert!(!names().any(|name| head.contains(&format!("\r\n{name}: 66"))), "{head}");
}

#[tokio::test]
async fn a_message_whose_trailers_are_all_removed_still_ends() {
    let forbidden = || HeaderMap::from_iter([(http::header::CONTENT_LENGTH, HeaderValue::from_static("66"))]);
    let (address, seen) = backend_of_http2(forbidden()).await;
    let proxy = Proxy::builder().top(HTTP2).table("upstream", "http2 = true").backend_at("a", address, "").start();
    for _ in 0..2 {
        assert_eq!(over_http2(&proxy, forbidden()).await, None);
        let response = Client::connect(proxy.listener(1)).await.get("/").await;
        assert_eq!((response.text(), response.field("content-length")), ("a".into(), None));
    }
    assert_eq!(*seen.lock().unwrap(), []);
}
