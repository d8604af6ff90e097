//! Third-party programs that a test runs, and temporary folders for their files.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::soon;

/// Runs a program to its end and returns its output. Panics if the program is missing or fails.
pub async fn run(program: &str, arguments: &[&str]) -> Output {
    try_run(program, arguments).await.unwrap_or_else(|output| panic!("{program} {arguments:?} failed:\n{output}"))
}

/// Runs a program to its end and returns its output, or its output as the error if it fails.
pub async fn try_run(program: &str, arguments: &[&str]) -> Result<Output, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = match soon(program, command.output()).await {
        Ok(output) => output,
        Err(error) => panic!("cannot run {program}: {error}; `tests/run` installs what the tests need"),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() { Ok(Output { out, err }) } else { Err(format!("{out}\n{err}")) }
}

/// The output of a program: standard output and standard error.
#[derive(Debug)]
pub struct Output {
    pub out: String,
    pub err: String,
}

/// A temporary folder, deleted with its contents when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        loop {
            let name = format!("linchpin-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => return Folder(path),
                // A process that was killed has left it, and had the same id.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }

    /// Returns the path of a file in the folder, as an argument.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file in the folder; returns its path as an argument.
    pub fn write(&self, name: &str, content: &[u8]) -> String {
        fs::write(self.0.join(name), content).unwrap();
        self.file(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A demo backend in its own process. Ends when dropped, and with this process in any case.
pub struct DemoBackend {
    pub name: String,
    pub address: SocketAddr,
    process: Child,
}

impl DemoBackend {
    pub async fn start(name: &str) -> DemoBackend {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linchpin"));
        command.args(["demo-backend", "--name", name, "--listen", "127.0.0.1:0", "--exit-with-parent"]);
        command.arg(std::process::id().to_string()).stdout(Stdio::piped()).kill_on_drop(true);
        // They share copies of sessions if the pool has `[pools.copies]`.
        command.env("LINCHPIN_DEMO_COPIES_SECRET", "a secret that all demo servers of the tests share");
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        soon("the demo backend's line", out.read_line(&mut line)).await.unwrap();
        let address = line.trim().rsplit('/').next().and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}"));
        DemoBackend { name: name.into(), address, process }
    }

    /// Sends a signal, such as SIGSTOP, SIGCONT or SIGKILL.
    pub async fn signal(&self, signal: &str) {
        let pid = self.process.id().unwrap().to_string();
        run("kill", &[&format!("-{signal}"), &pid]).await;
    }
}
