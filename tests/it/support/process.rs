//! Real processes: Linchpins as an operator starts them, and a Redis.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::tool::{Folder, run};
use super::{Client, soon, until};

/// A `linchpin run`; killed when dropped.
pub struct Linchpin {
    /// Where its first listener is.
    pub address: SocketAddr,
    process: Child,
    _folder: Folder,
}

impl Linchpin {
    /// Starts one with this configuration, which has a listener on port 0. With `clock`, such as
    /// `+60s`, its wall clock is that much off.
    pub async fn start(text: &str, clock: Option<&str>) -> Linchpin {
        let folder = Folder::new();
        let file = folder.write("linchpin.toml", text.as_bytes());
        let mut command = Command::new(env!("CARGO_BIN_EXE_linchpin"));
        if let Some(clock) = clock {
            // Not by the `faketime` command, which would be the one that is killed. Time limits run on
            // the monotonic clock, and are not what is tested.
            let library = run("sh", &["-c", "ls /usr/lib/*/faketime/libfaketime.so.1"]).await.out;
            command.env("LD_PRELOAD", library.trim()).env("FAKETIME", clock);
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command.args(["run", "-c", &file]).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = soon("the address", async {
            loop {
                let line = lines.next_line().await.unwrap().expect("a line that says the address");
                if let Some((_, address)) = line.split_once("listening address=") {
                    return address.trim().parse().unwrap();
                }
            }
        })
        .await;
        // Nobody is to be blocked by a pipe that nobody reads.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Linchpin { address, process, _folder: folder }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Ends it at once.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}

/// A Redis that keeps nothing on disk, on a Unix socket; killed when dropped.
pub struct Redis {
    folder: Folder,
    process: Option<Child>,
}

impl Redis {
    pub async fn start() -> Redis {
        let mut redis = Redis { folder: Folder::new(), process: None };
        redis.restart().await;
        redis
    }

    /// As `store` of a configuration has it.
    pub fn address(&self) -> String {
        format!("redis+unix://{}", self.socket())
    }

    fn socket(&self) -> String {
        self.folder.file("redis.sock")
    }

    /// Starts it again, empty.
    pub async fn restart(&mut self) {
        let socket = self.socket();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", &socket]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.process = Some(command.spawn().expect("redis-server; `tests/run` installs what the tests need"));
        until("Redis is there", async || tokio::net::UnixStream::connect(&socket).await.is_ok()).await;
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    /// SIGSTOP, or SIGCONT: it hangs, or goes on.
    pub async fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().and_then(Child::id).unwrap().to_string();
        run("kill", &[&format!("-{signal}"), &pid]).await;
    }

    /// The keys of its sessions.
    pub async fn keys(&self) -> Vec<String> {
        let out = self.ask(&["keys", "*"]).await;
        out.lines().filter(|line| !line.is_empty() && !line.ends_with(":store")).map(str::to_owned).collect()
    }

    /// What it answers to a command.
    pub async fn ask(&self, command: &[&str]) -> String {
        let socket = self.socket();
        run("redis-cli", &[&["-s", &socket], command].concat()).await.out
    }
}
