//! Owns: the operating system's signals, as events.
//! Invariant: once listened to, none of them ends the process by itself, and none that comes is lost.
//! Must not know: what they do.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// To stop: SIGTERM or SIGINT, by name.
    Stop(&'static str),
    /// To open logs anew: SIGUSR1.
    ReopenLogs,
    /// To read the configuration anew: SIGHUP.
    Reload,
    /// Nothing: SIGUSR2, which other servers use to be replaced by a new binary.
    Upgrade,
}

/// The signals of a server.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    user1: Signal,
    hangup: Signal,
    user2: Signal,
    /// Comes with an error of a write to a file that has reached the limit of its size (`RLIMIT_FSIZE`): the error
    /// is enough.
    _file_size: Signal,
}

impl Signals {
    /// Starts listening; needs a runtime.
    ///
    /// # Errors
    /// The runtime can't be told of signals.
    pub fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user1: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
            _file_size: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }

    /// The next one; of several, those first that ask for the end.
    pub async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Event::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Event::Stop("SIGINT"),
            _ = self.user1.recv() => Event::ReopenLogs,
            _ = self.hangup.recv() => Event::Reload,
            _ = self.user2.recv() => Event::Upgrade,
        }
    }
}
