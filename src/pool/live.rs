//! Owns: the facts about a backend that change while it serves, shared by all threads and across reloads.
//! Invariant: what a request writes lies in its own thread's shard; what all threads read is written rarely.
//! Must not know: who reads it, or what is done about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use super::admission::{self, AdminState, Closed};
use super::sessions::Sketch;
use super::vitals::Health;

/// What is known of a backend now.
#[derive(Debug)]
pub struct Live {
    id: usize,
    state: AtomicU8,
    health: AtomicU8,
    weight: AtomicU32,
    losses: AtomicU32,
    marked: AtomicBool,
    shards: Box<[Shard]>,
}

/// One thread's part. Aligned so that two threads never write the same cache line (and, on x86,
/// the same pair of lines that the prefetcher brings together).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    active: AtomicU32,
    sessions: Sketch,
}

impl Live {
    /// A backend of which nothing was observed yet: it is believed to be up. `id` is unique in the
    /// process and small: per-thread tables are indexed by it.
    pub fn new(id: usize, threads: usize, state: AdminState, weight: u32) -> Live {
        Live {
            id,
            state: AtomicU8::new(state as u8),
            health: AtomicU8::new(Health::Up as u8),
            weight: AtomicU32::new(weight),
            losses: AtomicU32::new(0),
            marked: AtomicBool::new(false),
            shards: (0..threads.max(1)).map(|_| Shard::default()).collect(),
        }
    }

    /// Its place in per-thread tables.
    pub fn id(&self) -> usize {
        self.id
    }

    /// What the operator wants of it.
    pub fn state(&self) -> AdminState {
        let state = self.state.load(Ordering::Relaxed);
        AdminState::ALL.into_iter().find(|each| *each as u8 == state).unwrap_or_default()
    }

    /// Sets what the operator wants of it.
    pub fn set_state(&self, state: AdminState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// What was observed of it.
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            health if health == Health::Down as u8 => Health::Down,
            health if health == Health::Ejected as u8 => Health::Ejected,
            _ => Health::Up,
        }
    }

    /// Publishes what was observed; says whether this took it away from its sessions. Only the
    /// roster calls this, under its lock.
    pub(super) fn set_health(&self, health: Health) -> bool {
        let was = self.health();
        self.health.store(health as u8, Ordering::Relaxed);
        let lost = was == Health::Up && health != Health::Up;
        if lost {
            self.losses.fetch_add(1, Ordering::Release);
        }
        lost
    }

    /// How often it was lost so far. A request that waits on it compares this with the number at
    /// its start, to learn that it waits in vain.
    pub fn losses(&self) -> u32 {
        self.losses.load(Ordering::Acquire)
    }

    /// Its share of new sessions.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Sets its share of new sessions.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// Whether a success has something to clear in the roster. Read on every request, written
    /// only when the first failure comes and when it is cleared.
    pub fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Relaxed)
    }

    /// Only the roster calls this, under its lock.
    pub(super) fn set_marked(&self, marked: bool) {
        self.marked.store(marked, Ordering::Relaxed);
    }

    /// May it be sent a new session now?
    ///
    /// # Errors
    /// Why not.
    pub fn accepts_new(&self) -> Result<(), Closed> {
        admission::accepts_new(self.state(), self.health(), self.weight())
    }

    /// May it be sent a session that is pinned to it now?
    ///
    /// # Errors
    /// Why not.
    pub fn accepts_existing(&self) -> Result<(), Closed> {
        admission::accepts_existing(self.state(), self.health())
    }

    /// Requests in flight on it, over all threads. A reader sees each thread's count as it was a
    /// moment ago.
    pub fn active(&self) -> u32 {
        self.shards.iter().map(|shard| shard.active.load(Ordering::Relaxed)).sum()
    }

    /// Notes that a session was served by it. `window` is the length in seconds of the time in
    /// which a session counts (see [`Sketch`]).
    pub fn saw_session(&self, thread: usize, session: u64, now: u64, window: u64) {
        if let Some(shard) = self.shards.get(thread) {
            shard.sessions.saw(session, now / window.max(1));
        }
    }

    /// About how many sessions it served within the last one to two `window`s of seconds.
    pub fn sessions(&self, now: u64, window: u64) -> u64 {
        Sketch::estimate(self.shards.iter().map(|shard| &shard.sessions), now / window.max(1))
    }

    /// Forgets the sessions it served: they have moved.
    pub(super) fn forget_sessions(&self) {
        for shard in &self.shards {
            shard.sessions.forget();
        }
    }
}

/// A request in flight on a backend, from the choice to the last byte of its body: the one place
/// where `active` is counted.
#[derive(Debug)]
pub struct InFlight {
    live: Arc<Live>,
    thread: usize,
}

impl InFlight {
    /// Counts one more, on `thread`, which must be the one that runs this.
    pub fn on(live: &Arc<Live>, thread: usize) -> InFlight {
        let this = InFlight { live: Arc::clone(live), thread };
        this.add(1);
        this
    }

    /// A plain load and store: no other thread writes this shard, so no locked instruction.
    fn add(&self, delta: u32) {
        if let Some(shard) = self.live.shards.get(self.thread) {
            let active = shard.active.load(Ordering::Relaxed);
            shard.active.store(active.wrapping_add(delta), Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.add(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_flight_is_counted_over_all_threads_and_given_back() {
        let live = Arc::new(Live::new(0, 2, AdminState::Ready, 1));
        let a = InFlight::on(&live, 0);
        let b = InFlight::on(&live, 1);
        assert_eq!(live.active(), 2);
        drop(a);
        assert_eq!(live.active(), 1);
        drop(b);
        assert_eq!(live.active(), 0);
    }

    #[test]
    fn only_leaving_up_counts_as_a_loss() {
        let live = Live::new(0, 1, AdminState::Ready, 1);
        assert!(live.set_health(Health::Ejected));
        assert!(!live.set_health(Health::Down));
        assert!(!live.set_health(Health::Up));
        assert!(live.set_health(Health::Down));
        assert_eq!(live.losses(), 2);
    }
}
