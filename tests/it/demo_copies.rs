//! The demo backend's part in session copies, asked directly: these tests speak the protocol as Linchpin does.

use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::process::Command;

use super::support::tool::DemoBackend;
use super::support::{Client, Response, soon};

const PATH: &str = "/.well-known/linchpin/session";

/// One client's relation to a server, with Linchpin's part of the protocol.
struct Session {
    client: Client,
    cookie: String,
}

impl Session {
    async fn with(backend: &DemoBackend) -> Session {
        Session { client: Client::connect(backend.address).await, cookie: String::new() }
    }

    /// Sends a request with the session cookie and this value of `Linchpin-Session`; keeps a new cookie.
    async fn send(&mut self, method: &str, path: &str, field: &str) -> Response {
        let session = if field.is_empty() { String::new() } else { format!("linchpin-session: {field}\r\n") };
        let cookie = if self.cookie.is_empty() { String::new() } else { format!("cookie: {}\r\n", self.cookie) };
        let fields = format!("accept: application/json\r\ncontent-type: application/json\r\n{session}{cookie}");
        let body: &[u8] = match (method, path) {
            ("POST", "/login") => br#"{"user":"ann","password":"linchpin"}"#,
            ("POST", "/cart") => br#"{"item":"axle"}"#,
            _ => b"",
        };
        let response = self.client.request(method, path, &fields, body).await;
        if let Some(cookie) = response.field("set-cookie") {
            self.cookie = cookie.split(';').next().unwrap().to_owned();
        }
        response
    }

    async fn whoami(&mut self, field: &str) -> Value {
        let response = self.send("GET", "/whoami", field).await;
        assert_eq!(response.status, 200, "{response:?}");
        serde_json::from_slice(&response.body).unwrap()
    }
}

/// What `Linchpin-Session-Save` holds: the copy, and its parameters.
fn saved(response: &Response) -> (Vec<u8>, String) {
    let field = response.field("linchpin-session-save").unwrap_or_else(|| panic!("no save in {response:?}"));
    let (copy, parameters) = field.strip_prefix(':').and_then(|rest| rest.split_once(":;")).unwrap();
    (STANDARD.decode(copy).unwrap(), parameters.to_owned())
}

/// Gives a server a copy, or with DELETE ends a session.
async fn give(backend: &DemoBackend, method: &str, field: &str, copy: &[u8]) -> Response {
    let fields = format!("linchpin-session: {field}\r\nlinchpin-session-role: primary\r\n");
    Client::connect(backend.address).await.request(method, PATH, &fields, copy).await
}

#[tokio::test]
async fn the_next_server_continues_with_login_cart_and_count() {
    let [a, b] = [DemoBackend::start("a").await, DemoBackend::start("b").await];
    let mut session = Session::with(&a).await;
    let login = session.send("POST", "/login", "ref=\"r\";term=1").await;
    assert_eq!(saved(&login).1, "term=1;seq=1;ttl=1200");
    let cart = session.send("POST", "/cart", "ref=\"r\";term=1;seq=1").await;
    assert_eq!(saved(&cart).1, "term=1;seq=2;ttl=1200");
    let count = session.send("POST", "/count", "ref=\"r\";term=1;seq=2").await;
    let (copy, parameters) = saved(&count);
    assert_eq!((count.text().as_str(), parameters.as_str()), ("1\n", "term=1;seq=3;ttl=1200"));
    assert!(!copy.windows(4).any(|bytes| bytes == b"axle"), "it is sealed");
    assert_eq!(session.send("GET", "/whoami", "ref=\"r\";term=1;seq=3").await.field("linchpin-session-save"), None);
    a.signal("KILL").await;

    let mut moved = Session { cookie: session.cookie, ..Session::with(&b).await };
    let want = moved.send("POST", "/count", "ref=\"r\";term=1;seq=3").await;
    assert_eq!((want.status, want.field("linchpin-session-want")), (409, Some("?1")));
    assert_eq!(give(&b, "PUT", "ref=\"r\";term=2;seq=3", &copy).await.status, 204);
    let count = moved.send("POST", "/count", "ref=\"r\";term=2;seq=3").await;
    assert_eq!((count.text().as_str(), saved(&count).1.as_str()), ("2\n", "term=2;seq=4;ttl=1200"), "it ran once");
    let whoami = moved.whoami("ref=\"r\";term=2;seq=4").await;
    assert_eq!(
        (&whoami["user"], &whoami["cart"][0], &whoami["copy"]["server"]),
        (&"ann".into(), &"axle".into(), &"a".into())
    );
}

#[tokio::test]
async fn a_copy_is_refused_if_it_is_forged_or_older_and_ignored_if_it_is_another_client_s() {
    let a = DemoBackend::start("a").await;
    let mut session = Session::with(&a).await;
    let (mut copy, _) = saved(&session.send("POST", "/login", "ref=\"r\";term=3").await);
    let older = give(&a, "PUT", "ref=\"r\";term=2;seq=9", &copy).await;
    assert_eq!((older.status, older.field("linchpin-session")), (409, Some("ref=\"r\";term=3;seq=1")));
    assert_eq!(give(&a, "PUT", "ref=\"s\";term=1;seq=9", &copy).await.status, 204);
    let mut other = Session::with(&a).await;
    other.cookie = "DEMOSESSION=00000000000000000000000000000000".into();
    assert_eq!(other.whoami("ref=\"s\";term=1;seq=9").await["session"], "unknown");
    for field in ["ref=\"r\";term=4", "term=4;seq=1", ""] {
        assert_eq!(give(&a, "PUT", field, &copy).await.status, 400, "{field:?}");
    }
    copy[20] ^= 1;
    assert_eq!(give(&a, "PUT", "ref=\"r\";term=4;seq=1", &copy).await.status, 422);
    assert_eq!(give(&a, "PUT", "ref=\"r\";term=4;seq=1", &vec![0; 70_000]).await.status, 413);
    assert_eq!(session.whoami("ref=\"r\";term=3;seq=1").await["user"], "ann");
}

#[tokio::test]
async fn after_a_logout_no_copy_and_no_old_cookie_brings_the_session_back() {
    let [a, b] = [DemoBackend::start("a").await, DemoBackend::start("b").await];
    let mut session = Session::with(&a).await;
    let (copy, _) = saved(&session.send("POST", "/login", "ref=\"r\";term=1").await);
    assert_eq!(give(&b, "PUT", "ref=\"r\";term=1;seq=1", &copy).await.status, 204);
    let cookie = session.cookie.clone();
    let logout = session.send("POST", "/logout", "ref=\"r\";term=1;seq=1").await;
    assert_eq!(logout.field("linchpin-session-drop"), Some("?1;term=1;seq=2"));
    assert_eq!(give(&b, "DELETE", "ref=\"r\";term=1;seq=2", b"").await.status, 204);
    for backend in [&a, &b] {
        assert_eq!(give(backend, "PUT", "ref=\"r\";term=1;seq=2", &copy).await.status, 409);
        let mut stale = Session { cookie: cookie.clone(), ..Session::with(backend).await };
        assert_eq!(stale.whoami("ref=\"r\";term=1;seq=2;dropped").await["session"], "unknown");
        assert_eq!(stale.whoami("ref=\"other\";term=1").await["session"], "unknown");
    }
}

#[tokio::test]
async fn a_request_that_another_server_has_overtaken_changes_nothing() {
    let a = DemoBackend::start("a").await;
    let mut session = Session::with(&a).await;
    let (copy, _) = saved(&session.send("POST", "/login", "ref=\"r\";term=1").await);
    let mut slow = Session { cookie: session.cookie.clone(), ..Session::with(&a).await };
    let (slow, ()) = tokio::join!(slow.send("POST", "/count?ms=500", "ref=\"r\";term=1;seq=1"), async {
        // The client's next requests see whether the slow one has begun: it is counted.
        soon("the slow request", async {
            while session.whoami("ref=\"r\";term=1;seq=1").await["requests"].as_u64() < Some(3) {}
        })
        .await;
        assert_eq!(give(&a, "PUT", "ref=\"r\";term=3;seq=5", &copy).await.status, 204);
        assert_eq!(session.whoami("ref=\"r\";term=3;seq=5").await["count"], 0);
    });
    let parameters = saved(&slow).1;
    assert!(parameters.starts_with("term=1;"), "Linchpin refuses it: {parameters}");
    assert_eq!(session.whoami("ref=\"r\";term=3;seq=5").await["count"], 0);
}

#[tokio::test]
async fn without_a_secret_it_takes_no_part_and_a_short_one_is_refused() {
    async fn start(secret: Option<&str>) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linchpin"));
        command.args(["demo-backend", "--name", "a", "--listen", "192.0.2.1:1"]).stdin(Stdio::null());
        command.env_remove("LINCHPIN_DEMO_COPIES_SECRET").kill_on_drop(true);
        secret.map(|secret| command.env("LINCHPIN_DEMO_COPIES_SECRET", secret));
        let output = soon("the end", command.output()).await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
    let (code, message) = start(Some("too short")).await;
    assert_eq!(code, Some(1));
    assert!(message.contains("at least 32 bytes") && message.contains("openssl rand -hex 32"), "{message}");
    let (_, message) = start(None).await;
    assert!(message.contains("cannot listen"), "{message}");
}
