//! Owns: the copy of a request's body for another attempt, and the memory that it takes.
//! Invariant: at most `replay_limit` per request and `replay_memory` for all requests; it holds no read buffer.
//! Must not know: where a body is read from, or when it is sent again.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

/// The default of `replay_memory` in `[server]`, in bytes: a thousand bodies of `replay_limit`.
pub const MEMORY: usize = 64 * 1024 * 1024;

/// Bytes that are kept and sent again in one piece. hyper's buffers have this size, so memory that is freed here serves
/// them.
const BLOCK: usize = 8 * 1024;

/// How much is kept of a body whose Content-Length exceeds the limit. It can't be sent again once it is on its way, but
/// its backend may turn out to have closed the connection before it began.
const BEGINNING: usize = 16 * 1024;

/// The size of a trailer field beside its text, as HTTP/2 counts it (RFC 9113 §6.5.2).
const FIELD: usize = 32;

/// The memory that the bodies of one thread's requests share.
#[derive(Debug)]
pub struct ReplayMemory {
    bytes: Cell<usize>,
    taken: Cell<usize>,
}

impl ReplayMemory {
    /// Makes a budget of this many bytes.
    pub fn new(bytes: usize) -> Rc<ReplayMemory> {
        Rc::new(ReplayMemory { bytes: Cell::new(bytes), taken: Cell::new(0) })
    }

    /// Makes the budget of one of `threads` threads. Each counts for itself, so that they share no cache line.
    pub fn share(bytes: usize, threads: usize) -> Rc<ReplayMemory> {
        ReplayMemory::new(bytes / threads.max(1))
    }

    /// Changes the budget to this many bytes. What is taken stays, also if it is more.
    pub fn resize(&self, bytes: usize) {
        self.bytes.set(bytes);
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = self.taken.get().saturating_add(bytes);
        let has_room = taken <= self.bytes.get();
        if has_room {
            self.taken.set(taken);
        }
        has_room
    }

    fn give_back(&self, bytes: usize) {
        self.taken.set(self.taken.get().saturating_sub(bytes));
    }
}

/// A copy of the beginning of a body, or of all of it. A frame itself is a part of the buffer that it was read into, so
/// a body that arrives byte by byte would hold a buffer for each byte.
#[derive(Debug)]
pub struct Replay {
    /// Blocks of [`BLOCK`] bytes, of which the last may be shorter.
    data: Vec<Vec<u8>>,
    trailers: Option<HeaderMap>,
    /// The length of the body, if known.
    length: Option<usize>,
    /// The bytes that it may take, and those that it has taken.
    limit: usize,
    taken: usize,
    memory: Rc<ReplayMemory>,
}

impl Replay {
    /// Makes an empty copy of a body of `length` bytes, if known, which takes at most `limit` bytes of `memory`.
    pub fn new(length: Option<u64>, limit: usize, memory: &Rc<ReplayMemory>) -> Replay {
        let length = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        let limit = if length.is_some_and(|length| length > limit) { limit.min(BEGINNING) } else { limit };
        Replay { data: Vec::new(), trailers: None, length, limit, taken: 0, memory: Rc::clone(memory) }
    }

    /// Keeps the next frame of the body. Returns false, and keeps nothing at all, if there is no room for it.
    pub fn keep(&mut self, frame: &Frame<Bytes>) -> bool {
        let kept = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => self.keep_data(data),
            (None, Some(trailers)) => self.keep_trailers(trailers),
            (None, None) => true,
        };
        if !kept {
            self.forget();
        }
        kept
    }

    fn keep_data(&mut self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let Some((at, room)) = self.room(data.len()) else { return false };
            let (fits, rest) = data.split_at(room.min(data.len()));
            if let Some(block) = self.data.get_mut(at) {
                block.extend_from_slice(fits);
            }
            data = rest;
        }
        true
    }

    /// Returns a block with room for some of `bytes`, and how much room it has.
    fn room(&mut self, bytes: usize) -> Option<(usize, usize)> {
        if self.data.last().is_none_or(|block| block.len() == BLOCK) {
            self.data.push(Vec::new());
        }
        let at = self.data.len() - 1;
        let (held, capacity) = self.data.last().map(|block| (block.len(), block.capacity()))?;
        if held < capacity {
            return Some((at, capacity - held));
        }
        // Double the block, but not beyond what can arrive. Not everything that is announced at once: it may never
        // arrive.
        let left = self.length.unwrap_or(usize::MAX).min(self.limit).saturating_sub(at * BLOCK).max(held + 1);
        let capacity = (held + bytes).saturating_mul(2).min(left).min(BLOCK);
        if !self.take(capacity - held) {
            return None;
        }
        self.data.last_mut()?.reserve_exact(capacity - held);
        Some((at, capacity - held))
    }

    fn keep_trailers(&mut self, trailers: &HeaderMap) -> bool {
        // Trailers end the body, so the rest of the room is not needed.
        if let Some(last) = self.data.last_mut() {
            let spare = last.capacity() - last.len();
            last.shrink_to_fit();
            self.give_back(spare);
        }
        let size = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum();
        let fits = self.take(size);
        if fits {
            self.trailers = Some(trailers.clone());
        }
        fits
    }

    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.taken + bytes <= self.limit && self.memory.take(bytes);
        if fits {
            self.taken += bytes;
        }
        fits
    }

    fn give_back(&mut self, bytes: usize) {
        self.taken -= bytes;
        self.memory.give_back(bytes);
    }

    /// Returns the frame at a position. The first is at 0; a frame takes as many positions as [`places`] says.
    pub fn frame(&self, at: usize) -> Option<Frame<Bytes>> {
        let block = self.data.get(at / BLOCK).and_then(|block| block.get(at % BLOCK..));
        match block.filter(|rest| !rest.is_empty()) {
            Some(rest) => Some(Frame::data(Bytes::copy_from_slice(rest))),
            None if at == self.bytes() => self.trailers.clone().map(Frame::trailers),
            None => None,
        }
    }

    /// Returns whether there is a frame at a position.
    pub fn has(&self, at: usize) -> bool {
        let bytes = self.bytes();
        at < bytes || (at == bytes && self.trailers.is_some())
    }

    /// Returns how many bytes are kept.
    fn bytes(&self) -> usize {
        self.data.last().map_or(0, |last| (self.data.len() - 1) * BLOCK + last.len())
    }

    /// Frees everything that is kept.
    pub fn forget(&mut self) {
        self.data = Vec::new();
        self.trailers = None;
        self.give_back(self.taken);
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Returns how many positions a frame takes: one per byte, and one for trailers.
pub fn places(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(1, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn data(bytes: &'static [u8]) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(bytes))
    }

    fn capacity(replay: &Replay) -> usize {
        replay.data.iter().map(Vec::capacity).sum()
    }

    /// All of it, from the beginning.
    fn all(replay: &Replay) -> (Vec<u8>, Option<HeaderMap>) {
        let (mut at, mut read, mut trailers) = (0, Vec::new(), None);
        while let Some(frame) = replay.frame(at) {
            assert!(replay.has(at));
            at += places(&frame);
            match frame.into_data() {
                Ok(data) => read.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert!(!replay.has(at));
        (read, trailers)
    }

    #[test]
    fn what_is_kept_comes_again_in_order_with_its_trailers() {
        let memory = ReplayMemory::new(100_000);
        let mut replay = Replay::new(None, 64 * 1024, &memory);
        assert!(!replay.has(0));
        let large: &'static [u8] = vec![7; 40_000].leak();
        for frame in [data(b"a"), data(b""), data(b"bc"), data(large)] {
            assert!(replay.keep(&frame));
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("4"));
        assert!(replay.keep(&Frame::trailers(trailers.clone())));
        assert_eq!(all(&replay), ([b"abc", large].concat(), Some(trailers)));
    }

    #[test]
    fn a_body_that_comes_byte_by_byte_takes_no_more_than_the_limit_and_holds_no_buffer() {
        let memory = ReplayMemory::new(1 << 20);
        let mut replay = Replay::new(None, 1000, &memory);
        let buffer = Bytes::from(vec![1; 8192]);
        for at in 0..1000 {
            assert!(replay.keep(&Frame::data(buffer.slice(at..=at))), "{at}");
            assert!(capacity(&replay) <= 1000 && memory.taken.get() == capacity(&replay));
        }
        assert!(buffer.is_unique());
        assert!(!replay.keep(&data(b"x")));
        assert_eq!((all(&replay).0.len(), memory.taken.get()), (0, 0));
    }

    #[test]
    fn what_was_announced_and_has_not_come_takes_nothing() {
        let memory = ReplayMemory::new(1 << 20);
        let mut replay = Replay::new(Some(60_000), 64 * 1024, &memory);
        assert!(replay.keep(&data(b"x")));
        assert!(capacity(&replay) <= 2);
        let mut whole = Replay::new(Some(5), 64 * 1024, &memory);
        assert!(whole.keep(&data(b"hello")));
        assert_eq!(capacity(&whole), 5);
    }

    #[test]
    fn of_a_body_that_is_too_long_to_be_kept_the_beginning_is_kept_and_no_more() {
        let memory = ReplayMemory::new(1 << 20);
        let mut replay = Replay::new(Some(64 * 1024 + 1), 64 * 1024, &memory);
        assert!(replay.keep(&data(&[1; BEGINNING])));
        assert_eq!(all(&replay).0.len(), BEGINNING);
        assert!(!replay.keep(&data(b"x")));
        assert_eq!(memory.taken.get(), 0);
        let mut whole = Replay::new(Some(64 * 1024), 64 * 1024, &memory);
        for _ in 0..64 {
            assert!(whole.keep(&data(&[1; 1024])));
        }
        assert_eq!((all(&whole).0.len(), capacity(&whole)), (64 * 1024, 64 * 1024));
    }

    #[test]
    fn all_bodies_of_a_thread_share_its_memory_and_give_it_back() {
        let memory = ReplayMemory::share(400, 4);
        let mut first = Replay::new(Some(60), 1000, &memory);
        assert!(first.keep(&data(&[1; 60])));
        let mut second = Replay::new(Some(60), 1000, &memory);
        assert!(!second.keep(&data(&[1; 60])), "100 for each of four threads");
        drop(first);
        assert!(second.keep(&data(&[1; 60])));
        second.forget();
        assert_eq!(memory.taken.get(), 0);
    }
}
