//! A new process that fails or dies soon after it has taken over: the old one goes on, and no client is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::support::dns::Dns;
use super::support::exchange::exchange;
use super::support::process::Running;
use super::support::upgrades::{Place, Tunnel, ask, echo, is_followed, pool};
use super::support::{Backend, Client, soon, until};

/// Connects again and again until `is_over`. A request may break off, since its process was killed; connecting may not.
async fn keep_connecting(
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
) -> Result<usize, String> {
    let mut broken = 0;
    while !is_over.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(address).await.map_err(|error| format!("connecting: {error}"))?;
        match exchange(&mut stream, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await {
            Ok(_) => drop(served.fetch_add(1, Ordering::Relaxed)),
            Err(_) => broken += 1,
        }
    }
    Ok(broken)
}

/// Starts a process that takes over, and kills it as soon as it has.
async fn die_early(place: &Place, text: &str) {
    let mut next = Running::upgrade(place.file(), text);
    next.line("taken over").await;
    next.process.kill().await.unwrap();
}

#[tokio::test]
async fn a_new_process_that_dies_soon_after_it_has_taken_over_leaves_everything_to_the_old_one() {
    let (a, place) = (Backend::named("a").await, Place::new());
    let text = |threads: usize| place.text(&format!("threads = {threads}"), &pool(&[&a], ""));
    let mut running = place.start(&text(2)).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let (is_over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..6 {
        clients.spawn(keep_connecting(address, Arc::clone(&is_over), Arc::clone(&served)));
    }
    for threads in [2, 1, 3] {
        die_early(&place, &text(threads)).await;
        // Whether or not it had heard that the new one accepts connections.
        running.line("this process goes on as before").await;
        let before = served.load(Ordering::Relaxed);
        until("clients are served", async || served.load(Ordering::Relaxed) > before + 100).await;
        let answer = ask(&place, "GET", "/readyz", "").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    is_over.store(true, Ordering::Relaxed);
    while let Some(outcome) = soon("the end of a client", clients.join_next()).await {
        // Each of the three had a request or two in hand.
        let broken = outcome.unwrap().unwrap();
        assert!(broken <= 20, "{broken}");
    }
    // It is what it was: it can be changed, is asked to reload, and hands over.
    let answer = ask(&place, "POST", "/api/v1/pools/app/backends/a/weight", "{\"weight\":5}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    std::fs::write(place.file(), text(2)).unwrap();
    let answer = ask(&place, "POST", "/api/v1/reload", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let response = Client::connect(address).await.get("/").await;
    assert_eq!((response.text().as_str(), response.field("connection")), ("a", None), "it asks nobody to leave");
    let next = place.upgrade(&text(2)).await;
    assert_eq!(running.exit_code().await, Some(0));
    let status = ask(&place, "GET", "/api/v1/status", "").await;
    assert!(status.contains("\"weight\":5"), "{status}");
    drop(next);
}

#[tokio::test]
async fn what_the_operator_sets_while_the_new_process_proves_itself_holds_after_its_death() {
    let (a, b, place) = (Backend::named("a").await, Backend::named("b").await, Place::new());
    let text = place.text("threads = 1", &pool(&[&a, &b], ""));
    let mut running = place.start(&text).await;
    let mut next = Running::upgrade(place.file(), &text);
    next.line("taken over").await;
    // The admin listener is the new one's.
    running.line("another process has taken over").await;
    let answer = ask(&place, "POST", "/api/v1/pools/app/backends/b/state", "{\"state\":\"maintenance\"}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    next.process.kill().await.unwrap();
    running.line("this one accepts connections again").await;
    until("the admin listener answers", async || {
        tokio::net::UnixStream::connect(place.path("admin.sock")).await.is_ok()
    })
    .await;
    let status = ask(&place, "GET", "/api/v1/status", "").await;
    assert!(status.contains("\"state\":\"maintenance\""), "{status}");
    let stream = ask_for_events(&place).await;
    for words in ["\"phase\":\"begun\"", "\"phase\":\"taken_over\"", "\"phase\":\"rolled_back\",\"reason\":"] {
        assert!(stream.contains(words), "{words}: {stream}");
    }
}

/// The events until now.
async fn ask_for_events(place: &Place) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::UnixStream::connect(place.path("admin.sock")).await.unwrap();
    stream.write_all(b"GET /api/v1/events?last=100 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    soon("the events", async {
        while !String::from_utf8_lossy(&text).contains("rolled_back") {
            assert!(stream.read_buf(&mut text).await.unwrap() > 0);
        }
    })
    .await;
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn stopping_either_process_while_the_new_one_proves_itself_loses_nobody() {
    let (a, place) = (Backend::named("a").await, Place::new());
    let text = place.text("threads = 2", &pool(&[&a], ""));
    let mut running = place.start(&text).await;
    let address: SocketAddr = running.address.parse().unwrap();
    // The old one: the new one has its sockets all the same.
    let mut next = Running::upgrade(place.file(), &text);
    next.line("taken over").await;
    running.line("another process has taken over").await;
    running.signal("TERM").await;
    assert_eq!(running.exit_code().await, Some(0));
    for _ in 0..10 {
        assert_eq!(Client::connect(address).await.get("/").await.text(), "a");
    }
    let answer = ask(&place, "GET", "/readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The new one: both end, and nobody holds a socket at which clients wait in vain.
    let mut last = Running::upgrade(place.file(), &text);
    last.line("taken over").await;
    next.line("another process has taken over").await;
    last.signal("TERM").await;
    assert_eq!(last.exit_code().await, Some(0));
    assert_eq!(next.exit_code().await, Some(0));
    until("it is gone", async || TcpStream::connect(address).await.is_err()).await;
    assert!(!std::path::Path::new(&place.path("admin.sock")).exists());
}

#[tokio::test]
async fn a_session_that_a_grandparent_learns_reaches_the_newest_process_when_its_own_successor_has_ended() {
    let (release, held) = tokio::sync::watch::channel(false);
    let login = move |name: &'static str| {
        let held = held.clone();
        Backend::start(name, move |seen| match seen.path() {
            "/login" => {
                let response = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nset-cookie: SID=".to_owned() + name;
                super::support::Reply::Held(held.clone(), (response + "-late\r\n\r\n" + name).into())
            }
            _ => super::support::Reply::ok(name),
        })
    };
    let (a, b, place) = (login("a").await, login("b").await, Place::new());
    let persistence = "[pools.persistence]\ntype = \"learned\"\nlearned = { cookie = \"SID\" }";
    let text = place.text("threads = 1", &pool(&[&a, &b], persistence));
    let oldest = place.start(&text).await;
    let address: SocketAddr = oldest.address.parse().unwrap();
    let mut early = Client::connect(address).await;
    early.send(b"GET /login HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("it is sent", async || a.count() + b.count() == 1).await;
    let mut middle = place.upgrade(&text).await;
    let mut newest = place.upgrade(&text).await;
    assert_eq!(middle.exit_code().await, Some(0), "it has no connection");
    newest.line("an older process that still has connections is connected").await;
    release.send_replace(true);
    let response = early.response().await;
    let (cookie, on) = (response.field("set-cookie").unwrap().to_owned(), response.text());
    until("the newest process knows it", async || is_followed(address, &cookie, &on).await).await;
}

#[tokio::test]
async fn a_drain_that_begins_after_an_upgrade_ends_tunnels_of_the_old_process_and_too_many_old_processes_end() {
    let place = Place::new();
    let backend = format!("[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n", echo().await);
    let text = place.text("threads = 1", &(pool(&[], "") + &backend));
    let mut processes = vec![place.start(&text).await];
    let address: SocketAddr = processes[0].address.parse().unwrap();
    let mut tunnels = Vec::new();
    for older in 0..9 {
        tunnels.push(Tunnel::open(address).await);
        let mut next = place.upgrade(&text).await;
        processes.last_mut().unwrap().line("another process has taken over").await;
        // The one before it is connected already.
        for _ in 0..older {
            next.line("an older process that still has connections is connected").await;
        }
        processes.push(next);
    }
    // Eight old ones may live: the ninth is the oldest.
    processes[0].line("too many old processes").await;
    for (at, tunnel) in tunnels.iter_mut().enumerate().skip(1) {
        tunnel.echoes(&format!("ping{at}")).await;
    }
    let order = "{\"deadline\":\"1s\"}";
    let answer = ask(&place, "POST", "/api/v1/pools/app/backends/a/drain", order).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for process in &mut processes[1..9] {
        assert_eq!(process.exit_code().await, Some(0), "its only tunnel has ended");
    }
    for tunnel in tunnels.iter_mut().skip(1) {
        tunnel.ends().await;
    }
}

#[tokio::test]
async fn a_new_process_whose_old_one_is_killed_before_it_had_handed_over_serves_all_the_same() {
    let (a, place, mut dns) = (Backend::named("a").await, Place::new(), Dns::new(&[]));
    let text = place.text("threads = 2", &pool(&[&a], ""));
    let mut running = place.start(&text).await;
    let address: SocketAddr = running.address.parse().unwrap();
    // Its source keeps the new process from being ready.
    let waits = format!("{text}[[pools.discover]]\ndns = \"app.internal\"\nport = 1\n{}\n", dns.resolver())
        + "min_interval = \"100ms\"\nmax_interval = \"200ms\"\n";
    let mut next = Running::upgrade(place.file(), &waits);
    running.line("a new process takes over").await;
    next.line("taking over").await;
    running.process.kill().await.unwrap();
    next.line("the old process has ended before it had handed over; going on without it").await;
    dns.knows(&[("app.internal", "127.0.0.1")]).await;
    dns.restart().await;
    next.line("listening address=").await;
    let response = Client::connect(address).await.get("/").await;
    assert_eq!((response.status, response.text().as_str()), (200, "a"));
    let answer = ask(&place, "GET", "/readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // It is an ordinary process now: the next one takes over from it.
    let _last = place.upgrade(&text).await;
    assert_eq!(next.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_process_that_is_told_to_stop_before_it_has_handed_over_says_so_on_both_sides() {
    let (a, place, dns) = (Backend::named("a").await, Place::new(), Dns::new(&[]));
    let text = place.text("threads = 1", &pool(&[&a], ""));
    let mut running = place.start(&text).await;
    let waits = format!("{text}[[pools.discover]]\ndns = \"app.internal\"\nport = 1\n{}\n", dns.resolver());
    let mut next = Running::upgrade(place.file(), &waits);
    next.line("taking over").await;
    running.line("a new process takes over").await;
    running.signal("TERM").await;
    running.line("refused to hand over: this process stops").await;
    next.line("cannot take over: the process that hands over was asked to stop").await;
    assert_eq!((next.exit_code().await, running.exit_code().await), (Some(1), Some(0)));
}
