//! Clients and servers in Node, with third-party HTTP/2, WebSocket, Socket.IO and gRPC.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::soon;
use super::tool::run;

const SERVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/serve.mjs");
const ASK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/ask.mjs");

/// A backend of `tests/node/serve.mjs`. Ends when dropped, and with this process in any case.
pub struct NodeBackend {
    pub name: String,
    pub address: SocketAddr,
    _process: Child,
}

impl NodeBackend {
    pub async fn start(kind: &str, name: &str) -> NodeBackend {
        let mut command = Command::new("node");
        command.args([SERVE, kind, name]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("node, which `tests/run` looks for");
        let mut line = String::new();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        soon("the backend's line", out.read_line(&mut line)).await.unwrap();
        let address = line.trim().parse();
        let address = address.unwrap_or_else(|_| panic!("no address in {line:?}; `tests/run` installs what it needs"));
        NodeBackend { name: name.into(), address, _process: process }
    }
}

/// Runs a scenario of `tests/node/ask.mjs`, and fails if the scenario fails.
pub async fn ask(what: &str, address: SocketAddr) {
    ask_with(what, &address.to_string(), &[]).await;
}

/// Runs a scenario at an address by name, with more environment variables; `TLS` makes it use TLS.
pub async fn ask_with(what: &str, address: &str, environment: &[(&str, &str)]) {
    let environment: Vec<_> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let environment = environment.iter().map(String::as_str);
    let arguments: Vec<_> = environment.chain(["node", ASK, what, address]).collect();
    let output = run("env", &arguments).await;
    assert_eq!(output.out.lines().last(), Some("ok"), "{output:?}");
}
