//! Session copies on other servers, `hold = "secondary"` and `"all"`, with two Linchpins and no store.

use super::support::browser::{Browser, server};
use super::support::session_app::SessionApp;
use super::support::{Keys, Proxy};

fn linchpin(keys: &Keys, apps: &[SessionApp], hold: &str) -> Proxy {
    let builder = Proxy::builder()
        .top(&keys.tables())
        .table("copies", &format!("hold = {hold:?}"))
        .table("health", "type = \"none\"");
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start()
}

#[tokio::test]
async fn whichever_linchpin_saw_the_last_state_the_other_one_moves_the_session_to_it() {
    for hold in ["secondary", "all"] {
        for other_moves in [false, true] {
            let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
            let keys = Keys::new(&[1]);
            let (one, two) = (linchpin(&keys, &apps, hold), linchpin(&keys, &apps, hold));
            let mut browser = Browser::default();
            assert_eq!(browser.add(&one).await, "1");
            assert_eq!(browser.add(&two).await, "2");
            assert_eq!(browser.add(&one).await, "3");
            let last = browser.send(&two, "POST", "/add").await;
            assert_eq!(last.text(), "4");
            let at = server(&apps, &last);
            apps.remove(at).backend.kill().await;
            let (first, second) = if other_moves { (&two, &one) } else { (&one, &two) };
            assert_eq!(browser.add(first).await, "5", "{hold}");
            assert_eq!(browser.add(second).await, "6", "{hold}: by the pin, it knows of the move");
            assert_eq!(browser.add(first).await, "7", "{hold}");
        }
    }
}

#[tokio::test]
async fn requests_with_the_pin_from_before_a_move_follow_it_through_either_linchpin() {
    for hold in ["secondary", "all"] {
        let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
        let keys = Keys::new(&[1]);
        let (one, two) = (linchpin(&keys, &apps, hold), linchpin(&keys, &apps, hold));
        let mut browser = Browser::default();
        let first = browser.send(&one, "POST", "/add").await;
        let mut old = browser.clone();
        let at = server(&apps, &first);
        apps.remove(at).backend.kill().await;
        assert_eq!(browser.add(&one).await, "2", "{hold}");
        assert_eq!(old.add(&two).await, "3", "{hold}: the same server has the session for both");
        assert_eq!(browser.add(&one).await, "4", "{hold}");
    }
}

#[tokio::test]
async fn a_logout_through_one_linchpin_is_one_on_all_servers_whoever_dies() {
    for hold in ["secondary", "all"] {
        let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
        let keys = Keys::new(&[1]);
        let (one, two) = (linchpin(&keys, &apps, hold), linchpin(&keys, &apps, hold));
        let mut browser = Browser::default();
        let first = browser.send(&one, "POST", "/add").await;
        let thief = browser.clone();
        assert_eq!(browser.send(&two, "POST", "/logout").await.text(), "none");
        for linchpin in [&one, &two] {
            assert_eq!(thief.clone().count(linchpin).await, "none", "{hold}");
        }
        let at = server(&apps, &first);
        apps.remove(at).backend.kill().await;
        for linchpin in [&one, &two] {
            assert_eq!(thief.clone().count(linchpin).await, "none", "{hold}: an old cookie finds nothing");
        }
    }
}
