//! Owns: what is said to Redis, and how a session is written there.
//! Invariant: each wait has a limit; of two writers of one session the one that knows of more moves wins, whatever their clocks say.
//! Must not know: when to come back after a failure.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{AsyncCommands, AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, Script};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::format::{END, ENDED, ENDED_FOR, LOOK, MARKER, MARKER_FOR, PREFIX, WRITE, read, written};
use super::skew::Skew;
use crate::affinity::learned::{SessionKey, SessionRecord, SessionTable, StoreCommand, StoreState, StoreSync};
use crate::clock;

/// The longest that a client's request waits for an answer.
const ASK: Duration = Duration::from_millis(100);
/// The longest that anything else takes before the store counts as gone.
const TELL: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(1);
/// How often the store is asked whether it is well.
const PING: Duration = Duration::from_millis(500);
/// Commands under way at once; what is asked beyond is answered from the table alone.
const MAX_IN_FLIGHT: usize = 4096;
/// Sessions that are compared at once when table and store are.
const BATCH: usize = 256;

/// Why there is no store.
#[derive(Debug)]
pub(super) enum Error {
    Redis(RedisError),
    Timeout,
    /// The subscription has ended.
    Unsubscribed,
    /// Nobody is left who would ask.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Redis(error) => error.fmt(f),
            Error::Timeout => f.write_str("no answer in time"),
            Error::Unsubscribed => f.write_str("the connection was closed"),
            Error::Stopped => f.write_str("stopping"),
        }
    }
}

impl From<RedisError> for Error {
    fn from(error: RedisError) -> Error {
        Error::Redis(error)
    }
}

pub(super) fn check_address(address: &str) -> Result<(), &'static str> {
    if !address.starts_with("redis://") && !address.starts_with("redis+unix://") {
        return Err("must begin with redis:// or redis+unix://");
    }
    address.into_connection_info().map(drop).map_err(|_| "must be like redis://:password@127.0.0.1:6379/0")
}

/// A connection to the store of one pool.
pub(super) struct StoreConnection {
    store: Arc<RedisStore>,
    messages: PubSubStream,
    connection: MultiplexedConnection,
}

/// What is needed to say anything.
struct RedisStore {
    prefix: String,
    channel: String,
    table: Arc<SessionTable>,
    state: Arc<StoreState>,
    retention: u64,
    skew: Skew,
    /// The marker of the store as it was last seen: none yet, so that one that was just reached counts as changed.
    marker: Mutex<Option<String>>,
    write: Script,
    end: Script,
    look: Script,
}

impl StoreConnection {
    /// Connects and listens to the others.
    ///
    /// # Errors
    /// If that can't be done in time.
    pub(super) async fn open(sync: &StoreSync) -> Result<StoreConnection, Error> {
        let client = Client::open(&*sync.address)?;
        // Keys lie in a database, and channels in none.
        let database = client.get_connection_info().redis_settings().db();
        let store = RedisStore {
            prefix: format!("{PREFIX}{}", sync.pool),
            channel: format!("{PREFIX}{database}:{}", sync.pool),
            table: Arc::clone(&sync.table),
            state: Arc::clone(&sync.state),
            retention: sync.retention,
            skew: Skew::default(),
            marker: Mutex::default(),
            write: Script::new(WRITE),
            end: Script::new(END),
            look: Script::new(LOOK),
        };
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(TELL));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let subscribe = async {
            let mut subscription = client.get_async_pubsub().await?;
            // Before anything is compared: what others say meanwhile is not missed.
            subscription.subscribe(&store.channel).await?;
            Ok::<_, RedisError>(subscription.into_on_message())
        };
        let messages = tokio::time::timeout(CONNECT, subscribe).await.map_err(|_| Error::Timeout)??;
        // Before anything is read or written: what the store's time is.
        store.look(&mut connection).await?;
        Ok(StoreConnection { store: Arc::new(store), messages, connection })
    }

    /// Passes on what is asked and told, until the connection ends.
    pub(super) async fn run(mut self, sync: &mut StoreSync) -> Error {
        let mut in_flight = JoinSet::new();
        let mut ping = tokio::time::interval(PING);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
                    Some(StoreCommand::Query(_, answer)) if in_flight.len() >= MAX_IN_FLIGHT => drop(answer.send(None)),
                    Some(_) if in_flight.len() >= MAX_IN_FLIGHT => self.store.state.needs_resync.store(true, Ordering::Relaxed),
                    Some(command) => drop(in_flight.spawn(carry_out(Arc::clone(&self.store), self.connection.clone(), command))),
                },
                message = self.messages.next() => match message {
                    None => return Error::Unsubscribed,
                    Some(message) => self.store.hear(message.get_payload_bytes()),
                },
                Some(done) = in_flight.join_next() => if let Ok(Err(error)) = done { return error },
                done = compared => {
                    comparing = None;
                    if let Err(error) = done { return error }
                }
                _ = ping.tick() => {
                    in_flight.spawn(check(Arc::clone(&self.store), self.connection.clone()));
                    // One at a time; and not for each thing that was missed.
                    if comparing.is_none() && self.store.state.needs_resync.swap(false, Ordering::Relaxed) {
                        comparing = Some(Box::pin(compare(Arc::clone(&self.store), self.connection.clone())));
                    }
                }
            }
        }
    }
}

/// Whether the store is well enough to be asked, and the one that it was.
async fn check(store: Arc<RedisStore>, mut connection: MultiplexedConnection) -> Result<(), Error> {
    let mut look = std::pin::pin!(store.look(&mut connection));
    match tokio::time::timeout(ASK, &mut look).await {
        Ok(done) => {
            done?;
            store.state.is_responsive.store(true, Ordering::Relaxed);
        }
        Err(_) => {
            store.is_slow();
            look.await?;
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
        StoreCommand::Query(key, answer) => store.ask(&mut connection, key, answer).await,
        StoreCommand::Write(key, found) => store.tell(&mut connection, key, &found, true).await,
        StoreCommand::Touch(key) => {
            let retention = store.retention.cast_signed();
            let is_there: bool = connection.expire(store.place(key), retention).await?;
            match store.table.get(key) {
                Some(found) if !is_there => store.tell(&mut connection, key, &found, false).await,
                _ => Ok(()),
            }
        }
        StoreCommand::Remove(key) => {
            let mut end = store.end.key(store.place(key));
            end.arg(&store.channel).arg(key.to_string()).arg(ENDED_FOR);
            let () = end.invoke_async(&mut connection).await?;
            Ok(())
        }
    }
}

/// Tells the store all that the table has, and takes over what it knows better.
async fn compare(store: Arc<RedisStore>, connection: MultiplexedConnection) -> Result<(), Error> {
    for chunk in store.table.chunks() {
        for batch in chunk.chunks(BATCH) {
            let told = batch.iter().map(|(key, found)| {
                let (store, mut connection) = (&store, connection.clone());
                async move {
                    // What nobody has seen for so long is over, whatever the table still holds.
                    if clock::unix().as_secs().saturating_sub(found.last_seen) < store.retention {
                        store.tell(&mut connection, *key, found, false).await?;
                    }
                    Ok::<_, Error>(())
                }
            });
            for done in join_all(told).await {
                done?;
            }
        }
    }
    Ok(())
}

impl RedisStore {
    fn place(&self, key: impl fmt::Display) -> String {
        format!("{}:{key}", self.prefix)
    }

    /// Looks what the store's time is, and whether it still is what it was.
    async fn look(&self, connection: &mut MultiplexedConnection) -> Result<(), Error> {
        let mut look = self.look.key(self.place(MARKER));
        look.arg(format!("{:016x}", rand::random::<u64>())).arg(MARKER_FOR);
        let sent = clock::unix();
        let (marker, seconds, micros): (String, u64, u64) = look.invoke_async(connection).await?;
        let time = Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros));
        self.skew.note(sent, time, clock::unix());
        let mut last = self.marker.lock().unwrap_or_else(PoisonError::into_inner);
        if last.replace(marker) != *last {
            self.state.needs_resync.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn ask(
        &self,
        connection: &mut MultiplexedConnection,
        key: SessionKey,
        answer: oneshot::Sender<Option<SessionRecord>>,
    ) -> Result<(), Error> {
        let known = tokio::time::timeout(ASK, connection.get::<_, Option<String>>(self.place(key))).await;
        let found = match known {
            Ok(known) => known?.and_then(|text| self.read(&text, 0)),
            Err(_) => {
                self.is_slow();
                None
            }
        };
        // Whoever asked may have gone.
        let _ = answer.send(found);
        Ok(())
    }

    /// It is not worth asking, until a ping says so.
    fn is_slow(&self) {
        if self.state.is_responsive.swap(false, Ordering::Relaxed) {
            let pool = self.prefix.trim_start_matches(PREFIX);
            tracing::warn!(pool, "the store of learned sessions is slow; the table here goes on alone until it is not");
        }
    }

    /// Writes a session, or takes over what the store knows better: it may have ended, unless it was
    /// `learned` just now.
    async fn tell(
        &self,
        connection: &mut MultiplexedConnection,
        key: SessionKey,
        found: &SessionRecord,
        learned: bool,
    ) -> Result<(), Error> {
        let value = written(&self.skew, found);
        let removals = self.table.removals(key);
        // Silence before it is told counts: a session is not kept for longer because its store was away.
        let silence = clock::unix().as_secs().saturating_sub(found.last_seen);
        let mut write = self.write.key(self.place(key));
        write
            .arg(found.version)
            .arg(&value)
            .arg(self.retention.saturating_sub(silence).max(1))
            .arg(&self.channel)
            .arg(format!("{key} {silence} {value}"))
            .arg(u8::from(learned));
        let known: Option<String> = write.invoke_async(connection).await?;
        match known {
            Some(known) if known == ENDED => drop(self.table.remove(key)),
            Some(known) => {
                // Nobody has said when it was seen, and to be compared is not to be seen. The end of a session is
                // heard on another connection, and can come before this answer.
                let known = self.read(&known, silence);
                known.iter().for_each(|known| self.table.adopt_unless_removed(key, known, removals));
            }
            None => {}
        }
        Ok(())
    }

    /// What another Linchpin, or this one, has told: `KEY SILENCE VALUE` with the seconds for which the session
    /// was not seen, or `KEY` alone when it has ended.
    fn hear(&self, message: &[u8]) {
        let Ok(message) = std::str::from_utf8(message) else { return };
        let (key, told) = message.split_once(' ').unwrap_or((message, ""));
        let Ok(key) = key.parse() else { return };
        match told.split_once(' ') {
            Some((silence, value)) => {
                let found = silence.parse().ok().and_then(|silence| self.read(value, silence));
                found.iter().for_each(|found| self.table.adopt(key, found));
            }
            None if told.is_empty() => drop(self.table.remove(key)),
            None => {}
        }
    }

    fn read(&self, value: &str, silence: u64) -> Option<SessionRecord> {
        let now = clock::unix().as_secs();
        let found = read(&self.skew, value, now)?;
        Some(SessionRecord { last_seen: now.saturating_sub(silence), ..found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for good in ["redis://127.0.0.1", "redis://:secret@localhost:6380/2", "redis+unix:///run/redis.sock"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in ["127.0.0.1:6379", "rediss://localhost", "http://localhost", "redis://localhost:99999", "redis://"] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
