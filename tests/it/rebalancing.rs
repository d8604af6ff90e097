//! `[pools.rebalance]`: idle sessions move from the fullest backend to the emptiest one.

use serde_json::json;

use super::support::events::EventStream;
use super::support::keys::pin;
use super::support::proxy::Builder;
use super::support::reloads::Reloadable;
use super::support::{Backend, Client, Keys, Proxy, Reply, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

fn builder(keys: &Keys, rebalance: &str) -> Builder {
    let builder = Proxy::builder().top(&format!("{}\n{ADMIN}", keys.tables()));
    builder.table("persistence", "verdict_header = \"Linchpin-Verdict\"").table("rebalance", rebalance)
}

/// Returns clients whose sessions are on a backend, after a request of each.
async fn clients(proxy: &Proxy, keys: &Keys, backend: &str, count: u64) -> Vec<Client> {
    let mut clients = Vec::new();
    for session in 0..count {
        // Pins know whole seconds: one of this second could be idle for almost one.
        let mut pin = pin(proxy, backend, 100 + session);
        pin.last_seen += 1;
        let mut client = proxy.client_with(&keys.cookie(&pin)).await;
        assert_eq!(client.get("/").await.text(), backend);
        clients.push(client);
    }
    clients
}

/// Sends a request of each client, and returns how many sessions each backend has, and the verdicts but for hits.
async fn round(clients: &mut [Client]) -> (usize, usize, Vec<String>) {
    let (mut a, mut b, mut verdicts) = (0, 0, Vec::new());
    for client in clients {
        let response = client.get("/").await;
        assert_eq!(response.status, 200);
        *if response.text() == "a" { &mut a } else { &mut b } += 1;
        let verdict = response.field("linchpin-verdict").unwrap_or_default();
        if verdict != "hit" {
            assert!(response.pin().is_some(), "{verdict}");
            verdicts.push(verdict.to_owned());
        }
    }
    (a, b, verdicts)
}

async fn moved(proxy: &Proxy) -> u64 {
    let metrics = proxy.ask("GET", "/metrics", "").await.text();
    let line = metrics.lines().find(|line| line.starts_with("linchpin_rebalanced_sessions_total"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("the metric")
}

#[tokio::test]
async fn idle_sessions_move_to_the_emptiest_backend_until_the_load_is_even_and_no_further() {
    let ([a, b, _], keys) = (Backend::three().await, Keys::new(&[1]));
    let rebalance = "sessions_per_minute = 6000\nfactor = 1.25\nidle = \"100ms\"";
    let proxy = builder(&keys, rebalance).backend(&a, "").backend(&b, "").start();
    let mut clients = clients(&proxy, &keys, "a", 20).await;
    let mut verdicts = Vec::new();
    let mut even = (0, 0);
    until("an even load", async || {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        let (a, b, moves) = round(&mut clients).await;
        verdicts.extend(moves);
        even = (a, b);
        b >= 8
    })
    .await;
    // 10 each; up to 12 may stay.
    assert_eq!((even, verdicts.len()), ((12, 8), 8));
    assert!(verdicts.iter().all(|verdict| verdict == "moved; cause=rebalanced"), "{verdicts:?}");
    until("the work is done", async || {
        let status = proxy.ask("GET", "/api/v1/status", "").await.text();
        status.contains(r#""rebalance":{"working":false,"moved":8,"sessions_per_minute":6000,"factor":1.25}"#)
    })
    .await;
    assert_eq!(moved(&proxy).await, 8);
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    assert_eq!(round(&mut clients).await, (12, 8, Vec::new()), "they stay");
    let metrics = proxy.ask("GET", "/metrics", "").await.text();
    assert!(metrics.contains("linchpin_moves_total{pool=\"app\",cause=\"rebalanced\"} 8\n"), "{metrics}");
}

#[tokio::test]
async fn a_session_with_a_request_in_flight_stays_until_that_ends() {
    let (hold, held) = tokio::sync::watch::channel(false);
    let keys = Keys::new(&[1]);
    let a = Backend::start("a", move |seen| match seen.path() {
        "/held" => Reply::Held(held.clone(), b"HTTP/1.1 200 X\r\ncontent-length: 1\r\n\r\na".to_vec()),
        _ => Reply::ok("a"),
    })
    .await;
    let b = Backend::named("b").await;
    let rebalance = "sessions_per_minute = 6000\nfactor = 1\nidle = \"100ms\"";
    let proxy = builder(&keys, rebalance).backend(&a, "").backend(&b, "").start();
    let mut all = clients(&proxy, &keys, "a", 2).await;
    let cookie = all[0].pin.clone().unwrap();
    // The other one must not make the load even.
    all.truncate(1);
    let mut busy = proxy.client_with(&cookie).await;
    busy.send(format!("GET /held HTTP/1.1\r\nhost: x\r\ncookie: {cookie}\r\n\r\n").as_bytes()).await;
    until("it is in flight", async || proxy.live("a").active() == 1).await;
    until("sessions may leave", async || proxy.live("a").rebalancing().is_active()).await;
    for _ in 0..30 {
        tokio::time::sleep(std::time::Duration::from_millis(120)).await;
        assert_eq!(all[0].get("/").await.text(), "a");
    }
    hold.send(true).unwrap();
    assert_eq!(busy.response().await.text(), "a");
    until("it moves", async || {
        tokio::time::sleep(std::time::Duration::from_millis(120)).await;
        all[0].get("/").await.text() == "b"
    })
    .await;
}

#[tokio::test]
async fn an_application_offers_a_moment_to_move_and_its_field_reaches_no_client() {
    let keys = Keys::new(&[1]);
    let a = Backend::start("a", |seen| match seen.path() {
        "/done" => Reply::new(200, "Linchpin-Release: ?1\r\n", "a"),
        "/no" => Reply::new(200, "Linchpin-Release: ?0\r\n", "a"),
        _ => Reply::ok("a"),
    })
    .await;
    let b = Backend::named("b").await;
    let rebalance = "sessions_per_minute = 6000\nfactor = 1\nidle = \"1h\"";
    let proxy = builder(&keys, rebalance).backend(&a, "").backend(&b, "").start();
    let mut all = clients(&proxy, &keys, "a", 10).await;
    until("sessions may leave", async || proxy.live("a").rebalancing().is_active()).await;
    assert_eq!(round(&mut all).await, (10, 0, Vec::new()), "none was idle for long enough");
    assert_eq!(all[3].get("/done").await.field("linchpin-release"), None);
    let next = all[3].get("/").await;
    assert_eq!((next.text(), next.field("linchpin-verdict")), ("b".into(), Some("moved; cause=rebalanced")));
    assert_eq!(all[4].get("/no").await.text(), "a");
    assert_eq!(all[4].get("/").await.text(), "a");
}

#[tokio::test]
async fn no_minute_has_more_moves_than_its_budget_and_a_reload_changes_it_in_place() {
    let ([a, b, _], keys) = (Backend::three().await, Keys::new(&[1]));
    let text = |rebalance: &str| builder(&keys, rebalance).backend(&a, "").backend(&b, "").text();
    let reloadable = Reloadable::start(&text("sessions_per_minute = 2\nfactor = 1\nidle = \"100ms\""));
    let proxy = &reloadable.proxy;
    let mut all = clients(proxy, &keys, "a", 20).await;
    let mut even = (0, 0);
    let mut rounds = 0;
    until("many seconds", async || {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        let (a, b, _) = round(&mut all).await;
        (even, rounds) = ((a, b), rounds + 1);
        rounds >= 30
    })
    .await;
    assert_eq!(even, (18, 2));
    reloadable.reload(&text("sessions_per_minute = 6000\nfactor = 1\nidle = \"100ms\"")).await;
    until("an even load", async || {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        round(&mut all).await.0 == 10
    })
    .await;
}

#[tokio::test]
async fn a_reload_that_removes_the_section_moves_nobody_else() {
    let ([a, b, _], keys) = (Backend::three().await, Keys::new(&[1]));
    let with = builder(&keys, "sessions_per_minute = 6000\nfactor = 1\nidle = \"1h\"");
    let without = Proxy::builder().top(&format!("{}\n{ADMIN}", keys.tables()));
    let without = without.table("persistence", "verdict_header = \"Linchpin-Verdict\"");
    let [with, without] = [with, without].map(|builder| builder.backend(&a, "").backend(&b, "").text());
    let reloadable = Reloadable::start(&with);
    let proxy = &reloadable.proxy;
    let mut all = clients(proxy, &keys, "a", 10).await;
    until("sessions may leave", async || proxy.live("a").rebalancing().is_active()).await;
    reloadable.reload(&without).await;
    until("none may leave any more", async || !proxy.live("a").rebalancing().is_active()).await;
    // As the application of one could offer it before the section was removed.
    proxy.live("a").rebalancing().offer(100);
    assert_eq!(round(&mut all).await, (10, 0, Vec::new()));
    let status = proxy.ask("GET", "/api/v1/status", "").await.text();
    assert!(!status.contains("\"rebalance\""), "{status}");
    assert_eq!((proxy.pool().rebalancer().moved(), proxy.pool().rebalancer().is_working()), (0, false));
    // With the section back it goes on.
    reloadable.reload(&with.replace("1h", "100ms")).await;
    until("an even load", async || {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        round(&mut all).await.0 == 5
    })
    .await;
}

#[tokio::test]
async fn what_rebalancing_has_moved_is_an_event() {
    let ([a, b, _], keys) = (Backend::three().await, Keys::new(&[1]));
    let rebalance = "sessions_per_minute = 6000\nfactor = 1.25\nidle = \"100ms\"";
    let proxy = builder(&keys, rebalance).backend(&a, "").backend(&b, "").start();
    let mut events = EventStream::open(proxy.admin(), "", "").await;
    let mut clients = clients(&proxy, &keys, "a", 10).await;
    until("sessions have moved", async || {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        round(&mut clients).await.1 >= 4
    })
    .await;
    let event = events.next("rebalance").await.data;
    assert_eq!((&event["pool"], &event["from"], &event["to"]), (&json!("app"), &json!("a"), &json!("b")), "{event}");
    assert_eq!(event["sessions"], moved(&proxy).await, "all of them in one event");
}
