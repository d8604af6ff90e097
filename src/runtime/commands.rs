//! Owns: the commands to the worker threads, and how their sender learns that all were carried out.
//! Invariant: a thread that has ended keeps nobody waiting.
//! Must not know: why a command is sent, or how a thread carries it out.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::conn_timeouts::ShutdownGrace;
use super::connection_limit::ConnectionLimit;
use super::listen::ThreadListener;
use super::per_client_limit::PerClientLimit;
use super::settings::Limits;
use super::socket_files::ListenerId;

/// A command to one thread.
pub(super) enum ThreadCommand<L> {
    /// Accept connections at this listener.
    Open(ListenerId, ThreadListener<L>),
    /// Accept no more connections at this listener, but keep its sockets: another process accepts there.
    Pause(ListenerId),
    /// Accept connections at this listener again.
    Resume(ListenerId),
    /// Serve what is in the listener's queue, end its connections as at the end of the process, and close it.
    Close(ListenerId, ShutdownGrace),
    /// Use these limits for the connections that begin from now on.
    Limits(ThreadLimits),
}

/// The limits of the connections that begin.
#[derive(Debug, Clone)]
pub(super) struct ThreadLimits {
    pub(super) limits: Limits,
    /// Counts the connections of each client, if `connections_per_client` limits them.
    pub(super) per_client: Option<Arc<PerClientLimit>>,
}

/// A command, with what tells its sender that it was carried out: by being dropped.
pub(super) struct Envelope<L> {
    pub(super) command: ThreadCommand<L>,
    _acknowledge: mpsc::Sender<()>,
}

/// Sends commands to one thread.
pub(super) struct CommandSender<L>(mpsc::UnboundedSender<Envelope<L>>);

impl<L> CommandSender<L> {
    /// Sends a command. If the thread has ended, the command is dropped, which counts as carried out.
    pub(super) fn send(&self, command: ThreadCommand<L>, acknowledge: &mpsc::Sender<()>) {
        drop(self.0.send(Envelope { command, _acknowledge: acknowledge.clone() }));
    }
}

/// What one thread receives: its commands, and what it starts with.
pub struct Inbox<L> {
    pub(super) commands: mpsc::UnboundedReceiver<Envelope<L>>,
    pub(super) connections: Arc<ConnectionLimit>,
    pub(super) limits: ThreadLimits,
}

impl<L> Inbox<L> {
    pub(super) fn new(
        commands: mpsc::UnboundedReceiver<Envelope<L>>,
        connections: &Arc<ConnectionLimit>,
        limits: &ThreadLimits,
    ) -> Inbox<L> {
        Inbox { commands, connections: Arc::clone(connections), limits: limits.clone() }
    }
}

pub(super) fn command_channel<L>() -> (CommandSender<L>, mpsc::UnboundedReceiver<Envelope<L>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (CommandSender(sender), receiver)
}

/// Completes once all threads have carried out a set of commands.
pub struct Acknowledged(mpsc::Receiver<()>);

impl Acknowledged {
    pub(super) fn new(receiver: mpsc::Receiver<()>) -> Acknowledged {
        Acknowledged(receiver)
    }

    /// Waits until all threads have carried out the commands, for at most this long; returns whether they have.
    pub async fn within(mut self, time: Duration) -> bool {
        // Nothing is ever sent: the channel closes when the last command is dropped.
        tokio::time::timeout(time, self.0.recv()).await.is_ok()
    }
}
