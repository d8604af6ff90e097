//! Owns: one demo backend's process, which it starts, watches, and restarts at the same address.
//! Invariant: the process ends when its supervisor is dropped, and when the demo's own process is killed.
//! Must not know: the proxy.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::demo_backend::{COPIES_SECRET, ready_line_prefix};
use super::restart::{ProcessEvent, RESTART_DELAY, RestartAction, RestartPolicy};

/// How long a backend may take to listen.
const START_TIME: Duration = Duration::from_secs(10);

/// Keeps one backend running.
pub(super) struct Supervisor {
    name: &'static str,
    address: SocketAddr,
    /// The secret that seals copies of sessions; `None`: the backend makes none.
    copies_secret: Option<Arc<str>>,
    child: Child,
}

impl Supervisor {
    /// Starts the backend on the preferred loopback port, or on any free one if that is taken.
    pub(super) async fn start(name: &'static str, preferred: u16, copies_secret: Option<Arc<str>>) -> io::Result<Self> {
        let secret = copies_secret.as_deref();
        let [preferred, any] = [preferred, 0].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let free = TcpListener::bind(preferred).is_ok();
        let first = if free { spawn(name, preferred, secret).await.ok() } else { None };
        let (child, address) = match first {
            Some(started) => started,
            // The port is taken, perhaps by another demo since the check.
            None => spawn(name, any, secret).await?,
        };
        Ok(Self { name, address, copies_secret, child })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Restarts the backend whenever it exits, and sends an event for each change, until `shutdown`; then kills it.
    pub(super) async fn run(mut self, events: mpsc::Sender<BackendEvent>, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.watch(&events)).await;
        // A process that has exited needs no kill.
        let _ = self.child.kill().await;
    }

    async fn watch(&mut self, events: &mpsc::Sender<BackendEvent>) {
        let Self { name, address, .. } = *self;
        let has_copies = self.copies_secret.is_some();
        let send = async |kind| {
            // The receiver is dropped while the demo ends.
            let _ = events.send(BackendEvent { name, has_copies, kind }).await;
        };
        let mut restart = RestartPolicy::default();
        let mut step = restart.after(ProcessEvent::Listening);
        loop {
            step = match step {
                RestartAction::WaitForExit => {
                    let pid = self.child.id();
                    send(EventKind::Exited { pid, end: self.child.wait().await.ok() }).await;
                    restart.after(ProcessEvent::Exited)
                }
                RestartAction::StartAfter(delay) => {
                    tokio::time::sleep(delay).await;
                    match spawn(name, address, self.copies_secret.as_deref()).await {
                        Ok((child, _)) => {
                            self.child = child;
                            send(EventKind::Restarted { pid: self.child.id(), address }).await;
                            restart.after(ProcessEvent::Listening)
                        }
                        Err(error) => {
                            send(EventKind::StartFailed(error)).await;
                            restart.after(ProcessEvent::StartFailed)
                        }
                    }
                }
                RestartAction::GiveUp => return send(EventKind::GaveUp).await,
            };
        }
    }
}

/// Starts a backend, and reads its address from the line that it prints.
async fn spawn(name: &str, address: SocketAddr, copies_secret: Option<&str>) -> io::Result<(Child, SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    match copies_secret {
        Some(secret) => command.env(COPIES_SECRET, secret),
        None => command.env_remove(COPIES_SECRET),
    };
    let mut child = command
        .args(["demo-backend", "--name", name])
        .args(["--listen", &address.to_string()])
        .args(["--exit-with-parent", &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A process group of its own: Ctrl-C in a terminal goes to the demo alone, which ends its backends last.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut line = String::new();
    tokio::time::timeout(START_TIME, BufReader::new(output).read_line(&mut line)).await??;
    let ready = line.trim_end().strip_prefix(&ready_line_prefix(name)).and_then(|address| address.parse().ok());
    match ready {
        Some(address) => Ok((child, address)),
        None => Err(io::Error::other("it exited before it listened")),
    }
}

/// A change of one backend, as the demo prints it.
pub(super) struct BackendEvent {
    name: &'static str,
    /// Linchpin keeps copies of its sessions.
    has_copies: bool,
    kind: EventKind,
}

enum EventKind {
    Exited { pid: Option<u32>, end: Option<ExitStatus> },
    Restarted { pid: Option<u32>, address: SocketAddr },
    StartFailed(io::Error),
    GaveUp,
}

impl fmt::Display for BackendEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match &self.kind {
            EventKind::Exited { pid, end } => {
                write!(f, "server {name}{} ", Process(*pid))?;
                match (end.and_then(|end| end.signal()), end.and_then(|end| end.code())) {
                    (Some(9), _) => f.write_str("was killed (kill -9)")?,
                    (Some(signal), _) => write!(f, "was killed by signal {signal}")?,
                    (None, Some(code)) => write!(f, "exited with code {code}")?,
                    (None, None) => f.write_str("exited")?,
                }
                let clients = if self.has_copies {
                    "its clients move, and take their sessions along"
                } else {
                    "and its clients move"
                };
                write!(f, ". Its memory is lost, {clients}. It restarts in {} seconds.", RESTART_DELAY.as_secs())
            }
            EventKind::Restarted { pid, address } => {
                write!(
                    f,
                    "server {name}{} runs again at http://{address} with an empty memory. No client moves back.",
                    Process(*pid)
                )
            }
            EventKind::StartFailed(error) => write!(f, "server {name} did not restart: {error}"),
            EventKind::GaveUp => write!(f, "server {name} stays down: every restart failed."),
        }
    }
}

struct Process(Option<u32>);

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (process {pid})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_reported_with_its_signal_or_code() {
        // A wait status as the system gives it: the signal in the low bits, an exit code above them.
        for (status, words) in [(9, "kill -9"), (15, "signal 15"), (1 << 8, "exited with code 1")] {
            let kind = EventKind::Exited { pid: Some(7), end: Some(ExitStatus::from_raw(status)) };
            let text = BackendEvent { name: "b", has_copies: true, kind }.to_string();
            assert!(text.starts_with("server b (process 7) ") && text.contains(words), "{text}");
        }
    }
}
