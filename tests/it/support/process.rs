//! Separate processes: Linchpins as an operator starts them, and a Redis.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::tool::{Folder, run};
use super::{Client, soon, until};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_linchpin");

/// Runs `linchpin` with these arguments to its end.
pub async fn linchpin(arguments: &[&str]) -> Output {
    command(BINARY, arguments).await
}

/// Runs a program to its end, whatever its status.
pub async fn command(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    soon("the end of the command", command.output()).await.unwrap()
}

/// Returns what a command printed: standard output, then standard error.
pub fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Returns whether a process has a socket that listens at the port of this IPv4 address.
pub fn listens_at(process: u32, address: SocketAddr) -> bool {
    const LISTEN: &str = "0A";
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
    let port = format!(":{:04X}", address.port());
    let listening = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, local, _, LISTEN, _, _, _, _, _, inode, ..] if local.ends_with(&port) => Some(format!("socket:[{inode}]")),
        _ => None,
    };
    let sockets: Vec<String> = table.lines().filter_map(listening).collect();
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    // A descriptor that was closed meanwhile has no target any more.
    let mut targets = open.filter_map(|descriptor| std::fs::read_link(descriptor.unwrap().path()).ok());
    targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

/// A `linchpin run`; killed when dropped.
pub struct Linchpin {
    /// The address of its first listener.
    pub address: SocketAddr,
    process: Child,
    /// Lines of its log since it started to listen.
    log: Arc<Mutex<Vec<String>>>,
    folder: Folder,
}

impl Linchpin {
    /// Starts one with this configuration, which has a listener on port 0. With `clock`, such as
    /// `+60s`, its wall clock is that much off.
    pub async fn start(text: &str, clock: Option<&str>) -> Linchpin {
        let folder = Folder::new();
        let file = folder.write("linchpin.toml", text.as_bytes());
        // What a release build costs is to be measured by it.
        let binary = std::env::var("LINCHPIN_BINARY").unwrap_or(BINARY.into());
        let mut command = Command::new(binary);
        if let Some(clock) = clock {
            // Not by the `faketime` command: a kill would hit that process instead. Time limits use the monotonic
            // clock, which stays unchanged.
            let library = run("sh", &["-c", "ls /usr/lib/*/faketime/libfaketime.so.1"]).await.out;
            command.env("LD_PRELOAD", library.trim()).env("FAKETIME", clock);
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command.args(["run", "-c", &file]).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = soon("the address", async {
            loop {
                let line = lines.next_line().await.unwrap().expect("a line with the address");
                if let Some((_, address)) = line.split_once("listening address=") {
                    return address.trim().parse().unwrap();
                }
            }
        })
        .await;
        // A full pipe would block the process.
        let log = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                all.lock().unwrap().push(line);
            }
        });
        Linchpin { address, process, log, folder }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Writes its configuration file.
    pub fn write(&self, text: &str) {
        self.folder.write("linchpin.toml", text.as_bytes());
    }

    /// Waits for a line of its log that contains these words.
    pub async fn says(&self, words: &str) -> String {
        let line = || self.log.lock().unwrap().iter().find(|line| line.contains(words)).cloned();
        until(words, async || line().is_some()).await;
        line().unwrap()
    }

    /// How many lines of its log have these words in them by now.
    pub fn times_logged(&self, words: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(words)).count()
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.process.id().unwrap()
    }

    /// Ends it at once.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}

/// A `linchpin run` whose messages can be read; killed when dropped.
pub struct Running {
    pub process: Child,
    /// The address of its first listener.
    pub address: String,
    lines: Lines<BufReader<ChildStderr>>,
    _folder: Folder,
}

impl Running {
    pub async fn start(configuration: &str, stdout: Stdio) -> Running {
        let mut running = Running::begin(configuration, stdout, &[]);
        let line = running.line("listening address=").await;
        running.address = line.rsplit('=').next().unwrap().to_owned();
        running
    }

    /// Starts one with this configuration, which it writes to the file at `path`.
    pub async fn start_with(path: &str, configuration: &str, stdout: Stdio) -> Running {
        Running::start_by(&[], path, configuration, stdout).await
    }

    /// Starts one by way of the words `by` before its own, with this configuration, which it writes to the file at `path`.
    pub async fn start_by(by: &[&str], path: &str, configuration: &str, stdout: Stdio) -> Running {
        std::fs::write(path, configuration).unwrap();
        let mut running = Running::begin_at(Folder::new(), path, stdout, by);
        let line = running.line("listening address=").await;
        running.address = line.rsplit('=').next().unwrap().to_owned();
        running
    }

    /// Starts one with this configuration, which it writes to the file at `path`, that takes over from another one.
    pub fn upgrade(path: &str, configuration: &str) -> Running {
        std::fs::write(path, configuration).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["run", "--upgrade", "-c", path]).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        Running { process, lines, address: String::new(), _folder: Folder::new() }
    }

    /// Starts one by way of these words before its own (`prlimit --nofile=80`), and waits for nothing.
    pub fn begin(configuration: &str, stdout: Stdio, by: &[&str]) -> Running {
        let folder = Folder::new();
        let file = folder.write("linchpin.toml", configuration.as_bytes());
        Running::begin_at(folder, &file, stdout, by)
    }

    fn begin_at(folder: Folder, file: &str, stdout: Stdio, by: &[&str]) -> Running {
        let words = [by, &[env!("CARGO_BIN_EXE_linchpin"), "run", "-c", file]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdout(stdout).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        Running { process, lines, address: String::new(), _folder: folder }
    }

    /// Reads up to the next line that contains these words.
    pub async fn line(&mut self, words: &str) -> String {
        soon(words, async {
            loop {
                let line = self.lines.next_line().await.unwrap().unwrap_or_else(|| panic!("no line says {words:?}"));
                if line.contains(words) {
                    return line;
                }
            }
        })
        .await
    }

    /// Reads the next line, or returns `None` when the process has ended.
    pub async fn next_line(&mut self) -> Option<String> {
        soon("a line or the end", self.lines.next_line()).await.unwrap()
    }

    /// Returns the process, with its messages closed, and its address.
    pub fn without_lines(self) -> (Child, String) {
        (self.process, self.address)
    }

    /// Returns the process, and its messages unread.
    pub fn without_lines_read(self) -> (Child, Lines<BufReader<ChildStderr>>) {
        (self.process, self.lines)
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address.parse().unwrap()).await
    }

    pub async fn signal(&self, signal: &str) {
        let pid = self.process.id().unwrap().to_string();
        run("kill", &[&format!("-{signal}"), &pid]).await;
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        soon("the end of the process", self.process.wait()).await.unwrap().code()
    }
}

/// A Redis that keeps nothing on disk, on a Unix socket; killed when dropped.
pub struct Redis {
    folder: Folder,
    /// More arguments.
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Redis {
    pub async fn start() -> Redis {
        Redis::start_with(&[]).await
    }

    /// Starts one with these arguments as well.
    pub async fn start_with(arguments: &[&str]) -> Redis {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut redis = Redis { folder: Folder::new(), arguments, process: None };
        redis.restart().await;
        redis
    }

    /// Returns the configuration's value of `store`.
    pub fn address(&self) -> String {
        format!("redis+unix://{}", self.socket())
    }

    fn socket(&self) -> String {
        self.folder.file("redis.sock")
    }

    /// Starts it again, without data.
    pub async fn restart(&mut self) {
        let socket = self.socket();
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", &socket])
            .args(&self.arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.process = Some(command.spawn().expect("redis-server; `tests/run` installs what the tests need"));
        until("Redis listens", async || tokio::net::UnixStream::connect(&socket).await.is_ok()).await;
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    /// Sends SIGSTOP or SIGCONT: the process hangs or continues.
    pub async fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().and_then(Child::id).unwrap().to_string();
        run("kill", &[&format!("-{signal}"), &pid]).await;
    }

    /// Returns the keys of its sessions.
    pub async fn keys(&self) -> Vec<String> {
        let out = self.ask(&["keys", "*"]).await;
        out.lines().filter(|line| !line.is_empty() && !line.ends_with(":store")).map(str::to_owned).collect()
    }

    /// Runs a Redis command and returns its output.
    pub async fn ask(&self, command: &[&str]) -> String {
        let socket = self.socket();
        run("redis-cli", &[&["-s", &socket], command].concat()).await.out
    }
}
