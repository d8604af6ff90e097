//! Balancing: which backend a client without a pin gets.

use std::collections::HashMap;

use super::support::proxy::Builder;
use super::support::{Backend, Proxy, Reply, until};

const KINDS: [&str; 4] = ["round_robin", "least_requests", "least_sessions", "random_two"];

fn balanced(kind: &str) -> Builder {
    Proxy::builder().pool(&format!("balance = \"{kind}\""))
}

/// Counts how many of `clients` new clients, each on its own connection, each backend served.
async fn served(proxy: &Proxy, clients: usize) -> HashMap<String, usize> {
    let mut served = HashMap::new();
    for _ in 0..clients {
        let response = proxy.get(None).await;
        assert_eq!(response.status, 200);
        *served.entry(response.text()).or_default() += 1;
    }
    served
}

/// Starts a backend whose responses to `/hang` never end.
async fn hanging(name: &str) -> Backend {
    let body = name.to_owned();
    Backend::start(name, move |seen| if seen.path() == "/hang" { Reply::Hang } else { Reply::ok(&body) }).await
}

#[tokio::test]
async fn three_hundred_new_clients_are_spread_evenly_over_two_threads() {
    let [a, b, c] = Backend::three().await;
    let builder = Proxy::builder().server("threads = 2").backend(&a, "").backend(&b, "").backend(&c, "");
    let served = served(&builder.start(), 300).await;
    assert!(["a", "b", "c"].iter().all(|name| (90..=110).contains(&served[*name])), "{served:?}");
}

#[tokio::test]
async fn three_hundred_new_clients_that_share_connections_are_spread_evenly_over_two_threads() {
    let backends = Backend::three().await;
    let builder = backends.iter().fold(Proxy::builder(), |builder, backend| builder.backend(backend, ""));
    let proxy = builder.server("threads = 2").start();
    for _ in 0..20 {
        let mut client = proxy.client().await;
        for _ in 0..15 {
            client.pin = None;
            assert!(client.get("/").await.pin().is_some());
        }
    }
    let counts = backends.each_ref().map(Backend::count);
    assert!(counts.iter().all(|count| (90..=110).contains(count)), "{counts:?}");
}

#[tokio::test]
async fn weights_are_shares_of_the_new_clients() {
    let [a, b, _] = Backend::three().await;
    // The policies that compare load send a client to the backend of more weight while both are idle.
    for (kind, share) in [("round_robin", 224..=226), ("least_requests", 240..=300), ("random_two", 240..=300)] {
        let served = served(&balanced(kind).backend(&a, "weight = 3").backend(&b, "").start(), 300).await;
        assert!(share.contains(&served["a"]), "{kind}: {served:?}");
    }
}

#[tokio::test]
async fn least_requests_and_random_two_avoid_the_busy_backend() {
    for kind in ["least_requests", "random_two"] {
        let (a, b) = (hanging("a").await, hanging("b").await);
        let proxy = balanced(kind).backend(&a, "").backend(&b, "").start();
        let mut waiting = proxy.client().await;
        waiting.send(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n").await;
        until("the request to arrive", async || a.count() + b.count() == 1).await;
        let idle = if a.count() == 0 { "a" } else { "b" };
        assert_eq!(served(&proxy, 20).await, HashMap::from([(idle.into(), 20)]), "{kind}");
    }
}

#[tokio::test]
async fn policies_that_compare_load_choose_idle_backends_at_random() {
    let [a, b, c] = Backend::three().await;
    for kind in ["least_requests", "random_two"] {
        let proxy = balanced(kind).backend(&a, "").backend(&b, "").backend(&c, "").start();
        let served = served(&proxy, 300).await;
        // 100 ± 49: six sigma.
        assert!(["a", "b", "c"].iter().all(|name| (51..150).contains(&served[*name])), "{kind}: {served:?}");
    }
}

#[tokio::test]
async fn a_backup_gets_clients_only_when_no_other_can() {
    for kind in KINDS {
        let [a, b, c] = Backend::three().await;
        let proxy = balanced(kind).backend(&b, "backup = true").backend(&a, "").backend(&c, "").start();
        assert!(!served(&proxy, 20).await.contains_key("b"), "{kind}");
        a.kill().await;
        assert_eq!(served(&proxy, 20).await, HashMap::from([("c".into(), 20)]), "{kind}");
        c.kill().await;
        assert_eq!(served(&proxy, 20).await, HashMap::from([("b".into(), 20)]), "{kind}");
    }
}

#[tokio::test]
async fn a_client_of_a_backup_stays_there_when_the_others_recover() {
    let [a, b, _] = Backend::three().await;
    let proxy = Proxy::builder().backend(&a, "").backend(&b, "backup = true").start();
    let address = a.kill().await;
    let pin = proxy.get(None).await.pin();
    let _a = Backend::start_at("a", address, |_| Reply::ok("a")).await;
    let response = proxy.get(pin.as_deref()).await;
    assert_eq!((response.text(), response.pin()), ("b".into(), None));
}

#[tokio::test]
async fn backends_of_weight_0_get_no_new_client_and_draining_ones_only_when_no_other_is_left() {
    for kind in KINDS {
        let [a, b, c] = Backend::three().await;
        let builder = balanced(kind).backend(&a, "weight = 0").backend(&b, "").backend(&c, "state = \"drain\"");
        let proxy = builder.start();
        assert_eq!(served(&proxy, 20).await, HashMap::from([("b".into(), 20)]), "{kind}");
        b.kill().await;
        assert_eq!(proxy.get(None).await.text(), "c", "{kind}");
        c.kill().await;
        assert_eq!(proxy.get(None).await.status, 503, "{kind}");
    }
}

#[tokio::test]
async fn selection_is_an_order_and_new_clients_skip_dead_backends() {
    for kind in KINDS {
        let [a, b, c] = Backend::three().await;
        let proxy = balanced(kind).backend(&a, "").backend(&b, "").backend(&c, "").start();
        a.kill().await;
        b.kill().await;
        assert_eq!(served(&proxy, 20).await, HashMap::from([("c".into(), 20)]), "{kind}");
    }
}
