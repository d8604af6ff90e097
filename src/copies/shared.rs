//! Owns: the channel from a pool's copies to the task that keeps them in a store that several Linchpins share.
//! Invariant: no sender waits for room: a command that does not fit is not carried out, and its sender learns of that.
//! Must not know: what kind of store it is, requests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{mpsc, oneshot};

use super::holder::Holder;
use super::session_ref::SessionRef;
use super::shared_state::{Fetched, SharedSaved, SharedState};
use super::store::CopyStore;
use super::version::Version;
use crate::pool::Pool;

/// The most commands that wait for the task. Each has a copy of `max` bytes at most.
const QUEUE: usize = 1024;

/// A command to a shared store. Names of servers are those of their backends.
#[derive(Debug)]
pub enum SharedCommand {
    /// Raises the term of a session above `term` for a hand-over to `server`, and reads the newest state.
    HandOver {
        /// The session.
        session: SessionRef,
        /// The term that this Linchpin knows.
        term: u32,
        /// The next server.
        server: Arc<str>,
        /// Where the result goes.
        reply: oneshot::Sender<Option<Fetched>>,
    },
    /// Reads what is known of a session whose server is `server`.
    Look {
        /// The session.
        session: SessionRef,
        /// The server.
        server: Arc<str>,
        /// Where the result goes.
        reply: oneshot::Sender<Option<Fetched>>,
    },
    /// Stores a state that `server` has sent, unless it is not the newest.
    Save {
        /// The session.
        session: SessionRef,
        /// The version of the state. Without a seq, the state replaces whatever is there.
        version: Version,
        /// The server.
        server: Arc<str>,
        /// The state.
        state: SharedState,
        /// Where the result goes.
        reply: oneshot::Sender<Option<SharedSaved>>,
    },
    /// Extends the life of a session. If the store does not know it any more, it gets the copy again.
    Touch(SessionRef),
    /// Compares what the store knows of a session with what is known here.
    Compare(SessionRef),
}

/// The names of a pool's servers. A shared store knows servers by name, since their numbers differ in each process.
#[derive(Debug, Default)]
pub struct ServerNames(RwLock<HashMap<usize, Arc<str>>>);

impl ServerNames {
    /// Returns the name of a server of the pool.
    pub fn of(&self, holder: Holder) -> Option<Arc<str>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&holder.backend).cloned()
    }

    fn set(&self, names: HashMap<usize, Arc<str>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = names;
    }
}

/// The sending half of the channel.
#[derive(Debug, Clone)]
pub struct SharedLink {
    commands: mpsc::Sender<SharedCommand>,
    is_responsive: Arc<AtomicBool>,
    needs_refill: Arc<AtomicBool>,
    servers: Arc<ServerNames>,
}

/// The half of the task: the store of one pool's copies.
#[derive(Debug)]
pub struct SharedStoreSync {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The address of the store. May contain a password.
    pub address: String,
    /// How long the store keeps a session without requests, in seconds.
    pub lifetime: u64,
    /// The commands to carry out.
    pub commands: mpsc::Receiver<SharedCommand>,
    /// Whether the store replies in time: commands make sense.
    pub is_responsive: Arc<AtomicBool>,
    /// A state was not sent to the store.
    pub needs_refill: Arc<AtomicBool>,
    /// The copies of this process, with which the store is compared after an outage.
    pub copies: Arc<CopyStore>,
    /// The names of the pool's servers.
    pub servers: Arc<ServerNames>,
}

impl SharedLink {
    /// Makes both halves of the channel.
    pub(super) fn new(
        pool: &Arc<str>,
        address: &str,
        lifetime: u64,
        copies: &Arc<CopyStore>,
    ) -> (SharedLink, SharedStoreSync) {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let is_responsive = Arc::<AtomicBool>::default();
        let (needs_refill, servers) = (Arc::<AtomicBool>::default(), Arc::<ServerNames>::default());
        let sync = SharedStoreSync {
            pool: Arc::clone(pool),
            address: address.into(),
            lifetime,
            commands: receiver,
            is_responsive: Arc::clone(&is_responsive),
            needs_refill: Arc::clone(&needs_refill),
            copies: Arc::clone(copies),
            servers: Arc::clone(&servers),
        };
        (SharedLink { commands, is_responsive, needs_refill, servers }, sync)
    }

    /// Sets the names of the pool's servers.
    pub fn set_servers(&self, pool: &Pool) {
        let names = pool.backends().iter().map(|backend| (backend.live().id(), Arc::clone(backend.name())));
        self.servers.set(names.collect());
    }

    /// Returns whether the store replies in time.
    pub fn is_responsive(&self) -> bool {
        self.is_responsive.load(Ordering::Relaxed)
    }

    /// Raises the term of a session for a hand-over. Returns `None` if the store is not responsive.
    pub fn hand_over(
        &self,
        session: SessionRef,
        term: u32,
        server: &Arc<str>,
    ) -> Option<oneshot::Receiver<Option<Fetched>>> {
        let server = Arc::clone(server);
        self.ask(|reply| SharedCommand::HandOver { session, term, server, reply })
    }

    /// Reads what is known of a session whose server is `server`. Returns `None` if the store is not responsive.
    pub fn look(&self, session: SessionRef, server: &Arc<str>) -> Option<oneshot::Receiver<Option<Fetched>>> {
        let server = Arc::clone(server);
        self.ask(|reply| SharedCommand::Look { session, server, reply })
    }

    /// Stores a state. Returns `None` if the store is not responsive.
    pub fn save(
        &self,
        session: SessionRef,
        version: Version,
        server: &Arc<str>,
        state: SharedState,
    ) -> Option<oneshot::Receiver<Option<SharedSaved>>> {
        let server = Arc::clone(server);
        let sent = self.ask(|reply| SharedCommand::Save { session, version, server, state, reply });
        if sent.is_none() {
            self.needs_refill.store(true, Ordering::Relaxed);
        }
        sent
    }

    /// Extends the life of a session.
    pub fn touch(&self, session: SessionRef) {
        // What does not fit is made up for by the next touch.
        self.tell(SharedCommand::Touch(session));
    }

    /// Compares what the store knows of a session with what is known here.
    pub fn compare(&self, session: SessionRef) {
        if !self.tell(SharedCommand::Compare(session)) {
            self.needs_refill.store(true, Ordering::Relaxed);
        }
    }

    fn tell(&self, command: SharedCommand) -> bool {
        self.is_responsive() && self.commands.try_send(command).is_ok()
    }

    fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Option<T>>) -> SharedCommand,
    ) -> Option<oneshot::Receiver<Option<T>>> {
        if !self.is_responsive() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.commands.try_send(command(sender)).ok().map(|()| receiver)
    }
}
