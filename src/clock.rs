//! Owns: the data path's time: a clock that is read once per event-loop iteration, and deadlines that cost a store.
//! Invariant: a deadline fires within one tick after it is due; setting one touches no timer.
//! Must not know: what the deadlines are for.

mod log_limiter;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use log_limiter::LogLimiter;

/// The time between two checks of all deadlines, and so how late one can fire.
pub const TICK: Duration = Duration::from_millis(100);

thread_local! {
    /// `None` outside data-path threads, where nothing would refresh it.
    static CACHED: Cell<Option<CachedTime>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct CachedTime {
    /// Read lazily: an iteration that needs no time reads none.
    now: Option<Instant>,
    unix: Option<Duration>,
}

/// Starts a new event-loop iteration on this thread: the next call of [`now`] or [`unix`] reads the clock. After the
/// first call of this function, both return the time that this iteration has read.
pub fn start_iteration() {
    CACHED.set(Some(CachedTime { now: None, unix: None }));
}

/// Returns the monotonic time of this event-loop iteration.
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

/// Returns the wall-clock time of this event-loop iteration, since the Unix epoch.
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

/// Returns the wall-clock time of this event-loop iteration, in milliseconds since the Unix epoch.
pub fn unix_millis() -> u64 {
    let now = unix();
    now.as_secs() * 1000 + u64::from(now.subsec_millis())
}

fn read_unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The deadlines of one thread. Each is a number in a row that is checked every tick. A deadline is set a thousand
/// times as often as it fires: a timer per request would have a wheel entry made, moved and removed each time, and this
/// is a store.
#[derive(Clone, Default)]
pub struct Deadlines {
    table: Rc<Table>,
}

#[derive(Default)]
struct Table {
    origin: Cell<Option<Instant>>,
    /// The time of this iteration, which several calls convert.
    cached_now: Cell<Option<(Instant, u64)>>,
    /// Milliseconds after `origin`; [`OFF`] when not set. Apart from the wakers, so that a tick
    /// reads eight bytes a deadline.
    due: RefCell<Vec<u64>>,
    wakers: RefCell<Vec<Option<Waker>>>,
    /// What each task waits for besides time, see [`Deadline::set_subject`].
    subjects: RefCell<Vec<usize>>,
    free: RefCell<Vec<usize>>,
}

const OFF: u64 = u64::MAX;

/// The subject of a task that waits for nothing but time.
const NOTHING: usize = usize::MAX;

impl Deadlines {
    /// Makes an empty table.
    pub fn new() -> Deadlines {
        Deadlines::default()
    }

    /// Adds a deadline that is not set yet.
    pub fn deadline(&self) -> Deadline {
        let key = self.table.free.borrow_mut().pop().unwrap_or_else(|| {
            self.table.due.borrow_mut().push(OFF);
            self.table.wakers.borrow_mut().push(None);
            self.table.subjects.borrow_mut().push(NOTHING);
            self.table.due.borrow().len() - 1
        });
        Deadline { table: Rc::clone(&self.table), key }
    }

    /// Wakes the tasks that wait for a deadline that is due. Call it every [`TICK`].
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

    /// Wakes the tasks that wait for `subject`, due or not, so that each checks its condition again.
    pub fn wake(&self, subject: usize) {
        let wakers: Vec<Waker> = {
            let subjects = self.table.subjects.borrow();
            let mut wakers = self.table.wakers.borrow_mut();
            let keys = subjects.iter().enumerate().filter(|(_, each)| **each == subject).map(|(key, _)| key);
            keys.filter_map(|key| wakers.get_mut(key)?.take()).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes all tasks, due or not, so that each checks its condition again.
    pub fn wake_all(&self) {
        let wakers: Vec<Waker> = self.table.wakers.borrow_mut().iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ticks for as long as it is polled.
    pub async fn run(self) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            // A thread that is never idle never parks, and so starts no iteration: this bounds the
            // age of its clock.
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

/// One deadline, for one waiting task at a time. Freed on drop.
pub struct Deadline {
    table: Rc<Table>,
    key: usize,
}

impl Deadline {
    /// Sets or moves the deadline. It is rounded up to the next millisecond, so that one that is set to later than
    /// now is never due now: a task that finds it due and sets it anew must not find it due again.
    pub fn set(&self, at: Instant) {
        self.store(self.table.millis(at + Duration::from_nanos(999_999)));
    }

    /// Sets the deadline to `after` from now, or clears it if that is beyond what the clock can express.
    pub fn set_after(&self, after: Duration) {
        match now().checked_add(after) {
            Some(at) => self.set(at),
            None => self.clear(),
        }
    }

    /// Clears the deadline: it is never due.
    pub fn clear(&self) {
        self.store(OFF);
    }

    /// Names what the task waits for besides time, for [`Deadlines::wake`], until the deadline is dropped.
    pub fn set_subject(&self, subject: usize) {
        if let Some(each) = self.table.subjects.borrow_mut().get_mut(self.key) {
            *each = subject;
        }
    }

    /// Returns `Ready` once the deadline is due. Wakes the waker of the last call then.
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
    async fn a_deadline_fires_when_due_and_can_be_moved_and_cleared() {
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
    fn a_freed_slot_is_used_again_without_the_old_deadline() {
        let deadlines = Deadlines::new();
        let deadline = deadlines.deadline();
        deadline.set(now() - Duration::from_millis(1));
        drop(deadline);
        let deadline = deadlines.deadline();
        assert!(waits(&deadlines, &deadline));
        assert_eq!(deadlines.table.due.borrow().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_tasks_that_wait_for_a_subject_are_woken_for_it() {
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
        assert_eq!(
            count.0.load(Ordering::Relaxed),
            0,
            "the deadline that had its slot before waited for something else"
        );
    }
}
