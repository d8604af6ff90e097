//! Owns: the random nonces that seal tokens.
//! Invariant: no nonce is returned twice; each comes from the system's random source.
//! Must not know: what is sealed.

use std::cell::RefCell;

/// Bytes of a nonce (RFC 8452 §4).
pub(super) const LENGTH: usize = 12;

/// Nonces that are made at once: a call to the random source costs far more than the bytes that it returns.
const BATCH: usize = 64;

struct Batch {
    nonces: [[u8; LENGTH]; BATCH],
    left: usize,
}

thread_local! {
    static BATCH_OF_THREAD: RefCell<Batch> = const { RefCell::new(Batch { nonces: [[0; LENGTH]; BATCH], left: 0 }) };
}

/// Returns a fresh nonce, or `None` if the system's random source fails.
pub(super) fn next() -> Option<[u8; LENGTH]> {
    BATCH_OF_THREAD.with_borrow_mut(|batch| {
        if batch.left == 0 {
            aws_lc_rs::rand::fill(batch.nonces.as_flattened_mut()).ok()?;
            batch.left = BATCH;
        }
        batch.left -= 1;
        batch.nonces.get(batch.left).copied()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_nonce_repeats_on_any_thread() {
        let make = || (0..BATCH * 3).map(|_| next().unwrap()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), BATCH * 3 * 4);
        assert!(!all.contains(&[0; LENGTH]));
    }
}
