//! Pools of tens of thousands of backends: checked, started and discovered in seconds, within bounded memory.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::support::process::Linchpin;
use super::support::tool::{Folder, run};
use super::support::{Client, Proxy};

const MANY: usize = 50_000;

/// Returns the name and address of a backend; nothing listens there.
fn backend(n: usize) -> (String, String) {
    (format!("backend-{n}"), format!("127.{}.{}.{}:9", 1 + n / 62_500, n / 250 % 250, 1 + n % 250))
}

const TOP: &str = "[server]\nthreads = 2\n[log]\naccess = \"off\"\nlevel = \"info,linchpin::health=off\"\n\
                   [[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n\
                   [pools.health]\ntype = \"tcp\"\ninterval = \"60s\"\n";

/// Returns a file of many backends, with or without a failover list each.
fn many(with_failover: bool) -> String {
    let mut text = TOP.to_owned();
    for n in 0..MANY {
        let (name, address) = backend(n);
        let (next, other) = (backend((n + 1) % MANY).0, backend((n + 777) % MANY).0);
        let _ = writeln!(text, "[[pools.backends]]\nname = \"{name}\"\naddress = \"{address}\"");
        if with_failover {
            let _ = writeln!(text, "failover = [\"{next}\", \"{other}\"]");
        }
    }
    text
}

/// Waits longer than other tests do: each check of all backends is slow on a busy machine. Code that
/// compares each backend with all others would take a quarter of an hour.
async fn patiently(mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < end, "a minute was not enough");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn fifty_thousand_backends_are_checked_and_started_in_seconds_and_within_a_bounded_memory() {
    let folder = Folder::new();
    let file = folder.write("linchpin.toml", many(true).as_bytes());
    // Both have the usual time limit of a program. Quadratic code would take minutes.
    let output = run(env!("CARGO_BIN_EXE_linchpin"), &["check", "-c", &file]).await;
    assert!(output.out.contains("OK") || output.err.contains("OK"), "{output:?}");
    let linchpin = Linchpin::start(&many(false), None).await;
    // All are down: a request still gets its response soon.
    let response = linchpin.client().await.get("/").await;
    assert!(matches!(response.status, 502 | 503), "{}", response.head);
    // docs/discovery.md has a lower figure, for two threads that have served no session yet.
    let each = resident(linchpin.id()) / MANY as u64;
    assert!(each < 6 * 1024, "{each} bytes a backend");
}

#[tokio::test]
async fn a_file_of_fifty_thousand_backends_and_its_changes_apply_in_seconds() {
    let folder = Folder::new();
    let lines = |from: usize| -> String {
        let line = |n| {
            let (name, address) = backend(n);
            format!("{name} {address}\n")
        };
        (from..from + MANY).map(line).collect()
    };
    let replace = |text: String| {
        let new = folder.write("new", text.as_bytes());
        std::fs::rename(new, folder.file("backends")).unwrap();
    };
    replace(lines(0));
    let source = format!("file = {:?}\nmax_backends = 100000\ndrain = \"1s\"", folder.file("backends"));
    let proxy = Proxy::builder().discover(&source).start();
    patiently(async || proxy.pool().backends().len() == MANY).await;
    // Half of them disappear, and as many others appear.
    replace(lines(MANY / 2));
    patiently(async || proxy.pool().position(&backend(MANY + 7).0).is_some()).await;
    patiently(async || proxy.pool().position(&backend(7).0).is_none()).await;
    assert_eq!(proxy.pool().backends().len(), MANY);
    let response = Client::connect(proxy.address()).await.get("/").await;
    assert!(matches!(response.status, 502 | 503), "{}", response.head);
}
