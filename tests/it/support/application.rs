//! Servers of an application that uses a middleware for session copies, each in its own process.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::PATIENCE;

/// The secret that all servers share.
pub const SECRET: &str = "a secret that all servers share, long enough";

/// The packages that the applications in Node need.
pub const NODE_MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/node_modules");

/// Runs a command until its input ends, as it does however the test ends, and then ends all that the command has started.
const UNTIL_INPUT_ENDS: &str = r#"exec 3>&1 >&-; "$@" >&3 2>&1 3>&- & exec 3>&-; cat >/dev/null; kill -9 0"#;

/// A server, with the processes that it starts. Killed when dropped.
pub struct Application {
    pub address: SocketAddr,
    process: Child,
}

impl Application {
    /// Starts a server, which prints its address on 127.0.0.1.
    pub async fn start(words: &[&str], environment: &[(&str, &str)]) -> Application {
        let started = Application::try_start(words, environment).await;
        started
            .unwrap_or_else(|output| panic!("no address from {words:?}; `tests/run` installs what it needs:\n{output}"))
    }

    /// Starts a server, or returns what it has printed if it ends before it has an address.
    pub async fn try_start(words: &[&str], environment: &[(&str, &str)]) -> Result<Application, String> {
        let mut command = Command::new("sh");
        command.args(["-c", UNTIL_INPUT_ENDS, "sh"]).args(words).process_group(0);
        command.envs(environment.iter().copied()).env("SESSION_SECRET", SECRET).env("NODE_PATH", NODE_MODULES);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut printed = String::new();
        // A Java virtual machine or Node takes seconds to start, and many times that beside others.
        let found = tokio::time::timeout(6 * PATIENCE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(address) = address(&line) {
                    return Some(address);
                }
                printed += &line;
                printed.push('\n');
            }
            None
        });
        let found = found.await.unwrap_or_else(|_| panic!("waited in vain: the address of {words:?}"));
        // A full pipe would block the server.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let application = |address| Application { address, process };
        found.map(application).ok_or(printed)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Application {
    /// kill -9, for all of its processes.
    fn drop(&mut self) {
        if let Some(id) = self.process.id() {
            let _ = std::process::Command::new("kill").args(["-9", "--", &format!("-{id}")]).status();
        }
    }
}

/// Returns the address in a line such as `Server (http://127.0.0.1:8080) started`.
fn address(line: &str) -> Option<SocketAddr> {
    let rest = &line[line.find("127.0.0.1:")?..];
    rest.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').next()?.parse().ok()
}

/// Runs `integrations/check.py` against two servers, with more arguments.
pub async fn check(a: &Application, b: &Application, more: &[&str]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/integrations/check.py");
    let (a, b) = (a.url(), b.url());
    suite("python3", &[&[script, &a, &b], more].concat()).await
}

/// Runs a program that makes many checks, for which a busy machine needs longer than for one.
pub async fn suite(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("NODE_PATH", NODE_MODULES).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(6 * PATIENCE, command.output()).await;
    output.unwrap_or_else(|_| panic!("waited in vain: the end of {program} {arguments:?}")).unwrap()
}
