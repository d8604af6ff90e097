//! Owns: the channel from a pool's copies to the task that keeps them in a store that several Linchpins share.
//! Invariant: no sender waits for room: a command that does not fit is not carried out, and its sender learns of that.
//! Must not know: what kind of store it is, requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::fields::NewState;
use super::session_ref::SessionRef;
use super::version::Version;

/// The most commands that wait for the task. Each has a copy of `max` bytes at most.
const QUEUE: usize = 1024;

/// The state of a session in a shared store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedState {
    /// A copy, and how long the application keeps the session, in seconds.
    Held(Bytes, Option<u64>),
    /// The session has ended.
    Dropped,
    /// There is no copy.
    Lost,
}

impl SharedState {
    /// Returns what a response of this term brings, with its version. What can't be read has no seq, and replaces
    /// whatever is there.
    pub fn of(new: &NewState, term: u32) -> (Version, SharedState) {
        match new {
            NewState::Save { version, ttl, bytes } => (*version, SharedState::Held(bytes.clone(), *ttl)),
            NewState::Drop(version) => (*version, SharedState::Dropped),
            NewState::Unchanged | NewState::Unusable(..) => (Version { term, seq: 0 }, SharedState::Lost),
        }
    }
}

/// What a shared store knows of a session whose term it has just raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The term of the hand-over. No other server gets it.
    pub term: u32,
    /// The newest state, if there is one.
    pub newest: Option<(Version, SharedState)>,
}

/// What a shared store did with a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedSaved {
    /// It is the newest.
    Stored,
    /// A newer one is there.
    Stale,
    /// Another server holds the session in this term or a later one: this one.
    Fenced(u32),
}

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
    /// Extends the life of a session.
    Touch(SessionRef),
}

/// The sending half of the channel.
#[derive(Debug, Clone)]
pub struct SharedLink {
    commands: mpsc::Sender<SharedCommand>,
    is_responsive: Arc<AtomicBool>,
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
}

impl SharedLink {
    /// Makes both halves of the channel.
    pub(super) fn new(pool: &Arc<str>, address: &str, lifetime: u64) -> (SharedLink, SharedStoreSync) {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let is_responsive = Arc::<AtomicBool>::default();
        let sync = SharedStoreSync {
            pool: Arc::clone(pool),
            address: address.into(),
            lifetime,
            commands: receiver,
            is_responsive: Arc::clone(&is_responsive),
        };
        (SharedLink { commands, is_responsive }, sync)
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

    /// Stores a state. Returns `None` if the store is not responsive.
    pub fn save(
        &self,
        session: SessionRef,
        version: Version,
        server: &Arc<str>,
        state: SharedState,
    ) -> Option<oneshot::Receiver<Option<SharedSaved>>> {
        let server = Arc::clone(server);
        self.ask(|reply| SharedCommand::Save { session, version, server, state, reply })
    }

    /// Extends the life of a session.
    pub fn touch(&self, session: SessionRef) {
        if self.is_responsive.load(Ordering::Relaxed) {
            // What does not fit is made up for by the next touch.
            let _ = self.commands.try_send(SharedCommand::Touch(session));
        }
    }

    fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Option<T>>) -> SharedCommand,
    ) -> Option<oneshot::Receiver<Option<T>>> {
        if !self.is_responsive.load(Ordering::Relaxed) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.commands.try_send(command(sender)).ok().map(|()| receiver)
    }
}
