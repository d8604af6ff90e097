//! Owns: time as the data path sees it: read once per event-loop turn, and limits that cost a store.
//! Invariant: a limit fires within one tick after it is due; setting one touches no timer.
//! Must not know: what is limited.

mod seldom;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use seldom::Seldom;

/// How often limits are looked at, and so how late one can fire.
pub const TICK: Duration = Duration::from_millis(100);

thread_local! {
    /// `None` outside data-path threads, where nobody would refresh it.
    static CACHED: Cell<Option<CachedTime>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct CachedTime {
    /// Read lazily: a turn that needs no time reads none.
    now: Option<Instant>,
    unix: Option<Duration>,
}

/// Starts a new event-loop turn on this thread: the clock is read again when next asked for. From
/// the first call on, [`now`] and [`unix`] are as old as the turn.
pub fn start_iteration() {
    CACHED.set(Some(CachedTime { now: None, unix: None }));
}

/// The monotonic time of this turn.
pub fn now() -> Instant {
    match CACHED.get() {
        Some(CachedTime { now: Some(now), .. }) => now,
        Some(cached) => {
            let now = tokio::time::Instant::now().into_std();
            CACHED.set(Some(CachedTime { now: Some(now), ..cached }));
            now
        }
        None => tokio::time::Instant::now().into_std(),
    }
}

/// The wall-clock time of this turn, since the Unix epoch.
pub fn unix() -> Duration {
    match CACHED.get() {
        Some(CachedTime { unix: Some(unix), .. }) => unix,
        Some(cached) => {
            let unix = read_unix();
            CACHED.set(Some(CachedTime { unix: Some(unix), ..cached }));
            unix
        }
        None => read_unix(),
    }
}

fn read_unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The limits that run on one thread. A limit is a number in a row that is looked over each tick:
/// next to a timer per request (a wheel entry made, moved and removed) it costs a store, and that
/// a thousand times as often as it ever fires.
#[derive(Clone, Default)]
pub struct Deadlines {
    table: Rc<Table>,
}

#[derive(Default)]
struct Table {
    origin: Cell<Option<Instant>>,
    /// When this turn is: it is asked for some times in each.
    cached_now: Cell<Option<(Instant, u64)>>,
    /// Milliseconds after `origin`; [`OFF`] when not set. Apart from the wakers, so that a tick
    /// reads eight bytes a limit.
    due: RefCell<Vec<u64>>,
    wakers: RefCell<Vec<Option<Waker>>>,
    /// What each wait is for besides time, see [`Deadline::set_subject`].
    subjects: RefCell<Vec<usize>>,
    free: RefCell<Vec<usize>>,
}

const OFF: u64 = u64::MAX;

/// A wait for nothing but time.
const NOTHING: usize = usize::MAX;

impl Deadlines {
    /// An empty table.
    pub fn new() -> Deadlines {
        Deadlines::default()
    }

    /// A new limit, not yet set.
    pub fn deadline(&self) -> Deadline {
        let key = self.table.free.borrow_mut().pop().unwrap_or_else(|| {
            self.table.due.borrow_mut().push(OFF);
            self.table.wakers.borrow_mut().push(None);
            self.table.subjects.borrow_mut().push(NOTHING);
            self.table.due.borrow().len() - 1
        });
        Deadline { table: Rc::clone(&self.table), key }
    }

    /// Wakes whoever waits on a limit that is due. Call it every [`TICK`].
    pub fn tick(&self, now: Instant) {
        let now = self.table.millis(now);
        let wakers: Vec<Waker> = {
            let due = self.table.due.borrow();
            let mut wakers = self.table.wakers.borrow_mut();
            let keys = due.iter().enumerate().filter(|(_, due)| **due <= now).map(|(key, _)| key);
            keys.filter_map(|key| wakers.get_mut(key)?.take()).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes those who wait for this, due or not, so that each looks again at what it waits for.
    pub fn wake(&self, subject: usize) {
        let wakers: Vec<Waker> = {
            let subjects = self.table.subjects.borrow();
            let mut wakers = self.table.wakers.borrow_mut();
            let keys = subjects.iter().enumerate().filter(|(_, each)| **each == subject).map(|(key, _)| key);
            keys.filter_map(|key| wakers.get_mut(key)?.take()).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes everybody, due or not, so that each looks again at what it waits for.
    pub fn wake_all(&self) {
        let wakers: Vec<Waker> = self.table.wakers.borrow_mut().iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ticks for as long as the thread runs.
    pub async fn run(self) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            // A thread that is never idle never parks, and so never starts a turn: this is the
            // oldest that its clock can get.
            if CACHED.get().is_some() {
                start_iteration();
            }
            self.tick(now());
        }
    }
}

impl Table {
    fn millis(&self, at: Instant) -> u64 {
        let origin = self.origin.get().unwrap_or_else(|| {
            let now = now();
            self.origin.set(Some(now));
            now
        });
        let since = at.saturating_duration_since(origin);
        since.as_secs().saturating_mul(1000).saturating_add(u64::from(since.subsec_millis())).min(OFF - 1)
    }

    fn now(&self) -> u64 {
        let now = now();
        if let Some((cached, millis)) = self.cached_now.get()
            && cached == now
        {
            return millis;
        }
        let millis = self.millis(now);
        self.cached_now.set(Some((now, millis)));
        millis
    }
}

/// One limit in time, of one wait at a time. Freed on drop.
pub struct Deadline {
    table: Rc<Table>,
    key: usize,
}

impl Deadline {
    /// Sets or moves it. Rounded up to the next millisecond, so that a limit that is set to later
    /// than now is never due now: who finds it due and sets it anew must not find it due again.
    pub fn set(&self, at: Instant) {
        self.store(self.table.millis(at + Duration::from_nanos(999_999)));
    }

    /// Sets it to `after` from now, or takes it off when that is more than a century.
    pub fn set_after(&self, after: Duration) {
        match now().checked_add(after) {
            Some(at) => self.set(at),
            None => self.clear(),
        }
    }

    /// Takes it off.
    pub fn clear(&self) {
        self.store(OFF);
    }

    /// Says what is waited for besides time, for [`Deadlines::wake`], until the limit is dropped.
    pub fn set_subject(&self, subject: usize) {
        if let Some(each) = self.table.subjects.borrow_mut().get_mut(self.key) {
            *each = subject;
        }
    }

    /// Ready once it is due. The waker of the last call is woken.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.table.due.borrow().get(self.key).is_some_and(|due| *due <= self.table.now()) {
            return Poll::Ready(());
        }
        if let Some(waker) = self.table.wakers.borrow_mut().get_mut(self.key) {
            match waker {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => *waker = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }

    fn store(&self, at: u64) {
        if let Some(due) = self.table.due.borrow_mut().get_mut(self.key) {
            *due = at;
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.clear();
        self.set_subject(NOTHING);
        if let Some(waker) = self.table.wakers.borrow_mut().get_mut(self.key) {
            *waker = None;
        }
        self.table.free.borrow_mut().push(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    fn waits(deadlines: &Deadlines, deadline: &Deadline) -> bool {
        deadlines.tick(now());
        deadline.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_fires_when_due_can_be_moved_and_taken_off() {
        let deadlines = Deadlines::new();
        let deadline = deadlines.deadline();
        assert!(waits(&deadlines, &deadline));
        deadline.set_after(Duration::from_secs(1));
        tokio::time::advance(Duration::from_millis(900)).await;
        assert!(waits(&deadlines, &deadline));
        deadline.set_after(Duration::from_secs(1));
        tokio::time::advance(Duration::from_millis(900)).await;
        assert!(waits(&deadlines, &deadline));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(!waits(&deadlines, &deadline));
        deadline.clear();
        assert!(waits(&deadlines, &deadline));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_task_is_woken_within_a_tick() {
        let deadlines = Deadlines::new();
        let deadline = deadlines.deadline();
        deadline.set_after(Duration::from_secs(5));
        let start = now();
        tokio::select! {
            () = deadlines.clone().run() => {}
            () = poll_fn(|cx| deadline.poll(cx)) => {}
        }
        let took = now() - start;
        assert!(took >= Duration::from_secs(5) && took <= Duration::from_secs(5) + TICK, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_set_to_a_moment_later_is_not_due_now() {
        let deadlines = Deadlines::new();
        let deadline = deadlines.deadline();
        deadline.clear();
        tokio::time::advance(Duration::from_micros(1_300)).await;
        deadline.set(now() + Duration::from_nanos(1));
        assert!(waits(&deadlines, &deadline));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!waits(&deadlines, &deadline));
    }

    #[test]
    fn a_freed_place_is_used_again_without_the_old_deadline() {
        let deadlines = Deadlines::new();
        let deadline = deadlines.deadline();
        deadline.set(now() - Duration::from_millis(1));
        drop(deadline);
        let deadline = deadlines.deadline();
        assert!(waits(&deadlines, &deadline));
        assert_eq!(deadlines.table.due.borrow().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_those_who_wait_for_a_subject_are_woken_for_it() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let deadlines = Deadlines::new();
        let wait = |subject: Option<usize>| {
            let (deadline, count) = (deadlines.deadline(), std::sync::Arc::new(Count(AtomicUsize::new(0))));
            subject.iter().for_each(|subject| deadline.set_subject(*subject));
            assert!(deadline.poll(&mut Context::from_waker(&Waker::from(std::sync::Arc::clone(&count)))).is_pending());
            (deadline, count)
        };
        let all = [Some(1), Some(2), None, Some(1)].map(wait);
        deadlines.wake(1);
        assert_eq!(all.each_ref().map(|(_, count)| count.0.load(Ordering::Relaxed)), [1, 0, 0, 1]);
        drop(all);
        let (_deadline, count) = wait(None);
        deadlines.wake(1);
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "what had its place before waited for something else");
    }
}
