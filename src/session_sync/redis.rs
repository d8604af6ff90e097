//! Owns: a pool's connection to its Redis: commands, messages of other Linchpins, comparisons of table and store.
//! Invariant: each wait has a time limit; a client's request waits for at most a tenth of a second.
//! Must not know: when to reconnect after a failure.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{AsyncCommands, Script};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::connection::{Error, RedisServer};
use super::format::{
    END_SCRIPT, ENDED, ENDED_TTL, MARKER, MARKER_TTL, PREFIX, PROBE_SCRIPT, WRITE_SCRIPT, decode, encode,
};
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
    messages: PubSubStream,
    connection: MultiplexedConnection,
}

/// What every command needs: names, scripts, the table, and the state of the store.
struct RedisStore {
    prefix: String,
    channel: String,
    table: Arc<SessionTable>,
    state: Arc<StoreState>,
    retention: u64,
    skew: Skew,
    /// The last marker. `None` at first, so that a new connection always compares table and store.
    marker: Mutex<Option<String>>,
    write_script: Script,
    end_script: Script,
    probe_script: Script,
}

impl StoreConnection {
    /// Connects, and subscribes to the messages of other Linchpins.
    ///
    /// # Errors
    /// Returns an error if Redis refuses or does not reply in time.
    pub(super) async fn open(sync: &StoreSync) -> Result<StoreConnection, Error> {
        let server = RedisServer::new(&sync.address)?;
        // Redis has databases for keys, but not for channels.
        let database = server.database();
        let store = RedisStore {
            prefix: format!("{PREFIX}{}", sync.pool),
            channel: format!("{PREFIX}{database}:{}", sync.pool),
            table: Arc::clone(&sync.table),
            state: Arc::clone(&sync.state),
            retention: sync.retention,
            skew: Skew::default(),
            marker: Mutex::default(),
            write_script: Script::new(WRITE_SCRIPT),
            end_script: Script::new(END_SCRIPT),
            probe_script: Script::new(PROBE_SCRIPT),
        };
        let mut connection = server.connect().await?;
        // Subscribe before the first comparison, so that no message is missed.
        let messages = server.subscribe(&store.channel).await?;
        // Read the store's clock before any session is read or written.
        store.probe(&mut connection).await?;
        Ok(StoreConnection { store: Arc::new(store), messages, connection })
    }

    /// Carries out commands and receives messages until the connection ends.
    pub(super) async fn run(mut self, sync: &mut StoreSync) -> Error {
        let mut in_flight = JoinSet::new();
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
                message = self.messages.next() => match message {
                    None => return Error::Unsubscribed,
                    Some(message) => self.store.receive(message.get_payload_bytes()),
                },
                Some(done) = in_flight.join_next() => match done {
                    // One session's key must not cost the others their store.
                    Ok(Err(error)) if error.is_of_value() => {}
                    Ok(Err(error)) => return error,
                    _ => {}
                },
                done = compared => {
                    comparing = None;
                    if let Err(error) = done { return error }
                }
                _ = probes.tick() => {
                    in_flight.spawn(check_health(Arc::clone(&self.store), self.connection.clone()));
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
async fn check_health(store: Arc<RedisStore>, mut connection: MultiplexedConnection) -> Result<(), Error> {
    let mut probe = std::pin::pin!(store.probe(&mut connection));
    match tokio::time::timeout(QUERY_TIMEOUT, &mut probe).await {
        Ok(done) => {
            done?;
            store.state.is_responsive.store(true, Ordering::Relaxed);
        }
        Err(_) => {
            store.mark_slow();
            probe.await?;
        }
    }
    Ok(())
}

async fn carry_out(
    store: Arc<RedisStore>,
    mut connection: MultiplexedConnection,
    command: StoreCommand,
) -> Result<(), Error> {
    match command {
        StoreCommand::Query(key, reply) => store.query(&mut connection, key, reply).await,
        StoreCommand::Write(key, record) => store.write(&mut connection, key, &record, true).await,
        StoreCommand::Touch(key) => {
            let retention = store.retention.cast_signed();
            let is_there: bool = connection.expire(store.redis_key(key), retention).await?;
            match store.table.get(key) {
                Some(record) if !is_there => store.write(&mut connection, key, &record, false).await,
                _ => Ok(()),
            }
        }
        StoreCommand::Remove(key) => {
            let mut end = store.end_script.key(store.redis_key(key));
            end.arg(&store.channel).arg(key.to_string()).arg(ENDED_TTL);
            let () = end.invoke_async(&mut connection).await?;
            Ok(())
        }
    }
}

/// Writes all sessions of the table to the store, and adopts the records of which the store has a higher version.
async fn compare(store: Arc<RedisStore>, connection: MultiplexedConnection) -> Result<(), Error> {
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
                    Err(error) if !error.is_of_value() => return Err(error),
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

    /// Reads the store's clock and marker. A changed marker calls for a comparison.
    async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<(), Error> {
        let mut probe = self.probe_script.key(self.redis_key(MARKER));
        probe.arg(format!("{:016x}", rand::random::<u64>())).arg(MARKER_TTL);
        let sent = clock::unix();
        let (marker, seconds, micros): (String, u64, u64) = probe.invoke_async(connection).await?;
        let time = Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros));
        self.skew.note(sent, time, clock::unix());
        let mut last = self.marker.lock().unwrap_or_else(PoisonError::into_inner);
        if last.replace(marker) != *last {
            self.state.needs_resync.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn query(
        &self,
        connection: &mut MultiplexedConnection,
        key: SessionKey,
        reply: oneshot::Sender<Option<SessionRecord>>,
    ) -> Result<(), Error> {
        let known = tokio::time::timeout(QUERY_TIMEOUT, connection.get::<_, Option<String>>(self.redis_key(key))).await;
        let record = match known {
            Ok(known) => known?.and_then(|text| self.decode_seen(&text, 0)),
            Err(_) => {
                self.mark_slow();
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
        connection: &mut MultiplexedConnection,
        key: SessionKey,
        record: &SessionRecord,
        learned: bool,
    ) -> Result<(), Error> {
        let value = encode(&self.skew, record);
        let removals = self.table.removals(key);
        // The time since the last request counts: a session is not kept longer because the store was unreachable.
        let silence = clock::unix().as_secs().saturating_sub(record.last_seen);
        let mut write = self.write_script.key(self.redis_key(key));
        write
            .arg(record.version)
            .arg(&value)
            .arg(self.retention.saturating_sub(silence).max(1))
            .arg(&self.channel)
            .arg(format!("{key} {silence} {value}"))
            .arg(u8::from(learned));
        let known: Option<String> = write.invoke_async(connection).await?;
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
