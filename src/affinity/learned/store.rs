//! Owns: the tables of a process, and the channel from each to what keeps it in sync with a store.
//! Invariant: nobody waits to send: what does not fit is made up for by comparing table and store.
//! Must not know: what a store is, requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::record::{SessionKey, SessionRecord};
use super::table::SessionTable;

/// How much may be waiting to be told to a store.
const QUEUE: usize = 16_384;

/// What is asked of a store, or told to it.
#[derive(Debug)]
pub enum StoreCommand {
    /// What does it know of this session?
    Query(SessionKey, oneshot::Sender<Option<SessionRecord>>),
    /// A session was learned or has moved.
    Write(SessionKey, SessionRecord),
    /// A session was seen.
    Touch(SessionKey),
    /// A session has ended.
    Remove(SessionKey),
}

/// The way to whoever keeps a store in touch.
#[derive(Debug, Clone)]
pub struct StoreLink {
    commands: mpsc::Sender<StoreCommand>,
    state: Arc<StoreState>,
}

/// What both sides of the way know.
#[derive(Debug, Default)]
pub struct StoreState {
    /// The store answers, and in time: it is worth asking.
    pub is_responsive: AtomicBool,
    /// Something could not be told: table and store have to be compared.
    pub needs_resync: AtomicBool,
}

impl StoreLink {
    pub(super) fn query(&self, key: SessionKey) -> Option<oneshot::Receiver<Option<SessionRecord>>> {
        if !self.state.is_responsive.load(Ordering::Relaxed) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.commands.try_send(StoreCommand::Query(key, sender)).ok().map(|()| receiver)
    }

    pub(super) fn send(&self, command: StoreCommand) {
        if self.commands.try_send(command).is_err() {
            self.state.needs_resync.store(true, Ordering::Relaxed);
        }
    }
}

/// One pool's table and the store it is to be kept in touch with.
#[derive(Debug)]
pub struct StoreSync {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The address of the store; may hold a password.
    pub address: String,
    /// The table.
    pub table: Arc<SessionTable>,
    /// Seconds that the store keeps a session that is not seen.
    pub retention: u64,
    /// What to ask and tell.
    pub commands: mpsc::Receiver<StoreCommand>,
    /// What is known of the store.
    pub state: Arc<StoreState>,
}

/// The tables of a process, by pool: what was learned outlives a reload.
#[derive(Debug, Default)]
pub struct SessionTables {
    by_pool: HashMap<String, (Arc<SessionTable>, Option<StoreLink>)>,
    stores: Vec<StoreSync>,
}

impl SessionTables {
    pub(super) fn open(
        &mut self,
        pool: &str,
        capacity: usize,
        store: Option<&str>,
        retention: u64,
    ) -> (Arc<SessionTable>, Option<StoreLink>) {
        if let Some((table, link)) = self.by_pool.get(pool) {
            table.set_capacity(capacity);
            return (Arc::clone(table), link.clone());
        }
        let table = Arc::new(SessionTable::new(capacity));
        let link = store.map(|address| {
            let ((commands, receiver), state) = (mpsc::channel(QUEUE), Arc::<StoreState>::default());
            self.stores.push(StoreSync {
                pool: pool.into(),
                address: address.into(),
                table: Arc::clone(&table),
                retention,
                commands: receiver,
                state: Arc::clone(&state),
            });
            StoreLink { commands, state }
        });
        self.by_pool.insert(pool.into(), (Arc::clone(&table), link.clone()));
        (table, link)
    }

    /// The stores that nobody keeps in touch yet.
    pub fn take_stores(&mut self) -> Vec<StoreSync> {
        std::mem::take(&mut self.stores)
    }
}
