//! Stores of several Redis servers: a master is killed and Sentinels promote its replica; a node of a cluster is killed.

use std::time::{Duration, Instant};

use super::support::browser::{Browser, server};
use super::support::redis_servers::{RedisCluster, Sentinels};
use super::support::session_app::SessionApp;
use super::support::{Keys, Proxy, until};

/// Starts a Linchpin whose learned sessions and whose copies are in the same store.
fn linchpin(keys: &Keys, apps: &[SessionApp], store: &str, copies: &str) -> Proxy {
    let learned = format!("learned = {{ cookie = \"SID\", store = {store:?} }}");
    let builder = Proxy::builder()
        .top(&keys.tables())
        .table("persistence", &format!("type = \"learned\"\nverdict_header = \"X-Verdict\"\n{learned}"))
        .table("copies", &format!("store = {store:?}\n{copies}"))
        .table("health", "type = \"none\"");
    apps.iter().fold(builder, |builder, app| builder.backend(&app.backend, "")).start()
}

#[tokio::test]
async fn sessions_and_copies_survive_the_death_of_the_master_that_sentinels_watch() {
    let mut sentinels = Sentinels::start().await;
    let keys = Keys::new(&[1]);
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let store = sentinels.address();
    let (one, two) =
        (linchpin(&keys, &apps, &store, "required = true"), linchpin(&keys, &apps, &store, "required = true"));
    let mut browser = Browser::default();
    until("the master stores copies", async || browser.send(&one, "POST", "/add").await.status == 200).await;
    until("the replica has them", async || sentinels.servers[1].keys().await.iter().any(|key| key.contains(":copy:")))
        .await;
    sentinels.servers.remove(0).kill().await;
    sentinels.kill_sentinel().await;
    // Each Linchpin finds out by itself where the copies are now, and until then serves with what it has itself.
    let mut last = None;
    for linchpin in [&two, &one] {
        until("the promoted replica stores copies", async || {
            let response = browser.send(linchpin, "POST", "/add").await;
            let is_stored = response.status == 200;
            last = is_stored.then_some(response);
            is_stored
        })
        .await;
    }
    let last = last.unwrap();
    until("the other Linchpin knows the session by the promoted replica", async || {
        browser.send(&two, "GET", "/").await.field("x-verdict") == Some("hit")
    })
    .await;
    let at = server(&apps, &last);
    apps.remove(at).backend.kill().await;
    let mut next = None;
    until("the other Linchpin uses the promoted replica", async || {
        let response = browser.send(&two, "GET", "/").await;
        let is_served = response.status == 200;
        next = is_served.then(|| response.text());
        is_served
    })
    .await;
    assert_eq!(next, Some(last.text()), "the state that the promoted replica had stored");
}

#[tokio::test]
async fn a_dead_node_of_a_cluster_costs_no_session_and_gets_its_copies_again() {
    let mut cluster = RedisCluster::start().await;
    let keys = Keys::new(&[1]);
    let mut apps: Vec<SessionApp> = SessionApp::three().await.into();
    let store = cluster.address();
    let one = linchpin(&keys, &apps, &store, "");
    let all_copies = async |cluster: &RedisCluster| {
        let mut all = Vec::new();
        for node in &cluster.nodes {
            all.push(node.keys().await.into_iter().filter(|key| key.contains(":copy:")).collect::<Vec<_>>());
        }
        all
    };
    let mut browsers: Vec<Browser> = (0..12).map(|_| Browser::default()).collect();
    for browser in &mut browsers {
        assert_eq!(browser.add(&one).await, "1");
        // Under the ref of the application's own id.
        assert_eq!(browser.add(&one).await, "2");
    }
    until("each session is in the cluster", async || all_copies(&cluster).await.concat().len() >= 12).await;
    let before = all_copies(&cluster).await;
    assert!(before.iter().all(|keys| !keys.is_empty()), "sessions are on all nodes: {before:?}");
    for node in [0, 1] {
        cluster.nodes[node].kill().await;
        for browser in &mut browsers {
            let begun = Instant::now();
            let next = browser.count(&one).await.parse::<u64>().unwrap() + 1;
            let response = browser.send(&one, "POST", "/add").await;
            assert_eq!((response.status, response.text()), (200, next.to_string()));
            assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        }
        // Sessions of the other nodes are stored there all the same.
        for (other, keys) in before.iter().enumerate().filter(|(other, _)| *other != node) {
            for key in keys {
                let seq = cluster.nodes[other].ask(&["hget", key, "vseq"]).await;
                assert!(seq.trim().parse::<u64>().unwrap() >= 2, "{key}: {seq}");
            }
        }
        cluster.nodes[node].restart().await;
        until("the node has its copies again", async || {
            let known = cluster.nodes[node].keys().await;
            before[node].iter().filter(|key| known.contains(key)).count() > 0
                && all_copies(&cluster).await.concat().len() >= 12
        })
        .await;
    }
    // Another Linchpin, which knows nothing itself, finds each session after the death of a server.
    let two = linchpin(&keys, &apps, &store, "");
    until("the other Linchpin uses the cluster", async || Browser::default().add(&two).await == "1").await;
    let mut expected = Vec::new();
    for browser in &mut browsers {
        expected.push(browser.count(&one).await);
    }
    apps.remove(0).backend.kill().await;
    for (browser, expected) in browsers.iter_mut().zip(expected) {
        until("the session is found", async || browser.clone().count(&two).await == expected).await;
    }
}

#[tokio::test]
async fn linchpins_learn_each_others_sessions_through_a_cluster_although_a_node_dies() {
    let mut cluster = RedisCluster::start().await;
    let keys = Keys::new(&[1]);
    let apps: Vec<SessionApp> = SessionApp::three().await.into();
    let store = cluster.address();
    let (one, two) = (linchpin(&keys, &apps, &store, ""), linchpin(&keys, &apps, &store, ""));
    // Whether the other Linchpin gets to know a new session soon.
    let is_learned_by_both = async || {
        let mut browser = Browser::default();
        let first = browser.send(&one, "POST", "/add").await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(500) {
            let response = browser.clone().send(&two, "GET", "/").await;
            if response.field("x-verdict") == Some("hit") && response.field("x-server") == first.field("x-server") {
                return true;
            }
        }
        false
    };
    for node in [1, 2] {
        let mut learned = 0;
        until("several sessions are known to both", async || {
            learned += usize::from(is_learned_by_both().await);
            learned == 5
        })
        .await;
        if node == 1 {
            // Both are subscribed there. What it should have stored is lost to the other Linchpin until it is back.
            cluster.nodes[1].kill().await;
        }
    }
    let subscribed = cluster.nodes[2].ask(&["pubsub", "numsub", "linchpin:0:app"]).await;
    assert_eq!(subscribed.lines().last(), Some("2"));
}
