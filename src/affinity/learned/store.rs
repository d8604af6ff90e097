//! Owns: the tables of a process, and the channel from each table to the task that syncs it with a store.
//! Invariant: no sender ever waits: if a command does not fit into the channel, table and store are compared later.
//! Must not know: what kind of store it is, requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::record::{SessionKey, SessionRecord};
use super::table::SessionTable;

/// The most commands that wait for the sync task.
const QUEUE: usize = 16_384;

/// A command to a store.
#[derive(Debug)]
pub enum StoreCommand {
    /// Reads a session and sends the record back.
    Query(SessionKey, oneshot::Sender<Option<SessionRecord>>),
    /// Writes a session that was learned or has moved.
    Write(SessionKey, SessionRecord),
    /// Extends the lifetime of a session that was seen.
    Touch(SessionKey),
    /// Removes a session that has ended.
    Remove(SessionKey),
}

/// The sending half of the channel to the sync task.
#[derive(Debug, Clone)]
pub struct StoreLink {
    commands: mpsc::Sender<StoreCommand>,
    state: Arc<StoreState>,
}

/// The state that both halves of the channel share.
#[derive(Debug, Default)]
pub struct StoreState {
    /// The store replies in time: queries make sense.
    pub is_responsive: AtomicBool,
    /// A command was dropped, or the store is not the one that it was: table and store must be compared.
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

/// The sync task's half: one pool's table, and the store to sync it with.
#[derive(Debug)]
pub struct StoreSync {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The address of the store. May contain a password.
    pub address: String,
    /// The table.
    pub table: Arc<SessionTable>,
    /// How long the store keeps a session after its last request, in seconds.
    pub retention: u64,
    /// The commands to carry out.
    pub commands: mpsc::Receiver<StoreCommand>,
    /// The state of the store.
    pub state: Arc<StoreState>,
}

/// The tables of a process, by pool. They outlive a reload.
#[derive(Debug, Default)]
pub struct SessionTables {
    by_pool: HashMap<String, PoolTable>,
    stores: Vec<StoreSync>,
}

/// The table of one pool.
#[derive(Debug)]
struct PoolTable {
    table: Arc<SessionTable>,
    /// The link to the store, with its address and retention.
    link: Option<(StoreLink, String, u64)>,
}

impl SessionTables {
    /// Returns the table of a pool and the link to its store. Creates the table the first time, and the link whenever
    /// the store is another one.
    pub(super) fn open(
        &mut self,
        pool: &str,
        capacity: usize,
        store: Option<&str>,
        retention: u64,
    ) -> (Arc<SessionTable>, Option<StoreLink>) {
        let known = self.by_pool.remove(pool);
        let (table, known_link) = match known {
            Some(PoolTable { table, link }) => (table, link),
            None => (Arc::new(SessionTable::new(capacity)), None),
        };
        table.set_capacity(capacity);
        let is_same = |(_, at, kept): &(StoreLink, String, u64)| Some(at.as_str()) == store && *kept == retention;
        let link = known_link.filter(is_same).map(|(link, ..)| link);
        let link = link.or_else(|| {
            let address = store?;
            let ((commands, receiver), state) = (mpsc::channel(QUEUE), Arc::<StoreState>::default());
            self.stores.push(StoreSync {
                pool: pool.into(),
                address: address.into(),
                table: Arc::clone(&table),
                retention,
                commands: receiver,
                state: Arc::clone(&state),
            });
            Some(StoreLink { commands, state })
        });
        let kept = link.clone().zip(store).map(|(link, address)| (link, address.to_owned(), retention));
        self.by_pool.insert(pool.into(), PoolTable { table: Arc::clone(&table), link: kept });
        (table, link)
    }

    /// Forgets the tables of all pools that `is_learning` rejects.
    pub fn retain(&mut self, is_learning: impl Fn(&str) -> bool) {
        self.by_pool.retain(|pool, _| is_learning(pool));
    }

    /// Takes the stores for which no sync task runs yet.
    pub fn take_stores(&mut self) -> Vec<StoreSync> {
        std::mem::take(&mut self.stores)
    }
}
