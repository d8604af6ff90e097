//! One demo backend's process: started, watched, and started again at the same address when it has died.
//! The process ends when its keeper is dropped, and when the demo itself dies without a chance to drop anything.
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

use super::super::demo_backend::announcement;
use super::restart::{Event, PAUSE, Restart, Step};

/// How long a backend may take until it listens.
const START_TIME: Duration = Duration::from_secs(10);

/// Keeps one backend running.
pub(super) struct Keeper {
    name: &'static str,
    address: SocketAddr,
    child: Child,
}

impl Keeper {
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
    pub(super) async fn keep(mut self, news: mpsc::Sender<News>, ending: CancellationToken) {
        ending.run_until_cancelled(self.watch(&news)).await;
        // One that is dead already needs no killing.
        let _ = self.child.kill().await;
    }

    async fn watch(&mut self, news: &mpsc::Sender<News>) {
        let Self { name, address, .. } = *self;
        let tell = async |what| {
            // Nobody listens any more: the demo is ending.
            let _ = news.send(News { name, what }).await;
        };
        let mut restart = Restart::default();
        let mut step = restart.after(Event::Up);
        loop {
            step = match step {
                Step::Watch => {
                    let pid = self.child.id();
                    tell(What::Died { pid, end: self.child.wait().await.ok() }).await;
                    restart.after(Event::Died)
                }
                Step::StartAfter(pause) => {
                    tokio::time::sleep(pause).await;
                    match spawn(name, address).await {
                        Ok((child, _)) => {
                            self.child = child;
                            tell(What::Back { pid: self.child.id(), address }).await;
                            restart.after(Event::Up)
                        }
                        Err(error) => {
                            tell(What::NoStart(error)).await;
                            restart.after(Event::NoStart)
                        }
                    }
                }
                Step::GiveUp => return tell(What::GivenUp).await,
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
    let told = line.trim_end().strip_prefix(&announcement(name)).and_then(|address| address.parse().ok());
    match told {
        Some(address) => Ok((child, address)),
        None => Err(io::Error::other("it ended before it listened")),
    }
}

/// What happened to which backend, in words for the one who watches.
pub(super) struct News {
    name: &'static str,
    what: What,
}

enum What {
    Died { pid: Option<u32>, end: Option<ExitStatus> },
    Back { pid: Option<u32>, address: SocketAddr },
    NoStart(io::Error),
    GivenUp,
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match &self.what {
            What::Died { pid, end } => {
                write!(f, "server {name}{} ", Process(*pid))?;
                match (end.and_then(|end| end.signal()), end.and_then(|end| end.code())) {
                    (Some(9), _) => f.write_str("was killed (kill -9)")?,
                    (Some(signal), _) => write!(f, "died of signal {signal}")?,
                    (None, Some(code)) => write!(f, "ended with exit code {code}")?,
                    (None, None) => f.write_str("is gone")?,
                }
                write!(f, ", and its memory is lost: its clients are moved; it is back in {} seconds", PAUSE.as_secs())
            }
            What::Back { pid, address } => {
                write!(
                    f,
                    "server {name}{} is back at http://{address} with an empty memory: nobody is moved",
                    Process(*pid)
                )
            }
            What::NoStart(error) => write!(f, "server {name} could not be started again: {error}"),
            What::GivenUp => write!(f, "server {name} stays down: every attempt to start it failed"),
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
            let what = What::Died { pid: Some(7), end: Some(ExitStatus::from_raw(status)) };
            let said = News { name: "b", what }.to_string();
            assert!(said.starts_with("server b (process 7) ") && said.contains(words), "{said}");
        }
    }
}
