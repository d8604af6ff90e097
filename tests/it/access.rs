//! Who may use a route: lists of addresses, and the spellings of a path that might get around them.

use super::support::repository::read;
use super::support::tool::Folder;
use super::support::{Backend, Proxy, until};

const TRUSTING: &str = "[admin]\naddress = \"127.0.0.1:0\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
                        trusted_proxies = [\"127.0.0.1\"]";

/// The routes of the page.
fn routes() -> String {
    let page = read("docs/access.md");
    page.split("```toml\n").nth(1).and_then(|part| part.split("```").next()).unwrap().to_owned()
}

#[tokio::test]
async fn only_clients_that_the_lists_permit_reach_a_backend() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().top(&format!("{TRUSTING}\n{}", routes())).backend(&a, "").start();
    let mut client = proxy.client().await;
    for (path, forwarded, status) in [
        ("/", "203.0.113.1", 200),
        ("/", "192.0.2.9", 403),
        // What a client wrote itself does not count.
        ("/", "10.0.0.1, 192.0.2.9", 403),
        ("/", "192.0.2.9, 203.0.113.1", 200),
        ("/admin", "203.0.113.1", 403),
        ("/admin/x", "10.1.0.1", 200),
        ("/admin/x", "2001:db8::9", 200),
        ("/admin/x", "10.9.0.1", 403),
        // Nobody has named this client.
        ("/", "unknown", 403),
        ("/admin", "unknown", 403),
        // Other spellings of the path.
        ("/%61dmin", "203.0.113.1", 403),
        ("//admin", "203.0.113.1", 403),
        ("/x/../admin", "203.0.113.1", 403),
        ("/x/..%2fadmin/y", "10.1.0.1", 403),
        ("/ADMIN", "203.0.113.1", 403),
        ("/A%20b", "203.0.113.1", 200),
    ] {
        let before = a.count();
        let fields = format!("x-forwarded-for: {forwarded}\r\n");
        let response = client.request("GET", path, &fields, b"").await;
        assert_eq!(response.status, status, "{path} {forwarded}");
        assert_eq!(a.count() - before, usize::from(status == 200), "{path} {forwarded}");
    }
}

#[tokio::test]
async fn a_refused_client_neither_uses_nor_gets_a_pin_and_is_counted() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let log = folder.file("access.log");
    let top = format!("[log]\naccess = {log:?}\n{TRUSTING}\n{}", routes());
    let proxy = Proxy::builder().top(&top).backend(&a, "").start();
    let mut client = proxy.client().await;
    let pinned = client.request("GET", "/", "x-forwarded-for: 203.0.113.1\r\n", b"").await;
    assert!(pinned.pin().is_some());
    let refused = client.request("GET", "/admin", "x-forwarded-for: 203.0.113.1\r\n", b"").await;
    assert_eq!((refused.status, refused.pin()), (403, None));
    assert_eq!(refused.field("cache-control"), Some("no-store"));
    // The connection goes on, with the next request.
    let post = client.request("POST", "/ADMIN", "x-forwarded-for: 203.0.113.1\r\n", b"x=1").await;
    assert_eq!(post.status, 403);
    assert_eq!(a.count(), 1);
    let metrics = proxy.ask("GET", "/metrics", "").await.text();
    for line in [
        "linchpin_access_denied_total{reason=\"address_denied\"} 1",
        "linchpin_access_denied_total{reason=\"ambiguous_path\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    until("the access log has the reasons", async || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        ["address_denied", "ambiguous_path"].iter().all(|reason| text.contains(&format!("error={reason}")))
            && text.lines().filter(|line| line.contains(" 403 ")).all(|line| line.contains("verdict=none"))
    })
    .await;
}

#[tokio::test]
async fn a_route_that_redirects_has_lists_too() {
    let a = Backend::named("a").await;
    let routes = "[[routes]]\nredirect = { path = \"/new\" }\ndeny = [\"127.0.0.0/8\"]\n\
                  [[routes]]\npath_prefix = \"/new\"\npool = \"app\"";
    let proxy = Proxy::builder().top(routes).backend(&a, "").start();
    let mut client = proxy.client().await;
    assert_eq!(client.get("/old").await.status, 403);
    assert_eq!(client.get("/new").await.status, 200);
}
