//! curl as a client that this project did not write: cookie jars, methods, bodies and versions of HTTP.

use std::collections::BTreeSet;
use std::fs;

use super::support::backend::Reply;
use super::support::tool::{DemoBackend, Folder, Output, run};
use super::support::{Backend, Proxy};

/// Runs curl quietly; a response that breaks off, or none within ten seconds, fails.
async fn curl(arguments: &[&str]) -> Output {
    let always = ["--silent", "--show-error", "--max-time", "10", "--noproxy", "*"];
    run("curl", &[&always, arguments].concat()).await
}

async fn three() -> [Backend; 3] {
    [Backend::named("a").await, Backend::named("b").await, Backend::named("c").await]
}

fn url(proxy: &Proxy) -> String {
    format!("http://{}/", proxy.address())
}

/// Returns bytes of which no two blocks are equal, so that a test sees any block that is lost, doubled or swapped.
fn bytes(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

#[tokio::test]
async fn each_cookie_jar_stays_with_its_server() {
    let backends = three().await;
    let proxy = Proxy::before(&[&backends[0], &backends[1], &backends[2]]);
    let url = url(&proxy);
    let folder = Folder::new();
    let mut servers = BTreeSet::new();
    for client in 0..6 {
        let jar = folder.file(&format!("jar-{client}"));
        let first = curl(&["--cookie", &jar, "--cookie-jar", &jar, &url]).await.out;
        for _ in 0..3 {
            assert_eq!(curl(&["--cookie", &jar, "--cookie-jar", &jar, &url]).await.out, first);
        }
        servers.insert(first);
    }
    assert_eq!(servers.len(), 3, "six clients, and not all servers have one: {servers:?}");
}

#[tokio::test]
async fn several_urls_go_over_one_connection() {
    let backends = three().await;
    let proxy = Proxy::before(&[&backends[0], &backends[1], &backends[2]]);
    let url = url(&proxy);
    let output = curl(&["--write-out", " %{num_connects}\n", "--cookie", "", &url, &url, &url]).await.out;
    let lines: Vec<_> = output.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(lines.iter().map(|(_, connects)| *connects).collect::<Vec<_>>(), ["1", "0", "0"]);
    assert!(lines.iter().all(|(server, _)| *server == lines[0].0), "{output}");
}

#[tokio::test]
async fn head_has_the_fields_and_no_body() {
    // Like any server, it sends the length that the body would have, and no body.
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 12345\r\nx-kind: page\r\n\r\n";
    let backend = Backend::start("a", |_| Reply::Bytes(head.into())).await;
    let proxy = Proxy::before(&[&backend]);
    let url = url(&proxy);
    let output = curl(&["--head", "--write-out", "%{size_download}", &url]).await.out.to_lowercase();
    assert!(output.starts_with("http/1.1 200") && output.ends_with("\r\n\r\n0"), "{output}");
    assert!(output.contains("content-length: 12345\r\n") && output.contains("x-kind: page\r\n"), "{output}");
}

#[tokio::test]
async fn an_upload_that_expects_100_continue_gets_it() {
    let backend = Backend::named("a").await;
    let folder = Folder::new();
    let sent = bytes(300_000);
    let file = format!("@{}", folder.write("upload", &sent));
    let proxy = Proxy::before(&[&backend]);
    let url = url(&proxy);
    // So long that only a 100 makes curl send before its time limit.
    let asks = ["--verbose", "--header", "Expect: 100-continue", "--expect100-timeout", "60"];
    let output = curl(&[&asks[..], &["--data-binary", &file, &url]].concat()).await;
    assert!(output.err.contains("< HTTP/1.1 100 Continue"), "{}", output.err);
    assert_eq!(output.out, "a");
    assert!(backend.seen()[0].body == sent, "the body is not what was sent");
}

#[tokio::test]
async fn a_body_of_unknown_length_arrives_whole() {
    let backend = Backend::named("a").await;
    let folder = Folder::new();
    let sent = bytes(1_000_001);
    let file = folder.write("upload", &sent);
    let proxy = Proxy::before(&[&backend]);
    let url = url(&proxy);
    let chunked = ["--header", "Transfer-Encoding: chunked", "--header", "Expect:"];
    assert_eq!(curl(&[&chunked[..], &["--upload-file", &file, &url]].concat()).await.out, "a");
    assert_eq!(backend.seen()[0].line(), "PUT /upload HTTP/1.1");
    assert!(backend.seen()[0].body == sent, "the body is not what was sent");
}

#[tokio::test]
async fn an_http_1_0_client_gets_a_chunked_response_without_chunks() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n";
    let backend = Backend::start("a", |_| Reply::Bytes(chunked.into())).await;
    let proxy = Proxy::before(&[&backend]);
    let url = url(&proxy);
    let output = curl(&["--http1.0", "--include", &url]).await.out;
    let (head, body) = output.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "hello, world");
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    assert!(head.contains("linchpin-app="), "it is pinned like any other: {head}");
}

#[tokio::test]
async fn large_bodies_go_through_the_demo_backend_and_back() {
    let backend = DemoBackend::start("a").await;
    let proxy = Proxy::builder().backend_at(&backend.name, backend.address, "").start();
    let folder = Folder::new();
    let sent = bytes(16 << 20);
    let (up, down) = (format!("@{}", folder.write("up", &sent)), folder.file("down"));
    let url = url(&proxy);
    // Both directions at once: the backend responds at once and echoes the body while it arrives. That holds for
    // a client that expects 100, too: the backend needn't send 100 once it has sent its response.
    for expect in ["Expect:", "Expect: 100-continue"] {
        curl(&["--header", expect, "--data-binary", &up, "--output", &down, &format!("{url}echo")]).await;
        assert!(fs::read(&down).unwrap() == sent, "what came back is not what was sent, {expect}");
    }
    let sizes = curl(&["--output", &down, "--write-out", "%{size_download}", &format!("{url}bytes?n=50000000")]).await;
    assert_eq!(sizes.out, "50000000");
}

#[tokio::test]
async fn a_login_lasts_on_the_page_of_the_demo_backends() {
    let backends = [DemoBackend::start("a").await, DemoBackend::start("b").await, DemoBackend::start("c").await];
    let builder = backends.iter().fold(Proxy::builder(), |builder, b| builder.backend_at(&b.name, b.address, ""));
    let proxy = builder.start();
    let folder = Folder::new();
    let url = url(&proxy);
    for user in ["ann", "bob", "cid", "dot"] {
        let jar = folder.file(user);
        let with_jar = ["--location", "--cookie", &jar, "--cookie-jar", &jar, "--header", "Accept: text/html"];
        let ask = async |arguments: &[&str]| curl(&[&with_jar, arguments].concat()).await.out;
        let page = ask(&["--data", &format!("user={user}&password=linchpin"), &format!("{url}login")]).await;
        assert!(page.contains(&format!("Logged in as {user}")), "{page}");
        let server = heading(&page).to_owned();
        for item in ["axle", "wheel"] {
            ask(&["--data", &format!("item={item}"), &format!("{url}cart")]).await;
        }
        for _ in 0..3 {
            let page = ask(&[&url]).await;
            assert_eq!(heading(&page), server);
            assert!(page.contains("<span>axle</span>") && page.contains("<span>wheel</span>"), "{page}");
        }
    }
}

fn heading(page: &str) -> &str {
    let rest = page.split_once("<h1>").map_or("", |(_, rest)| rest);
    rest.split_once("</h1>").expect("a page with a heading").0
}

#[tokio::test]
async fn http_2_without_tls_and_a_proxy_header_are_spoken_as_curl_speaks_them() {
    let a = Backend::named("a").await;
    let listener = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let proxy = Proxy::builder().top(&format!("{listener}{listener}proxy_protocol = true\n")).backend(&a, "").start();
    let version = ["--write-out", " %{http_version}"];
    for (place, option, expected) in
        [(0, "--http2-prior-knowledge", "a 2"), (0, "--http1.1", "a 1.1"), (1, "--haproxy-protocol", "a 1.1")]
    {
        let url = format!("http://{}/", proxy.listener(place));
        assert_eq!(curl(&[&[option, &*url][..], &version].concat()).await.out, expected, "{option}");
    }
    let both = ["--haproxy-protocol", "--http2-prior-knowledge", "--header", "X-Forwarded-For: 203.0.113.9"];
    let url = format!("http://{}/", proxy.listener(1));
    assert_eq!(curl(&[&both[..], &[&*url], &version].concat()).await.out, "a 2");
    assert_eq!(a.seen().pop().unwrap().field("x-forwarded-for"), Some("203.0.113.9"));
}
