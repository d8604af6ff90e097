//! `Linchpin-Replica`: a cluster that replicates its sessions says where the replica is, and a session moves there first.

use linchpin::affinity::Pin;
use linchpin::pool::AdminState;

use super::support::backend::Seen;
use super::support::keys::pin;
use super::support::process::Redis;
use super::support::proxy::Builder;
use super::support::{Backend, Keys, Proxy, Reply, Response, until};

const COOKIE: &str = "type = \"cookie\"";
const HEADER: &str = "type = \"header\"\nheader = { name = \"X-Pin\" }";
const LEARNED: &str = "type = \"learned\"\nlearned = { cookie = \"SID\" }";
const ROUTE: &str = "type = \"route\"\nroute = { cookie = \"SID\", separator = \"!\" }";
const NONE: &str = "type = \"none\"";

/// A server of a cluster, whose responses name `replica` and, for a client without one, set the cookie `SID`.
async fn node(name: &'static str, replica: &'static str) -> Backend {
    let reply = move |seen: &Seen| {
        let said = seen.path().strip_prefix("/replica/").map_or(replica, |said| said);
        let id = if seen.field("cookie").is_some() { "" } else { "set-cookie: SID=s1; Path=/\r\n" };
        let fields = if said.is_empty() { id.to_owned() } else { format!("linchpin-replica: {said}\r\n{id}") };
        Reply::new(200, &fields, name)
    };
    Backend::start(name, reply).await
}

fn before(persistence: &str, backends: &[&Backend]) -> Builder {
    backends
        .iter()
        .fold(Proxy::builder().table("persistence", persistence), |builder, backend| builder.backend(backend, ""))
}

/// Returns what a client sends back after this response: its pin and its session id.
fn sent_back(response: &Response, before: &str) -> String {
    let cookies: Vec<_> = response.fields("set-cookie").iter().map(|set| set.split(';').next().unwrap()).collect();
    let cookie = if cookies.is_empty() { String::new() } else { format!("cookie: {}\r\n", cookies.join("; ")) };
    let field = response.field("x-pin").map_or(String::new(), |pin| format!("x-pin: {pin}\r\n"));
    let new = format!("{cookie}{field}");
    if new.is_empty() { before.to_owned() } else { new }
}

async fn get(proxy: &Proxy, path: &str, fields: &str) -> Response {
    let response = proxy.client().await.request("GET", path, fields, b"").await;
    assert_eq!(response.field("linchpin-replica"), None, "{}", response.head);
    response
}

/// Begins a session on `a`, where the balancer may have chosen another node.
async fn begin_on_a(proxy: &Proxy) -> Response {
    let set = |state| {
        for backend in proxy.pool().backends().iter().filter(|backend| &**backend.name() != "a") {
            backend.live().set_state(state);
        }
    };
    set(AdminState::Maintenance);
    let first = get(proxy, "/", "").await;
    set(AdminState::Ready);
    assert_eq!(first.text(), "a");
    first
}

#[tokio::test]
async fn a_session_moves_to_the_replica_that_its_backend_named() {
    for persistence in [COOKIE, HEADER, LEARNED] {
        for replica in ["b", "c", "d"] {
            let nodes = [node("a", replica).await, node("b", "").await, node("c", "").await, node("d", "").await];
            let [a, b, c, d] = nodes;
            let proxy = before(persistence, &[&a, &b, &c, &d]).start();
            let first = begin_on_a(&proxy).await;
            let fields = sent_back(&first, "");
            let again = get(&proxy, "/", &fields).await;
            assert_eq!((again.text(), again.pin(), again.field("x-pin")), ("a".into(), None, None), "said already");
            a.kill().await;
            let moved = get(&proxy, "/", &fields).await;
            assert_eq!(moved.text(), replica, "{persistence}");
            let fields = sent_back(&moved, &fields);
            assert_eq!(get(&proxy, "/", &fields).await.text(), replica, "and stays there");
        }
    }
}

#[tokio::test]
async fn a_replica_that_changes_is_in_the_pin_of_that_response() {
    let [a, b, c] = [node("a", "").await, node("b", "").await, node("c", "").await];
    let keys = Keys::new(&[1]);
    let proxy = before(COOKIE, &[&a, &b, &c]).top(&keys.tables()).start();
    let mut pin = pin(&proxy, "a", 7);
    for (said, expected) in [
        ("", None),
        ("b", Some("b")),
        ("b", None),
        ("c", Some("c")),
        ("a", None),
        ("gone", None),
        ("b,c", None),
        ("", None),
        ("b", Some("b")),
    ] {
        let fields = format!("cookie: {}\r\n", keys.cookie(&pin));
        let response = get(&proxy, &format!("/replica/{said}"), &fields).await;
        assert_eq!(response.text(), "a");
        let issued = keys.issued(&response);
        let replica = issued.as_ref().and_then(|pin| pin.replica.as_deref());
        assert_eq!(replica, expected, "{said}");
        pin = issued.unwrap_or(pin);
    }
}

#[tokio::test]
async fn a_replica_that_cannot_serve_either_leaves_the_usual_order() {
    let [a, b, c] = [node("a", "c").await, node("b", "").await, node("c", "").await];
    let keys = Keys::new(&[1]);
    let proxy = before(COOKIE, &[&a, &b, &c]).top(&keys.tables()).start();
    let pin = Pin { replica: Some("c".into()), ..pin(&proxy, "a", 7) };
    let fields = format!("cookie: {}\r\n", keys.cookie(&pin));
    proxy.live("a").set_state(AdminState::Maintenance);
    assert_eq!(get(&proxy, "/", &fields).await.text(), "c");
    proxy.live("c").set_state(AdminState::Maintenance);
    assert_eq!(get(&proxy, "/", &fields).await.text(), "b");
    proxy.live("c").set_state(AdminState::Ready);
    c.kill().await;
    let response = get(&proxy, "/", &fields).await;
    assert_eq!(response.text(), "b", "it fails the request, which goes on");
    let moved = keys.issued(&response).unwrap();
    assert_eq!((&*moved.backend, moved.replica), ("b", None));
}

#[tokio::test]
async fn the_field_reaches_no_client_and_a_clients_reaches_no_backend_in_any_pool() {
    for persistence in [COOKIE, HEADER, LEARNED, ROUTE, NONE] {
        let [a, b] = [node("a", "b").await, node("b", "a").await];
        let proxy = before(persistence, &[&a, &b]).start();
        for name in ["linchpin-replica", "Linchpin_Replica"] {
            let fields = format!("{name}: b\r\nconnection: linchpin-replica\r\n");
            get(&proxy, "/", &fields).await;
        }
        for seen in a.seen().iter().chain(&b.seen()) {
            assert!(!seen.line().is_empty() && seen.fields("linchpin-replica").is_empty(), "{persistence}");
            assert!(seen.fields("linchpin_replica").is_empty(), "{persistence}");
        }
    }
}

#[tokio::test]
async fn a_borrowing_backend_says_nothing_of_the_replica() {
    let [a, b, c] = [node("a", "").await, node("b", "c").await, node("c", "b").await];
    let keys = Keys::new(&[1]);
    let proxy = before("on = { maintenance = \"borrow\" }", &[&a, &b, &c]).top(&keys.tables()).start();
    let fields = format!("cookie: {}\r\n", keys.cookie(&pin(&proxy, "a", 7)));
    proxy.live("a").set_state(AdminState::Maintenance);
    let borrowed = get(&proxy, "/", &fields).await;
    assert_ne!(borrowed.text(), "a");
    assert_eq!(borrowed.pin(), None);
}

#[tokio::test]
async fn another_linchpin_moves_a_learned_session_to_its_replica() {
    let redis = Redis::start().await;
    let [a, b, c, d] = [node("a", "d").await, node("b", "").await, node("c", "").await, node("d", "").await];
    let persistence = format!(
        "type = \"learned\"\nlearned = {{ cookie = \"SID\", store = \"{}\" }}\nverdict_header = \"X-Verdict\"",
        redis.address()
    );
    let backends = [&a, &b, &c, &d];
    let (one, other) = (before(&persistence, &backends).start(), before(&persistence, &backends).start());
    let first = begin_on_a(&one).await;
    let fields = sent_back(&first, "");
    let is_hit = async || get(&other, "/", &fields).await.field("x-verdict") == Some("hit");
    until("the other Linchpin knows the session", is_hit).await;
    a.kill().await;
    assert_eq!(get(&other, "/", &fields).await.text(), "d");
}
