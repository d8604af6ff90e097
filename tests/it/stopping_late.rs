//! The shutdown delay: a process that was asked to stop still serves whoever comes, and says that it is about to leave.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use http::Request;
use tokio::net::TcpStream;

use super::support::process::Running;
use super::support::{Backend, Client, soon, until};

fn configuration(backend: SocketAddr, delay: &str) -> String {
    format!(
        "[server]\nthreads = 2\nshutdown_delay = \"{delay}\"\n[log]\naccess = \"off\"\n[admin]\n\
         address = \"127.0.0.1:0\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true\n[[pools]]\n\
         name = \"app\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{backend}\"\n"
    )
}

/// The status of `/readyz`.
async fn readiness(admin: SocketAddr) -> u16 {
    let mut client = Client::connect(admin).await;
    client.send(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    client.response().await.status
}

async fn http2_request(
    address: SocketAddr,
    waits: Duration,
) -> (http::StatusCode, h2::client::SendRequest<bytes::Bytes>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    tokio::time::sleep(waits).await;
    let request = Request::get("http://a/").body(()).unwrap();
    let response = sender.send_request(request, true).expect("no GOAWAY before the first request").0;
    (soon("a response", response).await.unwrap().status(), sender)
}

#[tokio::test]
async fn during_the_delay_clients_are_served_and_told_to_go_while_readiness_fails() {
    let a = Backend::named("a").await;
    let mut running = Running::start(&configuration(a.address(), "3s"), Stdio::null()).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let admin = running.line("admin address=").await;
    let admin: SocketAddr = admin.rsplit('=').next().unwrap().parse().unwrap();
    assert_eq!(readiness(admin).await, 200);
    let mut kept = running.client().await;
    let mut idle = running.client().await;
    for client in [&mut kept, &mut idle] {
        assert_eq!(client.get("/").await.field("connection"), None);
    }
    let (_, mut early) = http2_request(address, Duration::ZERO).await;
    let begun = Instant::now();
    running.signal("TERM").await;
    running.line("stopping").await;
    until("it is not ready", async || readiness(admin).await == 503).await;
    let response = kept.get("/").await;
    assert_eq!((response.status, response.field("connection")), (200, Some("close")));
    // One that has been there receives GOAWAY; one that is new gets a response first, however long it takes to ask.
    until("GOAWAY", async || early.send_request(Request::get("http://a/").body(()).unwrap(), true).is_err()).await;
    assert_eq!(http2_request(address, Duration::from_millis(300)).await.0, 200);
    // Until the delay is over, whoever connects is served.
    let mut served = 0;
    while begun.elapsed() < Duration::from_millis(2500) {
        let mut client = Client::connect(address).await;
        let response = client.get("/").await;
        assert_eq!((response.status, response.field("connection")), (200, Some("close")));
        assert_eq!(readiness(admin).await, 503);
        served += 1;
    }
    assert!(served > 10, "{served}");
    // An idle connection is not closed for it: its next request is its last.
    assert_eq!(idle.get("/").await.field("connection"), Some("close"));
    until("it listens no more", async || {
        TcpStream::connect(address).await.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(running.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_the_process_during_the_delay() {
    let a = Backend::named("a").await;
    let mut running = Running::start(&configuration(a.address(), "10m"), Stdio::null()).await;
    running.signal("TERM").await;
    running.line("stopping").await;
    running.signal("TERM").await;
    running.line("stopped at once").await;
    assert_eq!(running.exit_code().await, Some(0));
}
