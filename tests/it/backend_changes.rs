//! What an operator changes of a backend while the proxy runs: its state and its weight, through the admin API.

use serde_json::{Value, json};

use super::support::reloads::Reloadable;
use super::support::{Backend, Proxy, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"";

fn proxy(backends: &[&Backend]) -> Proxy {
    let builder = Proxy::builder().top(ADMIN);
    backends.iter().fold(builder, |builder, backend| builder.backend(backend, "")).start()
}

fn path(backend: &str, what: &str) -> String {
    format!("/api/v1/pools/app/backends/{backend}/{what}")
}

async fn change(proxy: &Proxy, backend: &str, what: &str, body: &str) -> Value {
    let answer = proxy.ask("POST", &path(backend, what), body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str(&answer.text()).unwrap()
}

#[tokio::test]
async fn a_backend_in_drain_keeps_its_session_and_gets_no_new_one_and_in_maintenance_serves_nothing() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let proxy = proxy(&[&a, &b]);
    let mut client = proxy.client().await;
    let home = client.get("/").await.text();
    let other = if home == "a" { "b" } else { "a" };

    let status = change(&proxy, &home, "state", r#"{"state":"drain"}"#).await;
    assert_eq!((&status["name"], &status["state"], &status["sessions"]), (&json!(home), &json!("drain"), &json!(1)));
    assert_eq!(status["drift"][0]["key"], "state");
    for _ in 0..4 {
        assert_eq!(client.get("/").await.text(), home);
        assert_eq!(proxy.get(None).await.text(), other);
    }
    change(&proxy, &home, "state", r#"{"state":"maintenance"}"#).await;
    assert_eq!(client.get("/").await.text(), other);
    let status = change(&proxy, &home, "state", r#"{"state":"ready"}"#).await;
    assert_eq!((&status["state"], &status["drift"]), (&json!("ready"), &Value::Null));
    until("new sessions reach it again", async || proxy.get(None).await.text() == home).await;
}

#[tokio::test]
async fn a_weight_that_is_set_applies_to_the_next_new_session_and_outlives_a_reload() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let text = |more: &str| Proxy::builder().top(ADMIN).backend(&a, "").backend(&b, more).text();
    let linchpin = Reloadable::start(&text(""));
    let status = change(&linchpin.proxy, "a", "weight", r#"{"weight":0}"#).await;
    assert_eq!((&status["weight"], &status["drift"][0]["file"]), (&json!(0), &json!(1)));
    for _ in 0..6 {
        assert_eq!(linchpin.proxy.get(None).await.text(), "b");
    }
    linchpin.reload(&text("backup = true")).await;
    assert_eq!(linchpin.proxy.live("a").weight(), 0);
    assert_eq!(change(&linchpin.proxy, "a", "weight", r#"{"weight":1000}"#).await["weight"], 1000);
    until("new sessions reach it again", async || linchpin.proxy.get(None).await.text() == "a").await;
}

#[tokio::test]
async fn a_change_that_can_not_be_made_changes_nothing_and_says_what_is_wrong_and_what_could_be_meant() {
    let a = Backend::named("alpha").await;
    let proxy = proxy(&[&a]);
    let drain = r#"{"state":"drain"}"#;
    for (path, body, status, expected) in [
        ("/api/v1/pools/ap/backends/alpha/state", drain, 404, "There is no pool \"ap\"; did you mean \"app\"?\n"),
        (&path("alpa", "state"), drain, 404, "There is no backend \"alpa\" in pool \"app\"; did you mean \"alpha\"?\n"),
        (&path("zz", "weight"), "{}", 404, "There is no backend \"zz\" in pool \"app\"; there is \"alpha\".\n"),
        (
            &path("alpha", "state"),
            r#"{"state":"drian"}"#,
            422,
            "There is no state \"drian\"; did you mean \"drain\"?\n",
        ),
        (
            &path("alpha", "weight"),
            r#"{"weight":1001}"#,
            422,
            "`weight` must be a whole number from 0 to 1000, not 1001.\n",
        ),
    ] {
        let answer = proxy.ask("POST", path, body).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, expected), "{path}");
    }
    for (what, body) in [
        ("state", ""),
        ("state", "{}"),
        ("state", r#"{"stat":"drain"}"#),
        ("weight", r#"{"weight":-1}"#),
        ("weight", r#"{"weight":1.5}"#),
        ("weight", r#"{"weight":"3"}"#),
        ("weight", r#"[]"#),
    ] {
        let answer = proxy.ask("POST", &path("alpha", what), body).await;
        assert_eq!(answer.status, 422, "{what} {body}");
        assert!(answer.text().contains(". Send for example {\""), "{}", answer.text());
    }
    assert_eq!(proxy.ask("GET", &path("alpha", "state"), "").await.status, 405);
    let live = proxy.live("alpha");
    assert_eq!((live.wanted().as_str(), live.weight()), ("ready", 1));
}
