//! Requests in flight on a backend that dies: what is repeated elsewhere, and how often a backend executes each of them.

use super::support::keys::pin;
use super::support::{Backend, Keys, Proxy, Reply, until};

/// The outcome of one request that was in flight on `a` when it died: the status, and the executions on `a` and `b`.
struct Outcome {
    status: u16,
    executions: (usize, usize),
}

/// Sends a request with these fields to `a`, which takes it, sends nothing and dies.
async fn die_in_flight(retry: &str, method: &'static str, fields: &'static str, body: &'static [u8]) -> Outcome {
    let keys = Keys::new(&[1]);
    let a = Backend::start("a", |_| Reply::Hang).await;
    let b = Backend::named("b").await;
    let builder = Proxy::builder().top(&keys.tables()).backend(&a, "").backend(&b, "");
    let proxy = builder.table("retry", retry).start();
    let mut client = proxy.client_with(&keys.cookie(&pin(&proxy, "a", 7))).await;
    let request = tokio::spawn(async move { client.request(method, "/", fields, body).await });
    a.has(1).await;
    let on_a = a.count();
    a.kill().await;
    let response = request.await.unwrap();
    assert!(b.seen().iter().all(|seen| seen.body == body && seen.field("idempotency-key") == sent_key(fields)));
    Outcome { status: response.status, executions: (on_a, b.count()) }
}

fn sent_key(fields: &str) -> Option<&str> {
    let line = fields.lines().find(|line| line.to_ascii_lowercase().starts_with("idempotency-key: "))?;
    line.split_once(": ").map(|(_, key)| key)
}

#[tokio::test]
async fn a_post_that_died_with_its_server_is_repeated_only_with_a_key_and_where_the_pool_allows_it() {
    const KEY: &str = "idempotency-key: \"8e03978e-40d5-43dd-bc93-6894a57f9324\"\r\n";
    let allowed = "retry_on = [\"idempotency_key\"]";
    for (retry, method, fields, status, executions) in [
        ("", "POST", "", 502, (1, 0)),
        ("", "POST", KEY, 502, (1, 0)),
        ("", "GET", "", 200, (1, 1)),
        (allowed, "POST", "", 502, (1, 0)),
        (allowed, "POST", KEY, 200, (1, 1)),
        (allowed, "PATCH", "Idempotency-Key: 7\r\n", 200, (1, 1)),
        (allowed, "POST", "idempotency-key: \r\n", 502, (1, 0)),
        (allowed, "POST", "idempotency-key: \"\"\r\n", 502, (1, 0)),
        (allowed, "POST", "idempotency-key: 1\r\nidempotency-key: 2\r\n", 502, (1, 0)),
        (allowed, "POST", "connection: idempotency-key\r\nidempotency-key: 1\r\n", 502, (1, 0)),
        // The other failures of the default list still count for what is idempotent.
        (allowed, "GET", "", 200, (1, 1)),
        ("retry_on = [\"reset\", \"idempotency_key\"]", "POST", KEY, 200, (1, 1)),
        ("retry_on = [\"timeout\", \"idempotency_key\"]", "POST", KEY, 502, (1, 0)),
    ] {
        let outcome = die_in_flight(retry, method, fields, b"pay").await;
        assert_eq!((outcome.status, outcome.executions), (status, executions), "{retry} {method} {fields}");
    }
}

#[tokio::test]
async fn a_keyed_post_is_repeated_only_as_far_as_its_body_is_kept_and_attempts_and_budget_allow() {
    const KEY: &str = "idempotency-key: 1\r\n";
    for (retry, status, executions) in [
        ("replay_limit = \"2B\"", 502, (1, 0)),
        ("replay_limit = \"3B\"", 200, (1, 1)),
        ("attempts = 1", 502, (1, 0)),
        ("attempts = 2", 200, (1, 1)),
    ] {
        let retry = format!("retry_on = [\"idempotency_key\"]\n{retry}");
        let outcome = die_in_flight(&retry, "POST", KEY, b"pay").await;
        assert_eq!((outcome.status, outcome.executions), (status, executions), "{retry}");
    }
}

#[tokio::test]
async fn without_budget_keyed_posts_that_fail_one_after_the_other_are_not_all_repeated() {
    let keys = Keys::new(&[1]);
    let (a, b) = (Backend::start("a", |_| Reply::Close).await, Backend::named("b").await);
    let retry = "retry_on = [\"idempotency_key\"]\nbudget = \"0%\"";
    let builder = Proxy::builder().top(&keys.tables()).backend(&a, "").backend(&b, "");
    // Else the backend is soon ejected, and its requests cost no budget.
    let proxy = builder.table("retry", retry).table("ejection", "consecutive_failures = 1000").start();
    let mut refused = 0;
    for n in 0..30 {
        let mut client = proxy.client_with(&keys.cookie(&pin(&proxy, "a", n))).await;
        let response = client.request("POST", "/", "idempotency-key: 1\r\n", b"pay").await;
        refused += usize::from(response.status == 502);
    }
    until("every request was counted", async || a.count() == 30).await;
    assert!(refused > 0 && b.count() == 30 - refused, "{refused} refused, {} on b", b.count());
}
