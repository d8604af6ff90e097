//! A reload that changes `[pools.copies]`: which sessions go on as before.

use super::support::browser::{Browser, server};
use super::support::reloads::Reloadable;
use super::support::session_app::SessionApp;
use super::support::{Keys, Proxy};

struct Site {
    keys: Keys,
    apps: Vec<SessionApp>,
    linchpin: Reloadable,
}

impl Site {
    async fn start(copies: &str) -> Site {
        let (keys, apps) = (Keys::new(&[1]), Vec::from(SessionApp::three().await));
        let linchpin = Reloadable::start(&text(&keys, &apps, Some(copies)));
        Site { keys, apps, linchpin }
    }

    /// Reloads with these copies, or without any.
    async fn reload(&self, copies: Option<&str>) {
        let report = self.linchpin.reload(&text(&self.keys, &self.apps, copies)).await;
        assert!(report.errors.is_empty(), "{report:?}");
    }

    async fn add(&self, browser: &mut Browser) -> String {
        browser.add(&self.linchpin.proxy).await
    }

    /// Kills the server of the session.
    async fn kill_server_of(&mut self, browser: &mut Browser) {
        let response = browser.send(&self.linchpin.proxy, "GET", "/").await;
        let at = server(&self.apps, &response);
        self.apps.remove(at).backend.kill().await;
    }
}

fn text(keys: &Keys, apps: &[SessionApp], copies: Option<&str>) -> String {
    let builder = Proxy::builder()
        .top(&keys.tables())
        .top("[admin]\naddress = \"127.0.0.1:0\"")
        .table("health", "type = \"none\"");
    let builder = copies.into_iter().fold(builder, |builder, copies| builder.table("copies", copies));
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).text()
}

#[tokio::test]
async fn copies_that_are_here_go_to_a_secondary_with_the_next_state_and_survive_until_then() {
    for hold in ["secondary", "all"] {
        let mut site = Site::start("hold = \"balancer\"").await;
        let (mut browser, mut other) = (Browser::default(), Browser::default());
        assert_eq!(site.add(&mut browser).await, "1");
        assert_eq!(site.add(&mut other).await, "1");
        site.reload(Some(&format!("hold = {hold:?}"))).await;
        // One gets a new state, which its secondary has; the other one's copy is still here.
        assert_eq!(site.add(&mut other).await, "2");
        assert!(site.apps.iter().any(|app| !app.given().is_empty()), "{hold}");
        site.kill_server_of(&mut browser).await;
        assert_eq!(site.add(&mut browser).await, "2", "{hold}");
        assert_eq!(site.add(&mut other).await, "3", "{hold}");
        site.kill_server_of(&mut browser).await;
        assert_eq!(site.add(&mut browser).await, "3", "{hold}");
        assert_eq!(site.add(&mut other).await, "4", "{hold}");
    }
}

#[tokio::test]
async fn copies_on_a_secondary_survive_there_until_linchpin_has_the_next_state() {
    for hold in ["secondary", "all"] {
        let mut site = Site::start(&format!("hold = {hold:?}")).await;
        let mut browser = Browser::default();
        assert_eq!(site.add(&mut browser).await, "1");
        site.reload(Some("")).await;
        site.kill_server_of(&mut browser).await;
        assert_eq!(site.add(&mut browser).await, "2", "{hold}: from the secondary");
        site.kill_server_of(&mut browser).await;
        assert_eq!(site.add(&mut browser).await, "3", "{hold}: from here");
    }
}

#[tokio::test]
async fn a_longer_max_takes_longer_copies_and_a_shorter_one_keeps_what_is_there() {
    let mut site = Site::start("max = \"1KiB\"").await;
    let mut browser = Browser::default();
    assert_eq!(site.add(&mut browser).await, "1");
    site.reload(Some("max = \"2KiB\"\nrequired = true")).await;
    let save = |length: usize| format!("linchpin-session-save: :{}:;term=1;seq=2\r\n", "A".repeat(length));
    let saves = |field: String| {
        for app in &site.apps {
            app.change(|memory| memory.instead_of_save = Some(field.clone()));
        }
    };
    saves(save(2000));
    assert_eq!(browser.send(&site.linchpin.proxy, "POST", "/add").await.status, 200, "1500 bytes are not too long");
    site.reload(Some("max = \"1KiB\"\nrequired = true")).await;
    assert_eq!(browser.send(&site.linchpin.proxy, "GET", "/").await.status, 200);
    for app in &site.apps {
        app.change(|memory| memory.instead_of_save = None);
    }
    site.kill_server_of(&mut browser).await;
    browser.send(&site.linchpin.proxy, "GET", "/").await;
    let given: usize = site.apps.iter().map(|app| app.given().len()).sum();
    assert_eq!(given, 1, "the longer copy is still here");
    let mut new = Browser::default();
    for app in &site.apps {
        app.change(|memory| memory.instead_of_save = Some(save(2000)));
    }
    assert_eq!(new.send(&site.linchpin.proxy, "POST", "/add").await.status, 503, "`required` and `max` are in force");
    site.reload(Some("max = \"1KiB\"")).await;
    assert_eq!(new.send(&site.linchpin.proxy, "POST", "/add").await.status, 200);
}

#[tokio::test]
async fn less_memory_keeps_the_copies_of_the_sessions_that_were_used_last() {
    let mut site = Site::start("memory = \"4MiB\"\nmax = \"128KiB\"").await;
    let mut browsers: Vec<Browser> = (0..20).map(|_| Browser::default()).collect();
    // Each copy has 90 KiB. Nobody can open it, but a server that is given one says so.
    let long = format!("linchpin-session-save: :{}:;term=1;seq=1\r\n", "A".repeat(120 * 1024));
    for app in &site.apps {
        app.change(|memory| memory.instead_of_save = Some(long.clone()));
    }
    for browser in &mut browsers {
        assert_eq!(site.add(browser).await, "1");
    }
    site.reload(Some("memory = \"1MiB\"\nmax = \"128KiB\"")).await;
    for app in &site.apps {
        app.change(|memory| memory.instead_of_save = None);
    }
    let mut last = Browser::default();
    assert_eq!(site.add(&mut last).await, "1");
    for name in ["a", "b"] {
        site.linchpin.proxy.live(name).set_state(linchpin::pool::AdminState::Maintenance);
    }
    for browser in &mut browsers {
        browser.send(&site.linchpin.proxy, "GET", "/").await;
    }
    let given = site.apps[2].given().len();
    assert!((1..=10).contains(&given), "{given} copies of 90 KiB in a megabyte");
    site.kill_server_of(&mut last).await;
}

#[tokio::test]
async fn without_copies_nobody_is_told_of_sessions_and_with_copies_again_each_response_saves_anew() {
    let mut site = Site::start("").await;
    let mut browser = Browser::default();
    let first = browser.send(&site.linchpin.proxy, "POST", "/add").await;
    let at = server(&site.apps, &first);
    site.reload(None).await;
    assert_eq!(site.apps[at].told().len(), 1);
    browser.send(&site.linchpin.proxy, "GET", "/").await;
    assert_eq!(site.apps[at].told().pop().unwrap(), "", "there are no session copies");
    site.reload(Some("")).await;
    assert_eq!(browser.count(&site.linchpin.proxy).await, "1");
    assert_eq!(site.apps[at].told().pop().unwrap(), "term=1", "Linchpin has no copy, and gets one");
    site.kill_server_of(&mut browser).await;
    assert_eq!(site.add(&mut browser).await, "2");
}
