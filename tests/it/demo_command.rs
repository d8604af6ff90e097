//! `linchpin demo` from the command line: what it prints, who can reach its dashboard, and how it ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};

use super::support::tool::run;
use super::support::{Client, Response, soon, until};

/// A running demo; dropping it kills the process and its backends.
struct Demo {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    startup_message: String,
}

impl Demo {
    async fn start(arguments: &[&str]) -> Demo {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linchpin"));
        command.arg("demo").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut demo = Demo { process, lines, startup_message: String::new() };
        demo.startup_message = demo.until("Ctrl-C ends").await;
        demo
    }

    /// Returns all lines up to the one that contains these words.
    async fn until(&mut self, words: &str) -> String {
        let mut text = String::new();
        soon(words, async {
            while !text.contains(words) {
                text.push_str(&self.lines.next_line().await.unwrap().unwrap_or_else(|| panic!("no line says {words}")));
                text.push('\n');
            }
        })
        .await;
        text
    }

    /// Returns the first word behind a label of the startup message.
    fn value(&self, label: &str) -> Option<&str> {
        let line = self.startup_message.lines().find(|line| line.trim_start().starts_with(label))?;
        line.split_whitespace().nth(1)
    }

    /// Returns the address of a URL behind a label.
    fn address(&self, label: &str) -> SocketAddr {
        self.value(label).and_then(|url| url.strip_prefix("http://")).unwrap().parse().unwrap()
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let urls = self.startup_message.lines().skip_while(|line| !line.trim_start().starts_with("servers ")).take(3);
        urls.map(|line| line.rsplit('/').next().unwrap().parse().unwrap()).collect()
    }

    async fn signal(&self, signal: &str) {
        run("kill", &[&format!("-{signal}"), &self.process.id().unwrap().to_string()]).await;
    }

    async fn end(&mut self) -> Option<i32> {
        soon("the end of the demo", self.process.wait()).await.unwrap().code()
    }
}

const PRIVATE: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

/// Sends a GET to the admin API.
async fn ask(address: SocketAddr, path: &str, fields: &str) -> Response {
    let mut client = Client::connect(address).await;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n").as_bytes()).await;
    client.response().await
}

async fn status(address: SocketAddr, fields: &str) -> u16 {
    ask(address, "/api/v1/status", fields).await.status
}

/// Runs a demo that refuses to start; returns its message and its exit code.
async fn refusal(arguments: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linchpin"));
    command.arg("demo").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = soon("a refusal", command.output()).await.unwrap();
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

#[tokio::test]
async fn a_dashboard_that_others_reach_needs_the_token_that_is_printed() {
    let mut tokens = Vec::new();
    for admin in ["0.0.0.0:0", "[::]:0"] {
        let demo = Demo::start(&["--listen", "127.0.0.1:0", "--admin", admin]).await;
        let (dashboard, token) = (demo.address("dashboard"), demo.value("token").unwrap().to_owned());
        assert_eq!(status(dashboard, "").await, 401);
        assert_eq!(status(dashboard, &format!("authorization: Bearer {token}\r\n")).await, 200);
        assert!(token.len() >= 43, "32 random bytes: {token}");
        tokens.push(token);
    }
    assert_ne!(tokens[0], tokens[1]);
    let demo = Demo::start(&PRIVATE).await;
    assert_eq!((demo.value("token"), status(demo.address("dashboard"), "").await), (None, 200));
}

#[tokio::test]
async fn a_shop_that_others_reach_is_announced_with_a_warning() {
    let demo = Demo::start(&["--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"]).await;
    assert!(
        demo.startup_message.contains("Anyone who can reach this address can kill these servers"),
        "{}",
        demo.startup_message
    );
    assert!(!demo.startup_message.contains("0.0.0.0"), "{}", demo.startup_message);
    assert_eq!(Client::connect(demo.address("shop")).await.get("/whoami").await.status, 200);
    assert!(!Demo::start(&PRIVATE).await.startup_message.contains("Anyone"));
}

#[tokio::test]
async fn options_that_cannot_work_are_refused_with_an_alternative() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let wildcard = taken.replace("127.0.0.1", "0.0.0.0");
    for (arguments, code, words) in [
        (&["--listen", &taken, "--admin", &taken][..], 1, "--admin 127.0.0.1:0"),
        (&["--listen", &wildcard, "--admin", &taken], 1, "need the same port"),
        (&["--listen", &taken], 1, "take any free port with --listen 127.0.0.1:0"),
        (&["--listen", "127.0.0.1:0", "--admin", &taken], 1, "take any free port with --admin 127.0.0.1:0"),
        (&["--listen", "192.0.2.1:8080"], 1, "no interface of this machine has that address"),
        (&["--listen", "localhost:8080"], 2, "e.g. 127.0.0.1:8080"),
        (&["--admin", "9090"], 2, "e.g. 127.0.0.1:8080"),
        (&["--copies", "none"], 2, "on|off"),
    ] {
        let (message, exit) = refusal(arguments).await;
        assert_eq!(exit, Some(code), "{arguments:?}: {message}");
        assert!(message.contains(words) && !message.contains("report it"), "{arguments:?}: {message}");
    }
}

/// A client of the shop that keeps its cookies; each of its requests is a connection of its own.
struct Shopper {
    shop: SocketAddr,
    cookies: BTreeMap<String, String>,
}

impl Shopper {
    async fn send(&mut self, method: &str, path: &str, body: &str) -> Response {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let json = "accept: application/json\r\ncontent-type: application/json\r\n";
        let fields = format!("{json}cookie: {}\r\n", cookies.join("; "));
        let response = Client::connect(self.shop).await.request(method, path, &fields, body.as_bytes()).await;
        for cookie in response.fields("set-cookie") {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        response
    }

    async fn whoami(&mut self) -> Value {
        serde_json::from_slice(&self.send("GET", "/whoami", "").await.body).unwrap()
    }
}

#[tokio::test]
async fn a_session_outlives_its_server_unless_copies_are_off() {
    for (copies, user, session) in [(&[][..], "ann".into(), "known"), (&["--copies", "off"], Value::Null, "unknown")] {
        let mut demo = Demo::start(&[&PRIVATE[..], copies].concat()).await;
        let mut shopper = Shopper { shop: demo.address("shop"), cookies: BTreeMap::new() };
        shopper.send("POST", "/login", r#"{"user":"ann","password":"linchpin"}"#).await;
        shopper.send("POST", "/cart", r#"{"item":"axle"}"#).await;
        let dead = shopper.whoami().await["server"].clone();
        assert_eq!(shopper.send("POST", "/kill", "").await.status, 200);
        demo.until("was killed (kill -9)").await;
        let whoami = shopper.whoami().await;
        assert_ne!(whoami["server"], dead);
        assert_eq!((&whoami["user"], &whoami["session"]), (&user, &session.into()), "{copies:?}: {whoami}");
        assert_eq!(whoami["copy"]["server"], if copies.is_empty() { dead } else { Value::Null });
    }
}

#[tokio::test]
async fn a_second_ctrl_c_ends_it_at_once_and_no_server_is_left() {
    let mut demo = Demo::start(&PRIVATE).await;
    let servers = demo.servers();
    assert_eq!(servers.len(), 3);
    let mut client = Client::connect(demo.address("shop")).await;
    client.send(b"GET /slow?ms=30000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("it is in flight", async || {
        let metrics = ask(demo.address("dashboard"), "/metrics", "").await.text();
        metrics.lines().any(|line| line.starts_with("linchpin_active_requests{") && line.ends_with(" 1"))
    })
    .await;
    demo.signal("INT").await;
    demo.until("Press Ctrl-C again").await;
    demo.signal("INT").await;
    assert_eq!(demo.end().await, Some(0));
    for server in servers {
        assert!(TcpStream::connect(server).await.is_err(), "{server}");
    }
}
