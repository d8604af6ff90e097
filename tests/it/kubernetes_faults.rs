//! An API server of Kubernetes that misbehaves: what is known of the pods stays, and the server is not hammered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::HeaderValue;
use serde_json::json;

use super::kubernetes::{Cluster, fails, members, source};
use super::support::kubernetes::{ended, failure, response};
use super::support::until;

fn is_watch(query: &str) -> bool {
    query.contains("watch=true")
}

#[tokio::test]
async fn a_server_with_too_much_to_do_is_asked_for_the_same_watch_later_and_for_no_list() {
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy();
    members(&proxy, &["web-0", "web-1"]).await;
    until("the first watch", async || cluster.api.requests().1 == 1).await;
    let is_busy = Arc::new(AtomicBool::new(true));
    let busy = Arc::clone(&is_busy);
    cluster.api.answer(move |query| {
        let mut response = failure(429);
        response.headers_mut().insert("retry-after", HeaderValue::from_static("1"));
        (busy.load(Ordering::Relaxed) && is_watch(query)).then_some(response)
    });
    cluster.api.cut();
    cluster.api.set("web-later", cluster.port, &[]);
    fails(&proxy, "answered 429: too many requests").await;
    is_busy.store(false, Ordering::Relaxed);
    cluster.api.set("web-abcde", cluster.port, &[cluster.pods[1].endpoint()]);
    members(&proxy, &["web-1"]).await;
    assert_eq!(cluster.api.requests().0, 1, "all that has changed was told by the watch");
}

#[tokio::test]
async fn a_change_without_a_version_leaves_the_last_one_in_force() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy();
    members(&proxy, &["web-0"]).await;
    until("the watch", async || cluster.api.requests().1 == 1).await;
    let (version, answers) = (cluster.api.version(), source(&proxy).await["answers"].as_u64());
    for metadata in [json!({ "name": "web-x", "resourceVersion": "" }), json!({ "name": "web-x" })] {
        cluster.api.tell("ADDED", &json!({ "metadata": metadata, "endpoints": null, "ports": null }));
    }
    until("the change", async || source(&proxy).await["answers"].as_u64() > answers).await;
    cluster.api.end_watches();
    until("the next watch", async || cluster.api.requests().1 == 2).await;
    assert_eq!(cluster.api.requests().2, Some(version));
    members(&proxy, &["web-0"]).await;
}

#[tokio::test]
async fn a_list_without_a_version_is_read_again_after_its_watch() {
    let cluster = Cluster::start(2).await;
    let [first, second] = [0, 1].map(|index| cluster.pods[index].endpoint());
    let (ports, lists) = (json!([{ "name": "http", "port": cluster.port }]), Arc::new(AtomicUsize::new(0)));
    cluster.api.answer(move |query| {
        if is_watch(query) {
            assert!(!query.contains("resourceVersion"), "{query}");
            return Some(ended());
        }
        let endpoints = if lists.fetch_add(1, Ordering::Relaxed) == 0 { &first } else { &second };
        let slice = json!({ "metadata": { "name": "web-x" }, "endpoints": [endpoints], "ports": ports });
        Some(response(&json!({ "metadata": { "resourceVersion": "" }, "items": [slice] })))
    });
    let proxy = cluster.proxy();
    members(&proxy, &["web-0"]).await;
    members(&proxy, &["web-1"]).await;
    assert_eq!(source(&proxy).await["failures"].as_u64(), Some(0));
}

#[tokio::test]
async fn a_list_without_end_is_given_up_and_what_is_known_stays() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy();
    members(&proxy, &["web-0"]).await;
    let pages = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pages);
    cluster.api.answer(move |query| {
        if is_watch(query) {
            return Some(failure(410));
        }
        let number = counted.fetch_add(1, Ordering::Relaxed);
        let metadata = json!({ "resourceVersion": "900", "continue": number.to_string() });
        Some(response(&json!({ "kind": "EndpointSliceList", "metadata": metadata, "items": [] })))
    });
    cluster.api.cut();
    fails(&proxy, "list has more than 200 pages").await;
    assert_eq!(pages.load(Ordering::Relaxed), 200);
    members(&proxy, &["web-0"]).await;
}

#[tokio::test]
async fn many_changes_at_once_are_few_answers_and_the_last_one_counts() {
    let cluster = Cluster::start(2).await;
    let proxy = cluster.proxy();
    members(&proxy, &["web-0", "web-1"]).await;
    until("the watch", async || cluster.api.requests().1 == 1).await;
    let before = source(&proxy).await["answers"].as_u64().unwrap();
    for round in 0..400 {
        let endpoint = cluster.pods[round % 2].endpoint();
        cluster.api.set("web-abcde", cluster.port, &[endpoint]);
        tokio::task::yield_now().await;
    }
    members(&proxy, &["web-1"]).await;
    let answers = source(&proxy).await["answers"].as_u64().unwrap() - before;
    assert!(answers < 100, "{answers}");
}

#[tokio::test]
async fn a_service_whose_port_is_renamed_keeps_its_pods_and_says_why() {
    let cluster = Cluster::start(2).await;
    let [first, second] = [0, 1].map(|index| cluster.pods[index].endpoint());
    cluster.api.set("web-abcde", cluster.port, &[first]);
    cluster.api.set("web-second", cluster.port, std::slice::from_ref(&second));
    let proxy = cluster.proxy();
    members(&proxy, &["web-0", "web-1"]).await;
    until("the watch", async || cluster.api.requests().1 == 1).await;
    cluster.api.set_named("web-second", "web", cluster.port, &[second]);
    fails(&proxy, "the Service has no TCP port named \"http\"").await;
    members(&proxy, &["web-0", "web-1"]).await;
}

#[tokio::test]
async fn an_empty_token_is_named_and_the_next_one_is_used() {
    let cluster = Cluster::start(1).await;
    cluster.api.rotate_token("");
    let proxy = cluster.proxy();
    fails(&proxy, "token is empty: it must hold the token").await;
    cluster.api.rotate_token("token-2");
    members(&proxy, &["web-0"]).await;
}
