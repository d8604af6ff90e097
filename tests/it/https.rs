//! TLS with other projects' clients: curl, OpenSSL and Node; and TLS with backends.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::authority::Authority;
use super::support::node::{NodeBackend, ask_with};
use super::support::proxy::Builder;
use super::support::tool::{Folder, Output, run, try_run};
use super::support::{Backend, Client, Proxy, Reply, soon};

/// Makes a folder with `ca.pem` and a certificate for each list of names; the first name is the file's.
fn folder(names: &[&[&str]]) -> (Folder, Authority) {
    let (folder, authority) = (Folder::new(), Authority::new("root"));
    std::fs::write(folder.file("ca.pem"), authority.pem()).unwrap();
    for names in names {
        authority.issue(names).write(Path::new(&folder.file("")), names[0]);
    }
    (folder, authority)
}

fn listener(folder: &Folder, certificate: &str, more: &str) -> String {
    let (cert, key) = (folder.file(&format!("{certificate}.pem")), folder.file(&format!("{certificate}.key")));
    format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n[listeners.tls]\ncert = {cert:?}\nkey = {key:?}\n{more}\n")
}

fn before(backend: &Backend, top: &str) -> Builder {
    Proxy::builder().top(top).backend(backend, "")
}

/// Runs curl, which trusts only the authority, with a host that resolves to this proxy's first listener.
async fn try_curl(proxy: &Proxy, folder: &Folder, host: &str, more: &[&str]) -> Result<Output, String> {
    let port = proxy.listener(0).port();
    let (ca, resolve) = (folder.file("ca.pem"), format!("{host}:{port}:127.0.0.1"));
    let url = format!("https://{host}:{port}/");
    let arguments = [&["-sS", "-i", "--cacert", &ca, "--resolve", &resolve, &url][..], more].concat();
    try_run("curl", &arguments).await
}

async fn curl(proxy: &Proxy, folder: &Folder, host: &str, more: &[&str]) -> String {
    try_curl(proxy, folder, host, more).await.unwrap().out.to_lowercase()
}

#[tokio::test]
async fn a_client_speaks_tls_with_every_version_of_http_and_its_cookie_is_secure() {
    let (folder, _) = folder(&[&["app.example"]]);
    let a = Backend::named("a").await;
    let proxy = before(&a, &listener(&folder, "app.example", "hsts = \"365d\"")).start();
    for (version, more) in [
        ("http/2 200", &["--http2"][..]),
        ("http/2 200", &["--http2", "--tls-max", "1.2"]),
        ("http/1.1 200", &["--http1.1"]),
        ("http/1.1 200", &["--http1.1", "--tls-max", "1.2"]),
    ] {
        let answer = curl(&proxy, &folder, "app.example", more).await;
        assert!(answer.starts_with(version), "{more:?}: {answer}");
        let cookie = answer.lines().find(|line| line.starts_with("set-cookie: linchpin-app=")).unwrap();
        assert!(cookie.contains("; secure"), "{cookie}");
        assert!(answer.contains("strict-transport-security: max-age=31536000\r\n"), "{answer}");
        let seen = a.seen().pop().unwrap();
        assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
        assert!(seen.field("forwarded").unwrap().ends_with("proto=https"));
    }
    // The other listener, without TLS.
    let plain = Client::connect(proxy.listener(1)).await.get("/").await;
    assert!(plain.field("strict-transport-security").is_none());
    assert!(!plain.field("set-cookie").unwrap().contains("Secure"));
    assert_eq!(a.seen().pop().unwrap().field("x-forwarded-proto"), Some("http"));
}

#[tokio::test]
async fn early_hints_arrive_over_tls_before_the_final_response() {
    let (folder, _) = folder(&[&["app.example"]]);
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    let a = Backend::start("a", move |_| {
        Reply::Bytes(format!("{hints}HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na").into())
    })
    .await;
    let proxy = before(&a, &listener(&folder, "app.example", "")).start();
    let answer = curl(&proxy, &folder, "app.example", &["--http1.1"]).await;
    let (first, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(first, "http/1.1 103 early hints\r\nlink: </a.css>");
    assert!(rest.starts_with("http/1.1 200 ok\r\n") && rest.ends_with("\r\n\r\na"), "{answer}");
    let answer = curl(&proxy, &folder, "app.example", &["--http2"]).await;
    let (first, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(first.trim_end(), "http/2 103 \r\nlink: </a.css>");
    assert!(rest.starts_with("http/2 200") && rest.ends_with("\r\n\r\na"), "{answer}");
}

#[tokio::test]
async fn each_name_has_its_certificate() {
    let (folder, _) = folder(&[&["app.example"], &["other.example"], &["wild", "*.shops.example"]]);
    let more = ["other.example", "wild"].map(|name| {
        let (cert, key) = (folder.file(&format!("{name}.pem")), folder.file(&format!("{name}.key")));
        format!("[[listeners.tls.certificates]]\ncert = {cert:?}\nkey = {key:?}\n")
    });
    let a = Backend::named("a").await;
    let proxy = before(&a, &listener(&folder, "app.example", &more.concat())).start();
    for host in ["app.example", "other.example", "one.shops.example", "OTHER.example"] {
        assert!(curl(&proxy, &folder, host, &[]).await.contains(" 200"), "{host}");
    }
    // All other names get the first certificate, which is not for them.
    let refused = try_curl(&proxy, &folder, "unknown.example", &[]).await.unwrap_err();
    assert!(
        refused.contains("app.example") || refused.contains("no alternative certificate subject name"),
        "{refused}"
    );
}

#[tokio::test]
async fn backends_get_the_subject_of_a_client_certificate_and_no_client_can_forge_it() {
    let (folder, authority) = folder(&[&["app.example"], &["client"]]);
    let ca = folder.file("ca.pem");
    let a = Backend::named("a").await;
    let forged = ["-H", "Linchpin-Client-Subject: CN=admin"];
    let (cert, key) = (folder.file("client.pem"), folder.file("client.key"));
    let shown = [&["--cert", &cert, "--key", &key][..], &forged].concat();

    let optional = format!("client_ca = {ca:?}\nclient_certificate = \"optional\"");
    let proxy = before(&a, &listener(&folder, "app.example", &optional)).start();
    curl(&proxy, &folder, "app.example", &forged).await;
    assert_eq!(a.seen().pop().unwrap().fields("linchpin-client-subject"), [""; 0]);
    curl(&proxy, &folder, "app.example", &shown).await;
    assert_eq!(a.seen().pop().unwrap().fields("linchpin-client-subject"), ["CN=client"]);

    let required = format!("client_ca = {ca:?}\nclient_certificate = \"required\"");
    let proxy = before(&a, &listener(&folder, "app.example", &required)).start();
    assert!(try_curl(&proxy, &folder, "app.example", &[]).await.is_err());
    assert!(curl(&proxy, &folder, "app.example", &shown).await.contains(" 200"));
    let stranger = Authority::new("stranger").issue(&["client"]);
    stranger.write(Path::new(&folder.file("")), "stranger");
    drop(authority);
    let (cert, key) = (folder.file("stranger.pem"), folder.file("stranger.key"));
    assert!(try_curl(&proxy, &folder, "app.example", &["--cert", &cert, "--key", &key]).await.is_err());
    assert_eq!(a.count(), 3);
}

#[tokio::test]
async fn a_tls_session_is_resumed_on_any_thread() {
    let (folder, _) = folder(&[&["app.example"]]);
    let a = Backend::named("a").await;
    let proxy = before(&a, &listener(&folder, "app.example", "")).server("threads = 2").start();
    let (address, ca, session) = (proxy.listener(0).to_string(), folder.file("ca.pem"), folder.file("session"));
    for version in ["-tls1_3", "-tls1_2"] {
        let ask = async |option: &str| {
            // It ends with the connection, and not with its input: the tickets and the response are there then.
            let script = format!(
                "printf 'GET / HTTP/1.1\\r\\nhost: app.example\\r\\nconnection: close\\r\\n\\r\\n' | openssl s_client -ign_eof \
                 -connect {address} -servername app.example -CAfile {ca} {version} {option} {session} 2>&1"
            );
            run("sh", &["-c", &script]).await.out
        };
        assert!(ask("-sess_out").await.contains("New, TLSv1"), "{version}");
        for _ in 0..8 {
            let output = ask("-sess_in").await;
            assert!(output.contains("Reused, TLSv1"), "{version}: {output}");
            assert!(output.contains("HTTP/1.1 200"), "{output}");
        }
    }
}

#[tokio::test]
async fn a_response_that_ends_with_its_connection_ends_with_close_notify() {
    let (folder, _) = folder(&[&["app.example"]]);
    let a = Backend::start("a", |_| Reply::Last(b"HTTP/1.1 200 X\r\n\r\nto the end".to_vec())).await;
    let proxy = before(&a, &listener(&folder, "app.example", "")).start();
    // Without TLS's close_notify curl fails, since an attacker could have cut off the rest.
    let answer = curl(&proxy, &folder, "app.example", &["--http1.0", "--no-alpn"]).await;
    assert!(answer.ends_with("to the end"), "{answer}");
}

#[tokio::test]
async fn handshakes_that_do_not_arrive_time_out() {
    let (folder, _) = folder(&[&["app.example"]]);
    let a = Backend::named("a").await;
    let proxy =
        before(&a, &listener(&folder, "app.example", "")).server("limits.header_read_timeout = \"200ms\"").start();
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut rest)).await;
        assert!(rest.len() < 10, "at most an alert: {rest:?}");
    }
    assert!(curl(&proxy, &folder, "app.example", &[]).await.contains(" 200"));
}

#[tokio::test]
async fn websockets_and_streams_work_the_same_over_tls() {
    let (folder, _) = folder(&[&["localhost"]]);
    let backends = [NodeBackend::start("websocket", "a").await, NodeBackend::start("websocket", "b").await];
    let builder = Proxy::builder().top(&listener(&folder, "localhost", ""));
    let builder = backends.iter().fold(builder, |builder, each| builder.backend_at(&each.name, each.address, ""));
    let proxy = builder.start();
    let ca = folder.file("ca.pem");
    for what in ["websocket", "connect"] {
        ask_with(
            what,
            &format!("localhost:{}", proxy.listener(0).port()),
            &[("TLS", "1"), ("NODE_EXTRA_CA_CERTS", &ca)],
        )
        .await;
    }
}

/// A second Linchpin that speaks TLS, as the backend of the first.
#[tokio::test]
async fn tls_to_backends_requires_a_valid_certificate() {
    let (folder, _) = folder(&[&["app.example", "127.0.0.1"], &["elsewhere"], &["client"]]);
    let ca = folder.file("ca.pem");
    let a = Backend::named("a").await;
    let requires_certificate = format!("client_ca = {ca:?}\nclient_certificate = \"required\"");
    let shows = format!("cert = {:?}\nkey = {:?}", folder.file("client.pem"), folder.file("client.key"));
    for (certificate, behind, tls, status) in [
        ("app.example", "", format!("ca = {ca:?}"), 200),
        ("app.example", "", format!("ca = {ca:?}\nserver_name = \"app.example\""), 200),
        ("app.example", "", format!("ca = {ca:?}\nserver_name = \"other.example\""), 503),
        ("elsewhere", "", format!("ca = {ca:?}"), 503),
        ("elsewhere", "", "verify = false".to_owned(), 200),
        ("app.example", &*requires_certificate, format!("ca = {ca:?}"), 503),
        ("app.example", &requires_certificate, format!("ca = {ca:?}\n{shows}"), 200),
    ] {
        for http2 in [false, true] {
            let second = before(&a, &listener(&folder, certificate, behind)).start();
            let first = Proxy::builder()
                .table("upstream", &format!("http2 = {http2}"))
                .table("upstream.tls", &tls)
                .table("retry", "attempts = 1")
                .table("persistence", "type = \"none\"")
                .backend_at("second", second.listener(0), "")
                .start();
            let response = first.get(None).await;
            // In TLS 1.3 a server may reject the client after the request was sent.
            let got = if response.status == 502 { 503 } else { response.status };
            assert_eq!(got, status, "{certificate} {tls} {http2}");
            if status == 200 {
                let seen = a.seen().pop().unwrap();
                assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
                let subject = tls.contains("client.pem").then_some("CN=client");
                assert_eq!(seen.field("linchpin-client-subject"), subject);
            }
        }
    }
}

#[tokio::test]
async fn a_listener_redirects_every_client_to_tls_without_a_loop() {
    let a = Backend::named("a").await;
    let top = "[[listeners]]\naddress = \"127.0.0.1:0\"\nredirect_https = true\ntrusted_proxies = [\"127.0.0.1\"]\n\
               [[listeners]]\naddress = \"127.0.0.1:0\"\nredirect_https = 8443";
    let proxy = before(&a, top).start();
    for (listener, target, place) in [
        (0, "/path?query=1", "https://shop.example/path?query=1"),
        (1, "/", "https://shop.example:8443/"),
        (1, "//evil.example/x", "https://shop.example:8443//evil.example/x"),
    ] {
        let mut client = Client::connect(proxy.listener(listener)).await;
        client
            .send(format!("POST {target} HTTP/1.1\r\nhost: shop.example:80\r\ncontent-length: 0\r\n\r\n").as_bytes())
            .await;
        let response = client.response().await;
        assert_eq!((response.status, response.field("location")), (308, Some(place)));
        assert!(response.pin().is_none());
    }
    assert_eq!(a.count(), 0);
    let mut behind = Client::connect(proxy.listener(0)).await;
    let by_tls = behind.request("GET", "/", "x-forwarded-proto: https\r\n", b"").await;
    assert_eq!(by_tls.status, 200);
    assert!(by_tls.field("set-cookie").unwrap().contains("; Secure"));
}

/// It lets each client have one connection.
#[tokio::test]
async fn a_backend_that_negotiates_http_1_1_gets_the_request_on_the_same_connection() {
    let (folder, _) = folder(&[&["127.0.0.1"]]);
    let a = Backend::named("a").await;
    let builder = before(&a, &listener(&folder, "127.0.0.1", "http2 = false"));
    let builder = builder.table("persistence", "type = \"none\"");
    let behind = builder.server("limits.connections_per_client = 1").start();
    let upstream = format!("http2 = true\ntls = {{ ca = {:?} }}", folder.file("ca.pem"));
    let proxy = Proxy::builder().table("upstream", &upstream).backend_at("b", behind.listener(0), "").start();
    let mut client = proxy.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_client_refused_in_the_handshake_gets_an_alert_with_the_reason() {
    let (folder, _) = folder(&[&["app.example"]]);
    let a = Backend::named("a").await;
    let proxy = before(&a, &listener(&folder, "app.example", "")).start();
    let more = ["--tls-max", "1.2", "--ciphers", "AES128-SHA"];
    let error = try_curl(&proxy, &folder, "app.example", &more).await.map(|answer| answer.out).unwrap_err();
    assert!(error.contains("alert"), "{error}");
}
