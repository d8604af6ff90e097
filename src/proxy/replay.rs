//! Owns: what is kept of a request's body for another attempt, and how much memory that takes.
//! Invariant: no more than `replay_limit` for a request, and than `replay_memory` for all; of what is read, no buffer is held.
//! Must not know: where a body comes from, or when it is sent again.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

/// `replay_memory` of `[server]`, in bytes, if it is not set: a thousand bodies of `replay_limit`.
pub const MEMORY: usize = 64 * 1024 * 1024;

/// What is sent at once of what was kept.
const PIECE: usize = 16 * 1024;

/// What a trailer field takes beside its text: as HTTP/2 counts it (RFC 9113 §6.5.2).
const FIELD: usize = 32;

/// Memory that the bodies of one thread's requests share.
#[derive(Debug)]
pub struct Memory {
    left: Cell<usize>,
}

impl Memory {
    /// So many bytes.
    pub fn new(bytes: usize) -> Rc<Memory> {
        Rc::new(Memory { left: Cell::new(bytes) })
    }

    /// The share of one of so many threads: they count apart, and share no line of memory.
    pub fn share(bytes: usize, threads: usize) -> Rc<Memory> {
        Memory::new(bytes / threads.max(1))
    }

    fn take(&self, bytes: usize) -> bool {
        let left = self.left.get().checked_sub(bytes);
        left.is_some_and(|left| {
            self.left.set(left);
            true
        })
    }

    fn give_back(&self, bytes: usize) {
        self.left.set(self.left.get() + bytes);
    }
}

/// The beginning of a body, or all of it. A copy: a frame is a part of the buffer that it was read into,
/// and a body that comes byte by byte would hold a buffer for each.
#[derive(Debug)]
pub struct Replay {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Bytes that it may take, and those that it takes.
    limit: usize,
    taken: usize,
    memory: Rc<Memory>,
}

impl Replay {
    /// Nothing yet, and at most `limit` bytes of `memory`.
    pub fn new(limit: usize, memory: &Rc<Memory>) -> Replay {
        Replay { data: Vec::new(), trailers: None, limit, taken: 0, memory: Rc::clone(memory) }
    }

    /// Keeps the next frame of a body of `length` bytes, as far as that is known. False if there is no room
    /// for it; nothing is kept then.
    pub fn keep(&mut self, frame: &Frame<Bytes>, length: Option<u64>) -> bool {
        let kept = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => self.keep_data(data, length),
            (None, Some(trailers)) => self.keep_trailers(trailers),
            (None, None) => true,
        };
        if !kept {
            self.forget();
        }
        kept
    }

    fn keep_data(&mut self, data: &[u8], length: Option<u64>) -> bool {
        let needed = self.data.len() + data.len();
        if needed > self.data.capacity() {
            // As much again, but not more than there can be. Not all that is announced at once: it may never come.
            let most = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
            let capacity = needed.saturating_mul(2).min(most).min(self.limit).max(needed);
            if !self.take(capacity - self.data.capacity()) {
                return false;
            }
            self.data.reserve_exact(capacity - self.data.len());
        }
        self.data.extend_from_slice(data);
        true
    }

    fn keep_trailers(&mut self, trailers: &HeaderMap) -> bool {
        // They are the end of the body: there is no more to come that the rest of the room is for.
        self.give_back(self.data.capacity() - self.data.len());
        self.data.shrink_to_fit();
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

    /// The frame at a position: that of the first is 0, each takes as many as [`places`] says.
    pub fn frame(&self, at: usize) -> Option<Frame<Bytes>> {
        match self.data.get(at..).filter(|rest| !rest.is_empty()) {
            Some(rest) => Some(Frame::data(Bytes::copy_from_slice(&rest[..rest.len().min(PIECE)]))),
            None if at == self.data.len() => self.trailers.clone().map(Frame::trailers),
            None => None,
        }
    }

    /// Whether there is a frame at a position.
    pub fn has(&self, at: usize) -> bool {
        at < self.data.len() || (at == self.data.len() && self.trailers.is_some())
    }

    /// Gives back what it takes.
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

/// How far a frame leads in a body: by its bytes, and one for trailers.
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
        let memory = Memory::new(100_000);
        let mut replay = Replay::new(64 * 1024, &memory);
        assert!(!replay.has(0));
        let large: &'static [u8] = vec![7; 40_000].leak();
        for frame in [data(b"a"), data(b""), data(b"bc"), data(large)] {
            assert!(replay.keep(&frame, None));
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("4"));
        assert!(replay.keep(&Frame::trailers(trailers.clone()), None));
        assert_eq!(all(&replay), ([b"abc", large].concat(), Some(trailers)));
    }

    #[test]
    fn a_body_that_comes_byte_by_byte_takes_no_more_than_the_limit_and_holds_no_buffer() {
        let memory = Memory::new(1 << 20);
        let mut replay = Replay::new(1000, &memory);
        let buffer = Bytes::from(vec![1; 8192]);
        for at in 0..1000 {
            assert!(replay.keep(&Frame::data(buffer.slice(at..=at)), None), "{at}");
            assert!(replay.data.capacity() <= 1000 && (1 << 20) - memory.left.get() == replay.data.capacity());
        }
        assert!(buffer.is_unique());
        assert!(!replay.keep(&data(b"x"), None));
        assert_eq!((all(&replay).0.len(), memory.left.get()), (0, 1 << 20));
    }

    #[test]
    fn what_was_announced_and_has_not_come_takes_nothing() {
        let memory = Memory::new(1 << 20);
        let mut replay = Replay::new(64 * 1024, &memory);
        assert!(replay.keep(&data(b"x"), Some(60_000)));
        assert!(replay.data.capacity() <= 2);
        let mut whole = Replay::new(64 * 1024, &memory);
        assert!(whole.keep(&data(b"hello"), Some(5)));
        assert_eq!(whole.data.capacity(), 5);
    }

    #[test]
    fn all_bodies_of_a_thread_share_its_memory_and_give_it_back() {
        let memory = Memory::share(400, 4);
        let mut first = Replay::new(1000, &memory);
        assert!(first.keep(&data(&[1; 60]), Some(60)));
        let mut second = Replay::new(1000, &memory);
        assert!(!second.keep(&data(&[1; 60]), Some(60)), "100 for each of four threads");
        drop(first);
        assert!(second.keep(&data(&[1; 60]), Some(60)));
        second.forget();
        assert_eq!(memory.left.get(), 100);
    }
}
