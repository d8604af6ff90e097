//! The events of the admin API: what happens is published with its reason, and a subscriber that returns goes on where it
//! was.

use serde_json::{Value, json};

use super::support::events::EventStream;
use super::support::reloads::Reloadable;
use super::support::tool::{Folder, run};
use super::support::{Backend, Client, Proxy, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// A configuration with this top, and with one pool of these backends, which are probed.
fn file(top: &str, backends: &[&Backend]) -> String {
    let backends = backends.iter().map(|backend| {
        format!("[[pools.backends]]\nname = \"{}\"\naddress = \"{}\"\n", backend.name(), backend.address())
    });
    format!(
        "[server]\nthreads = 1\n[log]\naccess = \"off\"\n{top}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\n\
         name = \"app\"\n[pools.health]\npath = \"/\"\ninterval = \"20ms\"\ntimeout = \"10s\"\nfall = 1\nrise = 1\n{}",
        backends.collect::<String>()
    )
}

fn without_time(mut data: Value) -> Value {
    let time = data.as_object_mut().unwrap().remove("time").unwrap().as_f64().unwrap();
    assert!(time > 1.7e9, "{time}");
    data
}

#[tokio::test]
async fn changes_of_health_and_moves_are_events_with_their_reasons() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let linchpin = Reloadable::start(&file(ADMIN, &[&a, &b]));
    let mut client = linchpin.proxy.client().await;
    let server = client.get("/").await.text();
    let mut events = EventStream::open(linchpin.proxy.admin(), "", "").await;
    assert!(events.head.starts_with("HTTP/1.0 200 ") && events.head.contains("content-type: text/event-stream"));
    let lost = if server == "a" { a } else { b };
    drop(lost);
    let mut health = without_time(events.next("health").await.data);
    // A probe may have been on its way.
    let reason = health["reason"].take();
    assert!(["connection refused", "connection reset"].contains(&reason.as_str().unwrap()), "{reason}");
    let expected = json!({
        "kind": "health", "pool": "app", "backend": server, "from": "up", "to": "down", "reason": null, "by": "probes",
    });
    assert_eq!(health, expected);
    assert_eq!(client.get("/").await.status, 200);
    let moves = events.next("moves").await;
    assert_eq!(without_time(moves.data), json!({ "kind": "moves", "pool": "app", "cause": "down", "sessions": 1 }));
}

#[tokio::test]
async fn reloads_are_events_and_a_subscriber_that_returns_goes_on_where_it_was() {
    let a = Backend::named("a").await;
    let linchpin = Reloadable::start(&file(ADMIN, &[&a]));
    let admin = linchpin.proxy.admin();
    let mut events = EventStream::open(admin, "?last=9", "").await;
    assert_eq!(without_time(events.next("process").await.data), json!({ "kind": "process", "phase": "ready" }));

    linchpin.reload(&file(&format!("{ADMIN}[[keys"), &[&a])).await;
    let refused = events.next("reload").await;
    assert_eq!((&refused.data["result"], &refused.data["generation"]), (&json!("refused"), &json!(1)));
    assert!(refused.data["reason"].as_str().unwrap().contains("linchpin.toml:"), "{refused:?}");
    drop(events);
    linchpin.reload(&file(&format!("{ADMIN}[server.limits]\nheader_count = 9\n"), &[&a])).await;
    linchpin.proxy.reload(false).await;
    assert_eq!(linchpin.proxy.reload(true).await.generation, 2, "a dry run is no event");

    let id = format!("last-event-id: {}\r\n", refused.id.clone().unwrap());
    let mut again = EventStream::open(admin, "", &id).await;
    let applied = again.next("reload").await;
    let expected = json!({
        "kind": "reload", "result": "applied", "generation": 2, "by": "api", "changes": 1, "keys": ["server.limits"],
    });
    assert_eq!(without_time(applied.data), expected);
    assert_eq!(again.next("reload").await.data["result"], "unchanged");

    // A former process had other events: how many are lost can't be known.
    let mut other = EventStream::open(admin, "", "last-event-id: 0123456789abcdef-7\r\n").await;
    let first = other.try_next().await.unwrap();
    assert_eq!((first.name.as_str(), first.id, first.data), ("lost", None, json!({ "kind": "lost", "events": null })));
    assert_eq!(other.next("process").await.data["phase"], "ready");
}

#[tokio::test]
async fn what_the_operator_sets_is_an_event() {
    let a = Backend::named("a").await;
    let linchpin = Reloadable::start(&file(ADMIN, &[&a]));
    let mut events = EventStream::open(linchpin.proxy.admin(), "", "").await;
    let path = "/api/v1/pools/app/backends/a";
    linchpin.proxy.ask("POST", &format!("{path}/state"), "{\"state\":\"drain\"}").await;
    linchpin.proxy.ask("POST", &format!("{path}/weight"), "{\"weight\":7}").await;
    let expected = |kind: &str, from: Value, to: Value| json!({ "kind": kind, "pool": "app", "backend": "a", "from": from, "to": to, "by": "api" });
    assert_eq!(without_time(events.next("state").await.data), expected("state", "ready".into(), "drain".into()));
    assert_eq!(without_time(events.next("weight").await.data), expected("weight", 1.into(), 7.into()));
}

#[tokio::test]
async fn a_stop_is_an_event_and_ends_the_streams() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().server("shutdown_grace = \"1s\"").top(ADMIN).backend(&a, "").start();
    let mut events = EventStream::open(proxy.admin(), "", "").await;
    let stopping = tokio::spawn(proxy.stop());
    assert_eq!(events.next("process").await.data["phase"], "stopping");
    until("the stream ends", async || events.try_next().await.is_none()).await;
    stopping.await.unwrap();
}

#[tokio::test]
async fn another_token_ends_the_streams_of_the_former_one() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    folder.write("token", b"one");
    run("chmod", &["600", &folder.file("token")]).await;
    let secured = format!("{ADMIN}token_file = \"{}\"\n", folder.file("token"));
    let linchpin = Reloadable::start(&file(&secured, &[&a]));
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let refused = EventStream::open(linchpin.proxy.admin(), "", "").await;
    assert!(refused.head.starts_with("HTTP/1.0 401 "), "{}", refused.head);
    let mut events = EventStream::open(linchpin.proxy.admin(), "", &bearer("one")).await;
    linchpin.reload(&file(&format!("{secured}[server.limits]\nheader_count = 9\n"), &[&a])).await;
    assert_eq!(events.next("reload").await.data["result"], "applied", "the same token stays valid");
    std::fs::write(folder.file("token"), "two").unwrap();
    linchpin.proxy.reload(false).await;
    until("the stream ends", async || events.try_next().await.is_none()).await;
    let mut again = EventStream::open(linchpin.proxy.admin(), "?last=1", &bearer("two")).await;
    assert_eq!(again.next("reload").await.data["keys"], json!(["admin.token_file"]));
}

#[tokio::test]
async fn streams_are_bounded_and_take_no_place_of_other_requests() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().top(ADMIN).backend(&a, "").start();
    let mut streams = Vec::new();
    for _ in 0..16 {
        let stream = EventStream::open(proxy.admin(), "", "").await;
        assert!(stream.head.starts_with("HTTP/1.0 200 "));
        streams.push(stream);
    }
    let more = EventStream::open(proxy.admin(), "", "").await;
    assert!(more.head.starts_with("HTTP/1.0 503 ") && more.head.contains("retry-after"), "{}", more.head);
    assert_eq!(proxy.ask("GET", "/api/v1/status", "").await.status, 200);
    assert_eq!(proxy.ask("GET", "/api/v1/events?last=-1", "").await.status, 503);
    streams.pop();
    until("its place is free", async || {
        let mut admin = Client::connect(proxy.admin()).await;
        admin.send(b"GET /api/v1/events?last=-1 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        admin.response().await.status == 400
    })
    .await;
}
