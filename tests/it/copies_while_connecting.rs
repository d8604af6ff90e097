//! A session that moves while one of its requests waits for a connection to the server that it leaves.

use std::net::SocketAddr;
use std::time::Duration;

use linchpin::pool::AdminState;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::support::browser::{Browser, server};
use super::support::session_app::SessionApp;
use super::support::{Proxy, until};

/// An address that passes connections on to a server while it is open. While it is closed, the kernel answers no attempt to
/// connect, and those that wait succeed soon after it opens: Linux tries again after a second.
async fn gate(to: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let (address, (open, mut is_open)) = (listener.local_addr().unwrap(), watch::channel(true));
    tokio::spawn(async move {
        loop {
            let accepts = *is_open.borrow_and_update();
            tokio::select! {
                biased;
                changed = is_open.changed() => if changed.is_err() { return },
                accepted = listener.accept(), if accepts => {
                    let (mut client, _) = accepted.unwrap();
                    tokio::spawn(async move {
                        let mut server = TcpStream::connect(to).await?;
                        copy_bidirectional(&mut client, &mut server).await
                    });
                }
            }
        }
    });
    (address, open)
}

/// Fills the queue of a closed gate. Returns its connections, which nobody serves.
async fn fill(address: SocketAddr) -> Vec<TcpStream> {
    let mut queued = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(connected.unwrap());
    }
    queued
}

/// Starts a Linchpin in front of a server behind a gate, and of another one. Each request needs a connection of its own.
fn linchpin(gate: SocketAddr, other: &SessionApp) -> Proxy {
    Proxy::builder()
        .top("[admin]\naddress = \"127.0.0.1:0\"")
        .server("threads = 1")
        .table("copies", "handover = \"100ms\"")
        .table("health", "type = \"none\"")
        .table("timeouts", "connect = \"15s\"")
        .table("upstream", "max_idle_per_thread = 0")
        .backend_at("a", gate, "")
        .backend(&other.backend, "")
        .start()
}

#[tokio::test]
async fn a_request_that_waits_too_long_for_the_hand_over_of_its_session_goes_on_without_and_is_counted() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let (address, open) = gate(apps[0].backend.address()).await;
    let proxy = linchpin(address, &apps[1]);
    proxy.live("a").set_state(AdminState::Maintenance);
    let mut browser = Browser::default();
    let first = browser.send(&proxy, "POST", "/add").await;
    assert_eq!((first.text().as_str(), server(&apps, &first)), ("1", 1));
    proxy.live("a").set_state(AdminState::Ready);
    proxy.live("b").set_state(AdminState::Maintenance);
    open.send(false).unwrap();
    let queued = fill(address).await;
    // The first one gives the copy, the other one waits for that.
    let mut gives = browser.begin(&proxy, "GET", "/").await;
    let mut waits = browser.begin(&proxy, "GET", "/").await;
    until("the wait is counted", async || {
        let metrics = proxy.ask("GET", "/metrics", "").await.text();
        metrics.lines().any(|line| line.contains("reason=\"hand_over\"") && !line.ends_with(" 0"))
    })
    .await;
    open.send(true).unwrap();
    drop(queued);
    for waiting in [&mut gives, &mut waits] {
        assert_eq!(waiting.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_request_whose_session_moves_while_it_waits_for_a_connection_follows_the_session() {
    let apps = [SessionApp::start("a").await, SessionApp::start("b").await];
    let (address, open) = gate(apps[0].backend.address()).await;
    let proxy = linchpin(address, &apps[1]);
    proxy.live("b").set_state(AdminState::Maintenance);
    let mut browser = Browser::default();
    let first = browser.send(&proxy, "POST", "/add").await;
    assert_eq!((first.text().as_str(), server(&apps, &first)), ("1", 0));
    proxy.live("b").set_state(AdminState::Ready);

    open.send(false).unwrap();
    let queued = fill(address).await;
    let mut late = browser.begin(&proxy, "GET", "/").await;
    until("it waits for a connection", async || proxy.live("a").active() == 1).await;
    proxy.live("a").set_state(AdminState::Maintenance);
    let moved = browser.send(&proxy, "POST", "/add").await;
    assert_eq!(
        (moved.text().as_str(), server(&apps, &moved)),
        ("2", 1),
        "it waits no longer than a hand-over may take"
    );
    proxy.live("a").set_state(AdminState::Ready);
    open.send(true).unwrap();
    drop(queued);
    let response = late.response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "2"), "it sees what the client has been told");
    assert_eq!(browser.add(&proxy).await, "3");
}
