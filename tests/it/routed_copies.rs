//! Session copies where the application's session id names its server: `JSESSIONID=id.server`, without a routing cookie.

use super::support::session_app::SessionApp;
use super::support::{Client, Proxy, Response};

const COOKIE: &str = "JSESSIONID";

async fn three() -> Vec<SessionApp> {
    let apps = SessionApp::three().await;
    for app in &apps {
        app.change(|memory| (memory.cookie, memory.is_routed) = (COOKIE, true));
    }
    apps.into()
}

fn proxy(apps: &[SessionApp]) -> Proxy {
    let persistence = "type = \"route\"\nroute = { cookie = \"JSESSIONID\" }";
    let builder = Proxy::builder()
        .table("persistence", persistence)
        .table("copies", "")
        .table("health", "interval = \"60s\"\npath = \"/health\"");
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start()
}

/// A browser with the application's cookie.
struct Browser<'p> {
    proxy: &'p Proxy,
    /// `id.server`.
    id: Option<String>,
}

impl Browser<'_> {
    async fn send(&mut self, method: &str, path: &str) -> Response {
        let mut client: Client = self.proxy.client().await;
        let cookie = self.id.as_ref().map(|id| format!("cookie: {COOKIE}={id}\r\n")).unwrap_or_default();
        let response = client.request(method, path, &cookie, b"").await;
        assert_eq!(response.status, 200, "{}", response.head);
        for set in response.fields("set-cookie") {
            let id = set.strip_prefix("JSESSIONID=").expect("no cookie but the application's");
            self.id = Some(id.split(';').next().unwrap().to_owned());
        }
        response
    }

    async fn text(&mut self, method: &str, path: &str) -> String {
        self.send(method, path).await.text()
    }

    fn route(&self) -> &str {
        self.id.as_ref().and_then(|id| id.split_once('.')).expect("an id with a route").1
    }
}

fn position(apps: &[SessionApp], name: &str) -> usize {
    apps.iter().position(|app| app.backend.name() == name).unwrap()
}

#[tokio::test]
async fn a_session_whose_id_names_its_server_survives_that_server() {
    let mut apps = three().await;
    let proxy = proxy(&apps);
    let mut browser = Browser { proxy: &proxy, id: None };
    assert_eq!(browser.text("POST", "/add").await, "1");
    assert_eq!(browser.text("POST", "/add").await, "2");
    for counted in [2, 4] {
        let dead = apps.remove(position(&apps, browser.route()));
        let name = dead.backend.name().to_owned();
        dead.backend.kill().await;
        // Until the application sets the cookie anew, the id names the dead server.
        for _ in 0..2 {
            let read = browser.send("GET", "/").await;
            assert_eq!((read.text(), browser.route()), (counted.to_string(), name.as_str()));
        }
        assert_eq!(browser.text("POST", "/add").await, (counted + 1).to_string());
        let next = &apps[position(&apps, browser.route())];
        let given = next.given().len();
        assert!(given > 0);
        assert_eq!(browser.text("POST", "/add").await, (counted + 2).to_string());
        assert_eq!(next.given().len(), given, "from then on nothing has to be given");
    }
}

#[tokio::test]
async fn a_server_that_its_session_s_id_still_names_gets_the_session_back_with_what_happened_elsewhere() {
    let mut apps = three().await;
    let proxy = proxy(&apps);
    let mut browser = Browser { proxy: &proxy, id: None };
    browser.text("POST", "/add").await;
    let first = browser.id.clone();
    let at = position(&apps, browser.route());
    let name = browser.route().to_owned();
    proxy.live(&name).set_state(linchpin::pool::AdminState::Maintenance);
    assert_eq!(browser.text("POST", "/add").await, "2");
    assert_ne!(browser.route(), name);
    proxy.live(&name).set_state(linchpin::pool::AdminState::Ready);
    // Another tab still has the former cookie.
    let mut other = Browser { proxy: &proxy, id: first };
    assert_eq!(other.text("POST", "/add").await, "3");
    assert_eq!((other.route(), apps[at].given().len()), (name.as_str(), 1));
    assert_eq!(browser.text("POST", "/add").await, "4", "and the first tab's server has the state of that one");
    // Restarted faster than any probe.
    let at = position(&apps, browser.route());
    let restarted = apps.remove(at).restart().await;
    restarted.change(|memory| (memory.cookie, memory.is_routed) = (COOKIE, true));
    assert_eq!(browser.text("POST", "/add").await, "5");
}

#[tokio::test]
async fn a_routed_id_that_was_renewed_or_has_ended_is_worth_nothing_on_any_server() {
    let mut apps = three().await;
    let proxy = proxy(&apps);
    let mut browser = Browser { proxy: &proxy, id: None };
    browser.text("POST", "/add").await;
    let mut thief = Browser { proxy: &proxy, id: browser.id.clone() };
    assert_eq!(browser.text("POST", "/renew").await, "1");
    assert_ne!(thief.id, browser.id);
    apps.remove(position(&apps, browser.route())).backend.kill().await;
    assert_eq!(thief.text("GET", "/").await, "none");
    assert_eq!(browser.text("POST", "/add").await, "2");
    let mut thief = Browser { proxy: &proxy, id: browser.id.clone() };
    assert_eq!(browser.text("POST", "/logout").await, "none");
    apps.remove(position(&apps, browser.route())).backend.kill().await;
    assert_eq!(thief.text("GET", "/").await, "none");
    for app in &apps {
        assert!(app.told().iter().any(|told| told.ends_with(";dropped")), "{:?}", app.told());
    }
}
