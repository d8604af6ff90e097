//! Session copies when something else goes wrong at the same time: a request of the session, a connection, or an id.

use std::time::{Duration, Instant};

use linchpin::pool::Health;

use super::support::session_app::{SessionApp, Takes, WrongReply};
use super::support::{Client, Proxy, Response};

fn proxy(apps: &[SessionApp], copies: &str, persistence: &str) -> Proxy {
    let builder = Proxy::builder()
        .top("[admin]\naddress = \"127.0.0.1:0\"")
        .table("persistence", persistence)
        .table("copies", copies)
        .table("health", "type = \"none\"");
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start()
}

/// The cookies that a response leaves a client with that had these.
fn cookies(before: &str, response: &Response) -> String {
    let set = response.fields("set-cookie");
    let sid = set.iter().find(|set| set.starts_with("SID=")).map(|set| set.split(';').next().unwrap().to_owned());
    let mut all: Vec<_> = before.split("; ").filter(|cookie| !cookie.is_empty()).map(str::to_owned).collect();
    for new in response.pin().into_iter().chain(sid) {
        let name = new.split('=').next().unwrap().to_owned();
        all.retain(|cookie| cookie.split('=').next() != Some(&name));
        all.push(new);
    }
    all.join("; ")
}

async fn send(proxy: &Proxy, method: &str, path: &str, cookies: &str) -> Response {
    proxy.client().await.request(method, path, &format!("cookie: {cookies}\r\n"), b"").await
}

fn at(apps: &[SessionApp], response: &Response) -> usize {
    apps.iter().position(|app| Some(app.backend.name()) == response.field("x-server")).unwrap()
}

#[tokio::test]
async fn a_request_that_failed_on_its_session_s_server_waits_for_no_other_request_there() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let proxy = proxy(&apps, "handover = \"30s\"", "");
    let first = send(&proxy, "POST", "/add", "").await;
    let (cookies, first) = (cookies("", &first), at(&apps, &first));
    let (release, held) = tokio::sync::watch::channel(false);
    apps[first].change(|memory| (memory.held, memory.closes_gets) = (Some(held), true));
    let mut slow: Client = proxy.client().await;
    slow.send(format!("POST /add HTTP/1.1\r\nhost: test\r\ncookie: {cookies}\r\n\r\n").as_bytes()).await;
    apps[first].backend.has(2).await;
    let begun = Instant::now();
    let moved = send(&proxy, "GET", "/", &cookies).await;
    assert_eq!((moved.status, moved.text().as_str(), at(&apps, &moved)), (200, "1", 1 - first));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Nobody has been told of what the other request did.
    release.send(true).unwrap();
    assert_eq!(slow.response().await.status, 502);
    assert_eq!(send(&proxy, "GET", "/", &cookies).await.text(), "1");
}

#[tokio::test]
async fn a_session_whose_secondary_died_gets_another_one_though_nothing_has_changed() {
    let apps = SessionApp::three().await;
    let builder = Proxy::builder()
        .table("copies", "hold = \"secondary\"")
        .table("health", "path = \"/health\"\ninterval = \"100ms\"\ntimeout = \"10s\"\nfall = 1");
    let proxy = apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start();
    let mut apps: Vec<_> = apps.into();
    let first = send(&proxy, "POST", "/add", "").await;
    let cookies = cookies("", &first);
    let holder = apps.remove(at(&apps, &first));
    let secondary = apps.iter().position(|app| !app.given().is_empty()).unwrap();
    let secondary = apps.remove(secondary);
    let name = secondary.backend.name().to_owned();
    secondary.backend.kill().await;
    proxy.health(&name, Health::Down).await;
    assert_eq!(send(&proxy, "GET", "/", &cookies).await.text(), "1");
    assert_eq!(apps[0].given().len(), 1, "the session has a copy again");
    holder.backend.kill().await;
    assert_eq!(send(&proxy, "GET", "/", &cookies).await.text(), "1");
}

#[tokio::test]
async fn a_kept_connection_that_closes_as_a_copy_is_given_is_no_failure() {
    let mut apps = vec![SessionApp::start("a").await, SessionApp::start("b").await];
    let proxy = proxy(&apps, "", "");
    let first = send(&proxy, "POST", "/add", "").await;
    let cookies = cookies("", &first);
    let dead = apps.remove(at(&apps, &first));
    proxy.live(dead.backend.name()).set_state(linchpin::pool::AdminState::Maintenance);
    dead.backend.kill().await;
    // The other server has a connection that was used.
    assert_eq!(send(&proxy, "GET", "/", "").await.status, 200);
    apps[0].change(|memory| memory.takes = Takes::Wrongly(WrongReply::CloseOnce));
    let moved = send(&proxy, "POST", "/add", &cookies).await;
    assert_eq!((moved.status, moved.text().as_str(), apps[0].given().len()), (200, "2", 2));
    let status = proxy.ask("GET", "/api/v1/status", "").await.text();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let pool = &status["pools"][0];
    assert_eq!((&pool["copies"]["gives"], &pool["copies"]["refused"]), (&1.into(), &serde_json::json!({})), "{pool}");
    assert!(pool["backends"].as_array().unwrap().iter().all(|backend| backend["failures"] == 0), "{pool}");
}

#[tokio::test]
async fn a_server_that_gives_out_an_id_which_is_in_use_elsewhere_does_that_session_no_harm() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let proxy = proxy(&apps, "", "type = \"learned\"\nlearned = { cookie = \"SID\" }");
    let [a, b] = apps;
    // One client on each server, in whichever order they come.
    let mut first = send(&proxy, "POST", "/add", "").await;
    while first.field("x-server") != Some("a") {
        first = send(&proxy, "POST", "/add", "").await;
    }
    let session = cookies("", &first);
    proxy.live("a").set_state(linchpin::pool::AdminState::Maintenance);
    assert_eq!(send(&proxy, "POST", "/add", &session).await.text(), "2", "it is on b, in the next term");
    // It counts its ids from the beginning again.
    let a = a.restart().await;
    proxy.live("a").set_state(linchpin::pool::AdminState::Ready);
    proxy.live("b").set_state(linchpin::pool::AdminState::Drain);
    let other = send(&proxy, "POST", "/add", "").await;
    assert_eq!((other.status, other.text().as_str()), (200, "1"));
    assert_eq!(cookies("", &other), session, "the same id");
    proxy.live("a").set_state(linchpin::pool::AdminState::Maintenance);
    proxy.live("b").set_state(linchpin::pool::AdminState::Ready);
    assert_eq!(send(&proxy, "GET", "/", &session).await.text(), "2");
    drop((a, b));
}
