//! The audit lines: who has changed what, from where, and the values before and after.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::support::process::Running;
use super::support::tool::{Folder, run};
use super::support::{Backend, Client, soon};

fn file(admin: &str, backend: &Backend, lines: &str) -> String {
    format!(
        "[server]\nthreads = 1\n[log]\naccess = \"off\"\nlevel = \"warn\"\nformat = \"json\"\n[admin]\n{admin}\n\
         [[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n[[pools.backends]]\nname = \"a\"\n\
         address = \"{}\"\n{lines}\n",
        backend.address()
    )
}

/// Waits for the next audit line.
async fn audit(running: &mut Running) -> [String; 6] {
    loop {
        let line = running.next_line().await.unwrap();
        let json: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if json["target"] == "linchpin::audit" {
            let value = |name: &str| json["fields"][name].as_str().unwrap().to_owned();
            return ["by", "who", "from", "what", "before", "after"].map(value);
        }
    }
}

/// A port that is free at the moment, on an address of this test.
fn free_address(ip: &str) -> String {
    std::net::TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().to_string()
}

/// Starts one whose listeners say nothing, since the level is `warn`.
async fn start(path: &str, text: &str) -> Running {
    let level = text.replace("level = \"warn\"", "level = \"info\"").replace("format = \"json\"\n", "");
    let mut running = Running::start_with(path, &level, Stdio::null()).await;
    std::fs::write(path, text).unwrap();
    running.signal("HUP").await;
    running.line("\"what\":\"log.level\"").await;
    running
}

#[tokio::test]
async fn each_change_has_a_line_that_says_who_and_from_where_whatever_the_level() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let token = folder.write("token", b"s3cret-token");
    run("chmod", &["600", &token]).await;
    let (path, address) = (folder.file("linchpin.toml"), free_address("127.77.2.1"));
    let admin = format!("address = \"{address}\"\ntoken_file = \"{token}\"");
    let mut running = start(&path, &file(&admin, &a, "")).await;

    let mut client = Client::connect(address.parse().unwrap()).await;
    let local = client.local_address().to_string();
    let weight = async |client: &mut Client, weight: u32| {
        let body = format!("{{\"weight\":{weight}}}");
        let fields = "authorization: Bearer s3cret-token\r\n";
        let path = "/api/v1/pools/app/backends/a/weight";
        client.request("POST", path, fields, body.as_bytes()).await.status
    };
    assert_eq!(weight(&mut client, 7).await, 200);
    let expected = ["api", "token", &local, "pools.app.backends.a.weight", "1", "7"];
    assert_eq!(audit(&mut running).await, expected);
    // What is set already is no change.
    assert_eq!(weight(&mut client, 7).await, 200);

    std::fs::write(&path, file(&admin, &a, "weight = 3\nbackup = true")).unwrap();
    running.signal("HUP").await;
    let (who, from) = ("anybody", "a signal");
    for [what, before, after] in [
        ["configuration", "generation 2", "generation 3"],
        ["pools.app.backends.a.backup", "null", "true"],
        ["pools.app.backends.a.weight", "7", "3"],
    ] {
        assert_eq!(audit(&mut running).await, ["SIGHUP", who, from, what, before, after]);
    }
    assert_eq!(weight(&mut client, 1).await, 200);
    assert_eq!(audit(&mut running).await[4..], ["3", "1"]);
    // A secret.
    std::fs::write(&token, "another-s3cret").unwrap();
    running.signal("HUP").await;
    assert_eq!(audit(&mut running).await[4..], ["generation 3", "generation 4"]);
    let content = ["admin.token_file", "not shown", "the content of the file that it names changed"];
    assert_eq!(audit(&mut running).await[3..], content);
}

#[tokio::test]
async fn on_a_unix_socket_the_line_has_user_and_process() {
    let a = Backend::named("a").await;
    let folder = Folder::new();
    let (path, socket) = (folder.file("linchpin.toml"), folder.file("admin.sock"));
    let mut running = start(&path, &file(&format!("address = \"unix:{socket}\""), &a, "")).await;
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    let head = "POST /api/v1/pools/app/backends/a/state HTTP/1.0\r\ncontent-length: 17\r\n\r\n{\"state\":\"drain\"}";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    soon("the response", stream.read_to_string(&mut response)).await.unwrap();
    assert!(response.starts_with("HTTP/1.0 200 "), "{response}");
    let user = rustix::process::getuid().as_raw();
    let from = format!("unix uid={user} pid={}", std::process::id());
    let expected = ["api", "anybody", &from, "pools.app.backends.a.state", "ready", "drain"];
    assert_eq!(audit(&mut running).await, expected);
}
