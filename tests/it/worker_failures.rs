//! A worker thread that fails or hangs: the process says so, readiness fails, and the other threads go on.

use std::net::SocketAddr;

use tokio::net::{TcpStream, UnixStream};

use super::support::exchange::exchange;
use super::support::process::{linchpin, printed};
use super::support::thread_faults::ThreadFaults;
use super::support::upgrades::{Place, ask, pool};
use super::support::{Backend, Client, soon, until};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

async fn readiness(place: &Place) -> String {
    answer(place, "/readyz").await
}

async fn answer(place: &Place, path: &str) -> String {
    let response = ask(place, "GET", path, "").await;
    format!("{} {}", &response[9..12], response.rsplit("\r\n").next().unwrap())
}

/// Waits until the process's readiness is this.
async fn is(place: &Place, expected: &str) {
    until(expected, async || readiness(place).await == expected).await;
}

/// Reads the events of the process until one has these words.
async fn event(place: &Place, words: &str) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = UnixStream::connect(place.path("admin.sock")).await.unwrap();
    stream.write_all(b"GET /api/v1/events?last=20 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    soon(words, async {
        while !String::from_utf8_lossy(&text).contains(words) {
            assert!(stream.read_buf(&mut text).await.unwrap() > 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_fails_is_reported_and_the_others_and_a_successor_go_on() {
    let (a, place, faults) = (Backend::named("a").await, Place::new(), ThreadFaults::new().await);
    let text = place.text("threads = 2", &pool(&[&a], ""));
    let mut running = faults.start(place.file(), &text).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let mut kept = Vec::new();
    for _ in 0..24 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        exchange(&mut stream, REQUEST).await.unwrap();
        kept.push(stream);
    }
    is(&place, "200 ready").await;
    let file = place.file();
    assert_eq!(linchpin(&["healthcheck", "--live", "-c", file]).await.status.code(), Some(0));

    faults.fail(1);
    running.line("a worker thread failed and its connections are closed").await;
    is(&place, "503 broken: a worker thread has failed").await;
    event(&place, "\"phase\":\"broken\"").await;
    for (arguments, expected) in [
        (&["healthcheck", "-c", file][..], "not ready: broken: a worker thread has failed"),
        (&["healthcheck", "--live", "-c", file], "not alive: broken: a worker thread has failed"),
    ] {
        let health = linchpin(arguments).await;
        assert_eq!(health.status.code(), Some(1));
        assert!(printed(&health).contains(expected), "{}", printed(&health));
    }
    // Connections of the other thread, and all new ones.
    let mut left = 0;
    for mut stream in kept {
        left += usize::from(exchange(&mut stream, REQUEST).await.is_ok());
    }
    assert!((1..24).contains(&left), "{left}");
    for _ in 0..24 {
        assert_eq!(Client::connect(address).await.get("/").await.text(), "a");
    }
    // A reload waits for no thread that has failed.
    std::fs::write(file, text.replace("[log]", "[log]\nlevel = \"debug\"")).unwrap();
    let response = ask(&place, "POST", "/api/v1/reload", "").await;
    assert!(response.contains("\"result\":\"applied\""), "{response}");
    while let Some(line) = running.next_line().await {
        assert!(!line.contains("has not used the new configuration"), "{line}");
        if line.contains("reloaded the configuration") {
            break;
        }
    }
    // Whoever connects while the next process takes over is served.
    let _next = place.upgrade(&text).await;
    is(&place, "200 ready").await;
    assert_eq!(Client::connect(address).await.get("/").await.text(), "a");
    running.line("stopped: the last connection has ended").await;
}

#[tokio::test]
async fn a_process_whose_last_worker_fails_ends_for_a_supervisor_to_start_it_again() {
    let (a, place, faults) = (Backend::named("a").await, Place::new(), ThreadFaults::new().await);
    let mut running = faults.start(place.file(), &place.text("threads = 2", &pool(&[&a], ""))).await;
    faults.fail(0);
    running.line("a worker thread failed").await;
    faults.fail(1);
    running.line("all worker threads have failed").await;
    assert_eq!(running.exit_code().await, Some(1));
    assert!(!std::path::Path::new(&place.path("admin.sock")).exists(), "it leaves nothing behind");
}

#[tokio::test]
async fn a_worker_that_hangs_is_reported_until_it_goes_on() {
    let (a, place, faults) = (Backend::named("a").await, Place::new(), ThreadFaults::new().await);
    let mut running = faults.start(place.file(), &place.text("threads = 2", &pool(&[&a], ""))).await;
    faults.hang(0);
    running.line("a worker thread does not respond").await;
    for path in ["/readyz", "/livez"] {
        assert_eq!(answer(&place, path).await, "503 stalled: a worker thread does not respond", "{path}");
    }
    event(&place, "\"phase\":\"stalled\"").await;
    faults.go_on(0);
    running.line("all worker threads respond again").await;
    assert_eq!((readiness(&place).await, answer(&place, "/livez").await), ("200 ready".into(), "200 ok".into()));
}
