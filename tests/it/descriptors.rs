//! A process that is short of file descriptors: its backends stay healthy, and its clients are served.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::Command;

use super::support::frames::{END_STREAM, Frames, HEADERS};
use super::support::process::Running;
use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy, Reply, soon, until};

const FEW: [&str; 2] = ["prlimit", "--nofile=80:80"];

fn configuration(backend: SocketAddr, more: &str) -> String {
    format!(
        "[server]\nthreads = 2\n[log]\naccess = \"off\"\n[admin]\naddress = \"127.0.0.1:0\"\n[[listeners]]\n\
         address = \"127.0.0.1:0\"\n{more}\n[[pools]]\nname = \"app\"\n[pools.health]\ntype = \"tcp\"\n\
         interval = \"100ms\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{backend}\"\n"
    )
}

/// Starts a process with few descriptors; returns it with its admin listener.
async fn start(configuration: &str) -> (Running, SocketAddr) {
    let mut running = Running::begin(configuration, Stdio::null(), &FEW);
    let mut address = async |words: &str| running.line(words).await.rsplit('=').next().unwrap().to_owned();
    let (own, admin) = (address("listening address=").await, address("admin address=").await);
    running.address = own;
    (running, admin.parse().unwrap())
}

/// Returns the health of the only backend, read over a new connection to the admin listener.
async fn health(admin: SocketAddr) -> String {
    let mut client = Client::connect(admin).await;
    client.send(b"GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let status: serde_json::Value = serde_json::from_str(&client.response().await.text()).unwrap();
    status["pools"][0]["backends"][0]["health"].as_str().unwrap().to_owned()
}

/// A backend that never responds to `/hang`.
async fn backend() -> Backend {
    Backend::start("a", |seen| if seen.path() == "/hang" { Reply::Hang } else { Reply::ok("a") }).await
}

#[tokio::test]
async fn silent_clients_never_use_the_descriptors_that_backends_and_probes_need() {
    let a = backend().await;
    let (running, admin) = start(&configuration(a.address(), "")).await;
    let mut client = running.client().await;
    assert_eq!(client.get("/").await.status, 200);
    let mut silent = Vec::new();
    for _ in 0..150 {
        silent.push(TcpStream::connect(&running.address).await.unwrap());
    }
    // The kernel hands over silent connections after a second.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(health(admin).await, "up");
        assert_eq!(client.get("/").await.status, 200);
    }
    // A new client is served when one of them has left.
    silent.clear();
    let mut late = running.client().await;
    assert_eq!(late.get("/").await.status, 200);
}

#[tokio::test]
async fn requests_without_a_free_descriptor_get_503_which_is_no_failure_of_their_backend() {
    let a = backend().await;
    let (mut running, admin) = start(&configuration(a.address(), "http2 = true")).await;
    let mut client = Frames::connect(running.address.parse().unwrap()).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/hang")];
    for stream in 0..80 {
        client.fields(END_STREAM, 2 * stream + 1, &fields).await;
    }
    // Requests without a descriptor get a response; the others wait.
    client.await_kind(&[HEADERS]).await;
    let line = running.line("cannot connect to a backend").await;
    assert!(line.contains("no backend is to blame") && line.contains("LimitNOFILE"), "{line}");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(health(admin).await, "up");
    }
    drop(client);
    until("it serves again", async || running.client().await.get("/").await.status == 200).await;
    // The first is logged at once; the next line counts the others.
    running.signal("TERM").await;
    let mut logged = 0;
    while let Some(line) = running.next_line().await {
        logged += usize::from(line.contains("no backend is to blame"));
    }
    assert!(logged <= 3, "{logged} lines");
}

#[tokio::test]
async fn check_warns_of_settings_that_exceed_the_limit_of_descriptors() {
    let a = backend().await;
    let folder = Folder::new();
    let text = configuration(a.address(), "").replace("threads = 2", "threads = 2\nmax_connections = 5000");
    let file = folder.write("linchpin.toml", text.as_bytes());
    let mut command = Command::new(FEW[0]);
    command.args([FEW[1], env!("CARGO_BIN_EXE_linchpin"), "check", "-c", &file]).kill_on_drop(true);
    let done = soon("the end of the check", command.output()).await.unwrap();
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(0), "{printed}");
    assert!(
        printed.contains("`max_connections` = 5000 is too high: this process may open 80 file descriptors"),
        "{printed}"
    );
}

#[tokio::test]
async fn idle_connections_to_one_backend_give_way_to_requests_for_another() {
    let (a, b) = (backend().await, backend().await);
    let routes = "http2 = true\n[[routes]]\npool = \"app\"\n[[routes]]\npath_prefix = \"/hang\"\npool = \"other\"";
    let other =
        format!("[[pools]]\nname = \"other\"\n[[pools.backends]]\nname = \"b\"\naddress = \"{}\"\n", b.address());
    let (running, _) = start(&(configuration(a.address(), routes) + &other)).await;
    let mut client = Frames::connect(running.address.parse().unwrap()).await;
    let fields = |path| [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", path)];
    for stream in 0..20 {
        client.fields(END_STREAM, 2 * stream + 1, &fields("/")).await;
    }
    for _ in 0..20 {
        assert_eq!(client.await_kind(&[HEADERS]).await.0, HEADERS);
    }
    for stream in 20..40 {
        client.fields(END_STREAM, 2 * stream + 1, &fields("/hang")).await;
    }
    b.has(20).await;
}

#[tokio::test]
async fn connections_are_counted_over_all_threads_however_they_are_spread() {
    let a = backend().await;
    let proxy = Proxy::builder().server("threads = 2\nmax_connections = 3").backend(&a, "").start();
    for _ in 0..10 {
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = proxy.client().await;
            assert_eq!(client.get("/").await.status, 200);
            clients.push(client);
        }
        let mut fourth = proxy.client().await;
        fourth.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let waits = tokio::time::timeout(Duration::from_millis(50), fourth.try_response("GET")).await;
        assert!(waits.is_err(), "one connection is too many");
        clients.pop();
        assert_eq!(fourth.response().await.status, 200);
    }
}

#[tokio::test]
async fn no_descriptor_stays_open_after_traffic_of_every_kind() {
    let a = backend().await;
    let text =
        configuration(a.address(), "").replace("[[pools.b", "[pools.upstream]\nidle_timeout = \"500ms\"\n[[pools.b");
    let running = Running::start(&text, Stdio::null()).await;
    let open = || std::fs::read_dir(format!("/proc/{}/fd", running.process.id().unwrap())).unwrap().count();
    assert_eq!(running.client().await.get("/").await.status, 200);
    // Each probe opens a descriptor for a moment.
    let least = async || {
        let mut least = usize::MAX;
        for _ in 0..20 {
            least = least.min(open());
            tokio::task::yield_now().await;
        }
        least
    };
    until("the backend to be idle", async || a.open() <= 1).await;
    let before = least().await;
    for round in 0..60 {
        let mut client = running.client().await;
        match round % 4 {
            0 => assert_eq!(client.get("/").await.status, 200),
            1 => client.send(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await,
            2 => client.send(b"GET / HTTP/1.1\r\nho").await,
            _ => client.send(b"nonsense\r\n\r\n").await,
        }
        if round % 8 > 3 {
            client.reset();
        }
    }
    until("all are closed", async || least().await <= before).await;
}
