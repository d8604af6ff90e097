//! Slow start: the share of new clients of a backend that is new or has returned.

use linchpin::pool::AdminState;

use super::support::proxy::Builder;
use super::support::reloads::Reloadable;
use super::support::{Backend, Proxy, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

fn slow(lines: &str) -> Builder {
    Proxy::builder().top(ADMIN).pool(&format!("slow_start = \"1h\"\n{lines}"))
}

/// Takes a backend out and back in, as an operator does who restarts it.
fn restart(proxy: &Proxy, backend: &str) {
    proxy.live(backend).set_state(AdminState::Maintenance);
    proxy.live(backend).set_state(AdminState::Ready);
}

/// Counts how many of `clients` new clients the backend `name` served.
async fn served(proxy: &Proxy, clients: usize, name: &str) -> usize {
    let mut count = 0;
    for _ in 0..clients {
        let response = proxy.get(None).await;
        assert_eq!(response.status, 200);
        count += usize::from(response.text() == name);
    }
    count
}

#[tokio::test]
async fn a_backend_that_returns_gets_a_small_share_of_new_clients_whatever_the_balance_and_all_of_its_own() {
    for kind in ["round_robin", "least_requests", "random_two"] {
        let [a, b, _] = Backend::three().await;
        let proxy = slow(&format!("balance = \"{kind}\"")).backend(&a, "").backend(&b, "").start();
        let mut pin = proxy.get(None).await;
        while pin.text() != "b" {
            pin = proxy.get(None).await;
        }
        let pin = pin.pin().unwrap();
        restart(&proxy, "b");
        // A tenth of the weight: 27 of 300.
        let of_b = served(&proxy, 300, "b").await;
        assert!((5..=60).contains(&of_b), "{kind}: {of_b}");
        for _ in 0..50 {
            assert_eq!(proxy.get(Some(&pin)).await.text(), "b", "{kind}");
        }
    }
}

#[tokio::test]
async fn a_slow_start_ends_in_time_and_none_begins_with_the_process() {
    let [a, b, _] = Backend::three().await;
    let proxy = Proxy::builder().pool("slow_start = \"1s\"").backend(&a, "").backend(&b, "").start();
    assert_eq!(served(&proxy, 20, "b").await, 10);
    restart(&proxy, "b");
    assert!(proxy.live("b").effective_weight() < 1000);
    let mut last = 0;
    until("the whole weight", async || {
        let now = proxy.live("b").effective_weight();
        assert!(now >= last, "{now} after {last}");
        last = now;
        now == 1000
    })
    .await;
    assert_eq!(served(&proxy, 20, "b").await, 10);
}

#[tokio::test]
async fn a_backend_whose_probes_pass_again_starts_slowly() {
    let [a, b, _] = Backend::three().await;
    let health = "path = \"/\"\ninterval = \"50ms\"\ntimeout = \"10s\"\nrise = 1\nfall = 1";
    let proxy = slow("").table("health", health).backend(&a, "").backend(&b, "").start();
    let address = b.kill().await;
    proxy.health("b", linchpin::pool::Health::Down).await;
    let _b = Backend::start_at("b", address, |_| super::support::Reply::ok("b")).await;
    proxy.health("b", linchpin::pool::Health::Up).await;
    assert!(proxy.live("b").effective_weight() < 200 && proxy.live("a").effective_weight() == 1000);
}

#[tokio::test]
async fn status_and_metrics_show_the_effective_weight() {
    let [a, b, _] = Backend::three().await;
    let proxy = slow("").backend(&a, "weight = 2").backend(&b, "weight = 2").start();
    restart(&proxy, "b");
    let status: serde_json::Value = serde_json::from_str(&proxy.ask("GET", "/api/v1/status", "").await.text()).unwrap();
    let weights = [0, 1].map(|index| {
        let backend = &status["pools"][0]["backends"][index];
        (backend["weight"].as_u64().unwrap(), backend["effective_weight"].as_f64().unwrap())
    });
    assert_eq!(weights, [(2, 2.0), (2, 0.2)]);
    let metrics = proxy.ask("GET", "/metrics", "").await.text();
    for line in [
        r#"linchpin_backend_effective_weight{pool="app",backend="a"} 2.0"#,
        r#"linchpin_backend_effective_weight{pool="app",backend="b"} 0.2"#,
        r#"linchpin_backend_weight{pool="app",backend="b"} 2"#,
    ] {
        assert!(metrics.lines().any(|each| each == line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_reload_keeps_a_slow_start_or_changes_how_long_it_takes() {
    let [a, b, c] = Backend::three().await;
    let text = |lines: &str, backends: &[&Backend]| {
        let builder = Proxy::builder().pool(lines);
        backends.iter().fold(builder, |builder, backend| builder.backend(backend, "")).text()
    };
    let reloadable = Reloadable::start(&text("slow_start = \"1h\"", &[&a, &b]));
    let weight = |name: &str| reloadable.proxy.live(name).effective_weight();
    restart(&reloadable.proxy, "b");
    assert_eq!((weight("a"), weight("b")), (1000, 100));
    reloadable.reload(&text("slow_start = \"1h\"\nbalance = \"random_two\"", &[&a, &b, &c])).await;
    assert_eq!((weight("a"), weight("b"), weight("c")), (1000, 100, 100), "c is new");
    reloadable.reload(&text("slow_start = \"2h\"", &[&a, &b, &c])).await;
    assert_eq!((weight("a"), weight("b")), (1000, 100));
    reloadable.reload(&text("", &[&a, &b, &c])).await;
    assert_eq!((weight("a"), weight("b"), weight("c")), (1000, 1000, 1000));
    reloadable.reload(&text("slow_start = \"1h\"", &[&a, &b, &c])).await;
    assert_eq!(weight("b"), 1000, "its slow start is over");
}
