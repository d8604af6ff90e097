//! What is seen of session copies: metrics, status, dashboard and the explanation of a token tell the same.

use serde_json::{Value, json};

use super::support::session_app::{SessionApp, Takes, WrongReply};
use super::support::{Client, Proxy};

/// A pool that keeps copies, with an admin listener.
fn proxy(apps: &[SessionApp], more: &str) -> Proxy {
    let builder = Proxy::builder().top("[admin]\naddress = \"127.0.0.1:0\"").table("copies", more);
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start()
}

async fn ask(proxy: &Proxy, method: &str, path: &str, body: &str) -> Value {
    let text = proxy.ask(method, path, body).await.text();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

async fn explain(proxy: &Proxy, pin: &str) -> Value {
    let body = json!({ "token": pin }).to_string();
    ask(proxy, "POST", "/api/v1/explain", &body).await["copy"].take()
}

/// The value of a metric of the pool, with these other labels.
async fn metric(proxy: &Proxy, name: &str, labels: &str) -> f64 {
    let text = proxy.ask("GET", "/metrics", "").await.text();
    let begin = format!("{name}{{pool=\"app\"{labels}}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&begin));
    line.unwrap_or_else(|| panic!("no {begin} in {text}")).parse().unwrap()
}

/// Logs in, and returns the cookies and the position of the server.
async fn log_in(proxy: &Proxy, apps: &[SessionApp]) -> (String, usize) {
    let mut client: Client = proxy.client().await;
    let response = client.request("POST", "/add", "", b"").await;
    assert_eq!(response.text(), "1");
    let sid = response.fields("set-cookie").iter().find_map(|set| set.strip_prefix("SID=").map(str::to_owned)).unwrap();
    let sid = sid.split(';').next().unwrap().to_owned();
    let server = response.field("x-server").unwrap().to_owned();
    let at = apps.iter().position(|app| app.backend.name() == server).unwrap();
    (format!("{}; SID={sid}", response.pin().unwrap()), at)
}

#[tokio::test]
async fn a_move_is_told_alike_by_metrics_status_and_explain() {
    let mut apps: Vec<_> = SessionApp::three().await.into();
    let proxy = proxy(&apps, "");
    let (cookies, first) = log_in(&proxy, &apps).await;
    let pin = cookies.split(';').next().unwrap().to_owned();

    let held = explain(&proxy, &pin).await;
    assert_eq!((held["state"].as_str(), held["seq"].as_u64()), (Some("held"), Some(1)), "{held}");
    assert_eq!(held["holder"].as_str(), Some(apps[first].backend.name()), "{held}");
    assert!(held["bytes"].as_u64().unwrap() > 0 && held["saved"].as_u64().unwrap() > 1_700_000_000, "{held}");
    assert!(!held.to_string().contains("sealed"), "no byte of the copy: {held}");
    let term = held["term"].as_u64().unwrap();

    apps.remove(first).backend.kill().await;
    assert_eq!(proxy.get(Some(&cookies)).await.text(), "1");

    let moved = explain(&proxy, &pin).await;
    assert_eq!(moved["term"].as_u64(), Some(term + 1), "{moved}");
    assert!(apps.iter().any(|app| moved["holder"].as_str() == Some(app.backend.name())), "{moved}");

    let status = ask(&proxy, "GET", "/api/v1/status", "").await["pools"][0]["copies"].take();
    assert_eq!(status["hold"].as_str(), Some("balancer"));
    for (key, name) in [
        ("sessions", "linchpin_copies_sessions"),
        ("bytes", "linchpin_copies_bytes"),
        ("memory", "linchpin_copies_memory_bytes"),
        ("saves", "linchpin_copies_saves_total"),
        ("drops", "linchpin_copies_drops_total"),
        ("gives", "linchpin_copies_gives_total"),
        ("wants", "linchpin_copies_wants_total"),
        ("evicted", "linchpin_copies_evictions_total"),
    ] {
        assert_eq!(status[key].as_u64().map(|n| n as f64), Some(metric(&proxy, name, "").await), "{key}");
    }
    assert_eq!((status["sessions"].as_u64(), status["gives"].as_u64()), (Some(1), Some(1)), "{status}");
    assert_eq!(metric(&proxy, "linchpin_copies_handover_seconds_count", "").await, 1.0);
}

#[tokio::test]
async fn what_is_refused_is_counted_by_its_reason() {
    let apps: Vec<_> = SessionApp::three().await.into();
    let proxy = proxy(&apps, "max = \"1KiB\"");
    for app in &apps {
        app.change(|memory| {
            memory.instead_of_save =
                Some(format!("linchpin-session-save: :{}:;term=1;seq=1;ttl=9\r\n", "AAAA".repeat(500)))
        });
    }
    let (cookies, _) = log_in(&proxy, &apps).await;
    assert_eq!(metric(&proxy, "linchpin_copies_refused_total", ",reason=\"too_long\"").await, 1.0);
    let refused = ask(&proxy, "GET", "/api/v1/status", "").await["pools"][0]["copies"]["refused"].take();
    assert_eq!(refused, json!({ "too_long": 1 }));
    assert_eq!(explain(&proxy, cookies.split(';').next().unwrap()).await["state"].as_str(), None);
}

#[tokio::test]
async fn a_pool_without_copies_says_nothing_of_them() {
    let apps: Vec<_> = SessionApp::three().await.into();
    let builder = Proxy::builder().top("[admin]\naddress = \"127.0.0.1:0\"");
    let proxy = apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start();
    let status = ask(&proxy, "GET", "/api/v1/status", "").await;
    assert!(status["pools"][0].get("copies").is_none(), "{status}");
    assert!(!proxy.ask("GET", "/metrics", "").await.text().contains("linchpin_copies_saves_total{"));
}

#[tokio::test]
async fn the_dashboard_tells_how_many_copies_there_are_and_what_was_refused() {
    let mut apps: Vec<_> = SessionApp::three().await.into();
    let proxy = proxy(&apps, "memory = \"1MiB\"");
    for app in &apps {
        app.change(|memory| {
            memory.takes = Takes::Wrongly(WrongReply::Bytes("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".into()))
        });
    }
    let (cookies, first) = log_in(&proxy, &apps).await;
    apps.remove(first).backend.kill().await;
    assert_eq!(proxy.get(Some(&cookies)).await.text(), "none");
    let page = super::browser::open(&format!("http://{}/", proxy.admin())).await;
    for words in ["copies (balancer): 1 session", "of 1 MiB", "1 status"] {
        assert!(page.contains(words), "{words} in {page}");
    }
}

#[tokio::test]
async fn each_want_is_counted() {
    let apps = [SessionApp::start("a").await];
    let proxy = proxy(&apps, "");
    let (cookies, _) = log_in(&proxy, &apps).await;
    for wants in [1.0, 2.0] {
        apps[0].forget();
        assert_eq!(proxy.client_with(&cookies).await.get("/").await.text(), "1");
        assert_eq!(metric(&proxy, "linchpin_copies_wants_total", "").await, wants);
    }
}

#[tokio::test]
async fn a_session_that_saves_nothing_takes_no_memory() {
    let apps = [SessionApp::start("a").await];
    let proxy = proxy(&apps, "");
    let first = proxy.client().await.request("GET", "/", "", b"").await;
    let pin = first.pin().unwrap();
    for _ in 0..3 {
        assert_eq!(proxy.get(Some(&pin)).await.status, 200);
    }
    assert_eq!(metric(&proxy, "linchpin_copies_bytes", "").await, 0.0, "clients can begin any number of them");
}
