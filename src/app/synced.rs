//! Owns: what a process and its successor tell each other of sessions, copies and backends: all at first, then each change.
//! Invariant: what is newer wins, whichever process sends it; what a store outside of both holds is not sent.
//! Must not know: how the frames travel, or how far the takeover has come.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::outgoing::{Outgoing, frame, send};
use crate::admin::PoolEntry;
use crate::affinity::learned::{BackendRef, SessionKey, SessionRecord, SessionTable};
use crate::change_feed::Change;
use crate::clock;
use crate::copies::{CopyStore, Holder, NewState, PoolCopies, Preparation, Session, SessionRef, Version};
use crate::events::{Delivery, Event, Events, Start};
use crate::pool::Pool;
use crate::takeover::{
    CopyPart, Frame, Message, RuntimeState, SessionCounts, SessionPart, SessionsPart, SessionsRemoved,
};

/// The most sessions of one frame.
const SESSIONS: usize = 1000;

/// The pools of the current configuration.
pub(super) type Entries = Arc<ArcSwap<Vec<PoolEntry>>>;

/// Sends all sessions and copies of a process, and from then on those that change.
pub(super) struct Followers {
    tasks: JoinSet<()>,
}

impl Followers {
    /// Begins. Each of them reports once that it is complete. Call it within a local set.
    pub(super) fn begin(entries: &Entries, out: &mpsc::Sender<Outgoing>) -> Followers {
        Followers::of(entries, out, Beginning::All)
    }

    /// Begins towards an older process, which also gets what the operator sets from now on. It knows all else: this
    /// process has it from there, or from a process that both were connected with.
    pub(super) fn begin_with_older(entries: &Entries, events: &Events, out: &mpsc::Sender<Outgoing>) -> Followers {
        let mut followers = Followers::of(entries, out, Beginning::Changes);
        followers.tasks.spawn_local(follow_operator(Arc::clone(entries), events.clone(), out.clone()));
        followers
    }

    fn of(entries: &Entries, out: &mpsc::Sender<Outgoing>, beginning: Beginning) -> Followers {
        let mut tasks = JoinSet::new();
        for entry in entries.load().iter() {
            let pool = entry.pool.name().to_string();
            if let Some(table) = entry.affinity.table().filter(|_| !entry.affinity.has_store()) {
                tasks.spawn_local(follow_sessions(pool.clone(), Arc::clone(table), beginning, out.clone()));
            }
            if let Some(copies) = entry.copies.as_ref().filter(|copies| copies.settings().store.is_none()) {
                let (copies, entries) = (Arc::clone(copies), Arc::clone(entries));
                tasks.spawn_local(follow_copies(pool, copies, entries, beginning, out.clone()));
            }
        }
        Followers { tasks }
    }

    /// The number of followers.
    pub(super) fn count(&self) -> usize {
        self.tasks.len()
    }
}

/// What a follower sends first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// All that there is.
    All,
    /// What changes from now on.
    Changes,
}

impl Beginning {
    /// The most chunks of what there is.
    fn chunks(self) -> usize {
        if self == Beginning::All { usize::MAX } else { 0 }
    }
}

/// Sends what is set of backends, whenever the operator or a drain sets something.
async fn follow_operator(entries: Entries, events: Events, out: mpsc::Sender<Outgoing>) {
    let mut changes = events.subscribe(&Start::Last(0));
    loop {
        let is_set = match changes.next().await {
            Delivery::Event(published) => {
                matches!(published.event, Event::State { .. } | Event::Weight { .. } | Event::Drain { .. })
            }
            Delivery::Lost(_) => true,
        };
        let now = clock::now();
        let state = || RuntimeState { pools: entries.load().iter().map(|entry| entry.pool.state(now)).collect() };
        if is_set && !send(&out, &state()).await {
            return;
        }
    }
}

async fn follow_sessions(pool: String, table: Arc<SessionTable>, beginning: Beginning, out: mpsc::Sender<Outgoing>) {
    let mut changes = table.changes().follow();
    let (mut is_complete, mut most) = (false, beginning.chunks());
    loop {
        for chunk in table.chunks().take(most) {
            for sessions in chunk.chunks(SESSIONS) {
                let sessions = sessions.iter().map(|(key, record)| session_part(*key, record)).collect();
                if !send(&out, &SessionsPart { pool: pool.clone(), sessions }).await {
                    return;
                }
            }
        }
        most = usize::MAX;
        if !std::mem::replace(&mut is_complete, true) && out.send(Outgoing::Complete).await.is_err() {
            return;
        }
        while let Change::Of(keys) = changes.next(SESSIONS).await {
            let (mut sessions, mut removed) = (Vec::new(), Vec::new());
            for key in keys {
                match table.get(key) {
                    Some(record) => sessions.push(session_part(key, &record)),
                    None => removed.push(key.to_string()),
                }
            }
            let (pool, other) = (pool.clone(), pool.clone());
            let is_sent = (sessions.is_empty() || send(&out, &SessionsPart { pool, sessions }).await)
                && (removed.is_empty() || send(&out, &SessionsRemoved { pool: other, keys: removed }).await);
            if !is_sent {
                return;
            }
        }
    }
}

fn session_part(key: SessionKey, record: &SessionRecord) -> SessionPart {
    SessionPart {
        key: key.to_string(),
        backend: record.backend.name.to_string(),
        incarnation: record.backend.incarnation,
        issued: record.issued,
        seen: record.last_seen,
        version: record.version,
        term: record.term,
        replica: record.replica.as_deref().map(Into::into),
    }
}

async fn follow_copies(
    pool: String,
    copies: Arc<PoolCopies>,
    entries: Entries,
    beginning: Beginning,
    out: mpsc::Sender<Outgoing>,
) {
    let store = copies.store();
    let mut changes = store.changes().follow();
    let (mut is_complete, mut most) = (false, beginning.chunks());
    loop {
        for chunk in store.chunks().take(most) {
            for session in chunk {
                if !send_copy(&pool, store, &entries, session, &out).await {
                    return;
                }
            }
        }
        most = usize::MAX;
        if !std::mem::replace(&mut is_complete, true) && out.send(Outgoing::Complete).await.is_err() {
            return;
        }
        while let Change::Of(sessions) = changes.next(SESSIONS).await {
            for session in sessions {
                if !send_copy(&pool, store, &entries, session, &out).await {
                    return;
                }
            }
        }
    }
}

/// Sends the state of a session. Returns false if nobody receives it.
async fn send_copy(
    name: &str,
    store: &CopyStore,
    entries: &Entries,
    session: SessionRef,
    out: &mpsc::Sender<Outgoing>,
) -> bool {
    let Some(entry) = store.peek(session) else { return true };
    let (view, (copy, ttl)) = (entry.view(), entry.copy());
    let holder = view.holder.filter(|holder| entry.is_given_to(*holder));
    let pool = pool(entries, name);
    let backend = holder.and_then(|holder| {
        pool.as_ref()?
            .backends()
            .iter()
            .find(|backend| Holder::of(backend) == holder)
            .map(|backend| (backend.name().to_string(), backend.incarnation()))
    });
    let (holder, incarnation) = backend.map_or((None, 0), |(name, incarnation)| (Some(name), incarnation));
    let part = CopyPart {
        pool: name.into(),
        session: session.to_string(),
        term: view.version.term,
        seq: view.version.seq,
        current_term: view.term,
        is_dropped: view.dropped,
        is_held: copy.is_some(),
        ttl,
        holder,
        incarnation,
    };
    match frame(&part) {
        Some(frame) => out.send(Outgoing::Frame(Frame { bytes: copy.unwrap_or_default(), ..frame })).await.is_ok(),
        None => false,
    }
}

fn pool(entries: &Entries, name: &str) -> Option<Arc<Pool>> {
    entries.load().iter().find(|entry| **entry.pool.name() == *name).map(|entry| Arc::clone(&entry.pool))
}

/// Takes in what the other process says of a session. `bytes` are those of the frame.
pub(super) fn take_in(entries: &Entries, message: Message, bytes: Bytes) {
    let entries = entries.load();
    let entry = |pool: &str| entries.iter().find(|entry| **entry.pool.name() == *pool);
    match message {
        Message::RuntimeState(state) => {
            for (entry, state) in state.pools.iter().filter_map(|state| Some((entry(&state.name)?, state))) {
                entry.pool.follow(state);
            }
        }
        Message::SessionsPart(part) => {
            let Some(table) = entry(&part.pool).and_then(|entry| entry.affinity.table()) else { return };
            for session in part.sessions {
                if let Ok(key) = session.key.parse() {
                    table.adopt_newer(key, &record(session));
                }
            }
        }
        Message::SessionsRemoved(part) => {
            let Some(table) = entry(&part.pool).and_then(|entry| entry.affinity.table()) else { return };
            for key in part.keys.iter().filter_map(|key| key.parse().ok()) {
                if table.remove(key) {
                    table.changes().announce(key);
                }
            }
        }
        Message::CopyPart(part) => {
            let Some((entry, copies)) = entry(&part.pool).and_then(|entry| Some((entry, entry.copies.as_ref()?)))
            else {
                return;
            };
            take_in_copy(&entry.pool, copies.store(), &part, bytes);
        }
        _ => {}
    }
}

fn record(session: SessionPart) -> SessionRecord {
    let SessionPart { backend, incarnation, issued, seen, version, term, replica, .. } = session;
    let backend = BackendRef { name: backend.into(), incarnation };
    SessionRecord { backend, issued, last_seen: seen, version, term, replica: replica.map(Into::into) }
}

/// Begins the count of a backend's sessions with those of the other process. No thread serves requests yet.
pub(super) fn take_in_count(entries: &Entries, counts: &SessionCounts) {
    let Some(pool) = pool(entries, &counts.pool) else { return };
    if let Some(index) = pool.position(&counts.backend) {
        pool.backend(index).live().sessions().begin_with(&counts.state);
    }
}

/// A server that is none: a state that no server is known to have is given to whichever gets the next request.
const NOBODY: Holder = Holder { backend: usize::MAX, incarnation: 0, losses: 0 };

/// Takes in a state by the same rules as that of a response: as if its holder had just sent it.
fn take_in_copy(pool: &Pool, store: &CopyStore, part: &CopyPart, bytes: Bytes) {
    let Ok(session) = part.session.parse::<SessionRef>() else { return };
    let version = Version { term: part.term, seq: part.seq };
    if store
        .peek(session)
        .is_some_and(|known| (known.view().term, known.view().version) >= (part.current_term, version))
    {
        return;
    }
    let named = part.holder.as_deref().and_then(|name| Some(pool.backend(pool.position(name)?)));
    let holder = named.filter(|backend| backend.incarnation() == part.incarnation).map_or(NOBODY, Holder::of);
    let (now, lifetime) = (clock::unix().as_secs(), store.lifetime());
    let entry = store.find_or_insert(session, now, || Session::new(part.term, Some(holder)));
    entry.note_pin(part.term, Some(holder));
    // No request is sent: what it would claim is what the state is compared with.
    let Preparation::Send(request) = entry.prepare(holder, |_| false, false, false, now, lifetime) else { return };
    let new = match (part.is_dropped, part.is_held) {
        (true, _) => NewState::Drop(version),
        (false, true) => NewState::Save { version, ttl: part.ttl, bytes },
        (false, false) => return,
    };
    entry.take(request.claim(), new, now, lifetime);
    drop(request);
    if part.current_term > part.term {
        entry.note_pin(part.current_term, None);
    }
    store.stored(session, Some(&entry));
}
