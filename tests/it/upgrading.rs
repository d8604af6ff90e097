//! A new process takes over from the one that runs: no client is refused or cut off, and nothing that was known is lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::support::process::{Running, listens_at};
use super::support::session_app::SessionApp;
use super::support::upgrades::{Place, Tunnel, ask, echo, is_followed, keep_asking, pool};
use super::support::{Backend, Client, Reply, soon, until};

#[tokio::test]
async fn clients_are_served_throughout_upgrades_with_other_numbers_of_threads() {
    let (a, place) = (Backend::named("a").await, Place::new());
    let text = |threads: usize| place.text(&format!("threads = {threads}"), &pool(&[&a], ""));
    let mut running = place.start(&text(2)).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let (is_over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for index in 0..12 {
        clients.spawn(keep_asking(address, index % 2 == 0, Arc::clone(&is_over), Arc::clone(&served)));
    }
    for threads in [2, 4, 1, 3] {
        let before = served.load(Ordering::Relaxed);
        until("clients are served", async || served.load(Ordering::Relaxed) > before + 200).await;
        let next = place.upgrade(&text(threads)).await;
        assert_eq!(next.address, running.address, "the same sockets");
        assert_eq!(running.exit_code().await, Some(0), "the old process ends");
        running = next;
    }
    let before = served.load(Ordering::Relaxed);
    until("clients are served", async || served.load(Ordering::Relaxed) > before + 200).await;
    is_over.store(true, Ordering::Relaxed);
    while let Some(outcome) = soon("the end of a client", clients.join_next()).await {
        assert_eq!(outcome.unwrap(), Ok(()));
    }
    running.signal("TERM").await;
    assert_eq!(running.exit_code().await, Some(0));
}

/// A server that pins clients by its own cookie.
async fn application(name: &'static str) -> Backend {
    Backend::start(name, move |seen| match seen.path() {
        "/login" => {
            Reply::new(200, &format!("set-cookie: SID={name}-{}\r\n", seen.field("x-user").unwrap_or("x")), name)
        }
        _ => Reply::ok(name),
    })
    .await
}

#[tokio::test]
async fn what_was_learned_set_and_observed_holds_in_the_next_process() {
    let (a, b, place) = (application("a").await, application("b").await, Place::new());
    let down: SocketAddr = {
        let gone = Backend::named("c").await;
        gone.kill().await
    };
    let rest = pool(&[&a, &b], "[pools.persistence]\ntype = \"learned\"\nlearned = { cookie = \"SID\" }")
        + &format!(
            "[[pools.backends]]\nname = \"c\"\naddress = \"{down}\"\n[[pools]]\nname = \"sealed\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n[[routes]]\npath_prefix = \"/sealed\"\npool = \"sealed\"\n[[routes]]\npool = \"app\"\n",
            a.address()
        );
    let text = place.text("threads = 2", &rest);
    let mut running = place.start(&text).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let mut users = Vec::new();
    for user in 0..40 {
        let mut client = Client::connect(address).await;
        let response = client.request("GET", "/login", &format!("x-user: {user}\r\n"), b"").await;
        users.push((response.field("set-cookie").unwrap().to_owned(), response.text()));
    }
    assert!(users.iter().any(|(_, on)| on == "a") && users.iter().any(|(_, on)| on == "b"));
    let sealed = Client::connect(address).await.get("/sealed").await.fields("set-cookie").concat();
    let answer = ask(&place, "POST", "/api/v1/pools/app/backends/b/weight", "{\"weight\":0}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    until("c is ejected", async || {
        Client::connect(address).await.get("/").await;
        ask(&place, "GET", "/api/v1/status", "").await.contains("ejected")
    })
    .await;
    let next = place.upgrade(&text).await;
    assert_eq!(running.exit_code().await, Some(0));
    let status = ask(&place, "GET", "/api/v1/status", "").await;
    assert!(status.contains("ejected"), "{status}");
    for (cookie, on) in &users {
        let mut client = Client::connect(address).await;
        assert_eq!(client.request("GET", "/", &format!("cookie: {cookie}\r\n"), b"").await.text(), *on);
    }
    for _ in 0..10 {
        assert_eq!(Client::connect(address).await.get("/").await.text(), "a", "b has no weight, and c is ejected");
    }
    let cookie = format!("cookie: {}\r\n", sealed.split(';').next().unwrap());
    let response = Client::connect(address).await.request("GET", "/sealed", &cookie, b"").await;
    assert_eq!((response.status, response.fields("set-cookie").len()), (200, 0), "the pin opens with the same key");
    drop(next);
}

#[tokio::test]
async fn tunnels_outlive_several_upgrades_and_each_old_process_ends_with_its_last_one() {
    let place = Place::new();
    let backend = format!("[[pools.backends]]\nname = \"a\"\naddress = \"{}\"\n", echo().await);
    let text = place.text("threads = 1", &(pool(&[], "") + &backend));
    let mut processes = vec![place.start(&text).await];
    let address: SocketAddr = processes[0].address.parse().unwrap();
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(Tunnel::open(address).await);
        let next = place.upgrade(&text).await;
        // For a moment both accept connections, and the next tunnel could be one of the old process.
        let old = processes.last_mut().unwrap();
        old.line("another process has taken over").await;
        until("the old process accepts no more", async || !listens_at(old.process.id().unwrap(), address)).await;
        processes.push(next);
    }
    for (at, tunnel) in tunnels.iter_mut().enumerate() {
        tunnel.echoes(&format!("ping{at}")).await;
    }
    // An upgrade stops none of the processes before it.
    processes[0].signal("USR1").await;
    while let Some(line) = processes[0].next_line().await {
        assert!(!line.contains("stops"), "{line}");
        if line.contains("SIGUSR1") {
            break;
        }
    }
    // The second process ends although the first one still lives.
    drop(tunnels.remove(1));
    assert_eq!(processes[1].exit_code().await, Some(0));
    tunnels[0].echoes("hello").await;
    drop(tunnels.remove(0));
    assert_eq!(processes[0].exit_code().await, Some(0));
    // The stop of the newest one is one of those before it.
    assert_eq!(Client::connect(address).await.get("/").await.status, 200);
    processes[3].signal("TERM").await;
    processes[2].line("the process that has taken over stops").await;
    drop(tunnels);
    assert_eq!(processes[2].exit_code().await, Some(0));
    assert_eq!(processes[3].exit_code().await, Some(0));
}

#[tokio::test]
async fn a_new_process_that_dies_before_it_is_ready_leaves_the_old_one_as_it_was() {
    let (a, place) = (Backend::named("a").await, Place::new());
    let text = place.text("threads = 2", &pool(&[&a], ""));
    let mut running = place.start(&text).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let (is_over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for index in 0..6 {
        clients.spawn(keep_asking(address, index % 2 == 0, Arc::clone(&is_over), Arc::clone(&served)));
    }
    // A source that never answers keeps the new process from being ready.
    let waits = text.clone() + "[[pools.discover]]\ndns = \"app.invalid\"\nport = 80\nresolver = [\"127.0.0.1:9\"]\n";
    for millis in [0, 5, 20, 40, 60, 100, 200, 400] {
        let mut next = Running::upgrade(place.file(), &waits);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        if millis == 400 {
            // However slow the machine is, this one has begun.
            next.line("taking over").await;
        }
        next.process.kill().await.unwrap();
        let before = served.load(Ordering::Relaxed);
        until("clients are served", async || served.load(Ordering::Relaxed) > before + 50).await;
    }
    // One whose file can't run says why.
    let mut next = Running::upgrade(place.file(), &text.replace("[log]", "[log]\nlevel = 7"));
    assert_eq!(next.exit_code().await, Some(1));
    running.line("goes on as before").await;
    let answer = ask(&place, "GET", "/readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    is_over.store(true, Ordering::Relaxed);
    while let Some(outcome) = soon("the end of a client", clients.join_next()).await {
        assert_eq!(outcome.unwrap(), Ok(()));
    }
    let _next = place.upgrade(&text).await;
    assert_eq!(running.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_session_that_the_old_process_learns_after_the_takeover_is_known_to_the_new_one() {
    let (release, held) = tokio::sync::watch::channel(false);
    let login = move |name: &'static str| {
        let held = held.clone();
        Backend::start(name, move |seen| match seen.path() {
            "/login" => {
                let response = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nset-cookie: SID=".to_owned() + name;
                Reply::Held(held.clone(), (response + "-late\r\n\r\n" + name).into())
            }
            _ => Reply::ok(name),
        })
    };
    let (a, b, place) = (login("a").await, login("b").await, Place::new());
    let persistence = "[pools.persistence]\ntype = \"learned\"\nlearned = { cookie = \"SID\" }";
    let text = place.text("threads = 1", &pool(&[&a, &b], persistence));
    let running = place.start(&text).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let mut early = Client::connect(address).await;
    early.send(b"GET /login HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("it is sent", async || a.count() + b.count() == 1).await;
    let _next = place.upgrade(&text).await;
    release.send_replace(true);
    let response = early.response().await;
    let (cookie, on) = (response.field("set-cookie").unwrap().to_owned(), response.text());
    until("the new process knows it", async || is_followed(address, &cookie, &on).await).await;
}

#[tokio::test]
async fn session_copies_go_along_and_so_does_what_is_saved_after_the_takeover() {
    let [a, b, c] = SessionApp::three().await;
    let place = Place::new();
    let backends = [&a.backend, &b.backend, &c.backend];
    let text = place.text(
        "threads = 1",
        &pool(&backends, "[pools.copies]\n[pools.health]\ntype = \"tcp\"\ninterval = \"200ms\"\ntimeout = \"10s\"\nfall = 1\nrise = 1"),
    );
    let mut running = place.start(&text).await;
    let address: SocketAddr = running.address.parse().unwrap();
    let mut users = Vec::new();
    for _ in 0..6 {
        let mut browser = Browser::new(address);
        browser.send("POST", "/add").await;
        browser.send("POST", "/add").await;
        users.push(browser);
    }
    let _next = place.upgrade(&text).await;
    assert_eq!(running.exit_code().await, Some(0));
    // The servers lose what they have: only the copies know of the sessions.
    for app in [&a, &b, &c] {
        app.forget();
    }
    for user in &mut users {
        assert_eq!(user.send("GET", "/").await, "2");
        assert_eq!(user.send("POST", "/add").await, "3");
    }
}

/// Keeps all cookies, and opens a connection for each request.
struct Browser {
    address: SocketAddr,
    cookies: std::collections::BTreeMap<String, String>,
}

impl Browser {
    fn new(address: SocketAddr) -> Browser {
        Browser { address, cookies: std::collections::BTreeMap::new() }
    }

    async fn send(&mut self, method: &str, path: &str) -> String {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let fields = format!("cookie: {}\r\ncontent-length: 0\r\n", cookies.join("; "));
        let response = Client::connect(self.address).await.request(method, path, &fields, b"").await;
        for cookie in response.fields("set-cookie") {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        assert_eq!(response.status, 200, "{method} {path}: {}", response.text());
        response.text()
    }
}

#[tokio::test]
async fn sigusr2_starts_the_successor_and_without_a_socket_changes_nothing() {
    let (a, place) = (Backend::named("a").await, Place::new());
    let mut running = place.start(&place.text("threads = 1", &pool(&[&a], ""))).await;
    let address: SocketAddr = running.address.parse().unwrap();
    running.signal("USR2").await;
    let started = running.line("started a process that takes over").await;
    let pid = started.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap();
    running.line("another process has taken over").await;
    assert_eq!(running.exit_code().await, Some(0));
    assert_eq!(Client::connect(address).await.get("/").await.status, 200);
    super::support::tool::run("kill", &[pid]).await;
    until("it is gone", async || TcpStream::connect(address).await.is_err()).await;
}

#[tokio::test]
async fn only_processes_of_the_same_user_are_handed_anything() {
    use std::os::unix::fs::PermissionsExt;
    let (a, place) = (Backend::named("a").await, Place::new());
    let mut running = place.start(&place.text("threads = 1", &pool(&[&a], ""))).await;
    let socket = place.path("handover.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Whoever gets past the mode is asked for its user.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let folder = std::path::Path::new(&socket).parent().unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let script = format!(
        "import os, socket\nos.setuid(65534)\ns = socket.socket(socket.AF_UNIX)\ns.connect({socket:?})\ntry:\n    \
         s.sendall(bytes([0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]) + b'{{}}')\n    assert s.recv(1) == b''\nexcept \
         (BrokenPipeError, ConnectionResetError):\n    pass\n"
    );
    let said = super::support::process::command("python3", &["-c", &script]).await;
    assert!(said.status.success(), "{}", super::support::process::printed(&said));
    running.line("refused to hand over to a process of another user").await;
}
