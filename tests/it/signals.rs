//! Signals from operators and other programs: only SIGTERM and SIGINT end a process.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use super::support::process::Running;
use super::support::tool::Folder;
use super::support::{Backend, Reply, soon, until};

fn configuration(listener: SocketAddr, backend: SocketAddr, more: &str) -> String {
    format!(
        "{more}\n[[listeners]]\naddress = \"{listener}\"\n[[pools]]\nname = \"app\"\n[[pools.backends]]\n\
         name = \"a\"\naddress = \"{backend}\"\n"
    )
}

fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

#[tokio::test]
async fn signals_that_do_nothing_are_logged_and_end_no_process() {
    let a = Backend::named("a").await;
    let text = configuration(any(), a.address(), "[log]\naccess = \"off\"");
    let mut running = Running::start(&text, Stdio::null()).await;
    let mut client = running.client().await;
    for (signal, words) in [
        ("HUP", "reloaded: the configuration is unchanged by=\"SIGHUP\""),
        ("USR1", "SIGUSR1: no access log file"),
        ("USR2", "SIGUSR2: nothing has changed"),
        ("HUP", "SIGHUP"),
    ] {
        running.signal(signal).await;
        running.line(words).await;
        assert_eq!(client.get("/").await.status, 200, "{signal}");
    }
    running.signal("PIPE").await;
    assert_eq!(client.get("/").await.status, 200);
    running.signal("TERM").await;
    assert_eq!(running.exit_code().await, Some(0));
}

#[tokio::test]
async fn signals_before_it_listens_and_while_it_stops_end_no_process() {
    let a = Backend::start("a", |seen| if seen.path() == "/hang" { Reply::Hang } else { Reply::ok("a") }).await;
    let taken = TcpListener::bind(any()).unwrap();
    let address = taken.local_addr().unwrap();
    let more = "[server]\nshutdown_grace = \"4s\"\n[log]\naccess = \"off\"";
    let mut running = Running::begin(&configuration(address, a.address(), more), Stdio::null(), &[]);
    running.line("the address is taken").await;
    for signal in ["HUP", "USR1", "USR2"] {
        running.signal(signal).await;
    }
    drop(taken);
    running.line("listening").await;
    running.line("SIGHUP").await;
    running.address = address.to_string();
    let mut client = running.client().await;
    client.send(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await;
    a.has(1).await;
    running.signal("TERM").await;
    running.line("stopping").await;
    for signal in ["HUP", "USR1", "USR2"] {
        running.signal(signal).await;
    }
    running.line("SIGUSR2").await;
    running.line("the grace period is over").await;
    assert_eq!(running.exit_code().await, Some(0));
}

#[tokio::test]
async fn sigusr1_reopens_the_access_log() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let (file, old) = (folder.file("access.log"), folder.file("access.log.1"));
    let text = configuration(any(), a.address(), &format!("[log]\naccess = \"{file}\""));
    let mut running = Running::start(&text, Stdio::null()).await;
    let mut client = running.client().await;
    client.get("/before").await;
    let has = |path: &str, words: &str| std::fs::read_to_string(path).is_ok_and(|text| text.contains(words));
    until("it is written", async || has(&file, "path=/before")).await;
    std::fs::rename(&file, &old).unwrap();
    running.signal("USR1").await;
    running.line("SIGUSR1: reopened the access log").await;
    until("there is a new one", async || std::fs::exists(&file).unwrap()).await;
    client.get("/after").await;
    until("it is written", async || has(&file, "path=/after")).await;
    assert!(!has(&file, "path=/before") && !has(&old, "path=/after"));
    soon("the end", running.process.kill()).await.unwrap();
}
