//! `linchpin` as an operator runs it: real processes, signals, exit codes, and what they print.

use std::net::SocketAddr;
use std::process::Stdio;

use linchpin::affinity::Pin;
use tokio::process::Command;

use super::support::keys::{now, pin};
use super::support::process::{BINARY, Running, linchpin};
use super::support::repository::{files, path, read};
use super::support::tool::{DemoBackend, Folder};
use super::support::{Backend, Client, Keys, Proxy, Reply, soon, until};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn configuration(backend: &Backend, more: &str) -> String {
    before(backend.address(), more)
}

fn before(backend: SocketAddr, more: &str) -> String {
    format!(
        "{more}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\n\
         address = \"{backend}\"\n"
    )
}

/// Sends a request to which its backend doesn't respond yet, and waits until the backend has it.
async fn in_flight(running: &Running, backend: &Backend) -> Client {
    let mut client = running.client().await;
    client.send(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await;
    backend.has(1).await;
    client
}

/// A backend that never responds to `/hang`, and at once to all other paths.
async fn backend() -> Backend {
    Backend::start("a", |seen| if seen.path() == "/hang" { Reply::Hang } else { Reply::ok("a") }).await
}

#[tokio::test]
async fn at_a_signal_requests_in_flight_end_and_no_connection_is_accepted() {
    for signal in ["TERM", "INT"] {
        let a = DemoBackend::start("a").await;
        let mut running = Running::start(&before(a.address, ""), Stdio::null()).await;
        let mut client = running.client().await;
        client.send(b"GET /slow?ms=1500 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        until("it is in flight", async || {
            // The proxy has connected to the backend: it has forwarded the request.
            let sockets = std::fs::read_to_string(format!("/proc/{}/net/tcp", running.process.id().unwrap()));
            sockets.is_ok_and(|table| table.contains(&format!(":{:04X} 01", a.address.port())))
        })
        .await;
        let address = running.address.clone();
        running.signal(signal).await;
        running.line("stopping").await;
        let response = client.response().await;
        assert_eq!((response.status, response.text().contains("1500")), (200, true));
        assert_eq!(running.exit_code().await, Some(0), "{signal}");
        assert!(tokio::net::TcpStream::connect(&address).await.is_err());
    }
}

#[tokio::test]
async fn a_request_that_exceeds_the_grace_period_is_cut_off_and_the_exit_code_is_0() {
    let a = backend().await;
    let mut running = Running::start(&configuration(&a, "[server]\nshutdown_grace = \"200ms\""), Stdio::null()).await;
    let mut client = in_flight(&running, &a).await;
    running.signal("TERM").await;
    running.line("the grace period is over").await;
    assert_eq!(running.exit_code().await, Some(0));
    assert_eq!(client.response().await.status, 502, "the client gets a response");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let a = backend().await;
    let mut running = Running::start(&configuration(&a, "[server]\nshutdown_grace = \"10m\""), Stdio::null()).await;
    let _client = in_flight(&running, &a).await;
    running.signal("TERM").await;
    running.line("stopping").await;
    running.signal("TERM").await;
    running.line("stopped at once").await;
    assert_eq!(running.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_configuration_with_errors_does_not_start_and_all_errors_are_reported_together() {
    let folder = Folder::new();
    let file =
        folder.write("bad.toml", b"[[listeners]]\naddress = \"127.0.0.1\"\n[[pools]]\nname = \"a b\"\nbalanse = 1\n");
    for command in ["run", "check"] {
        let done = linchpin(&[command, "-c", &file]).await;
        assert_eq!(done.status.code(), Some(1), "{command}");
        let printed = text(&done.stdout) + &text(&done.stderr);
        for finding in [
            "bad.toml:2:11: error: `address` must be",
            "bad.toml:4:8: error: `name` must be",
            "bad.toml:5:1: error: unknown key `balanse`",
            "did you mean `balance`?",
        ] {
            assert!(printed.contains(finding), "{command}: {printed}");
        }
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let a = Backend::named("a").await;
    let text_of = configuration(&a, "").replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
    let done = linchpin(&["run", "-c", &folder.write("taken.toml", text_of.as_bytes())]).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("another program uses this port"), "{}", text(&done.stderr));
}

#[tokio::test]
async fn exit_codes_are_0_for_success_1_for_failure_2_for_wrong_usage() {
    let folder = Folder::new();
    let a = Backend::named("a").await;
    let good = folder.write("good.toml", configuration(&a, "").as_bytes());
    for (arguments, code) in [
        (&["check", "-c", &good][..], 0),
        (&["keygen"], 0),
        (&["--version"], 0),
        (&["check", "-c", "/nowhere.toml"], 1),
        (&["run", "-c", "/nowhere.toml"], 1),
        (&["explain", "-c", &good, "garbage"], 1),
        (&["import", "/nowhere.cfg"], 1),
        (&["frobnicate"], 2),
        (&["run", "--frobnicate"], 2),
        (&[], 2),
    ] {
        assert_eq!(linchpin(arguments).await.status.code(), Some(code), "{arguments:?}");
    }
    let (one, other) = (linchpin(&["keygen"]).await.stdout, linchpin(&["keygen"]).await.stdout);
    assert!(one != other && one.len() == 45, "32 bytes in base64 and a line feed");
}

#[tokio::test]
async fn every_file_in_config_starts_and_serves() {
    for file in files("config") {
        let a = Backend::named("a").await;
        let whole = read(&file);
        let mut text = whole.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9090", "127.0.0.1:0");
        for port in ["9001", "9002", "9003"] {
            let own = if port == "9001" { a.address() } else { Backend::named("x").await.kill().await };
            text = text.replace(&format!("127.0.0.1:{port}"), &own.to_string());
        }
        let running = Running::start(&text, Stdio::null()).await;
        let mut client = running.client().await;
        let response = client.get("/").await;
        assert_eq!((response.status, response.text()), (200, "a".into()), "{file}");
        assert!(path(&file).exists() && response.pin().is_some());
    }
}

#[tokio::test]
async fn the_access_log_goes_to_standard_output_and_has_no_secret_in_it() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let file = folder.file("out");
    let out = std::fs::File::create(&file).unwrap();
    let mut running = Running::start(&configuration(&a, "[log]\naccess = \"stdout\""), out.into()).await;
    let mut client = running.client().await;
    let first = client.get("/shop?token=secret").await;
    let fields = "authorization: Bearer secret\r\ncookie: session=secret\r\n";
    assert_eq!(client.request("GET", "/shop", fields, b"").await.status, 200);
    running.signal("TERM").await;
    assert_eq!(running.exit_code().await, Some(0));
    let log = std::fs::read_to_string(&file).unwrap();
    assert_eq!(log.lines().count(), 2, "{log}");
    let pin = first.pin().unwrap();
    let token = pin.split_once('=').unwrap().1;
    assert!(!log.contains("secret") && !log.contains(token), "{log}");
    for words in ["GET host=test path=/shop status=200", "pool=app backend=a attempts=1 verdict=new", "verdict=hit"] {
        assert!(log.contains(words), "{log}");
    }
}

#[tokio::test]
async fn explain_says_what_a_token_or_session_id_holds_and_never_its_key() {
    let [a, b, _] = Backend::three().await;
    let keys = Keys::new(&[1]);
    let of = |persistence: &str| {
        Proxy::builder().top(&keys.tables()).table("persistence", persistence).backend(&a, "").backend(&b, "")
    };
    let folder = Folder::new();
    let proxy = of("idle_timeout = \"30m\"").start();
    let file = folder.write("sealed.toml", of("idle_timeout = \"30m\"").text().as_bytes());
    let cookie = keys.cookie(&pin(&proxy, "b", 7));
    for token in [cookie.as_str(), cookie.split_once('=').unwrap().1] {
        let done = linchpin(&["explain", "-c", &file, token]).await;
        let printed = text(&done.stdout);
        assert_eq!(done.status.code(), Some(0), "{printed}");
        for words in [
            "session    0000000000000007",
            "key        1",
            &format!("b at {}", b.address()),
            "verdict    hit",
            "limit 30m",
        ] {
            assert!(printed.contains(words), "{words}: {printed}");
        }
        assert!(!printed.contains("AQEBAQ"), "the key itself");
    }
    let old = Pin { last_seen: now() - 1801, ..pin(&proxy, "a", 7) };
    let done = linchpin(&["explain", "-c", &file, &keys.cookie(&old)]).await;
    assert!(text(&done.stdout).contains("new (idle_expired)"), "{}", text(&done.stdout));

    let route =
        folder.write("route.toml", of("type = \"route\"\nroute = { cookie = \"JSESSIONID\" }").text().as_bytes());
    let done = linchpin(&["explain", "-c", &route, "JSESSIONID=5A0F.a"]).await;
    assert!(text(&done.stdout).contains(&format!("a at {}", a.address())), "{}", text(&done.stdout));
}

#[tokio::test]
async fn log_lines_that_nothing_reads_are_counted_and_delay_no_request() {
    let a = Backend::named("a").await;
    let more = "[log]\naccess = \"stdout\"\n[admin]\naddress = \"127.0.0.1:0\"";
    // Standard output is a pipe that nothing reads.
    let mut running = Running::start(&configuration(&a, more), Stdio::piped()).await;
    let admin = running.line("admin address=").await.rsplit('=').next().unwrap().to_owned();
    let dropped = async || {
        let mut client = Client::connect(admin.parse().unwrap()).await;
        client.send(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        let metrics = client.response().await.text();
        let line = metrics.lines().find(|line| line.starts_with("linchpin_access_log_dropped"));
        line.and_then(|line| line.rsplit(' ').next()).and_then(|count| count.parse::<f64>().ok()).unwrap_or_default()
    };
    let long = "x".repeat(4000);
    let mut client = running.client().await;
    until("lines are dropped", async || {
        for _ in 0..200 {
            assert_eq!(client.get(&format!("/{long}")).await.status, 200);
        }
        dropped().await > 0.0
    })
    .await;
}

#[tokio::test]
async fn it_stops_within_the_grace_period_though_nothing_reads_its_log() {
    let a = Backend::named("a").await;
    let more = "[server]\nshutdown_grace = \"1s\"\n[log]\naccess = \"stdout\"";
    // Standard output is a pipe that nothing reads.
    let mut running = Running::start(&configuration(&a, more), Stdio::piped()).await;
    let long = "x".repeat(4000);
    let mut client = running.client().await;
    for _ in 0..100 {
        assert_eq!(client.get(&format!("/{long}")).await.status, 200);
    }
    running.signal("TERM").await;
    running.line("stopping").await;
    assert_eq!(running.exit_code().await, Some(0));
}

#[tokio::test]
async fn it_serves_and_stops_with_0_though_nothing_reads_its_messages() {
    let a = Backend::start("a", |seen| if seen.path() == "/close" { Reply::Close } else { Reply::ok("a") }).await;
    let more = "[log]\nlevel = \"debug\"\naccess = \"stdout\"";
    let mut running = Running::start(&configuration(&a, more), Stdio::piped()).await;
    running.process.stdout = None;
    let (mut process, address) = running.without_lines();
    let mut client = Client::connect(address.parse().unwrap()).await;
    for _ in 0..3 {
        assert_eq!(client.get("/close").await.status, 502);
        assert_eq!(client.get("/").await.status, 200);
    }
    let pid = process.id().unwrap().to_string();
    super::support::tool::run("kill", &["-TERM", &pid]).await;
    assert_eq!(soon("the end of the process", process.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn warnings_and_errors_that_nothing_reads_change_no_exit_code() {
    let folder = Folder::new();
    let a = Backend::named("a").await;
    let good = folder.write("good.toml", configuration(&a, "").as_bytes());
    let bad = folder.write("bad.toml", b"nonsense");
    for (arguments, code) in
        [(["check", "-c", &good].as_slice(), 0), (&["run", "-c", &bad], 1), (&["explain", "-c", &good, "garbage"], 1)]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(BINARY);
        command.args(arguments).stdout(writer.try_clone().unwrap()).stderr(writer).kill_on_drop(true);
        let status = soon("the end of the command", command.status()).await.unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}
