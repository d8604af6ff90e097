//! Policies for pins that do not hold, and rules for requests that persistence treats differently.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use linchpin::affinity::Pin;
use linchpin::pool::{AdminState, Health};
use tokio::task::JoinHandle;

use super::support::keys::{now, pin};
use super::support::proxy::Builder;
use super::support::{Backend, Keys, Proxy, Reply, Response, soon, until};

/// Builds a proxy with keys that the test has, these persistence settings, and the verdict in a response field.
fn keyed(keys: &Keys, persistence: &str, backends: &[&Backend]) -> Builder {
    let lines = format!("verdict_header = \"X-Verdict\"\n{persistence}");
    let builder = Proxy::builder().top(&keys.tables()).table("persistence", &lines);
    backends.iter().fold(builder, |builder, backend| builder.backend(backend, ""))
}

fn verdict(response: &Response) -> &str {
    response.field("x-verdict").unwrap_or_default()
}

/// Sends a request in a task of its own.
fn later(proxy: &Proxy, cookie: &str) -> JoinHandle<Response> {
    let (address, cookie) = (proxy.address(), cookie.to_owned());
    tokio::spawn(async move {
        let mut client = super::support::Client::connect(address).await;
        client.pin = Some(cookie);
        client.get("/").await
    })
}

#[tokio::test]
async fn a_borrowed_session_returns_as_soon_as_its_backend_does() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, "on = { maintenance = \"borrow\" }", &[&a, &b]).start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    proxy.live("a").set_state(AdminState::Maintenance);
    for _ in 0..3 {
        let response = proxy.get(Some(&cookie)).await;
        assert_eq!((response.text(), response.pin()), ("b".into(), None));
        assert_eq!(verdict(&response), "borrowed; cause=maintenance");
    }
    proxy.live("a").set_state(AdminState::Ready);
    let back = proxy.get(Some(&cookie)).await;
    assert_eq!((back.text().as_str(), verdict(&back)), ("a", "hit"));
}

#[tokio::test]
async fn a_session_that_its_backend_failed_is_borrowed_under_that_policy_for_down() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, "on = { down = \"borrow\" }", &[&a, &b]).start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    let address = a.kill().await;
    let borrowed = proxy.get(Some(&cookie)).await;
    assert_eq!((borrowed.status, borrowed.text().as_str(), borrowed.pin()), (200, "b", None));
    assert_eq!(verdict(&borrowed), "borrowed; cause=failed");
    let _a = Backend::start_at("a", address, |_| Reply::ok("a")).await;
    assert_eq!(proxy.get(Some(&cookie)).await.text(), "a");
}

#[tokio::test]
async fn the_policy_refuse_responds_with_the_configured_status_and_retry_after() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let persistence =
        "on = { down = \"refuse\", unknown = \"refuse\" }\nrefuse = { status = 421, retry_after = \"7s\" }";
    let proxy = keyed(&keys, persistence, &[&a, &b]).start();
    let (to_a, to_z) = (keys.cookie(&pin(&proxy, "a", 7)), keys.cookie(&pin(&proxy, "z", 7)));
    a.kill().await;
    for (cookie, says) in [(to_a, "refused; cause=failed"), (to_z, "refused; cause=unknown")] {
        let refused = proxy.get(Some(&cookie)).await;
        assert_eq!((refused.status, refused.field("retry-after"), refused.pin()), (421, Some("7"), None));
        assert_eq!(verdict(&refused), says);
        assert!(!refused.text().contains("127.0.0.1"));
    }
    assert_eq!((b.count(), proxy.get(None).await.text().as_str()), (0, "b"));
}

#[tokio::test]
async fn sessions_leave_a_draining_backend_only_under_a_policy_for_draining() {
    for (persistence, expected) in [("", "a"), ("on = { draining = \"move\" }", "b")] {
        let [a, b, _] = Backend::three().await;
        let keys = Keys::new(&[1]);
        let proxy = keyed(&keys, persistence, &[&a, &b]).start();
        proxy.live("a").set_state(AdminState::Drain);
        let response = proxy.get(Some(&keys.cookie(&pin(&proxy, "a", 7)))).await;
        assert_eq!(response.text(), expected, "{persistence}");
    }
}

#[tokio::test]
async fn a_request_waits_for_its_backend_and_continues_as_soon_as_it_returns() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let persistence = "on = { maintenance = \"wait\" }\nwait = { time = \"60s\" }";
    let proxy = keyed(&keys, persistence, &[&a, &b]).start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    proxy.live("a").set_state(AdminState::Maintenance);
    let held: Vec<_> = (0..5).map(|_| later(&proxy, &cookie)).collect();
    until("five wait", async || proxy.live("a").waiting() == 5).await;
    assert_eq!((a.count(), b.count()), (0, 0));
    proxy.live("a").set_state(AdminState::Ready);
    for each in held {
        let response = soon("a response", each).await.unwrap();
        assert_eq!((response.text().as_str(), verdict(&response), response.pin()), ("a", "hit", None));
    }
    assert_eq!(proxy.live("a").waiting(), 0);
}

#[tokio::test]
async fn a_request_whose_wait_times_out_moves() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let persistence = "on = { maintenance = \"wait\" }\nwait = { time = \"50ms\" }";
    let proxy = keyed(&keys, persistence, &[&a, &b]).start();
    proxy.live("a").set_state(AdminState::Maintenance);
    let moved = proxy.get(Some(&keys.cookie(&pin(&proxy, "a", 7)))).await;
    assert_eq!((moved.text().as_str(), verdict(&moved)), ("b", "moved; cause=maintenance"));
    assert_eq!(keys.issued(&moved).map(|pin| (pin.session, pin.backend.to_string())), Some((7, "b".into())));
}

#[tokio::test]
async fn no_more_requests_wait_than_configured() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let persistence = "on = { maintenance = \"wait\" }\nwait = { time = \"60s\", most = 2 }";
    let proxy = keyed(&keys, persistence, &[&a, &b]).start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    proxy.live("a").set_state(AdminState::Maintenance);
    let held = [later(&proxy, &cookie), later(&proxy, &cookie)];
    until("two wait", async || proxy.live("a").waiting() == 2).await;
    assert_eq!(proxy.get(Some(&cookie)).await.text(), "b", "the third moves at once");
    proxy.live("a").set_state(AdminState::Ready);
    for each in held {
        assert_eq!(soon("a response", each).await.unwrap().text(), "a");
    }
}

#[tokio::test]
async fn a_client_that_disconnects_while_it_waits_frees_its_place() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, "on = { maintenance = \"wait\" }\nwait = { time = \"60s\" }", &[&a, &b]).start();
    proxy.live("a").set_state(AdminState::Maintenance);
    let mut client = proxy.client_with(&keys.cookie(&pin(&proxy, "a", 7))).await;
    let head = format!("GET / HTTP/1.1\r\nhost: test\r\ncookie: {}\r\n\r\n", client.pin.clone().unwrap());
    client.send(head.as_bytes()).await;
    until("it waits", async || proxy.live("a").waiting() == 1).await;
    client.reset();
    until("it waits no more", async || proxy.live("a").waiting() == 0).await;
}

#[tokio::test]
async fn requests_wait_for_a_restarting_backend_without_probes() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let persistence = "on = { down = \"wait\" }\nwait = { time = \"60s\" }";
    let proxy = keyed(&keys, persistence, &[&a, &b]).table("ejection", "consecutive_failures = 0").start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    let address = a.kill().await;
    let held = later(&proxy, &cookie);
    until("it waits", async || proxy.live("a").waiting() == 1).await;
    let _a = Backend::start_at("a", address, |_| Reply::ok("a")).await;
    let response = soon("a response", held).await.unwrap();
    assert_eq!((response.status, response.text().as_str(), verdict(&response)), (200, "a", "hit"));
    assert_eq!(b.count(), 0);
}

#[tokio::test]
async fn a_backend_that_recovers_by_its_probes_gets_the_waiting_requests() {
    let alive = Arc::new(AtomicBool::new(false));
    let is_alive = Arc::clone(&alive);
    let a = Backend::start("a", move |seen| match seen.path() {
        "/" => Reply::ok("a"),
        _ => Reply::new(if is_alive.load(Ordering::SeqCst) { 200 } else { 500 }, "", ""),
    })
    .await;
    let b = Backend::named("b").await;
    let keys = Keys::new(&[1]);
    let persistence = "on = { down = \"wait\" }\nwait = { time = \"60s\" }";
    let health = "path = \"/healthz\"\ninterval = \"20ms\"\ntimeout = \"10s\"\nrise = 1";
    let proxy = keyed(&keys, persistence, &[&a, &b]).table("health", health).start();
    proxy.health("a", Health::Down).await;
    let held = later(&proxy, &keys.cookie(&pin(&proxy, "a", 7)));
    until("it waits", async || proxy.live("a").waiting() == 1).await;
    alive.store(true, Ordering::SeqCst);
    assert_eq!(soon("a response", held).await.unwrap().text(), "a");
}

#[tokio::test]
async fn a_full_backend_gets_no_new_clients_and_its_own_follow_the_policy() {
    for (policy, says) in [
        ("move", "moved; cause=full"),
        ("borrow", "borrowed; cause=full"),
        ("refuse", "refused; cause=full"),
        ("wait", "hit"),
    ] {
        // The first request hangs; only its client can free its place.
        let hangs = AtomicBool::new(true);
        let a = Backend::start(
            "a",
            move |_| if hangs.swap(false, Ordering::SeqCst) { Reply::Hang } else { Reply::ok("a") },
        )
        .await;
        let b = Backend::named("b").await;
        let keys = Keys::new(&[1]);
        let persistence = format!("on = {{ full = \"{policy}\" }}\nwait = {{ time = \"60s\" }}");
        let proxy = keyed(&keys, &persistence, &[&b]).backend(&a, "max_requests = 1").start();
        let cookie = keys.cookie(&pin(&proxy, "a", 7));
        let mut first = proxy.client().await;
        first.send(format!("GET / HTTP/1.1\r\nhost: test\r\ncookie: {cookie}\r\n\r\n").as_bytes()).await;
        until("it is full", async || proxy.live("a").active() == 1).await;
        for _ in 0..3 {
            assert_eq!(proxy.get(None).await.text(), "b", "{policy}");
        }
        let second = later(&proxy, &cookie);
        if policy == "wait" {
            until("it waits", async || proxy.live("a").waiting() == 1).await;
        } else {
            until("it was served", async || second.is_finished()).await;
        }
        first.reset();
        assert_eq!(verdict(&soon("a response", second).await.unwrap()), says);
    }
}

#[tokio::test]
async fn a_backend_with_max_sessions_keeps_them_and_gets_no_new_one() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, "", &[&b]).backend(&a, "max_sessions = 3").start();
    let mut on_a = Vec::new();
    // A session that begins during a recount can count twice, until the next recount.
    until("it has three sessions", async || {
        let response = proxy.get(None).await;
        if response.text() == "a" {
            on_a.push(response.pin().unwrap());
        }
        on_a.len() == 3
    })
    .await;
    for _ in 0..20 {
        assert_eq!(proxy.get(None).await.text(), "b");
    }
    for cookie in on_a {
        assert_eq!(proxy.get(Some(&cookie)).await.text(), "a");
    }
}

const RULES: &str = "[[pools.persistence.rules]]\nexempt = { paths = [\"/static/*\"], methods = [\"GET\"] }\n\
                     [[pools.persistence.rules]]\nexempt = { user_agents = [\"*bot*\"] }\n\
                     [[pools.persistence.rules]]\nforce = { header = \"X-Backend\", from = [\"127.0.0.0/8\"] }\n\
                     [[pools.persistence.rules]]\nforce = { query = \"backend\", from = [\"10.0.0.0/8\"] }\n";

#[tokio::test]
async fn exempt_requests_neither_use_nor_issue_a_pin() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, "", &[&a, &b]).table("persistence.refuse", RULES).start();
    let mut client = proxy.client_with(&keys.cookie(&pin(&proxy, "a", 7))).await;
    let mut served = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let response = client.get("/static/x.css").await;
        assert_eq!((response.fields("set-cookie").len(), verdict(&response)), (0, "none"));
        served.insert(response.text());
    }
    assert_eq!(served.len(), 2, "in turn");
    assert_eq!(client.request("POST", "/static/x", "", b"x").await.text(), "a", "not what the rule is about");
    let bot = proxy.client().await.request("GET", "/", "user-agent: SomeBot/1\r\n", b"").await;
    assert_eq!(bot.fields("set-cookie").len(), 0);
    assert!(b.seen().iter().all(|seen| !seen.head.contains("linchpin-app")), "Linchpin still removes its own cookie");
}

#[tokio::test]
async fn a_tester_chooses_a_backend_even_in_maintenance_and_no_other_client_can() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let proxy =
        keyed(&keys, "", &[&a]).backend(&b, "state = \"maintenance\"").table("persistence.refuse", RULES).start();
    let ask = async |path: &str, fields: &str| proxy.client().await.request("GET", path, fields, b"").await;
    let chosen = ask("/", "x-backend: b\r\n").await;
    assert_eq!((chosen.text().as_str(), verdict(&chosen), chosen.fields("set-cookie").len()), ("b", "none", 0));
    assert_eq!(b.seen()[0].field("x-backend"), None, "no backend sees the field");
    assert_eq!(ask("/", "x-backend: zzz\r\n").await.text(), "a", "no such backend");
    assert_eq!(ask("/?backend=b", "").await.text(), "a", "not from this address");
    b.kill().await;
    assert_eq!(ask("/", "x-backend: b\r\n").await.status, 502, "and no other will do");
}

#[tokio::test]
async fn first_requests_that_a_browser_sends_at_once_are_one_session() {
    let backends =
        [Backend::named("a").await, Backend::named("b").await, Backend::named("c").await, Backend::named("d").await];
    let keys = Keys::new(&[1]);
    let all: Vec<_> = backends.iter().collect();
    let proxy = keyed(&keys, "converge = \"30s\"", &all).server("threads = 2").start();
    let mut homes = std::collections::BTreeSet::new();
    for browser in 0..8 {
        let together: Vec<_> = (0..6)
            .map(|n| {
                let address = proxy.address();
                tokio::spawn(async move {
                    let mut client = super::support::Client::connect(address).await;
                    client.request("GET", &format!("/{n}"), &format!("user-agent: browser-{browser}\r\n"), b"").await
                })
            })
            .collect();
        let mut sessions = std::collections::BTreeSet::new();
        for each in together {
            let response = soon("a response", each).await.unwrap();
            let pin = keys.issued(&response).expect("a pin");
            assert_eq!(*pin.backend, *response.text());
            sessions.insert((pin.session, response.text()));
        }
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        homes.extend(sessions.into_iter().map(|(_, home)| home));
    }
    assert_eq!(homes.len(), 4, "different browsers take turns");
}

#[tokio::test]
async fn first_requests_whose_backend_fails_join_where_the_first_one_was_served() {
    let [a, b, c] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let proxy = keyed(&keys, "converge = \"30s\"", &[&a, &b, &c]).start();
    a.kill().await;
    for browser in 0..6 {
        let mut served = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let fields = format!("user-agent: browser-{browser}\r\n");
            served.insert(proxy.client().await.request("GET", "/", &fields, b"").await.text());
        }
        assert_eq!(served.len(), 1, "{served:?}");
    }
}

#[tokio::test]
async fn a_prefetch_gets_no_pin() {
    let a = Backend::named("a").await;
    let proxy = Proxy::before(&[&a]);
    for field in ["sec-purpose: prefetch;prerender\r\n", "purpose: prefetch\r\n"] {
        assert_eq!(proxy.client().await.request("GET", "/", field, b"").await.pin(), None);
    }
    assert!(proxy.get(None).await.pin().is_some());
}

#[tokio::test]
async fn hash_places_each_key_and_moves_only_the_keys_of_a_removed_backend() {
    let [a, b, c] = Backend::three().await;
    let builder = |backends: &[&Backend]| {
        let builder = Proxy::builder().pool("balance = \"hash\"").table("hash", "by = \"query\"\nname = \"user\"");
        let builder = builder.table("persistence", "type = \"none\"");
        backends.iter().fold(builder, |builder, backend| builder.backend(backend, ""))
    };
    let (one, other, fewer) =
        (builder(&[&a, &b, &c]).start(), builder(&[&c, &a, &b]).start(), builder(&[&a, &c]).start());
    let place = async |proxy: &Proxy, user: u32| proxy.client().await.get(&format!("/?user={user}")).await.text();
    let mut homes = std::collections::BTreeMap::<_, u32>::new();
    for user in 0..60 {
        let home = place(&one, user).await;
        assert_eq!(place(&one, user).await, home);
        assert_eq!(place(&other, user).await, home, "whatever the order");
        let without_b = place(&fewer, user).await;
        assert!(without_b == home || home == "b", "user {user}: {home}, then {without_b}");
        *homes.entry(home).or_default() += 1;
    }
    assert!(homes.len() == 3 && homes.values().all(|count| *count >= 8), "{homes:?}");
}

#[tokio::test]
async fn log_metrics_and_field_explain_every_request() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let folder = super::support::tool::Folder::new();
    let path = folder.file("access.log");
    let top = format!("[log]\naccess = {path:?}\nformat = \"json\"\n[admin]\naddress = \"127.0.0.1:0\"");
    let persistence = "on = { maintenance = \"borrow\" }";
    let proxy = keyed(&keys, persistence, &[&a, &b]).top(&top).start();
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    proxy.live("a").set_state(AdminState::Maintenance);
    assert_eq!(verdict(&proxy.get(Some(&cookie)).await), "borrowed; cause=maintenance");
    let metrics = proxy.ask("GET", "/metrics", "").await.text();
    let count = "linchpin_requests_total{pool=\"app\",backend=\"b\",verdict=\"borrowed\",code=\"200\"} 1";
    assert!(metrics.contains(count), "{metrics}");
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    until("the line", async || read().contains("borrowed")).await;
    let line: serde_json::Value = serde_json::from_str(read().lines().last().unwrap()).unwrap();
    assert_eq!((&line["verdict"], &line["cause"]), (&"borrowed".into(), &"maintenance".into()));
    assert_eq!(line["session"], "0000000000000007");
    assert!(!read().contains(cookie.split_once('=').unwrap().1), "no token in a log");
}

#[tokio::test]
async fn the_admin_listener_explains_a_token_as_the_next_request_would_be_judged() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let persistence = "idle_timeout = \"30m\"\non = { maintenance = \"refuse\" }";
    let proxy = keyed(&keys, persistence, &[&a, &b]).top("[admin]\naddress = \"127.0.0.1:0\"").start();
    let mut pin = pin(&proxy, "a", 7);
    pin.issued = now() - 60;
    let cookie = keys.cookie(&pin);
    let ask = async |token: &str| {
        let body = serde_json::json!({ "token": token }).to_string();
        let response = proxy.ask("POST", "/api/v1/explain", &body).await;
        (response.status, serde_json::from_str::<serde_json::Value>(&response.text()).unwrap_or_default())
    };
    let (status, holds) = ask(&cookie).await;
    assert_eq!(
        (status, &holds["verdict"], &holds["goes_to"], &holds["valid"]),
        (200, &"hit".into(), &"a".into(), &true.into())
    );
    assert_eq!((&holds["session"], &holds["key"]), (&"0000000000000007".into(), &"1".into()));
    assert_eq!((holds["issued"].as_u64(), holds["idle_timeout"].as_u64()), (Some(pin.issued), Some(1800)));
    proxy.live("a").set_state(AdminState::Maintenance);
    let (_, refused) = ask(cookie.split_once('=').unwrap().1).await;
    assert_eq!((&refused["verdict"], &refused["cause"]), (&"refused".into(), &"maintenance".into()));
    assert_eq!(refused["why"], "its backend is in maintenance: a request is refused with 503");
    assert_eq!((refused["term"].as_u64(), &refused["replica"]), (Some(0), &serde_json::Value::Null));
    let replicated = keys.cookie(&Pin { term: 3, replica: Some("b".into()), ..pin });
    let (_, moved) = ask(&replicated).await;
    assert_eq!((moved["term"].as_u64(), &moved["replica"]), (Some(3), &"b".into()));
    assert_eq!((&moved["verdict"], &moved["goes_to"]), (&"moved".into(), &"b".into()));
    assert_eq!(ask("garbage").await.0, 404);
    assert_eq!(proxy.ask("POST", "/api/v1/explain", "{\"tok\":1}").await.status, 422);
}
