//! Owns: the sockets that a takeover needs: of the admin listener, and for the next successor.
//! Invariant: what a new process has acquired is not used before the old one allows it.
//! Must not know: the running configuration; messages.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use super::admin_server::BoundAdmin;
use super::demands::{Demand, LifeEvent};
use super::hand_over::HandOver;
use super::older::{OlderLink, OlderProcesses};
use super::settling::Settling;
use super::start_error::StartError;
use super::take_over::Predecessor;
use crate::admin::{self, Phase, StatusSources};
use crate::config::Plan;
use crate::net::Address;
use crate::net::bind::with_retry;
use crate::net::unix::{self, FileHandle, SocketFile};
use crate::proxy::client::ListenerInfo;
use crate::runtime::listeners::AcquiredListeners;
use crate::runtime::{ListenerTransport, StopHandle};
use crate::takeover::Prepared;

/// The mode of the socket at which a process waits for its successor: only its own user may connect.
const MODE: u32 = 0o600;
const BACKLOG: i32 = 16;

/// How to end this process, and who has to know of it.
pub(super) struct Life {
    pub(super) stop: StopHandle,
    pub(super) phase: Arc<watch::Sender<Phase>>,
    pub(super) demands: mpsc::Sender<Demand>,
    pub(super) events: mpsc::UnboundedSender<LifeEvent>,
    /// Notified if this process shall leave its sockets to its successor at once.
    pub(super) settle: Arc<Notify>,
    /// Whether this process has proven itself to its predecessor.
    pub(super) settling: Settling,
    pub(super) older: OlderProcesses,
}

/// What this process keeps while its successor accepts connections in its place, and has not proven itself.
pub(super) struct Paused {
    /// What the successor uses.
    pub(super) prepared: Prepared,
    /// The socket of the admin listener, if the successor uses it, and how many connections it may have.
    pub(super) admin: Option<(admin::Settings, OwnedFd, usize)>,
    /// The phase before.
    pub(super) phase: Phase,
}

/// What a new process has acquired and does not use before the old one allows it.
pub(super) struct Pending {
    pub(super) listeners: AcquiredListeners,
    pub(super) transports: Vec<Arc<ListenerTransport<ListenerInfo>>>,
    pub(super) admin: Option<PendingAdmin>,
    pub(super) waiting: Option<PendingWaiting>,
}

/// The admin listener of a new process.
pub(super) enum PendingAdmin {
    /// It has another address than that of the old process.
    Bound(BoundAdmin, usize),
    /// The socket of the old process.
    Inherited(admin::Settings, OwnedFd, usize),
}

impl PendingAdmin {
    /// Returns the one that this process has bound.
    pub(super) fn bound(self) -> Option<(BoundAdmin, usize)> {
        match self {
            PendingAdmin::Bound(bound, connections) => Some((bound, connections)),
            PendingAdmin::Inherited(..) => None,
        }
    }
}

/// The socket at which a new process will wait for its successor.
pub(super) enum PendingWaiting {
    Bound(BoundWaiting),
    Inherited(PathBuf, OwnedFd),
}

impl PendingWaiting {
    /// Returns the one that this process has bound.
    pub(super) fn bound(self) -> Option<BoundWaiting> {
        match self {
            PendingWaiting::Bound(bound) => Some(bound),
            PendingWaiting::Inherited(..) => None,
        }
    }
}

/// An open socket at which this process will wait for its successor.
pub(super) struct BoundWaiting {
    path: PathBuf,
    listener: UnixListener,
    file: SocketFile,
}

/// The socket at which this process waits for its successor.
pub(super) struct Waiting {
    pub(super) path: PathBuf,
    /// Another descriptor of it.
    pub(super) socket: OwnedFd,
    pub(super) file: FileHandle,
    task: AbortHandle,
}

impl BoundWaiting {
    /// Opens the socket at this path.
    pub(super) fn bind(path: &Path) -> io::Result<BoundWaiting> {
        let listen = || unix::listen(path, MODE, None, BACKLOG);
        let (listener, file) = with_retry(&Address::Unix(path.into()), listen)?;
        Ok(BoundWaiting { path: path.into(), listener, file })
    }

    pub(super) fn adopt(path: PathBuf, socket: OwnedFd) -> io::Result<BoundWaiting> {
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        let file = SocketFile::new(&path)?;
        Ok(BoundWaiting { path, listener, file })
    }

    /// Waits for successors from now on. Call it within the local set of the control thread.
    pub(super) fn begin(self, life: &Life, facts: &StatusSources) -> io::Result<Waiting> {
        let BoundWaiting { path, listener, file } = self;
        let (socket, handle) = (listener.as_fd().try_clone_to_owned()?, file.handle());
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let link = OlderLink {
            entries: Arc::clone(&facts.pools),
            events: facts.events.clone(),
            phase: life.phase.subscribe(),
            older: life.older.clone(),
        };
        let hand_over = HandOver {
            demands: life.demands.clone(),
            life: life.events.clone(),
            settle: Arc::clone(&life.settle),
            path: path.clone(),
            started: facts.started,
            link,
        };
        let task = tokio::task::spawn_local(async move {
            hand_over.wait(listener).await;
            drop(file);
        });
        Ok(Waiting { path, socket, file: handle, task: task.abort_handle() })
    }
}

impl Waiting {
    /// Waits no longer.
    pub(super) fn end(self) {
        self.task.abort();
    }
}

/// Binds the admin listener, unless its socket is inherited.
pub(super) fn bind_admin(
    plan: &Plan,
    connections: usize,
    predecessor: Option<&mut Predecessor>,
) -> Result<Option<PendingAdmin>, StartError> {
    let Some(settings) = &plan.admin else { return Ok(None) };
    let inherited =
        predecessor.and_then(|predecessor| predecessor.admin.take_if(|(address, _)| is_same_admin(address, settings)));
    if let Some((_, socket)) = inherited {
        return Ok(Some(PendingAdmin::Inherited(settings.clone(), socket, connections)));
    }
    let bound = BoundAdmin::bind(settings, true).map_err(|error| StartError::Admin(settings.address.clone(), error))?;
    Ok(Some(PendingAdmin::Bound(bound, connections)))
}

/// Binds the socket for a successor, unless it is inherited.
pub(super) fn bind_waiting(
    path: Option<&Path>,
    predecessor: Option<&mut Predecessor>,
) -> Result<Option<PendingWaiting>, StartError> {
    let Some(path) = path else { return Ok(None) };
    let inherited =
        predecessor.and_then(|predecessor| predecessor.waiting.take_if(|(known, _)| Path::new(known) == path));
    if let Some((_, socket)) = inherited {
        return Ok(Some(PendingWaiting::Inherited(path.into(), socket)));
    }
    let bound = BoundWaiting::bind(path).map_err(|error| StartError::Handover(path.into(), error))?;
    Ok(Some(PendingWaiting::Bound(bound)))
}

/// Returns whether both mean the same address.
fn is_same_admin(inherited: &str, settings: &admin::Settings) -> bool {
    inherited == settings.address.to_string()
}
