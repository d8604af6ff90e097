//! Owns: the admin listener of the running configuration, and its replacement by a reload.
//! Invariant: a request that a listener has accepted is answered, also if the listener is replaced meanwhile.
//! Must not know: what is served.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::admin::{self, AccessRules, Phase, StatusSources};
use crate::net::Address;
use crate::net::unix::{self, FileHandle};

/// How long the admin listener still accepts connections after the process began to close its others.
const CLOSE_DELAY: Duration = Duration::from_millis(300);
/// How long the connections of a listener that a reload has replaced may finish what they do: its answer is one of them.
const REPLACED_DELAY: Duration = Duration::from_secs(2);

/// A running admin listener.
pub(super) struct AdminServer {
    settings: admin::Settings,
    address: Option<SocketAddr>,
    /// The most connections.
    connections: usize,
    rules: AccessRules,
    /// Dropping the first closes the listener, dropping the second ends its connections.
    close: oneshot::Sender<()>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    /// Another descriptor of the socket, for as long as the listener is open, and what leaves its file to a successor.
    shared: Option<(Weak<OwnedFd>, Option<FileHandle>)>,
}

/// A bound admin listener that does not serve yet.
pub(super) struct BoundAdmin {
    pub(super) settings: admin::Settings,
    pub(super) bound: admin::Bound,
}

impl BoundAdmin {
    /// Binds the address of these settings. If `is_start`, waits for a predecessor to release it.
    pub(super) fn bind(settings: &admin::Settings, is_start: bool) -> io::Result<BoundAdmin> {
        Ok(BoundAdmin { settings: settings.clone(), bound: admin::bind(settings, is_start)? })
    }

    /// Starts to serve on at most `connections` connections. Call it within the runtime that is to serve.
    pub(super) fn serve(self, facts: &StatusSources, connections: usize) -> AdminServer {
        let BoundAdmin { settings, bound } = self;
        let (address, rules, facts) = (bound.address(), AccessRules::new(&settings), facts.clone());
        let (close, closed) = oneshot::channel::<()>();
        let (stop, stopped) = oneshot::channel::<()>();
        let closing = closing(facts.phase.clone(), closed);
        let shared = bound.share().ok().map(|(socket, file)| (Arc::new(socket), file));
        let open = shared.as_ref().map(|(socket, _)| Arc::clone(socket));
        let shared = shared.map(|(socket, file)| (Arc::downgrade(&socket), file));
        let closing = async move {
            closing.await;
            drop(open);
        };
        let for_serving = rules.clone();
        let serving = tokio::spawn(async move {
            let until = async { drop(stopped.await) };
            if let Err(error) = admin::run(bound, &for_serving, facts, connections, closing, until).await {
                tracing::error!(
                    %error,
                    "the admin listener has failed; clients are still served; restart this process to get it back"
                );
            }
        });
        AdminServer { settings, address, connections, rules, close, stop, serving, shared }
    }
}

/// Waits until the listener must close, so that a successor can bind its address: at once if it was replaced, or a
/// moment after the process begins to close its listeners, in which readiness checks find it not ready.
async fn closing(mut phase: watch::Receiver<Phase>, replaced: oneshot::Receiver<()>) {
    let stopping = async {
        // An error means that the process is ending.
        let _ = phase.wait_for(|phase| *phase == Phase::Closing).await;
        tokio::time::sleep(CLOSE_DELAY).await;
    };
    tokio::select! {
        _ = replaced => {}
        () = stopping => {}
    }
}

impl AdminServer {
    pub(super) fn settings(&self) -> &admin::Settings {
        &self.settings
    }

    /// Returns its address, if it is on TCP.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Takes over the tokens and permissions of these settings, whose address is the same.
    pub(super) fn reconfigure(&mut self, settings: &admin::Settings) {
        self.rules.replace(settings);
        if let (Address::Unix(path), true) = (&settings.address, settings.socket != self.settings.socket)
            && let Err(error) = unix::set_access(path, settings.socket.mode, settings.socket.group)
        {
            tracing::warn!(%error, path = %path.display(), "cannot set mode and group of the admin socket; set them by hand, or restart");
        }
        self.settings = settings.clone();
    }

    /// Returns how many connections it may have.
    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    /// Returns a descriptor of the socket, for a successor.
    pub(super) fn socket(&self) -> Option<OwnedFd> {
        self.shared.as_ref()?.0.upgrade()?.try_clone().ok()
    }

    /// Leaves the socket and its file to a successor; serves the connections that it has for a moment.
    pub(super) fn leave(self) {
        if let Some((_, Some(file))) = &self.shared {
            file.release();
        }
        self.replace();
    }

    /// Closes the listener at once, and its connections a moment later.
    pub(super) fn replace(self) {
        drop(self.close);
        tokio::spawn(async move {
            tokio::time::sleep(REPLACED_DELAY).await;
            drop(self.stop);
        });
    }

    /// Ends it, within about a second.
    pub(super) async fn end(self) {
        drop((self.close, self.stop));
        let _ = tokio::time::timeout(Duration::from_secs(1), self.serving).await;
    }
}
