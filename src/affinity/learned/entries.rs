//! Owns: the entries of one shard of the table: a slab, an index, and a list from newest to oldest.
//! Invariant: an entry is in the index if and only if it is in the list.
//! Must not know: locks, other shards, what a session is.

use hashbrown::HashTable;

use super::record::SessionKey;

/// The entries of a shard: stored in a slab, indexed by hash, linked from newest to oldest.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) index: HashTable<u32>,
    slab: Slab,
    free: Option<u32>,
    pub(super) newest: Option<u32>,
    pub(super) oldest: Option<u32>,
}

/// A session's entry, 64 bytes. Times are seconds since the Unix epoch; 32 bits last until 2106.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionEntry {
    pub(super) key: [u64; 2],
    pub(super) stamp: u64,
    pub(super) issued: u32,
    pub(super) seen: u32,
    pub(super) synced: u32,
    pub(super) version: u32,
    pub(super) backend: u32,
    pub(super) term: u32,
    pub(super) replica: u32,
    pub(super) newer: u32,
    pub(super) older: u32,
}

/// Stores entries by number, in chunks. A growing vector would leave holes in the allocator, and a request would have
/// to wait while a large table is copied.
#[derive(Debug, Default)]
struct Slab {
    chunks: Vec<Box<[SessionEntry; CHUNK]>>,
    length: usize,
}

/// Entries per chunk: 8 KiB.
const CHUNK: usize = 128;

/// The `None` of a link or of an interned value.
pub(super) const NIL: u32 = u32::MAX;

impl Entries {
    pub(super) fn find(&self, key: SessionKey) -> Option<u32> {
        let is_it = |at: &u32| self.get(*at).is_some_and(|entry| entry.key == key.0);
        self.index.find(key.0[0], is_it).copied()
    }

    pub(super) fn get(&self, at: u32) -> Option<&SessionEntry> {
        self.slab.get(at)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut SessionEntry> {
        self.slab.get_mut(at)
    }

    pub(super) fn insert(&mut self, entry: SessionEntry) {
        let at = match self.free {
            Some(at) => {
                self.free = self.get(at).map(|entry| entry.older).filter(|at| *at != NIL);
                self.update(at, |slot| *slot = entry);
                at
            }
            None => self.slab.push(entry),
        };
        let slab = &self.slab;
        let hash = |at: &u32| slab.get(*at).map_or(0, |entry| entry.key[0]);
        self.index.insert_unique(entry.key[0], at, hash);
        self.link(at);
    }

    pub(super) fn remove(&mut self, at: u32) {
        let Some(key) = self.get(at).map(|entry| entry.key[0]) else { return };
        if let Ok(found) = self.index.find_entry(key, |other| *other == at) {
            found.remove();
        }
        self.unlink(at);
        let free = self.free.replace(at).unwrap_or(NIL);
        // In a free slot only this link has a meaning.
        self.update(at, |entry| entry.older = free);
    }

    pub(super) fn make_newest(&mut self, at: u32) {
        if self.newest != Some(at) {
            self.unlink(at);
            self.link(at);
        }
    }

    /// Puts an entry that is not in the list at its newest end.
    fn link(&mut self, at: u32) {
        let second = self.newest.replace(at);
        self.update(at, |entry| (entry.newer, entry.older) = (NIL, second.unwrap_or(NIL)));
        match second {
            Some(second) => self.update(second, |entry| entry.newer = at),
            None => self.oldest = Some(at),
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(&SessionEntry { newer, older, .. }) = self.get(at) else { return };
        match newer {
            NIL => self.newest = Some(older).filter(|older| *older != NIL),
            newer => self.update(newer, |entry| entry.older = older),
        }
        match older {
            NIL => self.oldest = Some(newer).filter(|newer| *newer != NIL),
            older => self.update(older, |entry| entry.newer = newer),
        }
    }

    fn update(&mut self, at: u32, change: impl FnOnce(&mut SessionEntry)) {
        if let Some(entry) = self.slab.get_mut(at) {
            change(entry);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SessionEntry> {
        self.index.iter().filter_map(|at| self.get(*at))
    }

    pub(super) fn bytes(&self) -> usize {
        self.slab.chunks.len() * size_of::<[SessionEntry; CHUNK]>() + self.index.allocation_size()
    }
}

impl Slab {
    fn get(&self, at: u32) -> Option<&SessionEntry> {
        self.chunks.get(at as usize / CHUNK)?.get(at as usize % CHUNK)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut SessionEntry> {
        self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)
    }

    /// Adds an entry and returns its number.
    fn push(&mut self, entry: SessionEntry) -> u32 {
        let at = self.length;
        self.length += 1;
        match self.chunks.get_mut(at / CHUNK) {
            Some(chunk) => chunk[at % CHUNK] = entry,
            None => self.chunks.push(Box::new([entry; CHUNK])),
        }
        at as u32
    }
}
