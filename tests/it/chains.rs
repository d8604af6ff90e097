//! Chains of proxies: the client that a trusted proxy names, and Linchpins whose pools have the same name.

use std::collections::{BTreeMap, BTreeSet};

use super::support::backend::Seen;
use super::support::process::Linchpin;
use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy};

/// A proxy behind trusted proxies: shows whom its rules and its log take for the client.
struct Behind {
    a: Backend,
    b: Backend,
    proxy: Proxy,
    folder: Folder,
}

/// Starts a proxy that lets clients at 127.0.0.1 and 10.0.0.0/8, the addresses of its trusted proxies, choose their
/// backend.
async fn behind(keys: &str) -> Behind {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let folder = Folder::new();
    let top = format!(
        "[log]\naccess = {:?}\nformat = \"json\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\n{keys}",
        folder.file("access.log")
    );
    let force =
        "[[pools.persistence.rules]]\nforce = { header = \"X-Backend\", from = [\"127.0.0.1\", \"10.0.0.0/8\"] }";
    let proxy = Proxy::builder().top(&top).pool(force).backend(&a, "weight = 1000").backend(&b, "weight = 0").start();
    Behind { a, b, proxy, folder }
}

impl Behind {
    /// Sends a request that names backend `b`. Returns the backend that served it, and the fields that arrived there.
    async fn ask(&self, fields: &str) -> (String, Seen) {
        let fields = format!("x-backend: b\r\n{fields}");
        let response = Client::connect(self.proxy.listener(0)).await.request("GET", "/", &fields, b"").await;
        let backend = if response.text() == "a" { &self.a } else { &self.b };
        (response.text(), backend.seen().pop().unwrap())
    }

    /// Returns the clients of all requests, from the access log.
    async fn clients(self) -> Vec<String> {
        self.proxy.stop().await;
        let lines = std::fs::read_to_string(self.folder.file("access.log")).unwrap();
        let client = |line: &str| Some(line.split("\"client\":\"").nth(1)?.split('"').next()?.to_owned());
        lines.lines().filter_map(client).collect()
    }
}

#[tokio::test]
async fn a_field_that_the_trusted_proxy_does_not_write_grants_no_rights() {
    let behind = behind("").await;
    for claim in ["for=1.2.3.4", "for=127.0.0.1", "for=10.0.0.5", "for=\"", "for=unknown", ""] {
        let (by, seen) = behind.ask(&format!("forwarded: {claim}\r\nx-forwarded-for: 203.0.113.9\r\n")).await;
        assert_eq!(by, "a", "{claim}");
        assert_eq!(seen.fields("x-forwarded-for"), ["203.0.113.9", "127.0.0.1"]);
        let forwarded = ["for=203.0.113.9;proto=http", "for=127.0.0.1;host=\"test\";proto=http"];
        assert_eq!(seen.fields("forwarded"), forwarded, "{claim}");
    }
    assert_eq!(behind.clients().await, ["203.0.113.9"; 6]);
}

#[tokio::test]
async fn a_client_that_a_trusted_proxy_does_not_name_has_none_of_the_proxys_rights() {
    let behind = behind("").await;
    for chain in ["unknown", "_hidden", "203.0.113.9, unknown", "203.0.113.9, ?, 10.0.0.5", "", "unix:"] {
        let (by, seen) = behind.ask(&format!("x-forwarded-for: {chain}\r\n")).await;
        assert_eq!(by, "a", "{chain}");
        assert_eq!(seen.fields("x-forwarded-for"), ["unknown", "127.0.0.1"], "{chain}");
        assert_eq!(seen.fields("forwarded")[0], "for=unknown;proto=http", "{chain}");
    }
    // The proxy itself, and a client with a trusted address, have these rights.
    assert_eq!(behind.ask("").await.0, "b");
    assert_eq!(behind.ask("x-forwarded-for: 10.7.7.7\r\n").await.0, "b");
    let clients = behind.clients().await;
    assert_eq!(clients[..6], ["unknown"; 6]);
    assert_eq!(clients[6..], ["127.0.0.1", "10.7.7.7"]);
}

#[tokio::test]
async fn forwarded_is_trusted_where_the_proxy_writes_it() {
    let behind = behind("forwarded = \"forwarded\"").await;
    let claims = "x-forwarded-for: 10.0.0.5\r\nx-forwarded-proto: https\r\nx-forwarded-host: evil.example\r\n";
    let chain = "for=10.0.0.5;x=\", for=203.0.113.9;proto=http, for=10.0.0.7";
    let (by, seen) = behind.ask(&format!("{claims}forwarded: {chain}\r\n")).await;
    assert_eq!(by, "a");
    assert_eq!(seen.fields("forwarded"), [chain, "for=127.0.0.1;host=\"test\";proto=http"]);
    assert_eq!(seen.fields("x-forwarded-for"), ["203.0.113.9", "127.0.0.1"]);
    assert_eq!(seen.fields("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.fields("x-forwarded-host"), ["test"]);
    assert_eq!(behind.clients().await, ["203.0.113.9"]);
}

#[tokio::test]
async fn of_several_schemes_the_nearest_proxys_counts() {
    let behind = behind("").await;
    for (lines, scheme) in [
        ("x-forwarded-proto: https\r\nx-forwarded-proto: http\r\n", "http"),
        ("x-forwarded-proto: http, https\r\n", "https"),
        ("x-forwarded-proto: gopher\r\n", "http"),
    ] {
        let (_, seen) = behind.ask(&format!("x-forwarded-for: 203.0.113.9\r\n{lines}")).await;
        assert_eq!(seen.fields("x-forwarded-proto"), [scheme], "{lines}");
    }
}

/// A browser's cookies.
#[derive(Default)]
struct Jar(BTreeMap<String, String>);

impl Jar {
    /// Sends a GET with all cookies, and stores those that the response sets. Returns the backend that served it.
    async fn get(&mut self, client: &mut Client) -> String {
        let cookies: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let field = if cookies.is_empty() { String::new() } else { format!("cookie: {}\r\n", cookies.join("; ")) };
        client.pin = None;
        let response = client.request("GET", "/", &field, b"").await;
        assert_eq!(response.status, 200, "{}", response.text());
        for cookie in response.fields("set-cookie") {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.0.insert(name.into(), value.into());
        }
        response.text()
    }
}

#[tokio::test]
async fn chained_linchpins_keep_their_clients_although_their_pools_have_the_same_name() {
    let [a, b, c] = Backend::three().await;
    let inner = [Proxy::before(&[&a, &b]), Proxy::before(&[&b, &c])];
    let middle =
        Proxy::builder().backend_at("one", inner[0].address(), "").backend_at("two", inner[1].address(), "").start();
    let outer = Linchpin::start(
        &format!(
            "[server]\nthreads = 1\n[log]\naccess = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\n\
             name = \"app\"\n[[pools.backends]]\nname = \"one\"\naddress = \"{}\"\n[[pools.backends]]\nname = \"two\"\n\
             address = \"{}\"\n",
            middle.address(),
            inner[0].address()
        ),
        None,
    )
    .await;
    let mut served = BTreeSet::new();
    for _ in 0..8 {
        let (mut jar, mut client) = (Jar::default(), outer.client().await);
        let first = jar.get(&mut client).await;
        for _ in 0..5 {
            assert_eq!(jar.get(&mut client).await, first, "{:?}", jar.0.keys());
        }
        served.insert(first);
    }
    assert!(served.len() > 1, "{served:?}");
    // No pin reached a backend.
    for seen in [&a, &b, &c].into_iter().flat_map(Backend::seen) {
        assert_eq!(seen.field("cookie"), None, "{}", seen.head);
    }
    let line = outer.says("a routing cookie with this pool's cookie name").await;
    assert!(line.contains("WARN") && line.contains("pool=\"app\"") && line.contains("backend=\""), "{line}");
    assert_eq!(outer.times_logged("a routing cookie with this pool's cookie name"), 1);
}
