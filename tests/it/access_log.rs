//! The lines of the access log: their fields, formats, and what is never in them.

use std::path::Path;

use super::support::authority::Authority;
use super::support::tool::{Folder, run};
use super::support::{Backend, Client, Proxy};

/// Writes the access log to a file, with these keys.
fn log(folder: &Folder, keys: &str) -> String {
    format!("[log]\naccess = {:?}\n{keys}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n", folder.file("access.log"))
}

/// Returns the lines of a log whose proxy has ended.
fn lines(folder: &Folder) -> Vec<String> {
    let text = std::fs::read_to_string(folder.file("access.log")).unwrap();
    text.lines().map(str::to_owned).collect()
}

const ASKS: &str = "user-agent: Mozilla/5.0 (X11; \"Linux\")\r\nreferer: https://u:secret@shop.example/a;jsessionid=secret?token=secret\r\n\
                    cookie: JSESSIONID=secret.a\r\nauthorization: Bearer secret\r\n";
const TARGET: &str = "/cart;jsessionid=secret.a?token=secret";

#[tokio::test]
async fn a_line_of_json_has_the_configured_fields_in_their_order() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let fields = "access_format = \"json\"\naccess_fields = [\"request\", \"user_agent\", \"referer\", \"path\", \"protocol\", \"status\"]";
    let proxy = Proxy::builder().top(&log(&folder, fields)).backend(&a, "").start();
    proxy.client().await.request("GET", TARGET, ASKS, b"").await;
    proxy.client().await.request("GET", "/", "", b"").await;
    proxy.stop().await;
    let ids: Vec<_> = a.seen().iter().map(|seen| seen.field("x-request-id").unwrap().to_owned()).collect();
    assert_eq!(
        lines(&folder),
        [
            format!(
                "{{\"request\":\"{}\",\"user_agent\":\"Mozilla/5.0 (X11; \\\\x22Linux\\\\x22)\",\
                 \"referer\":\"https://shop.example/a;jsessionid=*\",\"path\":\"/cart;jsessionid=*\",\
                 \"protocol\":\"HTTP/1.1\",\"status\":200}}",
                ids[0]
            ),
            format!("{{\"request\":\"{}\",\"path\":\"/\",\"protocol\":\"HTTP/1.1\",\"status\":200}}", ids[1]),
        ]
    );
}

#[tokio::test]
async fn no_format_shows_a_token_a_cookie_or_a_query_that_is_not_configured() {
    let a = Backend::named("a").await;
    for keys in [
        "",
        "format = \"json\"",
        "access_format = \"combined\"",
        "access_fields = [\"default\", \"user_agent\", \"referer\"]",
        "format = \"json\"\naccess_fields = [\"default\", \"user_agent\", \"referer\"]",
    ] {
        let folder = Folder::new();
        let route = "type = \"route\"\nroute = { cookie = \"JSESSIONID\" }";
        let proxy = Proxy::builder().top(&log(&folder, keys)).table("persistence", route).backend(&a, "").start();
        let mut client = proxy.client().await;
        assert_eq!(client.request("GET", TARGET, ASKS, b"").await.status, 200);
        proxy.stop().await;
        let lines = lines(&folder);
        assert!(
            lines.len() == 1 && !lines[0].contains("secret") && lines[0].contains("/cart;jsessionid=*"),
            "{lines:?}"
        );
    }
}

#[tokio::test]
async fn a_combined_line_is_what_tools_for_nginx_read() {
    let (a, folder) = (Backend::start("a", |_| super::support::Reply::ok("four")).await, Folder::new());
    let fields = "access_format = \"combined\"\naccess_fields = [\"query\"]";
    let proxy = Proxy::builder().top(&log(&folder, fields)).backend(&a, "").start();
    proxy.client().await.request("GET", "/a?b=1", "user-agent: curl/8\r\nreferer: https://x/?q=2\r\n", b"").await;
    let mut client = proxy.client().await;
    client.send(b"nonsense\r\n\r\n").await;
    client.response().await;
    proxy.stop().await;
    let lines = lines(&folder);
    let shown: Vec<_> = lines.iter().map(|line| line.split_once(" - - [").unwrap()).collect();
    assert!(shown.iter().all(|(client, _)| *client == "127.0.0.1"), "{lines:?}");
    let (time, rest) = shown[0].1.split_once("] ").unwrap();
    assert_eq!(rest, "\"GET /a?b=1 HTTP/1.1\" 200 4 \"https://x/?q=2\" \"curl/8\"");
    let (date, zone) = time.split_once(' ').unwrap();
    assert!(date.len() == "26/Nov/2026:16:05:26".len() && zone == "+0000", "{time}");
    assert_eq!(shown[1].1.split_once("] ").unwrap().1, "\"-\" 400 0 \"-\" \"-\"");
}

#[tokio::test]
async fn a_line_names_the_versions_of_http_and_tls_that_the_client_speaks() {
    let (a, folder, authority) = (Backend::named("a").await, Folder::new(), Authority::new("root"));
    std::fs::write(folder.file("ca.pem"), authority.pem()).unwrap();
    authority.issue(&["app.example"]).write(Path::new(&folder.file("")), "app.example");
    let top = format!(
        "{}[listeners.tls]\ncert = {:?}\nkey = {:?}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n",
        log(&folder, ""),
        folder.file("app.example.pem"),
        folder.file("app.example.key")
    );
    let proxy = Proxy::builder().top(&top).backend(&a, "").start();
    let port = proxy.listener(0).port();
    let (ca, resolve) = (folder.file("ca.pem"), format!("app.example:{port}:127.0.0.1"));
    let url = format!("https://app.example:{port}/");
    for more in [&["--http2"][..], &["--http1.1", "--tls-max", "1.2"], &["--http1.0", "--no-alpn"]] {
        run("curl", &[&["-sS", "--cacert", &ca, "--resolve", &resolve, &url][..], more].concat()).await;
    }
    Client::connect(proxy.listener(1)).await.get("/").await;
    proxy.stop().await;
    let lines = lines(&folder);
    for (line, words) in lines.iter().zip([
        " protocol=HTTP/2.0 tls_version=TLSv1.3 request=",
        " protocol=HTTP/1.1 tls_version=TLSv1.2 request=",
        " protocol=HTTP/1.0 tls_version=TLSv1.3 request=",
        " protocol=HTTP/1.1 request=",
    ]) {
        assert!(line.contains(words), "{lines:?}");
    }
    assert_eq!(lines.len(), 4);
}

#[tokio::test]
async fn a_reload_changes_the_fields_of_the_lines_that_follow() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let file = folder.file("linchpin.toml");
    let configuration = |keys: &str| {
        let pool =
            format!("[[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n", a.address());
        format!("[server]\nthreads = 1\n{}{pool}", log(&folder, keys))
    };
    std::fs::write(&file, configuration("access_fields = [\"path\"]")).unwrap();
    let (plan, _) = linchpin::config::load(Path::new(&file)).unwrap();
    let proxy = Proxy::of(linchpin::app::App::start(plan).unwrap());
    // On one connection, which the reload leaves open.
    let mut client = proxy.client().await;
    client.get("/before?q=1").await;
    std::fs::write(&file, configuration("access_fields = [\"status\", \"query\"]")).unwrap();
    let report = proxy.reload(false).await;
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    client.get("/after?q=2").await;
    proxy.stop().await;
    assert_eq!(lines(&folder), ["path=/before", "status=200 query=q=2"]);
}
