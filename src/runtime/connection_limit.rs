//! Owns: the limit of client connections, over all threads and listeners.
//! Invariant: the limit is never exceeded, and a released permit wakes all listeners that wait for one.
//! Must not know: sockets, requests; it is written when a connection opens or closes, never by a request.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Counts open connections against the limit.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    max: AtomicUsize,
    open: AtomicUsize,
    /// Whether `waiters` may have an entry: releasing a permit takes the lock only then.
    has_waiters: AtomicBool,
    /// Each entry is one listener of one thread.
    waiters: Mutex<Vec<Waker>>,
}

/// The permit of one connection. Dropping it releases it.
#[derive(Debug)]
pub(super) struct ConnectionPermit(Arc<ConnectionLimit>);

impl ConnectionLimit {
    /// Allows `max` connections at once, and at least one.
    pub(super) fn new(max: usize) -> Arc<ConnectionLimit> {
        let (open, has_waiters, waiters) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::default());
        Arc::new(ConnectionLimit { max: AtomicUsize::new(max.max(1)), open, has_waiters, waiters })
    }

    /// Allows `max` connections at once from now on, and at least one. Those that are open stay open.
    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max.max(1), Ordering::SeqCst);
        self.wake_waiters();
    }

    /// Acquires a permit, or wakes the task when one may be available.
    pub(super) fn poll_acquire(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<ConnectionPermit> {
        if let Some(permit) = self.try_acquire() {
            return Poll::Ready(permit);
        }
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiters.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiters.push(cx.waker().clone());
        }
        // Sequentially consistent here and in `drop`: a permit released after the second attempt below reads `true`
        // and wakes us; one released before it is acquired by it.
        self.has_waiters.store(true, Ordering::SeqCst);
        self.try_acquire().map_or(Poll::Pending, Poll::Ready)
    }

    fn try_acquire(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let one_more = |open: usize| (open < self.max.load(Ordering::SeqCst)).then_some(open + 1);
        let acquired = self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        acquired.is_ok().then(|| ConnectionPermit(Arc::clone(self)))
    }

    fn wake_waiters(&self) {
        if self.has_waiters.load(Ordering::SeqCst) {
            let waiters = {
                let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
                self.has_waiters.store(false, Ordering::SeqCst);
                std::mem::take(&mut *waiters)
            };
            waiters.into_iter().for_each(Waker::wake);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.wake_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct CountsWakes(AtomicUsize);

    impl Wake for CountsWakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_released_permit_wakes_the_tasks_that_wait_for_one() {
        let limit = ConnectionLimit::new(1);
        let wakes = Arc::new(CountsWakes::default());
        let waker = Arc::clone(&wakes).into();
        let mut cx = Context::from_waker(&waker);
        let Poll::Ready(permit) = limit.poll_acquire(&mut cx) else { panic!("none is taken") };
        assert!(limit.poll_acquire(&mut cx).is_pending());
        assert!(limit.poll_acquire(&mut cx).is_pending());
        drop(permit);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert!(limit.poll_acquire(&mut cx).is_ready());
    }

    #[test]
    fn a_raised_limit_wakes_the_tasks_that_wait_and_a_lowered_one_closes_nothing() {
        let limit = ConnectionLimit::new(1);
        let wakes = Arc::new(CountsWakes::default());
        let waker = Arc::clone(&wakes).into();
        let mut cx = Context::from_waker(&waker);
        let Poll::Ready(_first) = limit.poll_acquire(&mut cx) else { panic!("none is taken") };
        assert!(limit.poll_acquire(&mut cx).is_pending());
        limit.set_max(2);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        let Poll::Ready(second) = limit.poll_acquire(&mut cx) else { panic!("one is free") };
        limit.set_max(1);
        drop(second);
        assert!(limit.poll_acquire(&mut cx).is_pending());
    }

    #[test]
    fn threads_together_never_exceed_the_limit_and_none_of_them_starves() {
        let (limit, inside) = (ConnectionLimit::new(3), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    for _ in 0..2000 {
                        runtime.block_on(async {
                            let _permit = poll_fn(|cx| limit.poll_acquire(cx)).await;
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                            inside.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
        assert_eq!(limit.open.load(Ordering::SeqCst), 0);
    }
}
