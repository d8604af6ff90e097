//! A process that stops, as its clients see it: requests that have begun are served, and no connection is reset.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::support::exchange::exchange;
use super::support::process::Running;
use super::support::{Backend, Client, Proxy, soon, until};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn configuration(backend: SocketAddr, server: &str) -> String {
    format!(
        "[server]\nthreads = 2\n{server}\n[log]\naccess = \"off\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\n\
         address = \"{backend}\"\n"
    )
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    responses: AtomicUsize,
    is_over: AtomicBool,
}

/// A client that connects again and again: each time it gets a response, or can't connect at all.
async fn connects_often(address: SocketAddr, silent: Duration, seen: Arc<Seen>) -> Result<(), String> {
    loop {
        let mut stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && seen.is_over.load(Ordering::SeqCst) => {
                return Ok(());
            }
            Err(error) => return Err(format!("connecting: {error}")),
        };
        tokio::time::sleep(silent).await;
        exchange(&mut stream, REQUEST)
            .await
            .map_err(|why| format!("on a new connection, silent for {silent:?}: {why}"))?;
        seen.responses.fetch_add(1, Ordering::SeqCst);
    }
}

/// A client that reuses its connection until a response says `connection: close`.
async fn reuses_its_connection(address: SocketAddr, thinks: Duration, seen: Arc<Seen>) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| format!("connecting: {error}"))?;
    while exchange(&mut stream, REQUEST)
        .await
        .map_err(|why| format!("on a kept connection, after {thinks:?}: {why}"))?
    {
        seen.responses.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(thinks).await;
    }
    Ok(())
}

#[tokio::test]
async fn clients_that_have_begun_when_the_process_stops_get_a_response() {
    let a = Backend::named("a").await;
    for _ in 0..2 {
        let mut running = Running::start(&configuration(a.address(), ""), Stdio::null()).await;
        let address: SocketAddr = running.address.parse().unwrap();
        let seen = Arc::new(Seen::default());
        let mut clients = JoinSet::new();
        for index in 0..16 {
            let millis = Duration::from_millis;
            clients.spawn(connects_often(
                address,
                millis(if index % 2 == 0 { 0 } else { 10 * index }),
                Arc::clone(&seen),
            ));
            clients.spawn(reuses_its_connection(address, millis(5 * index), Arc::clone(&seen)));
        }
        until("they are served", async || seen.responses.load(Ordering::SeqCst) > 300).await;
        seen.is_over.store(true, Ordering::SeqCst);
        running.signal("TERM").await;
        while let Some(outcome) = soon("the end of a client", clients.join_next()).await {
            assert_eq!(outcome.unwrap(), Ok(()));
        }
        assert_eq!(running.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn a_silent_connection_has_a_moment_for_one_request_and_closes_without_a_reset() {
    let a = Backend::named("a").await;
    let mut running = Running::start(&configuration(a.address(), ""), Stdio::null()).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let mut kept = running.client().await;
    assert_eq!(kept.get("/").await.status, 200);
    let (mut silent, mut idle) = (Client::connect(address).await, running.client().await);
    assert_eq!(idle.get("/").await.status, 200);
    running.signal("TERM").await;
    running.line("stopping").await;
    for client in [&mut kept, &mut silent] {
        // The line appears before the threads stop, each at its own time.
        until("the last response", async || {
            let response = client.get("/").await;
            assert_eq!(response.status, 200, "{}", response.head);
            response.field("connection") == Some("close")
        })
        .await;
        assert!(client.is_closed().await);
    }
    // A client that sends nothing sees the connection closed, and no reset even if it sends a request now.
    let begun = Instant::now();
    let (mut idle, rest) = idle.into_parts();
    assert_eq!((rest.as_slice(), soon("the end", idle.peek(&mut [0; 1])).await.unwrap()), (&b""[..], 0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // If the first write caused a reset, the second fails. A read would only report the end that arrived earlier.
    idle.write_all(REQUEST).await.unwrap();
    idle.write_all(REQUEST).await.unwrap();
    assert_eq!(running.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_connected_client_may_take_half_a_second_to_send_its_request() {
    let a = Backend::named("a").await;
    let mut running = Running::start(&configuration(a.address(), ""), Stdio::null()).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::connect(address).await);
    }
    running.signal("TERM").await;
    running.line("stopping").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for client in &mut clients {
        let response = client.get("/").await;
        assert_eq!((response.status, response.field("connection")), (200, Some("close")));
    }
    assert_eq!(running.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_process_without_clients_stops_within_its_grace_period() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().backend(&a, "").start();
    let begun = Instant::now();
    soon("the end", proxy.stop()).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let proxy = Proxy::builder().server("shutdown_grace = \"0s\"").backend(&a, "").start();
    let begun = Instant::now();
    soon("the end", proxy.stop()).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
