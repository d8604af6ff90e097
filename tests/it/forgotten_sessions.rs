//! Session copies when a server has forgotten a session, without a sign of it, and several requests find out at once.

use super::support::session_app::SessionApp;
use super::support::{Client, Proxy};

const CONNECTIONS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_find_a_server_without_their_session_at_once_all_run_once_on_the_restored_state() {
    let app = SessionApp::start("a").await;
    let builder = Proxy::builder().server("threads = 2").table("copies", "").table("health", "type = \"none\"");
    let proxy = builder.backend(&app.backend, "").start();
    let first = proxy.client().await.request("POST", "/add", "", b"").await;
    let sid = first
        .fields("set-cookie")
        .iter()
        .find(|set| set.starts_with("SID="))
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let cookies = format!("{}; {sid}", first.pin().unwrap());
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(proxy.client_with(&cookies).await);
    }
    let mut before = 1;
    for round in 0..100 {
        app.forget();
        clients.iter_mut().for_each(|client| client.pin = Some(cookies.clone()));
        let requests = clients.iter_mut().map(|client| client.request("POST", "/add", "", b""));
        let mut told = Vec::new();
        for response in futures_util::future::join_all(requests).await {
            assert_eq!(response.status, 200, "in round {round}: {}", response.text());
            told.push(response.text().parse::<usize>().unwrap());
        }
        told.sort_unstable();
        assert_eq!(told, (before + 1..=before + CONNECTIONS).collect::<Vec<_>>(), "in round {round}");
        before += CONNECTIONS;
    }
    assert_eq!(app.ran(), 1 + 100 * CONNECTIONS, "nothing ran twice");
}
