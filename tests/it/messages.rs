//! Which messages are forwarded, and what the others get.

use super::support::{Backend, Client, Proxy};

#[tokio::test]
async fn ambiguous_requests_are_400_and_nothing_of_them_is_forwarded() {
    let backend = Backend::named("a").await;
    let proxy = Proxy::before(&[&backend]);
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: \r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut client = proxy.client().await;
        client.send(request.as_bytes()).await;
        assert_eq!(client.response().await.status, 400, "{request:?}");
        assert!(client.is_closed().await, "{request:?}: {:?}", client.rest());
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn both_framings_at_once_are_forwarded_as_chunked_alone_and_end_the_connection() {
    let backend = Backend::named("a").await;
    let proxy = Proxy::before(&[&backend]);
    let mut client = proxy.client().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let both = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 40\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    client.send(format!("{both}{smuggled}").as_bytes()).await;
    assert_eq!(client.response().await.status, 200);
    assert!(client.is_closed().await);
    let seen = backend.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].field("content-length"), None);
}

#[tokio::test]
async fn a_client_that_has_closed_its_sending_side_gets_its_response() {
    let backend = Backend::named("a").await;
    let proxy = Proxy::before(&[&backend]);
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.finish_sending().await;
    assert_eq!(client.response().await.text(), "a");
}

#[tokio::test]
async fn pipelined_requests_get_their_responses_in_order() {
    let backend = Backend::start("a", |seen| super::support::backend::Reply::ok(seen.path())).await;
    let proxy = Proxy::before(&[&backend]);
    let mut client = proxy.client().await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    client.send((request("/1") + &request("/2") + &request("/3")).as_bytes()).await;
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.response().await.text(), path);
    }
    assert_eq!(client.rest(), b"");
}

#[tokio::test]
async fn fields_in_which_a_client_claims_an_identity_are_removed() {
    let backend = Backend::named("a").await;
    let proxy = Proxy::before(&[&backend]);
    let claims = "x-forwarded-for: 6.6.6.6\r\nforwarded: for=6.6.6.6\r\nlinchpin-x: 1\r\nconnection: x-forwarded-for, x-hop\r\nx-hop: 1\r\n";
    proxy.client().await.request("GET", "/", claims, b"").await;
    let seen = backend.seen().remove(0);
    assert_eq!(seen.fields("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.fields("forwarded"), ["for=127.0.0.1;host=\"test\";proto=http"]);
    for removed in ["linchpin-x", "x-hop", "connection"] {
        assert_eq!(seen.field(removed), None, "{removed}");
    }
}

#[tokio::test]
async fn a_request_over_a_limit_gets_the_status_of_that_limit() {
    let backend = Backend::named("a").await;
    let limits = "[server.limits]\nheader_bytes = \"8KiB\"\nheader_count = 10\ntarget_bytes = \"1KiB\"\n\
                  body_bytes = \"10B\"\nheader_read_timeout = \"300ms\"\n";
    let proxy = Proxy::builder().server(limits).backend(&backend, "").start();
    let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(2000));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(20));
    let large = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(9000));
    for (request, status) in [
        (long.as_str(), 414),
        (many.as_str(), 431),
        (large.as_str(), 431),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n", 413),
        ("GET / HTTP/1.1\r\nho", 408),
    ] {
        let mut client = proxy.client().await;
        client.send(request.as_bytes()).await;
        assert_eq!(client.response().await.status, status, "{request:.60}");
    }
}

#[tokio::test]
async fn stopping_closes_idle_connections_and_the_port() {
    let backend = Backend::named("a").await;
    let proxy = Proxy::before(&[&backend]);
    let address = proxy.address();
    let mut client = proxy.client().await;
    client.get("/").await;
    super::support::soon("the proxy to stop", proxy.stop()).await;
    assert!(client.is_closed().await);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_admin_listener_reports_the_state_of_the_pool() {
    let backend = Backend::named("a").await;
    let proxy = Proxy::builder().top("[admin]\naddress = \"127.0.0.1:0\"").backend(&backend, "").start();
    proxy.client().await.get("/").await;
    let mut admin = Client::connect(proxy.admin()).await;
    admin.send(b"GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let status: serde_json::Value = serde_json::from_str(&admin.response().await.text()).unwrap();
    let backend = &status["pools"][0]["backends"][0];
    assert_eq!((&backend["name"], &backend["health"]), (&"a".into(), &"up".into()));
    assert_eq!((backend["requests"].as_u64(), backend["sessions"].as_u64()), (Some(1), Some(1)));
    admin.send(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let metrics = admin.response().await.text();
    assert!(
        metrics.contains(r#"linchpin_requests_total{pool="app",backend="a",verdict="new",code="200"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_response_is_not_lost_when_half_a_request_follows_and_the_client_ends() {
    let backend = Backend::named("a").await;
    let proxy = Proxy::before(&[&backend]);
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET /half").await;
    client.finish_sending().await;
    assert_eq!(client.response().await.text(), "a");
}

#[tokio::test]
async fn the_part_of_a_response_before_it_breaks_off_is_forwarded() {
    let chunks = "1\r\nx\r\n".repeat(60);
    let answer = format!("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n{chunks}garbage\r\n");
    let backend = Backend::start("a", move |_| super::support::backend::Reply::Last(answer.clone().into())).await;
    let proxy = Proxy::before(&[&backend]);
    let mut client = proxy.client().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (mut stream, mut all) = client.into_parts();
    let _ = super::support::soon("the end", tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut all)).await;
    assert!(all.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&all));
}
