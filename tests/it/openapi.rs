//! The OpenAPI document of the admin API: it is valid, describes every path and no other, and real answers are as it says.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::support::events::EventStream;
use super::support::repository::{path, read, rust_files};
use super::support::{Backend, Client, Proxy, soon};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Returns the paths and methods that the sources give to the router.
fn routes() -> BTreeSet<(String, String)> {
    let sources: Vec<_> = rust_files("src/admin").into_iter().filter(|file| !file.ends_with("serve.rs")).collect();
    let texts: Vec<String> = sources.iter().map(|file| read(file)).collect();
    let constant = |name: &str| {
        let begin = format!("const {name}: &str = \"");
        let text = texts.iter().find_map(|text| text.split_once(&begin)).expect("a constant of that name");
        text.1.split('"').next().unwrap().to_owned()
    };
    let mut routes = BTreeSet::new();
    for text in &texts {
        for call in text.split(".route(").skip(1) {
            let (target, rest) = call.trim_start().split_once(',').unwrap();
            let target = match target.trim().trim_start_matches("&format!(").trim_end_matches(')') {
                literal if literal.starts_with('"') => {
                    literal.trim_matches('"').replace("{BACKEND}", &constant("BACKEND"))
                }
                name => constant(name),
            };
            let handlers = rest.split([';', '\n']).next().unwrap();
            for method in METHODS.iter().filter(|method| {
                handlers.match_indices(*method).any(|(at, _)| {
                    let before = handlers[..at].chars().next_back();
                    handlers[at + method.len()..].starts_with('(')
                        && !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                })
            }) {
                routes.insert((target.clone(), (*method).to_owned()));
            }
        }
    }
    routes
}

async fn document(proxy: &Proxy) -> Value {
    serde_json::from_str(&proxy.ask("GET", "/api/v1/openapi.json", "").await.text()).unwrap()
}

#[tokio::test]
async fn the_document_describes_every_route_and_no_other() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().top(ADMIN).backend(&a, "").start();
    let document = document(&proxy).await;
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = METHODS.into_iter().filter(|method| item.get(method).is_some());
            methods.map(|method| (path.clone(), method.to_owned()))
        })
        .collect();
    let routes = routes();
    assert!(routes.len() >= 12, "{routes:?}");
    assert_eq!(described, routes);
    // The router knows each of them: nothing else answers with a status of its own.
    for (path, method) in described {
        let path = path.replace("{pool}", "nowhere").replace("{backend}", "a");
        let mut admin = Client::connect(proxy.admin()).await;
        admin
            .send(
                format!("{} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n", method.to_uppercase())
                    .as_bytes(),
            )
            .await;
        if path == "/api/v1/events" {
            continue;
        }
        let response = admin.response().await;
        assert_ne!(response.status, 405, "{method} {path}");
        assert!(!response.text().starts_with("Not found. The paths are"), "{method} {path}");
    }
}

#[tokio::test]
async fn an_independent_validator_accepts_the_document_and_all_answers() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = Proxy::builder()
        .top(ADMIN)
        .backend(&a, "")
        .backend(&b, "weight = 2")
        .table("health", "path = \"/\"\ninterval = \"50ms\"\ntimeout = \"10s\"")
        .start();
    let pin = proxy.get(None).await.pin().unwrap();
    let mut events = EventStream::open(proxy.admin(), "?last=100", "").await;
    let backend = "/api/v1/pools/{pool}/backends/{backend}";
    let token = json!({ "token": pin }).to_string();
    let requests: Vec<(&str, String, String, &str)> = [
        ("GET", "/", "", ""),
        ("GET", "/livez", "", ""),
        ("GET", "/readyz", "", ""),
        ("GET", "/metrics", "", ""),
        ("GET", "/api/v1/openapi.json", "", ""),
        ("GET", "/api/v1/status", "", ""),
        ("GET", "/api/v1/trends", "", ""),
        ("GET", "/api/v1/trends", "?after=1", ""),
        ("GET", "/api/v1/trends", "?after=x", ""),
        ("GET", "/api/v1/certificates", "", ""),
        ("GET", "/api/v1/renewals", "", ""),
        ("GET", "/api/v1/access", "", ""),
        ("GET", "/api/v1/reload", "", ""),
        ("POST", "/api/v1/explain", "", &token),
        ("POST", "/api/v1/explain", "", "{\"token\":\"nothing\"}"),
        ("POST", "/api/v1/explain", "", "{}"),
        ("POST", "/api/v1/reload", "?dry_run=true", ""),
        ("POST", "/api/v1/reload", "?dry_run=perhaps", ""),
        ("POST", "/api/v1/reload", "", ""),
        ("GET", "/api/v1/reload", "", ""),
        ("GET", "/api/v1/events", "?last=x", ""),
        ("GET", backend, "", ""),
        ("POST", "…/state", "", "{\"state\":\"drain\"}"),
        ("POST", "…/state", "", "{\"state\":\"ready\"}"),
        ("POST", "…/state", "", "{\"state\":\"off\"}"),
        ("POST", "…/weight", "", "{\"weight\":7}"),
        ("POST", "…/weight", "", "{\"weight\":7000}"),
        ("GET", "…/sessions", "", ""),
        ("GET", "…/sessions", "?below=5&wait=1s", ""),
        ("GET", "/api/v1/status", "", ""),
    ]
    .into_iter()
    .chain(drains())
    .map(|(method, path, query, body)| (method, path.replace('…', backend), query.to_owned(), body))
    .collect();
    let mut answers = Vec::new();
    for (method, path, query, body) in requests {
        let target = path.replace("{pool}", "app").replace("{backend}", "a") + &query;
        let answer = proxy.ask(method, &target, body).await;
        assert!(answer.status < 500, "{method} {target}: {}", answer.text());
        let kind = answer.field("content-type").unwrap_or_default();
        answers.push(
            json!({ "method": method, "path": path, "status": answer.status, "type": kind, "body": answer.text() }),
        );
    }
    let unknown = proxy.ask("GET", "/api/v1/pools/nowhere/backends/a", "").await;
    answers.push(json!({ "method": "GET", "path": backend, "status": unknown.status, "type": unknown.field("content-type"), "body": unknown.text() }));
    let mut seen = Vec::new();
    for kind in ["process", "state", "weight"] {
        seen.push(events.next(kind).await.data);
    }
    let reloads = proxy.ask("GET", "/metrics", "").await.text();
    assert!(reloads.contains("linchpin_config_reloads_total"), "{reloads}");
    let given = json!({ "document": document(&proxy).await, "answers": answers, "events": seen }).to_string();

    let mut check = Command::new("python3");
    check.arg(path("tests/python/openapi_check.py")).env("PYTHONPATH", path("tests/python/packages"));
    check.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(given.as_bytes()).await.unwrap();
    let output = soon("the validator", check.wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n`tests/run` installs what it needs");
}

/// The requests that begin and cancel a drain.
fn drains() -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
    vec![
        ("POST", "…/drain", "", "{\"deadline\":\"10m\",\"then\":\"maintenance\"}"),
        ("GET", "…/drain", "", ""),
        ("DELETE", "…/drain", "", ""),
        ("DELETE", "…/drain", "", ""),
        ("GET", "/api/v1/status", "", ""),
    ]
}
