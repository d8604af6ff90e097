//! Drains that end: sessions leave a living backend one after the other, none in the middle of a request, all by the
//! deadline; streams and tunnels end with it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::support::raw::raw;
use super::support::reloads::Reloadable;
use super::support::session_app::SessionApp;
use super::support::{Backend, Client, Proxy, Reply, soon, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"";

async fn ask(proxy: &Proxy, method: &str, path: &str, body: &str) -> Value {
    let answer = proxy.ask(method, path, body).await;
    assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    serde_json::from_str(&answer.text()).unwrap()
}

fn path(backend: &str) -> String {
    format!("/api/v1/pools/app/backends/{backend}/drain")
}

async fn drain(proxy: &Proxy, backend: &str, body: &str) -> Value {
    ask(proxy, "POST", &path(backend), body).await["drain"].clone()
}

async fn progress(proxy: &Proxy, backend: &str) -> Value {
    ask(proxy, "GET", &path(backend), "").await
}

/// A backend whose response to `/slow` waits until it is released.
async fn slow(name: &str, released: watch::Receiver<bool>) -> Backend {
    let body = name.to_owned();
    let held = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len()).into_bytes();
    Backend::start(name, move |seen| match seen.path() {
        "/slow" => Reply::Held(released.clone(), held.clone()),
        _ => Reply::ok(&body),
    })
    .await
}

/// Starts a proxy of two threads whose new clients all go to the first of two backends.
fn proxy(a: &Backend, b: &Backend) -> Proxy {
    let builder = Proxy::builder().server("threads = 2").top(ADMIN);
    let builder = builder.table("persistence", "verdict_header = \"X-Verdict\"");
    builder.backend(a, "weight = 1000").backend(b, "weight = 1").start()
}

/// Opens sessions on `a`.
async fn sessions_on_a(proxy: &Proxy, count: usize) -> Vec<String> {
    let mut pins = Vec::new();
    while pins.len() < count {
        let response = proxy.get(None).await;
        if response.text() == "a" {
            pins.push(response.pin().unwrap());
        }
    }
    pins
}

#[tokio::test]
async fn no_session_leaves_in_the_middle_of_a_request_before_the_deadline_and_all_do_within_a_second_after_it() {
    let (release, released) = watch::channel(false);
    let (a, b) = (slow("a", released).await, Backend::named("b").await);
    let proxy = proxy(&a, &b);
    let pins = sessions_on_a(&proxy, 8).await;
    // Half of the sessions have a request in flight on another connection.
    let mut busy = Vec::new();
    for pin in &pins[..4] {
        let mut client = proxy.client().await;
        client.send(format!("GET /slow HTTP/1.1\r\nhost: test\r\ncookie: {pin}\r\n\r\n").as_bytes()).await;
        busy.push(client);
    }
    until("the requests are in flight", async || proxy.live("a").active() == 4).await;

    const DEADLINE: Duration = Duration::from_secs(3);
    let since = Instant::now();
    let begun = drain(&proxy, "a", "{\"deadline\":\"3s\",\"idle\":\"50ms\"}").await;
    assert_eq!((&begun["phase"], &begun["sessions"]), (&json!("draining"), &json!(8)));
    let mut left: Vec<Option<Duration>> = vec![None; pins.len()];
    while left.iter().any(Option::is_none) {
        for (index, pin) in pins.iter().enumerate().filter(|(index, _)| left[*index].is_none()).collect::<Vec<_>>() {
            let (before, response) = (since.elapsed(), proxy.get(Some(pin)).await);
            if response.text() == "b" {
                assert_eq!(response.field("x-verdict"), Some("moved; cause=draining"));
                left[index] = Some(since.elapsed());
            } else {
                assert!(before < DEADLINE + Duration::from_secs(1), "session {index} stayed until {before:?}");
            }
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let times: Vec<Duration> = left.into_iter().flatten().collect();
    assert!(times[..4].iter().all(|time| *time >= DEADLINE), "one left in the middle of a request: {times:?}");
    assert!(times[4..].iter().any(|time| *time < DEADLINE), "idle ones leave before: {times:?}");
    release.send(true).unwrap();
    for mut client in busy {
        assert_eq!(client.response().await.text(), "a", "a request in flight is not cut");
    }
}

#[tokio::test]
async fn idle_sessions_leave_first_spread_over_the_time_and_busy_ones_in_its_last_quarter() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = proxy(&a, &b);
    let pins = sessions_on_a(&proxy, 36).await;
    let since = Instant::now();
    drain(&proxy, "a", "{\"deadline\":\"4s\",\"idle\":\"300ms\"}").await;
    // The drain began somewhere in between.
    let begins = since.elapsed();
    let mut clients = tokio::task::JoinSet::new();
    for (index, pin) in pins.into_iter().enumerate() {
        let address = proxy.address();
        // Every third one is never idle for long.
        let pause = if index % 3 == 0 { 40 } else { 400 };
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            client.pin = Some(pin);
            // When it sent the request before: its session was idle for no longer than since then.
            let mut before = None;
            loop {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let (idle_since, begun) = (before.replace(Instant::now()), since.elapsed());
                if client.get("/").await.text() == "b" {
                    let was_idle = idle_since.is_none_or(|since| since.elapsed() >= Duration::from_millis(300));
                    return (was_idle, since.elapsed());
                }
                assert!(begun < begins + Duration::from_secs(5), "it stayed until {begun:?}");
            }
        });
    }
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    while let Some(left) = soon("all leave", clients.join_next()).await {
        let (was_idle, at) = left.unwrap();
        if was_idle { idle.push(at) } else { busy.push(at) }
    }
    assert!(busy.iter().all(|at| *at >= Duration::from_millis(2_900)), "{busy:?}");
    let early = idle.iter().filter(|at| **at < Duration::from_secs(2)).count();
    assert!(early >= 2 && early < idle.len(), "spread: {idle:?}");
}

#[tokio::test]
async fn a_drain_ends_with_its_last_session_then_sets_the_state_and_says_so() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = proxy(&a, &b);
    assert_eq!(proxy.ask("GET", &path("a"), "").await.status, 404);
    assert_eq!(proxy.ask("DELETE", &path("a"), "").await.status, 409);
    let pin = sessions_on_a(&proxy, 1).await.remove(0);
    drain(&proxy, "a", "{\"deadline\":\"1s\",\"then\":\"maintenance\",\"idle\":\"0s\"}").await;
    let metrics = proxy.ask("GET", "/metrics", "").await.text();
    assert!(metrics.contains("linchpin_drain_sessions_remaining{pool=\"app\",backend=\"a\"} 1\n"), "{metrics}");
    assert!(metrics.contains("linchpin_drain_deadline_timestamp_seconds{pool=\"app\",backend=\"a\"} "), "{metrics}");
    until("the session leaves", async || proxy.get(Some(&pin)).await.text() == "b").await;
    until("it is over", async || progress(&proxy, "a").await["phase"] != "draining").await;
    let ended = progress(&proxy, "a").await;
    assert_eq!(
        (&ended["phase"], &ended["sessions"], &ended["then"]),
        (&json!("drained"), &json!(0), &json!("maintenance"))
    );
    assert_eq!(proxy.live("a").state(), linchpin::pool::AdminState::Maintenance);
    assert!(!proxy.ask("GET", "/metrics", "").await.text().contains("linchpin_drain_sessions_remaining{"));
}

#[tokio::test]
async fn at_the_deadline_the_sessions_that_never_returned_are_counted_and_move_when_they_do() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = proxy(&a, &b);
    let pins = sessions_on_a(&proxy, 3).await;
    drain(&proxy, "a", "{\"deadline\":\"300ms\"}").await;
    until("it is over", async || progress(&proxy, "a").await["phase"] == "deadline").await;
    let ended = progress(&proxy, "a").await;
    assert_eq!((&ended["sessions"], &ended["sessions_before"]), (&json!(3), &json!(3)));
    assert_eq!(proxy.live("a").state(), linchpin::pool::AdminState::Drain, "there is no `then`");
    for pin in &pins {
        assert_eq!(proxy.get(Some(pin)).await.text(), "b");
    }
}

#[tokio::test]
async fn a_drain_without_a_deadline_moves_nobody_and_one_that_is_cancelled_leaves_all_as_it_was() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = proxy(&a, &b);
    let pins = sessions_on_a(&proxy, 3).await;
    let begun = drain(&proxy, "a", "").await;
    assert_eq!((&begun["deadline"], &begun["estimated_end"]), (&Value::Null, &Value::Null));
    for pin in &pins {
        assert_eq!(proxy.get(Some(pin)).await.text(), "a");
    }
    drain(&proxy, "a", "{\"deadline\":\"1h\",\"then\":\"maintenance\"}").await;
    let status = ask(&proxy, "DELETE", &path("a"), "").await;
    assert_eq!((&status["state"], &status["drain"]["phase"]), (&json!("ready"), &json!("cancelled")));
    assert_eq!(proxy.get(Some(&pins[0])).await.text(), "a");
    assert_eq!(proxy.ask("DELETE", &path("a"), "").await.status, 409);
    // One that has ended leaves it in `drain`; so does another one after it.
    for _ in 0..2 {
        drain(&proxy, "a", "{\"deadline\":\"0s\"}").await;
        until("its end", async || progress(&proxy, "a").await["phase"] == "deadline").await;
    }
    let status = ask(&proxy, "DELETE", &path("a"), "").await;
    assert_eq!((&status["state"], &status["drain"]["phase"]), (&json!("ready"), &json!("deadline")));
    assert_eq!(proxy.get(Some(&pins[0])).await.text(), "a");
    // Another state cancels it, too.
    let state = "/api/v1/pools/app/backends/a/state";
    ask(&proxy, "POST", state, "{\"state\":\"drain\",\"deadline\":\"1h\"}").await;
    assert_eq!(progress(&proxy, "a").await["phase"], "draining");
    ask(&proxy, "POST", state, "{\"state\":\"ready\"}").await;
    assert_eq!(progress(&proxy, "a").await["phase"], "cancelled");
    for body in ["{\"deadline\":\"soon\"}", "{\"then\":\"off\"}", "{\"until\":\"10m\"}"] {
        assert_eq!(proxy.ask("POST", &path("a"), body).await.status, 422, "{body}");
    }
    assert_eq!(proxy.ask("POST", state, "{\"state\":\"ready\",\"idle\":\"1s\"}").await.status, 422);
}

/// A backend that becomes a tunnel at `/ws`, a stream of events at `/events` and an endless list at `/lines`.
async fn streaming() -> std::net::SocketAddr {
    raw(|mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let start: &[u8] = match head.split(' ').nth(1)? {
            "/ws" => b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            "/events" => b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
            "/lines" => b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n2\r\n1\n\r\n",
            _ => {
                let last = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\na";
                return stream.write_all(last).await.ok().map(|()| 0);
            }
        };
        stream.write_all(start).await.ok()?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok()
    })
    .await
}

#[tokio::test]
async fn tunnels_and_streams_end_at_the_deadline_each_as_its_protocol_allows() {
    let (a, b) = (streaming().await, Backend::named("b").await);
    let builder = Proxy::builder().server("threads = 2").top(ADMIN);
    let proxy = builder.backend_at("a", a, "weight = 1000").backend(&b, "backup = true").start();
    let open = async |path: &str, fields: &str| {
        let mut client = proxy.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n{fields}\r\n").as_bytes()).await;
        client
    };
    let mut socket = open("/ws", "connection: Upgrade\r\nupgrade: websocket\r\n").await;
    let upgraded = soon("an upgrade", socket.try_any_response("GET")).await.unwrap();
    assert_eq!(upgraded.status, 101);
    let pin = upgraded.pin().unwrap();
    let (mut events, mut lines) = (open("/events", "").await, open("/lines", "").await);
    until("all are in flight", async || (proxy.live("a").tunnels(), proxy.live("a").active()) == (1, 3)).await;

    let since = Instant::now();
    drain(&proxy, "a", "{\"deadline\":\"1500ms\",\"idle\":\"0s\"}").await;
    while since.elapsed() < Duration::from_millis(1_200) {
        // Its WebSocket keeps the session, whatever else the client does.
        let mut client = proxy.client_with(&pin).await;
        let (server, tunnels) = (client.get("/").await.text(), proxy.live("a").tunnels());
        assert!((server.as_str(), tunnels) == ("a", 1) || since.elapsed() >= Duration::from_millis(1_500));
    }
    let (mut stream, rest) = socket.into_parts();
    let mut more = rest;
    soon("the end of the tunnel", stream.read_to_end(&mut more)).await.expect("an orderly end, and no reset");
    let ended = since.elapsed();
    assert!(ended >= Duration::from_millis(1_500) && ended < Duration::from_secs(6), "{ended:?}");
    let response = soon("the end of the events", events.try_response("GET")).await.expect("a complete response");
    assert_eq!(response.text(), "data: 1\n\n");
    assert!(soon("the end of the lines", lines.try_response("GET")).await.is_none(), "a list that breaks off");
    assert_eq!(proxy.client_with(&pin).await.get("/").await.text(), "b");
    until("nothing is in flight", async || (proxy.live("a").tunnels(), proxy.live("a").active()) == (0, 0)).await;
}

#[tokio::test]
async fn a_running_drain_outlives_reloads_but_for_one_that_changes_the_state() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let text = |lines: &str| Proxy::builder().top(ADMIN).backend(&a, lines).backend(&b, "").text();
    let linchpin = Reloadable::start(&text(""));
    let proxy = &linchpin.proxy;
    drain(proxy, "a", "{\"deadline\":\"1h\"}").await;
    proxy.get(None).await;
    linchpin.reload(&text("weight = 3")).await;
    assert_eq!(progress(proxy, "a").await["phase"], "draining");
    assert_eq!(proxy.live("a").state(), linchpin::pool::AdminState::Drain);
    linchpin.reload(&text("weight = 3\nstate = \"maintenance\"")).await;
    assert_eq!(proxy.live("a").state(), linchpin::pool::AdminState::Maintenance);
    assert_eq!(progress(proxy, "a").await["phase"], "cancelled");
}

#[tokio::test]
async fn new_sessions_go_to_draining_backends_rather_than_fail_when_no_other_is_left() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy =
        Proxy::builder().top(ADMIN).backend(&a, "state = \"drain\"").backend(&b, "state = \"maintenance\"").start();
    let response = proxy.get(None).await;
    assert_eq!((response.status, response.text().as_str()), (200, "a"));
    let pin = response.pin().unwrap();
    // A deadline moves nobody where there is nowhere to go.
    drain(&proxy, "a", "{\"deadline\":\"0s\"}").await;
    until("the deadline", async || progress(&proxy, "a").await["phase"] != "draining").await;
    assert_eq!(proxy.get(Some(&pin)).await.text(), "a");
    proxy.live("b").set_state(linchpin::pool::AdminState::Ready);
    assert_eq!(proxy.get(Some(&pin)).await.text(), "b");
    for _ in 0..3 {
        assert_eq!(proxy.get(None).await.text(), "b");
    }
}

#[tokio::test]
async fn sessions_of_a_lost_or_drained_server_prefer_its_group() {
    let blue = [Backend::named("blue1").await, Backend::named("blue2").await];
    let green = [Backend::named("green1").await, Backend::named("green2").await, Backend::named("green3").await];
    let mut builder = Proxy::builder().top(ADMIN);
    for backend in &blue {
        builder = builder.backend(backend, "group = \"blue\"");
    }
    for backend in &green {
        builder = builder.backend(backend, "group = \"green\"");
    }
    let proxy = builder.start();
    let mut on_blue = Vec::new();
    while on_blue.len() < 6 {
        let response = proxy.get(None).await;
        if response.text() == "blue1" {
            on_blue.push(response.pin().unwrap());
        }
    }
    drain(&proxy, "blue1", "{\"deadline\":\"0s\"}").await;
    for pin in &mut on_blue {
        let response = proxy.get(Some(pin)).await;
        assert_eq!(response.text(), "blue2");
        *pin = response.pin().unwrap();
    }
    let [_, second] = blue;
    second.kill().await;
    for pin in &on_blue {
        assert!(proxy.get(Some(pin)).await.text().starts_with("green"), "none of its group is left");
    }
}

#[tokio::test]
async fn a_backend_drains_itself_by_its_health_answers() {
    for (says, others) in [("linchpin-state: drain\r\n", ""), ("connection: close\r\n", "")] {
        let (wants, fields) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), says.to_owned());
        let asked = std::sync::Arc::clone(&wants);
        let a = Backend::start("a", move |seen| match seen.path() {
            "/health" if asked.load(std::sync::atomic::Ordering::SeqCst) => Reply::new(200, &fields, ""),
            "/health" => Reply::new(200, others, ""),
            _ => Reply::ok("a"),
        })
        .await;
        let b = Backend::named("b").await;
        let health = "path = \"/health\"\ninterval = \"100ms\"\ntimeout = \"10s\"";
        let builder = Proxy::builder().top(ADMIN).table("health", health);
        let proxy = builder.backend(&a, "weight = 1000").backend(&b, "").start();
        let pin = sessions_on_a(&proxy, 1).await.remove(0);
        a.has(3).await;
        wants.store(true, std::sync::atomic::Ordering::SeqCst);
        until("it drains", async || proxy.live("a").asks_for_drain()).await;
        let status = ask(&proxy, "GET", "/api/v1/status", "").await;
        let backend = &status["pools"][0]["backends"][0];
        assert_eq!((&backend["state"], &backend["asks_for_drain"]), (&json!("drain"), &json!(true)));
        assert_eq!(backend["drift"], Value::Null, "the operator has set nothing");
        assert_eq!(proxy.get(None).await.text(), "b");
        assert_eq!(proxy.get(Some(&pin)).await.text(), "a", "its sessions stay");
        wants.store(false, std::sync::atomic::Ordering::SeqCst);
        until("it serves again", async || !proxy.live("a").asks_for_drain()).await;
        assert_eq!(proxy.live("a").state(), linchpin::pool::AdminState::Ready);
    }
}

#[tokio::test]
async fn with_copies_a_drained_session_goes_on_with_all_that_it_had() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let builder = Proxy::builder().server("threads = 2").top(ADMIN).table("copies", "");
    let proxy = builder.backend(&apps[0].backend, "").backend(&apps[1].backend, "").start();
    let mut pin: Option<String> = None;
    let mut sid: Option<String> = None;
    let mut servers = std::collections::BTreeSet::new();
    for count in 1..=40 {
        let mut client = proxy.client().await;
        client.pin = pin.as_ref().map(|pin| sid.as_ref().map_or(pin.clone(), |sid| format!("{pin}; SID={sid}")));
        let response = client.request("POST", "/add", "", b"").await;
        assert_eq!((response.status, response.text()), (200, count.to_string()));
        pin = response.pin().or(pin);
        let set = response.fields("set-cookie");
        let set = set.iter().find_map(|cookie| cookie.strip_prefix("SID="));
        sid = set.map(|sid| sid.split(';').next().unwrap().to_owned()).or(sid);
        let server = response.field("x-server").unwrap().to_owned();
        servers.insert(server.clone());
        if count == 3 {
            drain(&proxy, &server, "{\"deadline\":\"500ms\",\"idle\":\"0s\",\"then\":\"maintenance\"}").await;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(servers.len(), 2, "it was moved");
}

#[tokio::test]
async fn sessions_of_a_backend_that_discovery_no_longer_finds_leave_it_over_the_time_of_its_drain() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let folder = super::support::tool::Folder::new();
    let lines = |all: &[&Backend]| {
        all.iter().map(|backend| format!("{} {}\n", backend.name(), backend.address())).collect::<String>()
    };
    let file = folder.write("backends", lines(&[&a, &b]).as_bytes());
    let proxy = Proxy::builder().top(ADMIN).discover(&format!("file = {file:?}\ndrain = \"8s\"")).start();
    until("both are found", async || proxy.pool().backends().len() == 2).await;
    let pins = sessions_on_a(&proxy, 12).await;
    std::fs::write(&file, lines(&[&b])).unwrap();
    until("it drains", async || proxy.pool().position("a").is_some_and(|_| proxy.live("a").is_leaving())).await;
    until("they are counted", async || progress(&proxy, "a").await["sessions_before"] == 12).await;
    let mut left = 0;
    while proxy.pool().position("a").is_some() && left < pins.len() {
        left = 0;
        for pin in &pins {
            left += usize::from(proxy.get(Some(pin)).await.text() == "b");
        }
        if left > 0 && left < pins.len() {
            break;
        }
    }
    assert!(left > 0 && left < pins.len(), "{left} of {} at a time", pins.len());
    until("it is removed", async || proxy.pool().position("a").is_none()).await;
    for pin in &pins {
        assert_eq!(proxy.get(Some(pin)).await.text(), "b");
    }
}
