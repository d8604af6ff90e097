//! The other carriers than the routing cookie: a field, the application's session id, and learned sessions.

use linchpin::pool::AdminState;

use super::support::keys::{now, pin};
use super::support::proxy::Builder;
use super::support::{Backend, Keys, Proxy, Reply, Response};

fn before(persistence: &str, backends: &[&Backend]) -> Builder {
    let builder = Proxy::builder().table("persistence", persistence);
    backends.iter().fold(builder, |builder, backend| builder.backend(backend, ""))
}

/// Sends a GET with these fields, on its own connection.
async fn get(proxy: &Proxy, path: &str, fields: &str) -> Response {
    proxy.client().await.request("GET", path, fields, b"").await
}

/// Starts a backend that issues a session id to each request without one, as an application does:
/// `id` makes the id from a number. `/logout` ends the session, `/new` begins another one.
async fn application(
    name: &'static str,
    cookie: &'static str,
    id: impl Fn(usize) -> String + Send + Sync + 'static,
) -> Backend {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Backend::start(name, move |seen| {
        let has_one = seen.fields("cookie").iter().any(|field| field.contains(&format!("{cookie}=")));
        let fields = match seen.path() {
            "/logout" => format!("set-cookie: {cookie}=gone; Max-Age=0; Path=/\r\n"),
            path if path == "/new" || !(has_one || path.contains(';')) => {
                let id = id(count.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
                format!("set-cookie: {cookie}={id}; Path=/; HttpOnly\r\n")
            }
            _ => String::new(),
        };
        Reply::new(200, &fields, name)
    })
    .await
}

/// Returns `name=value` of the cookie that a response sets, if it sets one.
fn set(response: &Response) -> Option<String> {
    response.field("set-cookie").and_then(|field| field.split(';').next()).map(str::to_owned)
}

mod header {
    use super::*;

    const PERSISTENCE: &str = "type = \"header\"\nheader = { name = \"X-Pin\" }";

    #[tokio::test]
    async fn a_client_that_sends_its_field_back_stays_and_sees_no_cookie() {
        let [a, b, c] = Backend::three().await;
        let proxy = before(PERSISTENCE, &[&a, &b, &c]).start();
        for _ in 0..6 {
            let first = get(&proxy, "/", "").await;
            let pin = first.field("x-pin").expect("a pin");
            assert_eq!((first.fields("set-cookie").len(), first.field("cache-control")), (0, Some("private")));
            for _ in 0..3 {
                let next = get(&proxy, "/", &format!("x-pin: {pin}\r\n")).await;
                assert_eq!((next.text(), next.field("x-pin")), (first.text(), None));
            }
        }
        let reached = |backend: &Backend| backend.seen().iter().any(|seen| seen.field("x-pin").is_some());
        assert!(!reached(&a) && !reached(&b) && !reached(&c), "no backend sees a pin");
    }

    #[tokio::test]
    async fn a_field_that_is_forged_or_a_backends_own_is_no_pin() {
        let a = Backend::start("a", |_| Reply::new(200, "x-pin: mine\r\n", "a")).await;
        let proxy = before(PERSISTENCE, &[&a]).start();
        for sent in ["", "x-pin: garbage\r\n", "x-pin: \r\n", "cookie: X-Pin=1\r\n"] {
            let response = get(&proxy, "/", sent).await;
            let [pin] = response.fields("x-pin")[..] else { panic!("{}", response.head) };
            assert_ne!(pin, "mine", "{sent}");
            let next = get(&proxy, "/", &format!("x-pin: {pin}\r\n")).await;
            assert_eq!(next.fields("x-pin").len(), 0, "neither Linchpin's pin nor the backend's field");
        }
    }

    #[tokio::test]
    async fn a_pin_is_worthless_as_a_cookie_and_a_cookie_as_a_field() {
        let [a, b, c] = Backend::three().await;
        let keys = Keys::new(&[1]);
        let proxy = before(PERSISTENCE, &[&a, &b, &c]).top(&keys.tables()).start();
        let token = keys.cookie(&pin(&proxy, "b", 7)).replace("linchpin-app=", "");
        for _ in 0..3 {
            assert!(get(&proxy, "/", &format!("x-pin: {token}\r\n")).await.field("x-pin").is_some(), "a new session");
        }
    }

    #[tokio::test]
    async fn the_client_of_a_dead_backend_gets_a_new_field_once() {
        let [a, b, _] = Backend::three().await;
        let proxy = before(PERSISTENCE, &[&a, &b]).start();
        let first = get(&proxy, "/", "").await;
        let field = format!("x-pin: {}\r\n", first.field("x-pin").unwrap());
        let (dies, lives) = if first.text() == "a" { (a, b) } else { (b, a) };
        dies.kill().await;
        let moved = get(&proxy, "/", &field).await;
        assert_eq!((moved.status, moved.text()), (200, lives.name().into()));
        let field = format!("x-pin: {}\r\n", moved.field("x-pin").expect("a new pin"));
        let next = get(&proxy, "/", &field).await;
        assert_eq!((next.text(), next.field("x-pin")), (lives.name().into(), None));
    }
}

mod route {
    use super::*;

    const PERSISTENCE: &str = "type = \"route\"\nroute = { cookie = \"JSESSIONID\" }";

    async fn tomcats() -> (Backend, Backend) {
        let a = application("a", "JSESSIONID", |n| format!("A{n}.node-a")).await;
        let b = application("b", "JSESSIONID", |n| format!("B{n}.node-b")).await;
        (a, b)
    }

    fn routed(a: &Backend, b: &Backend) -> Builder {
        let builder = Proxy::builder().table("persistence", PERSISTENCE);
        builder.backend(a, "route = \"node-a\"").backend(b, "route = \"node-b\"")
    }

    #[tokio::test]
    async fn the_id_that_the_application_issues_leads_back_to_its_backend() {
        let (a, b) = tomcats().await;
        let proxy = routed(&a, &b).start();
        for _ in 0..4 {
            let first = get(&proxy, "/", "").await;
            assert_eq!(first.fields("set-cookie").len(), 1, "the application's alone");
            let id = set(&first).unwrap();
            for _ in 0..3 {
                let next = get(&proxy, "/", &format!("cookie: x=1; {id}\r\n")).await;
                assert_eq!((next.text(), next.fields("set-cookie").len()), (first.text(), 0));
            }
            let (_, value) = id.split_once('=').unwrap();
            assert_eq!(get(&proxy, &format!("/shop;jsessionid={value}?x=1"), "").await.text(), first.text());
        }
        let bare = |backend: &Backend| {
            backend.seen().iter().all(|seen| seen.head.contains("JSESSIONID=") || seen.field("cookie").is_none())
        };
        assert!(bare(&a) && bare(&b), "the application gets its id unchanged");
    }

    #[tokio::test]
    async fn after_a_failover_the_client_follows_its_new_id() {
        let (a, b) = tomcats().await;
        let proxy = routed(&a, &b).start();
        let mut id = "JSESSIONID=A0.node-a".to_owned();
        assert_eq!(get(&proxy, "/", &format!("cookie: {id}\r\n")).await.text(), "a");
        let address = a.kill().await;
        let moved = get(&proxy, "/new", &format!("cookie: {id}\r\n")).await;
        assert_eq!((moved.status, moved.text()), (200, "b".into()));
        id = set(&moved).unwrap();
        let a = Backend::start_at("a", address, |_| Reply::ok("a")).await;
        for _ in 0..3 {
            assert_eq!(get(&proxy, "/", &format!("cookie: {id}\r\n")).await.text(), "b", "not drawn back");
        }
        assert_eq!(a.count(), 0);
    }

    #[tokio::test]
    async fn until_it_has_a_new_id_every_proxy_sends_a_client_to_the_same_other_backend() {
        let [a, b, c] = Backend::three().await;
        let (one, other) = (before(PERSISTENCE, &[&a, &b, &c]).start(), before(PERSISTENCE, &[&c, &b, &a]).start());
        for n in 0..20 {
            let field = format!("cookie: JSESSIONID={n}.gone\r\n");
            let first = get(&one, "/", &field).await.text();
            for proxy in [&one, &other, &one] {
                assert_eq!(get(proxy, "/", &field).await.text(), first);
            }
        }
    }

    #[tokio::test]
    async fn a_second_backend_in_the_id_has_a_copy_and_comes_first() {
        let [a, b, c] = Backend::three().await;
        let builder = before("type = \"route\"\nroute = { cookie = \"JSESSIONID\", separator = \"!\" }", &[&a, &b, &c]);
        let proxy = builder.start();
        assert_eq!(get(&proxy, "/", "cookie: JSESSIONID=1!a!c\r\n").await.text(), "a");
        a.kill().await;
        for n in 0..6 {
            assert_eq!(get(&proxy, "/", &format!("cookie: JSESSIONID={n}!a!c\r\n")).await.text(), "c");
        }
    }
}

mod learned {
    use super::*;

    const PERSISTENCE: &str = "type = \"learned\"\nlearned = { cookie = \"PHPSESSID\" }";

    async fn php() -> [Backend; 3] {
        let id = |name: &'static str| move |n: usize| format!("{name}{n}secret");
        [
            application("a", "PHPSESSID", id("a")).await,
            application("b", "PHPSESSID", id("b")).await,
            application("c", "PHPSESSID", id("c")).await,
        ]
    }

    #[tokio::test]
    async fn an_id_is_learned_from_the_response_that_issues_it() {
        let [a, b, c] = php().await;
        let proxy = before(PERSISTENCE, &[&a, &b, &c]).start();
        for _ in 0..6 {
            let first = get(&proxy, "/", "").await;
            assert_eq!((first.fields("set-cookie").len(), first.field("cache-control")), (1, None), "unchanged");
            let field = format!("cookie: {}\r\n", set(&first).unwrap());
            for _ in 0..3 {
                assert_eq!(get(&proxy, "/", &field).await.text(), first.text());
            }
        }
    }

    #[tokio::test]
    async fn a_moved_session_stays_on_its_new_backend_although_its_id_is_the_same() {
        let [a, b, c] = php().await;
        let proxy = before(PERSISTENCE, &[&a, &b, &c]).start();
        let first = get(&proxy, "/", "").await;
        let field = format!("cookie: {}\r\n", set(&first).unwrap());
        let mut backends = vec![a, b, c];
        let at = backends.iter().position(|backend| backend.name() == first.text()).unwrap();
        let dead = backends.remove(at);
        let (name, address) = (dead.name().to_owned(), dead.kill().await);
        let moved = get(&proxy, "/", &field).await;
        assert_eq!(moved.status, 200);
        assert_ne!(moved.text(), name);
        let back = Backend::start_at("back", address, |_| Reply::ok("back")).await;
        for _ in 0..5 {
            assert_eq!(get(&proxy, "/", &field).await.text(), moved.text());
        }
        assert_eq!(back.count(), 0);
    }

    #[tokio::test]
    async fn a_logout_removes_the_session_and_a_new_id_is_learned() {
        let [a, b, _] = php().await;
        let proxy = before(&format!("{PERSISTENCE}\nverdict_header = \"X-Verdict\""), &[&a, &b]).start();
        let first = get(&proxy, "/", "").await;
        let field = format!("cookie: {}\r\n", set(&first).unwrap());
        let verdict = |response: &Response| response.field("x-verdict").unwrap_or_default().to_owned();
        assert_eq!(verdict(&get(&proxy, "/", &field).await), "hit");
        let renewed = get(&proxy, "/new", &field).await;
        assert_eq!(verdict(&get(&proxy, "/", &format!("cookie: {}\r\n", set(&renewed).unwrap())).await), "hit");
        assert_eq!(verdict(&get(&proxy, "/logout", &field).await), "hit");
        assert_eq!(verdict(&get(&proxy, "/", &field).await), "moved; cause=unknown");
    }

    /// Starts an application that issues its client's id again with each response, as many do to keep the
    /// cookie alive.
    async fn rolling() -> [Backend; 2] {
        let start = |name: &'static str| {
            Backend::start(name, move |seen| {
                let id = seen.field("cookie").map_or(format!("PHPSESSID={name}-1"), str::to_owned);
                Reply::new(200, &format!("set-cookie: {id}; Path=/\r\n"), name)
            })
        };
        [start("a").await, start("b").await]
    }

    /// Begins a session. Returns its field and the name of its backend.
    async fn login(proxy: &Proxy) -> (String, String) {
        let first = get(proxy, "/", "").await;
        (format!("cookie: {}\r\n", set(&first).unwrap()), first.text())
    }

    #[tokio::test]
    async fn an_exempt_or_forced_request_moves_no_session_although_its_id_is_issued_again() {
        let [a, b] = rolling().await;
        let rules = "rules = [{ exempt = { paths = [\"/static/*\"] } }, { force = { header = \"X-Backend\", from = [\"127.0.0.1\"] } }]";
        let proxy = before(&format!("{PERSISTENCE}\n{rules}"), &[&a, &b]).start();
        let (field, home) = login(&proxy).await;
        for path in ["/static/1", "/static/2", "/static/3"] {
            get(&proxy, path, &field).await;
            assert_eq!(get(&proxy, "/", &field).await.text(), home);
        }
        for name in ["a", "b"] {
            assert_eq!(get(&proxy, "/", &format!("{field}x-backend: {name}\r\n")).await.text(), name);
            assert_eq!(get(&proxy, "/", &field).await.text(), home);
        }
    }

    #[tokio::test]
    async fn a_borrowed_session_returns_although_its_id_is_issued_again() {
        let [a, b] = rolling().await;
        let proxy = before(&format!("{PERSISTENCE}\non = {{ maintenance = \"borrow\" }}"), &[&a, &b]).start();
        let (field, home) = login(&proxy).await;
        proxy.live(&home).set_state(AdminState::Maintenance);
        assert_ne!(get(&proxy, "/", &field).await.text(), home);
        proxy.live(&home).set_state(AdminState::Ready);
        assert_eq!(get(&proxy, "/", &field).await.text(), home);
    }

    #[tokio::test]
    async fn a_prefetch_moves_no_session() {
        let [a, b] = rolling().await;
        let proxy = before(PERSISTENCE, &[&a, &b]).start();
        let (field, home) = login(&proxy).await;
        proxy.live(&home).set_state(AdminState::Maintenance);
        assert_ne!(get(&proxy, "/", &format!("{field}sec-purpose: prefetch\r\n")).await.text(), home);
        proxy.live(&home).set_state(AdminState::Ready);
        assert_eq!(get(&proxy, "/", &field).await.text(), home);
    }

    #[tokio::test]
    async fn requests_alone_teach_nothing() {
        let [a, b, _] = Backend::three().await;
        let persistence = "type = \"learned\"\nlearned = { cookie = \"PHPSESSID\" }\nverdict_header = \"X-Verdict\"";
        let proxy = before(persistence, &[&a, &b]).start();
        let mut served = std::collections::BTreeSet::new();
        for n in 0..20 {
            let field = format!("cookie: PHPSESSID=made-up-{n}\r\n");
            let first = get(&proxy, "/", &field).await;
            let again = get(&proxy, "/", &field).await;
            assert_eq!(again.field("x-verdict"), Some("moved; cause=unknown"));
            assert_eq!(first.text(), again.text(), "but it stays in one place all the same");
            served.insert(first.text());
        }
        assert_eq!(served.len(), 2);
    }

    #[tokio::test]
    async fn a_full_table_evicts_the_session_seen_least_recently() {
        let [a, _, _] = php().await;
        let persistence =
            "type = \"learned\"\nlearned = { cookie = \"PHPSESSID\", capacity = 2 }\nverdict_header = \"X-Verdict\"";
        let admin = "[admin]\naddress = \"127.0.0.1:0\"";
        let proxy = before(persistence, &[&a]).top(admin).start();
        let mut fields = Vec::new();
        for _ in 0..3 {
            fields.push(format!("cookie: {}\r\n", set(&get(&proxy, "/", "").await).unwrap()));
        }
        let mut verdicts = Vec::new();
        for field in &fields {
            verdicts.push(get(&proxy, "/", field).await.field("x-verdict").unwrap().to_owned());
        }
        assert_eq!(verdicts, ["moved; cause=unknown", "hit", "hit"]);
        let metrics = proxy.ask("GET", "/metrics", "").await.text();
        for line in ["linchpin_learned_evictions_total{pool=\"app\"} 1", "linchpin_learned_sessions{pool=\"app\"} 2"] {
            assert!(metrics.contains(line), "{metrics}");
        }
    }

    #[tokio::test]
    async fn an_mcp_session_is_learned_from_its_field_and_ends_with_its_deletion() {
        let serve = |name: &'static str| {
            Backend::start(name, move |seen| match (seen.line().split(' ').next(), seen.field("mcp-session-id")) {
                (_, None) => Reply::new(200, &format!("mcp-session-id: {name}-1\r\n"), name),
                (Some("DELETE"), Some(_)) => Reply::new(204, "", ""),
                _ => Reply::ok(name),
            })
        };
        let (a, b) = (serve("a").await, serve("b").await);
        let persistence = "type = \"learned\"\nlearned = { header = \"Mcp-Session-Id\" }\non = { unknown = \"refuse\" }\nrefuse = { status = 404, retry_after = \"1s\" }";
        let proxy = before(persistence, &[&a, &b]).start();
        for _ in 0..4 {
            let first = get(&proxy, "/", "").await;
            let field = format!("mcp-session-id: {}\r\n", first.field("mcp-session-id").unwrap());
            for _ in 0..3 {
                assert_eq!(get(&proxy, "/", &field).await.text(), first.text());
            }
            let mut client = proxy.client().await;
            assert_eq!(client.request("DELETE", "/", &field, b"").await.status, 204);
            let ended = get(&proxy, "/", &field).await;
            assert_eq!(
                (ended.status, ended.field("retry-after")),
                (404, Some("1")),
                "the client must begin a new session"
            );
        }
    }

    #[tokio::test]
    async fn an_idle_learned_session_ends_and_its_next_request_begins_another() {
        let [a, b, _] = php().await;
        let persistence = format!("{PERSISTENCE}\nidle_timeout = \"1s\"\nverdict_header = \"X-Verdict\"");
        let proxy = before(&persistence, &[&a, &b]).start();
        let field = format!("cookie: {}\r\n", set(&get(&proxy, "/", "").await).unwrap());
        let begun = now();
        super::super::support::until("the session is over", async || now() >= begun + 2).await;
        let over = get(&proxy, "/", &field).await;
        assert!(["new; cause=idle_expired", "moved; cause=unknown"].contains(&over.field("x-verdict").unwrap()));
    }
}
