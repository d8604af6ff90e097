//! The pods of a Service of Kubernetes, as an API server lists them and tells of their changes.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use linchpin::pool::{AdminState, Health};
use serde_json::{Value, json};

use super::support::kubernetes::ApiServer;
use super::support::load::Load;
use super::support::proxy::Builder;
use super::support::{Backend, Client, Proxy, Reply, Response, until};

/// A pod: a server at an address of its own, whose responses say its uid.
pub struct Pod {
    name: &'static str,
    uid: String,
    ip: Ipv4Addr,
    server: Option<Backend>,
    serving: bool,
    terminating: bool,
}

impl Pod {
    async fn start(name: &'static str, uid: &str, host: u8, port: u16) -> Pod {
        let (ip, body) = (Ipv4Addr::new(127, 0, 7, host), uid.to_owned());
        let server = Backend::start_at(uid, SocketAddr::from((ip, port)), move |_| Reply::ok(&body)).await;
        Pod { name, uid: uid.into(), ip, server: Some(server), serving: true, terminating: false }
    }

    pub fn endpoint(&self) -> Value {
        let Pod { name, uid, ip, serving, terminating, .. } = self;
        let conditions = json!({ "ready": *serving && !*terminating, "serving": serving, "terminating": terminating });
        let target = json!({ "kind": "Pod", "namespace": "shop", "name": name, "uid": uid });
        json!({ "addresses": [ip.to_string()], "conditions": conditions, "targetRef": target, "zone": "a" })
    }

    fn count(&self) -> usize {
        self.server.as_ref().map_or(0, Backend::count)
    }
}

/// A StatefulSet behind a Service, and what the API server says of it.
pub struct Cluster {
    pub api: ApiServer,
    pub port: u16,
    pub pods: Vec<Pod>,
}

const NAMES: [&str; 3] = ["web-0", "web-1", "web-2"];

impl Cluster {
    /// Starts so many pods, which all listen on one port.
    pub async fn start(pods: usize) -> Cluster {
        let mut cluster = Cluster { api: ApiServer::start().await, port: free_port(pods), pods: Vec::new() };
        for (index, name) in NAMES.iter().take(pods).enumerate() {
            cluster.pods.push(Pod::start(name, &format!("{name}-first"), index as u8 + 1, cluster.port).await);
        }
        cluster.tell();
        cluster
    }

    /// Has the API server tell what the pods are.
    pub fn tell(&self) {
        let endpoints: Vec<_> = self.pods.iter().map(Pod::endpoint).collect();
        self.api.set("web-abcde", self.port, &endpoints);
    }

    pub fn builder(&self, lines: &str) -> Builder {
        Proxy::builder()
            .top("[admin]\naddress = \"127.0.0.1:0\"")
            .table("persistence", "verdict_header = \"verdict\"")
            .discover(&format!("{}{lines}", self.api.lines("\"http\"")))
    }

    pub fn proxy(&self) -> Proxy {
        self.builder("").start()
    }
}

/// Returns a port that is free at the addresses of so many pods.
fn free_port(pods: usize) -> u16 {
    let port = (0..100).find_map(|_| {
        let port = TcpListener::bind("127.0.7.1:0").unwrap().local_addr().unwrap().port();
        let hosts = 1..=u8::try_from(pods).unwrap();
        let all: Result<Vec<_>, _> =
            hosts.map(|host| TcpListener::bind((Ipv4Addr::new(127, 0, 7, host), port))).collect();
        all.ok().map(|_| port)
    });
    port.unwrap()
}

/// Lists the members of the pool: the name, and what they are if they don't just serve.
fn listed(proxy: &Proxy) -> Vec<String> {
    let pool = proxy.pool();
    let describe = |backend: &linchpin::pool::Backend| {
        let live = backend.live();
        let leaving = if live.is_leaving() { " leaving" } else { "" };
        let down = if live.health() == Health::Down { " down" } else { "" };
        format!("{}{leaving}{down}", backend.name())
    };
    let mut all: Vec<_> = pool.backends().iter().map(describe).collect();
    all.sort();
    all
}

pub async fn members(proxy: &Proxy, expected: &[&str]) {
    until(&format!("the members {expected:?}"), async || listed(proxy) == expected).await;
    // The data-path thread installs a snapshot before it accepts the second of two new connections.
    proxy.get(None).await;
    proxy.get(None).await;
}

pub async fn source(proxy: &Proxy) -> Value {
    let status: Value = serde_json::from_str(&proxy.ask("GET", "/api/v1/status", "").await.text()).unwrap();
    status["pools"][0]["discover"][0].clone()
}

pub async fn fails(proxy: &Proxy, why: &str) {
    until(&format!("the failure {why:?}"), async || {
        source(proxy).await["error"].as_str().is_some_and(|error| error.contains(why))
    })
    .await;
}

fn verdict(response: &Response) -> &str {
    response.field("verdict").unwrap()
}

/// Returns the pin of a client whose session begins on this pod.
async fn pin_on(proxy: &Proxy, uid: &str) -> String {
    let mut pin = None;
    until(&format!("a new session on {uid}"), async || {
        let response = proxy.get(None).await;
        pin = response.pin().filter(|_| response.text() == uid);
        pin.is_some()
    })
    .await;
    pin.unwrap()
}

async fn served_by(proxy: &Proxy, pin: &str) -> (String, String) {
    let response = proxy.get(Some(pin)).await;
    (response.text(), verdict(&response).to_owned())
}

fn hit(uid: &str) -> (String, String) {
    (uid.into(), "hit".into())
}

#[tokio::test]
async fn a_pod_that_terminates_drains_and_one_that_stops_serving_is_down_and_one_that_is_gone_is_removed() {
    let mut cluster = Cluster::start(3).await;
    let proxy = cluster.proxy();
    members(&proxy, &NAMES).await;
    assert_eq!(proxy.ask("GET", "/readyz", "").await.status, 200);
    let pins = [pin_on(&proxy, "web-0-first").await, pin_on(&proxy, "web-1-first").await];
    let idle = pin_on(&proxy, "web-1-first").await;

    // It is deleted, and still serves: its sessions stay, and it gets no new one.
    cluster.pods[0].terminating = true;
    cluster.tell();
    members(&proxy, &["web-0 leaving", "web-1", "web-2"]).await;
    assert_eq!(proxy.live("web-0").state(), AdminState::Drain);
    assert_eq!(served_by(&proxy, &pins[0]).await, hit("web-0-first"));
    for _ in 0..8 {
        assert_ne!(proxy.get(None).await.text(), "web-0-first");
    }

    // One that crashes is down, and drains not.
    cluster.pods[1].serving = false;
    cluster.tell();
    members(&proxy, &["web-0 leaving", "web-1 down", "web-2"]).await;
    assert_eq!(proxy.live("web-1").state(), AdminState::Ready);
    assert_eq!(served_by(&proxy, &pins[1]).await, ("web-2-first".into(), "moved; cause=down".into()));
    let status = proxy.ask("GET", "/api/v1/status", "").await.text();
    assert!(status.contains("not ready, says its source"), "{status}");

    // It is the same pod when it serves again.
    cluster.pods[1].serving = true;
    cluster.tell();
    members(&proxy, &["web-0 leaving", "web-1", "web-2"]).await;
    assert_eq!(served_by(&proxy, &idle).await, hit("web-1-first"));

    // The first one has ended, and the second one is gone without a word: neither is kept.
    cluster.pods[0].serving = false;
    cluster.tell();
    members(&proxy, &["web-0 leaving down", "web-1", "web-2"]).await;
    cluster.pods.drain(..2);
    cluster.tell();
    members(&proxy, &["web-2"]).await;
    assert_eq!(served_by(&proxy, &idle).await, ("web-2-first".into(), "moved; cause=unknown".into()));
}

#[tokio::test]
async fn with_a_drain_time_the_sessions_of_a_pod_that_terminates_leave_by_then() {
    let mut cluster = Cluster::start(2).await;
    let proxy = cluster.builder("drain = \"1s\"").start();
    members(&proxy, &["web-0", "web-1"]).await;
    let pin = pin_on(&proxy, "web-0-first").await;
    cluster.pods[0].terminating = true;
    cluster.tell();
    until("the session to leave", async || {
        served_by(&proxy, &pin).await == ("web-1-first".into(), "moved; cause=draining".into())
    })
    .await;
    members(&proxy, &["web-0 leaving", "web-1"]).await;
}

#[tokio::test]
async fn a_pod_of_the_same_name_and_address_is_another_server_if_its_uid_is_another() {
    let mut cluster = Cluster::start(2).await;
    let proxy = cluster.proxy();
    members(&proxy, &["web-0", "web-1"]).await;
    let pin = pin_on(&proxy, "web-0-first").await;
    let address = cluster.pods[0].server.take().unwrap().kill().await;
    cluster.pods[0] = Pod::start("web-0", "web-0-second", 1, address.port()).await;
    cluster.tell();
    until("the second pod", async || served_by(&proxy, &pin).await.1 == "moved; cause=replaced").await;
    let second = pin_on(&proxy, "web-0-second").await;
    assert_eq!(served_by(&proxy, &second).await, hit("web-0-second"));
}

#[tokio::test]
async fn a_watch_goes_on_where_the_last_one_ended_and_the_list_is_read_again_only_if_that_is_forgotten() {
    let cluster = Cluster::start(2).await;
    cluster.api.set_page(1);
    cluster.api.set("web-empty", cluster.port, &[]);
    let proxy = cluster.proxy();
    members(&proxy, &["web-0", "web-1"]).await;
    until("the first watch", async || cluster.api.requests().1 == 1).await;
    assert_eq!(cluster.api.requests().0, 2, "two slices are two pages");

    // The server ends it, and something changes before the next one.
    let version = cluster.api.bookmark();
    until("the bookmark", async || source(&proxy).await["answers"].as_u64() > Some(2)).await;
    cluster.api.end_watches();
    cluster.api.set("web-more", cluster.port, &[cluster.pods[0].endpoint()]);
    cluster.api.delete("web-abcde");
    members(&proxy, &["web-0"]).await;
    until("the second watch", async || cluster.api.requests() == (2, 2, Some(version))).await;

    // Its connection breaks.
    cluster.api.cut();
    cluster.tell();
    members(&proxy, &["web-0", "web-1"]).await;
    let (lists, watches, last) = cluster.api.requests();
    assert_eq!((lists, watches), (2, 3));
    assert!(last > Some(version));
    assert_eq!(source(&proxy).await["failures"].as_u64(), Some(0), "a watch that ends is no failure");

    // The server has forgotten the version, and says so in the watch or to the next one.
    for aloud in [true, false] {
        let (lists, ..) = cluster.api.requests();
        cluster.api.set_page(100);
        cluster.api.compact(aloud);
        if !aloud {
            cluster.api.cut();
        }
        cluster.api.set("web-later", cluster.port, &[]);
        until("another list", async || cluster.api.requests().0 == lists + 1).await;
        members(&proxy, &["web-0", "web-1"]).await;
    }
    assert_eq!(source(&proxy).await["failures"].as_u64(), Some(0));
}

#[tokio::test]
async fn what_is_known_stays_while_the_api_server_is_away_and_all_that_has_changed_is_known_after() {
    let mut cluster = Cluster::start(3).await;
    let proxy = cluster.proxy();
    members(&proxy, &NAMES).await;
    let pin = pin_on(&proxy, "web-2-first").await;
    cluster.api.stop();
    fails(&proxy, "connection refused").await;
    assert_eq!(source(&proxy).await["ok"], false);
    members(&proxy, &NAMES).await;
    assert_eq!(served_by(&proxy, &pin).await, hit("web-2-first"));

    // A pod ends meanwhile, and another one terminates.
    cluster.pods.remove(0);
    cluster.pods[0].terminating = true;
    cluster.tell();
    cluster.api.restart("the same authority's new certificate").await;
    members(&proxy, &["web-1 leaving", "web-2"]).await;
    assert_eq!(served_by(&proxy, &pin).await, hit("web-2-first"));
    until("the source works again", async || source(&proxy).await["ok"] == true).await;
}

#[tokio::test]
async fn the_token_and_the_authorities_are_read_again_for_each_request() {
    let mut cluster = Cluster::start(1).await;
    let proxy = cluster.proxy();
    members(&proxy, &["web-0"]).await;
    // Kubernetes has replaced the token, and the old one has expired.
    cluster.api.rotate_token("token-2");
    let (_, watches, _) = cluster.api.requests();
    cluster.api.cut();
    until("a watch with the new token", async || cluster.api.requests().1 > watches).await;
    // Nobody accepts ours any more.
    cluster.api.accept_token("token-3");
    cluster.api.cut();
    fails(&proxy, "the API server answered 401: it does not accept the token").await;
    members(&proxy, &["web-0"]).await;
    cluster.api.rotate_token("token-4");
    until("the source works again", async || source(&proxy).await["ok"] == true).await;
    let (lists, watches, _) = cluster.api.requests();
    cluster.api.restart("another authority").await;
    until("it is trusted", async || {
        let (more, further, _) = cluster.api.requests();
        more + further > lists + watches
    })
    .await;
}

#[tokio::test]
async fn why_the_api_server_is_of_no_use_is_said_and_never_in_its_own_words() {
    let cluster = Cluster::start(1).await;
    let lines = cluster.api.lines("\"http\"");
    let mut other = ApiServer::start().await;
    other.restart("another authority").await;
    let ca = |lines: &str| lines.lines().find(|line| line.starts_with("ca = ")).unwrap().to_owned();
    for (lines, why) in [
        (lines.replace("shop/web", "bank/web"), "answered 403: the service account may not get, list and watch"),
        (lines.replace("\"http\"", "\"https\""), "the Service has no TCP port named \"https\""),
        (lines.replace("port = \"http\"\n", ""), "write `port` with the name of one"),
        (lines.replace(&ca(&lines), &ca(&other.lines("1"))), "certificate: unknown issuer"),
        (lines.replace("/token\"", "/none\""), "cannot read the token in"),
    ] {
        let backend = Backend::named("a").await;
        let proxy =
            Proxy::builder().top("[admin]\naddress = \"127.0.0.1:0\"").backend(&backend, "").discover(&lines).start();
        fails(&proxy, why).await;
        assert!(!source(&proxy).await.to_string().contains("what the server says"));
        assert_eq!(proxy.get(None).await.text(), "a");
    }
}

#[tokio::test]
async fn a_service_without_endpoints_is_doubted_at_first() {
    let mut cluster = Cluster::start(1).await;
    let proxy = cluster.proxy();
    members(&proxy, &["web-0"]).await;
    let pods = std::mem::take(&mut cluster.pods);
    cluster.tell();
    fails(&proxy, "not believed yet").await;
    members(&proxy, &["web-0"]).await;
    cluster.pods = pods;
    cluster.tell();
    until("the doubt ends", async || source(&proxy).await["ok"] == true).await;
}

/// Clients that send requests, each with one session, and say how often it has moved. `ended` has the uids of pods that no
/// longer serve: only from these may sessions move.
fn load(proxy: &Proxy, clients: usize, ended: &Arc<Mutex<HashSet<String>>>) -> Load<usize> {
    let address = proxy.address();
    Load::begin(clients, |number, told| {
        let ended = Arc::clone(ended);
        async move {
            let mut client = Client::connect(address).await;
            let (mut pod, mut moves): (Option<String>, _) = (None, 0);
            while !told.is_over() {
                let method = if number.is_multiple_of(2) { "GET" } else { "POST" };
                let response = client.request(method, "/", "", b"").await;
                assert_eq!(response.status, 200, "{response:?}");
                let by = response.text();
                if let Some(before) = pod.replace(by.clone()).filter(|before| *before != by) {
                    moves += 1;
                    let has_ended = ended.lock().unwrap().contains(&before);
                    assert!(has_ended, "moved from {before}, which still serves: {response:?}");
                }
                told.served();
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            moves
        }
    })
}

#[tokio::test]
async fn a_rolling_update_of_a_stateful_set_loses_no_request_and_moves_no_session_of_a_pod_that_serves() {
    let mut cluster = Cluster::start(3).await;
    let proxy = cluster.proxy();
    members(&proxy, &NAMES).await;
    let ended = Arc::new(Mutex::new(HashSet::new()));
    let load = load(&proxy, 24, &ended);
    load.more(100).await;
    let idle = pin_on(&proxy, "web-2-first").await;
    // The controller begins with the last pod.
    for index in (0..3).rev() {
        let name = NAMES[index];
        cluster.pods[index].terminating = true;
        cluster.tell();
        until("the drain", async || proxy.live(name).state() == AdminState::Drain).await;
        load.more(100).await;

        // Its readiness fails, and it ends once nobody waits for it.
        ended.lock().unwrap().insert(cluster.pods[index].uid.clone());
        cluster.pods[index].serving = false;
        cluster.tell();
        proxy.health(name, Health::Down).await;
        until("its last request", async || proxy.live(name).active() == 0).await;
        let address = cluster.pods[index].server.take().unwrap().kill().await;
        load.more(50).await;

        // Its successor gets the address of the one that is still listed, and is not ready at first.
        let next = Pod::start(name, &format!("{name}-second"), index as u8 + 1, address.port()).await;
        cluster.pods[index] = Pod { serving: false, ..next };
        cluster.tell();
        until("the successor", async || !proxy.live(name).is_leaving()).await;
        load.more(50).await;
        assert_eq!(cluster.pods[index].count(), 0, "it is not ready");
        cluster.pods[index].serving = true;
        cluster.tell();
        proxy.health(name, Health::Up).await;
        load.more(100).await;
    }
    assert_eq!(served_by(&proxy, &idle).await.1, "moved; cause=replaced");
    let moves = load.end().await;
    assert!(moves.iter().sum::<usize>() >= 24, "each session was on a pod that has ended: {moves:?}");
    assert!(moves.iter().all(|moves| *moves <= 3), "{moves:?}");
}
