//! Basic authentication: who gets in, what the backend learns, and what guessing costs.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use linchpin::app::App;
use linchpin::config;

use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy, until};

/// Returns the lines of an htpasswd file, with the cheapest bcrypt that there is.
pub fn users(users: &[(&str, &str)]) -> String {
    users.iter().fold(String::new(), |mut text, (name, password)| {
        writeln!(text, "{name}:{}", bcrypt::hash(password, 4).unwrap()).unwrap();
        text
    })
}

/// Returns the field of a client that sends this name and password.
fn credentials(pair: &str) -> String {
    format!("authorization: Basic {}\r\n", STANDARD.encode(pair))
}

/// A proxy whose route `/staff` needs a password, which is also in a file.
struct Guarded {
    folder: Folder,
    proxy: Proxy,
    a: Backend,
}

impl Guarded {
    async fn start(limits: &str, auth: &str) -> Guarded {
        let (folder, a) = (Folder::new(), Backend::named("a").await);
        folder.write("users", users(&[("ana", "sesame"), ("bob", "open:door")]).as_bytes());
        let top = format!(
            "{limits}\n[admin]\naddress = \"127.0.0.1:0\"\n[[routes]]\npool = \"app\"\n[[routes]]\npath_prefix = \"/staff\"\n\
             pool = \"app\"\n[routes.basic_auth]\nfile = \"users\"\n{auth}"
        );
        let top = format!("[log]\naccess = \"access.log\"\n{top}").replace("access.log", &folder.file("access.log"));
        let text = Proxy::builder().top(&top).backend(&a, "").text();
        let file = folder.write("linchpin.toml", text.as_bytes());
        let (plan, _) = config::load(Path::new(&file)).unwrap();
        Guarded { folder, proxy: Proxy::of(App::start(plan).unwrap()), a }
    }

    async fn log_has(&self, words: &str) {
        let log = self.folder.file("access.log");
        let has = || std::fs::read_to_string(&log).unwrap_or_default().lines().any(|line| line.contains(words));
        until(&format!("the access log has {words}"), async || has()).await;
    }

    /// Sends a request with these credentials and returns its status.
    async fn status(&self, client: &mut Client, pair: &str) -> u16 {
        client.request("GET", "/staff", &credentials(pair), b"").await.status
    }
}

#[tokio::test]
async fn only_a_user_with_the_right_password_reaches_the_backend() {
    let guarded = Guarded::start("", "realm = \"Staff only\"").await;
    let mut client = guarded.proxy.client().await;
    assert_eq!(client.get("/").await.status, 200);
    let asked = client.get("/staff").await;
    assert_eq!((asked.status, asked.pin()), (401, None));
    assert_eq!(asked.field("www-authenticate"), Some("Basic realm=\"Staff only\", charset=\"UTF-8\""));
    for (pair, status) in [
        ("ana:sesame", 200),
        ("ana:sesame", 200),
        ("bob:open:door", 200),
        ("ana:Sesame", 401),
        ("bob:sesame", 401),
        ("eve:sesame", 401),
        (":", 401),
        ("ana", 401),
    ] {
        let before = guarded.a.count();
        assert_eq!(guarded.status(&mut client, pair).await, status, "{pair}");
        assert_eq!(guarded.a.count() - before, usize::from(status == 200), "{pair}");
    }
    let both = format!("{}{}", credentials("ana:sesame"), credentials("eve:x"));
    assert_eq!(client.request("GET", "/staff", &both, b"").await.status, 401);
    // No other spelling of the path needs no password.
    assert_eq!(client.get("/%73taff").await.status, 403);
    guarded.log_has("user=ana").await;
    guarded.log_has("error=no_credentials").await;
    guarded.log_has("error=wrong_credentials").await;
    let log = std::fs::read_to_string(guarded.folder.file("access.log")).unwrap();
    assert!(!log.contains("sesame") && !log.contains(&STANDARD.encode("ana:sesame")));
    let metrics = guarded.proxy.ask("GET", "/metrics", "").await.text();
    for line in [
        "linchpin_access_denied_total{reason=\"no_credentials\"} 1",
        "linchpin_access_denied_total{reason=\"wrong_credentials\"} 6",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn the_backend_learns_the_name_and_the_password_only_if_it_should() {
    let fields = format!("{}linchpin-user: admin\r\nlinchpin_user: admin\r\n", credentials("ana:sesame"));
    for (auth, sees_password) in [("", false), ("forward_authorization = true", true)] {
        let guarded = Guarded::start("", auth).await;
        let mut client = guarded.proxy.client().await;
        assert_eq!(client.request("GET", "/staff", &fields, b"").await.status, 200);
        assert_eq!(client.request("GET", "/", &fields, b"").await.status, 200);
        let seen = guarded.a.seen();
        assert_eq!(seen[0].fields("linchpin-user"), ["ana"]);
        assert_eq!(seen[0].field("authorization").is_some(), sees_password);
        assert_eq!(seen[0].field("linchpin_user"), None);
        // On the other route the field is the application's own business.
        assert_eq!((seen[1].fields("linchpin-user").len(), seen[1].field("authorization").is_some()), (0, true));
    }
}

#[tokio::test]
async fn a_client_that_guesses_is_stopped_and_one_that_knows_its_password_is_not() {
    let limits = "[server.limits]\nlogin_failures_per_client = \"3/h\"";
    let guarded = Guarded::start(limits, "").await;
    let mut client = guarded.proxy.client().await;
    assert_eq!(guarded.status(&mut client, "ana:sesame").await, 200);
    for guess in 0..3 {
        assert_eq!(guarded.status(&mut client, &format!("ana:{guess}")).await, 401);
    }
    let stopped = client.request("GET", "/staff", &credentials("bob:open:door"), b"").await;
    assert_eq!((stopped.status, stopped.field("retry-after").is_some()), (429, true));
    // A password that is known by now is not a guess, and a request without one is none, either.
    assert_eq!(guarded.status(&mut client, "ana:sesame").await, 200);
    assert_eq!(client.get("/staff").await.status, 401);
    guarded.log_has("error=too_many_login_failures").await;
    let metrics = guarded.proxy.ask("GET", "/metrics", "").await.text();
    assert!(metrics.contains("linchpin_limited_total{limit=\"login_failures_per_client\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_changed_file_takes_effect_with_a_reload() {
    let guarded = Guarded::start("", "").await;
    let mut client = guarded.proxy.client().await;
    for pair in ["ana:sesame", "bob:open:door"] {
        assert_eq!(guarded.status(&mut client, pair).await, 200);
    }
    let former = std::fs::read_to_string(guarded.folder.file("users")).unwrap();
    let ana = former.lines().next().unwrap();
    guarded.folder.write("users", format!("{ana}\n{}", users(&[("eve", "apple")])).as_bytes());
    let report = guarded.proxy.reload(false).await;
    let paths: Vec<_> = report.changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["routes.\"/staff\".basic_auth.file"], "{:?}", report.errors);
    for (pair, status) in [("ana:sesame", 200), ("bob:open:door", 401), ("eve:apple", 200)] {
        assert_eq!(guarded.status(&mut client, pair).await, status, "{pair}");
    }
    // A file that can't be used changes nothing.
    guarded.folder.write("users", b"ana:secret\n");
    let refused = guarded.proxy.reload(false).await;
    assert!(refused.errors[0].to_string().contains("line 1 of"), "{:?}", refused.errors);
    assert_eq!(guarded.status(&mut client, "ana:sesame").await, 200);
}

#[tokio::test]
async fn requests_are_served_while_passwords_are_verified() {
    let (folder, a) = (Folder::new(), Backend::named("a").await);
    // Some hundred milliseconds each, without optimization.
    let slow = format!("ana:{}\n", bcrypt::hash("sesame", 9).unwrap());
    let file = folder.write("users", slow.as_bytes());
    let top = format!(
        "[[routes]]\npool = \"app\"\n[[routes]]\npath_prefix = \"/staff\"\npool = \"app\"\nbasic_auth = {{ file = {file:?} }}"
    );
    let proxy = Proxy::builder().top(&top).backend(&a, "").start();
    let guesses = (0..4).map(async |guess| {
        let mut client = proxy.client().await;
        client.request("GET", "/staff", &credentials(&format!("ana:{guess}")), b"").await.status
    });
    let mut guesses = std::pin::pin!(futures_util::future::join_all(guesses));
    let mut served = 0;
    let mut other = proxy.client().await;
    let statuses = loop {
        tokio::select! {
            statuses = &mut guesses => break statuses,
            response = other.get("/") => {
                assert_eq!(response.status, 200);
                served += 1;
            }
        }
    };
    assert_eq!(statuses, [401; 4]);
    // The only thread of the proxy would have served none in between.
    assert!(served > 4, "{served}");
}
