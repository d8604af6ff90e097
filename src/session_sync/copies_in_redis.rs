//! Owns: a pool's session copies in a Redis: their keys, the scripts that compare and set, and carrying out commands.
//! Invariant: a term has one holder and the highest version wins, whichever Linchpin writes; each script uses one key.
//! Must not know: connections, time limits, requests, what is in a copy.

use std::sync::Arc;

use bytes::Bytes;

use super::connection::{Connection, Error};
use super::script::StoreScript;
use crate::clock;
use crate::copies::{CopyStore, Fetched, ServerNames, SessionRef, SharedCommand, SharedSaved, SharedState, Version};

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

/// The copies of one pool in a Redis, and in this process.
pub(super) struct CopiesInRedis {
    prefix: String,
    lifetime: u64,
    copies: Arc<CopyStore>,
    servers: Arc<ServerNames>,
    hand_over: StoreScript,
    save: StoreScript,
    touch: StoreScript,
}

/// What [`HAND_OVER_SCRIPT`] returns.
type HandOverReply = (u32, Option<u32>, Option<u64>, Option<String>, Option<Vec<u8>>, Option<u64>);
/// The fields of a session that has a term perhaps, and its server.
type LookReply = (Option<u32>, Option<String>, Option<u32>, Option<u64>, Option<String>, Option<Vec<u8>>, Option<u64>);

impl CopiesInRedis {
    /// The copies of a pool whose keys begin with `prefix`, kept for `lifetime` seconds without requests.
    pub(super) fn new(
        prefix: &str,
        lifetime: u64,
        copies: &Arc<CopyStore>,
        servers: &Arc<ServerNames>,
    ) -> CopiesInRedis {
        CopiesInRedis {
            prefix: prefix.into(),
            lifetime: lifetime.max(1),
            copies: Arc::clone(copies),
            servers: Arc::clone(servers),
            hand_over: StoreScript::new(HAND_OVER_SCRIPT),
            save: StoreScript::new(SAVE_SCRIPT),
            touch: StoreScript::new(TOUCH_SCRIPT),
        }
    }

    /// Carries out a command.
    pub(super) async fn carry_out(&self, connection: &mut Connection, command: SharedCommand) -> Result<(), Error> {
        match command {
            SharedCommand::HandOver { session, term, server, reply } => {
                let arguments = (term, &*server, self.lifetime);
                let fetched: HandOverReply = self.hand_over.run(connection, &self.key(session), arguments).await?;
                // The request may have ended meanwhile.
                let _ = reply.send(Some(fetched_of(fetched)));
            }
            SharedCommand::Look { session, server, reply } => {
                let _ = reply.send(Some(self.look(connection, session, &server).await?));
            }
            SharedCommand::Save { session, version, server, state, reply } => {
                let _ =
                    reply.send(Some(self.save(connection, session, version, &server, &state, self.lifetime).await?));
            }
            SharedCommand::Touch(session) => {
                let is_there: bool = self.touch.run(connection, &self.key(session), self.lifetime).await?;
                if !is_there {
                    self.compare(connection, session).await?;
                }
            }
            SharedCommand::Compare(session) => drop(self.compare(connection, session).await?),
        }
        Ok(())
    }

    async fn look(&self, connection: &mut Connection, session: SessionRef, server: &str) -> Result<Fetched, Error> {
        let mut read = redis::cmd("HMGET");
        read.arg(self.key(session)).arg(&["term", "server", "vterm", "vseq", "state", "bytes", "ttl"]);
        let (term, holder, vterm, vseq, state, bytes, ttl): LookReply = read.query_async(connection).await?;
        let fetched = fetched_of((term.unwrap_or(0), vterm, vseq, state, bytes, ttl));
        Ok(Fetched { is_holder: holder.as_deref() == Some(server), ..fetched })
    }

    /// Stores a state that nobody uses for `lifetime` seconds more, unless it is not the newest.
    async fn save(
        &self,
        connection: &mut Connection,
        session: SessionRef,
        version: Version,
        server: &str,
        state: &SharedState,
        lifetime: u64,
    ) -> Result<SharedSaved, Error> {
        let (word, bytes, ttl) = match state {
            SharedState::Held(bytes, ttl) => ("held", bytes.as_ref(), *ttl),
            SharedState::Dropped => ("dropped", &[][..], None),
            SharedState::Lost => ("lost", &[][..], None),
        };
        let lifetime = ttl.unwrap_or(lifetime).min(lifetime).clamp(1, self.lifetime);
        let arguments = (version.term, version.seq, server, word, bytes, ttl.unwrap_or(0), lifetime);
        let (outcome, term): (u8, u32) = self.save.run(connection, &self.key(session), arguments).await?;
        Ok(match outcome {
            0 => SharedSaved::Stored,
            1 => SharedSaved::Stale,
            _ => SharedSaved::Fenced(term),
        })
    }

    /// Stores what this process knows of a session, if that is newer. Returns whether it was.
    pub(super) async fn compare(&self, connection: &mut Connection, session: SessionRef) -> Result<bool, Error> {
        let Some(entry) = self.copies.peek(session) else { return Ok(false) };
        let Some((version, state, holder, left)) = entry.to_share(clock::unix().as_secs()) else { return Ok(false) };
        let Some(server) = self.servers.of(holder) else { return Ok(false) };
        let mut read = redis::cmd("HMGET");
        read.arg(self.key(session)).arg(&["vterm", "vseq"]);
        let (term, seq): (Option<u32>, Option<u64>) = read.query_async(connection).await?;
        // Most states are there: their bytes are not sent.
        if term.zip(seq).is_some_and(|(term, seq)| Version { term, seq } >= version) {
            return Ok(false);
        }
        let saved = self.save(connection, session, version, &server, &state, left).await?;
        if let SharedSaved::Fenced(term) = saved {
            // Another Linchpin has handed the session over.
            entry.overtaken(version.term, term);
        }
        Ok(saved == SharedSaved::Stored)
    }

    /// Returns the sessions of this process, in parts.
    pub(super) fn sessions(&self) -> impl Iterator<Item = Vec<SessionRef>> {
        self.copies.sessions()
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
    Fetched { term, is_holder: true, newest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_knows_is_read_and_what_is_not_ours_is_no_copy() {
        let held = (7, Some(6), Some(3), Some("held".into()), Some(b"x".to_vec()), Some(60));
        let version = Version { term: 6, seq: 3 };
        let state = SharedState::Held(Bytes::from_static(b"x"), Some(60));
        assert_eq!(fetched_of(held), Fetched { term: 7, is_holder: true, newest: Some((version, state)) });
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
        assert_eq!(fetched_of((1, None, None, None, None, None)), Fetched { term: 1, is_holder: true, newest: None });
    }
}
