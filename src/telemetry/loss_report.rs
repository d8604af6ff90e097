//! Owns: the log lines about lost records of the access log: one when a loss begins, one when it ends.
//! Invariant: it reads a counter, so it also reports the losses of a writer that is blocked.
//! Must not know: why records are lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Checks without a further loss after which a loss has ended.
const QUIET_CHECKS: u32 = 10;

/// What a check reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LossEvent {
    /// Records are being lost.
    Begins,
    /// No more records are lost; this many were.
    Over(u64),
}

#[derive(Debug, Default)]
struct LossState {
    seen: u64,
    /// For a loss that has not ended: the records lost before it, and the checks since its last record.
    ongoing: Option<(u64, u32)>,
}

impl LossState {
    /// Takes the number of records lost so far.
    fn check(&mut self, lost: u64) -> Option<LossEvent> {
        let is_more = lost > self.seen;
        let before = std::mem::replace(&mut self.seen, lost);
        match (&mut self.ongoing, is_more) {
            (None, false) => None,
            (None, true) => {
                self.ongoing = Some((before, 0));
                Some(LossEvent::Begins)
            }
            (Some((_, quiet)), true) => {
                *quiet = 0;
                None
            }
            (Some((before, quiet)), false) => {
                *quiet += 1;
                let over = LossEvent::Over(lost - *before);
                (*quiet >= QUIET_CHECKS).then(|| {
                    self.ongoing = None;
                    over
                })
            }
        }
    }
}

/// Logs when an access log loses records.
pub struct LossReporter {
    dropped: Arc<AtomicU64>,
    reason: Arc<Mutex<Option<String>>>,
    state: LossState,
}

impl LossReporter {
    pub(super) fn new(dropped: Arc<AtomicU64>, reason: Arc<Mutex<Option<String>>>) -> LossReporter {
        LossReporter { dropped, reason, state: LossState::default() }
    }

    /// Checks the counter, and logs the beginning or the end of a loss. Call it every second.
    pub fn check(&mut self) {
        match self.state.check(self.dropped.load(Ordering::Relaxed)) {
            Some(LossEvent::Begins) => {
                let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).take();
                let reason = reason.unwrap_or_else(|| "the disk or the reader is slower than the requests".into());
                tracing::error!(
                    reason,
                    "records of the access log are lost; linchpin_access_log_dropped_total counts them; check its disk or reader"
                );
            }
            Some(LossEvent::Over(lost)) => tracing::warn!(lost, "the access log loses no more records"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_logged_once_when_it_begins_and_once_after_it_has_ended() {
        let mut losses = LossState::default();
        assert_eq!(losses.check(0), None);
        assert_eq!(losses.check(5), Some(LossEvent::Begins));
        assert_eq!(losses.check(9), None);
        for _ in 1..QUIET_CHECKS {
            assert_eq!(losses.check(9), None);
        }
        assert_eq!(losses.check(10), None, "it goes on");
        for _ in 1..QUIET_CHECKS {
            assert_eq!(losses.check(10), None);
        }
        assert_eq!(losses.check(10), Some(LossEvent::Over(10)));
        assert_eq!(losses.check(10), None);
        assert_eq!(losses.check(11), Some(LossEvent::Begins));
    }
}
