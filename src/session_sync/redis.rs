//! Owns: a pool's connection to its Redis: commands, messages of other Linchpins, comparisons of table and store.
//! Invariant: each wait has a time limit; a client's request waits for at most a tenth of a second.
//! Must not know: when to reconnect after a failure.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use redis::AsyncCommands;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::connection::{Connection, Error, Servers, Subscription};
use super::format::{END_SCRIPT, ENDED, ENDED_TTL, PREFIX, WRITE_SCRIPT, decode, encode};
use super::marker::Markers;
use super::script::StoreScript;
use super::skew::Skew;
use crate::affinity::learned::{SessionKey, SessionRecord, SessionTable, StoreCommand, StoreState, StoreSync};
use crate::clock;

/// The longest time that a client's request waits for a query.
const QUERY_TIMEOUT: Duration = Duration::from_millis(100);
/// The time between two health probes of the store.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// The most commands in flight. Above that, queries return nothing and other commands are made up for by a comparison.
const MAX_IN_FLIGHT: usize = 4096;
/// Sessions that are compared at once.
const COMPARE_BATCH: usize = 256;

/// An open connection to the store of one pool.
pub(super) struct StoreConnection {
    store: Arc<RedisStore>,
    subscription: Subscription,
    connection: Connection,
}

/// What every command needs: names, scripts, the table, and the state of the store.
struct RedisStore {
    prefix: String,
    channel: String,
    table: Arc<SessionTable>,
    state: Arc<StoreState>,
    retention: u64,
    skew: Skew,
    markers: Markers,
    write_script: StoreScript,
    end_script: StoreScript,
}

impl StoreConnection {
    /// Connects, and subscribes to the messages of other Linchpins.
    ///
    /// # Errors
    /// Returns an error if Redis refuses or does not reply in time.
    pub(super) async fn open(sync: &StoreSync) -> Result<StoreConnection, Error> {
        let servers = Servers::find(&sync.address).await?;
        // Redis has databases for keys, but not for channels.
        let database = servers.database();
        let connection = servers.connect().await?;
        let prefix = format!("{PREFIX}{}", sync.pool);
        let store = RedisStore {
            markers: Markers::new(&prefix, connection.is_cluster()),
            prefix,
            channel: format!("{PREFIX}{database}:{}", sync.pool),
            table: Arc::clone(&sync.table),
            state: Arc::clone(&sync.state),
            retention: sync.retention,
            skew: Skew::default(),
            write_script: StoreScript::new(WRITE_SCRIPT),
            end_script: StoreScript::new(END_SCRIPT),
        };
        // Subscribe before the first comparison, so that no message is missed.
        let subscription = servers.subscribe(&store.channel).await?;
        // Read the store's clock before any session is read or written.
        store.probe(&connection, &|| {}).await?;
        Ok(StoreConnection { store: Arc::new(store), subscription, connection })
    }

    /// Carries out commands and receives messages until the connection ends.
    pub(super) async fn run(mut self, sync: &mut StoreSync) -> Error {
        let (mut in_flight, mut checks) = (JoinSet::new(), JoinSet::new());
        let mut probes = tokio::time::interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut comparing = None;
        loop {
            let compared = async {
                match comparing.as_mut() {
                    Some(comparing) => comparing.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = sync.commands.recv() => match command {
                    None => return Error::Stopped,
                    Some(StoreCommand::Query(_, reply)) if in_flight.len() >= MAX_IN_FLIGHT => drop(reply.send(None)),
                    Some(_) if in_flight.len() >= MAX_IN_FLIGHT => self.store.state.needs_resync.store(true, Ordering::Relaxed),
                    Some(command) => drop(in_flight.spawn(carry_out(Arc::clone(&self.store), self.connection.clone(), command))),
                },
                message = self.subscription.messages.next() => match message {
                    None => return Error::Unsubscribed,
                    Some(message) => self.store.receive(message.get_payload_bytes()),
                },
                Some(done) = in_flight.join_next() => match done {
                    // One session's key must not cost the others their store.
                    Ok(Err(error)) if error.is_of_value() => {}
                    Ok(Err(error)) => return error,
                    _ => {}
                },
                Some(done) = checks.join_next() => if let Ok(Err(error)) = done { return error },
                done = compared => {
                    comparing = None;
                    if let Err(error) = done { return error }
                }
                _ = probes.tick() => {
                    checks.spawn(check_health(Arc::clone(&self.store), self.connection.clone()));
                    checks.spawn(self.subscription.check());
                    // One comparison at a time, however many commands were dropped.
                    if comparing.is_none() && self.store.state.needs_resync.swap(false, Ordering::Relaxed) {
                        comparing = Some(Box::pin(compare(Arc::clone(&self.store), self.connection.clone())));
                    }
                }
            }
        }
    }
}

/// Probes the store, and marks it as responsive or slow.
async fn check_health(store: Arc<RedisStore>, connection: Connection) -> Result<(), Error> {
    let (begun, has_replied) = (clock::now(), AtomicBool::new(false));
    // Of a cluster, the first node that replies in time will do.
    let replied = || {
        if clock::now().saturating_duration_since(begun) < QUERY_TIMEOUT {
            has_replied.store(true, Ordering::Relaxed);
            store.state.is_responsive.store(true, Ordering::Relaxed);
        }
    };
    let mut probe = std::pin::pin!(store.probe(&connection, &replied));
    match tokio::time::timeout(QUERY_TIMEOUT, &mut probe).await {
        Ok(done) => done,
        Err(_) => {
            if !has_replied.load(Ordering::Relaxed) {
                store.mark_slow();
            }
            probe.await
        }
    }
}

/// Carries out a command. In a cluster, a command that fails is made up for by a comparison: the other nodes work.
async fn carry_out(store: Arc<RedisStore>, mut connection: Connection, command: StoreCommand) -> Result<(), Error> {
    match store.carry_out(&mut connection, command).await {
        Err(error) if connection.is_cluster() && !error.is_of_value() => {
            store.markers.note_failure();
            Ok(())
        }
        done => done,
    }
}

/// Writes all sessions of the table to the store, and adopts the records of which the store has a higher version.
async fn compare(store: Arc<RedisStore>, connection: Connection) -> Result<(), Error> {
    for chunk in store.table.chunks() {
        for batch in chunk.chunks(COMPARE_BATCH) {
            let writes = batch.iter().map(|(key, record)| {
                let (store, mut connection) = (&store, connection.clone());
                async move {
                    // A session that was not seen for that long has expired, even if the table still has it.
                    if clock::unix().as_secs().saturating_sub(record.last_seen) < store.retention {
                        store.write(&mut connection, *key, record, false).await?;
                    }
                    Ok::<_, Error>(())
                }
            });
            for done in join_all(writes).await {
                match done {
                    // A node that is back counts as one whose marker has changed.
                    Err(error) if !error.is_of_value() && !connection.is_cluster() => return Err(error),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

impl RedisStore {
    fn redis_key(&self, key: impl fmt::Display) -> String {
        format!("{}:{key}", self.prefix)
    }

    async fn carry_out(&self, connection: &mut Connection, command: StoreCommand) -> Result<(), Error> {
        match command {
            StoreCommand::Query(key, reply) => self.query(connection, key, reply).await,
            StoreCommand::Write(key, record) => self.write(connection, key, &record, true).await,
            StoreCommand::Touch(key) => {
                let is_there: bool = connection.expire(self.redis_key(key), self.retention.cast_signed()).await?;
                match self.table.get(key) {
                    Some(record) if !is_there => self.write(connection, key, &record, false).await,
                    _ => Ok(()),
                }
            }
            StoreCommand::Remove(key) => {
                let arguments = (&self.channel, key.to_string(), ENDED_TTL);
                self.end_script.run(connection, &self.redis_key(key), arguments).await
            }
        }
    }

    /// Reads the store's clock and its markers. Calls `replied` with each reply. A changed marker calls for a comparison.
    async fn probe(&self, connection: &Connection, replied: &(dyn Fn() + Sync)) -> Result<(), Error> {
        let probe = self.markers.probe(connection, replied).await?;
        probe.clock.into_iter().for_each(|(sent, theirs, replied)| self.skew.note(sent, theirs, replied));
        if probe.has_changed {
            self.state.needs_resync.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn query(
        &self,
        connection: &mut Connection,
        key: SessionKey,
        reply: oneshot::Sender<Option<SessionRecord>>,
    ) -> Result<(), Error> {
        let query = connection.get::<_, Option<String>>(self.redis_key(key));
        let known = tokio::time::timeout(QUERY_TIMEOUT, query).await;
        let record = match known {
            Ok(known) => known?.and_then(|text| self.decode_seen(&text, 0)),
            Err(_) => {
                // Of a cluster, it says nothing about the other nodes.
                if !connection.is_cluster() {
                    self.mark_slow();
                }
                None
            }
        };
        // The request may have ended meanwhile.
        let _ = reply.send(record);
        Ok(())
    }

    /// Stops queries until a probe succeeds in time.
    fn mark_slow(&self) {
        if self.state.is_responsive.swap(false, Ordering::Relaxed) {
            let pool = self.prefix.trim_start_matches(PREFIX);
            tracing::warn!(
                pool,
                "the store of learned sessions takes longer than 100ms to reply; this Linchpin uses its own table alone \
                 until the store is faster; check the load of Redis and the network to it"
            );
        }
    }

    /// Writes a session, or adopts the store's record if that has a higher version. Unless the session was `learned`
    /// just now, the store may know that it has ended: then the table removes it.
    async fn write(
        &self,
        connection: &mut Connection,
        key: SessionKey,
        record: &SessionRecord,
        learned: bool,
    ) -> Result<(), Error> {
        let value = encode(&self.skew, record);
        let removals = self.table.removals(key);
        // The time since the last request counts: a session is not kept longer because the store was unreachable.
        let silence = clock::unix().as_secs().saturating_sub(record.last_seen);
        let retention = self.retention.saturating_sub(silence).max(1);
        let message = format!("{key} {silence} {value}");
        let arguments = (record.version, &value, retention, &self.channel, message, u8::from(learned));
        let known: Option<String> = self.write_script.run(connection, &self.redis_key(key), arguments).await?;
        match known {
            Some(known) if known == ENDED => drop(self.table.remove(key)),
            Some(known) => {
                // A comparison does not count as a request, so the record keeps its own time. The end of a session
                // arrives on the other connection, and can overtake this reply.
                let known = self.decode_seen(&known, silence);
                known.iter().for_each(|known| self.table.adopt_unless_removed(key, known, removals));
            }
            None => {}
        }
        Ok(())
    }

    /// Receives a message of another Linchpin or of this one: `KEY SILENCE VALUE`, with the seconds since the session's
    /// last request, or `KEY` alone if the session has ended.
    fn receive(&self, message: &[u8]) {
        let Ok(message) = std::str::from_utf8(message) else { return };
        let (key, update) = message.split_once(' ').unwrap_or((message, ""));
        let Ok(key) = key.parse() else { return };
        match update.split_once(' ') {
            Some((silence, value)) => {
                let record = silence.parse().ok().and_then(|silence| self.decode_seen(value, silence));
                record.iter().for_each(|record| self.table.adopt(key, record));
            }
            None if update.is_empty() => drop(self.table.remove(key)),
            None => {}
        }
    }

    /// Decodes a value whose session had its last request `silence` seconds ago.
    fn decode_seen(&self, value: &str, silence: u64) -> Option<SessionRecord> {
        let now = clock::unix().as_secs();
        let record = decode(&self.skew, value, now)?;
        Some(SessionRecord { last_seen: now.saturating_sub(silence), ..record })
    }
}
