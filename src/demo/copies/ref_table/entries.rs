//! Owns: what each name of Linchpin's stands for in this server: a session, a copy that waits for its client, or an end.
//! Invariant: number and bytes are bounded; a session that its name stands for no longer is closed.
//! Must not know: what a request may do, and what a response tells Linchpin.

use std::collections::HashMap;
use std::time::Instant;

use super::super::super::session::{Session, SessionId, SessionStore};
use super::super::field::{SessionRef, Version};

/// Most bytes of copies that no client has come for yet.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// A bounded table of entries.
pub(super) struct Entries {
    capacity: usize,
    by_ref: HashMap<SessionRef, Entry>,
    /// Bytes of the copies in entries that are `Waiting`.
    waiting_bytes: usize,
    /// PUTs and DELETEs taken so far.
    takes: u64,
}

pub(super) struct Entry {
    pub(super) version: Version,
    pub(super) memory: Memory,
    /// The number of the PUT or DELETE that was taken last. While a request runs in whose time it changes, another server
    /// has gone on from the state that the request began with.
    pub(super) taken: u64,
    pub(super) last_used: Instant,
}

/// What a version stands for.
pub(super) enum Memory {
    /// A session of the session store.
    Session(SessionId),
    /// A copy whose client has not come yet: only the client whose cookie has its id gets it.
    Waiting(Box<WaitingCopy>),
    /// No session: it has ended.
    Ended,
}

/// A copy that was taken.
pub(in crate::demo::copies) struct WaitingCopy {
    /// The id in the copy.
    pub(in crate::demo::copies) id: SessionId,
    pub(in crate::demo::copies) session: Session,
    /// The copy's length, in bytes.
    pub(in crate::demo::copies) bytes: usize,
    pub(in crate::demo::copies) taken_at: Instant,
}

impl Entries {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, by_ref: HashMap::new(), waiting_bytes: 0, takes: 0 }
    }

    pub(super) fn get(&self, session_ref: &SessionRef) -> Option<&Entry> {
        self.by_ref.get(session_ref)
    }

    pub(super) fn get_mut(&mut self, session_ref: &SessionRef) -> Option<&mut Entry> {
        self.by_ref.get_mut(session_ref)
    }

    /// Puts a copy in place of what a name stood for. The copies that wait longest make room.
    pub(super) fn put_waiting(
        &mut self,
        session_ref: &SessionRef,
        version: Version,
        waiting: WaitingCopy,
        sessions: &mut SessionStore,
        now: Instant,
    ) {
        self.waiting_bytes = self.waiting_bytes.saturating_add(waiting.bytes);
        self.replace(session_ref, version, Memory::Waiting(Box::new(waiting)), sessions, now);
        while self.waiting_bytes > MAX_WAITING_BYTES {
            let is_waiting = |entry: &Entry| matches!(entry.memory, Memory::Waiting(_));
            let oldest =
                self.by_ref.iter().filter(|(_, entry)| is_waiting(entry)).min_by_key(|(_, entry)| entry.last_used);
            let Some(oldest) = oldest.map(|(oldest, _)| oldest.clone()) else { break };
            self.remove(&oldest, sessions);
        }
    }

    /// Takes the copy out that waits for the client whose cookie has this id. The name stands for that session then.
    pub(super) fn take_waiting(&mut self, session_ref: &SessionRef, id: SessionId) -> Option<WaitingCopy> {
        let entry = self.by_ref.get_mut(session_ref)?;
        if !matches!(&entry.memory, Memory::Waiting(waiting) if waiting.id == id) {
            return None;
        }
        let Memory::Waiting(waiting) = std::mem::replace(&mut entry.memory, Memory::Session(id)) else { return None };
        self.waiting_bytes = self.waiting_bytes.saturating_sub(waiting.bytes);
        Some(*waiting)
    }

    /// Sets what a name stands for, and forgets what it stood for before.
    pub(super) fn replace(
        &mut self,
        session_ref: &SessionRef,
        version: Version,
        memory: Memory,
        sessions: &mut SessionStore,
        now: Instant,
    ) {
        let keeps = if let Memory::Session(id) = &memory { Some(*id) } else { None };
        let taken = self.by_ref.get(session_ref).map_or(0, |entry| entry.taken);
        self.clear(session_ref, keeps, sessions);
        if !self.by_ref.contains_key(session_ref) && self.by_ref.len() >= self.capacity {
            // This scans the whole table, as the session store does when it is full.
            let oldest = self.by_ref.iter().min_by_key(|(_, entry)| entry.last_used).map(|(oldest, _)| oldest.clone());
            // Its session stays: a later request wants its copy, or saves it again.
            oldest.map(|oldest| self.take_out(&oldest));
        }
        self.by_ref.insert(session_ref.clone(), Entry { version, memory, taken, last_used: now });
    }

    /// Notes that a PUT or DELETE was taken: requests that run now are overtaken.
    pub(super) fn stamp(&mut self, session_ref: &SessionRef) {
        self.takes += 1;
        if let Some(entry) = self.by_ref.get_mut(session_ref) {
            entry.taken = self.takes;
        }
    }

    pub(super) fn remove(&mut self, session_ref: &SessionRef, sessions: &mut SessionStore) {
        self.clear(session_ref, None, sessions);
    }

    /// Removes an entry whose session was evicted by others: its copy is needed. An expired session has ended.
    pub(super) fn forget_evicted(&mut self, session_ref: &SessionRef, sessions: &SessionStore, now: Instant) {
        let Some(entry) = self.by_ref.get_mut(session_ref) else { return };
        let Memory::Session(id) = entry.memory else { return };
        match sessions.is_expired(id, now) {
            Some(false) => {}
            Some(true) => entry.memory = Memory::Ended,
            None => drop(self.take_out(session_ref)),
        }
    }

    /// Removes an entry, and its session if that was saved under this name last and is not the one to keep.
    fn clear(&mut self, session_ref: &SessionRef, keeps: Option<SessionId>, sessions: &mut SessionStore) {
        if let Some(Entry { memory: Memory::Session(id), .. }) = self.take_out(session_ref)
            && keeps != Some(id)
        {
            sessions.close_saved_under(id, session_ref);
        }
    }

    fn take_out(&mut self, session_ref: &SessionRef) -> Option<Entry> {
        let entry = self.by_ref.remove(session_ref)?;
        if let Memory::Waiting(waiting) = &entry.memory {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(waiting.bytes);
        }
        Some(entry)
    }

    /// Returns how many entries there are, and the bytes of the copies that wait.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.by_ref.len(), self.waiting_bytes)
    }
}
