//! Owns: values of which each data-path thread has its own, and the counters in them.
//! Invariant: only its thread writes a value, and no other thread's value shares its cache lines.
//! Must not know: what the values mean.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// One value for each data-path thread. Other threads may read them, and see values that can be slightly out of date.
#[derive(Debug)]
pub struct PerThread<T>(Box<[Aligned<T>]>);

/// Two threads never write the same cache line, nor, on x86, the same pair of lines that the prefetcher loads together.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Aligned<T>(T);

impl<T: Default> PerThread<T> {
    /// Makes the default value for each of `threads` threads.
    pub fn new(threads: usize) -> PerThread<T> {
        PerThread((0..threads).map(|_| Aligned::default()).collect())
    }
}

impl<T> PerThread<T> {
    /// Returns the value of the thread with this number. Only that thread may write to it.
    pub fn get(&self, thread: usize) -> Option<&T> {
        self.0.get(thread).map(|aligned| &aligned.0)
    }

    /// Returns the values of all threads.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|aligned| &aligned.0)
    }
}

/// The same, for values that most threads never need: one takes memory once its thread uses it. Without any, this is as
/// small however many threads there are.
#[derive(Debug)]
pub struct LazyPerThread<T> {
    threads: usize,
    values: OnceLock<Values<T>>,
}

type Values<T> = Box<[OnceLock<Box<Aligned<T>>>]>;

impl<T> LazyPerThread<T> {
    /// Makes place for the values of `threads` threads.
    pub const fn new(threads: usize) -> LazyPerThread<T> {
        LazyPerThread { threads, values: OnceLock::new() }
    }

    /// Returns the value of the thread with this number, made by `make` if this is its first use. Only that thread may
    /// call this.
    pub fn get_or_make(&self, thread: usize, make: impl FnOnce() -> T) -> Option<&T> {
        if thread >= self.threads {
            return None;
        }
        let values = self.values.get_or_init(|| (0..self.threads).map(|_| OnceLock::new()).collect());
        values.get(thread).map(|value| &value.get_or_init(|| Box::new(Aligned(make()))).0)
    }

    /// Returns the values that threads have used, with their threads' numbers.
    pub fn enumerate(&self) -> impl Iterator<Item = (usize, &T)> {
        let values = self.values.get().into_iter().flat_map(|values| values.iter().enumerate());
        values.filter_map(|(thread, value)| value.get().map(|aligned| (thread, &aligned.0)))
    }

    /// Returns the values that threads have used.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.enumerate().map(|(_, value)| value)
    }
}

impl<T: Default> LazyPerThread<T> {
    /// Returns the value of the thread with this number, made now if this is its first use. Only that thread may call
    /// this.
    pub fn get(&self, thread: usize) -> Option<&T> {
        self.get_or_make(thread, T::default)
    }
}

/// A counter that one thread writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`, with a plain load and store: no other thread writes the counter, so it needs no locked instruction.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Returns the count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_counts_for_itself_on_cache_lines_of_its_own() {
        let counters: PerThread<Counter> = PerThread::new(3);
        for (thread, n) in [(0, 1), (1, 2), (1, 3), (7, 9)] {
            counters.get(thread).into_iter().for_each(|counter| counter.add(n));
        }
        assert_eq!(counters.iter().map(Counter::get).collect::<Vec<_>>(), [1, 5, 0]);
        let lazy: LazyPerThread<Counter> = LazyPerThread::new(3);
        assert_eq!(lazy.iter().count(), 0);
        for (thread, n) in [(2, 1), (0, 2), (2, 3), (7, 9)] {
            lazy.get(thread).into_iter().for_each(|counter| counter.add(n));
        }
        assert_eq!(lazy.enumerate().map(|(at, counter)| (at, counter.get())).collect::<Vec<_>>(), [(0, 2), (2, 4)]);
        let addresses: Vec<_> = counters.iter().map(|counter| std::ptr::from_ref(counter) as usize).collect();
        assert!(addresses.windows(2).all(|pair| pair[1] - pair[0] >= 128 && pair[0].is_multiple_of(128)));
    }
}
