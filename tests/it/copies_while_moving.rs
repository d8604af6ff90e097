//! What becomes of a session's requests while it moves to another server, and of what the server that it has left says.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use linchpin::pool::AdminState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::support::browser::{Browser, server};
use super::support::raw::raw;
use super::support::session_app::{SessionApp, Takes, WrongReply};
use super::support::{Proxy, until};

fn linchpin(apps: &[SessionApp], copies: &str, persistence: &str) -> Proxy {
    let builder = Proxy::builder()
        .server("threads = 1")
        .table("persistence", &format!("on.draining = \"move\"\n{persistence}"))
        .table("copies", copies)
        .table("health", "type = \"none\"");
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start()
}

/// A longer time than anything takes that waits for nothing.
const LONG: Duration = Duration::from_secs(10);

/// Has a server hold its responses back. Returns what lets them go.
fn hold(app: &SessionApp) -> watch::Sender<bool> {
    let (release, held) = watch::channel(false);
    app.change(|memory| memory.held = Some(held));
    release
}

fn deletes(app: &SessionApp) -> usize {
    app.backend.seen().iter().filter(|seen| seen.line().starts_with("DELETE /.well-known/")).count()
}

#[tokio::test]
async fn a_get_whose_response_comes_too_late_for_its_session_runs_again_where_the_session_is() {
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let proxy = linchpin(&apps, "handover = \"50ms\"", "");
    for (method, path, status) in [("GET", "/visit", 200), ("POST", "/add", 502)] {
        let mut browser = Browser::default();
        let first = browser.send(&proxy, "POST", "/add").await;
        let at = server(&apps, &first);
        let (name, requests) = (apps[at].backend.name().to_owned(), apps[at].backend.count());
        let release = hold(&apps[at]);
        let mut late = browser.begin(&proxy, method, path).await;
        apps[at].backend.has(requests + 1).await;
        proxy.live(&name).set_state(AdminState::Maintenance);
        let moved = browser.send(&proxy, "POST", "/add").await;
        assert_eq!(moved.text(), "2");
        release.send(true).unwrap();
        let response = late.response().await;
        assert_eq!(response.status, status, "{method}");
        if status == 200 {
            assert_eq!((response.text().as_str(), response.field("x-server")), ("3", moved.field("x-server")));
            assert_eq!(browser.count(&proxy).await, "3");
        }
        apps[at].change(|memory| memory.held = None);
        proxy.live(&name).set_state(AdminState::Ready);
    }
}

#[tokio::test]
async fn the_request_that_moves_a_session_does_not_wait_for_the_server_that_it_leaves_to_forget_it() {
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let proxy = linchpin(&apps, "handover = \"30s\"", "");
    let mut browser = Browser::default();
    let first = browser.send(&proxy, "POST", "/add").await;
    let left = &apps[server(&apps, &first)];
    left.change(|memory| memory.takes = Takes::Wrongly(WrongReply::Never));
    proxy.live(left.backend.name()).set_state(AdminState::Drain);
    let begun = Instant::now();
    assert_eq!(browser.add(&proxy).await, "2");
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    until("it was told to forget the session", async || deletes(left) == 1).await;
}

#[tokio::test]
async fn a_session_that_ends_waits_for_the_servers_that_it_has_left_to_forget_it_but_not_for_ever() {
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let proxy = linchpin(&apps, "handover = \"15s\"", "");
    let mut browser = Browser::default();
    let first = browser.send(&proxy, "POST", "/add").await;
    let left = &apps[server(&apps, &first)];
    let (release, held) = watch::channel(false);
    left.change(|memory| memory.held_takes = Some(held));
    proxy.live(left.backend.name()).set_state(AdminState::Drain);
    assert_eq!(browser.add(&proxy).await, "2");
    let mut logout = browser.begin(&proxy, "POST", "/logout").await;
    // Nothing says that it waits but that there is no response. There is no event to wait for.
    assert!(tokio::time::timeout(Duration::from_millis(200), logout.response()).await.is_err());
    release.send(true).unwrap();
    assert_eq!(browser.count(&proxy).await, "none");
    assert_eq!(deletes(left), 1);

    let proxy = linchpin(&apps, "handover = \"100ms\"", "");
    let mut browser = Browser::default();
    let first = browser.send(&proxy, "POST", "/add").await;
    let left = &apps[server(&apps, &first)];
    left.change(|memory| memory.takes = Takes::Wrongly(WrongReply::Never));
    proxy.live(left.backend.name()).set_state(AdminState::Drain);
    assert_eq!(browser.add(&proxy).await, "2");
    assert_eq!(browser.send(&proxy, "POST", "/logout").await.text(), "none");
}

#[tokio::test]
async fn a_server_that_was_lost_is_not_told_to_forget_a_session() {
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let builder = Proxy::builder()
        .table("copies", "")
        .table("health", "path = \"/health\"\ninterval = \"20ms\"\ntimeout = \"10s\"\nfall = 1\nrise = 1");
    let proxy = apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start();
    let mut browser = Browser::default();
    let first = browser.send(&proxy, "POST", "/add").await;
    let left = &apps[server(&apps, &first)];
    let health = || proxy.live(left.backend.name()).health();
    left.change(|memory| memory.is_sick = true);
    until("it is down", async || health() != linchpin::pool::Health::Up).await;
    assert_eq!(browser.add(&proxy).await, "2");
    left.change(|memory| memory.is_sick = false);
    until("it is up", async || health() == linchpin::pool::Health::Up).await;
    // Whatever is under way in the background is done before the next ends.
    assert_eq!(browser.send(&proxy, "POST", "/logout").await.text(), "none");
    assert_eq!(deletes(left), 0, "it may have lost its memory, and it may hang");
}

#[tokio::test]
async fn a_request_that_failed_on_its_server_does_not_wait_for_the_others_there() {
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let proxy = linchpin(&apps, "handover = \"30s\"", "");
    let mut browser = Browser::default();
    let first = browser.send(&proxy, "POST", "/add").await;
    let app = &apps[server(&apps, &first)];
    let requests = app.backend.count();
    let _release = hold(app);
    let _slow = browser.begin(&proxy, "POST", "/add").await;
    app.backend.has(requests + 1).await;
    app.change(|memory| memory.closes = Some("/fails"));
    let begun = Instant::now();
    let response = browser.send(&proxy, "GET", "/fails").await;
    assert_eq!((response.status, response.text().as_str()), (200, "1"));
    assert_ne!(response.field("x-server"), first.field("x-server"));
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_id_that_is_in_use_in_a_later_term_is_not_taken_over_by_the_response_of_an_earlier_one() {
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let proxy = linchpin(&apps, "", "type = \"learned\"\nlearned = { cookie = \"SID\" }");
    let mut browser = Browser::default();
    assert_eq!(browser.add(&proxy).await, "1");
    let second = browser.send(&proxy, "POST", "/add").await;
    let name = apps[server(&apps, &second)].backend.name().to_owned();
    proxy.live(&name).set_state(AdminState::Drain);
    let third = browser.send(&proxy, "POST", "/add").await;
    assert_eq!(third.text(), "3");
    proxy.live(&name).set_state(AdminState::Ready);
    // Somebody else's response issues the same id.
    let path = format!("/become?{}", browser.sid.clone().unwrap());
    let other = Browser::default().send(&proxy, "POST", &path).await;
    assert_eq!((other.status, other.text().as_str()), (200, "100"), "the response is not late, and passes");
    let at = server(&apps, &third);
    apps.remove(at).backend.kill().await;
    assert_eq!(browser.count(&proxy).await, "3", "the copy is that of the later term");
}

#[tokio::test]
async fn a_late_response_that_renews_the_id_does_not_end_the_session_that_has_moved() {
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let proxy = linchpin(&apps, "handover = \"50ms\"", "type = \"learned\"\nlearned = { cookie = \"SID\" }");
    let mut browser = Browser::default();
    assert_eq!(browser.add(&proxy).await, "1");
    let second = browser.send(&proxy, "POST", "/add").await;
    let app = &apps[server(&apps, &second)];
    let requests = app.backend.count();
    let release = hold(app);
    let mut late = browser.begin(&proxy, "POST", "/renew").await;
    app.backend.has(requests + 1).await;
    proxy.live(app.backend.name()).set_state(AdminState::Maintenance);
    assert_eq!(browser.add(&proxy).await, "3");
    release.send(true).unwrap();
    let response = late.response().await;
    assert_eq!((response.status, response.field("set-cookie")), (502, None));
    assert_eq!(browser.add(&proxy).await, "4");
}

#[tokio::test]
async fn a_copy_that_meets_the_close_of_an_idle_connection_is_given_on_another() {
    let app = SessionApp::start("a").await;
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&lines);
    // Closes its first connection when the second request arrives there, without a byte.
    let address = raw(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let is_first = seen.lock().unwrap().is_empty();
            let mut bytes = vec![0; 4096];
            loop {
                let read = stream.read(&mut bytes).await.unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                let Some(line) = text.lines().next().map(str::to_owned) else { return };
                let is_put = line.starts_with("PUT ");
                seen.lock().unwrap().push(line);
                if is_first && is_put {
                    return;
                }
                let response = if is_put { "204 X\r\n\r\n" } else { "200 X\r\ncontent-length: 1\r\n\r\nb" };
                stream.write_all(format!("HTTP/1.1 {response}").as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let builder = Proxy::builder().server("threads = 1").table("copies", "").table("health", "type = \"none\"");
    let proxy = builder.backend(&app.backend, "").backend_at("b", address, "").start();
    proxy.live("a").set_state(AdminState::Maintenance);
    assert_eq!(Browser::default().count(&proxy).await, "b");
    proxy.live("a").set_state(AdminState::Ready);
    proxy.live("b").set_state(AdminState::Maintenance);
    let mut browser = Browser::default();
    assert_eq!(browser.add(&proxy).await, "1");
    proxy.live("b").set_state(AdminState::Ready);
    proxy.live("a").set_state(AdminState::Maintenance);
    let moved = browser.send(&proxy, "POST", "/add").await;
    assert_eq!((moved.status, moved.text().as_str()), (200, "b"));
    let puts = lines.lock().unwrap().iter().filter(|line| line.starts_with("PUT ")).count();
    assert_eq!(puts, 2, "{:?}", lines.lock().unwrap());
}

#[tokio::test]
async fn all_servers_are_given_a_state_at_once_and_those_that_hang_delay_it_no_longer_than_one() {
    let mut apps = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        apps.push(SessionApp::start(name).await);
    }
    let proxy = linchpin(&apps, "hold = \"all\"\nhandover = \"2s\"", "");
    let mut browser = Browser::default();
    let first = browser.send(&proxy, "POST", "/add").await;
    assert_eq!(apps.iter().map(|app| app.given().len()).sum::<usize>(), 7);
    let at = server(&apps, &first);
    let others: Vec<_> = apps.iter().filter(|app| app.backend.name() != apps[at].backend.name()).collect();
    for app in &others[..6] {
        app.change(|memory| memory.takes = Takes::Wrongly(WrongReply::Never));
    }
    let begun = Instant::now();
    assert_eq!(browser.add(&proxy).await, "2");
    assert!(begun.elapsed() < Duration::from_secs(8), "six of two seconds each: {:?}", begun.elapsed());
    assert_eq!(others[6].given().len(), 2);
}
