//! Stores of several Redis servers that speak TLS alone: the master that Sentinels name, and the nodes of a cluster.

use std::net::SocketAddr;
use std::process::Stdio;

use super::support::browser::{Browser, server};
use super::support::process::Running;
use super::support::redis_servers::{RedisCluster, Sentinels, ServerTls};
use super::support::session_app::SessionApp;
use super::support::{Keys, until};

/// Starts a Linchpin whose learned sessions and whose copies are in the same store. It trusts the authorities in the file
/// `trusted`.
async fn linchpin(keys: &Keys, apps: &[SessionApp], store: &str, trusted: &str) -> (Running, SocketAddr) {
    let backend = |app: &SessionApp| {
        format!("[[pools.backends]]\nname = {:?}\naddress = \"{}\"\n", app.backend.name(), app.backend.address())
    };
    let backends: String = apps.iter().map(backend).collect();
    let text = format!(
        "{}\n[log]\naccess = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n\
         [pools.health]\ntype = \"none\"\n[pools.persistence]\ntype = \"learned\"\nverdict_header = \"X-Verdict\"\n\
         learned = {{ cookie = \"SID\", store = {store:?} }}\n[pools.copies]\nstore = {store:?}\nrequired = true\n{backends}",
        keys.tables()
    );
    let mut running = Running::begin(&text, Stdio::null(), &["env", &format!("SSL_CERT_FILE={trusted}")]);
    let line = running.line("listening address=").await;
    let address = line.rsplit('=').next().unwrap().trim().parse().unwrap();
    (running, address)
}

/// Has a session count until the store takes its copy. Returns the server and the count.
async fn stored(browser: &mut Browser, linchpin: SocketAddr, apps: &[SessionApp]) -> (usize, String) {
    let mut last = None;
    until("the store takes copies", async || {
        let response = browser.send_to(linchpin, "POST", "/add").await;
        let is_stored = response.status == 200;
        last = is_stored.then(|| (server(apps, &response), response.text()));
        is_stored
    })
    .await;
    last.unwrap()
}

/// Whether the other Linchpin knows where the session is.
async fn is_known(browser: &mut Browser, linchpin: SocketAddr) {
    until("the other Linchpin knows the session", async || {
        browser.send_to(linchpin, "GET", "/").await.field("x-verdict") == Some("hit")
    })
    .await;
}

#[tokio::test]
async fn sessions_and_copies_survive_the_death_of_a_master_that_is_reached_over_tls() {
    let tls = ServerTls::new();
    let mut sentinels = Sentinels::start_with(Some(&tls)).await;
    let (keys, store) = (Keys::new(&[1]), sentinels.address());
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let (_one, one) = linchpin(&keys, &apps, &store, &tls.trusted).await;
    let (_two, two) = linchpin(&keys, &apps, &store, &tls.trusted).await;
    let mut browser = Browser::default();
    stored(&mut browser, one, &apps).await;
    is_known(&mut browser, two).await;
    until("the replica has them", async || sentinels.servers[1].keys().await.iter().any(|key| key.contains(":copy:")))
        .await;
    sentinels.servers.remove(0).kill().await;
    let (at, count) = stored(&mut browser, one, &apps).await;
    // The other Linchpin uses the promoted replica as well.
    stored(&mut Browser::default(), two, &apps).await;
    apps.remove(at).backend.kill().await;
    let next = browser.send_to(two, "GET", "/").await;
    assert_eq!((next.status, next.text()), (200, count), "the state that the promoted replica had stored");
}

#[tokio::test]
async fn sessions_and_copies_are_in_a_cluster_whose_nodes_are_reached_over_tls() {
    let tls = ServerTls::new();
    let cluster = RedisCluster::start_with(Some(&tls)).await;
    let (keys, store) = (Keys::new(&[1]), cluster.address());
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let (_one, one) = linchpin(&keys, &apps, &store, &tls.trusted).await;
    let (_two, two) = linchpin(&keys, &apps, &store, &tls.trusted).await;
    let mut browsers: Vec<Browser> = (0..12).map(|_| Browser::default()).collect();
    let mut counts = Vec::new();
    for browser in &mut browsers {
        // The first request had no id of the application yet.
        stored(browser, one, &apps).await;
        counts.push(stored(browser, one, &apps).await.1);
        is_known(browser, two).await;
    }
    for node in &cluster.nodes {
        assert!(node.keys().await.iter().any(|key| key.contains(":copy:")), "sessions are on all nodes");
    }
    apps.remove(0).backend.kill().await;
    for (browser, count) in browsers.iter_mut().zip(counts) {
        assert_eq!(browser.send_to(two, "GET", "/").await.text(), count);
    }
}
