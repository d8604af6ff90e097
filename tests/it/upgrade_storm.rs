//! Upgrade after upgrade, also right after each other, and a rolling restart after the other behind another Linchpin, under
//! load: nothing is refused or reset.
//!
//! `LINCHPIN_UPGRADES=20 cargo test --test it upgrade_storm -- --nocapture` makes twenty of each and prints what it served.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use linchpin::pool::Health;

use super::support::exchange::exchange;
use super::support::process::Running;
use super::support::tool::Folder;
use super::support::upgrades::{Place, Tunnel, echo, keep_asking, pool};
use super::support::{Backend, Client, Proxy, soon, until};

/// How many of each there are in an ordinary run.
const TIMES: usize = 3;

fn times() -> usize {
    std::env::var("LINCHPIN_UPGRADES").map_or(TIMES, |times| times.parse().unwrap())
}

/// What all clients share.
#[derive(Clone, Default)]
struct Load {
    is_over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
}

impl Load {
    /// Waits until so many more requests were served.
    async fn goes_on(&self, requests: usize) {
        let before = self.served.load(Ordering::Relaxed);
        until("clients are served", async || self.served.load(Ordering::Relaxed) > before + requests).await;
    }

    /// Ends the clients; returns how many responses all have got.
    async fn end(&self, mut clients: JoinSet<Result<(), String>>) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(outcome) = soon("the end of a client", clients.join_next()).await {
            assert_eq!(outcome.unwrap(), Ok(()));
        }
        self.served.load(Ordering::Relaxed)
    }
}

/// Sends requests over HTTP/2, and connects again when it is told to.
async fn keep_asking_http2(address: SocketAddr, load: Load) -> Result<(), String> {
    while !load.is_over.load(Ordering::Relaxed) {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("connecting: {error}"))?;
        let (sender, connection) = h2::client::handshake(stream).await.map_err(|error| format!("SETTINGS: {error}"))?;
        let driving = tokio::spawn(connection);
        // A GOAWAY ends the loop: streams above its last one were not begun (RFC 9113 §6.8).
        while let Ok(mut ready) = sender.clone().ready().await {
            let request = http::Request::get("http://a/").body(()).unwrap();
            let Ok((response, _)) = ready.send_request(request, true) else { break };
            match read(response).await {
                Ok(()) => drop(load.served.fetch_add(1, Ordering::Relaxed)),
                Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => break,
                Err(error) => return Err(format!("a stream: {error}")),
            }
            if load.is_over.load(Ordering::Relaxed) {
                break;
            }
        }
        driving.abort();
    }
    Ok(())
}

async fn read(response: h2::client::ResponseFuture) -> Result<(), h2::Error> {
    let response = response.await?;
    assert_eq!(response.status(), 200);
    let (mut body, mut all) = (response.into_body(), Vec::<Bytes>::new());
    while let Some(piece) = body.data().await {
        all.push(piece?);
    }
    assert_eq!(all.concat(), b"a");
    Ok(())
}

/// Sends requests that no proxy may send twice, on connections that it keeps.
async fn keep_posting(address: SocketAddr, load: Load) -> Result<(), String> {
    let connect = async || TcpStream::connect(address).await.map_err(|error| format!("connecting: {error}"));
    let mut stream = connect().await?;
    while !load.is_over.load(Ordering::Relaxed) {
        let request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";
        if !exchange(&mut stream, request).await? {
            stream = connect().await?;
        }
        load.served.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Sends through a tunnel and reads the echo, and opens another one when that ends. Returns how many it has opened.
async fn keep_echoing(address: SocketAddr, load: Load) -> Result<usize, String> {
    let mut opened = 0;
    while !load.is_over.load(Ordering::Relaxed) {
        let mut client = Client::connect(address).await;
        client.send(b"GET /socket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
        let response = soon("101", client.try_any_response("GET")).await.ok_or("no response to an upgrade")?;
        if response.status != 101 {
            return Err(format!("{} to an upgrade", response.status));
        }
        opened += 1;
        let (mut stream, _) = client.into_parts();
        let mut echo = [0; 4];
        while !load.is_over.load(Ordering::Relaxed) {
            stream.write_all(b"ping").await.map_err(|error| format!("writing: {error}"))?;
            match soon("the echo", stream.read_exact(&mut echo)).await {
                Ok(_) => drop(load.served.fetch_add(1, Ordering::Relaxed)),
                // An orderly end, once its process has waited for as long as it may.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(format!("reading: {error}")),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(opened)
}

/// A pool of an echoing server at `/socket`.
async fn sockets() -> String {
    format!(
        "[[pools]]\nname = \"sockets\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n\
         [[routes]]\npath_prefix = \"/socket\"\npool = \"sockets\"\n[[routes]]\npool = \"app\"\n",
        echo().await
    )
}

/// Starts clients of every kind.
fn clients(address: SocketAddr, load: &Load) -> JoinSet<Result<(), String>> {
    let mut clients = JoinSet::new();
    for index in 0..4 {
        let (is_over, served) = (Arc::clone(&load.is_over), Arc::clone(&load.served));
        clients.spawn(keep_asking(address, index % 2 == 0, is_over, served));
    }
    for _ in 0..2 {
        clients.spawn(keep_posting(address, load.clone()));
        clients.spawn(keep_asking_http2(address, load.clone()));
    }
    clients
}

#[tokio::test]
async fn no_client_of_any_kind_is_refused_or_cut_off_by_one_upgrade_right_after_the_other() {
    let (a, place, load) = (Backend::named("a").await, Place::new(), Load::default());
    let sockets = sockets().await;
    let text = |threads: usize| place.text(&format!("threads = {threads}"), &(pool(&[&a], "") + &sockets));
    let mut running = place.start(&text(2)).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let clients = clients(address, &load);
    let (mut tunnels, mut old) = (Vec::new(), Vec::new());
    for nth in 0..times() {
        // Every third one begins before the new process has proven itself.
        load.goes_on(if nth % 3 == 2 { 1 } else { 100 }).await;
        // No more than the old processes that may live.
        if nth < 6 {
            tunnels.push(Tunnel::open(address).await);
        }
        let next = place.upgrade(&text(1 + nth % 3)).await;
        old.push(std::mem::replace(&mut running, next));
        for (at, tunnel) in tunnels.iter_mut().enumerate() {
            tunnel.echoes(&format!("{nth} {at}")).await;
        }
    }
    load.goes_on(100).await;
    println!("{} upgrades, {} responses", times(), load.end(clients).await);
    drop(tunnels);
    for mut process in old {
        assert_eq!(process.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn no_client_notices_restarts_and_upgrades_of_linchpins_behind_a_linchpin() {
    let (a, folder, load) = (Backend::named("a").await, Folder::new(), Load::default());
    let (listeners_of_pool, sockets) = (pool(&[&a], ""), sockets().await);
    let (_, pools) = listeners_of_pool.split_at(listeners_of_pool.find("[[pools]]").unwrap());
    let text = |name: &str| {
        let [listener, handover] = ["sock", "handover"].map(|kind| folder.file(&format!("{name}.{kind}")));
        format!(
            "[server]\nthreads = 1\nshutdown_grace = \"2s\"\nhandover = \"{handover}\"\n[log]\naccess = \"off\"\n\
             [[listeners]]\naddress = \"unix:{listener}\"\n{pools}{sockets}"
        )
    };
    let file = |name: &str| folder.file(&format!("{name}.toml"));
    let start = async |name: &str| Running::start_with(&file(name), &text(name), Stdio::null()).await;
    let mut inner = [("one", start("one").await), ("two", start("two").await)];
    let address = |name: &str| format!("unix:{}", folder.file(&format!("{name}.sock")));
    let front = Proxy::builder()
        .top("[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
        .table("health", "type = \"tcp\"\ninterval = \"100ms\"\nrise = 1");
    let front = front.backend_on("one", &address("one")).backend_on("two", &address("two")).start();
    let (clients, mut echoes) = (clients(front.listener(0), &load), JoinSet::new());
    echoes.spawn(keep_echoing(front.listener(0), load.clone()));
    let mut old = Vec::new();
    for _ in 0..times() {
        // Restart one of them, and upgrade the other one.
        inner.swap(0, 1);
        let [(restarted, process), _] = &mut inner;
        load.goes_on(100).await;
        process.signal("TERM").await;
        assert_eq!(process.exit_code().await, Some(0));
        load.goes_on(20).await;
        *process = start(restarted).await;
        // As a rolling restart waits for the one that is back before it goes on.
        front.health(restarted, Health::Up).await;
        let [_, (upgraded, process)] = &mut inner;
        let mut next = Running::upgrade(&file(upgraded), &text(upgraded));
        next.line("taken over").await;
        old.push(std::mem::replace(process, next));
    }
    load.goes_on(100).await;
    let served = load.end(clients).await;
    let opened = soon("the end of a client", echoes.join_next()).await.unwrap().unwrap().unwrap();
    println!("{} restarts and upgrades, {served} responses, {opened} tunnels", times());
    assert!(opened <= times() + 1);
    for (_, process) in inner {
        process.signal("TERM").await;
        old.push(process);
    }
    for mut process in old {
        assert_eq!(process.exit_code().await, Some(0));
    }
}
