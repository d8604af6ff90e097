//! Requests that wait because all backends of their pool are full.

use tokio::task::JoinHandle;

use super::support::gate::Gate;
use super::support::keys::pin;
use super::support::proxy::Builder;
use super::support::reloads::Reloadable;
use super::support::{Backend, Client, Keys, Proxy, Reply, Response, soon, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

fn builder(keys: &Keys, queue: &str, gates: &[(&str, &Gate)]) -> Builder {
    let builder = Proxy::builder().top(&format!("{}\n{ADMIN}", keys.tables())).table("queue", queue);
    gates.iter().fold(builder, |builder, (name, gate)| builder.backend_at(name, gate.address, "max_requests = 1"))
}

fn send(proxy: &Proxy, cookie: Option<&str>, path: &str) -> JoinHandle<Response> {
    let (address, cookie, path) = (proxy.address(), cookie.map(str::to_owned), path.to_owned());
    tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        client.pin = cookie;
        client.get(&path).await
    })
}

/// Sends a request that has to wait, as the last of so many.
async fn wait(proxy: &Proxy, cookie: Option<&str>, path: &str, waiting: u32) -> JoinHandle<Response> {
    let response = send(proxy, cookie, path);
    until("it waits", async || proxy.pool().queue_length() == waiting).await;
    response
}

/// Fills the backends with one new client each.
async fn fill(proxy: &Proxy, gates: &[&Gate]) -> Vec<JoinHandle<Response>> {
    let all = gates.iter().map(|_| send(proxy, None, "/busy")).collect();
    until("all are full", async || gates.iter().all(|gate| gate.seen().len() == 1)).await;
    all
}

async fn metrics(proxy: &Proxy) -> String {
    proxy.ask("GET", "/metrics", "").await.text()
}

#[tokio::test]
async fn sessions_come_first_then_new_clients_in_order_of_arrival_and_newcomers_overtake_nobody() {
    let (gate, keys) = (Gate::start().await, Keys::new(&[1]));
    let proxy = builder(&keys, "timeout = \"60s\"", &[("a", &gate)]).start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    let mut all = fill(&proxy, &[&gate]).await;
    for (number, (path, is_pinned)) in
        [("/new-1", false), ("/new-2", false), ("/own-1", true), ("/new-3", false), ("/own-2", true)]
            .into_iter()
            .enumerate()
    {
        all.push(wait(&proxy, is_pinned.then_some(&*cookie), path, number as u32 + 1).await);
    }
    assert!(metrics(&proxy).await.contains("linchpin_queue_length{pool=\"app\"} 5\n"));
    let status = proxy.ask("GET", "/api/v1/status", "").await.text();
    assert!(status.contains(r#""queue":{"length":5,"size":1000}"#), "{status}");
    let mut expected = vec!["/busy", "/own-1", "/own-2", "/new-1", "/new-2", "/new-3", "/late"];
    for served in 1..expected.len() {
        gate.lets.add_permits(1);
        until("the next one", async || gate.seen().len() > served).await;
        if served == 1 {
            all.push(wait(&proxy, None, "/late", 5).await);
        }
    }
    gate.lets.add_permits(1);
    for each in all {
        assert_eq!(soon("a response", each).await.unwrap().status, 200);
    }
    assert_eq!(gate.seen(), std::mem::take(&mut expected));
    let metrics = metrics(&proxy).await;
    assert!(metrics.contains("linchpin_queue_wait_seconds_count{pool=\"app\"} 6\n"), "{metrics}");
    assert!(metrics.contains("linchpin_queue_length{pool=\"app\"} 0\n"));
}

#[tokio::test]
async fn a_session_waits_for_its_own_backend_while_new_clients_take_the_others() {
    let (a, b, keys) = (Gate::start().await, Gate::start().await, Keys::new(&[1]));
    let proxy = builder(&keys, "timeout = \"60s\"", &[("a", &a), ("b", &b)]).start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    let busy = fill(&proxy, &[&a, &b]).await;
    let own = wait(&proxy, Some(&cookie), "/own", 1).await;
    let new = wait(&proxy, None, "/new", 2).await;
    b.lets.add_permits(1);
    until("the new client is served", async || b.seen() == ["/busy", "/new"]).await;
    assert_eq!((a.seen().len(), proxy.pool().queue_length()), (1, 1));
    a.lets.add_permits(2);
    let response = soon("a response", own).await.unwrap();
    assert_eq!((response.text(), response.pin()), ("/own".into(), None));
    b.lets.add_permits(10);
    for each in busy.into_iter().chain([new]) {
        assert!(soon("a response", each).await.unwrap().pin().is_some());
    }
    assert_eq!(a.seen(), ["/busy", "/own"]);
}

#[tokio::test]
async fn a_session_takes_capacity_that_nobody_else_wants_and_moves_there() {
    let (a, b, keys) = (Gate::start().await, Gate::start().await, Keys::new(&[1]));
    let proxy = builder(&keys, "timeout = \"60s\"", &[("a", &a), ("b", &b)]).start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    let _busy = fill(&proxy, &[&a, &b]).await;
    let own = wait(&proxy, Some(&cookie), "/own", 1).await;
    b.lets.add_permits(2);
    let response = soon("a response", own).await.unwrap();
    assert!(response.pin().is_some(), "its pin names the other backend now");
    assert_eq!(b.seen(), ["/busy", "/own"]);
}

#[tokio::test]
async fn a_full_queue_and_a_wait_that_takes_too_long_end_with_503_and_retry_after() {
    let (gate, keys) = (Gate::start().await, Keys::new(&[1]));
    let proxy = builder(&keys, "size = 1\ntimeout = \"1s\"", &[("a", &gate)]).start();
    let busy = fill(&proxy, &[&gate]).await;
    let begun = std::time::Instant::now();
    let waits = wait(&proxy, None, "/waits", 1).await;
    let refused = proxy.get(None).await;
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("5")));
    assert!(!waits.is_finished());
    let waited = soon("a response", waits).await.unwrap();
    assert_eq!((waited.status, waited.field("retry-after")), (503, Some("5")));
    assert!(begun.elapsed() >= std::time::Duration::from_millis(900), "{:?}", begun.elapsed());
    let metrics = metrics(&proxy).await;
    for line in [
        "linchpin_refused_total{pool=\"app\",reason=\"queue_full\"} 1",
        "linchpin_refused_total{pool=\"app\",reason=\"queue_timeout\"} 1",
        "linchpin_queue_wait_seconds_count{pool=\"app\"} 1",
        "linchpin_queue_length{pool=\"app\"} 0",
    ] {
        assert!(metrics.lines().any(|each| each == line), "{line}\n{metrics}");
    }
    gate.lets.add_permits(9);
    for each in busy {
        assert_eq!(soon("a response", each).await.unwrap().status, 200);
    }
    assert_eq!(gate.seen(), ["/busy"], "nobody is served who has an answer already");
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_of_the_pool_is_not_served() {
    let (gate, keys) = (Gate::start().await, Keys::new(&[1]));
    let proxy = builder(&keys, "timeout = \"60s\"", &[("a", &gate)]).start();
    let busy = fill(&proxy, &[&gate]).await;
    let mut leaves = proxy.client().await;
    leaves.send(b"GET /leaves HTTP/1.1\r\nhost: test\r\n\r\n").await;
    until("it waits", async || proxy.pool().queue_length() == 1).await;
    let stays = wait(&proxy, None, "/stays", 2).await;
    leaves.reset();
    until("one has left", async || proxy.pool().queue_length() == 1).await;
    gate.lets.add_permits(9);
    for each in busy.into_iter().chain([stays]) {
        assert_eq!(soon("a response", each).await.unwrap().status, 200);
    }
    assert_eq!(gate.seen(), ["/busy", "/stays"]);
}

#[tokio::test]
async fn a_backend_that_comes_back_serves_the_queue() {
    let (gate, keys) = (Gate::start().await, Keys::new(&[1]));
    let spare = Gate::start().await;
    let proxy = builder(&keys, "timeout = \"60s\"", &[("a", &gate), ("b", &spare)]).start();
    proxy.live("b").set_state(linchpin::pool::AdminState::Maintenance);
    let busy = fill(&proxy, &[&gate]).await;
    let waits = wait(&proxy, None, "/waits", 1).await;
    proxy.live("b").set_state(linchpin::pool::AdminState::Ready);
    until("it is served", async || spare.seen() == ["/waits"]).await;
    gate.lets.add_permits(1);
    spare.lets.add_permits(1);
    for each in busy.into_iter().chain([waits]) {
        assert_eq!(soon("a response", each).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_crowd_of_new_clients_never_exceeds_max_sessions_and_pins_hold() {
    let [a, b, _] = Backend::three().await;
    let gate = Gate::start().await;
    let keys = Keys::new(&[1]);
    let text = |sessions: u32, queue: &str| {
        let builder = Proxy::builder().top(&format!("{}\n{ADMIN}", keys.tables()));
        let builder = if queue.is_empty() { builder } else { builder.table("queue", queue) };
        builder.backend_at("a", gate.address, &format!("max_sessions = {sessions}")).text()
    };
    drop((a, b));
    let reloadable = Reloadable::start(&text(3, ""));
    let proxy = &reloadable.proxy;
    let crowd: Vec<_> = (0..10).map(|number| send(proxy, None, &format!("/{number}"))).collect();
    until("three have come", async || gate.seen().len() == 3).await;
    gate.lets.add_permits(1000);
    let mut statuses = Vec::new();
    let mut cookie = None;
    for each in crowd {
        let response = soon("a response", each).await.unwrap();
        cookie = response.pin().or(cookie);
        statuses.push(response.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [&[200; 3][..], &[503; 7]].concat());
    let refused = proxy.get(None).await;
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("5")));
    assert!(metrics(proxy).await.contains("linchpin_refused_total{pool=\"app\",reason=\"sessions_full\"} 8\n"));
    assert_eq!(proxy.get(cookie.as_deref()).await.status, 200, "its own sessions stay");
    // With a queue, a new client waits until there is room.
    reloadable.reload(&text(3, "timeout = \"60s\"")).await;
    let waits = wait(proxy, None, "/waits", 1).await;
    reloadable.reload(&text(4, "timeout = \"60s\"")).await;
    assert_eq!(soon("a response", waits).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_reload_changes_the_queue_in_place_and_a_removed_one_lets_nobody_else_wait() {
    let (gate, keys) = (Gate::start().await, Keys::new(&[1]));
    let text = |queue: &str| {
        let builder = Proxy::builder().top(&format!("{}\n{ADMIN}", keys.tables()));
        let builder = if queue.is_empty() { builder } else { builder.table("queue", queue) };
        builder.backend_at("a", gate.address, "max_requests = 1").text()
    };
    let reloadable = Reloadable::start(&text("timeout = \"60s\"\nsize = 1"));
    let proxy = &reloadable.proxy;
    let busy = fill(proxy, &[&gate]).await;
    let first = wait(proxy, None, "/first", 1).await;
    assert_eq!(proxy.get(None).await.status, 503, "the queue is full");
    reloadable.reload(&text("timeout = \"60s\"\nsize = 2")).await;
    let second = wait(proxy, None, "/second", 2).await;
    reloadable.reload(&text("")).await;
    assert_eq!(proxy.get(None).await.status, 503);
    gate.lets.add_permits(9);
    for each in busy.into_iter().chain([first, second]) {
        assert_eq!(soon("a response", each).await.unwrap().status, 200);
    }
    assert_eq!(gate.seen(), ["/busy", "/first", "/second"]);
    assert_eq!(proxy.get(None).await.status, 200);
}

#[tokio::test]
async fn a_request_that_may_not_wait_for_its_backend_still_waits_for_any_where_the_policy_says_so() {
    // The policy `refuse` comes before the queue; `borrow` keeps the pin, whoever serves.
    let (a, b, keys) = (Gate::start().await, Gate::start().await, Keys::new(&[1]));
    let borrow = builder(&keys, "timeout = \"60s\"", &[("a", &a), ("b", &b)]);
    let proxy = borrow.table("persistence", "on = { full = \"borrow\" }").start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    let _busy = fill(&proxy, &[&a, &b]).await;
    let own = wait(&proxy, Some(&cookie), "/own", 1).await;
    b.lets.add_permits(2);
    assert_eq!(soon("a response", own).await.unwrap().pin(), None, "borrowed");
    let c = Backend::start("c", |_| Reply::Hang).await;
    let refuse = Proxy::builder().top(&keys.tables()).table("queue", "timeout = \"60s\"");
    let refuse = refuse.table("persistence", "on = { full = \"refuse\" }").backend(&c, "max_requests = 1").start();
    let cookie = keys.cookie(&pin(&refuse, "c", 7));
    let _busy = send(&refuse, None, "/busy");
    until("it is full", async || refuse.live("c").active() == 1).await;
    assert_eq!(refuse.get(Some(&cookie)).await.status, 503);
}
