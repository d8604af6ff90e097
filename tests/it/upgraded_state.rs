//! What a process was doing with its backends goes on in the process that takes over: drains, slow starts, health.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::upgrades::{Place, ask, pool};
use super::support::{Backend, Client, soon, until};

/// The body of a response of the admin listener.
async fn status(place: &Place) -> Value {
    let answer = ask(place, "GET", "/api/v1/status", "").await;
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// What the status says of a backend of the first pool.
async fn backend(place: &Place, name: &str) -> Value {
    let status = status(place).await;
    let backends = status["pools"][0]["backends"].as_array().unwrap();
    backends.iter().find(|backend| backend["name"] == name).unwrap().clone()
}

#[tokio::test]
async fn a_drain_goes_on_in_the_next_process_and_ends_at_the_same_deadline() {
    let (a, b, place) = (Backend::named("a").await, Backend::named("b").await, Place::new());
    let text = place.text("threads = 1", &pool(&[&a, &b], ""));
    let mut running = place.start(&text).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let mut pins = Vec::new();
    while pins.len() < 4 {
        let response = Client::connect(address).await.get("/").await;
        if response.text() == "a" {
            pins.push(response.field("set-cookie").unwrap().split(';').next().unwrap().to_owned());
        }
    }
    let order = "{\"deadline\":\"8s\",\"then\":\"maintenance\",\"idle\":\"1h\"}";
    let (begun, path) = (Instant::now(), "/api/v1/pools/app/backends/a/drain");
    let answer = ask(&place, "POST", path, order).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let before = backend(&place, "a").await;
    let _next = place.upgrade(&text).await;
    assert_eq!(running.exit_code().await, Some(0));
    let after = backend(&place, "a").await;
    assert_eq!((&after["state"], &after["drain"]["phase"]), (&json!("drain"), &json!("draining")), "{after}");
    for field in ["begun", "deadline", "then", "idle", "sessions_before"] {
        assert_eq!(after["drain"][field], before["drain"][field], "{field}: {before} {after}");
    }
    for _ in 0..4 {
        assert_eq!(Client::connect(address).await.get("/").await.text(), "b", "no new session");
    }
    soon("the end of the drain", async {
        while backend(&place, "a").await["state"] != "maintenance" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_secs(7), "before the deadline: {:?}", begun.elapsed());
    for pin in pins {
        let mut client = Client::connect(address).await;
        assert_eq!(client.request("GET", "/", &format!("cookie: {pin}\r\n"), b"").await.text(), "b");
    }
}

#[tokio::test]
async fn a_drain_that_has_ended_and_a_slow_start_are_shown_by_the_next_process_too() {
    let (a, b, place) = (Backend::named("a").await, Backend::named("b").await, Place::new());
    let text = place.text("threads = 1", &pool(&[&a, &b], "slow_start = \"1h\""));
    let mut running = place.start(&text).await;
    for path in ["a/drain", "b/state"] {
        let body = if path == "a/drain" { "{}" } else { "{\"state\":\"maintenance\"}" };
        let answer = ask(&place, "POST", &format!("/api/v1/pools/app/backends/{path}"), body).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    until("nothing is left of a", async || backend(&place, "a").await["drain"]["phase"] == "drained").await;
    let answer = ask(&place, "POST", "/api/v1/pools/app/backends/b/state", "{\"state\":\"ready\"}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let weight = backend(&place, "b").await["effective_weight"].as_f64().unwrap();
    assert!(weight < 0.5, "{weight}");
    let _next = place.upgrade(&text).await;
    assert_eq!(running.exit_code().await, Some(0));
    let (a, b) = (backend(&place, "a").await, backend(&place, "b").await);
    assert_eq!((&a["state"], &a["drain"]["phase"]), (&json!("drain"), &json!("drained")), "{a}");
    assert!(b["effective_weight"].as_f64().unwrap() < 0.5, "{b}");
}

#[tokio::test]
async fn the_admin_socket_has_the_mode_of_the_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let (a, place) = (Backend::named("a").await, Place::new());
    let text = place.text("threads = 1", &pool(&[&a], ""));
    let mode = || std::fs::metadata(place.path("admin.sock")).unwrap().permissions().mode() & 0o777;
    let mut running = place.start(&text).await;
    assert_eq!(mode(), 0o600);
    let _next = place.upgrade(&text.replace("[admin]", "[admin]\nmode = \"0660\"")).await;
    assert_eq!(mode(), 0o660);
    assert_eq!(running.exit_code().await, Some(0));
    assert!(ask(&place, "GET", "/readyz", "").await.starts_with("HTTP/1.1 200"));
}
