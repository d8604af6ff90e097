//! Owns: tests of what a client of the admin API sees, without a socket.
//! Invariant: names and shapes are exactly those of the contract.
//! Must not know: how a response is made.

use axum::body::Body;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::api::{SECURITY_HEADERS, router};
use super::exposition::TextFormat;
use super::pool_entry::PoolEntry;
use super::sources::{Phase, StatusSources};
use super::*;
use crate::affinity::Affinity;
use crate::affinity::seal::SealingKey;
use crate::affinity::{self, KeyRing};
use crate::clock;
use crate::events::Events;
use crate::net::Address;
use crate::pool::history::ProbeResult;
use crate::pool::observe::Observation;
use crate::pool::reconcile::Reconciler;
use crate::pool::sessions::SessionLifetime;
use crate::pool::{self, AdminState, InFlight, backend, health_state};
use crate::reason::Reason;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{EndedRequest, Labels};
use crate::tls::reload::WatchedCertificates;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const PRESENCE: u64 = 60;

struct TestServer {
    facts: StatusSources,
    phase: watch::Sender<Phase>,
    _busy: InFlight,
}

/// Two backends: one that works, one that drains and is down.
fn server() -> TestServer {
    let backend = |name: &str, port, weight, state| backend::Settings {
        weight,
        state,
        ..backend::Settings::new(name, ([127, 0, 0, 1], port).into())
    };
    let health_state = health_state::Settings {
        rise: 1,
        fall: 1,
        consecutive_failures: 5,
        base_time: Duration::from_secs(1),
        max_time: Duration::from_secs(1),
        max_ejected: 50,
    };
    let backends = vec![backend("a", 9001, 2, AdminState::Ready), backend("b", 9002, 1, AdminState::Drain)];
    let pools = Reconciler::new(1).pools(&[pool::Settings {
        name: "app".into(),
        backends,
        health_state,
        ..pool::Settings::default()
    }]);
    let pool = Arc::clone(&pools[0]);
    let refused = Reason::Io(std::io::ErrorKind::ConnectionRefused);
    let check = ProbeResult { result: Err(refused), took: Duration::from_micros(250) };
    pool.observe(1, Observation::Probe(check), clock::now());

    let labels = Labels {
        verdicts: &["new", "hit"],
        causes: &["down"],
        outcomes: &["ok", "connect"],
        refusals: &["all_down"],
        rejected_pins: &[],
    };
    let metrics = Arc::new(Metrics::new(1, labels, Arc::default()));
    let series: Vec<_> = ["a", "b"].iter().map(|name| metrics.series("app", name)).collect();
    for _ in 0..3 {
        let (took, first_byte) = (Duration::from_millis(1), None);
        series[0].request(0, &EndedRequest { verdict: 1, status: 200, took, first_byte, bytes_in: 0, bytes_out: 9 });
    }
    series[1].attempt(0, 1);
    let (now, lifetime) = (clock::unix_millis(), SessionLifetime { idle: PRESENCE, absolute: None });
    pool.backend(0).live().sessions().begin(0, 0x5eed_5eed_5eed_5eed, now / 1000, now, lifetime);
    let _busy = InFlight::on(pool.backend(0).live(), 0);

    let (phase, receiver) = watch::channel(Phase::Ready);
    let key = || SealingKey::new("k", &[1; 32]).unwrap();
    let persistence =
        affinity::Settings { idle_timeout: Some(Duration::from_secs(PRESENCE)), ..affinity::Settings::for_pool("app") };
    let ring = Arc::new(KeyRing::new(key(), Vec::new()));
    let affinity = Arc::new(Affinity::new("app", &persistence, &ring, &mut affinity::SessionTables::default()));
    let unserved = metrics.series("app", "");
    unserved.refused(0, 0);
    let entry =
        PoolEntry { pool, balance: "round_robin", affinity, series, unserved, copies: None, sources: Vec::new() };
    let facts = StatusSources {
        pools: Arc::new(ArcSwap::from_pointee(vec![entry])),
        metrics,
        certificates: WatchedCertificates::default(),
        renewals: crate::acme::Statuses::default(),
        phase: receiver,
        reloader: Reloader::new().0,
        reloads: ReloadFigures::started(Duration::from_secs(7)),
        events: Events::default(),
        trends: Trends::default(),
        started: clock::unix() - Duration::from_secs(90),
    };
    TestServer { facts, phase, _busy }
}

impl TestServer {
    async fn ask(&self, token: Option<&str>, request: http::request::Builder) -> (http::response::Parts, String) {
        let address = Address::Tcp(([127, 0, 0, 1], 9090).into());
        let rules = AccessRules::new(&Settings::new(address, token.map(Into::into)));
        let router = router(&rules, self.facts.clone());
        let request = request.header("host", "127.0.0.1:9090").body(Body::empty()).unwrap();
        let (parts, body) = TowerToHyperService::new(router).call(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let (parts, body) = self.ask(None, Request::get(path)).await;
        (parts.status, body)
    }
}

#[tokio::test]
async fn status_tells_what_is_known_of_every_backend() {
    let (code, body) = server().get("/api/v1/status").await;
    assert_eq!(code, StatusCode::OK);
    let mut status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!((90..100).contains(&status["uptime_seconds"].as_u64().unwrap()));
    status["uptime_seconds"] = 0.into();
    // Times are those of the test.
    let backends = &mut status["pools"][0]["backends"];
    let now = clock::unix().as_secs();
    for pointer in ["/0/since", "/1/since", "/1/last_check/time", "/1/last_failure/time"] {
        let time = backends.pointer_mut(pointer).unwrap();
        assert!((now - 60..=now).contains(&time.as_u64().unwrap()), "{pointer}: {time}");
        *time = 1.into();
    }
    let expected = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": 0,
        "ready": true,
        "pools": [{
            "name": "app",
            "balance": "round_robin",
            "persistence": "cookie",
            "available": 1,
            "sessions": 1,
            "requests": 3,
            "errors": 0,
            "refused": { "all_down": 1 },
            "backends": [{
                "name": "a", "address": "127.0.0.1:9001", "state": "ready", "health": "up", "weight": 2,
                "effective_weight": 2.0, "sessions": 1, "idle_sessions": { "1m": 1, "5m": 0, "15m": 0, "1h": 0, "more": 0 },
                "active_requests": 1, "tunnels": 0, "requests": 3, "errors": 0, "failures": 0,
                "since": 1, "reason": null, "last_check": null, "last_failure": null,
            }, {
                "name": "b", "address": "127.0.0.1:9002", "state": "drain", "health": "down", "weight": 1,
                "effective_weight": 1.0, "sessions": 0, "idle_sessions": { "1m": 0, "5m": 0, "15m": 0, "1h": 0, "more": 0 },
                "active_requests": 0, "tunnels": 0, "requests": 0, "errors": 0, "failures": 1,
                "since": 1, "reason": "connection refused",
                "last_check": {
                    "time": 1, "ok": false, "status": null, "error": "connection refused", "duration_ms": 0.25,
                },
                "last_failure": { "time": 1, "by": "probe", "error": "connection refused" },
            }],
        }],
    });
    assert_eq!(status, expected);
}

#[tokio::test]
async fn metrics_are_the_data_paths_counters_and_the_pools_gauges() {
    let (parts, body) = server().ask(None, Request::get("/metrics")).await;
    assert_eq!(parts.headers[CONTENT_TYPE], TextFormat::OpenMetrics.content_type());
    for line in [
        r#"linchpin_requests_total{pool="app",backend="a",verdict="hit",code="200"} 3"#,
        r#"linchpin_sessions{pool="app",backend="a"} 1"#,
        r#"linchpin_active_requests{pool="app",backend="a"} 1"#,
        r#"linchpin_backend_up{pool="app",backend="a"} 1"#,
        r#"linchpin_backend_up{pool="app",backend="b"} 0"#,
        r#"linchpin_backend_weight{pool="app",backend="a"} 2"#,
        r#"linchpin_backend_state{pool="app",backend="b",state="down"} 1"#,
        r#"linchpin_backend_state{pool="app",backend="b",state="drain"} 0"#,
        r#"linchpin_available_backends{pool="app"} 1"#,
        r#"linchpin_refused_total{pool="app",reason="all_down"} 1"#,
        "# TYPE linchpin_sessions gauge",
        "linchpin_ready 1",
        "linchpin_config_last_reload_successful 1",
        "linchpin_config_last_reload_success_timestamp_seconds 7",
        r#"linchpin_config_reloads_total{result="refused"} 0"#,
        "linchpin_config_drift 0",
        concat!("linchpin_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(body.lines().any(|each| each == line), "{line}\n{body}");
    }
    assert!(body.contains("\nprocess_start_time_seconds 1"), "{body}");
    assert!(body.ends_with("# EOF\n"));
    let (parts, classic) = server().ask(None, Request::get("/metrics").header("accept", "*/*")).await;
    assert_eq!(parts.headers[CONTENT_TYPE], TextFormat::Classic.content_type());
    assert!(classic.contains("# TYPE linchpin_requests_total counter\n") && !classic.contains("# EOF"), "{classic}");
}

#[tokio::test]
async fn a_reload_shows_in_the_next_answer() {
    let server = server();
    server.facts.pools.store(Arc::default());
    assert!(server.get("/api/v1/status").await.1.contains(r#""pools":[]"#));
    assert!(!server.get("/metrics").await.1.contains("linchpin_backend_up{"));
}

#[tokio::test]
async fn readiness_ends_before_life() {
    let server = server();
    assert_eq!(server.get("/readyz").await, (StatusCode::OK, "ready".into()));
    server.phase.send_replace(Phase::Starting);
    assert_eq!(server.get("/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, "starting".into()));
    let alive = (StatusCode::OK, "ok".to_owned());
    assert_eq!(server.get("/livez").await, alive);
    server.phase.send_modify(|phase| assert!(phase.mark_ready()));
    server.phase.send_modify(|phase| assert!(phase.mark_stalled(true) && !phase.mark_stalled(true)));
    let why = (StatusCode::SERVICE_UNAVAILABLE, "stalled: a worker thread does not respond".into());
    assert_eq!((server.get("/readyz").await, server.get("/livez").await), (why.clone(), why));
    server.phase.send_modify(|phase| assert!(phase.mark_stalled(false) && !phase.mark_stalled(false)));
    server.phase.send_modify(|phase| assert!(phase.mark_broken() && !phase.mark_broken()));
    server.phase.send_modify(|phase| assert!(!phase.mark_stalled(true) && !phase.mark_stalled(false)));
    let why = (StatusCode::SERVICE_UNAVAILABLE, "broken: a worker thread has failed".into());
    assert_eq!((server.get("/readyz").await, server.get("/livez").await), (why.clone(), why));
    for stopping in [Phase::Leaving, Phase::Closing, Phase::Stopping] {
        server.phase.send_replace(stopping);
        assert_eq!(server.get("/livez").await, alive, "nobody kills what ends by itself");
    }
    server.phase.send_modify(|phase| assert!(!phase.mark_ready() && !phase.mark_broken()));
    assert_eq!(server.get("/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, "stopping".into()));
    assert!(server.get("/api/v1/status").await.1.contains(r#""ready":false"#));
}

#[tokio::test]
async fn with_a_token_facts_need_it_and_the_page_asks_for_it() {
    let server = server();
    for path in ["/api/v1/status", "/metrics", "/nothing/here"] {
        let (parts, body) = server.ask(Some("secret"), Request::get(path)).await;
        assert_eq!(parts.status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(parts.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        assert!(!body.contains("app") && !body.contains("secret"), "{body}");
    }
    for path in ["/", "/livez", "/readyz"] {
        assert_eq!(server.ask(Some("secret"), Request::get(path)).await.0.status, StatusCode::OK, "{path}");
    }
    let request = Request::get("/api/v1/status").header("authorization", "Bearer secret");
    assert_eq!(server.ask(Some("secret"), request).await.0.status, StatusCode::OK);
}

#[tokio::test]
async fn a_name_that_anybody_can_point_here_reads_nothing() {
    let server = server();
    let address = Address::Tcp(([127, 0, 0, 1], 9090).into());
    let router = router(&AccessRules::new(&Settings::new(address, None)), server.facts.clone());
    let request = Request::get("/api/v1/status").header("host", "evil.example:9090").body(Body::empty()).unwrap();
    let response = TowerToHyperService::new(router).call(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn what_is_only_read_changes_by_no_method_and_no_other_site_gets_to_ask() {
    let server = server();
    for path in ["/", "/metrics", "/api/v1/status", "/livez"] {
        let (parts, _) = server.ask(None, Request::post(path)).await;
        assert_eq!(parts.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(parts.headers["allow"], "GET,HEAD");
        let (parts, _) = server.ask(None, Request::delete(path).header("origin", "http://evil.example")).await;
        assert_eq!(parts.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(server.get("/api/v1/nothing").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn every_answer_minds_its_manners_and_the_page_its_policy() {
    let server = server();
    for path in ["/", "/metrics", "/nothing"] {
        let (parts, _) = server.ask(None, Request::get(path)).await;
        for (name, value) in SECURITY_HEADERS {
            assert_eq!(parts.headers.get(&name), Some(&value), "{path} {name}");
        }
    }
    for (path, kind, start) in [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/dashboard/main.js", "text/javascript; charset=utf-8", "//"),
        ("/dashboard/theme.css", "text/css; charset=utf-8", "/*"),
    ] {
        let (parts, body) = server.ask(Some("secret"), Request::get(path)).await;
        assert_eq!(parts.headers[CONTENT_TYPE], kind);
        assert!(parts.headers[CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'none'; "), "{path}");
        assert!(body.starts_with(start), "{path}");
    }
    assert_eq!(server.get("/dashboard/nothing.js").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_last_ten_minutes_are_kept_and_no_more() {
    let server = server();
    let entries = server.facts.pools.load_full();
    let trends = async |query: &str| -> serde_json::Value {
        let (code, body) = server.get(&format!("/api/v1/trends{query}")).await;
        assert_eq!(code, StatusCode::OK, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    // What was counted before the first sample belongs to none.
    server.facts.trends.sample(&entries);
    let (took, first_byte) = (Duration::from_millis(7), None);
    let ended = EndedRequest { verdict: 1, status: 503, took, first_byte, bytes_in: 0, bytes_out: 0 };
    entries[0].series[0].request(0, &ended);
    entries[0].unserved.request(0, &ended);
    server.facts.trends.sample(&entries);
    let view = trends("").await;
    let pool = &view["pools"][0];
    assert_eq!((&view["newest"], &pool["name"]), (&2.into(), &"app".into()));
    assert_eq!((&pool["requests"], &pool["errors"]), (&serde_json::json!([0, 2]), &serde_json::json!([0, 2])));
    let backend = &pool["backends"][0];
    assert_eq!((&backend["requests"], &backend["sessions"]), (&serde_json::json!([0, 1]), &serde_json::json!([1, 1])));
    assert_eq!(backend["p50_ms"], serde_json::json!([null, 7.5]));

    for _ in 0..200 {
        server.facts.trends.sample(&entries);
    }
    for (query, samples) in [("", 120), ("?after=201", 1), ("?after=202", 0), ("?after=5000", 120)] {
        let view = trends(query).await;
        assert_eq!(view["pools"][0]["backends"][1]["sessions"].as_array().unwrap().len(), samples, "{query}");
    }
    // Nothing is kept of a pool that a reload has removed.
    server.facts.trends.sample(&[]);
    assert_eq!(trends("").await["pools"], serde_json::json!([]));
}
