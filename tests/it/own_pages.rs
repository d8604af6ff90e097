//! A pool's own pages: which error shows which page, and what is filled in.

use std::path::Path;

use linchpin::app::App;
use linchpin::config;

use super::support::tool::Folder;
use super::support::{Backend, Proxy, Reply};

const ERROR: &str = "<h1>Oops {{status}}</h1><p>{{detail}}</p><i>{{request_id}}</i>";
const MAINTENANCE: &str = "<h1>Back soon</h1>{{request_id}} {{other}}";

fn started(folder: &Folder, backend: &Backend, pages: &str, state: &str) -> Proxy {
    folder.write("error.html", ERROR.as_bytes());
    folder.write("maintenance.html", MAINTENANCE.as_bytes());
    let text = Proxy::builder().table("pages", pages).backend(backend, state).text();
    let (plan, report) = config::load(Path::new(&folder.write("linchpin.toml", text.as_bytes()))).unwrap();
    assert!(!report.to_string().contains("page"), "{report}");
    Proxy::of(App::start(plan).unwrap())
}

#[tokio::test]
async fn an_error_shows_the_page_of_its_pool_with_the_id_of_the_request() {
    let (folder, a) = (Folder::new(), Backend::start("a", |_| Reply::Close).await);
    let proxy = started(&folder, &a, "error = \"error.html\"\nmaintenance = \"maintenance.html\"", "");
    let mut client = proxy.client().await;
    let page = client.request("POST", "/", "", b"x").await;
    assert_eq!((page.status, page.field("content-type")), (502, Some("text/html; charset=utf-8")));
    assert_eq!(page.field("cache-control"), Some("no-store"));
    let id = a.seen()[0].field("x-request-id").unwrap().to_owned();
    assert!(page.text().starts_with("<h1>Oops 502</h1><p>The server failed"), "{}", page.text());
    assert!(page.text().ends_with(&format!("<i>{id}</i>")), "{} {id}", page.text());
    // A machine gets JSON as ever.
    let json = client.request("POST", "/", "accept: application/json\r\n", b"x").await;
    assert_eq!((json.status, json.field("content-type")), (502, Some("application/json")));
}

#[tokio::test]
async fn maintenance_has_a_page_of_its_own_or_that_of_errors() {
    for (pages, begin) in [
        ("error = \"error.html\"\nmaintenance = \"maintenance.html\"", "<h1>Back soon</h1>"),
        ("error = \"error.html\"", "<h1>Oops 503</h1>"),
        ("", "<!doctype html>"),
    ] {
        let (folder, a) = (Folder::new(), Backend::named("a").await);
        let proxy = started(&folder, &a, pages, "state = \"maintenance\"");
        let page = proxy.get(None).await;
        assert_eq!((page.status, page.field("retry-after").is_some()), (503, true));
        assert!(page.text().starts_with(begin), "{}", page.text());
    }
}

#[tokio::test]
async fn a_changed_page_is_shown_after_a_reload() {
    let (folder, a) = (Folder::new(), Backend::named("a").await);
    let proxy = started(&folder, &a, "error = \"error.html\"", "state = \"maintenance\"");
    folder.write("error.html", b"new {{request_id}}");
    let report = proxy.reload(false).await;
    let paths: Vec<_> = report.changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["pools.app.pages"], "{:?}", report.errors);
    assert!(proxy.get(None).await.text().starts_with("new "));
}
