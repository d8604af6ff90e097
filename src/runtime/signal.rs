//! Owns: the operating system's signals, as events.
//! Invariant: once this listens to signals, none of them kills the process, and none that arrives is lost.
//! Must not know: what the process does at a signal.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM or SIGINT: stop. Holds the signal's name.
    Stop(&'static str),
    /// SIGUSR1: reopen logs.
    ReopenLogs,
    /// SIGHUP: reload the configuration.
    Reload,
    /// SIGUSR2: start the process that takes over.
    Upgrade,
}

/// The signals that a server handles.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    user1: Signal,
    hangup: Signal,
    user2: Signal,
    /// SIGXFSZ, which would kill the process when a file reaches `RLIMIT_FSIZE`. The write fails, too, and that error
    /// is reported.
    _file_size: Signal,
}

impl Signals {
    /// Starts to listen; call it within a tokio runtime.
    ///
    /// # Errors
    /// The runtime can't register a handler.
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

    /// Waits for the next event; if several are pending, those to stop come first.
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
