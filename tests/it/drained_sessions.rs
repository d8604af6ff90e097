//! A session that a drained backend gives up while requests of it are open there, on several threads.

use serde_json::{Value, json};

use super::support::gate::Gate;
use super::support::{Backend, Client, Proxy, soon, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"";

async fn sessions(proxy: &Proxy, backend: &str) -> u64 {
    let path = format!("/api/v1/pools/app/backends/{backend}/sessions");
    let answer: Value = serde_json::from_str(&proxy.ask("GET", &path, "").await.text()).unwrap();
    answer["sessions"].as_u64().unwrap()
}

#[tokio::test]
async fn a_session_with_open_requests_moves_once_at_the_deadline_and_those_end_where_they_began() {
    let (gate, b) = (Gate::start().await, Backend::named("b").await);
    let builder = Proxy::builder().server("threads = 3").top(ADMIN);
    let builder = builder.table("persistence", "verdict_header = \"X-Verdict\"");
    let proxy = builder.backend_at("a", gate.address, "").backend(&b, "backup = true").start();
    gate.lets.add_permits(1);
    let pin = proxy.get(None).await.pin().unwrap();
    // The kernel spreads these connections over the threads.
    let mut open = Vec::new();
    for number in 0..9 {
        let mut client = Client::connect(proxy.address()).await;
        client.send(format!("GET /{number} HTTP/1.1\r\nhost: test\r\ncookie: {pin}\r\n\r\n").as_bytes()).await;
        open.push(client);
    }
    until("all are in flight", async || proxy.live("a").active() == 9).await;
    let drain = "{\"deadline\":\"500ms\",\"idle\":\"0s\"}";
    let path = "/api/v1/pools/app/backends/a/drain";
    assert_eq!(proxy.ask("POST", path, drain).await.status, 200);
    until("the deadline", async || {
        let progress: Value = serde_json::from_str(&proxy.ask("GET", path, "").await.text()).unwrap();
        progress["phase"] == json!("deadline")
    })
    .await;
    assert_eq!((sessions(&proxy, "a").await, sessions(&proxy, "b").await), (1, 0), "it has not come back yet");
    let next = proxy.get(Some(&pin)).await;
    assert_eq!((next.text(), next.field("x-verdict")), ("b".into(), Some("moved; cause=draining")));
    let new = next.pin().unwrap();
    gate.lets.add_permits(9);
    for mut client in open {
        let response = soon("a response", client.response()).await;
        assert_eq!((response.status, response.field("x-verdict"), response.pin()), (200, Some("hit"), None));
    }
    until("nothing is in flight", async || proxy.live("a").active() == 0).await;
    assert_eq!((sessions(&proxy, "a").await, sessions(&proxy, "b").await), (0, 1));
    for _ in 0..6 {
        assert_eq!(proxy.get(Some(&new)).await.field("x-verdict"), Some("hit"));
    }
    assert_eq!((sessions(&proxy, "a").await, sessions(&proxy, "b").await), (0, 1));
}
