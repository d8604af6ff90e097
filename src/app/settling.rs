//! Owns: the time in which a process that has taken over must prove itself, before the old one leaves it the sockets.
//! Invariant: it settles once; whatever touches the sockets for good makes it settle first.
//! Must not know: what the old process does meanwhile; messages.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// How long a process serves after a takeover until it settles. A version that can't serve shows it by then.
const PROBATION: Duration = Duration::from_secs(3);
/// How long the old process waits for that. One of an earlier version never says so.
pub(super) const TRUST: Duration = Duration::from_secs(10);
/// How long the one that decides may take to say that the process has settled.
const DECISION_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the process has settled. Clones share it.
#[derive(Debug, Clone)]
pub struct Settling {
    early: Arc<Notify>,
    is_settled: Arc<watch::Sender<bool>>,
}

impl Settling {
    /// Makes that of a process which has taken over, or of one that has nothing to prove.
    pub(super) fn new(has_taken_over: bool) -> Settling {
        Settling { early: Arc::default(), is_settled: Arc::new(watch::Sender::new(!has_taken_over)) }
    }

    /// Waits until the process is to settle: after its probation, or as soon as something requires it.
    pub async fn due(&self) {
        tokio::select! {
            () = sleep(PROBATION) => {}
            () = self.early.notified() => {}
        }
    }

    /// Settles: the old process leaves the sockets to this one.
    pub fn settle(&self) {
        self.is_settled.send_replace(true);
    }

    /// Has the process settle before it does something that an old process which still has the sockets would undo.
    pub(super) async fn require(&self) {
        self.early.notify_one();
        if timeout(DECISION_TIMEOUT, self.settled()).await.is_err() {
            self.settle();
        }
    }

    /// Waits until it has settled.
    pub(super) async fn settled(&self) {
        // The sender lives as long as this value.
        let _ = self.is_settled.subscribe().wait_for(|is_settled| *is_settled).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn a_process_settles_after_its_probation_or_as_soon_as_something_requires_it() {
        assert_eq!(Settling::new(false).settled().now_or_never(), Some(()));
        let settling = Settling::new(true);
        let deciding = {
            let settling = settling.clone();
            tokio::spawn(async move {
                settling.due().await;
                settling.settle();
            })
        };
        let began = tokio::time::Instant::now();
        settling.settled().await;
        assert_eq!(began.elapsed().as_secs(), PROBATION.as_secs());
        deciding.await.unwrap();
        let settling = Settling::new(true);
        assert_eq!(settling.settled().now_or_never(), None);
        let (began, due) = (tokio::time::Instant::now(), settling.clone());
        tokio::spawn(async move {
            due.due().await;
            due.settle();
        });
        settling.require().await;
        assert!(began.elapsed() < PROBATION);
        // If nobody decides, it settles all the same.
        let alone = Settling::new(true);
        alone.require().await;
        assert_eq!(alone.settled().now_or_never(), Some(()));
    }
}
