//! The metrics as Prometheus reads them: both text formats, its own linter, the alerts and the dashboard for Grafana.

use std::collections::BTreeSet;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::support::proxy::Builder;
use super::support::reloads::Reloadable;
use super::support::repository::{path, read};
use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy, soon, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// The metrics of the contract.
const NAMES: [&str; 50] = [
    "linchpin_requests_total",
    "linchpin_request_duration_seconds",
    "linchpin_sessions",
    "linchpin_idle_sessions",
    "linchpin_active_requests",
    "linchpin_backend_up",
    "linchpin_attempts_total",
    "linchpin_moves_total",
    "linchpin_connections",
    "linchpin_backend_state",
    "linchpin_backend_weight",
    "linchpin_backend_effective_weight",
    "linchpin_backend_last_change_timestamp_seconds",
    "linchpin_available_backends",
    "linchpin_backend_bytes_total",
    "linchpin_backend_connect_seconds",
    "linchpin_backend_first_byte_seconds",
    "linchpin_backend_checks_total",
    "linchpin_ejections_total",
    "linchpin_refused_total",
    "linchpin_queue_length",
    "linchpin_queue_wait_seconds",
    "linchpin_drain_sessions_remaining",
    "linchpin_drain_deadline_timestamp_seconds",
    "linchpin_rebalanced_sessions_total",
    "linchpin_rebalance_active",
    "linchpin_config_last_reload_successful",
    "linchpin_config_last_reload_success_timestamp_seconds",
    "linchpin_config_reloads_total",
    "linchpin_config_drift",
    "linchpin_certificate_not_before_timestamp_seconds",
    "linchpin_certificate_not_after_timestamp_seconds",
    "linchpin_pins_rejected_total",
    "linchpin_copies_sessions",
    "linchpin_copies_bytes",
    "linchpin_copies_memory_bytes",
    "linchpin_copies_saves_total",
    "linchpin_copies_gives_total",
    "linchpin_copies_wants_total",
    "linchpin_copies_evictions_total",
    "linchpin_copies_refused_total",
    "linchpin_copies_handover_seconds",
    "linchpin_build_info",
    "linchpin_ready",
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
    "process_max_fds",
];

/// Returns the metrics in the format that this Accept field asks for.
pub async fn metrics(proxy: &Proxy, accept: &str) -> String {
    let mut admin = Client::connect(proxy.admin()).await;
    admin.send(format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\n\r\n").as_bytes()).await;
    admin.response().await.text()
}

/// A pool with everything that has metrics.
fn everything(a: &Backend, b: &Backend) -> Builder {
    Proxy::builder()
        .top(ADMIN)
        .backend(a, "")
        .backend(b, "")
        .table("health", "path = \"/\"\ninterval = \"100ms\"\ntimeout = \"10s\"")
        .table("copies", "")
        .table("queue", "size = 10\ntimeout = \"1s\"")
        .table("rebalance", "sessions_per_minute = 10")
}

/// Starts it, and lets each of its metrics have a sample.
pub async fn with_traffic(a: &Backend, b: &Backend) -> Proxy {
    let proxy = everything(a, b).start();
    let pin = proxy.get(None).await.pin().unwrap();
    proxy.get(Some(&pin)).await;
    proxy.get(Some("linchpin-app=nonsense")).await;
    proxy.ask("POST", "/api/v1/pools/app/backends/a/drain", r#"{"deadline":"10m"}"#).await;
    until("a probe", async || proxy.live("a").history().passed_checks > 0).await;
    proxy
}

/// Returns the names of the families in the classic format, and in OpenMetrics those of their samples.
pub fn families(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

/// Runs promtool with this standard input.
async fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    // `tests/run` unpacks it there if it is not installed: its package would also start a server.
    let own = path("tests/tools/promtool");
    let program = if own.exists() { own } else { "promtool".into() };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(path("dashboards"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().expect("promtool; `tests/run` installs what the tests need");
    process.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = soon("promtool", process.wait_with_output()).await.unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}

#[tokio::test]
async fn prometheus_linter_finds_nothing_and_every_metric_of_the_contract_is_there() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = with_traffic(&a, &b).await;
    let text = metrics(&proxy, "text/plain").await;
    assert_eq!(promtool(&["check", "metrics"], &text).await, (true, String::new()), "{text}");
    let all = families(&text);
    let missing: Vec<_> = NAMES.iter().filter(|name| !all.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?} in {text}");
    let document = read("docs/monitoring.md");
    let undescribed: Vec<_> = all.iter().filter(|name| !document.contains(&format!("`{name}`"))).collect();
    assert!(undescribed.is_empty(), "docs/monitoring.md lacks {undescribed:?}");
    for line in [
        "linchpin_backend_bytes_total{pool=\"app\",backend=\"b\",direction=\"out\"}",
        "linchpin_backend_state{pool=\"app\",backend=\"a\",state=\"drain\"} 1",
        "linchpin_backend_checks_total{pool=\"app\",backend=\"a\",result=\"passed\"}",
        "linchpin_pins_rejected_total{pool=\"app\",cause=\"unreadable\"} 1",
        "linchpin_drain_sessions_remaining{pool=\"app\",backend=\"a\"}",
        "linchpin_drain_deadline_timestamp_seconds{pool=\"app\",backend=\"a\"}",
    ] {
        assert!(text.lines().any(|each| each.starts_with(line)), "{line} in {text}");
    }
    let connects = "linchpin_backend_connect_seconds_count{pool=\"app\",";
    let first_bytes = "linchpin_backend_first_byte_seconds_count{pool=\"app\",";
    let sum = |start: &str| -> u64 {
        let values = text.lines().filter(|line| line.starts_with(start)).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<u64>().unwrap()).sum()
    };
    // Three requests, each on a connection of its own client; each backend's connection was opened once or kept.
    assert_eq!(sum(first_bytes), 3, "{text}");
    assert!((1..=3).contains(&sum(connects)), "{text}");
}

#[tokio::test]
async fn both_formats_have_the_same_samples() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = with_traffic(&a, &b).await;
    let samples = |text: &str| -> BTreeSet<String> {
        let names =
            text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0.to_owned());
        names.collect()
    };
    let (classic, open) = (metrics(&proxy, "*/*").await, metrics(&proxy, "application/openmetrics-text").await);
    assert_eq!(samples(&classic), samples(&open));
    assert!(samples(&open).len() > 200, "{open}");
    assert!(open.ends_with("# EOF\n") && !classic.contains("# EOF"));
    // Each sample of OpenMetrics follows the metadata of its family.
    let mut family = "";
    for line in open.lines().filter(|line| *line != "# EOF") {
        match line.strip_prefix("# TYPE ") {
            Some(rest) => family = rest.split(' ').next().unwrap(),
            None if line.starts_with('#') => {}
            None => assert!(line.starts_with(family), "{line} after {family}"),
        }
    }
}

#[tokio::test]
async fn the_alerts_fire_when_they_should_and_at_no_other_time() {
    let (is_good, said) = promtool(&["check", "rules", "alerts.yml"], "").await;
    assert!(is_good && said.contains("SUCCESS"), "{said}");
    let (is_good, said) = promtool(&["test", "rules", "alerts-test.yml"], "").await;
    assert!(is_good && said.contains("SUCCESS"), "{said}");
    // Each alert has a case in which it fires.
    let cases = read("dashboards/alerts-test.yml");
    for alert in read("dashboards/alerts.yml").lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let fires = cases.split("alertname: ").skip(1).any(|case| {
            case.starts_with(alert) && case.lines().nth(1).is_some_and(|line| line.trim() == "exp_alerts:")
        });
        assert!(fires, "no case in which {alert} fires");
    }
}

#[tokio::test]
async fn alerts_and_grafana_dashboard_ask_only_for_metrics_that_exist() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = with_traffic(&a, &b).await;
    let text = metrics(&proxy, "text/plain").await;
    let all = families(&text);
    let grafana: serde_json::Value = serde_json::from_str(&read("dashboards/grafana.json")).unwrap();
    let panels = grafana["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let asked: Vec<String> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(asked.len() > 30);
    let mut used = BTreeSet::new();
    for expression in asked.iter().chain([&read("dashboards/alerts.yml")]) {
        for word in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if word.starts_with("linchpin_") || word.starts_with("process_") {
                used.insert(word.trim_end_matches("_bucket").to_owned());
            }
        }
    }
    let unknown: Vec<_> = used.iter().filter(|name| !all.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // Prometheus parses each expression of the dashboard, too.
    let rules: Vec<_> = asked
        .iter()
        .map(|expression| {
            let expression = expression.replace("$__rate_interval", "1m");
            serde_json::json!({ "record": "a", "expr": expression })
        })
        .collect();
    let rules: Vec<_> = rules
        .iter()
        .enumerate()
        .map(|(at, rule)| serde_json::json!({ "name": at.to_string(), "rules": [rule] }))
        .collect();
    let folder = Folder::new();
    let file = folder.write("rules.json", serde_json::json!({ "groups": rules }).to_string().as_bytes());
    let (is_good, said) = promtool(&["check", "rules", &file], "").await;
    assert!(is_good, "{said}");
}

#[tokio::test]
async fn backends_that_come_and_go_leave_the_number_of_series_bounded() {
    let generation = |number: usize| {
        let backends = (1..=100).map(|n| {
            // Nobody listens at these addresses, and nobody asks.
            format!("[[pools.backends]]\nname = \"b{number}-{n}\"\naddress = \"127.0.0.{n}:9\"\n")
        });
        Proxy::builder().top(ADMIN).table("health", "type = \"none\"").text() + &backends.collect::<String>()
    };
    let linchpin = Reloadable::start(&generation(0));
    let first = metrics(&linchpin.proxy, "text/plain").await.lines().count();
    for number in 1..100 {
        let report = linchpin.reload(&generation(number)).await;
        assert!(report.errors.is_empty(), "{report:?}");
    }
    // The counts of those that are gone are merged within ten seconds.
    let now = async || metrics(&linchpin.proxy, "text/plain").await;
    until("few series", async || now().await.lines().count() <= first + 100).await;
    let text = now().await;
    assert!(!text.contains("backend=\"b98-"), "{text}");
    assert!(text.contains("backend=\"b99-100\""), "{text}");
}
