//! Logs that nothing reads or that can't be written: no request waits, and losses are counted and reported.

use std::net::SocketAddr;
use std::process::Stdio;

use super::support::process::Running;
use super::support::tool::{Folder, run};
use super::support::{Backend, Client, Reply, soon, until};

fn configuration(backend: SocketAddr, more: &str) -> String {
    format!(
        "[server]\nthreads = 1\n{more}\n[admin]\naddress = \"127.0.0.1:0\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\naddress = \"{backend}\"\n"
    )
}

/// Returns the value of a metric.
async fn metric(admin: SocketAddr, name: &str) -> u64 {
    let mut client = Client::connect(admin).await;
    client.send(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let metrics = client.response().await.text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {metrics}"))
}

#[tokio::test]
async fn no_request_waits_for_standard_error_and_lost_messages_are_reported_once_it_is_read_again() {
    let a = Backend::start("a", |seen| if seen.path() == "/close" { Reply::Close } else { Reply::ok("a") }).await;
    let more = "[log]\nlevel = \"debug\"\naccess = \"off\"";
    let mut running = Running::start(&configuration(a.address(), more), Stdio::null()).await;
    let mut client = running.client().await;
    // Nothing reads its messages from here on: the pipe holds 64 KiB, and the queue a thousand messages.
    for _ in 0..3000 {
        client.get("/close").await;
    }
    assert_eq!(client.get("/").await.status, 200);
    let line = running.line("messages were lost").await;
    assert!(line.contains("messages=") && line.contains("standard error did not accept them"), "{line}");
    // A blocked standard error doesn't keep the process from ending.
    for _ in 0..3000 {
        client.get("/close").await;
    }
    let (mut process, _lines) = running.without_lines_read();
    run("kill", &["-TERM", &process.id().unwrap().to_string()]).await;
    assert_eq!(soon("the end of the process", process.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_full_disk_leaves_whole_lines_in_the_log_and_all_others_are_counted() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let (file, old) = (folder.file("access.log"), folder.file("access.log.1"));
    let more = format!("[log]\nformat = \"json\"\naccess = \"{file}\"");
    // A limit on the size of files behaves like a full disk: the last write is partial, and all further ones fail.
    let limit = ["prlimit", "--fsize=20000:20000"];
    let mut running = Running::begin(&configuration(a.address(), &more), Stdio::null(), &limit);
    let address = async |running: &mut Running, words: &str| {
        let line = running.line(words).await;
        let (_, rest) = line.split_once("\"address\":\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    running.address = address(&mut running, "\"listening\"").await;
    let admin = address(&mut running, "\"admin\"").await.parse().unwrap();
    let mut client = running.client().await;
    const REQUESTS: u64 = 200;
    for number in 0..REQUESTS {
        client.get(&format!("/{number}/{}", "x".repeat(usize::try_from(number).unwrap()))).await;
    }
    let dropped = async || metric(admin, "linchpin_access_log_dropped_total").await;
    until("some are lost", async || dropped().await > 0).await;
    // While the file is written, it may end with a part of a line, which is cut off before the lost lines are counted.
    let written = async || std::fs::read_to_string(&file).unwrap().matches('\n').count() as u64;
    until("each is written or counted", async || written().await + dropped().await == REQUESTS).await;
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{text}");
    let line = running.line("records of the access log are lost").await;
    assert!(line.contains("File too large"), "{line}");
    // Once there is space again, the log continues.
    std::fs::rename(&file, &old).unwrap();
    running.signal("USR1").await;
    running.line("reopened the access log").await;
    client.get("/again").await;
    until("it is written", async || std::fs::read_to_string(&file).is_ok_and(|text| text.contains("/again"))).await;
    soon("the end", running.process.kill()).await.unwrap();
}
