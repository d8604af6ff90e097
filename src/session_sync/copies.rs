//! Owns: the store of session copies in a Redis: its keys, the scripts that compare and set, and carrying out commands.
//! Invariant: a term has one holder and the highest version wins, whichever Linchpin writes; each wait has a time limit.
//! Must not know: requests, what is in a copy.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Script};
use tokio::task::JoinSet;

use super::connection::{Error, RedisServer};
use super::format::PREFIX;
use super::outage::Outage;
use crate::clock;
use crate::copies::{Fetched, SessionRef, SharedCommand, SharedSaved, SharedState, SharedStoreSync, Version};
use crate::events::{Event, Events};

/// The longest time for a command. A client's request waits for it.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(250);
/// The time between two health probes of the store.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// The most commands in flight. Above that, commands are not carried out.
const MAX_IN_FLIGHT: usize = 1024;

/// Raises the term of a session for a server. If another Linchpin has handed the session over to the same server, both
/// have the same term. Returns it with the newest state.
const HAND_OVER_SCRIPT: &str = r"
local known = redis.call('HMGET', KEYS[1], 'term', 'server', 'vterm', 'vseq', 'state', 'bytes', 'ttl')
local term, mine = tonumber(known[1] or '0'), tonumber(ARGV[1])
if term <= mine or known[2] ~= ARGV[2] then
  term = math.min(math.max(term, mine) + 1, 4294967295)
  redis.call('HSET', KEYS[1], 'term', string.format('%.0f', term), 'server', ARGV[2])
end
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return {term, known[3], known[4], known[5], known[6], known[7]}";

/// Stores a state if its term is not over, no other server has the term, and its version is the highest. A state of
/// which only the term is known replaces the copy alone.
const SAVE_SCRIPT: &str = r"
local known = redis.call('HMGET', KEYS[1], 'term', 'server', 'vterm', 'vseq')
local term, vterm, vseq = tonumber(known[1] or '0'), tonumber(known[3] or '0'), tonumber(known[4] or '0')
local mine, seq = tonumber(ARGV[1]), tonumber(ARGV[2])
if mine < term or (mine == term and known[2] ~= ARGV[3]) then return {2, term} end
if seq == 0 then
  redis.call('HSET', KEYS[1], 'term', ARGV[1], 'server', ARGV[3], 'state', ARGV[4])
  redis.call('HDEL', KEYS[1], 'bytes')
else
  if vterm > mine or (vterm == mine and vseq >= seq) then return {1, term} end
  redis.call('HSET', KEYS[1], 'term', ARGV[1], 'server', ARGV[3], 'vterm', ARGV[1], 'vseq', ARGV[2],
    'state', ARGV[4], 'bytes', ARGV[5], 'ttl', ARGV[6])
end
redis.call('EXPIRE', KEYS[1], ARGV[7])
return {0, term}";

/// Extends the life of a session, by what its application allows.
const TOUCH_SCRIPT: &str = r"
local ttl = tonumber(redis.call('HGET', KEYS[1], 'ttl') or '0')
local lifetime = tonumber(ARGV[1])
if ttl > 0 and ttl < lifetime then lifetime = ttl end
return redis.call('EXPIRE', KEYS[1], lifetime)";

/// Carries out the commands of one pool's copies, and publishes outages of their store. Never returns.
pub(super) async fn run(mut sync: SharedStoreSync, events: &Events) {
    let pool = sync.pool.clone();
    let mut outage = Outage::default();
    let publish = |error: Option<&Error>| {
        let reason = error.and_then(|error| Event::reason(error));
        events.publish(Event::Store { pool: pool.to_string(), of: "copies", ok: error.is_none(), reason });
    };
    loop {
        match connect(&sync).await {
            Ok(connection) => {
                tracing::info!(pool = &*pool, "connected to the store of session copies");
                publish(None);
                sync.is_responsive.store(true, Ordering::Relaxed);
                let since = clock::now();
                let error = serve(connection, &mut sync).await;
                outage.connection_ended(clock::now().saturating_duration_since(since));
                if outage.is_first_failure() {
                    publish(Some(&error));
                    tracing::warn!(
                        pool = &*pool,
                        %error,
                        "lost the store of session copies; this Linchpin uses its own copies alone and keeps trying to \
                         reconnect; check that Redis is running"
                    );
                }
            }
            Err(error) if outage.is_first_failure() => {
                publish(Some(&error));
                tracing::warn!(
                    pool = &*pool,
                    %error,
                    "cannot connect to the store of session copies; this Linchpin uses its own copies alone and keeps \
                     trying; check `store` in [pools.copies] and that Redis is running"
                );
            }
            Err(_) => {}
        }
        sync.is_responsive.store(false, Ordering::Relaxed);
        let mut end = std::pin::pin!(tokio::time::sleep(outage.next_pause()));
        loop {
            tokio::select! {
                () = &mut end => break,
                // Its sender learns by the dropped reply that it is not carried out.
                Some(command) = sync.commands.recv() => drop(command),
            }
        }
    }
}

async fn connect(sync: &SharedStoreSync) -> Result<MultiplexedConnection, Error> {
    let mut connection = RedisServer::new(&sync.address)?.connect().await?;
    in_time(ping(&mut connection)).await?;
    Ok(connection)
}

/// Carries out commands until the connection ends.
async fn serve(connection: MultiplexedConnection, sync: &mut SharedStoreSync) -> Error {
    let store = Arc::new(CopiesInRedis {
        prefix: format!("{PREFIX}{}:copy", sync.pool),
        lifetime: sync.lifetime.max(1),
        hand_over: Script::new(HAND_OVER_SCRIPT),
        save: Script::new(SAVE_SCRIPT),
        touch: Script::new(TOUCH_SCRIPT),
    });
    let mut in_flight = JoinSet::new();
    let mut probes = tokio::time::interval(PROBE_INTERVAL);
    probes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = sync.commands.recv() => match command {
                None => return Error::Stopped,
                Some(command) if in_flight.len() >= MAX_IN_FLIGHT => drop(command),
                Some(command) => {
                    let (store, mut connection) = (Arc::clone(&store), connection.clone());
                    in_flight.spawn(async move { in_time(store.carry_out(&mut connection, command)).await });
                }
            },
            Some(done) = in_flight.join_next() => match done {
                // One session's key must not cost the others their store. The request learns by the dropped reply.
                Ok(Err(error)) if error.is_of_value() => {}
                Ok(Err(error)) => return error,
                _ => {}
            },
            _ = probes.tick() => {
                let mut connection = connection.clone();
                in_flight.spawn(async move { in_time(ping(&mut connection)).await });
            }
        }
    }
}

async fn ping(connection: &mut MultiplexedConnection) -> Result<(), Error> {
    let () = connection.ping().await?;
    Ok(())
}

async fn in_time<T>(done: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(COMMAND_TIMEOUT, done).await.map_err(|_| Error::Timeout)?
}

/// The copies of one pool.
struct CopiesInRedis {
    prefix: String,
    lifetime: u64,
    hand_over: Script,
    save: Script,
    touch: Script,
}

/// What [`HAND_OVER_SCRIPT`] returns.
type HandOverReply = (u32, Option<u32>, Option<u64>, Option<String>, Option<Vec<u8>>, Option<u64>);

impl CopiesInRedis {
    async fn carry_out(&self, connection: &mut MultiplexedConnection, command: SharedCommand) -> Result<(), Error> {
        match command {
            SharedCommand::HandOver { session, term, server, reply } => {
                let mut script = self.hand_over.key(self.key(session));
                script.arg(term).arg(&*server).arg(self.lifetime);
                let fetched: HandOverReply = script.invoke_async(connection).await?;
                // The request may have ended meanwhile.
                let _ = reply.send(Some(fetched_of(fetched)));
            }
            SharedCommand::Save { session, version, server, state, reply } => {
                let (word, bytes, ttl) = match &state {
                    SharedState::Held(bytes, ttl) => ("held", bytes.as_ref(), *ttl),
                    SharedState::Dropped => ("dropped", &[][..], None),
                    SharedState::Lost => ("lost", &[][..], None),
                };
                let lifetime = ttl.unwrap_or(self.lifetime).clamp(1, self.lifetime);
                let mut script = self.save.key(self.key(session));
                script.arg(version.term).arg(version.seq).arg(&*server).arg(word).arg(bytes);
                script.arg(ttl.unwrap_or(0)).arg(lifetime);
                let (outcome, term): (u8, u32) = script.invoke_async(connection).await?;
                let _ = reply.send(Some(match outcome {
                    0 => SharedSaved::Stored,
                    1 => SharedSaved::Stale,
                    _ => SharedSaved::Fenced(term),
                }));
            }
            SharedCommand::Touch(session) => {
                let mut script = self.touch.key(self.key(session));
                let () = script.arg(self.lifetime).invoke_async(connection).await?;
            }
        }
        Ok(())
    }

    fn key(&self, session: SessionRef) -> String {
        format!("{}:{session}", self.prefix)
    }
}

fn fetched_of((term, vterm, vseq, state, bytes, ttl): HandOverReply) -> Fetched {
    let newest = vterm.zip(vseq).and_then(|(term, seq)| {
        let state = match (state.as_deref(), bytes) {
            (Some("held"), Some(bytes)) => SharedState::Held(Bytes::from(bytes), ttl.filter(|ttl| *ttl > 0)),
            (Some("dropped"), _) => SharedState::Dropped,
            (Some(_), _) => SharedState::Lost,
            (None, _) => return None,
        };
        Some((Version { term, seq }, state))
    });
    Fetched { term, newest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_knows_is_read_and_what_is_not_ours_is_no_copy() {
        let held = (7, Some(6), Some(3), Some("held".into()), Some(b"x".to_vec()), Some(60));
        let version = Version { term: 6, seq: 3 };
        let state = SharedState::Held(Bytes::from_static(b"x"), Some(60));
        assert_eq!(fetched_of(held), Fetched { term: 7, newest: Some((version, state)) });
        for (state, bytes, expected) in [
            (Some("dropped"), None, Some(SharedState::Dropped)),
            (Some("lost"), None, Some(SharedState::Lost)),
            (Some("held"), None, Some(SharedState::Lost)),
            (Some("other"), Some(b"x".to_vec()), Some(SharedState::Lost)),
            (None, None, None),
        ] {
            let fetched = fetched_of((7, Some(6), Some(3), state.map(str::to_owned), bytes, None));
            assert_eq!(fetched.newest, expected.map(|state| (version, state)));
        }
        assert_eq!(fetched_of((1, None, None, None, None, None)), Fetched { term: 1, newest: None });
    }
}
