//! HTTP/2, WebSocket, Socket.IO and gRPC, with clients and servers that others wrote.

use super::support::node::{NodeBackend, ask};
use super::support::tool::run;
use super::support::{Backend, Client, Proxy, Reply};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

async fn before(kind: &str, more: &str) -> (Proxy, Vec<NodeBackend>) {
    let backends = vec![NodeBackend::start(kind, "a").await, NodeBackend::start(kind, "b").await];
    let builder = Proxy::builder().top(HTTP2).table("upstream", more);
    let builder =
        backends.iter().fold(builder, |builder, backend| builder.backend_at(&backend.name, backend.address, ""));
    (builder.start(), backends)
}

#[tokio::test]
async fn a_client_of_http_2_is_pinned_as_any_other() {
    let named = |name: &'static str| {
        Backend::start(name, move |_| Reply::new(200, "keep-alive: 5\r\nproxy-connection: x\r\n", name))
    };
    let backends = [named("a").await, named("b").await];
    let proxy = Proxy::builder().top(HTTP2).backend(&backends[0], "").backend(&backends[1], "").start();
    ask("http2", proxy.listener(0)).await;
    let seen: Vec<_> = backends.iter().flat_map(Backend::seen).collect();
    let crumbs = seen.iter().find(|seen| seen.path() == "/crumbs").unwrap();
    assert_eq!(crumbs.fields("cookie"), ["a=1; b=2"], "the crumbs are joined, and the routing cookie is out");
    assert!(crumbs.line().ends_with("HTTP/1.1"));
    assert_eq!(crumbs.fields("host"), [proxy.listener(0).to_string()]);
    assert!(!seen.iter().any(|seen| seen.field("host") == Some("evil.example")));
}

#[tokio::test]
async fn bodies_and_trailers_pass_from_http_2_to_http_2() {
    let (proxy, _backends) = before("http2", "http2 = true").await;
    ask("bodies", proxy.listener(0)).await;
}

#[tokio::test]
async fn a_client_of_http_1_is_served_from_http_2_backends() {
    let (proxy, backends) = before("http2", "http2 = true").await;
    let mut client = Client::connect(proxy.listener(1)).await;
    let first = client.request("POST", "/", "", b"hello").await;
    assert_eq!(first.status, 200);
    assert!(first.text().contains("\"body\":\"hello\""), "{}", first.text());
    let name = |text: String| {
        backends.iter().find(|b| text.contains(&format!("\"name\":\"{}\"", b.name))).unwrap().name.clone()
    };
    let pinned = name(first.text());
    for _ in 0..5 {
        assert_eq!(name(client.get("/").await.text()), pinned);
    }
}

#[tokio::test]
async fn a_websocket_and_its_siblings_reach_one_backend() {
    let (proxy, _backends) = before("websocket", "").await;
    ask("websocket", proxy.listener(0)).await;
    ask("connect", proxy.listener(0)).await;
}

#[tokio::test]
async fn socket_io_keeps_its_server_over_all_its_transports() {
    let (proxy, _backends) = before("socketio", "").await;
    ask("socketio", proxy.listener(0)).await;
}

#[tokio::test]
async fn grpc_passes_with_its_streams_deadlines_and_trailers() {
    let (proxy, _backends) = before("grpc", "http2 = true").await;
    ask("grpc", proxy.listener(0)).await;
}

#[tokio::test]
async fn a_server_of_http_2_does_what_the_rfc_asks_of_it() {
    let long = "x".repeat(100);
    let a = Backend::start("a", move |seen| match seen.path() {
        "/hang" => Reply::Hang,
        "/long" => Reply::ok(&long),
        _ => Reply::ok("a"),
    })
    .await;
    let proxy = Proxy::builder().top(HTTP2).backend(&a, "").start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/http2_conformance.py");
    let output = run("python3", &[script, &proxy.listener(0).to_string()]).await;
    assert!(output.out.lines().last().unwrap().ends_with(" cases hold"), "{output:?}");
    assert_eq!(Client::connect(proxy.listener(1)).await.get("/").await.status, 200, "and all that harms nobody else");
}
