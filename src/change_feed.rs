//! Owns: the followers of a table's changes, and notifying them of the entries that have changed.
//! Invariant: a writer never waits; without a follower, a change costs one load of an atomic.
//! Must not know: what the entries are, or who follows them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

/// The most changes that wait for a follower.
const QUEUE: usize = 16_384;

/// Announces changes of a table by their keys.
#[derive(Debug)]
pub struct ChangeFeed<K> {
    is_followed: AtomicBool,
    followers: Mutex<Vec<Follower<K>>>,
}

#[derive(Debug)]
struct Follower<K> {
    changes: mpsc::Sender<K>,
    has_missed: Arc<AtomicBool>,
}

/// The changes since it began to follow.
#[derive(Debug)]
pub struct Changes<K> {
    changes: mpsc::Receiver<K>,
    has_missed: Arc<AtomicBool>,
}

/// What a follower learns.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<K> {
    /// These entries have changed, or are gone.
    Of(Vec<K>),
    /// So many have changed that any may be among them.
    Any,
}

impl<K> Default for ChangeFeed<K> {
    fn default() -> ChangeFeed<K> {
        ChangeFeed { is_followed: AtomicBool::new(false), followers: Mutex::default() }
    }
}

impl<K: Copy> ChangeFeed<K> {
    /// Announces that the entry with this key has changed, or is gone. Call it once that shows in the table.
    pub fn announce(&self, key: K) {
        if !self.is_followed.load(Ordering::Acquire) {
            return;
        }
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain(|follower| match follower.changes.try_send(key) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                follower.has_missed.store(true, Ordering::Release);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        self.is_followed.store(!followers.is_empty(), Ordering::Release);
    }

    /// Follows the changes from now on.
    pub fn follow(&self) -> Changes<K> {
        let ((sender, changes), has_missed) = (mpsc::channel(QUEUE), Arc::<AtomicBool>::default());
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.push(Follower { changes: sender, has_missed: Arc::clone(&has_missed) });
        self.is_followed.store(true, Ordering::Release);
        Changes { changes, has_missed }
    }
}

impl<K> Changes<K> {
    /// Waits for the next changes, and returns at most `most` of them; forever if the table is gone.
    pub async fn next(&mut self, most: usize) -> Change<K> {
        let mut keys = Vec::new();
        if self.changes.recv_many(&mut keys, most).await == 0 {
            return std::future::pending().await;
        }
        if self.has_missed.swap(false, Ordering::AcqRel) { Change::Any } else { Change::Of(keys) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_follower_learns_of_the_changes_since_it_began_or_that_it_has_missed_some() {
        let feed = ChangeFeed::default();
        feed.announce(1);
        let (mut one, mut other) = (feed.follow(), feed.follow());
        feed.announce(2);
        feed.announce(3);
        assert_eq!(one.next(10).await, Change::Of(vec![2, 3]));
        drop(one);
        feed.announce(4);
        assert_eq!(other.next(1).await, Change::Of(vec![2]));
        (0..QUEUE as i32).for_each(|key| feed.announce(key));
        assert_eq!(other.next(10).await, Change::Any);
        drop(other);
        feed.announce(5);
        assert!(!feed.is_followed.load(Ordering::Relaxed), "nobody is left");
    }
}
