//! The dashboard's script, with a status of the test's own: pools of thousands of backends, and backends that change.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::browser::open_with;
use super::support::Backend;
use super::support::backend::Reply;

const PAGE: &str = include_str!("../../src/admin/dashboard.html");

/// A pool of the backends with these names, each of which has had so many requests.
fn status(names: &[String], requests: usize) -> String {
    let backend = |name: &String| {
        format!(
            r#"{{"name":"{name}","address":"10.0.0.1:80","state":"ready","health":"up","weight":1,"sessions":0,
            "active_requests":0,"requests":{requests},"failures":0,"since":0,"reason":null,"last_check":null,
            "last_failure":null}}"#
        )
    };
    let backends: Vec<_> = names.iter().map(backend).collect();
    format!(
        r#"{{"version":"1","uptime_seconds":1,"ready":true,"pools":[{{"name":"app","balance":"round_robin",
        "persistence":"off","available":{},"refused":{{}},"backends":[{}]}}]}}"#,
        names.len(),
        backends.join(",")
    )
}

/// What the dashboard shows after it has read the status for `seconds`; `status` makes the one of each second.
async fn shown(seconds: u32, status: impl Fn(usize) -> String + Send + Sync + 'static) -> String {
    let second = AtomicUsize::new(0);
    let server = Backend::start("admin", move |request| match request.path() {
        "/api/v1/status" => Reply::new(
            200,
            "content-type: application/json\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
            &status(second.fetch_add(1, Ordering::SeqCst)),
        ),
        _ => Reply::new(200, "content-type: text/html\r\n", PAGE),
    })
    .await;
    let time = format!("--virtual-time-budget={}", seconds * 1000);
    // An eighth of the usual stack, so that an eighth of the backends is enough to exceed it.
    open_with(&format!("http://{}/", server.address()), &[&time, "--js-flags=--stack-size=123"]).await
}

#[tokio::test]
async fn a_pool_of_any_size_is_still_shown_after_a_minute() {
    let names: Vec<_> = (0..1000).map(|n| format!("b{n}")).collect();
    let page = shown(20, move |second| status(&names, second)).await;
    assert!(page.contains(">● live</span>"), "{}", page.split("</section>").next().unwrap_or_default());
}

#[tokio::test]
async fn nothing_is_kept_of_a_backend_that_is_gone() {
    // Each is gone in every other second, and so has no rate, which takes two seconds in a row.
    let page = shown(10, |second| status(&[format!("b{}", second % 2)], second)).await;
    assert!(page.contains("data-field=\"rate\">–</span>"), "{}", page.split("<script>").next().unwrap_or_default());
}
