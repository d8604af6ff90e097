//! Owns: waiting for a condition that nothing announces.
//! Invariant: it is for what is rare: it looks every few milliseconds.
//! Must not know: what the condition means.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

/// Waits until `condition` holds. It polls every few milliseconds, since it runs only when a thread ends.
pub(super) async fn wait_until(condition: impl Fn() -> bool) {
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    poll_fn(|cx| {
        while !condition() {
            std::task::ready!(interval.poll_tick(cx));
        }
        Poll::Ready(())
    })
    .await;
}
