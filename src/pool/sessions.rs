//! Owns: an estimate of how many sessions a backend serves, without a table of them.
//! Invariant: one thread writes a sketch, any thread reads it without a lock; its size is fixed, 0 before any session.
//! Must not know: what a session is beyond a random 64-bit number.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Registers in a window: 4096 give a standard error of 1.6 % (1.04 / √m), and next to none for
/// the few hundred sessions that a person counts by hand.
const REGISTERS: usize = 4096;
/// Bits of a session id that choose the register.
const REGISTER_BITS: u32 = REGISTERS.trailing_zeros();

/// A HyperLogLog of session ids (Flajolet et al. 2007, with linear counting for small numbers)
/// over two time windows: the current one and the one before. Session ids are random, so they need no
/// hashing.
#[derive(Debug, Default)]
pub struct Sketch {
    windows: [Window; 2],
}

#[derive(Debug, Default)]
struct Window {
    /// The number of the time window of the registers, plus one; 0 if they are empty.
    number: AtomicU64,
    /// Allocated for the first session: a thread serves few of thousands of backends, and each sketch has 8 KiB.
    registers: OnceLock<Box<[AtomicU8]>>,
}

impl Sketch {
    /// Records a session in window number `window`. Only one thread may call this.
    pub fn record(&self, session: u64, window: u64) {
        let slot = &self.windows[(window % 2) as usize];
        if slot.number.load(Ordering::Relaxed) != window + 1 {
            slot.clear();
            slot.number.store(window + 1, Ordering::Relaxed);
        }
        let register = &slot.registers()[(session >> (64 - REGISTER_BITS)) as usize];
        let rank = ((session << REGISTER_BITS).leading_zeros().min(64 - REGISTER_BITS) + 1) as u8;
        if register.load(Ordering::Relaxed) < rank {
            register.store(rank, Ordering::Relaxed);
        }
    }

    /// Forgets all sessions. A concurrent `record` may survive: the number is an estimate.
    pub fn forget(&self) {
        for window in &self.windows {
            window.number.store(0, Ordering::Relaxed);
        }
    }

    /// Estimates the sessions in the union of `sketches`, in window number `window` and the one before.
    pub fn estimate<'a>(sketches: impl Iterator<Item = &'a Sketch>, window: u64) -> u64 {
        let is_now = |slot: &&Window| {
            let number = slot.number.load(Ordering::Relaxed);
            number == window + 1 || (number == window && window > 0)
        };
        let windows = sketches.flat_map(|sketch| &sketch.windows).filter(is_now);
        let mut windows = windows.filter_map(|slot| slot.registers.get()).peekable();
        // A backend without sessions costs nothing here: there can be thousands of them.
        if windows.peek().is_none() {
            return 0;
        }
        let mut merged = [0u8; REGISTERS];
        for registers in windows {
            for (max, register) in merged.iter_mut().zip(registers) {
                *max = (*max).max(register.load(Ordering::Relaxed));
            }
        }
        estimate(&merged)
    }
}

impl Window {
    fn registers(&self) -> &[AtomicU8] {
        self.registers.get_or_init(|| (0..REGISTERS).map(|_| AtomicU8::new(0)).collect())
    }

    fn clear(&self) {
        for register in self.registers.get().into_iter().flatten() {
            register.store(0, Ordering::Relaxed);
        }
    }
}

fn estimate(registers: &[u8; REGISTERS]) -> u64 {
    let m = REGISTERS as f64;
    let zeros = registers.iter().filter(|rank| **rank == 0).count();
    let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / registers.iter().map(|rank| (-f64::from(*rank)).exp2()).sum::<f64>();
    let estimate = if raw <= 2.5 * m && zeros > 0 { m * (m / zeros as f64).ln() } else { raw };
    estimate.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::hash::mix;

    fn count(sessions: u64) -> u64 {
        let sketch = Sketch::default();
        for session in 0..sessions {
            sketch.record(mix(session + 1), 7);
            sketch.record(mix(session + 1), 7);
        }
        Sketch::estimate([&sketch].into_iter(), 7)
    }

    #[test]
    fn small_numbers_are_all_but_exact_and_large_ones_within_five_percent() {
        for exact in [0, 1, 2, 3, 10] {
            assert_eq!(count(exact), exact);
        }
        for about in [100, 1_000, 10_000, 100_000] {
            let error = count(about).abs_diff(about) as f64 / about as f64;
            assert!(error < 0.05, "{about}: {}", count(about));
        }
    }

    #[test]
    fn a_session_counts_in_its_window_and_the_next_one_and_not_after() {
        let sketch = Sketch::default();
        sketch.record(mix(1), 4);
        let at = |window| Sketch::estimate([&sketch].into_iter(), window);
        assert_eq!((at(3), at(4), at(5), at(6)), (0, 1, 1, 0));
        sketch.record(mix(2), 6);
        assert_eq!(at(6), 1, "the old window was cleared when its place was needed");
    }

    #[test]
    fn a_sketch_takes_no_memory_before_its_first_session() {
        let sketch = Sketch::default();
        sketch.forget();
        assert_eq!(Sketch::estimate([&sketch].into_iter(), 3), 0);
        assert!(sketch.windows.iter().all(|window| window.registers.get().is_none()));
        sketch.record(mix(1), 3);
        assert_eq!(sketch.windows.iter().filter(|window| window.registers.get().is_some()).count(), 1);
    }

    #[test]
    fn two_threads_that_see_the_same_session_count_it_once() {
        let (a, b) = (Sketch::default(), Sketch::default());
        a.record(mix(1), 0);
        b.record(mix(1), 0);
        b.record(mix(2), 0);
        assert_eq!(Sketch::estimate([&a, &b].into_iter(), 0), 2);
    }

    #[test]
    fn an_id_of_zero_or_all_ones_is_one_session() {
        let sketch = Sketch::default();
        sketch.record(0, 0);
        sketch.record(u64::MAX, 0);
        assert_eq!(Sketch::estimate([&sketch].into_iter(), 0), 2);
    }
}
