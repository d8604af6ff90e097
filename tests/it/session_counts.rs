//! Sessions counted: each one once, whatever threads and connections its client uses, and one number everywhere.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{Backend, Client, Proxy, Reply, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"";

async fn get(proxy: &Proxy, path: &str) -> Value {
    let answer = proxy.ask("GET", path, "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str(&answer.text()).unwrap()
}

async fn sessions(proxy: &Proxy, backend: &str) -> u64 {
    let status = get(proxy, "/api/v1/status").await;
    let backends = status["pools"][0]["backends"].as_array().unwrap();
    let found = backends.iter().find(|each| each["name"] == backend).unwrap()["sessions"].as_u64().unwrap();
    let alone = get(proxy, &format!("/api/v1/pools/app/backends/{backend}/sessions")).await;
    assert_eq!(alone["sessions"], found);
    let metric = format!("linchpin_sessions{{pool=\"app\",backend=\"{backend}\"}} {found}\n");
    assert!(proxy.ask("GET", "/metrics", "").await.text().contains(&metric), "{metric}");
    found
}

#[tokio::test]
async fn a_browser_with_connections_on_several_threads_is_one_session_everywhere() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().server("threads = 3").top(ADMIN).backend(&a, "").start();
    let mut pins = Vec::new();
    for _ in 0..20 {
        pins.push(proxy.get(None).await.pin().unwrap());
    }
    assert_eq!(sessions(&proxy, "a").await, 20);
    for pin in &pins {
        // The kernel chooses the thread of each connection.
        for _ in 0..4 {
            proxy.get(Some(pin)).await;
        }
    }
    assert_eq!(sessions(&proxy, "a").await, 20);
    let status = get(&proxy, "/api/v1/status").await;
    assert_eq!(status["pools"][0]["sessions"], 20);
    let idle = &status["pools"][0]["backends"][0]["idle_sessions"];
    assert_eq!(*idle, json!({ "1m": 20, "5m": 0, "15m": 0, "1h": 0, "more": 0 }));
    let metrics = proxy.ask("GET", "/metrics", "").await.text();
    assert!(metrics.contains("linchpin_idle_sessions{pool=\"app\",backend=\"a\",idle=\"1m\"} 20\n"), "{metrics}");
}

#[tokio::test]
async fn a_session_counts_where_it_is_and_no_longer_where_it_was() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = Proxy::builder().server("threads = 2").top(ADMIN).backend(&a, "").backend(&b, "weight = 0").start();
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = proxy.client().await;
        client.get("/").await;
        clients.push(client);
    }
    assert_eq!((sessions(&proxy, "a").await, sessions(&proxy, "b").await), (6, 0));
    proxy.live("b").set_weight(1);
    proxy.live("a").set_state(linchpin::pool::AdminState::Maintenance);
    for client in clients.iter_mut().take(4) {
        assert_eq!(client.get("/").await.text(), "b");
    }
    assert_eq!((sessions(&proxy, "a").await, sessions(&proxy, "b").await), (2, 4));
}

/// An application that has a session after a login, under a new id after another one, and none after a logout.
async fn application() -> Backend {
    Backend::start("a", |seen| {
        let path = seen.path().to_owned();
        match path.strip_prefix("/login/") {
            Some(id) => Reply::new(200, &format!("set-cookie: sid={id}; Path=/\r\n"), ""),
            None if path == "/logout" => Reply::new(200, "set-cookie: sid=; Max-Age=0\r\n", ""),
            None => Reply::ok("a"),
        }
    })
    .await
}

async fn get_with(client: &mut Client, path: &str, id: Option<&str>) {
    let cookie = id.map_or(String::new(), |id| format!("cookie: sid={id}\r\n"));
    assert_eq!(client.request("GET", path, &cookie, b"").await.status, 200);
}

#[tokio::test]
async fn a_session_of_the_application_begins_with_its_id_and_ends_with_the_logout() {
    let a = application().await;
    for (persistence, ids) in [
        ("type = \"learned\"\nlearned = { cookie = \"sid\" }", ["one", "two"]),
        ("type = \"route\"\nroute = { cookie = \"sid\" }", ["one.a", "two.a"]),
    ] {
        let proxy = Proxy::builder().top(ADMIN).table("persistence", persistence).backend(&a, "").start();
        let mut client = proxy.client().await;
        get_with(&mut client, "/", None).await;
        assert_eq!(sessions(&proxy, "a").await, 0, "a page without a session: {persistence}");
        get_with(&mut client, &format!("/login/{}", ids[0]), None).await;
        assert_eq!(sessions(&proxy, "a").await, 1, "{persistence}");
        get_with(&mut client, "/", Some(ids[0])).await;
        get_with(&mut client, &format!("/login/{}", ids[1]), Some(ids[0])).await;
        get_with(&mut client, "/", Some(ids[1])).await;
        assert_eq!(sessions(&proxy, "a").await, 1, "the same client under another id: {persistence}");
        get_with(&mut client, "/logout", Some(ids[1])).await;
        assert_eq!(sessions(&proxy, "a").await, 0, "{persistence}");
    }
}

#[tokio::test]
async fn sessions_end_by_their_timeouts() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder()
        .top(ADMIN)
        .table("persistence", "idle_timeout = \"1s\"\nabsolute_timeout = \"1h\"")
        .backend(&a, "")
        .start();
    proxy.get(None).await;
    assert_eq!(sessions(&proxy, "a").await, 1);
    until("its session ends", async || get(&proxy, "/api/v1/pools/app/backends/a/sessions").await["sessions"] == 0)
        .await;
}

#[tokio::test]
async fn a_request_can_wait_until_few_sessions_are_left_or_its_time_is_over() {
    let a = Backend::named("a").await;
    let b = Backend::named("b").await;
    let proxy = Proxy::builder().top(ADMIN).backend(&a, "").backend(&b, "weight = 0").start();
    let mut client = proxy.client().await;
    client.get("/").await;
    let path = "/api/v1/pools/app/backends/a/sessions";
    let since = Instant::now();
    let left = get(&proxy, &format!("{path}?below=1&wait=500ms")).await;
    assert_eq!((&left["sessions"], &left["below"]), (&json!(1), &json!(false)));
    assert!(since.elapsed() >= Duration::from_millis(500));
    let waiting = format!("{path}?below=1&wait=10m");
    let (left, _) = tokio::join!(get(&proxy, &waiting), async {
        proxy.live("b").set_weight(1);
        proxy.live("a").set_state(linchpin::pool::AdminState::Maintenance);
        assert_eq!(client.get("/").await.text(), "b");
    });
    assert_eq!((&left["sessions"], &left["below"]), (&json!(0), &json!(true)));
    for (query, status) in [("?wait=2h", 422), ("?below=x", 400), ("?wait=soon", 422)] {
        assert_eq!(proxy.ask("GET", &format!("{path}{query}"), "").await.status, status, "{query}");
    }
    assert_eq!(proxy.ask("GET", "/api/v1/pools/app/backends/x/sessions", "").await.status, 404);
}

#[tokio::test]
async fn no_more_than_some_requests_wait_at_once_and_the_others_are_told() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().top(ADMIN).backend(&a, "").start();
    proxy.get(None).await;
    let mut waiting = Vec::new();
    for _ in 0..9 {
        let mut admin = Client::connect(proxy.admin()).await;
        let path = "/api/v1/pools/app/backends/a/sessions?below=1&wait=1h";
        admin.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await;
        waiting.push(admin);
    }
    let responses = waiting.iter_mut().map(|admin| Box::pin(admin.response()));
    let (refused, _, _) = super::support::soon("a refusal", futures_util::future::select_all(responses)).await;
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
    // Who does not wait is answered all the same.
    assert_eq!(get(&proxy, "/api/v1/pools/app/backends/a/sessions").await["sessions"], 1);
    assert_eq!(get(&proxy, "/api/v1/status").await["ready"], true);
}
