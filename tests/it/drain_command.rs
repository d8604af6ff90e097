//! `linchpin drain` and `linchpin sessions`: what they do, print and return to a script.

use std::process::Output;

use serde_json::{Value, json};

use super::support::process::linchpin;
use super::support::tool::Folder;
use super::support::{Backend, Proxy, until};

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"";

/// A running proxy, and a file that names its admin listener.
struct Operated {
    proxy: Proxy,
    file: String,
    _folder: Folder,
}

async fn operated(backends: &[(&Backend, &str)]) -> Operated {
    let builder = Proxy::builder().top(ADMIN);
    let proxy = backends.iter().fold(builder, |builder, (backend, lines)| builder.backend(backend, lines)).start();
    let folder = Folder::new();
    let file = folder.write("linchpin.toml", format!("[admin]\naddress = \"{}\"\n", proxy.admin()).as_bytes());
    Operated { proxy, file, _folder: folder }
}

impl Operated {
    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = linchpin(&[arguments, &["-c", &self.file]].concat()).await;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }
}

#[tokio::test]
async fn a_script_waits_for_a_drain_and_learns_whether_it_was_in_time() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let operated = operated(&[(&a, ""), (&b, "weight = 0")]).await;
    let pin = operated.proxy.get(None).await.pin().unwrap();
    operated.proxy.live("b").set_weight(1);

    let (code, out, _) = operated.run(&["drain", "app/a"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "app/a: drain, 1 session\n"));
    let drain = ["drain", "app/a", "--deadline", "0s", "--then", "ready", "--wait"];
    let (code, _, err) = operated.run(&drain).await;
    assert!(code == Some(3) && err.ends_with("What is left stays: the backend is ready again\n"), "{err}");
    // The only session does not return.
    let drain = ["drain", "app/a", "--deadline", "1s", "--then", "maintenance", "--wait"];
    let (code, out, err) = operated.run(&drain).await;
    assert_eq!(code, Some(3), "{out}{err}");
    assert!(out.starts_with("[------------------------] 1 of 1 sessions left, 0 requests in flight"), "{out}");
    assert!(err.starts_with("linchpin: app/a was not drained in time: 1 session was left at the deadline."), "{err}");
    assert_eq!(operated.proxy.live("a").state(), linchpin::pool::AdminState::Maintenance);
    assert_eq!(operated.proxy.get(Some(&pin)).await.text(), "b");

    let (code, out, _) = operated.run(&["drain", "app/a", "--wait"]).await;
    assert!(code == Some(0) && out.ends_with("\napp/a is drained: no session is left\n"), "{out}");
    let (code, out, err) = operated.run(&["drain", "app/a", "--wait", "--json"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let drains: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&drains[0]["phase"], &drains[0]["sessions"]), (&json!("drained"), &json!(0)));
}

#[tokio::test]
async fn a_group_is_drained_by_one_command_and_the_drain_is_cancelled_by_another() {
    let [a, b, c] = Backend::three().await;
    let blue = "group = \"blue\"";
    let operated = operated(&[(&a, blue), (&b, "group = \"green\""), (&c, blue)]).await;
    let (code, out, err) = operated.run(&["drain", "app", "--group", "blue", "--deadline", "1h"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "app/a: drain, 0 sessions\napp/c: drain, 0 sessions\n"), "{err}");
    for _ in 0..4 {
        assert_eq!(operated.proxy.get(None).await.text(), "b");
    }
    let (code, _, err) = operated.run(&["drain", "app", "--group", "red"]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("has no backend of the group \"red\""), "{err}");
    for (expected, arguments, why) in [
        (2, &["drain", "app"][..], "error: \"app\" is no backend; write POOL/BACKEND"),
        (
            2,
            &["drain", "app/a", "--group", "blue"],
            "error: \"app/a\" is one backend; with --group, write the POOL alone",
        ),
        (2, &["drain", "app/b", "--deadline", "soon"], "write a duration, such as 10m or 30s"),
        (2, &["drain", "app/b", "--idle", "30"], "write a duration, such as 10m or 30s"),
        (2, &["drain", "app/b", "--then", "drain"], "[possible values: maintenance, ready, nothing]"),
        (1, &["drain", "app/b", "--deadline", "9y"], "`deadline` must be a duration up to a year"),
        (1, &["drain", "app/z"], "There is no backend \"z\" in pool \"app\""),
        (1, &["drain", "app/b", "--cancel"], "Backend \"b\" does not drain: there is no drain to cancel."),
    ] {
        let (code, _, err) = operated.run(arguments).await;
        assert!(code == Some(expected) && err.contains(why), "{arguments:?}: {err}");
    }
    // Of a group, those that still drain.
    operated.run(&["ready", "app/a"]).await;
    let (code, out, err) = operated.run(&["drain", "app", "--group", "blue", "--cancel"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "app/c: ready, 0 sessions\n"), "{err}");
    assert!(err.contains("Backend \"a\" does not drain"), "{err}");
    let (code, _, err) = operated.run(&["drain", "app", "--group", "blue", "--cancel"]).await;
    assert_eq!((code, err.lines().count()), (Some(1), 2), "{err}");
    operated.run(&["drain", "app", "--group", "blue"]).await;
    operated.proxy.get(None).await;
    let (code, out, _) = operated.run(&["drain", "app/b", "--deadline", "1h"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "app/b: drain, 5 sessions\n"));
    let (code, out, _) = operated.run(&["drain", "app/b", "--cancel"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "app/b: ready, 5 sessions\n"));
}

#[tokio::test]
async fn the_sessions_of_each_backend_are_listed() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let operated = operated(&[(&a, ""), (&b, "weight = 0")]).await;
    for _ in 0..3 {
        operated.proxy.get(None).await;
    }
    until("the requests have ended", async || operated.proxy.live("a").active() == 0).await;
    let (code, out, err) = operated.run(&["sessions"]).await;
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["app/a", "ready", "3", "3", "0", "0", "0", "0", "0", "0"]);
    assert_eq!(lines[2][..3], ["app/b", "ready", "0"]);
    let (_, out, _) = operated.run(&["sessions", "app/a", "--json"]).await;
    let rows: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["sessions"]), (1, &json!(3)));
    let (code, _, err) = operated.run(&["sessions", "shop"]).await;
    assert!(code == Some(1) && err.contains("there is no pool or backend \"shop\""), "{err}");
}
