//! The dashboard's script, with a status of the test's own: pools of thousands of backends, and backends that change.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::browser::open_with;
use super::support::Backend;
use super::support::backend::{Reply, Seen};
use super::support::repository::read;

/// A pool of the backends with these names, each of which has had so many requests.
fn status(names: &[String], requests: usize) -> String {
    let backend = |name: &String| {
        format!(
            r#"{{"name":"{name}","address":"10.0.0.1:80","state":"ready","health":"up","weight":1,"sessions":0,
            "active_requests":0,"requests":{requests},"errors":0,"failures":0,"since":0,"reason":null,"last_check":null,
            "last_failure":null}}"#
        )
    };
    let backends: Vec<_> = names.iter().map(backend).collect();
    format!(
        r#"{{"version":"1","uptime_seconds":1,"ready":true,"pools":[{{"name":"app","balance":"round_robin",
        "persistence":"off","available":{},"sessions":0,"requests":{requests},"errors":0,"refused":{{}},"backends":[{}]}}]}}"#,
        names.len(),
        backends.join(",")
    )
}

/// The files of the dashboard, and the rest of the API: no certificates, no reload, no trends, and the right to change.
fn file(request: &Seen) -> Reply {
    let json =
        |body: &str| Reply::new(200, "content-type: application/json\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n", body);
    match request.path() {
        "/" => Reply::new(200, "content-type: text/html\r\n", &read("src/admin/dashboard/page.html")),
        "/api/v1/access" => json(r#"{"may_change":true}"#),
        "/api/v1/certificates" | "/api/v1/renewals" => json("[]"),
        "/api/v1/reload" => json(r#"{"generation":1,"last":null}"#),
        path if path.starts_with("/api/v1/trends") => json(r#"{"interval":5,"kept":120,"newest":0,"pools":[]}"#),
        path if path.starts_with("/dashboard/") => {
            let kind = if path.ends_with(".css") { "text/css" } else { "text/javascript" };
            Reply::new(200, &format!("content-type: {kind}\r\n"), &read(&format!("src/admin{path}")))
        }
        _ => Reply::new(404, "", "nothing"),
    }
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
        _ => file(request),
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
