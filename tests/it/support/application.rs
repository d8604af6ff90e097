//! Servers of an application that uses a middleware for session copies, each in its own process.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::process::command;
use super::soon;

/// The secret that all servers share.
pub const SECRET: &str = "a secret that all servers share, long enough";

/// The packages that the applications in Node need.
pub const NODE_MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/node_modules");

/// A server. Killed when dropped.
pub struct Application {
    pub address: SocketAddr,
    _process: Child,
    // A server that writes on may not meet a closed pipe.
    _out: BufReader<Box<dyn tokio::io::AsyncRead + Unpin + Send>>,
}

impl Application {
    /// Starts a server, which says `http://ADDRESS` or `ADDRESS` on a line of its standard output or error.
    pub async fn start(words: &[&str], environment: &[(&str, &str)]) -> Application {
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .envs(environment.iter().copied())
            .env("SESSION_SECRET", SECRET)
            .env("NODE_PATH", NODE_MODULES);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{words:?}: {error}; `tests/run` installs it"));
        let out: Box<dyn tokio::io::AsyncRead + Unpin + Send> = Box::new(process.stdout.take().unwrap());
        let mut out = BufReader::new(out);
        let mut line = String::new();
        soon("the server's line", out.read_line(&mut line)).await.unwrap();
        let address = line.trim().rsplit('/').next().and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?} of {words:?}"));
        Application { address, _process: process, _out: out }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Runs `integrations/check.py` against two servers, with more arguments.
pub async fn check(a: &Application, b: &Application, more: &[&str]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/integrations/check.py");
    let (a, b) = (a.url(), b.url());
    command("python3", &[&[script, &a, &b], more].concat()).await
}
