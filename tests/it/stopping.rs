//! The end of a process, as its clients see it: whoever had begun is served, and nobody is reset.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

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

/// What clients met.
#[derive(Default)]
struct Met {
    answers: AtomicUsize,
    is_over: AtomicBool,
}

/// Sends a request and reads its answer: whether another may follow on the connection.
async fn exchange(stream: &mut TcpStream) -> Result<bool, String> {
    stream.write_all(REQUEST).await.map_err(|error| format!("sending: {error}"))?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\na") {
        match stream.read_buf(&mut answer).await {
            Ok(0) => return Err(format!("the end after {:?}", String::from_utf8_lossy(&answer))),
            Ok(_) => {}
            Err(error) => return Err(format!("{error} after {:?}", String::from_utf8_lossy(&answer))),
        }
    }
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    if head.starts_with("http/1.1 200") { Ok(!head.contains("connection: close")) } else { Err(head) }
}

/// A client that comes again and again: each time it is answered, or not let in at all.
async fn comes_often(address: SocketAddr, silent: Duration, met: Arc<Met>) -> Result<(), String> {
    loop {
        let mut stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && met.is_over.load(Ordering::SeqCst) => {
                return Ok(());
            }
            Err(error) => return Err(format!("connecting: {error}")),
        };
        tokio::time::sleep(silent).await;
        exchange(&mut stream).await.map_err(|why| format!("on a new connection, silent for {silent:?}: {why}"))?;
        met.answers.fetch_add(1, Ordering::SeqCst);
    }
}

/// A client that stays until it is told that the answer was the last.
async fn stays(address: SocketAddr, thinks: Duration, met: Arc<Met>) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| format!("connecting: {error}"))?;
    while exchange(&mut stream).await.map_err(|why| format!("on a kept connection, after {thinks:?}: {why}"))? {
        met.answers.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(thinks).await;
    }
    Ok(())
}

#[tokio::test]
async fn whoever_had_begun_when_the_process_was_told_to_stop_is_answered() {
    let a = Backend::named("a").await;
    for _ in 0..2 {
        let mut running = Running::start(&configuration(a.address(), ""), Stdio::null()).await;
        let address: SocketAddr = running.address.parse().unwrap();
        let met = Arc::new(Met::default());
        let mut clients = JoinSet::new();
        for index in 0..16 {
            let millis = Duration::from_millis;
            clients.spawn(comes_often(address, millis(if index % 2 == 0 { 0 } else { 10 * index }), Arc::clone(&met)));
            clients.spawn(stays(address, millis(5 * index), Arc::clone(&met)));
        }
        until("they are served", async || met.answers.load(Ordering::SeqCst) > 300).await;
        met.is_over.store(true, Ordering::SeqCst);
        running.signal("TERM").await;
        while let Some(outcome) = soon("the end of a client", clients.join_next()).await {
            assert_eq!(outcome.unwrap(), Ok(()));
        }
        assert_eq!(running.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn a_connection_that_said_nothing_yet_has_a_moment_to_say_it_and_ends_without_a_reset() {
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
        // The line says what is about to be done, and each thread hears of it by itself.
        until("the last answer", async || {
            let answer = client.get("/").await;
            assert_eq!(answer.status, 200, "{}", answer.head);
            answer.field("connection") == Some("close")
        })
        .await;
        assert!(client.is_closed().await);
    }
    // Who says nothing is closed, and sees an end and no reset, though its request crosses it.
    let begun = Instant::now();
    let (mut idle, rest) = idle.into_parts();
    assert_eq!((rest.as_slice(), soon("the end", idle.peek(&mut [0; 1])).await.unwrap()), (&b""[..], 0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Had the first met a reset, the system would say so to the second: a read tells of the end that came before it.
    idle.write_all(REQUEST).await.unwrap();
    idle.write_all(REQUEST).await.unwrap();
    assert_eq!(running.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_client_that_had_connected_may_take_half_a_second_to_say_something() {
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
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    }
    assert_eq!(running.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_stop_without_anybody_takes_no_longer_than_its_last_call() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().backend(&a, "").start();
    let begun = Instant::now();
    soon("the end", proxy.stop()).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let proxy = Proxy::builder().server("shutdown_grace = \"0s\"").backend(&a, "").start();
    let begun = Instant::now();
    soon("the end", proxy.stop()).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}
