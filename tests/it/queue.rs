//! Requests that wait for capacity on a server that has `max_requests` in flight.

use std::sync::atomic::Ordering;

use super::support::gate::Gate;
use super::support::keys::pin;
use super::support::{Backend, Client, Keys, Proxy, Response, soon, until};

fn send(proxy: &Proxy, cookie: &str, path: &str) -> tokio::task::JoinHandle<Response> {
    let (address, cookie, path) = (proxy.address(), cookie.to_owned(), path.to_owned());
    tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        client.pin = Some(cookie);
        client.get(&path).await
    })
}

fn proxy(gate: &Gate, b: &Backend, keys: &Keys, threads: usize, places: usize) -> Proxy {
    let persistence = "on = { full = \"wait\" }\nwait = { time = \"60s\" }";
    let builder = Proxy::builder().top(&keys.tables()).table("persistence", persistence);
    let builder = builder.server(&format!("threads = {threads}"));
    builder.backend_at("a", gate.address, &format!("max_requests = {places}")).backend(b, "").start()
}

#[tokio::test]
async fn capacity_goes_to_waiting_requests_in_order_of_arrival() {
    let (gate, b, keys) = (Gate::start().await, Backend::named("b").await, Keys::new(&[1]));
    let proxy = proxy(&gate, &b, &keys, 1, 1);
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    let mut all = vec![send(&proxy, &cookie, "/0")];
    until("it is full", async || gate.seen().len() == 1).await;
    for number in 1..=8 {
        all.push(send(&proxy, &cookie, &format!("/{number}")));
        until("it waits", async || proxy.live("a").waiting() == number).await;
    }
    for number in 0..=8_u32 {
        let newcomer = send(&proxy, &cookie, &format!("/late-{number}"));
        until("it waits, too", async || proxy.live("a").waiting() == 9).await;
        gate.lets.add_permits(1);
        let answer = soon("a response", all.remove(0)).await.unwrap();
        assert_eq!(answer.text(), format!("/{number}"));
        all.push(newcomer);
        until("the next request to get the capacity", async || gate.seen().len() == number as usize + 2).await;
        until("one request fewer to wait", async || proxy.live("a").waiting() == 8).await;
    }
    gate.lets.add_permits(100);
    for each in all {
        assert_eq!(soon("a response", each).await.unwrap().status, 200);
    }
    let (seen, mut expected) = (gate.seen(), (0..=8).map(|n| format!("/{n}")).collect::<Vec<_>>());
    expected.extend((0..=8).map(|n| format!("/late-{n}")));
    assert_eq!((seen, gate.most.load(Ordering::SeqCst), b.count()), (expected, 1, 0));
}

#[tokio::test]
async fn capacity_released_on_other_threads_reaches_every_waiting_request() {
    let (gate, b, keys) = (Gate::start().await, Backend::named("b").await, Keys::new(&[1]));
    let proxy = proxy(&gate, &b, &keys, 3, 2);
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    gate.lets.add_permits(100_000);
    for round in 0..20 {
        let all: Vec<_> = (0..30).map(|number| send(&proxy, &cookie, &format!("/{round}-{number}"))).collect();
        for each in all {
            let response = soon("a response", each).await.unwrap();
            assert!(response.text().starts_with(&format!("/{round}-")), "{}", response.text());
        }
    }
    assert_eq!((gate.seen().len(), b.count(), proxy.live("a").waiting()), (600, 0, 0));
    // As many beside as there are threads that look before they count.
    assert!(gate.most.load(Ordering::SeqCst) <= 2 + 3, "{}", gate.most.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_is_skipped() {
    let (gate, b, keys) = (Gate::start().await, Backend::named("b").await, Keys::new(&[1]));
    let proxy = proxy(&gate, &b, &keys, 1, 1);
    let cookie = keys.cookie(&pin(&proxy, "a", 7));
    let first = send(&proxy, &cookie, "/first");
    until("it is full", async || gate.seen().len() == 1).await;
    let mut leaves = proxy.client().await;
    leaves.send(format!("GET /leaves HTTP/1.1\r\nhost: test\r\ncookie: {cookie}\r\n\r\n").as_bytes()).await;
    until("it waits", async || proxy.live("a").waiting() == 1).await;
    let stays = send(&proxy, &cookie, "/stays");
    until("both wait", async || proxy.live("a").waiting() == 2).await;
    leaves.reset();
    until("one has left", async || proxy.live("a").waiting() == 1).await;
    gate.lets.add_permits(10);
    for each in [first, stays] {
        assert_eq!(soon("a response", each).await.unwrap().status, 200);
    }
    assert_eq!((gate.seen(), b.count()), (vec!["/first".to_owned(), "/stays".into()], 0));
}
