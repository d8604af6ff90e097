//! `balance = "least_sessions"`: new clients go where the fewest live sessions are.

use super::support::gate::Gate;
use super::support::{Backend, Client, Proxy, soon, until};

fn builder(threads: usize) -> super::support::proxy::Builder {
    Proxy::builder().server(&format!("threads = {threads}")).pool("balance = \"least_sessions\"")
}

#[tokio::test]
async fn new_clients_fill_a_backend_that_has_fewer_sessions_and_then_all_alike() {
    let backends = Backend::three().await;
    let proxy = backends.iter().fold(builder(2), |builder, backend| builder.backend(backend, "")).start();
    // While one is out, the others get all clients.
    proxy.live("c").set_state(linchpin::pool::AdminState::Maintenance);
    for _ in 0..40 {
        assert_eq!(proxy.get(None).await.status, 200);
    }
    assert_eq!(backends.each_ref().map(Backend::count), [20, 20, 0]);
    proxy.live("c").set_state(linchpin::pool::AdminState::Ready);
    for _ in 0..20 {
        assert_eq!(proxy.get(None).await.text(), "c", "it has the fewest");
    }
    for _ in 0..30 {
        assert_eq!(proxy.get(None).await.status, 200);
    }
    assert_eq!(backends.each_ref().map(Backend::count), [30, 30, 30]);
}

#[tokio::test]
async fn a_crowd_that_arrives_before_any_response_is_spread_over_all_backends_on_several_threads() {
    let gates = [Gate::start().await, Gate::start().await, Gate::start().await];
    let names = ["a", "b", "c"];
    let proxy =
        names.iter().zip(&gates).fold(builder(2), |builder, (name, gate)| builder.backend_at(name, gate.address, ""));
    let proxy = proxy.start();
    let crowd: Vec<_> = (0..60)
        .map(|number| {
            let address = proxy.address();
            tokio::spawn(async move { Client::connect(address).await.get(&format!("/{number}")).await.status })
        })
        .collect();
    until("all have come", async || gates.iter().map(|gate| gate.seen().len()).sum::<usize>() == 60).await;
    let counts = gates.each_ref().map(|gate| gate.seen().len());
    // Two threads may choose at the same time.
    assert!(counts.iter().all(|count| (18..=22).contains(count)), "{counts:?}");
    gates.iter().for_each(|gate| gate.lets.add_permits(60));
    for each in crowd {
        assert_eq!(soon("a response", each).await.unwrap(), 200);
    }
}

#[tokio::test]
async fn sessions_count_by_weight() {
    let [a, b, _] = Backend::three().await;
    let proxy = builder(1).backend(&a, "weight = 3").backend(&b, "").start();
    for _ in 0..40 {
        assert_eq!(proxy.get(None).await.status, 200);
    }
    assert_eq!([a.count(), b.count()], [30, 10]);
}
