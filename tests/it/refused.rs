//! Requests that are refused before any backend gets them: the status and the metrics count each under one reason.

use std::net::SocketAddr;

use linchpin::pool::{AdminState, Health};
use serde_json::Value;

use super::support::keys::pin;
use super::support::proxy::Builder;
use super::support::tool::Folder;
use super::support::{Backend, Keys, Proxy, Reply, until};

/// All reasons, as they are published.
const REASONS: [&str; 10] = [
    "no_servers",
    "all_down",
    "maintenance",
    "draining",
    "full",
    "sessions_full",
    "queue_full",
    "queue_timeout",
    "late",
    "pin_lost",
];

/// A proxy with an admin listener, these persistence settings, and an access log in JSON.
struct Observed {
    proxy: Proxy,
    folder: Folder,
}

impl Observed {
    fn start(keys: &Keys, persistence: &str, configured: impl FnOnce(Builder) -> Builder) -> Observed {
        let folder = Folder::new();
        let log = format!("[log]\nformat = \"json\"\naccess = {:?}", folder.file("access.log"));
        let top = format!("{}\n{log}\n[admin]\naddress = \"127.0.0.1:0\"", keys.tables());
        let proxy = configured(Proxy::builder().top(&top).table("persistence", persistence)).start();
        Observed { proxy, folder }
    }

    /// Checks that the status and the metrics count so many requests as refused for this reason, and none for another.
    async fn has_refused(&self, count: u64, reason: &str) {
        let counts = |name: &&str| if *name == reason { count } else { 0 };
        let status: Value = serde_json::from_str(&self.proxy.ask("GET", "/api/v1/status", "").await.text()).unwrap();
        let expected: serde_json::Map<_, _> =
            REASONS.iter().map(|name| ((*name).to_owned(), counts(name).into())).collect();
        assert_eq!(status["pools"][0]["refused"], Value::Object(expected), "{reason}");
        let metrics = self.proxy.ask("GET", "/metrics", "").await.text();
        let mut lines: Vec<_> = metrics.lines().filter(|line| line.starts_with("linchpin_refused_total{")).collect();
        let mut expected =
            REASONS.map(|name| format!("linchpin_refused_total{{pool=\"app\",reason=\"{name}\"}} {}", counts(&name)));
        lines.sort_unstable();
        expected.sort_unstable();
        assert_eq!(lines, expected);
    }

    /// Ends the proxy; returns the error in each record that has this status.
    async fn errors(self, status: u16) -> Vec<String> {
        self.proxy.stop().await;
        let log = std::fs::read_to_string(self.folder.file("access.log")).unwrap();
        let records = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let refused = records.filter(|record| record["status"] == status);
        refused.map(|record| record["error"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    Backend::named("gone").await.kill().await
}

#[tokio::test]
async fn a_request_to_a_pool_without_room_is_counted_as_full() {
    let (a, keys) = (Backend::start("a", |_| Reply::Hang).await, Keys::new(&[1]));
    // Of a full backend and one that is down, the full one has a place sooner.
    let down = nobody().await;
    let observed = Observed::start(&keys, "", |builder| {
        let builder = builder.table("health", "interval = \"10ms\"\ntimeout = \"10s\"\ntype = \"tcp\"");
        builder.backend(&a, "max_requests = 1").backend_at("b", down, "")
    });
    observed.proxy.health("b", Health::Down).await;
    let mut first = observed.proxy.client().await;
    first.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    until("a is full", async || observed.proxy.live("a").active() == 1).await;
    for _ in 0..2 {
        assert_eq!(observed.proxy.get(None).await.status, 503);
    }
    observed.has_refused(2, "full").await;
    a.kill().await;
    assert_eq!(first.response().await.status, 502);
    assert_eq!(observed.errors(503).await, ["no backend has room"; 2]);
}

#[tokio::test]
async fn a_request_whose_time_ends_while_it_waits_is_counted_as_late() {
    let ([a, b, _], keys) = (Backend::three().await, Keys::new(&[1]));
    let persistence = "on = { maintenance = \"wait\" }\nwait = { time = \"60s\" }";
    let observed = Observed::start(&keys, persistence, |builder| {
        builder.table("timeouts", "total = \"200ms\"").backend(&a, "").backend(&b, "")
    });
    let cookie = keys.cookie(&pin(&observed.proxy, "a", 7));
    observed.proxy.live("a").set_state(AdminState::Maintenance);
    assert_eq!(observed.proxy.get(Some(&cookie)).await.status, 503);
    observed.has_refused(1, "late").await;
    assert_eq!((a.count(), b.count()), (0, 0));
    assert_eq!(observed.errors(503).await, ["no backend in time"]);
}

#[tokio::test]
async fn a_request_whose_pin_may_not_move_is_counted_as_pin_lost() {
    let ([a, b, _], keys) = (Backend::three().await, Keys::new(&[1]));
    let persistence = "on = { maintenance = \"refuse\", unknown = \"refuse\" }\nrefuse = { status = 421 }";
    let observed = Observed::start(&keys, persistence, |builder| builder.backend(&a, "").backend(&b, ""));
    observed.proxy.live("a").set_state(AdminState::Maintenance);
    for backend in ["a", "z"] {
        let cookie = keys.cookie(&pin(&observed.proxy, backend, 7));
        assert_eq!(observed.proxy.get(Some(&cookie)).await.status, 421);
    }
    observed.has_refused(2, "pin_lost").await;
    assert_eq!((a.count(), b.count()), (0, 0));
    assert_eq!(observed.errors(421).await, ["pinned backend is in maintenance", "pinned backend is unknown"]);
}

#[tokio::test]
async fn a_request_that_failed_on_a_backend_is_not_counted_as_refused() {
    let (a, keys) = (Backend::start("a", |_| Reply::Close).await, Keys::new(&[1]));
    let gone = nobody().await;
    let observed =
        Observed::start(&keys, "", |builder| builder.backend(&a, "state = \"maintenance\"").backend_at("b", gone, ""));
    assert_eq!(observed.proxy.get(None).await.status, 503);
    observed.proxy.live("b").set_state(AdminState::Maintenance);
    observed.proxy.live("a").set_state(AdminState::Ready);
    assert_eq!(observed.proxy.get(None).await.status, 502);
    observed.has_refused(0, "").await;
    assert_eq!(observed.errors(503).await, ["connection refused"]);
}
