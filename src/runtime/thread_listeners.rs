//! Owns: the listeners of one thread, which open and close while it runs.
//! Invariant: only the listeners that are removed close, and only their connections drain.
//! Must not know: how a connection is accepted or served; who decides which listeners there are.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::commands::{ThreadCommand, ThreadLimits};
use super::conn_context::ConnContext;
use super::conn_timeouts::ShutdownGrace;
use super::connection_limit::ConnectionLimit;
use super::listen::{self, Accepting, CurrentContext, ThreadConnections, ThreadListener};
use super::polling::wait_until;
use super::shutdown::Shutdown;
use super::socket_files::ListenerId;
use crate::clock;
use crate::handler::Handler;

/// The listeners of one thread.
pub(super) struct ThreadListeners<H: Handler> {
    thread: usize,
    handler: Rc<H>,
    clock: clock::Deadlines,
    limits: ThreadLimits,
    connections: Rc<ThreadConnections>,
    /// The shutdown of the process.
    shutdown: Rc<Shutdown>,
    open: HashMap<ListenerId, OpenListener<H>>,
    /// The tasks that accept connections, also at listeners that close.
    accepting: JoinSet<std::io::Result<()>>,
}

struct OpenListener<H: Handler> {
    context: CurrentContext<H>,
    shutdown: Rc<Shutdown>,
    accepting: watch::Sender<Accepting>,
}

impl<H: Handler> ThreadListeners<H> {
    pub(super) fn new(
        thread: usize,
        handler: Rc<H>,
        clock: clock::Deadlines,
        limits: ThreadLimits,
        limit: std::sync::Arc<ConnectionLimit>,
    ) -> ThreadListeners<H> {
        ThreadListeners {
            thread,
            handler,
            clock,
            limits,
            connections: Rc::new(ThreadConnections::new(limit)),
            shutdown: Rc::default(),
            open: HashMap::new(),
            accepting: JoinSet::new(),
        }
    }

    /// Carries out a command.
    pub(super) fn carry_out(&mut self, command: ThreadCommand<H::Listener>) {
        match command {
            ThreadCommand::Open(id, bound) => self.open(id, bound),
            ThreadCommand::Pause(id) => self.set_accepting(id, Accepting::Pause),
            ThreadCommand::Resume(id) => self.set_accepting(id, Accepting::On),
            ThreadCommand::Close(id, grace) => self.close(id, grace),
            ThreadCommand::Limits(limits) => self.set_limits(limits),
        }
    }

    fn open(&mut self, id: ListenerId, bound: ThreadListener<H::Listener>) {
        let shutdown = Shutdown::of_listener(&self.shutdown);
        let context = Rc::new(RefCell::new(self.context(&shutdown)));
        let accepting = watch::Sender::new(Accepting::On);
        for socket in bound.sockets {
            let (transport, connections) = (std::sync::Arc::clone(&bound.transport), Rc::clone(&self.connections));
            let accepting = accepting.subscribe();
            let accept = listen::accept(socket, transport, self.thread, Rc::clone(&context), connections, accepting);
            self.accepting.spawn_local(accept);
        }
        self.open.insert(id, OpenListener { context, shutdown, accepting });
    }

    fn close(&mut self, id: ListenerId, grace: ShutdownGrace) {
        let Some(listener) = self.open.remove(&id) else { return };
        listener.shutdown.drain(grace.idle);
        listener.accepting.send_replace(Accepting::Close(grace));
        self.clock.wake_all();
    }

    fn set_accepting(&self, id: ListenerId, accepting: Accepting) {
        if let Some(listener) = self.open.get(&id) {
            listener.accepting.send_replace(accepting);
        }
    }

    fn set_limits(&mut self, limits: ThreadLimits) {
        self.limits = limits;
        for listener in self.open.values() {
            listener.context.replace(self.context(&listener.shutdown));
        }
    }

    fn context(&self, shutdown: &Rc<Shutdown>) -> Rc<ConnContext<H>> {
        let ThreadLimits { limits, per_client } = self.limits.clone();
        let (handler, clock) = (Rc::clone(&self.handler), self.clock.clone());
        Rc::new(ConnContext::new(handler, limits, per_client, clock, Rc::clone(shutdown)))
    }

    /// Waits until accepting connections fails at a listener; forever if it doesn't.
    pub(super) async fn failed(&mut self) {
        while let Some(ended) = self.accepting.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "a listener failed; restart this process");
                    return;
                }
                Err(_) => return,
            }
        }
        std::future::pending().await
    }

    /// Has all listeners stop accepting connections in this way. One that has stopped already stays as it is.
    pub(super) fn stop_accepting(&self, how: Accepting) {
        for listener in self.open.values() {
            listener.accepting.send_replace(how);
        }
    }

    /// Waits until no listener accepts connections any more, and none is open.
    pub(super) async fn all_closed(&mut self, connections: &ThreadConnections) {
        while self.accepting.join_next().await.is_some() {}
        wait_until(|| connections.open.get() == 0).await;
    }

    /// Sets whether all clients are told to close their connections.
    pub(super) fn announce_stop(&self, is_announced: bool) {
        self.shutdown.announce(is_announced);
        self.clock.wake_all();
    }

    /// Begins to drain all connections: each may send one more request, if it arrives within `idle`.
    pub(super) fn drain(&self, idle: Duration) {
        self.shutdown.drain(idle);
        self.clock.wake_all();
    }

    /// Stops accepting connections at once.
    pub(super) fn abort(&mut self) {
        self.accepting.abort_all();
    }

    /// Ends the grace period of the process: requests without a response are abandoned now.
    pub(super) fn abandon_requests(&self) {
        self.shutdown.end_grace();
        self.clock.wake_all();
    }

    /// The number of open connections.
    pub(super) fn connections(&self) -> usize {
        self.connections.open.get()
    }

    /// Returns the counter of open connections.
    pub(super) fn connection_counter(&self) -> Rc<ThreadConnections> {
        Rc::clone(&self.connections)
    }
}
