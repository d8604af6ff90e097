//! Session copies that other servers keep: `hold = "secondary"` and `"all"`.

use super::support::browser::{Browser, server};
use super::support::session_app::{SessionApp, Takes, WrongReply};
use super::support::{Keys, Proxy};

fn proxy(keys: &Keys, apps: &[SessionApp], hold: &str) -> Proxy {
    let builder = Proxy::builder().top(&keys.tables()).table("copies", &format!("hold = \"{hold}\""));
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start()
}

fn copies(apps: &[SessionApp]) -> usize {
    apps.iter().map(|app| app.given().len()).sum()
}

#[tokio::test]
async fn a_secondary_has_each_state_before_the_client_and_takes_over_without_a_message() {
    let mut apps: Vec<_> = SessionApp::three().await.into();
    let keys = Keys::new(&[1]);
    let proxy = proxy(&keys, &apps, "secondary");
    let mut browser = Browser::default();
    let first = browser.send(&proxy, "POST", "/add").await;
    let mut at = server(&apps, &first);
    assert_eq!((copies(&apps), apps[at].given().len()), (1, 0), "one message for one state");
    let roles: Vec<_> = apps.iter().flat_map(|app| app.backend.seen()).collect();
    let roles: Vec<_> = roles.iter().filter_map(|seen| seen.field("linchpin-session-role")).collect();
    assert_eq!(roles, ["secondary"], "requests of the session go to another server");
    assert_eq!(browser.add(&proxy).await, "2");
    assert_eq!(copies(&apps), 2);
    assert_eq!(browser.send(&proxy, "GET", "/").await.text(), "2");
    assert_eq!(copies(&apps), 2, "a state that has not changed costs none");
    let before = copies(&apps) - apps[at].given().len();
    apps.remove(at).backend.kill().await;
    let moved = browser.send(&proxy, "GET", "/").await;
    assert_eq!((moved.status, moved.text().as_str()), (200, "2"));
    at = server(&apps, &moved);
    assert_eq!(apps[at].told(), ["term=2"], "it has the state, and saves it for the next secondary");
    assert_eq!(copies(&apps), before + 1, "and the last server is the next secondary");
    apps.remove(at).backend.kill().await;
    assert_eq!(browser.add(&proxy).await, "3");
}

#[tokio::test]
async fn a_session_on_its_secondary_survives_the_end_of_its_server_and_of_linchpin_at_once() {
    for hold in ["secondary", "all"] {
        let mut apps: Vec<_> = SessionApp::three().await.into();
        let keys = Keys::new(&[1]);
        let one = proxy(&keys, &apps, hold);
        let other = proxy(&keys, &apps, hold);
        let mut browser = Browser::default();
        let at = server(&apps, &browser.send(&one, "POST", "/add").await);
        assert_eq!(browser.add(&one).await, "2");
        drop(one);
        apps.remove(at).backend.kill().await;
        assert_eq!(browser.add(&other).await, "3", "{hold}");
    }
}

#[tokio::test]
async fn all_servers_have_each_state_and_any_of_them_takes_over() {
    let mut apps: Vec<_> = SessionApp::three().await.into();
    let keys = Keys::new(&[1]);
    let proxy = proxy(&keys, &apps, "all");
    let mut browser = Browser::default();
    let first = browser.send(&proxy, "POST", "/add").await;
    assert_eq!(copies(&apps), 2);
    assert_eq!(browser.add(&proxy).await, "2");
    assert_eq!(copies(&apps), 4);
    // Two of three at once.
    let at = server(&apps, &first);
    apps.remove(at).backend.kill().await;
    apps.remove(0).backend.kill().await;
    assert_eq!(browser.add(&proxy).await, "3");
}

#[tokio::test]
async fn a_session_whose_server_lost_its_memory_goes_to_the_secondary() {
    let mut apps: Vec<_> = SessionApp::three().await.into();
    let keys = Keys::new(&[1]);
    let proxy = proxy(&keys, &apps, "secondary");
    let mut browser = Browser::default();
    let at = server(&apps, &browser.send(&proxy, "POST", "/add").await);
    let restarted = apps.remove(at).restart().await;
    let moved = browser.send(&proxy, "POST", "/add").await;
    assert_eq!((moved.text().as_str(), restarted.ran()), ("2", 0));
    assert!(apps.iter().any(|app| Some(app.backend.name()) == moved.field("x-server")));
}

#[tokio::test]
async fn a_logout_reaches_the_secondary_before_the_client() {
    let apps: Vec<_> = SessionApp::three().await.into();
    let keys = Keys::new(&[1]);
    let (one, other) = (proxy(&keys, &apps, "secondary"), proxy(&keys, &apps, "secondary"));
    let mut browser = Browser::default();
    let first = browser.send(&one, "POST", "/add").await;
    let at = server(&apps, &first);
    let mut thief = Browser { pin: browser.pin.clone(), sid: browser.sid.clone() };
    assert_eq!(browser.send(&one, "POST", "/logout").await.text(), "none");
    let deletes =
        apps.iter().flat_map(|app| app.backend.seen()).filter(|seen| seen.line().starts_with("DELETE ")).count();
    assert_eq!(deletes, 1);
    drop(one);
    let mut apps = apps;
    apps.remove(at).backend.kill().await;
    assert_eq!(thief.send(&other, "GET", "/").await.text(), "none");
}

#[tokio::test]
async fn without_another_server_linchpin_keeps_the_copy_until_one_is_back() {
    let app = SessionApp::start("a").await;
    let gone = SessionApp::start("b").await;
    let keys = Keys::new(&[1]);
    let apps = vec![app, gone];
    let proxy = proxy(&keys, &apps, "secondary");
    proxy.live("b").set_state(linchpin::pool::AdminState::Maintenance);
    let [app, gone] = <[SessionApp; 2]>::try_from(apps).ok().unwrap();
    let mut browser = Browser::default();
    assert_eq!(browser.add(&proxy).await, "1");
    assert!(gone.given().is_empty());
    proxy.live("b").set_state(linchpin::pool::AdminState::Ready);
    app.backend.kill().await;
    assert_eq!(browser.add(&proxy).await, "2");
}

#[tokio::test]
async fn a_required_copy_that_no_other_server_takes_is_a_503() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let builder = Proxy::builder().table("copies", "hold = \"secondary\"\nrequired = true");
    let proxy = apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start();
    proxy.live("b").set_state(linchpin::pool::AdminState::Maintenance);
    assert_eq!(Browser::default().send(&proxy, "POST", "/add").await.status, 503);
    proxy.live("b").set_state(linchpin::pool::AdminState::Ready);
    assert_eq!(Browser::default().send(&proxy, "POST", "/add").await.status, 200);
    for app in &apps {
        let error = "HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n".into();
        app.change(|memory| memory.takes = Takes::Wrongly(WrongReply::Bytes(error)));
    }
    assert_eq!(Browser::default().send(&proxy, "POST", "/add").await.status, 503, "an error is no copy");
}
