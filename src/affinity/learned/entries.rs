//! Owns: the entries of one shard of the table: a slab, an index, and a list from the newest to the oldest.
//! Invariant: what the index finds is in the list, and the other way round.
//! Must not know: locks, other shards, what a session is.

use hashbrown::HashTable;

use super::record::SessionKey;

/// One shard: entries in a slab, found by hash, linked from the newest to the oldest.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) index: HashTable<u32>,
    slab: Slab,
    free: Option<u32>,
    pub(super) newest: Option<u32>,
    pub(super) oldest: Option<u32>,
}

/// 56 bytes. Seconds in 32 bits last until 2106.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) key: [u64; 2],
    pub(super) stamp: u64,
    pub(super) issued: u32,
    pub(super) seen: u32,
    pub(super) synced: u32,
    pub(super) version: u32,
    pub(super) backend: u32,
    pub(super) newer: u32,
    pub(super) older: u32,
}

/// Entries by number, in pieces: a vector that grows leaves holes behind in the allocator, and its copy
/// of a large table is a moment that some request has to wait for.
#[derive(Debug, Default)]
struct Slab {
    chunks: Vec<Box<[Entry; CHUNK]>>,
    length: usize,
}

/// 7 KiB of entries.
const CHUNK: usize = 128;

/// "None" in a link.
pub(super) const NIL: u32 = u32::MAX;
impl Entries {
    pub(super) fn find(&self, key: SessionKey) -> Option<u32> {
        let is_it = |at: &u32| self.get(*at).is_some_and(|entry| entry.key == key.0);
        self.index.find(key.0[0], is_it).copied()
    }

    pub(super) fn get(&self, at: u32) -> Option<&Entry> {
        self.slab.get(at)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Entry> {
        self.slab.get_mut(at)
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let at = match self.free {
            Some(at) => {
                self.free = self.get(at).map(|entry| entry.older).filter(|at| *at != NIL);
                self.put(at, |place| *place = entry);
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
        // In a free place only this link means anything.
        self.put(at, |entry| entry.older = free);
    }

    pub(super) fn make_newest(&mut self, at: u32) {
        if self.newest != Some(at) {
            self.unlink(at);
            self.link(at);
        }
    }

    /// Makes an entry that is in no list the newest.
    fn link(&mut self, at: u32) {
        let second = self.newest.replace(at);
        self.put(at, |entry| (entry.newer, entry.older) = (NIL, second.unwrap_or(NIL)));
        match second {
            Some(second) => self.put(second, |entry| entry.newer = at),
            None => self.oldest = Some(at),
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(&Entry { newer, older, .. }) = self.get(at) else { return };
        match newer {
            NIL => self.newest = Some(older).filter(|older| *older != NIL),
            newer => self.put(newer, |entry| entry.older = older),
        }
        match older {
            NIL => self.oldest = Some(newer).filter(|newer| *newer != NIL),
            older => self.put(older, |entry| entry.newer = newer),
        }
    }

    fn put(&mut self, at: u32, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.slab.get_mut(at) {
            change(entry);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.index.iter().filter_map(|at| self.get(*at))
    }

    pub(super) fn bytes(&self) -> usize {
        self.slab.chunks.len() * size_of::<[Entry; CHUNK]>() + self.index.allocation_size()
    }
}

impl Slab {
    fn get(&self, at: u32) -> Option<&Entry> {
        self.chunks.get(at as usize / CHUNK)?.get(at as usize % CHUNK)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Entry> {
        self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)
    }

    /// Adds an entry; its number.
    fn push(&mut self, entry: Entry) -> u32 {
        let at = self.length;
        self.length += 1;
        match self.chunks.get_mut(at / CHUNK) {
            Some(chunk) => chunk[at % CHUNK] = entry,
            None => self.chunks.push(Box::new([entry; CHUNK])),
        }
        at as u32
    }
}
