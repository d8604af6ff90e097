//! Owns: how far the shutdown of this process, or of one listener, has come, for the connections of one thread.
//! Invariant: a shutdown only advances; that of the process is one of each listener, too.
//! Must not know: signals, connections, who waits for either step.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::clock;

/// The state of the shutdown.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    /// The shutdown of the process, if this is that of a listener.
    process: Option<Rc<Shutdown>>,
    is_announced: Cell<bool>,
    /// When draining began, and how long a connection may then still send a request.
    draining: Cell<Option<(Instant, Duration)>>,
    is_grace_over: Cell<bool>,
}

impl Shutdown {
    /// Makes the shutdown of one listener.
    pub(super) fn of_listener(process: &Rc<Shutdown>) -> Rc<Shutdown> {
        Rc::new(Shutdown { process: Some(Rc::clone(process)), ..Shutdown::default() })
    }

    /// Sets whether clients are told to close their connections. None is closed for that.
    pub(super) fn announce(&self, is_announced: bool) {
        self.is_announced.set(is_announced);
    }

    /// Begins to drain: each connection may send one more request, if it arrives within `idle`.
    pub(super) fn drain(&self, idle: Duration) {
        self.draining.set(Some((clock::now(), idle)));
    }

    /// Ends the grace period: requests without a response are abandoned now.
    pub(super) fn end_grace(&self) {
        self.is_grace_over.set(true);
    }

    /// Returns whether clients are told to close their connections: the process or the listener drains, or is about to.
    pub(super) fn is_announced(&self) -> bool {
        let own = self.is_announced.get() || self.draining.get().is_some();
        own || self.process.as_ref().is_some_and(|process| process.is_announced())
    }

    /// Returns whether the grace period is over. That of a listener alone never is: its requests take their time.
    pub(super) fn is_grace_over(&self) -> bool {
        self.is_grace_over.get() || self.process.as_ref().is_some_and(|process| process.is_grace_over())
    }

    /// Returns when a connection closes that has had no request since `idle_since`, if the process or the listener
    /// drains.
    pub(super) fn idle_deadline(&self, idle_since: Instant) -> Option<Instant> {
        let own = self.draining.get().map(|(since, idle)| since.max(idle_since) + idle);
        let of_process = self.process.as_ref().and_then(|process| process.idle_deadline(idle_since));
        own.into_iter().chain(of_process).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_drains_alone_or_with_the_process_and_only_the_process_ends_requests() {
        let process = Rc::new(Shutdown::default());
        let (web, other) = (Shutdown::of_listener(&process), Shutdown::of_listener(&process));
        let now = Instant::now();
        web.drain(Duration::from_secs(60));
        assert!(web.is_announced() && !other.is_announced() && !process.is_announced());
        assert!(web.idle_deadline(now).is_some() && other.idle_deadline(now).is_none());
        assert!(!web.is_grace_over());
        process.announce(true);
        assert!(other.is_announced() && other.idle_deadline(now).is_none(), "no connection closes for that");
        process.announce(false);
        assert!(!other.is_announced() && web.is_announced());
        process.drain(Duration::from_secs(1));
        assert!(other.is_announced());
        assert_eq!(web.idle_deadline(now), process.idle_deadline(now), "the earlier of the two");
        process.end_grace();
        assert!(web.is_grace_over() && other.is_grace_over());
    }
}
