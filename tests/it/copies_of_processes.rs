//! Session copies of the demo shop with several Linchpins, all of them processes that are killed: with a Redis that is
//! killed in the end, and with copies on other servers and no store at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use super::support::process::{Linchpin, Redis};
use super::support::tool::DemoBackend;
use super::support::{Client, Keys, Response, until};

async fn shop() -> Vec<DemoBackend> {
    vec![DemoBackend::start("a").await, DemoBackend::start("b").await, DemoBackend::start("c").await]
}

async fn linchpin(keys: &Keys, servers: &[DemoBackend], copies: &str) -> Linchpin {
    let backend = |server: &DemoBackend| {
        format!("[[pools.backends]]\nname = \"{}\"\naddress = \"{}\"\n", server.name, server.address)
    };
    let backends: String = servers.iter().map(backend).collect();
    let text = format!(
        "[server]\nthreads = 2\n[log]\naccess = \"off\"\n{}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\n\
         name = \"app\"\n[pools.copies]\n{copies}\n[pools.health]\npath = \"/healthz\"\n{backends}",
        keys.tables()
    );
    Linchpin::start(&text, None).await
}

/// A user with the shop's cookie and the routing cookie.
#[derive(Default)]
struct User {
    cookies: BTreeMap<String, String>,
    /// The server of the last response.
    server: String,
}

impl User {
    async fn send(&mut self, to: SocketAddr, method: &str, path: &str, body: &str) -> Response {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let fields =
            format!("accept: application/json\r\ncontent-type: application/json\r\ncookie: {}\r\n", cookies.join("; "));
        let response = Client::connect(to).await.request(method, path, &fields, body.as_bytes()).await;
        for cookie in response.fields("set-cookie") {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        self.server = response.field("x-served-by").map_or(String::new(), str::to_owned);
        response
    }

    async fn log_in(&mut self, to: SocketAddr) {
        let login = r#"{"user":"annabelle","password":"linchpin"}"#;
        assert_eq!(self.send(to, "POST", "/login", login).await.status, 200);
        assert_eq!(self.send(to, "POST", "/cart", r#"{"item":"axle of annabelle"}"#).await.status, 200);
    }

    /// Counts, and checks that the session is whole.
    async fn counts(&mut self, to: SocketAddr, expected: u64) {
        let response = self.send(to, "POST", "/count", "").await;
        assert_eq!((response.status, response.text().trim()), (200, expected.to_string().as_str()));
        let response = self.send(to, "GET", "/whoami", "").await;
        let known: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!((&known["user"], &known["cart"][0]), (&"annabelle".into(), &"axle of annabelle".into()), "{known}");
    }
}

/// kill -9 of the server that has the user's session.
async fn kill(servers: &mut Vec<DemoBackend>, user: &User) {
    let at = servers.iter().position(|server| server.name == user.server).unwrap();
    let server = servers.remove(at);
    server.signal("KILL").await;
    // A request that it still had accepted would be a 502.
    until("the server is gone", async || tokio::net::TcpStream::connect(server.address).await.is_err()).await;
}

/// Waits until this Linchpin uses Redis.
async fn connected(redis: &Redis, linchpin: &Linchpin) {
    let known = redis.keys().await.len();
    until("it uses Redis", async || {
        User::default().log_in(linchpin.address).await;
        redis.keys().await.len() > known
    })
    .await;
}

#[tokio::test]
async fn a_session_survives_the_kill_of_a_linchpin_then_of_redis_and_of_each_server_in_between() {
    let mut redis = Redis::start().await;
    let (keys, mut servers) = (Keys::new(&[1]), shop().await);
    let store = format!("store = {:?}", redis.address());
    let (one, two) = (linchpin(&keys, &servers, &store).await, linchpin(&keys, &servers, &store).await);
    connected(&redis, &one).await;
    connected(&redis, &two).await;
    let mut user = User::default();
    user.log_in(one.address).await;
    user.counts(one.address, 1).await;
    one.kill().await;
    kill(&mut servers, &user).await;
    user.counts(two.address, 2).await;
    redis.kill().await;
    user.counts(two.address, 3).await;
    kill(&mut servers, &user).await;
    user.counts(two.address, 4).await;
}

#[tokio::test]
async fn with_copies_on_other_servers_a_session_survives_the_kill_of_any_linchpin_and_of_one_server_after_the_other() {
    for hold in ["secondary", "all"] {
        let (keys, mut servers) = (Keys::new(&[1]), shop().await);
        let hold = format!("hold = \"{hold}\"");
        let (one, two) = (linchpin(&keys, &servers, &hold).await, linchpin(&keys, &servers, &hold).await);
        let mut user = User::default();
        user.log_in(one.address).await;
        user.counts(one.address, 1).await;
        user.counts(two.address, 2).await;
        user.counts(one.address, 3).await;
        one.kill().await;
        kill(&mut servers, &user).await;
        user.counts(two.address, 4).await;
        kill(&mut servers, &user).await;
        user.counts(two.address, 5).await;
    }
}

#[tokio::test]
async fn redis_and_linchpin_see_nothing_of_a_session_and_a_client_s_ten_megabytes_change_nothing() {
    let redis = Redis::start().await;
    let (keys, servers) = (Keys::new(&[1]), shop().await);
    let one = linchpin(&keys, &servers, &format!("store = {:?}", redis.address())).await;
    connected(&redis, &one).await;
    let mut user = User::default();
    user.log_in(one.address).await;
    user.counts(one.address, 1).await;
    let mut dump = String::new();
    for key in redis.keys().await {
        dump += &format!("{key} {}\n", redis.ask(&["--raw", "hgetall", &key]).await);
    }
    assert!(dump.contains("linchpin:app:copy:"), "{dump}");
    for secret in ["annabelle", "axle"].into_iter().chain(user.cookies.values().map(String::as_str)) {
        assert!(!dump.contains(secret), "{secret} in {dump}");
    }
    let session = user.cookies.clone();
    for method in ["PUT", "POST"] {
        let mut client = Client::connect(one.address).await;
        let head = format!(
            "{method} /.well-known/linchpin/session HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\nexpect: 100-continue\r\n\
             linchpin-session: ref=\"x\";term=9;seq=9\r\n\r\n"
        );
        client.send(head.as_bytes()).await;
        assert_eq!(client.response().await.status, 404, "before any of the body is asked for");
    }
    user.counts(one.address, 2).await;
    assert_eq!(user.cookies, session);
}
