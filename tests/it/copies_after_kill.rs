//! Applications with a middleware for session copies, behind Linchpin: their sessions outlive kill -9 of their servers.

use std::collections::BTreeMap;

use tokio::net::TcpStream;

use super::support::application::Application;
use super::support::process::BINARY;
use super::support::tool::Folder;
use super::support::{Client, Proxy, until};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const NAMES: [&str; 3] = ["a", "b", "c"];

/// The example of `integrations/rust`, which `tests/run` builds.
async fn axum(name: &str) -> Application {
    let counter = std::path::Path::new(BINARY).with_file_name("examples").join("counter");
    Application::start(&[counter.to_str().unwrap(), "127.0.0.1:0", name], &[]).await
}

fn python_path() -> String {
    format!("{ROOT}/integrations/python:{ROOT}/tests/python/packages")
}

/// The example of `integrations/python` in one process.
async fn flask(name: &str) -> Application {
    let example = format!("{ROOT}/integrations/python/example.py");
    Application::start(&["python3", &example], &[("PYTHONPATH", &python_path()), ("NAME", name)]).await
}

/// The same in several processes that share a folder.
async fn gunicorn(name: &str, folder: &Folder) -> Application {
    let settings = format!("{ROOT}/tests/python/gunicorn_settings.py");
    let (path, folder) = (python_path(), folder.file(name));
    let environment = [("PYTHONPATH", &*path), ("NAME", name), ("SESSION_FOLDER", &*folder)];
    Application::start(&["python3", "-m", "gunicorn", "--config", &settings, "example:app"], &environment).await
}

/// A browser: it keeps all cookies, and opens a connection for each request.
struct Browser<'p> {
    proxy: &'p Proxy,
    cookies: BTreeMap<String, String>,
}

impl Browser<'_> {
    async fn send(&mut self, method: &str, path: &str) -> String {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let fields = format!("cookie: {}\r\ncontent-length: 0\r\n", cookies.join("; "));
        let response = Client::connect(self.proxy.address()).await.request(method, path, &fields, b"").await;
        for cookie in response.fields("set-cookie") {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        for field in response.head.lines() {
            assert!(!field.to_ascii_lowercase().starts_with("linchpin-session"), "a client got {field}");
        }
        assert_eq!(response.status, 200, "{method} {path}: {}\n{}", response.head, response.text());
        response.text()
    }
}

/// Logs in, fills a cart and counts, and kills two of three servers in between.
async fn outlives_its_servers(mut servers: Vec<(&str, Application)>, persistence: &str) {
    let builder = Proxy::builder().table("copies", "").table("persistence", persistence);
    let builder = servers.iter().fold(builder, |builder, (name, server)| builder.backend_at(name, server.address, ""));
    let proxy = builder.start();
    let mut browser = Browser { proxy: &proxy, cookies: BTreeMap::new() };
    browser.send("POST", "/login/anna").await;
    browser.send("POST", "/cart/axle").await;
    let mut count = 0;
    for _ in 0..2 {
        for _ in 0..3 {
            count += 1;
            assert_eq!(browser.send("POST", "/count").await, count.to_string());
        }
        let whoami = browser.send("GET", "/whoami").await;
        let (name, state) = whoami.split_once(' ').unwrap();
        assert_eq!(state, "anna axle");
        let at = servers.iter().position(|(server, _)| *server == name).unwrap();
        let address = servers[at].1.address;
        // Dropped: kill -9.
        servers.remove(at);
        // What is sent while it dies is a 502: nobody knows whether it ran.
        until("its death", async || TcpStream::connect(address).await.is_err()).await;
        count += 1;
        assert_eq!(browser.send("POST", "/count").await, count.to_string(), "at once, and once");
        assert!(browser.send("GET", "/whoami").await.ends_with(" anna axle"));
    }
    assert_eq!(servers.len(), 1);
    // A logout is one, also for a cookie that is sent again.
    let old = browser.cookies.clone();
    browser.send("POST", "/logout").await;
    browser.cookies = old;
    assert!(browser.send("GET", "/whoami").await.ends_with(" nobody "));
}

const PINNED: &str = "type = \"cookie\"";

#[tokio::test]
async fn the_session_of_an_axum_application() {
    for persistence in [PINNED, "type = \"learned\"\nlearned = { cookie = \"id\" }"] {
        let mut servers = Vec::new();
        for name in NAMES {
            servers.push((name, axum(name).await));
        }
        outlives_its_servers(servers, persistence).await;
    }
}

#[tokio::test]
async fn the_session_of_a_flask_application() {
    for persistence in [PINNED, "type = \"learned\"\nlearned = { cookie = \"session\" }"] {
        let mut servers = Vec::new();
        for name in NAMES {
            servers.push((name, flask(name).await));
        }
        outlives_its_servers(servers, persistence).await;
    }
}

#[tokio::test]
async fn the_session_of_a_flask_application_of_several_processes() {
    let (folder, mut servers) = (Folder::new(), Vec::new());
    for name in NAMES {
        servers.push((name, gunicorn(name, &folder).await));
    }
    outlives_its_servers(servers, PINNED).await;
}
