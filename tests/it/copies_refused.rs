//! Each reason for which a state is not stored or a copy is not given: it is counted by its name, and the session is served.

use linchpin::pool::AdminState;
use tokio::sync::watch;

use super::support::browser::{Browser, server};
use super::support::session_app::{SessionApp, Takes, WrongReply};
use super::support::{Proxy, until};

fn linchpin(apps: &[SessionApp], copies: &str) -> Proxy {
    let builder = Proxy::builder()
        .top("[admin]\naddress = \"127.0.0.1:0\"")
        .table("copies", &format!("max = \"1KiB\"\n{copies}"))
        .table("retry", "replay_limit = \"1KiB\"")
        .table("health", "type = \"none\"");
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start()
}

async fn two() -> Vec<SessionApp> {
    vec![SessionApp::start("a").await, SessionApp::start("b").await]
}

/// Waits until all reasons but these are counted as 0, and these are not.
async fn counted(proxy: &Proxy, reasons: &[&str]) {
    until(&format!("{reasons:?} is counted"), async || {
        let metrics = proxy.ask("GET", "/metrics", "").await.text();
        let lines = metrics.lines().filter(|line| line.starts_with("linchpin_copies_refused_total{"));
        let refused: Vec<_> = lines
            .filter(|line| !line.ends_with(" 0"))
            .map(|line| line.split("reason=\"").nth(1).unwrap().split('"').next().unwrap())
            .collect();
        assert!(refused.iter().all(|reason| reasons.contains(reason)), "{refused:?}, and not only {reasons:?}");
        refused.len() == reasons.len()
    })
    .await;
}

#[tokio::test]
async fn what_a_server_says_to_a_copy_is_counted_by_its_name() {
    let reply = |text: &str| WrongReply::Bytes(format!("HTTP/1.1 {text}content-length: 0\r\n\r\n"));
    for (takes, reason) in [
        (reply("422 X\r\n"), "not_authentic"),
        (reply("409 X\r\nlinchpin-session: ref=\"x\";term=7;seq=9\r\n"), "newer"),
        (reply("409 X\r\n"), "status"),
        (reply("404 X\r\n"), "no_middleware"),
        (reply("405 X\r\n"), "no_middleware"),
        (reply("501 X\r\n"), "no_middleware"),
        (reply("500 X\r\n"), "status"),
        (WrongReply::Bytes("no http at all\r\n\r\n".into()), "status"),
        (WrongReply::Never, "late"),
        (WrongReply::Close, "broken"),
    ] {
        for hold in ["balancer", "secondary"] {
            let mut apps = two().await;
            let proxy = linchpin(&apps, &format!("hold = \"{hold}\"\nhandover = \"100ms\""));
            let is_placed = hold == "secondary";
            if is_placed {
                apps.iter().for_each(|app| app.change(|memory| memory.takes = Takes::Wrongly(takes.clone())));
            }
            let mut browser = Browser::default();
            let first = browser.send(&proxy, "POST", "/add").await;
            assert_eq!((first.status, first.text().as_str()), (200, "1"), "{takes:?}");
            if is_placed {
                // A newer state is as good as this one, whatever its version.
                let has_newer = matches!(&takes, WrongReply::Bytes(text) if text.starts_with("HTTP/1.1 409"));
                let reasons = if has_newer { vec![] } else { vec![reason, "not_placed"] };
                counted(&proxy, &reasons).await;
                continue;
            }
            let at = server(&apps, &first);
            apps.remove(at).backend.kill().await;
            apps[0].change(|memory| memory.takes = Takes::Wrongly(takes.clone()));
            let next = browser.send(&proxy, "GET", "/").await;
            assert_eq!(next.status, if reason == "broken" { 503 } else { 200 }, "{takes:?}");
            counted(&proxy, &[reason]).await;
        }
    }
}

#[tokio::test]
async fn a_state_that_is_not_stored_is_counted_by_its_name() {
    let long = format!(":{}:;term=1;seq=9", "A".repeat(4000));
    for (save, reason) in [(&*long, "too_long"), ("garbage", "malformed"), (":eA==:;term=1;seq=1", "stale_seq")] {
        let apps = two().await;
        let proxy = linchpin(&apps, "");
        let mut browser = Browser::default();
        let first = browser.send(&proxy, "POST", "/add").await;
        let app = &apps[server(&apps, &first)];
        app.change(|memory| memory.instead_of_save = Some(format!("linchpin-session-save: {save}\r\n")));
        assert_eq!(browser.add(&proxy).await, "2", "{reason}");
        counted(&proxy, &[reason]).await;
    }
}

#[tokio::test]
async fn a_response_that_comes_after_its_session_has_moved_is_counted() {
    let apps = two().await;
    let proxy = linchpin(&apps, "handover = \"50ms\"");
    let mut browser = Browser::default();
    let first = browser.send(&proxy, "POST", "/add").await;
    let app = &apps[server(&apps, &first)];
    let (release, held) = watch::channel(false);
    app.change(|memory| memory.held = Some(held));
    let mut late = browser.begin(&proxy, "POST", "/add").await;
    app.backend.has(2).await;
    proxy.live(app.backend.name()).set_state(AdminState::Maintenance);
    assert_eq!(browser.add(&proxy).await, "2");
    counted(&proxy, &[]).await;
    release.send(true).unwrap();
    assert_eq!(late.response().await.status, 502);
    counted(&proxy, &["stale_term"]).await;
}

#[tokio::test]
async fn a_want_that_cannot_be_met_is_counted() {
    let app = SessionApp::start("a").await;
    let proxy = linchpin(std::slice::from_ref(&app), "");
    let mut browser = Browser::default();
    browser.add(&proxy).await;
    app.forget();
    assert_eq!(browser.send_body(&proxy, "POST", "/add", &[b'x'; 100_000]).await.status, 503);
    counted(&proxy, &["body_not_kept"]).await;
    app.change(|memory| memory.always_wants = true);
    assert_eq!(browser.send(&proxy, "GET", "/").await.status, 502);
    counted(&proxy, &["body_not_kept", "wanted_twice"]).await;
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_counted() {
    let apps = two().await;
    let proxy = linchpin(&apps, "store = \"redis://127.0.0.1:1\"");
    assert_eq!(Browser::default().add(&proxy).await, "1");
    counted(&proxy, &["shared_store"]).await;
}
