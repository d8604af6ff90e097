//! The admin listener while clients use up its connections, and while its process stops.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::support::process::Running;
use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy, Reply, soon, until};

const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
const READYZ: &[u8] = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n";
/// The most connections that the admin listener has at once.
const MOST: usize = 96;

async fn ask(admin: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut client = Client::connect(admin).await;
    client.send(request).await;
    let answer = client.response().await;
    (answer.status, answer.text())
}

#[tokio::test]
async fn silent_connections_delay_no_response_to_a_prober() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().top("[admin]\naddress = \"127.0.0.1:0\"").backend(&a, "").start();
    let mut silent = Vec::new();
    for _ in 0..2 * MOST {
        silent.push(TcpStream::connect(proxy.admin()).await.unwrap());
    }
    let begun = Instant::now();
    assert_eq!(ask(proxy.admin(), LIVEZ).await, (200, "ok".into()));
    assert_eq!(ask(proxy.admin(), READYZ).await, (200, "ready".into()));
    assert_eq!(proxy.ask("GET", "/api/v1/status", "").await.status, 200);
    // Far less than the time that silent connections have.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    // The connections that were idle for the longest time were closed.
    for stream in &mut silent[..MOST] {
        let _ = soon("the end of the connection", stream.read(&mut [0; 1])).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn bodies_that_never_arrive_end_in_seconds_and_delay_no_response_to_a_prober() {
    let a = Backend::named("a").await;
    let proxy = Proxy::builder().top("[admin]\naddress = \"127.0.0.1:0\"").backend(&a, "").start();
    let head = b"POST /api/v1/explain HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{";
    let mut slow = Vec::new();
    for _ in 0..MOST {
        let mut client = Client::connect(proxy.admin()).await;
        client.send(head).await;
        slow.push(client);
    }
    assert_eq!(ask(proxy.admin(), LIVEZ).await.0, 200);
    let mut statuses: Vec<u16> = Vec::new();
    for mut client in slow {
        // Connections that were refused beyond the limit may have been closed for newer ones.
        statuses.extend(soon("the end of the request", client.try_response("POST")).await.map(|answer| answer.status));
    }
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(statuses, [408, 503]);
    assert_eq!(proxy.ask("GET", "/api/v1/status", "").await.status, 200);
}

#[tokio::test]
async fn a_client_without_a_token_gets_401_before_its_body_is_read() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let token = folder.write("token", b"secret");
    let admin = format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"{token}\"");
    let proxy = Proxy::builder().top(&admin).backend(&a, "").start();
    let mut client = Client::connect(proxy.admin()).await;
    let head = "POST /api/v1/explain HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    client.send(format!("{head}expect: 100-continue\r\ncontent-length: 50\r\n\r\n").as_bytes()).await;
    let begun = Instant::now();
    let answer = soon("the first response", client.try_any_response("POST")).await.unwrap();
    assert_eq!(answer.status, 401, "and no 100 before it");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_successor_gets_the_addresses_while_its_predecessor_stops() {
    let a = Backend::start("a", |seen| if seen.path() == "/hang" { Reply::Hang } else { Reply::ok("a") }).await;
    let configuration = |listener: &str, admin: &str| {
        format!(
            "[server]\nthreads = 2\n[log]\naccess = \"off\"\n[admin]\naddress = \"{admin}\"\n[[listeners]]\n\
             address = \"{listener}\"\n[[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n",
            a.address()
        )
    };
    let mut old = Running::start(&configuration("127.0.0.1:0", "127.0.0.1:0"), Stdio::null()).await;
    let admin = old.line("admin address=").await.rsplit('=').next().unwrap().to_owned();
    let mut asks = Client::connect(admin.parse().unwrap()).await;
    asks.send(READYZ).await;
    assert_eq!(asks.response().await.status, 200);
    let mut hangs = old.client().await;
    hangs.send(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await;
    a.has(1).await;
    old.signal("TERM").await;
    old.line("stopping").await;
    // The line is logged before the phase changes.
    until("it is not ready", async || {
        asks.send(READYZ).await;
        asks.response().await.text() == "stopping"
    })
    .await;

    let new = Running::start(&configuration(&old.address, &admin), Stdio::null()).await;
    assert_eq!(ask(admin.parse().unwrap(), READYZ).await, (200, "ready".into()));
    assert_eq!(new.client().await.get("/").await.status, 200);
    // The old process still responds to requests on connections that are open.
    assert_eq!(old.process.try_wait().unwrap(), None);
    asks.send(READYZ).await;
    assert_eq!(asks.response().await.status, 503);
}
