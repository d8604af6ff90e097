//! One demo backend's process: started, watched, and started again at the same address when it has died.
//! The process ends when its supervisor is dropped, and when the demo itself dies without a chance to drop anything.
//! It must not know the proxy: what clients see of a death is none of its doing.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::demo_backend::ready_line_prefix;
use super::restart::{ProcessEvent, RESTART_DELAY, RestartAction, RestartPolicy};

/// How long a backend may take until it listens.
const START_TIME: Duration = Duration::from_secs(10);

/// Keeps one backend running.
pub(super) struct Supervisor {
    name: &'static str,
    address: SocketAddr,
    child: Child,
}

impl Supervisor {
    /// Starts the backend: at the preferred port of the loopback address, or at any if that one is taken.
    pub(super) async fn start(name: &'static str, preferred: u16) -> io::Result<Self> {
        let [preferred, any] = [preferred, 0].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let free = TcpListener::bind(preferred).is_ok();
        let first = if free { spawn(name, preferred).await.ok() } else { None };
        let (child, address) = match first {
            Some(started) => started,
            // Taken, perhaps by another demo in the very moment since.
            None => spawn(name, any).await?,
        };
        Ok(Self { name, address, child })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the backend again whenever it has died, and tells the news; in the end sees it gone.
    pub(super) async fn run(mut self, events: mpsc::Sender<BackendEvent>, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.watch(&events)).await;
        // One that is dead already needs no killing.
        let _ = self.child.kill().await;
    }

    async fn watch(&mut self, events: &mpsc::Sender<BackendEvent>) {
        let Self { name, address, .. } = *self;
        let send = async |kind| {
            // Nobody listens any more: the demo is shutdown.
            let _ = events.send(BackendEvent { name, kind }).await;
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
                    match spawn(name, address).await {
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

/// Starts a backend and reads from its one line where it listens.
async fn spawn(name: &str, address: SocketAddr) -> io::Result<(Child, SocketAddr)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["demo-backend", "--name", name])
        .args(["--listen", &address.to_string()])
        .args(["--exit-with-parent", &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A group of its own: Ctrl-C in a terminal is for the demo, which ends its backends last.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut line = String::new();
    tokio::time::timeout(START_TIME, BufReader::new(output).read_line(&mut line)).await??;
    let ready = line.trim_end().strip_prefix(&ready_line_prefix(name)).and_then(|address| address.parse().ok());
    match ready {
        Some(address) => Ok((child, address)),
        None => Err(io::Error::other("it ended before it listened")),
    }
}

/// What happened to which backend, in words for the one who watches.
pub(super) struct BackendEvent {
    name: &'static str,
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
                    (Some(signal), _) => write!(f, "died of signal {signal}")?,
                    (None, Some(code)) => write!(f, "ended with exit code {code}")?,
                    (None, None) => f.write_str("is gone")?,
                }
                write!(
                    f,
                    ", and its memory is lost: its clients are moved; it is back in {} seconds",
                    RESTART_DELAY.as_secs()
                )
            }
            EventKind::Restarted { pid, address } => {
                write!(
                    f,
                    "server {name}{} is back at http://{address} with an empty memory: nobody is moved",
                    Process(*pid)
                )
            }
            EventKind::StartFailed(error) => write!(f, "server {name} could not be started again: {error}"),
            EventKind::GaveUp => write!(f, "server {name} stays down: every attempt to start it failed"),
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
    fn tells_deaths_in_plain_words() {
        // A wait status as the system gives it: the signal in the low bits, an exit code above them.
        for (status, words) in [(9, "kill -9"), (15, "signal 15"), (1 << 8, "exit code 1")] {
            let kind = EventKind::Exited { pid: Some(7), end: Some(ExitStatus::from_raw(status)) };
            let said = BackendEvent { name: "b", kind }.to_string();
            assert!(said.starts_with("server b (process 7) ") && said.contains(words), "{said}");
        }
    }
}
